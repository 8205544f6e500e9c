"""Who connects to us: members with their frames, those who ask who we are, and strangers, who get no further.

Until a caller has proven itself it costs little: at most 64 of them, 5 s, 4 KiB. One more ends the oldest, so that
strangers who hold connections open do not keep members out. Who only asks stays among them until it has its answer.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial

import structlog

from balancer.consensus.peer_connection import End, Ending, PeerConnection, PeerLimits
from balancer.consensus.peer_frames import Answer, Ask, decoder, encode
from balancer.consensus.peer_hello import Handshake
from balancer.raft.log_entry import NodeId
from balancer.telemetry import events

log = structlog.get_logger()

_ACCEPTS_PER_TURN = 16
_ACCEPT_PAUSE = 0.1  # seconds, when descriptors ran out
_QUIET = 60.0  # seconds in which the same trouble with the same machine is logged once
_QUIET_MAX = 256

_decode_ask = decoder(Ask)


class PeerListener:
    """Listens on a bound socket, which is its own from now on. Starts at once, within the loop.

    `on_payload(sender, payload)` may raise FrameError: the connection ends with its words.
    """

    def __init__(
        self,
        sock: socket.socket,
        limits: PeerLimits,
        tls: ssl.SSLContext | None,
        *,
        handshake: Callable[[], Handshake],
        on_link: Callable[[NodeId], None],
        on_payload: Callable[[NodeId, bytes], None],
        on_ask: Callable[[Ask], Answer],
    ) -> None:
        self.refused = 0
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._limits = limits
        self._tls = tls
        self._handshake = handshake
        self._on_link = on_link
        self._on_payload = on_payload
        self._on_ask = on_ask
        self._pending: dict[PeerConnection, asyncio.Task[None]] = {}  # in the order of their coming
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: dict[NodeId, PeerConnection] = {}
        self._logged: dict[tuple[str, str], float] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._acceptable)

    @property
    def pending(self) -> int:
        """Connections that have not proven who they are, or only ask."""
        return len(self._pending)

    def end_links(self, reason: str) -> None:
        """End what members have open to us; they may come again."""
        for connection in list(self._links.values()):
            connection.end(End.CLOSED, reason)

    async def close(self) -> None:
        """End every connection and stop listening; nothing is called any more."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        if self._retry is not None:
            self._retry.cancel()
        self.end_links("closed")
        for connection in list(self._pending):
            connection.end(End.CLOSED, "closed")
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _acceptable(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                accepted, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors, no memory: the queue keeps the rest for a while
                self._loop.remove_reader(self._sock.fileno())
                self._retry = self._loop.call_later(_ACCEPT_PAUSE, self._accept_again)
                return
            accepted.setblocking(False)
            self._take(accepted, str(address[0]))

    def _accept_again(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._acceptable)

    def _take(self, accepted: socket.socket, host: str) -> None:
        if len(self._pending) >= self._limits.pending:
            oldest = next(iter(self._pending))
            oldest.end(End.BROKEN, f"more than {self._limits.pending} connections have not proven who they are")
        connection = PeerConnection(
            self._handshake(),
            self._limits,
            opened=self._opened,
            received=self._received,
            ended=partial(self._ended, host),
        )
        task = self._loop.create_task(self._attach(connection, accepted))
        self._pending[connection] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attach(self, connection: PeerConnection, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted, ssl=self._tls)
        except (OSError, asyncio.CancelledError) as error:
            # TLS that fails, or takes longer than `_ended` waits for it.
            accepted.close()
            reason = error.reason if isinstance(error, ssl.SSLError) else ""
            connection.end(End.REFUSED, f"TLS failed: {reason or error}")

    def _opened(self, connection: PeerConnection) -> None:
        peer = connection.handshake.peer
        if peer is None or connection.handshake.purpose == "ask":
            return
        self._pending.pop(connection, None)
        before = self._links.get(peer.node_id)
        if before is not None:  # half open, the peer knows no more of it
            before.end(End.CLOSED, "a newer connection took its place")
        elif len(self._links) >= self._limits.pending:
            connection.end(End.BROKEN, f"{len(self._links)} members are connected already")
            return
        self._links[peer.node_id] = connection
        self._on_link(peer.node_id)

    def _received(self, connection: PeerConnection, payload: bytes) -> None:
        peer = connection.handshake.peer
        if peer is None:
            return
        if connection.handshake.purpose == "link":
            self._on_payload(peer.node_id, payload)
            return
        connection.send(encode(self._on_ask(_decode_ask(payload))))
        connection.end(End.CLOSED, "answered", flush=True)

    def _ended(self, host: str, connection: PeerConnection, ending: Ending) -> None:
        task = self._pending.pop(connection, None)
        if task is not None and not task.done():
            task.cancel()  # TLS is still being agreed on
        peer = connection.handshake.peer
        if peer is not None and self._links.get(peer.node_id) is connection:
            del self._links[peer.node_id]
        if self._closed or ending.kind in (End.CLOSED, End.LOST):
            return  # nobody's fault, or what our own link to that member tells
        self.refused += ending.kind is not End.BROKEN or task is not None
        name = peer.name if peer is not None else "unknown"
        if connection.handshake.accepted or self._is_news(host, ending.reason):
            address = connection.address or host
            if ending.kind is End.BROKEN:
                log.warning(events.PEER_LOST, peer=name, address=address, reason=ending.reason)
            else:
                by = "us" if ending.kind is End.REFUSED else "peer"
                log.error(events.PEER_REFUSED, peer=name, address=address, reason=ending.reason, refused_by=by)

    def _is_news(self, host: str, reason: str) -> bool:
        """Whether this was not logged within a minute: who is not accepted must not fill our log."""
        now = self._loop.time()
        if len(self._logged) >= _QUIET_MAX:
            self._logged = {key: until for key, until in self._logged.items() if until > now}
        if self._logged.get((host, reason), 0.0) > now or len(self._logged) >= _QUIET_MAX:
            return False
        self._logged[host, reason] = now + _QUIET
        return True
