"""Who of a pool may be picked: what each backend is by itself, and what the pool makes of all of them.

Two steps, so that a change of one backend costs O(1) and not O(backends): `use_of` judges one backend, a `Tally`
counts the judgements, and `rule` decides from the counts alone. A backend is eligible when the ruling admits it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from balancer.resilience.health import Health


class Use(IntEnum):
    """What a backend is good for; the number is its place in a tally."""

    BARRED = 0  # weight 0 or drained: an operator's wish, which panic does not override
    UNHEALTHY = 1  # by active checks, ejected or not
    EJECTED = 2
    CHECKING = 3  # nothing is known yet, and it was there at the start: as good as any
    USABLE = 4
    NEVER_HEALTHY = 5  # unhealthy, and not once found healthy since it was added: it has yet to come up
    NEW = 6  # nothing is known yet, and it was added to a pool that serves


def use_of(
    *, weight: int, drained: bool, health: Health | None, ejected: bool, proven: bool = True, added: bool = False
) -> Use:
    """Judge one backend. `health` None = the pool has no checks; `weight` is the live one.

    `proven`: it was healthy once, or in use without checks. `added`: since the process began.
    """
    if drained or weight <= 0:
        return Use.BARRED
    if health is Health.UNHEALTHY:
        return Use.UNHEALTHY if proven else Use.NEVER_HEALTHY
    if ejected:
        return Use.EJECTED
    if health is Health.CHECKING:
        return Use.NEW if added else Use.CHECKING
    return Use.USABLE


class Tally:
    """How many primaries and how many backups are of each use."""

    __slots__ = ("backups", "primaries")

    def __init__(self) -> None:
        self.primaries = [0] * len(Use)
        self.backups = [0] * len(Use)

    @property
    def usable(self) -> int:
        """Primaries and backups that are usable."""
        return self.primaries[Use.USABLE] + self.backups[Use.USABLE]

    def add(self, use: Use, *, backup: bool) -> None:
        """One more backend is of `use`."""
        (self.backups if backup else self.primaries)[use] += 1

    def remove(self, use: Use, *, backup: bool) -> None:
        """One that was of `use` is so no longer."""
        (self.backups if backup else self.primaries)[use] -= 1


class Tier(StrEnum):
    """Which backends of a pool serve."""

    PRIMARY = "primary"
    BACKUP = "backup"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Ruling:
    """Who is eligible: the backends of `tier` whose use is among `uses`.

    `panic`: health or ejection is ignored, because too few would be left. `down`: there are backends that may be
    used, but none that can be; a pool without a backend of any weight is empty, not down.
    """

    tier: Tier
    uses: frozenset[Use] = frozenset()
    panic: bool = False
    down: bool = False

    def admits(self, use: Use, *, backup: bool) -> bool:
        """A backend of this use is eligible."""
        return use in self.uses and self.tier is (Tier.BACKUP if backup else Tier.PRIMARY)


_USABLE = frozenset({Use.USABLE})
_CHECKING = frozenset({Use.CHECKING})
_EJECTED = frozenset({Use.EJECTED})
_NOT_KNOWN_BAD = frozenset({Use.USABLE, Use.CHECKING})
_NEW = frozenset({Use.NEW})
_EXPECTED = frozenset({Use.USABLE, Use.CHECKING, Use.UNHEALTHY, Use.EJECTED})

EMPTY = Ruling(Tier.NONE)
DOWN = Ruling(Tier.NONE, down=True)


def rule(tally: Tally, panic_threshold: float) -> Ruling:
    """Decide from the counts. `panic_threshold` is a share of the primaries; 0 = never panic.

    At the start, backends that are still checked serve beside the usable ones, so that the first that is found to be
    healthy does not get the traffic of all. Those that are added later, and those that were never healthy, are no loss
    that a panic would have to make good for: a pool that gets ten backends which are not up yet has all it had.
    """
    primaries, backups = tally.primaries, tally.backups
    usable, checking = primaries[Use.USABLE], primaries[Use.CHECKING]
    if usable or checking:
        enough = panic_threshold * sum(primaries[use] for use in _EXPECTED)
        if (usable or checking) >= enough:
            return Ruling(Tier.PRIMARY, _USABLE if usable else _CHECKING)
        if usable + checking >= enough:
            return Ruling(Tier.PRIMARY, _NOT_KNOWN_BAD)
        if usable or not backups[Use.USABLE]:
            return Ruling(Tier.PRIMARY, _EXPECTED, panic=True)
    if backups[Use.USABLE]:
        return Ruling(Tier.BACKUP, _USABLE)
    for use in (_CHECKING, _NEW):
        for tier, counts in ((Tier.PRIMARY, primaries), (Tier.BACKUP, backups)):
            if any(counts[each] for each in use):
                return Ruling(tier, use)
    return _last_resort(tally, panic_threshold)


def _last_resort(tally: Tally, panic_threshold: float) -> Ruling:
    """Nobody is usable. Who is only ejected may still answer; who fails its checks will not."""
    if panic_threshold > 0:
        if tally.primaries[Use.EJECTED]:
            return Ruling(Tier.PRIMARY, _EJECTED, panic=True)
        if tally.backups[Use.EJECTED]:
            return Ruling(Tier.BACKUP, _EJECTED, panic=True)
    return DOWN if _in_use(tally.primaries) + _in_use(tally.backups) else EMPTY


def _in_use(counts: Sequence[int]) -> int:
    """Backends with a weight that are not drained."""
    return sum(counts) - counts[Use.BARRED]
