"""Who waits on the service: watches are woken by what is applied, and nothing is left of who leaves."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from balancer.coordination.requests import (
    CampaignRequest,
    CompactionRequest,
    LeaderRequest,
    LeaseGrantRequest,
    LockRequest,
    ProclaimRequest,
    PutRequest,
    UnlockRequest,
    WatchCreateRequest,
)
from tests.support.etcd_memory_service import MemoryService

DEADLINE = 10.0


def run(scenario: Callable[[MemoryService], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await scenario(MemoryService())

    asyncio.run(bounded())


async def granted(service: MemoryService, *leases: int) -> None:
    for lease in leases:
        await service.lease_grant(LeaseGrantRequest(TTL=600, ID=lease))


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_watch_is_told_of_what_is_applied_later() -> None:
    async def scenario(service: MemoryService) -> None:
        stream = service.watch()
        await stream.create(WatchCreateRequest(b"a"))
        assert (await anext(stream)).created
        told = asyncio.ensure_future(anext(stream))
        await turns()
        assert not told.done()
        await service.put(PutRequest(b"a", b"1"))
        assert [event.kv.value for event in (await told).events] == [b"1"]
        await stream.close()

    run(scenario)


@pytest.mark.parametrize("given", [True, False], ids=["in the moment it is given the lock", "while it waits"])
def test_who_leaves_holds_nothing(given: bool) -> None:
    async def scenario(service: MemoryService) -> None:
        await granted(service, 1, 2, 3)
        first = await service.lock(LockRequest(b"l", 1))
        leaving = asyncio.ensure_future(service.lock(LockRequest(b"l", 2)))
        await turns()
        if given:
            await service.unlock(UnlockRequest(first.key))
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await turns()
        if not given:
            await service.unlock(UnlockRequest(first.key))
        assert (await service.lock(LockRequest(b"l", 3))).key == b"l/3"

    run(scenario)


def test_of_two_that_ask_with_one_lease_the_other_keeps_the_lock() -> None:
    async def scenario(service: MemoryService) -> None:
        await granted(service, 1, 2, 3)
        first = await service.lock(LockRequest(b"l", 1))
        leaving, staying = (asyncio.ensure_future(service.lock(LockRequest(b"l", 2))) for _ in range(2))
        await turns()
        await service.unlock(UnlockRequest(first.key))
        leaving.cancel()
        assert (await staying).key == b"l/2"
        next_one = asyncio.ensure_future(service.lock(LockRequest(b"l", 3)))
        await turns()
        assert not next_one.done()
        next_one.cancel()

    run(scenario)


def test_an_observer_that_fell_behind_a_compaction_goes_on_with_who_leads_now() -> None:
    async def scenario(service: MemoryService) -> None:
        service.hub._queue_size_max = 1  # everybody who does not read falls behind
        await granted(service, 1)
        leader = (await service.campaign(CampaignRequest(b"e", 1, b"v0"))).leader
        observed = service.observe(LeaderRequest(b"e"))
        first = (await anext(observed)).kv
        assert first is not None
        assert first.value == b"v0"
        for number in range(1, 6):
            await service.proclaim(ProclaimRequest(leader, b"v%d" % number))
        await service.compact(CompactionRequest(service.machine.revision))
        values = []
        while b"v5" not in values:
            told = (await anext(observed)).kv
            assert told is not None
            values.append(told.value)
        await observed.aclose()

    run(scenario)
