"""One TCP connection between two members, in either direction: the handshake, then frames.

Callbacks only (asyncio.Protocol): no task, future or timer per frame. Every way in which it can end has a reason.
"""

import asyncio
import contextlib
import enum
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from balancer.consensus.peer_frames import FRAME_MAX, FrameError, FrameReader, frame_bytes
from balancer.consensus.peer_hello import HELLO_MAX, Handshake, HelloError, refusal
from balancer.errors import BalancerError


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """Bounds in bytes and seconds. The defaults suit a LAN and a WAN; tests shorten them."""

    frame: int = FRAME_MAX
    pending: int = 64  # connections that have not proven who they are
    hello: float = 5.0  # for them to do so, TLS included
    connect: float = 2.0  # for an own connection to be there: a lost SYN is sent again after a second
    queue_bytes: int = 8 * 1024 * 1024  # that wait for one peer
    queue_count: int = 10_000
    write: int = 256 * 1024  # handed to the kernel at a time
    unacknowledged: float = 3.0  # sent bytes without a sign of the peer's machine: the link is cut
    idle: int = 3  # seconds without traffic before the peer's machine is probed, and between probes
    backoff_first: float = 0.05
    backoff_max: float = 2.0
    ask: float = 2.0  # for an Answer, connecting included


class End(enum.Enum):
    """What ended a connection."""

    CLOSED = enum.auto()  # this side had no more use for it
    LOST = enum.auto()  # the other side hung up, or the network did
    BROKEN = enum.auto()  # what came, or did not come in time, is not what members say
    REFUSED = enum.auto()  # the other side is not whom it should be
    REFUSED_BY_PEER = enum.auto()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended, and why in words."""

    kind: End
    reason: str


class PeerError(BalancerError):
    """A member cannot be reached, or one side refuses the other; `ending` says which."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.reason)
        self.ending = ending


class PeerConnection(asyncio.Protocol):
    """Calls `opened` once both are sure of each other, `received` per payload then, and `ended` once, at last.

    The time for the handshake runs from here on, TLS included; for who only asks, it covers question and answer.
    `received` may raise FrameError: the connection ends with its words. Any other exception is an error of ours: it
    ends the connection as well, and goes on to the loop's exception handler.
    """

    def __init__(
        self,
        handshake: Handshake,
        limits: PeerLimits,
        *,
        opened: Callable[["PeerConnection"], None],
        received: Callable[["PeerConnection", bytes], None],
        ended: Callable[["PeerConnection", Ending], None],
    ) -> None:
        self.handshake = handshake
        self.limits = limits
        self.paused = False
        self.closed = False
        self.address = ""
        self.resumed: Callable[[], None] | None = None
        self.bytes_in = 0
        self._opened = opened
        self._received = received
        self._ended = ended
        self._reader = FrameReader(HELLO_MAX)
        self._transport: asyncio.Transport | None = None
        self._deadline = asyncio.get_running_loop().call_later(limits.hello, self._too_late)

    # ---- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.address = f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
        if self.closed:  # given up while TLS was being agreed on
            self._transport.abort()
            return
        _tune(transport.get_extra_info("socket"), self.limits)
        self._transport.set_write_buffer_limits(high=self.limits.write)
        if self.handshake.initiator:
            self._transport.write(self.handshake.begin())

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.bytes_in += len(data)
        if self.closed:
            return
        reader = self._reader
        reader.feed(data)
        try:
            while not self.closed and (payload := reader.take()) is not None:
                if self.handshake.accepted:
                    self._received(self, payload)
                else:
                    self._shake(payload)
        except FrameError as error:
            self.end(End.BROKEN, str(error))
        except Exception:
            self.end(End.BROKEN, "handling a frame failed")
            raise

    def eof_received(self) -> bool:
        """See asyncio.Protocol."""
        self.end(End.LOST, "it hung up within a frame" if self._reader.held else "it hung up")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport = None
        if isinstance(exc, ssl.SSLError) and not self.handshake.accepted:
            self.end(End.REFUSED_BY_PEER, f"TLS failed: {exc.reason or exc}")
        else:
            self.end(End.LOST, f"the connection broke: {exc}" if exc else "it hung up")

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self.paused = True

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self.paused = False
        if self.resumed is not None:
            self.resumed()

    # ---- ours

    def write(self, data: bytes) -> None:
        """Hand over frames; nothing happens once it is closed."""
        if self._transport is not None and not self.closed:
            self._transport.write(data)

    def send(self, payload: bytes) -> None:
        """Seal one payload and hand it over."""
        if not self.closed:
            self.write(frame_bytes(payload, self.handshake.outgoing))

    def end(self, kind: End, reason: str, *, flush: bool = False) -> None:
        """Close, for this reason; `flush`: what was written may still go out. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._deadline.cancel()
        if self._transport is not None:
            if flush:
                self._transport.close()
            else:
                self._transport.abort()
        self._ended(self, Ending(kind, reason))

    def refuse(self, reason: str) -> None:
        """Tell the peer why, and close."""
        self.write(refusal(reason))
        self.end(End.REFUSED, reason, flush=True)

    def _too_late(self) -> None:
        what = "question and answer" if self.handshake.accepted else "handshake"
        self.end(End.BROKEN, f"no {what} within {self.limits.hello:g} s")

    def _shake(self, payload: bytes) -> None:
        if self.bytes_in > HELLO_MAX:
            self.end(End.BROKEN, f"more than {HELLO_MAX} bytes before it was accepted")
            return
        try:
            self.write(self.handshake.take(payload))
        except HelloError as error:
            if error.by_peer:
                self.end(End.REFUSED_BY_PEER, error.reason)
            else:
                self.refuse(error.reason)
            return
        if self.handshake.accepted:
            if self.handshake.purpose == "link":
                self._deadline.cancel()
            self._reader.seal = self.handshake.incoming
            self._reader.limit = self.limits.frame
            self._opened(self)


def _tune(sock: socket.socket | None, limits: PeerLimits) -> None:
    """A small frame leaves at once, and a link that is cut is noticed without waiting for TCP's minutes."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):  # it may be closed by now
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.unacknowledged * 1000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, limits.idle)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, limits.idle)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
