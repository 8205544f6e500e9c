"""Who holds which lock, by true time, and until when his lease must last.

A holder may be wrong about himself only after his lease ran out: by true time, and by the slowest and fastest clocks
that there are, it lasts at least its TTL divided by their rate, from when the last successful renewal was asked for.
"""

from dataclasses import dataclass

from balancer.coordination.key_space import KeySpace
from balancer.coordination.locks import Claim
from balancer.coordination.watch_index import prefix_end
from tests.simulation.cluster.dials import MAX_RATE
from tests.simulation.cluster.history import Truth
from tests.simulation.cluster.laws import BrokenLawError, Laws


def guarded_key(name: bytes) -> bytes:
    """Written only by who holds the lock; the value is his token."""
    return b"under " + name


@dataclass(slots=True)
class _Holder:
    lease: int
    token: int
    since: float
    released: bool = False


class LockLaws:
    """One holder at a time; tokens rise from holder to holder; no write under an old token after one under a new."""

    def __init__(self, laws: Laws) -> None:
        self._laws = laws
        self._holders: dict[bytes, _Holder] = {}
        self._highest: dict[bytes, int] = {}

    def renewed(self, lease: int, ttl: int, called: float) -> None:
        """A grant or a renewal that was asked for then has succeeded."""
        laws = self._laws
        if called > laws.revoked.get(lease, called):
            raise BrokenLawError(f"lease {lease} was gone at {laws.revoked[lease]}, and renewed after {called}")
        laws.lease_ends[lease] = max(laws.lease_ends.get(lease, 0.0), called + ttl / MAX_RATE)

    def given(self, space: KeySpace, claim: Claim) -> None:
        """A member gives the lock to who waited for it, in this state."""
        keys, _ = space.select(claim.prefix, prefix_end(claim.prefix))
        first = min(keys, key=lambda kv: kv.create_revision, default=None)
        if first is None or (first.key, first.create_revision) != (claim.key, claim.revision):
            raise BrokenLawError(f"{claim} is given the lock, which is that of {first}")

    def _lasts(self, holder: _Holder) -> bool:
        """Its lease was not given up, and cannot have run out."""
        return self._laws.lease_ends[holder.lease] > self._laws.now()

    def held(self, name: bytes, lease: int, token: int) -> None:
        """Somebody hears that the lock is his."""
        now = self._laws.now()
        holder = _Holder(lease, token, now)
        other = self._holders.get(name)
        if other is not None and not other.released and self._lasts(other) and self._lasts(holder):
            raise BrokenLawError(f"at {now:.3f} lock {name!r} is held with token {other.token} and {token}")
        if not self._lasts(holder):
            return  # he heard it too late
        if token <= self._highest.get(name, 0):
            raise BrokenLawError(f"lock {name!r} is given with token {token} after {self._highest[name]}")
        self._highest[name] = token
        self._holders[name] = holder

    def released(self, name: bytes, lease: int) -> None:
        """He begins to let go."""
        holder = self._holders.get(name)
        if holder is not None and holder.lease == lease:
            holder.released = True


def check_fencing(truth: Truth, names: tuple[bytes, ...]) -> int:
    """Tokens under which was written never go back. How many writes there were."""
    count = 0
    for name in names:
        tokens = [int(kv.value) for kv in truth.versions(guarded_key(name)) if kv.version]
        if tokens != sorted(tokens):
            raise BrokenLawError(f"writes under lock {name!r} have the tokens {tokens}")
        count += len(tokens)
    return count
