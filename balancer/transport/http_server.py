"""A small, strict HTTP/1.1 server for APIs of our own: the admin address and the coordination API. Never traffic.

Strict: a message whose end could be read in two ways is refused with 400 and the connection closed (RFC 9112
section 6.3). Every wait has a deadline and everything that a client can make grow has a bound, below.

One protocol object per connection reads and frames; one task per request runs the handler and sends its answer.
"""

import asyncio
import socket
from collections.abc import Callable

from balancer.clock import DateField
from balancer.transport.http_connection import Connection, Handler, Rules
from balancer.transport.http_message import (
    HEAD_MAX,
    BodyStream,
    RefusedError,
    Request,
    Response,
    error_response,
    refusal_response,
)

__all__ = ["BODY_MAX", "HEAD_MAX", "BodyStream", "Handler", "HttpServer", "Request", "Response", "error_response"]

BODY_MAX = 1024 * 1024  # one configuration change
CONNECTIONS_MAX = 64  # people, probes and scrapers, not traffic
HEAD_TIMEOUT = 10.0  # from the first byte of a head to its end
BODY_TIMEOUT = 30.0  # for a whole body, where it is not streamed
KEEPALIVE_TIMEOUT = 75.0  # before the first byte of the next request
SEND_TIMEOUT = 30.0  # for one piece of an answer to be taken
CLOSE_GRACE = 1.0  # for answers under way when the server is closed
LINGER = 1.0  # for a client to take the last answer before the connection is dropped
BACKLOG = 1024  # connections that wait to be accepted: as many may come in one moment


def _nothing_streamed(request: Request) -> bool:
    return False


class HttpServer:
    """Serves `handler`. An exception of the handler is answered with 500 and goes to the loop's exception handler.

    `streamed`: requests whose handler starts at the end of the head and takes the body from `Request.stream`.
    `cancel_when_gone`: a client that closes its connection, or its side of it, while it is being answered cancels
    the handler. `refusal` makes the answers to requests that no handler gets to see.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        connections_max: int = CONNECTIONS_MAX,
        keepalive_timeout: float = KEEPALIVE_TIMEOUT,
        body_max: int = BODY_MAX,
        streamed: Callable[[Request], bool] = _nothing_streamed,
        cancel_when_gone: bool = False,
        refusal: Callable[[int, str], Response] = refusal_response,
    ) -> None:
        self.rules = Rules(
            handler=handler,
            streamed=streamed,
            refusal=refusal,
            cancel_when_gone=cancel_when_gone,
            body_max=body_max,
            keepalive_timeout=keepalive_timeout,
            head_timeout=HEAD_TIMEOUT,
            body_timeout=BODY_TIMEOUT,
            send_timeout=SEND_TIMEOUT,
            linger=LINGER,
        )
        self.date = DateField()
        self.tasks: set[asyncio.Task[bool]] = set()  # requests being answered
        self._connections_max = connections_max
        self._connections: set[Connection] = set()
        self._refused: set[Connection] = set()  # being told that there is no room; as many again
        self._server: asyncio.Server | None = None
        self._emptied: asyncio.Event | None = None  # while closing

    async def start(self, sock: socket.socket) -> None:
        """Serve on a bound TCP or Unix socket, which is the server's from now on."""
        loop = asyncio.get_running_loop()
        create = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        self._server = await create(lambda: Connection(self, loop), sock=sock, backlog=BACKLOG)

    async def close(self, grace: float = CLOSE_GRACE) -> None:
        """Stop accepting, end idle connections, give answers under way `grace` seconds, then end all."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._emptied = asyncio.Event()
        for connection in list(self._connections):
            connection.end_soon()
        if self._connections:
            try:
                async with asyncio.timeout(grace):
                    await self._emptied.wait()
            except TimeoutError:
                pass  # they had their time
        for connection in [*self._connections, *self._refused]:
            connection.abort()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def admit(self, connection: Connection) -> None:
        """A connection was made: serve it, tell it that there is no room, or drop it."""
        if len(self._connections) < self._connections_max:
            self._connections.add(connection)
        elif len(self._refused) < self._connections_max:
            self._refused.add(connection)
            connection.refuse(RefusedError(503, f"more than {self._connections_max} connections"))
        else:
            connection.abort()

    def forget(self, connection: Connection) -> None:
        """A connection is lost."""
        self._connections.discard(connection)
        self._refused.discard(connection)
        if self._emptied is not None and not self._connections:
            self._emptied.set()
