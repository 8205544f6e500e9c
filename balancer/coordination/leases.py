"""Leases as the log knows them: which there are, their TTL, and the keys that go with them.

When one is over is not decided here: see `lessor`. Nothing here knows the time.
"""

from collections.abc import Iterator

from balancer.coordination import digests
from balancer.coordination.refusals import LEASE_EXISTS, LEASE_NOT_FOUND, LEASE_TTL_TOO_LARGE
from balancer.coordination.requests import LeaseGrantRequest

TTL_MAX = 9_000_000_000
"""Seconds; etcd's bound (lessor.go MaxLeaseTTL)."""

ID_MAX = 2**63 - 1

LEASE_COST = 256
"""Bytes that a lease counts for in the store's size."""


def to_propose(request: LeaseGrantRequest, *, least_ttl: int, chosen_id: int) -> LeaseGrantRequest:
    """The request as it may enter the log: with an id, and with the TTL that the lease will have.

    Both are settled before the log, because what a member is configured with must not decide when it applies.
    `least_ttl` in seconds: one must survive an election.
    """
    return LeaseGrantRequest(TTL=max(request.TTL, least_ttl, 1), ID=request.ID or chosen_id)


class _Lease:
    __slots__ = ("keys", "ttl")

    def __init__(self, ttl: int) -> None:
        self.ttl = ttl
        self.keys: set[bytes] = set()


class Leases:
    """Every lease, in the order of the grants. A key hangs on at most one, that of its newest version."""

    def __init__(self) -> None:
        self.digest = 0
        self._leases: dict[int, _Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease: int) -> bool:
        return lease in self._leases

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(id, TTL in seconds) of each."""
        return ((number, lease.ttl) for number, lease in self._leases.items())

    @property
    def size(self) -> int:
        """Bytes that all leases count for."""
        return len(self._leases) * LEASE_COST

    def ttl(self, lease: int) -> int | None:
        """The TTL that it was granted, in seconds; None = there is no such lease."""
        found = self._leases.get(lease)
        return None if found is None else found.ttl

    def keys(self, lease: int) -> list[bytes]:
        """What hangs on it, in ascending order. O(n log n)."""
        found = self._leases.get(lease)
        return [] if found is None else sorted(found.keys)

    def check_grant(self, lease: int, ttl: int) -> None:
        """Raises CoordinationError."""
        if not -ID_MAX <= lease <= ID_MAX or lease == 0:
            raise LEASE_NOT_FOUND.error()
        if ttl > TTL_MAX:
            raise LEASE_TTL_TOO_LARGE.error()
        if lease in self._leases:
            raise LEASE_EXISTS.error()

    def grant(self, lease: int, ttl: int) -> int:
        """Add a lease that was checked; answers its TTL."""
        ttl = max(ttl, 1)
        self._leases[lease] = _Lease(ttl)
        self.digest = (self.digest + digests.of_lease(lease, ttl)) % digests.MODULUS
        return ttl

    def remove(self, lease: int) -> None:
        """Forget a lease; its keys were deleted before."""
        found = self._leases.pop(lease)
        self.digest = (self.digest - digests.of_lease(lease, found.ttl)) % digests.MODULUS

    def attach(self, lease: int, key: bytes) -> None:
        """`key` goes with `lease` from now on. While a snapshot is restored, older versions may name leases long gone:
        nothing to do; as for puts, that the lease exists was checked.
        """
        found = self._leases.get(lease)
        if found is not None:
            found.keys.add(key)

    def detach(self, lease: int, key: bytes) -> None:
        """`key` no longer goes with `lease`."""
        found = self._leases.get(lease)
        if found is not None:
            found.keys.discard(key)
