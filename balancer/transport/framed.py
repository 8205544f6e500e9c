"""A message channel between two processes: length-framed msgpack over a Unix stream socket, with descriptors.

Law: a frame is `length u32 | id u32 | kind u8 | descriptors u8` (little-endian) and then `length` bytes of msgpack.
A request carries an id other than 0 and is answered by one reply with that id. Descriptors travel by SCM_RIGHTS
with the first byte of their frame. The socket is used raw (add_reader, add_writer): uvloop's transports cannot
pass descriptors. Anything wrong with a frame ends the channel: both ends are ours, so there is nothing to salvage.
"""

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from balancer.errors import BalancerError

FRAME_MAX = 64 * 1024 * 1024  # the largest configuration (10 MiB of YAML) with its TLS files fits several times
QUEUE_MAX = 2 * FRAME_MAX  # one largest message may wait behind another; more means that the peer does not read
FDS_MAX = 253  # SCM_MAX_FD of Linux
_READ = 256 * 1024
_HEADER = struct.Struct("<IIBB")
_EVENT, _REQUEST, _REPLY = range(3)
_ANCILLARY = socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize)

M = TypeVar("M")


class ChannelError(BalancerError):
    """The channel is closed, its peer is too slow, or the peer broke the framing."""


class RequestTimeoutError(ChannelError):
    """The peer did not answer a request in time."""


class Received(Generic[M]):
    """A message that came in. Who handles it owns `descriptors` and must close or hand on each."""

    __slots__ = ("_channel", "_id", "descriptors", "message")

    def __init__(self, channel: "Channel[M]", message: M, request: int, descriptors: list[int]) -> None:
        self._channel = channel
        self._id = request
        self.message = message
        self.descriptors = descriptors

    def reply(self, message: M) -> None:
        """Answer a request; for a plain message, or when the channel is closed by now, nothing happens."""
        if self._id and not self._channel.closed:
            self._channel.post(message, kind=_REPLY, request=self._id)

    def close_descriptors(self) -> None:
        """Close what nobody took."""
        while self.descriptors:
            os.close(self.descriptors.pop())


class Channel(Generic[M]):
    """One end. `received` is called for every message that is no reply; `lost(reason)` once, at the end.

    `lost` gets "" for an orderly end of the peer's side (EOF) and else what went wrong; it is not called after
    `close`. An exception out of `received` goes to the loop's exception handler and ends the channel.
    """

    def __init__(
        self,
        sock: socket.socket,
        message_type: object,
        *,
        received: Callable[[Received[M]], None],
        lost: Callable[[str], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()
        self._loop = asyncio.get_running_loop()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(message_type)
        self._received = received
        self._lost = lost
        self._incoming = bytearray()
        self._descriptors: deque[int] = deque()
        self._outgoing: deque[tuple[memoryview, list[int]]] = deque()
        self._queued = 0
        self._drained = asyncio.Event()
        self._next_id = 0
        self._waiting: dict[int, asyncio.Future[M]] = {}
        self.closed = False
        self._loop.add_reader(self._fd, self._readable)

    @property
    def queued(self) -> int:
        """Bytes that wait for the peer to read."""
        return self._queued

    def send(self, message: M, descriptors: Sequence[int] = ()) -> None:
        """Send a message that wants no answer. Descriptors are copied: the caller keeps its own."""
        self.post(message, kind=_EVENT, request=0, descriptors=descriptors)

    async def request(self, message: M, *, timeout: float, descriptors: Sequence[int] = ()) -> M:
        """Send a message and wait at most `timeout` seconds for its reply. RequestTimeoutError, ChannelError."""
        self._next_id = self._next_id % 0xFFFF_FFFF + 1
        number = self._next_id
        future: asyncio.Future[M] = self._loop.create_future()
        self._waiting[number] = future
        try:
            self.post(message, kind=_REQUEST, request=number, descriptors=descriptors)
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise RequestTimeoutError(f"no answer to {type(message).__name__} within {timeout:g} s") from None
        finally:
            self._waiting.pop(number, None)

    def post(self, message: M, *, kind: int, request: int, descriptors: Sequence[int] = ()) -> None:
        """Frame and send, or queue. ChannelError when closed or when too much waits already."""
        if self.closed:
            raise ChannelError("the channel is closed")
        if len(descriptors) > FDS_MAX:
            raise ChannelError(f"{len(descriptors)} descriptors in one message; at most {FDS_MAX} can travel")
        body = self._encode(message)
        if len(body) > FRAME_MAX:
            raise ChannelError(f"a message of {len(body)} bytes; at most {FRAME_MAX} can travel")
        if self._queued + len(body) > QUEUE_MAX:
            raise ChannelError(f"{self._queued} bytes wait unread at the peer")
        frame = memoryview(_HEADER.pack(len(body), request, kind, len(descriptors)) + body)
        waiting = bool(self._outgoing)
        self._outgoing.append((frame, [os.dup(fd) for fd in descriptors]))
        self._queued += len(frame)
        if not waiting:
            self._writable()
            if self._outgoing and not self.closed:
                self._loop.add_writer(self._fd, self._writable)

    def close(self) -> None:
        """Stop at once: what is queued is dropped, who waits for a reply gets ChannelError. Idempotent."""
        self._end()

    async def flushed(self, timeout: float) -> None:
        """Wait until everything queued was handed to the kernel or dropped, at most `timeout` seconds."""
        if self._outgoing:
            self._drained.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._drained.wait()

    # ---- writing

    def _writable(self) -> None:
        while self._outgoing:
            frame, descriptors = self._outgoing[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            try:
                sent = self._sock.sendmsg([frame], rights)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # The reader tells the rest: what the peer had sent before it went is still to be read.
                self._drop_outgoing()
                if not isinstance(error, BrokenPipeError | ConnectionResetError):
                    self._fail(f"cannot send: {error.strerror}")
                return
            _close_all(descriptors)
            self._queued -= sent
            if sent < len(frame):
                self._outgoing[0] = (frame[sent:], [])
                return
            self._outgoing.popleft()
        self._loop.remove_writer(self._fd)
        self._drained.set()

    # ---- reading

    def _readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(_READ, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail("" if isinstance(error, ConnectionResetError) else f"cannot receive: {error.strerror}")
            return
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
                self._descriptors.extend(received)
        if flags & socket.MSG_CTRUNC:
            self._fail("descriptors were lost on the way (is the limit of open files reached?)")
        elif not data:
            self._fail("the peer ended within a message" if self._incoming else "")
        else:
            self._incoming += data
            self._take_frames()

    def _take_frames(self) -> None:
        position = 0
        while not self.closed and len(self._incoming) - position >= _HEADER.size:
            length, request, kind, count = _HEADER.unpack_from(self._incoming, position)
            if length > FRAME_MAX or kind > _REPLY:
                self._fail("the peer sent a broken frame")
                return
            end = position + _HEADER.size + length
            if len(self._incoming) < end:
                break
            if len(self._descriptors) < count:
                self._fail("a message came without its descriptors")
                return
            body = bytes(memoryview(self._incoming)[position + _HEADER.size : end])
            position = end
            self._take(body, kind, request, [self._descriptors.popleft() for _ in range(count)])
        del self._incoming[:position]

    def _take(self, body: bytes, kind: int, request: int, descriptors: list[int]) -> None:
        try:
            message = self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            _close_all(descriptors)
            self._fail(f"the peer sent a message that is not understood: {error}")
            return
        if kind == _REPLY:
            _close_all(descriptors)
            future = self._waiting.pop(request, None)
            if future is not None and not future.done():
                future.set_result(message)
            return
        received = Received(self, message, request if kind == _REQUEST else 0, descriptors)
        try:
            self._received(received)
        except Exception:
            received.close_descriptors()
            self._fail(f"handling {type(message).__name__} failed")
            raise

    # ---- the end

    def _fail(self, reason: str) -> None:
        if not self.closed:
            self._end()
            self._lost(reason)

    def _end(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._fd)
        self._drop_outgoing()
        _close_all(self._descriptors)
        self._sock.close()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(ChannelError("the channel closed before the answer came"))

    def _drop_outgoing(self) -> None:
        self._loop.remove_writer(self._fd)
        for _, descriptors in self._outgoing:
            _close_all(descriptors)
        self._outgoing.clear()
        self._queued = 0
        self._drained.set()


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, neither of them inheritable."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def _close_all(descriptors: list[int] | deque[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())
