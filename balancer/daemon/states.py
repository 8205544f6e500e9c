"""What outcomes, health checks and operators say becomes the standings that every worker holds.

Law: a worker that `welcome` was asked for holds, once it has read all that was sent to it, exactly the standings that
are decided here. What takes a backend out because of its traffic is sent in the call that decided it; results of
health checks may wait for the next tick when others were just sent, so that ten thousand of them are not ten thousand
messages.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import NamedTuple

import msgspec
import structlog

from balancer.admin.changes import UnknownBackendError
from balancer.config.model import Config, Pool, ResolvedBackend
from balancer.daemon.messages import BackendStates, Outcomes
from balancer.resilience.health import HealthTracker
from balancer.resilience.known_backend import Address, BackendFacts, Happening, What
from balancer.resilience.pool_standings import PoolStandings
from balancer.resilience.standing import Standing
from balancer.telemetry import events, metrics
from balancer.telemetry.aggregate import SUPERVISOR, Aggregate
from balancer.telemetry.registry import Sample

log = structlog.get_logger()

POOLS_PER_TICK = 500  # looked at in one tick: a few milliseconds
BACKENDS_PER_SLICE = 1000  # taken in before the loop gets a turn: about 10 ms
GAUGES_PER_TICK = 1000  # set after a configuration came into use: a millisecond or two
TRIAL_PATIENCE = 5.0  # seconds: a worker that has no result of its trial by then may have had no request for it

_RULINGS = frozenset({What.PANIC_BEGAN, What.PANIC_ENDED, What.WENT_DOWN, What.CAME_BACK})


class _Place(NamedTuple):
    """Where a slot belongs."""

    pool: PoolStandings
    name: str
    address: Address


class _Trial(NamedTuple):
    """One request decides about a half-open backend; `worker` may send it until `until`. None = no worker is there."""

    worker: int | None
    until: float


class States:
    """The standings of all pools, and who was told what.

    `tell(worker, message)` sends to a worker's slot without waiting, `workers()` gives the slots of those that serve.
    `counted` takes the metrics. Not thread-safe.
    """

    def __init__(
        self,
        *,
        tell: Callable[[int, BackendStates], None],
        workers: Callable[[], Sequence[int]],
        counted: Aggregate,
        rng: Random,
        now: Callable[[], float],
    ) -> None:
        self._tell = tell
        self._workers = workers
        self._counted = counted
        self._rng = rng
        self._now = now
        self._pools: dict[str, PoolStandings] = {}
        self._places: dict[int, _Place] = {}
        self._checks: dict[int, HealthTracker] = {}
        self._awake: dict[str, PoolStandings] = {}  # those that a tick has to look at
        self._stirred: dict[str, PoolStandings] = {}  # those that may have changes to tell
        self._down: dict[str, None] = {}  # names of pools, in the order in which they went down
        self._down_told: tuple[str, ...] = ()
        self._trials: dict[int, _Trial] = {}  # by slot
        self._trial_news: dict[int, set[int]] = {}  # worker -> slots whose trial it was given or lost
        self._welcomed: set[int] = set()
        self._epoch = 0
        self._told_since_tick = False
        self._gauges: deque[tuple[PoolStandings, str]] = deque()  # backends whose gauge is still to be set

    # ---- the configuration

    def configure(self, config: Config, backends: Iterable[ResolvedBackend], *, starting: bool = False) -> None:
        """A configuration is in use, with these addresses. What is known of unchanged backends stays. O(backends).

        To be called before workers use it, so that they hold the standings of new backends by then. `starting`: it is
        the first of this process.
        """
        for _ in self.configure_in_slices(config, backends, starting=starting):
            pass

    def configure_in_slices(
        self, config: Config, backends: Iterable[ResolvedBackend], *, starting: bool = False
    ) -> Iterator[None]:
        """The same with pauses, in which everything else may be called: a pool is as before or as it is to be."""
        now = self._now()
        by_pool: dict[str, list[ResolvedBackend]] = {pool.name: [] for pool in config.pools}
        for backend in backends:
            by_pool[backend.pool].append(backend)
        self._forget(config)
        yield
        taken = 0
        for pool in config.pools:
            self._configure_pool(pool, by_pool[pool.name], now, starting=starting)
            taken += len(pool.backends)
            if taken >= BACKENDS_PER_SLICE:
                taken = 0
                self._send()
                yield
        self._pools = {pool.name: self._pools[pool.name] for pool in config.pools}  # in the order of the file
        self._gauges = deque((standings, name) for standings in self._pools.values() for name in standings.names)
        self._set_gauges()
        for slot in self._trials.keys() | {slot for standings in self._pools.values() for slot in standings.trials}:
            self._settle_trial(slot)
        self._send()

    def _forget(self, config: Config) -> None:
        """Let go of the pools that are no more."""
        self._gauges.clear()  # all of them are set at the end
        self._forget_metrics(config)
        for name in self._pools.keys() - {pool.name for pool in config.pools}:
            self._forget_slots(self._pools.pop(name))
            for known in (self._awake, self._stirred, self._down):
                known.pop(name, None)

    def _configure_pool(self, pool: Pool, backends: list[ResolvedBackend], now: float, *, starting: bool) -> None:
        standings = self._pools.get(pool.name) or PoolStandings(pool.name, self._rng)
        self._pools[pool.name] = standings
        self._forget_slots(standings)
        happenings = standings.configure(pool, backends, now, starting=starting)
        for backend in backends:
            self._places[backend.slot] = _Place(standings, backend.name, backend.address)
        self._checks.update(standings.trackers())
        self._happened(standings, happenings)
        self._counted.set(metrics.PANIC, (pool.name,), float(standings.panic))

    def _forget_slots(self, standings: PoolStandings) -> None:
        for slot in standings.slots:
            del self._places[slot]
            self._checks.pop(slot, None)

    def checks(self) -> Mapping[int, HealthTracker]:
        """The health of every slot that is checked. A live view."""
        return self._checks

    # ---- what happens

    def outcomes(self, worker: int, message: Outcomes) -> None:
        """A worker tells how its attempts ended. O(what it tells). Decisions are sent before this returns."""
        now = self._now()
        for good in message.successes:
            place = self._places.get(good.slot)
            if place is not None:
                self._happened(place.pool, place.pool.succeeded(good.slot, good.count, good.first_byte_sum, now))
        for bad in message.failures:
            place = self._places.get(bad.slot)
            if place is not None:
                self._happened(place.pool, place.pool.failed(bad.slot, bad.reason, bad.succeeded, now))
        self._send()

    def checked(self, slot: int, passed: bool, evidence: str, *, own: bool = True) -> None:
        """A health check of the backend in `slot` ended; `evidence` says in words how. `own`: we made it ourselves."""
        place = self._places.get(slot)
        if place is None or slot not in self._checks:
            return
        self._count(metrics.HEALTH_CHECKS, place, "passed" if passed else "failed")
        happenings = place.pool.checked(slot, passed, evidence, self._now(), own=own)
        if happenings:
            self._happened(place.pool, happenings)
            if not self._told_since_tick or any(happening.what in _RULINGS for happening in happenings):
                self._send()

    def set_live(self, pool: str, name: str, *, weight: int | None = None, drained: bool | None = None) -> None:
        """An operator's wish; None = as it is. Raises UnknownBackendError, whose text tells the names there are."""
        standings = self._pool_with(pool, name)
        now = self._now()
        wanted = standings.wanted(name)
        if weight is not None and weight != wanted.weight:
            log.info(events.BACKEND_WEIGHT_SET, pool=pool, backend=name, weight=weight, before=wanted.weight)
            self._happened(standings, standings.set_weight(name, weight, now))
        if drained is not None and drained != wanted.drained:
            if drained:
                log.info(events.BACKEND_DRAIN_BEGAN, pool=pool, backend=name)
            else:
                log.info(events.BACKEND_DRAIN_ENDED, pool=pool, backend=name)
            self._happened(standings, standings.set_drained(name, drained, now))
        for facts in standings.facts(name):
            self._settle_trial(facts.slot)
        self._send()

    def tick(self) -> None:
        """Time has passed: to be called every 100 ms. O(pools with something under way); of thousands a tenth."""
        now = self._now()
        for name in list(islice(self._awake, max(POOLS_PER_TICK, len(self._awake) // 10))):
            pool = self._awake.pop(name)
            self._happened(pool, pool.tick(now))  # which puts it at the end of those awake
            if not pool.awake(now):
                del self._awake[name]
        for slot, trial in list(self._trials.items()):
            if trial.until <= now:
                self._offer(slot)
        self._set_gauges()
        self._send()
        self._told_since_tick = False

    # ---- workers

    def welcome(self, worker: int) -> BackendStates:
        """Everything, for a worker that is to be ready when it holds this. Later changes are told to it as well."""
        self._welcomed.add(worker)
        self._trial_news.pop(worker, None)
        for slot, trial in list(self._trials.items()):
            if trial.worker is None or trial.worker == worker:
                self._trials[slot] = _Trial(worker, self._now() + TRIAL_PATIENCE)
        standings = [one for pool in self._pools.values() for one in pool.standings()]
        return BackendStates(self._epoch, self._for_worker(worker, standings), tuple(self._down))

    def worker_gone(self, worker: int) -> None:
        """A worker ended. What it was to try out is given to another."""
        self._welcomed.discard(worker)
        for slot, trial in list(self._trials.items()):
            if trial.worker == worker:
                self._offer(slot)
        self._trial_news.pop(worker, None)
        self._send()

    # ---- what others ask

    def facts(self, pool: str, name: str, in_flight: Callable[[int], int] | None = None) -> tuple[BackendFacts, ...]:
        """What is known of a backend, one for each of its addresses. Raises UnknownBackendError.

        `in_flight(slot)` tells a drained backend from a draining one.
        """
        return self._pool_with(pool, name).facts(name, in_flight)

    def weight(self, pool: str, name: str) -> int:
        """The weight in use: the live one, 0 while drained. Raises UnknownBackendError."""
        return self._pool_with(pool, name).wanted(name).in_use

    def _pool_with(self, pool: str, name: str) -> PoolStandings:
        standings = self._pools.get(pool)
        if standings is None:
            raise UnknownBackendError(pool, None, self._pools)
        if name not in standings.names:
            raise UnknownBackendError(pool, name, standings.names)
        return standings

    # ---- trials

    def _settle_trial(self, slot: int) -> None:
        """Begin or end the trial of a slot, as its pool wants it now."""
        place = self._places.get(slot)
        if place is not None and slot in place.pool.trials:
            if slot not in self._trials:
                self._offer(slot)
        else:
            trial = self._trials.pop(slot, None)
            if trial is not None and trial.worker is not None:
                self._trial_news.setdefault(trial.worker, set()).add(slot)

    def _offer(self, slot: int) -> None:
        """Give the trial of a slot to a ready worker, another than before if there is one."""
        last = self._trials.get(slot, _Trial(None, 0.0)).worker
        ready = self._workers()
        others = [worker for worker in ready if worker != last] or ready
        worker = self._rng.choice(others) if others else None
        self._trials[slot] = _Trial(worker, self._now() + TRIAL_PATIENCE)
        for each in (last, worker):
            if each is not None:
                self._trial_news.setdefault(each, set()).add(slot)

    # ---- telling workers

    def _send(self) -> None:
        """Tell every worker what changed for it."""
        changes = [change for pool in self._stirred.values() for change in pool.take_changes()]
        self._stirred = {}
        news, self._trial_news = self._trial_news, {}
        down = tuple(self._down)
        if not changes and not news and down == self._down_told:
            return
        to_all = bool(changes) or down != self._down_told
        self._down_told = down
        self._epoch += 1
        self._told_since_tick = True
        for worker in sorted(self._welcomed.union(self._workers())):
            of_trials = self._standings_of(news.get(worker, set()) - {change.slot for change in changes})
            if to_all or of_trials:
                self._tell(worker, BackendStates(self._epoch, self._for_worker(worker, [*changes, *of_trials]), down))

    def _standings_of(self, slots: Iterable[int]) -> list[Standing]:
        return [self._places[slot].pool.standing(slot) for slot in sorted(slots) if slot in self._places]

    def _for_worker(self, worker: int, standings: Sequence[Standing]) -> tuple[Standing, ...]:
        """The same, with `trial` where it is this worker's."""
        own = {slot for slot, trial in self._trials.items() if trial.worker == worker}
        if not own:
            return tuple(standings)
        return tuple(msgspec.structs.replace(one, trial=True) if one.slot in own else one for one in standings)

    # ---- metrics and logs

    def _happened(self, pool: PoolStandings, happenings: Sequence[Happening]) -> None:
        """Take note of what happened in a pool; without anything, that something was reported to it."""
        self._awake[pool.name] = pool
        self._stirred[pool.name] = pool
        for happening in happenings:
            if happening.slot is None:
                self._pool_happened(pool, happening)
            else:
                place = self._places[happening.slot]
                self._settle_trial(happening.slot)
                self._count_happening(place, happening)
                _log_backend(place, happening)

    def _pool_happened(self, pool: PoolStandings, happening: Happening) -> None:
        match happening.what:
            case What.WENT_DOWN:
                self._down[pool.name] = None
                log.error(events.POOL_WENT_DOWN, pool=pool.name, evidence=happening.evidence)
            case What.CAME_BACK:
                self._down.pop(pool.name, None)
                log.info(events.POOL_CAME_BACK, pool=pool.name, evidence=happening.evidence)
            case What.PANIC_BEGAN:
                self._counted.set(metrics.PANIC, (pool.name,), 1)
                log.warning(events.PANIC_BEGAN, pool=pool.name, evidence=happening.evidence)
            case What.PANIC_ENDED:
                self._counted.set(metrics.PANIC, (pool.name,), 0)
                log.info(events.PANIC_ENDED, pool=pool.name, evidence=happening.evidence)

    def _count_happening(self, place: _Place, happening: Happening) -> None:
        detected = happening.what in (What.OBSERVED, What.SPARED) and happening.cause != "latency"
        if detected or happening.what is What.EJECTED:
            self._count(metrics.EJECTIONS_DETECTED, place)
        if happening.what is What.EJECTED:
            self._count(metrics.BACKEND_EJECTIONS, place)
        self._set_up(place.pool, place.name)

    def _count(self, family: str, place: _Place, *further: str) -> None:
        self._counted.add(SUPERVISOR, [Sample(family, (place.pool.name, place.name, *further), [1.0])])

    def _set_up(self, pool: PoolStandings, name: str) -> None:
        self._counted.set(metrics.BACKEND_UP, (pool.name, name), float(pool.is_up(name)))

    def _set_gauges(self) -> None:
        """Set those of a new configuration, a part at a time."""
        for _ in range(min(len(self._gauges), GAUGES_PER_TICK)):
            self._set_up(*self._gauges.popleft())

    def _forget_metrics(self, config: Config) -> None:
        """Drop the series of pools and backends that are no more."""
        kept = {pool.name: {backend.name for backend in pool.backends} for pool in config.pools}
        for pool, standings in self._pools.items():
            if pool not in kept:
                self._counted.remove(metrics.PANIC, (pool,))
            for name in standings.names:
                if name not in kept.get(pool, ()):
                    for family in (metrics.BACKEND_UP, metrics.BACKEND_EJECTIONS, metrics.EJECTIONS_DETECTED):
                        self._counted.remove(family, (pool, name))
                    for result in ("passed", "failed"):
                        self._counted.remove(metrics.HEALTH_CHECKS, (pool, name, result))


def _log_backend(place: _Place, happening: Happening) -> None:
    evidence, cause = happening.evidence, happening.cause
    host, port, path = place.address
    address = path or (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    about = structlog.get_logger().bind(pool=place.pool.name, backend=place.name, address=address)
    match happening.what:
        case What.BECAME_HEALTHY:
            about.info(events.BACKEND_HEALTHY, evidence=evidence)
        case What.BECAME_UNHEALTHY:
            about.warning(events.BACKEND_UNHEALTHY, evidence=evidence)
        case What.EJECTED:
            duration_ms = round(happening.seconds * 1000)
            about.warning(events.BACKEND_EJECTED, cause=cause, evidence=evidence, duration_ms=duration_ms)
        case What.OBSERVED:
            about.warning(events.EJECTION_DETECTED, cause=cause, evidence=evidence, kept_by="observe")
        case What.SPARED:
            about.warning(events.EJECTION_DETECTED, cause=cause, evidence=evidence, kept_by="max_ejected")
        case What.HALF_OPEN:
            about.info(events.BACKEND_HALF_OPEN, evidence=evidence)
        case What.RETURNED:
            about.info(events.BACKEND_RETURNED, cause=cause, evidence=evidence)
        case What.SLOWED:
            about.warning(events.BACKEND_SLOWED, evidence=evidence)
        case What.SPED_UP:
            about.info(events.BACKEND_SPED_UP, evidence=evidence)
