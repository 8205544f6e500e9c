"""Our connection to one peer: kept up for as long as the peer is a member, and never in anybody's way.

Law: what does not fit, or comes while the link is down, is dropped and counted; Raft sends again what matters and is
better off without what is stale. Nothing waits for a peer but its own frames.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import structlog

from balancer.config.addresses import split_port
from balancer.consensus.peer_connection import End, Ending, PeerConnection, PeerError, PeerLimits
from balancer.consensus.peer_frames import Member, frame_bytes
from balancer.consensus.peer_hello import Handshake
from balancer.telemetry import events

log = structlog.get_logger()


@dataclass(slots=True)
class PeerCounters:
    """Of one peer, since the start. Frames and bytes: those of frames, handshakes left out."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    dropped: int = 0
    connects: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Dialing:
    """What every link of a member shares. `handshake` makes a fresh one that expects this member."""

    handshake: Callable[[Member], Handshake]
    limits: PeerLimits
    rng: Random
    tls: ssl.SSLContext | None
    unsent: Callable[["PeerLink"], None]  # frames wait for the end of the loop's turn
    changed: Callable[[Member, bool], None]  # up, or no longer


class PeerLink:
    """To `member`, from `start` to `close`. `up`: the peer has accepted us, and frames go out."""

    def __init__(self, member: Member, dialing: Dialing, counters: PeerCounters) -> None:
        self.member = member
        self.counters = counters
        self._dialing = dialing
        self._limits = dialing.limits
        self._connection: PeerConnection | None = None
        self._frames: deque[bytes] = deque()
        self._queued = 0
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._said = ""
        self._since = 0.0
        self._closed = False

    @property
    def up(self) -> bool:
        """Whether what is sent now will leave."""
        return self._connection is not None

    @property
    def queued(self) -> int:
        """Bytes that wait for the peer, beside those that the transport holds (at most one write or one frame)."""
        return self._queued

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.get_running_loop().create_task(self._keep_up())

    def hurry(self) -> None:
        """The peer was just seen alive: no reason to wait longer for the next try."""
        self._hurry.set()

    def close(self) -> asyncio.Task[None] | None:
        """End it; nothing is called any more. The task, if any, is over soon."""
        self._closed = True
        if self._connection is not None:
            self._connection.end(End.CLOSED, "closed")
        if self._task is not None:
            self._task.cancel()
        return self._task

    # ---- frames

    def send(self, payload: bytes) -> None:
        """Queue one payload for the end of the loop's turn, or drop and count it. O(bytes)."""
        connection = self._connection
        limits = self._limits
        if (
            connection is None
            or self._queued + len(payload) > limits.queue_bytes
            or len(self._frames) >= limits.queue_count
            or len(payload) > limits.frame
        ):
            self.counters.dropped += 1
            return
        frame = frame_bytes(payload, connection.handshake.outgoing)
        if not self._frames:
            self._dialing.unsent(self)
        self._frames.append(frame)
        self._queued += len(frame)

    def flush(self) -> None:
        """Hand over what waits, as far as the transport takes it: one write unless there is much."""
        connection = self._connection
        while self._frames and connection is not None and not connection.paused and not connection.closed:
            size, count = 0, 0
            for frame in self._frames:
                size += len(frame)
                count += 1
                if size >= self._limits.write:
                    break
            if count == 1:
                data = self._frames.popleft()
            else:
                data = b"".join([self._frames.popleft() for _ in range(count)])
            self._queued -= size
            self.counters.sent += count
            self.counters.sent_bytes += size
            connection.write(data)

    # ---- connecting

    async def _keep_up(self) -> None:
        limits, clock = self._limits, asyncio.get_running_loop().time
        pause = limits.backoff_first
        while not self._closed:
            self._hurry.clear()
            self._since = clock()
            self._tell(await self._connect())
            if clock() - self._since >= limits.backoff_max:  # it worked for a while: this is a new trouble
                pause = limits.backoff_first
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * self._dialing.rng.uniform(0.5, 1)):
                    await self._hurry.wait()
            pause = min(2 * pause, limits.backoff_max)

    async def _connect(self) -> Ending:
        """One connection from its beginning to its end."""
        over: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

        def ended(connection: PeerConnection, ending: Ending) -> None:
            if self._connection is connection:
                self._down()
            if not over.done():
                over.set_result(ending)

        def make() -> PeerConnection:
            handshake = self._dialing.handshake(self.member)
            return PeerConnection(handshake, self._limits, opened=self._opened, received=_unexpected, ended=ended)

        try:
            connection = await dial(self.member.address, make, self._limits, self._dialing.tls)
        except PeerError as error:
            return error.ending
        try:
            return await over
        finally:
            connection.end(End.CLOSED, "closed")

    def _opened(self, connection: PeerConnection) -> None:
        if self._closed:
            connection.end(End.CLOSED, "closed")
            return
        self._connection = connection
        self._since = asyncio.get_running_loop().time()
        connection.resumed = self.flush
        self.counters.connects += 1
        self._said = ""
        log.info(events.PEER_CONNECTED, peer=self.member.name, address=self.member.address)
        self._dialing.changed(self.member, True)

    def _down(self) -> None:
        self._connection = None
        self.counters.dropped += len(self._frames)
        self._frames.clear()
        self._queued = 0
        if not self._closed:
            self._dialing.changed(self.member, False)

    def _tell(self, ending: Ending) -> None:
        """Log an ending; one that repeats the last one is nothing new."""
        refused = ending.kind in (End.REFUSED, End.REFUSED_BY_PEER)
        self.counters.refused += refused
        if ending.reason == self._said:
            return
        self._said = ending.reason
        name, address = self.member.name, self.member.address
        if refused:
            by = "us" if ending.kind is End.REFUSED else "peer"
            log.error(events.PEER_REFUSED, peer=name, address=address, reason=ending.reason, refused_by=by)
        else:
            log.warning(events.PEER_LOST, peer=name, address=address, reason=ending.reason)


def _unexpected(connection: PeerConnection, payload: bytes) -> None:
    connection.end(End.BROKEN, f"{len(payload)} bytes came on a connection that only sends")


async def dial(
    address: str,
    make: Callable[[], PeerConnection],
    limits: PeerLimits,
    tls: ssl.SSLContext | None,
) -> PeerConnection:
    """Connect to `host:port`. PeerError."""
    try:
        host, port = split_port(address, "10.0.0.1:7001", zero=False)
        async with asyncio.timeout(limits.connect):
            _, connection = await asyncio.get_running_loop().create_connection(make, host, port, ssl=tls)
    except TimeoutError:
        raise PeerError(Ending(End.LOST, f"no connection within {limits.connect:g} s")) from None
    except ssl.SSLError as error:
        raise PeerError(Ending(End.REFUSED, f"TLS failed: {error.reason or error}")) from None
    except (OSError, ValueError) as error:
        raise PeerError(Ending(End.LOST, getattr(error, "strerror", None) or str(error))) from None
    return connection
