"""The listening sockets of one worker: which plan a connection that comes there gets, and how they close in order.

Law: a socket is closed only in the turn of the loop in which its queue was seen empty. What is still in the queue when
the last process closes it is reset by the kernel.
"""

import asyncio
import itertools
import socket
from typing import TYPE_CHECKING

import structlog

from balancer.clock import monotonic
from balancer.config import model
from balancer.proxy.downstream import Downstream
from balancer.proxy.snapshot import ListenerPlan
from balancer.telemetry import events, metrics
from balancer.transport import sockets
from balancer.transport.handover import SocketServer

if TYPE_CHECKING:
    from balancer.proxy.server import ProxyServer

log = structlog.get_logger()

BACKLOG = 4096  # nginx 511, HAProxy its maxconn; the kernel caps it at net.core.somaxconn, 4096 by default
HANDSHAKES_SPARE = 64  # beyond the budget, of the same reserve, so that clients over it can be told so over TLS
QUEUE_SECONDS = 2.0  # at most, to empty an accept queue that nothing enters any more
QUEUE_POLL = 0.005


class Doors:
    """The sockets on which a `ProxyServer` accepts."""

    def __init__(self, server: "ProxyServer") -> None:
        self._server = server
        self._listening: dict[int, tuple[str, bool, asyncio.Server | SocketServer, socket.socket]] = {}
        self._keys = itertools.count(1)
        self._handshakes = 0
        self._greetings: set[asyncio.Task[None]] = set()

    async def listen(self, listener: str, bind: model.Bind, sock: socket.socket) -> int:
        """Accept on `sock`, which is bound, for `listener`. Returns a key for `unlisten`."""
        tls = self._server.snapshot.listeners[listener].tls is not None

        def accepted() -> Downstream:
            return self._downstream(self._plan(listener, tls=tls))

        handover = self._server.handover
        factory = accepted if handover is None else handover.door(listener, accepted)
        server: asyncio.Server | SocketServer
        if tls:
            sock.listen(BACKLOG)
            if handover is not None:
                server = handover.accept(listener, sock, _accept_failed)
            else:
                server = SocketServer(sock, lambda connection: self._greet(listener, connection), _accept_failed)
        elif bind.path:
            server = await self._server.loop.create_unix_server(factory, sock=sock, backlog=BACKLOG)
        else:
            server = await self._server.loop.create_server(factory, sock=sock, backlog=BACKLOG)
        key = next(self._keys)
        self._listening[key] = (listener, tls, server, sock)
        return key

    def _downstream(self, plan: ListenerPlan) -> Downstream:
        downstream = Downstream(self._server, plan)
        downstream.must_close = plan.outdated  # it came to a listener that is gone
        return downstream

    def listening(self) -> set[tuple[str, bool]]:
        """The listeners that have sockets here, and whether those are for TLS."""
        return {(listener, tls) for listener, tls, _, _ in self._listening.values()}

    def _plan(self, listener: str, *, tls: bool) -> ListenerPlan:
        """What serves a connection that was accepted for `listener`, which may be gone by now."""
        plan = self._server.snapshot.listeners.get(listener)
        if plan is None or (plan.tls is not None) is not tls:
            plan = self._server.leftovers.plan(listener, tls=tls) or plan
        assert plan is not None
        return plan

    async def adopt(self, listener: str, connection: socket.socket) -> None:
        """Serve a connection that is accepted already, by us or by another worker. Raises OSError (TLS among it)."""
        plan = self._server.snapshot.listeners.get(listener)
        for tls in (False, True):
            plan = plan or self._server.leftovers.plan(listener, tls=tls)
        if plan is None:  # the worker that gave it is far behind
            connection.close()
            return
        if plan.tls is None:
            await self._server.loop.connect_accepted_socket(lambda: self._downstream(plan), connection)
            return
        # `admit` sees a connection only when its handshake is done: until then it is counted here.
        if self._server.connections.own[0] + self._handshakes >= self._server.connection_budget + HANDSHAKES_SPARE:
            self._server.registry.cells(metrics.LIMIT_REJECTIONS, "descriptors")[0] += 1
            connection.close()  # nothing can be said to it yet
            return
        self._handshakes += 1
        try:
            await self._server.loop.connect_accepted_socket(
                lambda: self._downstream(plan),
                connection,
                ssl=plan.tls,
                ssl_handshake_timeout=plan.timeouts.head,
            )
        finally:
            self._handshakes -= 1

    def _greet(self, listener: str, connection: socket.socket) -> None:
        """Adopt a connection in a task of its own."""
        task = self._server.loop.create_task(self._adopt_or_close(listener, connection))
        self._greetings.add(task)
        task.add_done_callback(self._greetings.discard)

    async def _adopt_or_close(self, listener: str, connection: socket.socket) -> None:
        try:
            await self.adopt(listener, connection)
        except OSError:
            connection.close()  # the client went away meanwhile, or its handshake failed

    async def unlisten(self, key: int) -> None:
        """Stop accepting on one socket; what is in its queue now is served, in case nobody else goes on with it."""
        listener, _, server, sock = self._listening.pop(key)
        last = sockets.accept_all(sock)
        server.close()
        for connection in last:
            self._greet(listener, connection)

    async def close(self) -> None:
        """Let nothing new into the queues, accept what is in them, and close."""
        listening = list(self._listening.values())
        self._listening.clear()
        for *_, sock in listening:
            sockets.refuse_new(sock)
        give_up = monotonic() + QUEUE_SECONDS
        while any(sockets.queued(sock) for *_, sock in listening) and monotonic() < give_up:
            await asyncio.sleep(QUEUE_POLL)
        last = []
        for listener, _, server, sock in listening:
            # Where new ones cannot be refused, they may still come: no turn of the loop between last look and close.
            last += [self.adopt(listener, connection) for connection in sockets.accept_all(sock)]
            server.close()
        await asyncio.gather(*last, return_exceptions=True)  # an OSError: that client is gone
        await asyncio.sleep(QUEUE_POLL)  # what was accepted last is now a connection


def _accept_failed(error: OSError) -> None:
    log.warning(events.LIBRARY_LOGGED, logger="accept", message=str(error))
