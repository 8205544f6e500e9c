"""Programs that take locks of a real cluster, write under them, and let go in one way or another.

Two kinds, on the same locks: by the client's `lock`, and by the API alone, as programs do that know etcd's lock
service. Some of the latter are careless: they do not look at the clock, and write under a lock that is long lost. Only
the comparison of the token keeps these from doing harm.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from random import Random
from time import monotonic
from typing import Any

from balancer.consensus.client import Coordination
from balancer.consensus.client_claim import Grant
from balancer.consensus.client_errors import LockLostError
from balancer.consensus.client_http import ExchangeError, Server
from balancer.consensus.client_json import decoded, encoded, fields
from balancer.consensus.client_kv import created_at, put, transaction
from balancer.coordination.errors import CoordinationError
from balancer.coordination.requests import LeaseGrantRequest, LeaseRevokeRequest, LockRequest, RangeRequest
from balancer.coordination.responses import LeaseGrantResponse, LockResponse, RangeResponse, TxnResponse
from tests.integration.coordination.real_clients import History
from tests.simulation.cluster.laws import BrokenLawError, Laws
from tests.simulation.cluster.lock_laws import LockLaws, guarded_key

LOCKS = (b"red", b"blue")
TTLS = (2, 2, 3)
_TIMEOUT = 6.0  # seconds for a lock: longer than a lease lives that nobody keeps


class LockBook:
    """Who holds what, on the one clock that all clients here share; raises BrokenLawError.

    That of the client's own grants is asked of them, since nobody else knows when they were renewed.
    """

    def __init__(self) -> None:
        self._laws = Laws(monotonic, Counter())
        self._locks = LockLaws(self._laws)
        self._grants: dict[int, tuple[bytes, Grant]] = {}

    def renewed(self, lease: int, ttl: int, called: float) -> None:
        """A lease was granted or renewed that was asked for then."""
        self._locks.renewed(lease, ttl, called)

    def held(self, name: bytes, lease: int, token: int) -> None:
        """Somebody is told that the lock is his."""
        self._look()
        self._locks.held(name, lease, token)

    def granted(self, name: bytes, grant: Grant) -> None:
        """The same, by the client."""
        if not grant.held:
            return
        for other_name, other in self._grants.values():
            if other_name == name and other.held:
                raise BrokenLawError(f"lock {name!r} is held with the tokens {other.token} and {grant.token}")
        self._renewed(grant)
        self.held(name, grant.lease.id, grant.token)
        self._grants[grant.lease.id] = name, grant

    def released(self, name: bytes, lease: int) -> None:
        """He begins to let go."""
        self._grants.pop(lease, None)
        self._locks.released(name, lease)

    def refused(self, grant: Grant) -> None:
        """A write under a grant was refused. Then it must be known to be lost."""
        if grant.held:
            raise BrokenLawError(f"{grant.key!r} with token {grant.token} is held, and the cluster knows nothing of it")

    def _look(self) -> None:
        for name, grant in [*self._grants.values()]:
            if grant.held:
                self._renewed(grant)
            else:
                self.released(name, grant.lease.id)

    def _renewed(self, grant: Grant) -> None:
        """It lasts, at the cluster, for `margin` longer than it counts as held."""
        ends = monotonic() + grant.remaining + grant.lease.margin
        ends_of = self._laws.lease_ends
        ends_of[grant.lease.id] = max(ends_of.get(grant.lease.id, 0.0), ends)


class Locker:
    """By the client."""

    def __init__(self, client: Coordination, history: History, book: LockBook, rng: Random) -> None:
        self._client = client
        self._history = history
        self._book = book
        self._rng = rng

    async def run(self, pace: float) -> None:
        """Until the history stops."""
        while not self._history.stopping:
            await asyncio.sleep(self._rng.expovariate(1 / pace))
            try:
                await self._once(self._rng.choice((*LOCKS, LOCKS[0])), pace)
            except LockLostError:
                self._history.counts["locks lost"] += 1
            except CoordinationError as error:
                self._history.counts[f"no lock: {type(error).__name__}"] += 1

    async def _once(self, name: bytes, pace: float) -> None:
        async with self._client.lock(name, ttl=self._rng.choice(TTLS), timeout=_TIMEOUT) as grant:
            self._book.granted(name, grant)
            self._history.counts["locks"] += 1
            try:
                for _ in range(self._rng.randrange(5)):
                    await asyncio.sleep(self._rng.expovariate(1 / pace))
                    if not grant.held:
                        return
                    await self._write(name, grant)
            finally:
                self._book.released(name, grant.lease.id)

    async def _write(self, name: bytes, grant: Grant) -> None:
        written = put(guarded_key(name), b"%d" % grant.token)
        answer = await self._client.txn([grant.guard], then=[written])
        if answer.succeeded:
            self._history.counts["writes under a lock"] += 1
        else:
            self._book.refused(grant)
            self._history.counts["writes under a lock refused"] += 1


class ApiLocker:
    """By the API, at one member after the other."""

    def __init__(self, urls: Sequence[str], history: History, book: LockBook, rng: Random) -> None:
        self._servers = [Server(url) for url in urls]
        self._history = history
        self._book = book
        self._rng = rng
        self._until = 0.0  # its lease lasts so long at least

    async def run(self, pace: float) -> None:
        """Until the history stops."""
        try:
            while not self._history.stopping:
                await asyncio.sleep(self._rng.expovariate(1 / pace))
                await self._once(self._rng.choice(LOCKS), pace)
        finally:
            for server in self._servers:
                server.close()

    async def _once(self, name: bytes, pace: float) -> None:
        lease, ttl = self._rng.getrandbits(40) + 1, self._rng.choice(TTLS)
        called = monotonic()
        answer = await self._ask("lease/grant", fields(LeaseGrantRequest(ttl, lease)))
        if answer is None:
            return
        self._until = called + decoded(answer, LeaseGrantResponse).TTL
        self._book.renewed(lease, decoded(answer, LeaseGrantResponse).TTL, called)
        server = self._rng.choice(self._servers)
        answer = await self._ask("lock/lock", fields(LockRequest(name, lease)), server, timeout=_TIMEOUT)
        if answer is not None:
            key = decoded(answer, LockResponse).key
            await self._hold(name, lease, key, pace)
        if self._rng.random() < 0.8:
            await self._ask("lease/revoke", fields(LeaseRevokeRequest(lease)))

    async def _hold(self, name: bytes, lease: int, key: bytes, pace: float) -> None:
        """Whoever has to wait for it keeps no lease alive meanwhile: it may be gone by now."""
        answer = await self._ask("kv/range", fields(RangeRequest(key)))
        found = decoded(answer, RangeResponse).kvs if answer is not None else ()
        if not found:
            return
        token = found[0].create_revision
        self._book.held(name, lease, token)
        self._history.counts["locks by the API"] += 1
        careless = self._rng.random() < 0.4
        for _ in range(self._rng.randrange(4)):
            await asyncio.sleep(self._rng.choice((pace, pace, 1.5)) if careless else pace)
            if not careless and monotonic() > self._until:
                break
            done = await self._write(name, key, token)
            if done is False:
                kind = "careless writes refused" if careless else "writes under a lock refused"
                self._history.counts[kind] += 1
        self._book.released(name, lease)

    async def _write(self, name: bytes, key: bytes, token: int) -> bool | None:
        """Whether the token still counted; None = nothing was heard."""
        called = monotonic()
        written = put(guarded_key(name), b"%d" % token)
        answer = await self._ask("kv/txn", fields(transaction([created_at(key, token)], [written])))
        if answer is None:
            return None
        succeeded = decoded(answer, TxnResponse).succeeded
        if not succeeded and monotonic() < self._until:
            raise BrokenLawError(
                f"{key!r} with token {token} is gone {self._until - called:.3f} s before its lease ends"
            )
        self._history.counts["writes under a lock"] += succeeded
        return succeeded

    async def _ask(
        self, path: str, body: dict[str, Any], server: Server | None = None, timeout: float = 1.0
    ) -> bytes | None:
        """An answer; None where there was none, or a refusal."""
        server = server or self._rng.choice(self._servers)
        try:
            answer = await server.exchange(f"/v3/{path}", encoded(body), timeout=timeout)
        except ExchangeError:
            return None
        return answer.body if answer.status == 200 else None
