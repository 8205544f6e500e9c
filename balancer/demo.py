"""Three tiny backends in one process, for `balancer demo`: `python -m balancer.demo red green blue`.

Prints one JSON object, name -> port, when all of them listen on loopback, and serves until it is told to end
by SIGTERM or SIGINT. They are small on purpose: what is shown is the balancer before them.
"""

import asyncio
import functools
import json
import signal
import sys

import httptools

_SLOW_SECONDS = 1.0
_ECHO_BYTES = 16 * 1024  # of a request's fields that an answer repeats; more is cut, for a bounded answer


class DemoBackend(asyncio.Protocol):
    """One connection to one backend. `/` names the backend, `/headers` shows what arrived, `/slow` takes a second."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._later: asyncio.TimerHandle | None = None
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._body_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget an answer that is still due."""
        self._transport = None
        if self._later is not None:
            self._later.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse; what cannot be parsed closes the connection."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._transport is not None:
                self._transport.close()

    def on_message_begin(self) -> None:
        """A new request."""
        self._target = b""
        self._fields = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """The target, perhaps in pieces."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field."""
        self._fields.append((name, value))

    def on_body(self, body: bytes) -> None:
        """Count the body; nothing of it is kept."""
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        """Answer, for `/slow` later. No other request comes before: the balancer does not pipeline."""
        if self._target.partition(b"?")[0] == b"/slow":
            self._later = asyncio.get_running_loop().call_later(_SLOW_SECONDS, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        if self._transport is None:
            return
        lines = [f"hello from {self._name}".encode()]
        if self._body_bytes:
            lines.append(b"your body had %d bytes" % self._body_bytes)
        if self._target.partition(b"?")[0] == b"/headers":
            method = self._parser.get_method()
            lines.append(b"%s %s" % (method, self._target))
            lines += [b"%s: %s" % field for field in self._fields]
        body = b"\n".join(lines)[:_ECHO_BYTES] + b"\n"
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"X-Backend: %s\r\nContent-Length: %d\r\n\r\n" % (self._name.encode(), len(body))
        )
        self._transport.write(head if self._parser.get_method() == b"HEAD" else head + body)


async def serve(names: list[str]) -> None:
    """Listen for every name, say where, and wait for a signal."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    servers = {name: await loop.create_server(functools.partial(DemoBackend, name), "127.0.0.1", 0) for name in names}
    print(json.dumps({name: server.sockets[0].getsockname()[1] for name, server in servers.items()}), flush=True)
    await ended.wait()
    for server in servers.values():
        server.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
