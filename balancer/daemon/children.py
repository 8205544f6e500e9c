"""One worker process as the supervisor holds it: started by exec with explicit descriptors, watched, ended."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from balancer.clock import monotonic
from balancer.daemon.messages import Counters, Hello, Message, Outcomes, Ping, Pong, Refused, Start
from balancer.errors import BalancerError
from balancer.telemetry.registry import Sample
from balancer.transport.framed import Channel, ChannelError, Received, RequestTimeoutError, pair

PING_EVERY = 1.0
SILENCE_MAX = 5.0  # a worker silent for so long is killed and replaced
_SECOND_CHANCE = 0.5  # when it was the supervisor that stalled, the answer is there already
_LAST_WORDS = 1.0  # after the process ended: until its channel is read to the end
_HELD_BACK = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}


class WorkerError(BalancerError):
    """A worker did not come up, or refused what it was told. One text per problem."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class RefusedError(WorkerError):
    """A worker says that the configuration cannot be used."""


class Child:
    """A worker process and our end of its control channel. Made by `spawn`.

    `counters` is called with whatever samples come. `ended` is done with the process's return code (negative:
    the signal) once it is reaped and its channel is read to the end.
    """

    def __init__(
        self,
        slot: int,
        process: "subprocess.Popen[bytes]",
        counters: Callable[[int, list[Sample]], None],
        outcomes: Callable[[int, Outcomes], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.slot = slot
        self.pid = process.pid
        self.ready = False
        self.asked_to_end = False
        self.last_pong = Pong(0.0, 0.0, 0)
        self.ended: asyncio.Future[int] = loop.create_future()
        self.channel: Channel[Message]
        self._process = process
        self._counters = counters
        self._outcomes = outcomes
        self._hello: asyncio.Future[Hello] = loop.create_future()
        self._silenced = asyncio.Event()
        self._pidfd = os.pidfd_open(process.pid)
        self._reaping: asyncio.Task[None] | None = None
        loop.add_reader(self._pidfd, self._exited)

    @property
    def alive(self) -> bool:
        """The process runs, as far as we know."""
        return not self.ended.done() and self._reaping is None

    async def hello(self, timeout: float) -> Hello:
        """Wait for the worker's first word. Raises WorkerError."""
        first: set[asyncio.Future[Any]] = {self._hello, self.ended}
        await asyncio.wait(first, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if self._hello.done():
            return self._hello.result()
        if self.ended.done():
            raise WorkerError(f"worker {self.slot} ended at its start with {describe_end(self.ended.result())}")
        raise WorkerError(f"worker {self.slot} did not come up within {timeout:g} s")

    async def request(self, message: Message, *, timeout: float, descriptors: Sequence[int] = ()) -> Message:
        """Ask, and wait for the answer. Raises RefusedError, and WorkerError when no answer comes."""
        try:
            reply = await self.channel.request(message, timeout=timeout, descriptors=descriptors)
        except ChannelError as error:
            raise WorkerError(f"worker {self.slot}: {error}") from error
        if isinstance(reply, Refused):
            raise RefusedError(*reply.errors)
        return reply

    def tell(self, message: Message) -> None:
        """Send without waiting; a channel that is closed or choked is the business of who watches the child."""
        try:
            self.channel.send(message)
        except ChannelError:
            if not self.channel.closed:
                self.kill()

    async def ping(self, timeout: float) -> Pong:
        """Ask how it is. Raises RequestTimeoutError, ChannelError; `last_pong` keeps the last answer."""
        reply = await self.channel.request(Ping(), timeout=timeout)
        if isinstance(reply, Pong):
            self.last_pong = reply
        return self.last_pong

    async def watch(self) -> float:
        """Ping until the child ends (returns 0) or is silent for too long (returns the seconds of silence)."""
        while self.alive:
            await asyncio.sleep(PING_EVERY)
            asked = monotonic()
            try:
                try:
                    await self.ping(SILENCE_MAX)
                except RequestTimeoutError:
                    await self.ping(_SECOND_CHANCE)
            except RequestTimeoutError:
                return monotonic() - asked
            except ChannelError:
                await asyncio.wait({self.ended})
        return 0.0

    def kill(self) -> None:
        """SIGKILL. The process is reaped as after any other end."""
        if not self.ended.done():
            self._process.kill()

    # ---- what comes in

    def received(self, received: Received[Message]) -> None:
        """A message from the worker."""
        received.close_descriptors()
        message = received.message
        if isinstance(message, Counters):
            self._counters(self.slot, message.samples)
        elif isinstance(message, Outcomes):
            self._outcomes(self.slot, message)
        elif isinstance(message, Hello) and not self._hello.done():
            self._hello.set_result(message)

    def lost(self, reason: str) -> None:
        """The channel ended. A worker without one is of no use."""
        self._silenced.set()
        if reason:
            self.kill()

    def _exited(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._reaping = asyncio.ensure_future(self._reap())

    async def _reap(self) -> None:
        code = self._process.wait()
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await self._silenced.wait()
        except TimeoutError:
            pass  # somebody else holds the other end: nothing more can come from the worker itself
        self.channel.close()
        self.ended.set_result(code)


def spawn(
    slot: int,
    start: Callable[[int], Start],
    counters: Callable[[int, list[Sample]], None],
    outcomes: Callable[[int, Outcomes], None],
) -> Child:
    """Start the worker of `slot` by exec. `start` makes its orders, given the number of its channel's descriptor.

    Raises OSError when there is no room for another process.
    """
    ours, theirs = pair()
    try:
        orders = start(theirs.fileno())
        # Held back until the worker ignores them: a Ctrl-C reaches the whole group, and the supervisor decides.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "balancer.daemon.worker", msgspec.json.encode(orders).decode()],
                stdin=subprocess.DEVNULL,
                pass_fds=(orders.channel, orders.memory, orders.inbox, *orders.outlets),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    child = Child(slot, process, counters, outcomes)
    child.channel = Channel(ours, Message, received=child.received, lost=child.lost)
    return child


def describe_end(code: int) -> str:
    """A return code in words: "signal SIGKILL" or "exit code 3"."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
