"""All worker slots: bring up, watch, restart with back-off, and change how many there are.

While a configuration is being replaced (whoever does that is alone in `gate`) no worker comes up with either; one that
came up by then has the old one, and the next one has the new.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import structlog

from balancer.clock import monotonic
from balancer.daemon.bindings import Bindings
from balancer.daemon.children import Child, RefusedError, WorkerError, spawn
from balancer.daemon.gate import Gate
from balancer.daemon.lending import COMMAND_TIMEOUT, Lending
from balancer.daemon.messages import (
    PROTOCOL_VERSION,
    BackendStates,
    Commit,
    Drain,
    Message,
    Outcomes,
    Prepare,
    Start,
)
from balancer.daemon.restarts import Restarts
from balancer.daemon.shared_memory import Area, SharedMemory
from balancer.daemon.two_phases import PREPARE_TIMEOUT
from balancer.telemetry import events
from balancer.telemetry.registry import Sample

log = structlog.get_logger()

START_TIMEOUT = 30.0  # a cold start reads a hundred modules from a disk that may be slow
SEE_OFF_TIMEOUT = 0.5  # to reap workers that have ended
ADOPT_AFTER = 0.2  # a slot that is empty for longer gets its connections accepted by another worker
LOOK_EVERY = 0.5  # at a worker that is to end, for whether its connections have
LAST_WORDS = 5.0  # for a worker without connections to end
START_ATTEMPTS = 3  # of a worker that was never ready: after so many the daemon has no hope and says so


class Workers:
    """The worker slots; at first 0 .. count - 1.

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
        self.gate = Gate()
        self.lending = Lending(bindings, inboxes, self._accepting)
        self.restarts_total = 0
        self.stopping = False
        self._memory = memory
        self._plan = plan
        self._orders = orders
        self._counters = counters
        self._outcomes = outcomes
        self._welcome = welcome
        self._gone = gone
        self._children: dict[int, Child] = {}
        self._wanted = set(range(count))
        self._kept: set[int] = set()  # slots with a task that fills them
        self._restarts: dict[int, Restarts] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # set when we are at fault

    # ---- what others ask

    @property
    def slots(self) -> list[int]:
        """The slots that are to have a worker."""
        return sorted(self._wanted)

    def rows(self, slots: Iterable[int] = ()) -> tuple[int, ...]:
        """The slots whose loads count: those with a worker, or that are to have one, `slots` among them."""
        return tuple(sorted({*slots, *self._wanted, *self._children}))

    def ready(self) -> list[Child]:
        """The workers that serve, those that are about to end among them."""
        return [child for child in self._children.values() if child.ready and child.alive]

    def oldest_in_use(self) -> int:
        """The oldest generation of which any worker uses something; one that uses none yet will use the newest."""
        rows = [self._memory.row(Area.OLDEST, child.slot)[0] for child in self.living()]
        return min((row for row in rows if row), default=self._plan().generation)

    def _accepting(self) -> list[Child]:
        return [child for child in self.ready() if child.slot in self._wanted]

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
        attempts = [asyncio.ensure_future(self._first_start(slot)) for slot in self.slots]
        try:
            await asyncio.gather(*attempts)
        finally:
            for attempt in attempts:
                attempt.cancel()
        for slot in self.slots:
            self._kept.add(slot)
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
        self._restarts.setdefault(slot, Restarts())
        try:
            child = spawn(slot, lambda channel: self._orders(slot, channel), self._counters, self._outcomes)
        except OSError as error:
            raise WorkerError(f"worker {slot} cannot be started: {error.strerror}") from error
        self._children[slot] = child
        log.info(events.WORKER_STARTED, worker=slot, pid=child.pid)
        hello = await child.hello(START_TIMEOUT)
        if hello.version != PROTOCOL_VERSION:
            raise WorkerError(f"worker {slot} speaks version {hello.version} of the control protocol")
        async with self.gate.together():
            if slot not in self._wanted:
                raise WorkerError(f"worker {slot} is not wanted any more")
            await self._lead_in(child)
        self._restarts[slot].ready(monotonic())
        self._start_task(self._watch(child))
        await self.lending.lend_all()

    async def _lead_in(self, child: Child) -> None:
        """From its first word to the point where it serves the configuration in use."""
        plan, slot = self._plan(), child.slot
        await child.request(plan, timeout=PREPARE_TIMEOUT)
        child.tell(self._welcome(slot))
        await child.request(Commit(plan.generation), timeout=COMMAND_TIMEOUT)
        await self.lending.own(child)
        self._memory.row(Area.ACCEPTING, slot)[0] = 1
        child.ready = True
        log.info(events.WORKER_READY, worker=slot, pid=child.pid, generation=plan.generation)

    # ---- keeping them up

    async def _keep(self, slot: int) -> None:
        """Fill the slot again and again, until it is not wanted any more."""
        try:
            while slot in self._children or await self._filled(slot):
                child = self._children[slot]
                await asyncio.wait({child.ended})
                await self._see_off(slot)
                if child.asked_to_end:
                    self.lending.forward(slot)
                    return
        finally:
            self._kept.discard(slot)

    async def _filled(self, slot: int) -> bool:
        """Start workers until one serves; False when none is wanted any more."""
        while not await self._restart(slot):
            if self.stopping or slot not in self._wanted:
                return False
        return True

    async def _fill_new(self, slot: int) -> None:
        try:
            await self._bring_up(slot)
        except WorkerError as error:
            log.warning(events.WORKER_FAILED, worker=slot, error=str(error))
            await self._see_off(slot)
        await self._keep(slot)

    async def _restart(self, slot: int) -> bool:
        """One try to fill the slot again, after the wait that its deaths earned. True when the worker serves."""
        restarts = self._restarts[slot]
        delay = restarts.died(monotonic())
        if self.stopping or slot not in self._wanted:
            await self.lending.lend(slot)
            return False
        if delay > ADOPT_AFTER:
            await self.lending.lend(slot)
        if delay:
            log.warning(events.WORKER_DELAYED, worker=slot, delay_ms=round(delay * 1000), ends=restarts.quick_deaths)
            await asyncio.sleep(delay)
            if self.stopping or slot not in self._wanted:
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
        for other in self.lending.lost(child):
            await self.lending.lend(other)

    # ---- another number of them

    def slots_for(self, count: int) -> list[int] | None:
        """The slots for so many workers: those there are, and free ones. None: not enough are free."""
        kept = self.slots[:count]
        free = [slot for slot in range(self._memory.rows) if slot not in self._wanted | self._kept]
        more = free[: count - len(kept)]
        return sorted(kept + more) if len(kept) + len(more) == count else None

    async def resize(self, slots: Iterable[int]) -> None:
        """These slots are to have workers, and no others. To be called alone in `gate`, when their sockets are bound.

        New workers come up by and by. Those that are to end take no more connections and end with their last one.
        """
        wanted = set(slots)
        leaving, new = self._wanted - wanted, wanted - self._wanted
        self._wanted = wanted
        for slot in sorted(new):
            self._kept.add(slot)
            self._start_task(self._fill_new(slot))
        for slot in sorted(leaving):
            await self._leave(slot)

    async def _leave(self, slot: int) -> None:
        self._memory.row(Area.ACCEPTING, slot)[0] = 0
        child = self._children.get(slot)
        if child is None or not child.ready:
            if child is not None:
                child.kill()
            await self.lending.lend(slot)
            return
        child.asked_to_end = True
        await self.lending.hand_over(child)
        await self._ask(child, Drain("announce"), COMMAND_TIMEOUT)
        await self._ask(child, Drain("stop_listening"), COMMAND_TIMEOUT)
        self._start_task(self._see_out(child))

    async def _see_out(self, child: Child) -> None:
        """Let a worker end when its connections have; its exchanges and tunnels take the time that they take."""
        quiet = 0
        while child.alive and not self.stopping:
            await asyncio.sleep(LOOK_EVERY)
            quiet = 0 if self._memory.row(Area.CONNECTIONS, child.slot)[0] else quiet + 1
            if quiet == 2:  # what was handed to it just before it left was counted by then
                child.ready = False
                await self._ask(child, Drain("finish", LAST_WORDS, LAST_WORDS), 2 * LAST_WORDS)
                await asyncio.wait({child.ended}, timeout=LAST_WORDS)
                child.kill()

    # ---- stopping

    async def stop_restarting(self) -> None:
        """From now on a worker that ends is not replaced; another one accepts for it."""
        self.stopping = True
        for slot in self.slots:
            if not self.is_up(slot):
                await self.lending.lend(slot)

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
