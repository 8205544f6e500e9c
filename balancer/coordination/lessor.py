"""When leases are over: the leader's decision, by its own clock. All times in seconds of one monotonic clock.

The rules (etcd's lessor): only a leader decides, and its decision is a command in the log, void if it leads no more
(`Command.decided_term`). A new leader gives every lease its whole TTL again, and one election timeout: it does not
know when they were renewed last. So a lease may live longer than its TTL, never shorter. A lease that is being revoked
is not renewed: who asks has to wait for what the log decides.
"""

import enum
import heapq
from collections.abc import Iterable

DUE_MAX = 500
"""Leases that one call of `due` names: with two calls a second, etcd's 1,000 revocations per second."""

SPREAD = 750
"""Leases per second that a new leader lets come due: fewer than can be revoked, so that others are not held up."""

REVOKE_AGAIN = 3.0
"""Seconds after which a lease that is still there is named again: its command may have been lost."""


class Renewal(enum.Enum):
    """What came of asking for more time."""

    RENEWED = enum.auto()
    UNKNOWN = enum.auto()  # there is no such lease
    REVOKING = enum.auto()  # it is over: wait until the log has revoked it, then it is UNKNOWN
    NOT_LEADER = enum.auto()  # ask the leader


class _Lease:
    """`look_at`: its one time in the heap; its deadline or, if it was renewed since, earlier."""

    __slots__ = ("look_at", "over_at", "revoking", "ttl")

    def __init__(self, ttl: int, over_at: float) -> None:
        self.ttl = ttl
        self.over_at = self.look_at = over_at
        self.revoking = False  # from the first time that it was named until it is gone; never back


class Lessor:
    """Knows the deadline of every lease while this member leads, and nothing else of them."""

    def __init__(self) -> None:
        self._leases: dict[int, _Lease] | None = None  # None: this member does not lead
        self._heap: list[tuple[float, int]] = []  # (look_at, id), and what is left of leases that are gone

    @property
    def leads(self) -> bool:
        """Whether deadlines run here."""
        return self._leases is not None

    def promote(self, leases: Iterable[tuple[int, int]], now: float, extend: float) -> None:
        """This member leads. `leases`: (id, TTL) of each in the state; `extend`: an election timeout.

        Entries of earlier terms that are applied later come by `granted` and `revoked` like all others. O(n log n).
        """
        deadlines = sorted((now + ttl + extend, lease, ttl) for lease, ttl in leases)
        self._leases = {}
        earliest = 0.0
        for deadline, lease, ttl in deadlines:
            # Never more than SPREAD of them in a second: each at least so much after the one before it.
            earliest = max(deadline, earliest + 1 / SPREAD) if len(deadlines) > SPREAD else deadline
            self._leases[lease] = _Lease(ttl, earliest)
        self._heap = [(entry.over_at, lease) for lease, entry in self._leases.items()]
        heapq.heapify(self._heap)

    def demote(self) -> None:
        """This member leads no more: no lease is ever over here."""
        self._leases = None
        self._heap = []

    def granted(self, lease: int, ttl: int, now: float) -> None:
        """A grant was applied."""
        if self._leases is not None:
            self._leases[lease] = _Lease(ttl, now + ttl)
            heapq.heappush(self._heap, (now + ttl, lease))

    def revoked(self, lease: int) -> None:
        """A revocation was applied."""
        if self._leases is not None:
            self._leases.pop(lease, None)

    def renew(self, lease: int, now: float) -> Renewal:
        """Give a lease its whole TTL again. Call it only after a majority confirmed that this member still leads, and
        with the state of then applied: an older leader may have been replaced, and the lease revoked by the new one.
        """
        if self._leases is None:
            return Renewal.NOT_LEADER
        entry = self._leases.get(lease)
        if entry is None:
            return Renewal.UNKNOWN
        if entry.revoking or entry.over_at <= now:
            return Renewal.REVOKING
        entry.over_at = max(entry.over_at, now + entry.ttl)
        return Renewal.RENEWED

    def remaining(self, lease: int, now: float) -> int | None:
        """Whole seconds left, at least 0; None = no such lease, or not the leader."""
        entry = None if self._leases is None else self._leases.get(lease)
        return None if entry is None else max(int(entry.over_at - now), 0)

    def due(self, now: float, limit: int = DUE_MAX) -> list[int]:
        """Leases that are over: propose to revoke each, with this term as `decided_term`. At most `limit`.

        One that is not gone after REVOKE_AGAIN is named again. O(k log n) for k leases looked at.
        """
        found: list[int] = []
        leases = self._leases
        while leases is not None and self._heap and self._heap[0][0] <= now and len(found) < limit:
            looked_at, lease = self._heap[0]
            entry = leases.get(lease)
            if entry is None or entry.look_at != looked_at:
                heapq.heappop(self._heap)
                continue
            if entry.over_at > looked_at and not entry.revoking:
                entry.look_at = entry.over_at
            else:
                entry.revoking = True
                entry.look_at = now + REVOKE_AGAIN
                found.append(lease)
            heapq.heapreplace(self._heap, (entry.look_at, lease))
        return found

    def next_due(self) -> float | None:
        """When to call `due` at the latest; None = no lease. It may be early: a renewal does not move it."""
        return self._heap[0][0] if self._heap else None
