"""Who of one pool gets traffic: health checks, ejections, operators' wishes, slow start and panic put together.

Every call that may change something returns what happened, for logs and metrics; `take_changes` then gives the
standings that are different from those last taken. A change costs O(1); only one of the pool's ruling (panic, down,
backups instead of primaries) looks at every backend. Memory is bounded by the configuration.
"""

from collections.abc import Callable, Collection, Iterable, Sequence, Set
from typing import TYPE_CHECKING

from balancer.config import model
from balancer.resilience.eligibility import EMPTY, Tally, Use, rule, use_of
from balancer.resilience.health import Health, HealthTracker
from balancer.resilience.known_backend import BackendFacts, Happening, KnownBackend, Wanted, What
from balancer.resilience.outliers import Decision, OutlierDetector, Verdict
from balancer.resilience.slow_start import SlowStart
from balancer.resilience.standing import Standing

if TYPE_CHECKING:
    from random import Random

# A pool without traffic for so many windows has nothing left to be judged by.
_QUIET_WINDOWS = 2.0
_MARGIN = 1.0  # seconds

# Shares that rise in one tick: 10,000 backends that start together are a step further within four ticks, and not at
# the price of one long stall.
SLOW_STARTS_PER_TICK = 2500


class PoolStandings:
    """The standings of one pool's backends. Pure; `now` is in seconds and never goes back."""

    def __init__(self, name: str, rng: "Random") -> None:
        self.name = name
        self._rng = rng
        self._threshold = 0.0
        self._settings: model.OutlierDetection | None = None
        self._wanted: dict[str, Wanted] = {}  # by name
        self._known: dict[int, KnownBackend] = {}  # by slot
        self._detector: OutlierDetector | None = None
        self._slow = SlowStart(None)
        self._tally = Tally()
        self._ruling = EMPTY
        self._touched: dict[int, KnownBackend] = {}
        self._changes: dict[int, Standing] = {}
        self._watched: set[int] = set()  # ejected or slowed: time alone may free them
        self._trials: set[int] = set()
        self._leaving = 0  # usable ones whose ejection is decided and not taken in yet
        self._quiet_from = 0.0

    # ---- what others ask

    @property
    def panic(self) -> bool:
        """Health or ejection is ignored, because too few backends are usable."""
        return self._ruling.panic

    @property
    def down(self) -> bool:
        """Nobody is usable, although there are backends that may be used."""
        return self._ruling.down

    @property
    def names(self) -> Set[str]:
        """The backends' names, in the order of the file. A live view."""
        return self._wanted.keys()

    @property
    def slots(self) -> Set[int]:
        """The slots of all backends. A live view."""
        return self._known.keys()

    @property
    def trials(self) -> Set[int]:
        """The slots whose backend waits for the one request that decides whether it returns. A live view."""
        return self._trials

    def trackers(self) -> dict[int, HealthTracker]:
        """The health of every backend that is checked. O(backends)."""
        return {slot: known.tracker for slot, known in self._known.items() if known.tracker is not None}

    def standings(self) -> tuple[Standing, ...]:
        """Every backend's standing. `trial` is not decided here: it is one worker's, never the pool's."""
        return tuple(known.standing for known in self._known.values() if known.standing is not None)

    def standing(self, slot: int) -> Standing:
        """One backend's standing. Raises KeyError for a slot that is not ours."""
        standing = self._known[slot].standing
        assert standing is not None  # `configure` gives each one
        return standing

    def take_changes(self) -> tuple[Standing, ...]:
        """The standings that differ from those last taken."""
        changes = tuple(self._changes.values())
        self._changes = {}
        return changes

    def awake(self, now: float) -> bool:
        """Time alone may change something here: `tick` is due. Otherwise it would do nothing."""
        return bool(self._watched) or not self._slow.idle or now < self._quiet_from

    def wanted(self, name: str) -> Wanted:
        """What the file and operators want of a backend; to be read only. Raises KeyError for a name there is not."""
        return self._wanted[name]

    def is_up(self, name: str) -> bool:
        """At one of its addresses at least the checks pass, or there are none, and it is not ejected.

        What operators want of it does not matter. Raises KeyError for a name there is not.
        """
        known = self._known
        return any(known[slot].up for slot in self._wanted[name].slots)

    def facts(self, name: str, in_flight: Callable[[int], int] | None = None) -> tuple[BackendFacts, ...]:
        """What is known of the backend `name`, one for each of its addresses.

        `in_flight(slot)` tells a drained backend from a draining one. Raises KeyError for a name there is not.
        """
        return tuple(self._known[slot].facts(in_flight) for slot in self._wanted[name].slots)

    # ---- the configuration

    def configure(
        self, pool: model.Pool, backends: Sequence[model.ResolvedBackend], now: float, *, starting: bool
    ) -> list[Happening]:
        """Take a configuration into use; `backends` are those of this pool. O(backends).

        A backend whose name and address stay keeps all that is known of it. What operators set stays while the
        file's entry for that backend is the same; a changed entry wins. `starting`: the process starts, and then
        nobody is in slow start.
        """
        self._threshold = pool.panic_threshold
        self._wanted = {entry.name: self._still_wanted(entry) for entry in pool.backends}
        new = self._take_in(backends, now, added=not starting)
        kept = self._known.keys() - {known.slot for known in new}
        self._slow.keep(kept)
        self._slow.reconfigure(pool.slow_start, now)
        self._configure_detector(pool.outlier_detection, kept)
        self._configure_checks(pool.health_check)
        for known in new:
            if known.added and known.tracker is None:
                self._slow.begin(known.slot, now)
                known.added = False
        self._recount(now)
        return self.tick(now)

    def _still_wanted(self, entry: model.Backend) -> Wanted:
        wanted = self._wanted.get(entry.name)
        if wanted is None or wanted.entry != entry:
            return Wanted(entry)
        wanted.slots.clear()
        return wanted

    def _take_in(self, backends: Sequence[model.ResolvedBackend], now: float, *, added: bool) -> list[KnownBackend]:
        """Make `backends` the known ones; returns those that were not."""
        before, self._known = self._known, {}
        new = []
        for backend in backends:
            wanted = self._wanted[backend.name]
            known = before.get(backend.slot)
            if known is None or known.name != backend.name or known.address != backend.address:
                known = KnownBackend(backend, wanted, now, added=added)
                new.append(known)
            known.wanted = wanted
            wanted.slots.append(backend.slot)
            self._known[backend.slot] = known
        return new

    def _configure_detector(self, settings: model.OutlierDetection | None, kept: Collection[int]) -> None:
        self._settings = settings
        if settings is None:
            self._detector = None
            return
        if self._detector is None:
            self._detector = OutlierDetector(settings, self._rng, self._is_last)
        else:
            self._detector.keep(kept)  # a slot that is another backend's now must not inherit what the last one did
            self._detector.reconfigure(settings)
        self._detector.keep(self._known)

    def _configure_checks(self, check: model.HealthCheck | None) -> None:
        for known in self._known.values():
            if check is None:
                known.tracker = None
            elif known.tracker is None:
                known.tracker = HealthTracker(check)
            else:
                known.tracker.reconfigure(check)

    def _recount(self, now: float) -> None:
        self._tally = Tally()
        self._changes = {slot: change for slot, change in self._changes.items() if slot in self._known}
        self._watched.clear()
        self._trials.clear()
        for known in self._known.values():
            known.use = Use.BARRED
            self._tally.add(Use.BARRED, backup=known.backup)
            self._judge(known, now)

    # ---- what happens

    def failed(self, slot: int, reason: str, succeeded: int, now: float) -> list[Happening]:
        """An attempt failed for `reason`, after `succeeded` that did not. A slot that is not ours is passed over."""
        if self._detector is None or slot not in self._known:
            return []
        self._stir(now)
        return self._decided(self._detector.failed(slot, reason, succeeded, now), now)

    def succeeded(self, slot: int, count: int, first_byte_sum: float, now: float) -> list[Happening]:
        """`count` attempts went well, with `first_byte_sum` seconds to their first bytes in all."""
        if self._detector is None or slot not in self._known:
            return []
        self._stir(now)
        return self._decided(self._detector.succeeded(slot, count, first_byte_sum, now), now)

    def checked(self, slot: int, passed: bool, evidence: str, now: float, *, own: bool = True) -> list[Happening]:
        """An active check ended. A slot that is not ours, or not checked any more, is passed over.

        What was not our own says nothing about an ejection: others may reach what our traffic does not.
        """
        known = self._known.get(slot)
        if known is None or known.tracker is None:
            return []
        before = known.tracker.state
        became = known.tracker.result(passed)
        happenings = []
        if became is Health.HEALTHY:
            if known.added or before is Health.UNHEALTHY:
                self._slow.begin(slot, now)
            known.added = False
            happenings.append(Happening(What.BECAME_HEALTHY, slot, evidence=evidence))
        elif became is Health.UNHEALTHY:
            happenings.append(Happening(What.BECAME_UNHEALTHY, slot, evidence=evidence))
        if happenings:
            known.evidence = evidence
            self._judge(known, now)
        if passed and own and self._detector is not None and known.tracker.state is Health.HEALTHY:
            happenings += self._apply(self._detector.checked_healthy(slot, now), now)
        return happenings + self._settle()

    def set_weight(self, name: str, weight: int, now: float) -> list[Happening]:
        """An operator sets the live weight. Raises KeyError for a name there is not."""
        self._wanted[name].weight = weight
        return self._wished(name, now)

    def set_drained(self, name: str, drained: bool, now: float) -> list[Happening]:
        """An operator begins or ends a drain. Raises KeyError for a name there is not."""
        self._wanted[name].drained = drained
        return self._wished(name, now)

    def tick(self, now: float) -> list[Happening]:
        """Time has passed."""
        happenings = []
        if self._detector is not None:
            happenings = self._apply(self._detector.tick(now), now)
        for slot in self._slow.due(now, SLOW_STARTS_PER_TICK):
            self._touched[slot] = self._known[slot]
        return happenings + self._settle()

    # ---- deciding

    def _stir(self, now: float) -> None:
        if self._settings is not None:
            self._quiet_from = max(self._quiet_from, now + _QUIET_WINDOWS * self._settings.window + _MARGIN)

    def _wished(self, name: str, now: float) -> list[Happening]:
        for slot in self._wanted[name].slots:
            self._judge(self._known[slot], now)
        return self._settle()

    def _decided(self, decisions: Sequence[Decision], now: float) -> list[Happening]:
        return self._apply(decisions, now) + self._settle() if decisions else []

    def _apply(self, decisions: Iterable[Decision], now: float) -> list[Happening]:
        """Take what the detector decided."""
        self._leaving = 0
        happenings = []
        for decision in decisions:
            known = self._known.get(decision.slot)
            if known is None:
                continue
            if decision.verdict is Verdict.RETURNED:
                self._slow.begin(decision.slot, now)
            known.evidence = decision.evidence
            self._quiet_from = max(self._quiet_from, now + decision.seconds + _MARGIN)  # an observed one ends, too
            what = What(decision.verdict.value)
            happenings.append(Happening(what, decision.slot, decision.cause, decision.evidence, decision.seconds))
            self._judge(known, now)
        return happenings

    def _is_last(self, slot: int) -> bool:
        """Nobody but this one can serve. Else it is taken to be ejected now."""
        if self._known[slot].use is not Use.USABLE:
            return False
        if self._tally.usable - self._leaving <= 1:
            return True
        self._leaving += 1
        return False

    def _judge(self, known: KnownBackend, now: float) -> None:
        """Something about one backend changed: what it is good for, and what operators are told."""
        slot, wanted, health, detector = known.slot, known.wanted, known.health, self._detector
        ejected = detector is not None and detector.is_ejected(slot)
        half_open = ejected and detector is not None and detector.is_half_open(slot)
        known.up = not ejected and (health is None or health is Health.HEALTHY)
        if health is None or health is Health.HEALTHY:
            known.proven = True
        use = use_of(
            weight=wanted.weight,
            drained=wanted.drained,
            health=health,
            ejected=ejected,
            proven=known.proven,
            added=known.added,
        )
        if use is not known.use:
            self._tally.remove(known.use, backup=known.backup)
            self._tally.add(use, backup=known.backup)
            known.use = use
        known.enter(ejected=ejected, half_open=half_open, now=now)
        self._watched.discard(slot)
        self._trials.discard(slot)
        if ejected or (detector is not None and detector.share(slot) < 1.0):
            self._watched.add(slot)
            if half_open and use is Use.EJECTED:
                self._trials.add(slot)
        self._touched[slot] = known

    def _settle(self) -> list[Happening]:
        """Rule anew, and find out whose standing that changes."""
        if not self._touched and self._known:
            return []
        before, ruling = self._ruling, rule(self._tally, self._threshold)
        self._ruling = ruling
        affected = self._touched if ruling == before else self._known
        for slot, known in affected.items():
            share = self._slow.share(slot) * (1.0 if self._detector is None else self._detector.share(slot))
            eligible = ruling.admits(known.use, backup=known.backup)
            doubtful = eligible and known.use is not Use.USABLE
            standing = Standing(slot, eligible, known.wanted.weight, share, doubtful=doubtful)
            if standing != known.standing:
                known.standing = self._changes[slot] = standing
        self._touched = {}
        happenings = []
        if ruling.down != before.down:
            what = What.WENT_DOWN if ruling.down else What.CAME_BACK
            happenings.append(Happening(what, evidence=_counts(self._tally)))
        if ruling.panic != before.panic:
            what = What.PANIC_BEGAN if ruling.panic else What.PANIC_ENDED
            happenings.append(Happening(what, evidence=_counts(self._tally)))
        return happenings


def _counts(tally: Tally) -> str:
    """The tally in words: "1 of 3 usable, 1 unhealthy, 1 ejected; of the backups 0 of 1 usable, 1 unhealthy"."""
    primaries = _counted(tally.primaries)
    return f"{primaries}; of the backups {_counted(tally.backups)}" if any(tally.backups) else primaries


def _counted(counts: Sequence[int]) -> str:
    others = [
        f", {counts[use]} {use.name.lower().replace('_', ' ')}"
        for use in (Use.UNHEALTHY, Use.NEVER_HEALTHY, Use.EJECTED, Use.CHECKING, Use.NEW)
        if counts[use]
    ]
    return f"{counts[Use.USABLE]} of {sum(counts) - counts[Use.BARRED]} usable{''.join(others)}"
