"""All worker slots: bring up, watch, restart with back-off, lend the sockets of an empty slot to a living worker.

Law: a slot's sockets are the supervisor's. The worker of the slot accepts from them; while there is none, one other
worker does (it has adopted them), because a queue that nobody empties is a client that waits.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from balancer.clock import monotonic
from balancer.daemon.bindings import Bindings, ListeningSocket
from balancer.daemon.children import Child, RefusedError, WorkerError, spawn
from balancer.daemon.messages import (
    PROTOCOL_VERSION,
    BackendStates,
    Commit,
    Listen,
    ListenOn,
    Message,
    Outcomes,
    Prepare,
    Start,
    Unlisten,
)
from balancer.daemon.restarts import Restarts
from balancer.daemon.shared_memory import Area, SharedMemory
from balancer.telemetry import events
from balancer.telemetry.registry import Sample
from balancer.transport.framed import FDS_MAX
from balancer.transport.handover import forward

log = structlog.get_logger()

START_TIMEOUT = 30.0  # a cold start reads a hundred modules from a disk that may be slow
PREPARE_TIMEOUT = 10.0  # seconds: a worker that has not built a configuration by then is stuck
COMMAND_TIMEOUT = 5.0
SEE_OFF_TIMEOUT = 0.5  # to reap workers that have ended
ADOPT_AFTER = 0.2  # a slot that is empty for longer gets its connections accepted by another worker
START_ATTEMPTS = 3  # of a worker that was never ready: after so many the daemon has no hope and says so


class Workers:
    """The worker slots 0 .. count - 1.

    `plan` is what a new worker prepares, `orders(slot, channel)` its command line; `counters(slot, samples)` takes
    what workers count, `gone(slot)` hears when one was reaped.
    """

    def __init__(
        self,
        count: int,
        *,
        bindings: Bindings,
        memory: SharedMemory,
        inboxes: Sequence[tuple[socket.socket, socket.socket]],
        plan: Callable[[], Prepare],
        orders: Callable[[int, int], Start],
        counters: Callable[[int, list[Sample]], None],
        outcomes: Callable[[int, Outcomes], None],
        welcome: Callable[[int], BackendStates],
        gone: Callable[[int], None],
    ) -> None:
        self.count = count
        self.restarts_total = 0
        self.stopping = False
        self._bindings = bindings
        self._memory = memory
        self._inboxes = inboxes
        self._plan = plan
        self._orders = orders
        self._counters = counters
        self._outcomes = outcomes
        self._welcome = welcome
        self._gone = gone
        self._children: dict[int, Child] = {}
        self._adopters: dict[int, Child] = {}  # slot without a worker -> who accepts for it
        self._restarts = [Restarts() for _ in range(count)]
        self._claimed: set[int] = set()  # slots whose own worker listens, or is about to
        self._empty: set[int] = set()  # slots that wait for an adopter
        self._tasks: set[asyncio.Task[None]] = set()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # set when we are at fault

    # ---- what others ask

    def ready(self) -> list[Child]:
        """The workers that serve."""
        return [child for child in self._children.values() if child.ready and child.alive]

    def living(self) -> list[Child]:
        """Every worker process, ready or not."""
        return [child for child in self._children.values() if not child.ended.done()]

    def is_up(self, slot: int) -> bool:
        """The worker of `slot` serves."""
        child = self._children.get(slot)
        return child is not None and child.ready and child.alive

    def tell(self, slot: int, message: Message) -> None:
        """Send to the worker of `slot`, if there is one, without waiting."""
        child = self._children.get(slot)
        if child is not None and child.alive:
            child.tell(message)

    # ---- starting

    async def start(self) -> None:
        """Bring up all slots and keep them up from then on.

        Raises RefusedError when a worker cannot use the configuration, WorkerError when one does not come up.
        """
        attempts = [asyncio.ensure_future(self._first_start(slot)) for slot in range(self.count)]
        try:
            await asyncio.gather(*attempts)
        finally:
            for attempt in attempts:
                attempt.cancel()
        for slot in range(self.count):
            self._start_task(self._keep(slot))

    async def _first_start(self, slot: int) -> None:
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                await self._bring_up(slot)
                return
            except RefusedError:
                raise
            except WorkerError:
                await self._see_off(slot)
                if attempt == START_ATTEMPTS:
                    raise

    async def _bring_up(self, slot: int) -> None:
        """Start the worker of `slot` and lead it to the point where it serves."""
        try:
            child = spawn(slot, lambda channel: self._orders(slot, channel), self._counters, self._outcomes)
        except OSError as error:
            raise WorkerError(f"worker {slot} cannot be started: {error.strerror}") from error
        self._children[slot] = child
        log.info(events.WORKER_STARTED, worker=slot, pid=child.pid)
        hello = await child.hello(START_TIMEOUT)
        if hello.version != PROTOCOL_VERSION:
            raise WorkerError(f"worker {slot} speaks version {hello.version} of the control protocol")
        plan = self._plan()
        await child.request(plan, timeout=PREPARE_TIMEOUT)
        child.tell(self._welcome(slot))
        await child.request(Commit(plan.generation), timeout=COMMAND_TIMEOUT)
        await self._take_back(slot)
        await self._listen(child, self._bindings.of_slot(slot))
        self._memory.row(Area.ACCEPTING, slot)[0] = 1
        child.ready = True
        self._restarts[slot].ready(monotonic())
        log.info(events.WORKER_READY, worker=slot, pid=child.pid, generation=plan.generation)
        self._start_task(self._watch(child))
        for other in list(self._empty):
            await self._lend(other)

    async def _listen(self, child: Child, sockets: Sequence[ListeningSocket]) -> None:
        for first in range(0, max(len(sockets), 1), FDS_MAX):
            part = sockets[first : first + FDS_MAX]
            message = Listen(tuple(ListenOn(each.key, each.listener, each.bind) for each in part))
            await child.request(message, timeout=COMMAND_TIMEOUT, descriptors=[each.sock.fileno() for each in part])

    # ---- keeping them up

    async def _keep(self, slot: int) -> None:
        while True:
            child = self._children[slot]
            await asyncio.wait({child.ended})
            await self._see_off(slot)
            if child.asked_to_end:
                return
            while not await self._restart(slot):
                if self.stopping:
                    return

    async def _restart(self, slot: int) -> bool:
        """One try to fill the slot again, after the wait that its deaths earned. True when the worker serves."""
        restarts = self._restarts[slot]
        delay = restarts.died(monotonic())
        if self.stopping:
            await self._lend(slot)
            return False
        if delay > ADOPT_AFTER:
            await self._lend(slot)
        if delay:
            log.warning(events.WORKER_DELAYED, worker=slot, delay_ms=round(delay * 1000), ends=restarts.quick_deaths)
            await asyncio.sleep(delay)
            if self.stopping:
                return False
        self.restarts_total += 1
        try:
            await self._bring_up(slot)
        except WorkerError as error:
            log.warning(events.WORKER_FAILED, worker=slot, error=str(error))
            await self._see_off(slot)
            return False
        return True

    async def _watch(self, child: Child) -> None:
        silence = await child.watch()
        if silence:
            log.error(events.WORKER_KILLED, worker=child.slot, pid=child.pid, silence_ms=round(silence * 1000))
            child.kill()

    async def _see_off(self, slot: int) -> None:
        """A worker is done with: killed if it still runs, reaped, its row zeroed, what it adopted lent to others."""
        child = self._children.pop(slot, None)
        if child is None:
            return
        child.ready = False
        self._claimed.discard(slot)
        self._memory.row(Area.ACCEPTING, slot)[0] = 0
        child.kill()
        await asyncio.wait({child.ended})
        code = child.ended.result()
        tell = log.info if child.asked_to_end else log.warning
        tell(
            events.WORKER_ENDED,
            worker=slot,
            pid=child.pid,
            code=max(code, 0),
            signal=max(-code, 0),
            asked=child.asked_to_end,
        )
        self._memory.clear_row(slot)
        self._gone(slot)
        for other in [slot for slot, adopter in self._adopters.items() if adopter is child]:
            del self._adopters[other]
            await self._lend(other)

    # ---- sockets of empty slots

    async def _lend(self, slot: int) -> None:
        """Let the living worker with the fewest adopted slots accept for an empty one. Without any, later."""
        if slot in self._claimed or slot in self._adopters:
            return
        self._empty.add(slot)
        lenders = self.ready()
        sockets = self._bindings.own_of_slot(slot)
        if not lenders or not sockets:  # no sockets: they are closed, the daemon is stopping
            return
        adopted = list(self._adopters.values())
        adopter = min(lenders, key=adopted.count)
        self._adopters[slot] = adopter
        forward(self._inboxes[slot][0], self._inboxes[adopter.slot][1])
        try:
            await self._listen(adopter, sockets)
        except WorkerError as error:
            # It is ending or hangs: then it is seen off, and the slot lent to another.
            log.warning(events.WORKER_FAILED, worker=adopter.slot, error=str(error))

    async def _take_back(self, slot: int) -> None:
        """The slot's own worker is about to listen: whoever accepted for it stops."""
        self._claimed.add(slot)
        self._empty.discard(slot)
        adopter = self._adopters.pop(slot, None)
        if adopter is None or not adopter.alive:
            return
        keys = tuple(each.key for each in self._bindings.own_of_slot(slot))
        try:
            await adopter.request(Unlisten(keys), timeout=COMMAND_TIMEOUT)
        except WorkerError as error:
            log.warning(events.WORKER_FAILED, worker=adopter.slot, error=str(error))

    # ---- stopping

    async def stop_restarting(self) -> None:
        """From now on a worker that ends is not replaced; another one accepts for it."""
        self.stopping = True
        for slot in range(self.count):
            if not self.is_up(slot):
                await self._lend(slot)

    def expect_ends(self) -> None:
        """A worker that ends from now on was asked to."""
        for child in self._children.values():
            child.asked_to_end = True

    async def everywhere(self, message: Message, timeout: float) -> None:
        """Ask all ready workers the same; one that does not answer in time is left to its fate."""
        await asyncio.gather(*(self._ask(child, message, timeout) for child in self.ready()))

    async def _ask(self, child: Child, message: Message, timeout: float) -> None:
        try:
            await child.request(message, timeout=timeout)
        except WorkerError as error:
            log.warning(events.WORKER_FAILED, worker=child.slot, error=str(error))

    async def end(self, timeout: float) -> None:
        """Wait until all processes are gone; after `timeout` seconds those that are left are killed."""
        self.stopping = True
        self.expect_ends()
        for child in self._children.values():
            if not child.ready:
                child.kill()
        waiting = [child.ended for child in self._children.values() if not child.ended.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)
        if self._tasks:  # those of workers that ended reap them and say so; one in a back-off is not waited for
            await asyncio.wait(set(self._tasks), timeout=SEE_OFF_TIMEOUT)
        for slot in list(self._children):
            await self._see_off(slot)
        for task in self._tasks:
            task.cancel()

    def kill(self) -> None:
        """End all workers at once."""
        self.stopping = True
        self.expect_ends()
        for child in self._children.values():
            child.kill()

    # ---- tasks

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not self.failed.done():
            self.failed.set_exception(task.exception() or RuntimeError("unknown"))
