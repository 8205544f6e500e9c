"""Leases as their holder sees them: counted as lost before the cluster lets them end, and never found again."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from balancer.consensus.client_background import Background
from balancer.consensus.client_calls import Calls
from balancer.consensus.client_errors import LeaseLostError, NotReachedError, RefusedError
from balancer.consensus.client_json import StreamItem
from balancer.consensus.client_lease import Context, Lease
from balancer.coordination.errors import Code
from balancer.coordination.requests import LeaseGrantRequest, LeaseRevokeRequest
from balancer.coordination.responses import LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRevokeResponse
from tests.support.virtual_loop import run_virtually


@dataclass
class Cluster(Calls):
    """Leases of a cluster whose clock runs `rate` times as fast as the holder's, behind a network that may be bad."""

    rate: float = 1.0
    there: Callable[[], float] = lambda: 0.0  # seconds that a request takes
    back: Callable[[], float] = lambda: 0.0
    reachable: bool = True
    ends: dict[int, float] = field(default_factory=dict)  # lease -> when it may end, by the cluster's clock
    ttls: dict[int, int] = field(default_factory=dict)
    least_ttl: int = 1
    renewals: int = 0

    def now(self) -> float:
        return asyncio.get_running_loop().time() * self.rate

    def alive(self, lease: int) -> bool:
        return self.ends.get(lease, -1.0) > self.now()

    async def repeat(self, path: str, request: Any, answer: Any, *, timeout: float | None = None) -> Any:
        await self._travel(self.there, 5.0)
        if isinstance(request, LeaseGrantRequest):
            self.ttls[request.ID] = max(request.TTL, self.least_ttl)
            self.ends[request.ID] = self.now() + self.ttls[request.ID]
            found: Any = LeaseGrantResponse(ID=request.ID, TTL=self.ttls[request.ID])
        else:
            assert isinstance(request, LeaseRevokeRequest)
            if self.ends.pop(request.ID, None) is None:
                raise RefusedError(Code.NOT_FOUND, "etcdserver: requested lease not found")
            found = LeaseRevokeResponse()
        await self._travel(self.back, 5.0)
        return found

    async def read(self, path: str, request: Any, answer: Any, *, timeout: float | None = None) -> Any:
        assert path == "/v3/lease/keepalive"
        assert timeout is not None
        self.renewals += 1
        until = asyncio.get_running_loop().time() + timeout
        await self._travel(self.there, timeout)
        ttl = self.ttls[request.ID] if self.alive(request.ID) else 0
        if ttl:
            self.ends[request.ID] = self.now() + ttl
        await self._travel(self.back, until - asyncio.get_running_loop().time())
        found = LeaseKeepAliveResponse(ID=request.ID, TTL=ttl)
        body = {name: getattr(found, name) for name in ("ID", "TTL") if getattr(found, name)}
        return StreamItem(result=msgspec.Raw(msgspec.json.encode(body)))

    async def _travel(self, takes: Callable[[], float], patience: float) -> None:
        seconds = takes()
        await asyncio.sleep(max(0.0, min(seconds, patience)))
        if seconds > patience or not self.reachable:
            raise NotReachedError("the cluster was not reached: nobody answers")


Scenario = Callable[[Cluster, Context], Awaitable[None]]


def scenario(run: Scenario, cluster: Cluster | None = None, seed: int = 1) -> None:
    async def running() -> None:
        there = cluster or Cluster()
        background = Background()
        context = Context(there, background, asyncio.get_running_loop().time, random.Random(seed))
        await run(there, context)
        await background.close(5.0)
        assert len(asyncio.all_tasks()) == 1

    run_virtually(running())


def test_a_lease_lives_as_long_as_its_holder_renews_it() -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        async with Lease(context, 10) as lease:
            await asyncio.sleep(1000)
            assert lease.held
            assert cluster.alive(lease.id)
            assert 290 < cluster.renewals < 320
        assert not lease.held
        assert not lease.lost.is_set()
        assert cluster.ends == {}

    scenario(run)


@pytest.mark.parametrize(("ttl", "margin"), [(1, 0.5), (5, 0.5), (10, 1.0), (60, 6.0)])
def test_a_lease_that_cannot_be_renewed_is_lost_a_margin_before_its_ttl_is_over(ttl: int, margin: float) -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        lease = await Lease(context, ttl).start()
        cluster.reachable = False
        await lease.lost.wait()
        assert asyncio.get_running_loop().time() == pytest.approx(ttl - margin)
        assert "not renewed in time" in lease.why

    scenario(run)


def test_the_margin_may_be_chosen() -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        lease = await Lease(context, 10, 4).start()
        cluster.reachable = False
        await lease.lost.wait()
        assert asyncio.get_running_loop().time() == pytest.approx(6)

    scenario(run)


def test_time_counts_from_before_the_request() -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        cluster.there, cluster.back = lambda: 0.5, lambda: 1.0
        lease = await Lease(context, 10).start()
        assert lease.remaining == pytest.approx(10 - 1 - 1.5)
        await lease.revoke()

    scenario(run)


def test_a_grant_that_comes_too_late_is_none_and_is_taken_back() -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        cluster.back = lambda: 2.0
        with pytest.raises(LeaseLostError):
            await Lease(context, 2).start()
        await context.background.close(5.0)
        assert cluster.ends == {}

    scenario(run)


def test_the_cluster_may_give_more_than_was_asked_for() -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        async with Lease(context, 1) as lease:
            assert (lease.ttl, lease.remaining) == (20, 18)

    scenario(run, Cluster(least_ttl=20))


def test_a_lease_that_the_cluster_ended_is_lost_at_the_next_renewal() -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        lease = await Lease(context, 9).start()
        cluster.ends.clear()
        await lease.lost.wait()
        assert asyncio.get_running_loop().time() == pytest.approx(3)
        assert "does not know it" in lease.why

    scenario(run)


def test_a_renewal_that_fails_is_tried_again_before_the_end() -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        lease = await Lease(context, 10).start()
        cluster.reachable = False
        await asyncio.sleep(8)
        cluster.reachable = True
        await asyncio.sleep(2)
        assert lease.held
        assert 4 < cluster.renewals < 20
        await lease.revoke()

    scenario(run)


def test_an_answer_after_the_deadline_does_not_bring_a_lease_back() -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        clock = Skewed(context.clock)
        lease = await Lease(context._replace(clock=clock), 10).start()
        cluster.back = lambda: 1.0
        await asyncio.sleep(10 / 3 + 0.5)  # a renewal is under way
        clock.ahead = 60.0  # the process was stopped for a minute; no timer has run yet
        await asyncio.sleep(1.0)
        assert not lease.held
        assert lease.lost.is_set()
        assert lease.remaining == 0

    scenario(run)


def test_held_reads_the_clock_even_if_no_timer_has_run() -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        clock = Skewed(context.clock)
        lease = await Lease(context._replace(clock=clock), 10).start()
        assert lease.held
        clock.ahead = 9.0
        assert not lease.held
        assert lease.lost.is_set()
        clock.ahead = 0.0
        assert not lease.held

    scenario(run)


class Skewed:
    """A clock that can be put ahead."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.ahead = 0.0

    def __call__(self) -> float:
        return self.clock() + self.ahead


@pytest.mark.parametrize("seed", range(150))
def test_a_holder_never_counts_a_lease_as_held_that_the_cluster_may_have_ended(seed: int) -> None:
    """A network of random delays and outages, and a cluster whose clock runs up to a tenth faster."""
    rng = random.Random(seed)
    ttl = rng.choice([1, 2, 5, 10, 30])
    slowest = ttl * rng.choice([0.01, 0.3, 0.8, 2])
    cluster = Cluster(
        rate=rng.uniform(0.9, 1.1),
        there=lambda: rng.uniform(0, slowest) ** 2 / slowest,
        back=lambda: rng.uniform(0, slowest) ** 2 / slowest,
    )

    async def run(cluster: Cluster, context: Context) -> None:
        lease = Lease(context, ttl)
        try:
            await lease.start()
        except (LeaseLostError, NotReachedError):
            return
        for _ in range(2000):
            await asyncio.sleep(ttl / 50)
            if rng.random() < 0.02:
                cluster.reachable = not cluster.reachable
            if not lease.held:
                break
            assert cluster.alive(lease.id)
        lease.retire()

    scenario(run, cluster, seed)


def test_what_runs_while_it_is_held_is_cancelled_when_it_is_lost() -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        lease = await Lease(context, 10).start()
        cluster.reachable = False
        with pytest.raises(LeaseLostError, match="not renewed"):
            async with lease.while_held():
                await asyncio.sleep(1000)
        assert asyncio.get_running_loop().time() == pytest.approx(9)
        with pytest.raises(LeaseLostError):
            async with lease.while_held():
                raise AssertionError

    scenario(run)


def test_a_timeout_inside_while_held_stays_a_timeout() -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        async with Lease(context, 10) as lease:
            with pytest.raises(TimeoutError):
                async with lease.while_held():
                    raise TimeoutError

    scenario(run)


@pytest.mark.parametrize("after", [0.1, 0.6, 1.1, 1.6])
def test_a_cancelled_start_leaves_no_lease(after: float) -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        cluster.there, cluster.back = lambda: 0.5, lambda: 0.5

        async def hold() -> None:
            async with Lease(context, 10):
                await asyncio.sleep(1000)

        holder = asyncio.create_task(hold())
        await asyncio.sleep(after)
        holder.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holder
        await context.background.close(5.0)
        assert cluster.ends == {}

    scenario(run)


def test_giving_up_a_lease_of_a_cluster_that_is_gone_does_not_fail_but_revoking_it_does() -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        async with Lease(context, 10):
            cluster.reachable = False
        cluster.reachable = True
        lease = await Lease(context, 10).start()
        cluster.reachable = False
        with pytest.raises(NotReachedError):
            await lease.revoke()

    scenario(run)


def test_revoking_twice_is_no_error() -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        async with Lease(context, 10) as lease:
            await lease.revoke()
            await lease.revoke()

    scenario(run)


@pytest.mark.parametrize(("ttl", "margin"), [(0, None), (-1, None), (10, 0), (10, 10), (10, 11)])
def test_a_ttl_or_margin_that_cannot_be_is_refused(ttl: float, margin: float | None) -> None:
    async def run(cluster: Cluster, context: Context) -> None:
        with pytest.raises(ValueError, match="TTL"):
            Lease(context, ttl, margin)

    scenario(run)
