"""What is known of one backend of a pool: what operators want of it, what its checks say, and what it is doing."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from balancer.config import model
from balancer.resilience.eligibility import Use
from balancer.resilience.health import Health, HealthTracker
from balancer.resilience.standing import Standing

Address = tuple[str, int, str]  # as in ResolvedBackend


class What(StrEnum):
    """What happened; the detector's verdicts have the same values here."""

    BECAME_HEALTHY = "became_healthy"
    BECAME_UNHEALTHY = "became_unhealthy"
    EJECTED = "ejected"
    OBSERVED = "observed"  # would have been ejected, but `mode` is observe
    SPARED = "spared"  # would have been ejected, but `max_ejected` are
    HALF_OPEN = "half_open"
    RETURNED = "returned"
    SLOWED = "slowed"
    SPED_UP = "sped_up"
    PANIC_BEGAN = "panic_began"
    PANIC_ENDED = "panic_ended"
    WENT_DOWN = "went_down"
    CAME_BACK = "came_back"


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened. `slot` None = to the whole pool. `seconds` is how long an ejection lasts."""

    what: What
    slot: int | None = None
    cause: str = ""
    evidence: str = ""
    seconds: float = 0.0


class State(StrEnum):
    """What one backend is doing, as operators are told."""

    UP = "up"
    CHECKING = "checking"
    UNHEALTHY = "unhealthy"
    EJECTED = "ejected"
    HALF_OPEN = "half_open"
    DRAINING = "draining"
    DRAINED = "drained"  # draining, and nothing is in flight any more
    DISABLED = "disabled"  # weight 0


@dataclass(frozen=True, slots=True)
class BackendFacts:
    """What is known of one address of a backend. `since` is when `state` began, on the clock of `now`."""

    slot: int
    address: Address
    state: State
    eligible: bool
    weight: int
    file_weight: int
    share: float
    since: float
    evidence: str  # of what last happened to it; "" = nothing has


class Wanted:
    """What the file and operators want of one backend, and the slots of its addresses: a name may have several."""

    __slots__ = ("drained", "entry", "slots", "weight")

    def __init__(self, entry: model.Backend) -> None:
        self.entry = entry
        self.weight = entry.weight
        self.drained = False
        self.slots: list[int] = []

    @property
    def in_use(self) -> int:
        """The weight that counts: 0 while it is drained."""
        return 0 if self.drained else self.weight


class KnownBackend:
    """One address of a backend, and what is known of it. `added`: while the process ran, and not in use yet."""

    __slots__ = (
        "added",
        "address",
        "evidence",
        "name",
        "proven",
        "since",
        "slot",
        "standing",
        "state",
        "tracker",
        "up",
        "use",
        "wanted",
    )

    def __init__(self, backend: model.ResolvedBackend, wanted: Wanted, now: float, *, added: bool) -> None:
        self.name = backend.name
        self.address = backend.address
        self.slot = backend.slot
        self.wanted = wanted
        self.added = added
        self.tracker: HealthTracker | None = None
        self.proven = False  # it was found healthy once, or nobody checks it
        self.up = False  # its checks pass, or there are none, and it is not ejected
        self.use = Use.BARRED
        self.state = State.DISABLED
        self.since = now
        self.evidence = ""
        self.standing: Standing | None = None  # as last decided

    @property
    def backup(self) -> bool:
        """It serves only when no primary can."""
        return self.wanted.entry.backup

    @property
    def health(self) -> Health | None:
        """What its checks say; None = there are none."""
        return None if self.tracker is None else self.tracker.state

    def enter(self, *, ejected: bool, half_open: bool, now: float) -> None:
        """Find out again which state it is in; `since` moves only when that is another."""
        if self.wanted.drained:
            state = State.DRAINING
        elif self.wanted.weight <= 0:
            state = State.DISABLED
        elif self.health is Health.UNHEALTHY:
            state = State.UNHEALTHY
        elif ejected:
            state = State.HALF_OPEN if half_open else State.EJECTED
        else:
            state = State.CHECKING if self.health is Health.CHECKING else State.UP
        if state is not self.state:
            self.state = state
            self.since = now

    def facts(self, in_flight: Callable[[int], int] | None) -> BackendFacts:
        """For operators. `in_flight(slot)` tells a drained backend from one that is draining."""
        drained = self.state is State.DRAINING and in_flight is not None and in_flight(self.slot) == 0
        return BackendFacts(
            slot=self.slot,
            address=self.address,
            state=State.DRAINED if drained else self.state,
            eligible=self.standing is not None and self.standing.eligible,
            weight=self.wanted.weight,
            file_weight=self.wanted.entry.weight,
            share=1.0 if self.standing is None else self.standing.share,
            since=self.since,
            evidence=self.evidence,
        )
