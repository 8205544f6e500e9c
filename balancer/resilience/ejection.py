"""Ejection, the circuit breaker of each backend of a pool: how many, for how long, and the way back.

CLOSED (in use) -> OPEN (ejected, for a time) -> HALF_OPEN (one real request or an active check decides) -> CLOSED, or
OPEN again for longer. A backend in OBSERVED is in use: in mode `observe` it stands for OPEN, and ends in CLOSED.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, floor, inf
from typing import TYPE_CHECKING

from balancer.config.model import OutlierDetection

if TYPE_CHECKING:
    from random import Random

JITTER = 0.1  # of the ejection time, either way: backends that fell together do not come back together


class Verdict(StrEnum):
    """What became of a backend."""

    EJECTED = "ejected"
    OBSERVED = "observed"  # mode observe: it would have been ejected, or its share lowered
    SPARED = "spared"  # it would have been ejected, but max_ejected forbids it
    HALF_OPEN = "half_open"  # its time is over: one real request or an active check decides
    RETURNED = "returned"
    SLOWED = "slowed"  # its share was lowered
    SPED_UP = "sped_up"  # its share was raised


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, why (`cause` is one word for a metric, `evidence` a text for the log), and the ejection's seconds."""

    slot: int
    verdict: Verdict
    cause: str
    evidence: str
    seconds: float = 0.0


class Circuit(StrEnum):
    """The state of a backend's circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    OBSERVED = "observed"


class _Breaker:
    __slots__ = ("circuit", "healthy_since", "quiet_until", "spared", "times", "until")

    def __init__(self) -> None:
        self.circuit = Circuit.CLOSED
        self.until = 0.0  # end of the ejection
        self.times = 0  # ejections that are not forgiven; as of `healthy_since`
        self.healthy_since = 0.0
        self.spared = 0  # as `times`, for the pauses between two SPARED
        self.quiet_until = -inf


class Ejections:
    """The circuit breakers of one pool.

    The n-th ejection lasts n * base_ejection, at most max_ejection, +-10 %; n falls by one for each base_ejection
    outside of ejection. At most max_ejected of the pool are out, counted with the one to be ejected; one always may
    be where there are two or more, and the last one never. `last(slot)` tells that nobody else could serve, though
    there are others; it is asked just before an ejection.
    """

    __slots__ = ("_breakers", "_due", "_last", "_out", "_rng", "_settings", "_settled")

    def __init__(
        self, settings: OutlierDetection, rng: "Random", last: Callable[[int], bool] = lambda _: False
    ) -> None:
        self._settings = settings
        self._rng = rng
        self._last = last
        self._breakers: dict[int, _Breaker] = {}
        self._out: dict[int, _Breaker] = {}  # those that are not CLOSED
        self._due = inf  # when the next of them is over
        self._settled = True  # no: the pool or the settings changed, and `tick` has to look at everyone

    def keep(self, slots: Iterable[int]) -> list[int]:
        """The pool's backends from now on. Known ones keep their state. Returns those forgotten. O(backends)."""
        old = self._breakers
        self._breakers = {slot: old.get(slot) or _Breaker() for slot in slots}
        gone = [slot for slot in old if slot not in self._breakers]
        for slot in gone:
            self._out.pop(slot, None)
        self._settled = False
        return gone

    def reconfigure(self, settings: OutlierDetection) -> None:
        """Other settings from now on. What no longer fits them is mended by the next `tick`."""
        if settings.mode != self._settings.mode:
            for slot in [slot for slot, breaker in self._out.items() if breaker.circuit is Circuit.OBSERVED]:
                self._out.pop(slot).circuit = Circuit.CLOSED
        self._settings = settings
        self._settled = False

    def circuit(self, slot: int) -> Circuit | None:
        """The state of a backend; None for one that the pool does not have."""
        breaker = self._breakers.get(slot)
        return None if breaker is None else breaker.circuit

    def propose(self, slot: int, cause: str, evidence: str, now: float) -> Decision | None:
        """A backend in use was found to be bad. None: that it is spared has been said a short while ago."""
        breaker = self._breakers[slot]
        if len(self._out) >= self._allowed():
            count = len(self._breakers)
            why = f"{len(self._out)} of {count} are out and no more may be" if count > 1 else "the pool has no other"
            return self._spare(slot, cause, f"{evidence}; {why}", now)
        if self._settings.mode != "observe" and self._last(slot):
            return self._spare(slot, cause, f"{evidence}; no other can serve", now)
        forgiven = floor((now - breaker.healthy_since) / self._settings.base_ejection)
        breaker.times = max(0, breaker.times - max(0, forgiven))
        if self._settings.mode == "observe":
            return self._open(slot, Circuit.OBSERVED, cause, evidence, now)
        return self._open(slot, Circuit.OPEN, cause, evidence, now)

    def trial_failed(self, slot: int, reason: str, now: float) -> Decision:
        """The request that was to decide failed: ejected again, for longer."""
        return self._open(slot, Circuit.OPEN, "trial", f"the trial request failed: {reason}", now)

    def give_back(self, slot: int, cause: str, evidence: str, now: float) -> Decision:
        """Into use again. What it did before is forgiven step by step, from now on."""
        breaker = self._out.pop(slot)
        breaker.circuit = Circuit.CLOSED
        breaker.healthy_since = now
        return Decision(slot, Verdict.RETURNED, cause, evidence)

    def tick(self, now: float) -> list[Decision]:
        """Ejections that are over, and those that no longer fit the pool. O(1) when there is nothing to do."""
        decisions = []
        if not self._settled:
            self._settled = True
            decisions += self._settle(now)
        elif now < self._due:
            return decisions
        for slot, breaker in list(self._out.items()):
            if breaker.circuit is Circuit.HALF_OPEN or breaker.until > now:
                continue
            if breaker.circuit is Circuit.OBSERVED:
                del self._out[slot]
                breaker.circuit = Circuit.CLOSED
                breaker.healthy_since = breaker.until
                continue
            breaker.circuit = Circuit.HALF_OPEN
            decisions.append(Decision(slot, Verdict.HALF_OPEN, "time", "its ejection is over: on trial"))
        ends = (breaker.until for breaker in self._out.values() if breaker.circuit is not Circuit.HALF_OPEN)
        self._due = min(ends, default=inf)
        return decisions

    def _allowed(self) -> int:
        count = len(self._breakers)
        share = floor(count * self._settings.max_ejected + 1e-9)  # 0.29 * 100 is a little below 29
        return min(count - 1, max(1, share))

    def _open(self, slot: int, circuit: Circuit, cause: str, evidence: str, now: float) -> Decision:
        settings, breaker = self._settings, self._breakers[slot]
        longest = ceil(settings.max_ejection / settings.base_ejection)  # beyond it only the forgiving would take longer
        breaker.times = min(breaker.times + 1, longest)
        seconds = min(settings.base_ejection * breaker.times, settings.max_ejection)
        seconds *= 1.0 + JITTER * (2.0 * self._rng.random() - 1.0)
        breaker.circuit = circuit
        breaker.until = now + seconds
        breaker.spared, breaker.quiet_until = 0, -inf
        self._out[slot] = breaker
        self._due = min(self._due, breaker.until)
        verdict = Verdict.OBSERVED if circuit is Circuit.OBSERVED else Verdict.EJECTED
        return Decision(slot, verdict, cause, evidence, seconds)

    def _spare(self, slot: int, cause: str, evidence: str, now: float) -> Decision | None:
        """Say so at most once per time that the ejection would have taken."""
        settings, breaker = self._settings, self._breakers[slot]
        if now < breaker.quiet_until:
            return None
        if now >= breaker.quiet_until + settings.base_ejection:
            breaker.spared = 0
        breaker.spared += 1
        breaker.quiet_until = now + min(settings.base_ejection * breaker.spared, settings.max_ejection)
        return Decision(slot, Verdict.SPARED, cause, evidence)

    def _settle(self, now: float) -> list[Decision]:
        """Fewer backends, a lower max_ejected, a shorter max_ejection or mode observe: adapt those that are out."""
        latest = now + self._settings.max_ejection * (1.0 + JITTER)
        for breaker in self._out.values():
            breaker.until = min(breaker.until, latest)
        if self._settings.mode == "observe":
            ejected = [slot for slot, breaker in self._out.items() if breaker.circuit is not Circuit.OBSERVED]
            return [self.give_back(slot, "settings", "the mode is observe now", now) for slot in ejected]
        surplus = len(self._out) - self._allowed()
        if surplus <= 0:
            return []
        nearest = sorted(self._out, key=lambda slot: self._out[slot].until)[:surplus]
        evidence = f"{len(self._out)} of {len(self._breakers)} are out, more than may be"
        return [self.give_back(slot, "max_ejected", evidence, now) for slot in nearest]
