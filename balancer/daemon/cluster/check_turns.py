"""Which backends of a pool this node probes by itself, and which rest because their owner is heard of. Pure.

Laws: a backend rests only while somebody else owns it and a new result of that owner was heard within `patience`; so
whatever happens to the others, none goes unchecked for longer than that and one interval. And nobody goes back and
forth: where an owner was silent for so long, it has to be heard twice within `patience` before it is relied on again.
"""

from math import inf

from balancer.config.model import HealthCheck

INTERVALS = 3
"""Intervals without news after which a node goes by its own checks."""


def patience_of(check: HealthCheck) -> float:
    """Seconds without a new result of a backend that are borne.

    A backend that hangs has its next result one timeout later than the others, and that alone is no silence.
    """
    return INTERVALS * check.interval + check.timeout


class Turns:
    """The backends of one pool by slot. A slot that nobody spoke of is probed by this node."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._owners: dict[int, str] = {}  # only others: what is ours or nobody's is probed here
        self._resting: dict[int, float] = {}  # when it was heard of, the longest silence first
        self._late: dict[int, float] = {}  # those whose owner was silent, and when it was heard again

    @property
    def resting(self) -> int:
        """How many rest."""
        return len(self._resting)

    @property
    def late(self) -> int:
        """How many are probed here because their owner was silent."""
        return len(self._late)

    def rests(self, slot: int) -> bool:
        """Whether it is left to its owner now."""
        return slot in self._resting

    def slots(self) -> list[int]:
        """All that rest."""
        return list(self._resting)

    def owner(self, slot: int) -> str | None:
        """The other node that owns it; None = ours, or nobody's."""
        return self._owners.get(slot)

    def give(self, slot: int, owner: str | None) -> bool:
        """Another node owns it from now on, or None. Returns whether it is to be probed here from now on."""
        if self._owners.get(slot) == owner:
            return False
        self._late.pop(slot, None)
        if owner is not None:
            self._owners[slot] = owner  # and it goes on as before until that one is heard, or was silent for too long
            return False
        del self._owners[slot]
        return self._resting.pop(slot, None) is not None

    def heard(self, slot: int, now: float) -> bool:
        """Its owner has a new result. Returns whether it is not to be probed here any more."""
        if slot not in self._owners:
            return False
        if self._resting.pop(slot, None) is not None:
            self._resting[slot] = now
            return False
        before = self._late.get(slot)
        if before is not None and now - before >= self.patience:
            self._late[slot] = now
            return False
        self._late.pop(slot, None)
        self._resting[slot] = now
        return True

    def overdue(self, now: float) -> list[int]:
        """Those that rested and whose owner was silent for too long: to be probed here from now on. O(those)."""
        found = []
        for slot, heard in self._resting.items():
            if now - heard < self.patience:
                break
            found.append(slot)
        for slot in found:
            del self._resting[slot]
            self._late[slot] = -inf
        return found

    def forget(self, slot: int) -> None:
        """It is no backend of this pool any more."""
        for known in (self._owners, self._resting, self._late):
            known.pop(slot, None)
