"""One connection of the small HTTP server: a protocol object that reads and frames, a task that answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, cast

from balancer.clock import DateField
from balancer.transport.http_message import (
    HEAD_MAX,
    BodyReader,
    BodyStream,
    RefusedError,
    Request,
    Response,
    parse_head,
    response_head,
)

Handler = Callable[[Request], Awaitable[Response]]

# Stages of a connection. Up to _BODY it reads a request; _ENDING: our side has ended, what comes is dropped.
_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
_ANSWERING: Final = 3
_ENDING: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds for every connection of a server. Times in seconds, sizes in bytes."""

    handler: Handler
    streamed: Callable[[Request], bool]
    refusal: Callable[[int, str], Response]
    cancel_when_gone: bool
    body_max: int
    keepalive_timeout: float
    head_timeout: float
    body_timeout: float
    send_timeout: float
    linger: float


class Owner(Protocol):
    """The server, as a connection knows it."""

    rules: Rules
    date: DateField
    tasks: set[asyncio.Task[bool]]
    """Requests being answered."""

    def admit(self, connection: "Connection") -> None:
        """It was made."""

    def forget(self, connection: "Connection") -> None:
        """It is lost."""


class Connection(asyncio.Protocol):
    """One client's connection: requests one after the other."""

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._rules = owner.rules
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._input = bytearray()
        self._stage = _IDLE
        self._request: Request | None = None  # while its body is read
        self._body: BodyReader | None = None
        self._pieces: list[bytes] = []
        self._stream: BodyStream | None = None
        self._task: asyncio.Task[bool] | None = None
        self._eof = False  # the client has ended its side
        self._closing = False  # the answer under way is the last one
        self._reading = True
        self._writable = asyncio.Event()
        self._writable.set()
        self._deadline = 0.0  # 0 = none
        self._timer: asyncio.TimerHandle | None = None

    # ---- what the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self._expect_within(self._rules.keepalive_timeout)
        self._owner.admit(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._writable.set()  # whoever waits finds that there is no transport
        if self._timer is not None:
            self._timer.cancel()
        self._gone()
        self._owner.forget(self)

    def data_received(self, data: bytes) -> None:
        if self._stage == _ENDING:
            return
        self._input += data
        if self._stage != _ANSWERING:
            self._advance()
        elif self._stream is not None and self._body is not None:
            self._feed_stream()
        elif len(self._input) > HEAD_MAX:
            self._read_no_more()

    def eof_received(self) -> bool:
        self._eof = True
        if self._stage != _ANSWERING:
            return False  # nothing, or no whole request, or only the rest of what was refused: close
        if self._rules.cancel_when_gone:
            self._gone()
            return False
        if self._stream is not None:
            self._stream.end()
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # ---- what the server wants

    def refuse(self, refused: RefusedError) -> None:
        """Answer with the refusal and end."""
        response = self._rules.refusal(refused.status, str(refused))
        if self._transport is not None and isinstance(response.body, bytes):
            self._transport.write(self._head_of(response, len(response.body), keep=False) + response.body)
        self._finish()

    def end_soon(self) -> None:
        """End now when between two requests, else with the answer to this one."""
        self._closing = True
        if self._stage == _IDLE:
            self.abort()

    def abort(self) -> None:
        """Drop the connection, whatever is unsent."""
        if self._transport is not None:
            self._transport.abort()

    # ---- reading

    def _advance(self) -> None:
        """Read on in what has come; start the handler when that is a request."""
        try:
            if self._stage <= _HEAD and not self._read_head():
                return
            if self._stage == _BODY and not self._read_body():
                return
        except RefusedError as refused:
            self.refuse(refused)
            return
        self._expect_within(0)
        request, self._request = self._request, None
        assert request is not None
        self._stage = _ANSWERING
        self._task = self._loop.create_task(self._answer(request))
        self._owner.tasks.add(self._task)
        self._task.add_done_callback(self._answered)

    def _read_head(self) -> bool:
        data = self._input
        end = data.find(b"\r\n\r\n") + 4
        if end > HEAD_MAX or (end < 4 and len(data) > HEAD_MAX):
            raise RefusedError(431, f"a request head may have {HEAD_MAX} bytes")
        if end < 4:
            if data and self._stage == _IDLE:
                self._stage = _HEAD
                self._expect_within(self._rules.head_timeout)
            return False
        head = bytes(data[:end])
        del data[:end]
        self._request, length = parse_head(head)
        if length == 0:
            self._stage = _ANSWERING
            return True
        streamed = self._rules.streamed(self._request)
        self._body = BodyReader(length, None if streamed else self._rules.body_max)
        if self._request.headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if streamed:
            self._begin_stream()
            return True
        self._stage = _BODY
        self._expect_within(self._rules.body_timeout)
        return True

    def _read_body(self) -> bool:
        assert self._body is not None
        assert self._request is not None
        while piece := self._body.take(self._input):
            self._pieces.append(piece)
        if not self._body.ended:
            return False
        one = self._request
        self._request = Request(one.method, one.target, one.version, one.headers, b"".join(self._pieces))
        self._pieces = []
        self._body = None
        return True

    def _begin_stream(self) -> None:
        assert self._request is not None
        one = self._request
        self._stream = BodyStream(self._stream_taken)
        self._request = Request(one.method, one.target, one.version, one.headers, b"", self._stream)
        self._stage = _ANSWERING
        self._feed_stream()

    def _feed_stream(self) -> None:
        assert self._stream is not None
        assert self._body is not None
        try:
            while piece := self._body.take(self._input):
                self._stream.feed(piece)
        except RefusedError:  # too late for a status: the body ends here, and the connection with the answer
            self._closing = True
            self._body = None
            self._stream.end()
            self._read_no_more()
            return
        if self._body.ended:
            self._body = None
            self._stream.end()
        elif self._stream.full:
            self._read_no_more()

    def _stream_taken(self) -> None:
        if not self._reading and self._body is not None and self._stream is not None and not self._stream.full:
            self._read_again()

    def _read_no_more(self) -> None:
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def _read_again(self) -> None:
        if not self._reading and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()

    # ---- answering

    async def _answer(self, request: Request) -> bool:
        """Run the handler and send what it answers; whether the connection can go on."""
        try:
            response = await self._rules.handler(request)
        except asyncio.CancelledError:
            raise  # the client has left, or the server is closing and has waited long enough
        except BaseException:
            self.refuse(RefusedError(500, "the request could not be answered"))
            raise
        body = response.body
        keep = request.persistent and not self._closing and self._body is None
        try:
            if not isinstance(body, bytes):
                return await self._send_pieces(request, response, body, keep)
            if self._transport is not None:
                head = self._head_of(response, len(body), keep)
                self._transport.write(head if request.method == "HEAD" else head + body)
                await self._drain()
        except (ConnectionError, TimeoutError):
            self.abort()  # the client went away, or stalled while it was being answered: nobody is left to tell
        return keep

    async def _send_pieces(self, request: Request, response: Response, body: AsyncIterator[bytes], keep: bool) -> bool:
        """Send a body of pieces, each as one chunk at once; for HTTP/1.0 up to the end of the connection."""
        chunked = request.version == "1.1"
        keep = keep and chunked
        try:
            head = self._head_of(response, -1 if chunked else None, keep)
            if request.method != "HEAD":
                async for piece in body:
                    if piece:  # an empty chunk would end the body
                        self._write(head + (b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece))
                        head = b""
                        await self._drain()
                if chunked:
                    head += b"0\r\n\r\n"
            self._write(head)
            await self._drain()
        finally:
            aclose = getattr(body, "aclose", None)
            if aclose is not None:
                await aclose()
        return keep

    def _answered(self, task: asyncio.Task[bool]) -> None:
        """The request is done with: go on with the next one, or end."""
        self._owner.tasks.discard(task)
        self._task = None
        self._stream = None
        if task.cancelled():
            self.abort()
            return
        error = task.exception()
        if error is not None:
            if self._stage != _ENDING:  # in the middle of a body, which must not look complete
                self.abort()
            self._loop.call_exception_handler(
                {"message": "a request to one of our own servers failed", "exception": error, "task": task}
            )
            return
        if self._transport is None:
            return
        if not task.result() or self._closing:
            self._finish()
            return
        self._stage = _IDLE
        self._read_again()
        self._expect_within(self._rules.keepalive_timeout)
        if self._input:
            self._advance()
        if self._eof and self._stage <= _BODY and self._transport is not None:
            self._transport.close()

    def _gone(self) -> None:
        """The client has left: nothing that it sends comes any more."""
        if self._stream is not None:
            self._stream.end()
        if self._task is not None and self._rules.cancel_when_gone:
            self._task.cancel()

    def _write(self, data: bytes) -> None:
        if self._transport is None:
            raise ConnectionResetError
        self._transport.write(data)

    async def _drain(self) -> None:
        if not self._writable.is_set():
            async with asyncio.timeout(self._rules.send_timeout):
                await self._writable.wait()
        if self._transport is None:
            raise ConnectionResetError

    def _head_of(self, response: Response, length: int | None, keep: bool) -> bytes:
        return response_head(response, self._owner.date.refresh(), length, keep)

    def _finish(self) -> None:
        """End our side and read on briefly, so that no reset overtakes an answer (RFC 9112 section 9.6)."""
        self._stage = _ENDING
        self._input.clear()
        self._stream = self._body = None
        if self._transport is None:
            return
        if self._eof or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._transport.write_eof()
        self._read_again()
        self._expect_within(self._rules.linger)

    # ---- time

    def _expect_within(self, seconds: float) -> None:
        """What this stage waits for must come within `seconds`; 0 = whenever it likes."""
        if not seconds:
            self._deadline = 0.0
            return
        self._deadline = self._loop.time() + seconds
        # A timer that rings earlier is left alone: it looks at the deadline then. Most never ring.
        if self._timer is not None:
            if self._timer.when() <= self._deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._rang)

    def _rang(self) -> None:
        self._timer = None
        if not self._deadline or self._transport is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._rang)
        elif self._stage == _IDLE:
            self._finish()
        elif self._stage == _HEAD:
            self.refuse(RefusedError(408, f"no complete request head within {self._rules.head_timeout:.0f} s"))
        elif self._stage == _BODY:
            self.refuse(RefusedError(408, f"no complete request body within {self._rules.body_timeout:.0f} s"))
        else:
            self.abort()
