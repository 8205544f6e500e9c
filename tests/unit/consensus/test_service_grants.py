"""Who waited for a lock or an election is told that it has it only if that is so: a member may be behind the others."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any, TypeVar, cast
from unittest.mock import patch

import msgspec
import pytest

from balancer.consensus import member_service, service_turns
from balancer.consensus.driver import Driver
from balancer.consensus.member_service import MemberService
from balancer.consensus.replica import Replica
from balancer.coordination.errors import CoordinationError
from balancer.coordination.refusals import ELECTION_SESSION_EXPIRED, LOCK_SESSION_EXPIRED
from balancer.coordination.requests import (
    CampaignRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    LockRequest,
    RangeRequest,
    UnlockRequest,
)
from tests.unit.consensus.trio import Trio

DEADLINE = 20.0
HOLDER, WAITER, NEXT = 10, 11, 12  # leases, and so names/a, names/b, names/c

T = TypeVar("T")
Ask = Callable[["Services", int, int], Coroutine[Any, Any, msgspec.Struct]]


class Undriven:
    """In place of a driver: the test lets everything happen itself."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    def poke(self) -> None:
        return


class Services:
    """The services of three members in memory; 1 leads."""

    def __init__(self) -> None:
        self.trio = Trio()
        self.at: dict[int, MemberService] = {}
        for id, member in self.trio.members.items():
            made = MemberService(
                member.machine, Random(id), least_ttl=1, cluster_id=1, node_id=id, client=f"http://127.0.0.1:{id}"
            )
            made.drive(cast("Driver", Undriven(member.replica)))
            member.changed = made.changed  # type: ignore[method-assign]
            member.replaced = made.replaced  # type: ignore[method-assign]
            self.at[id] = made
        self.trio.elect(1)

    async def turns(self) -> None:
        """Let everything run and arrive that can, without the time to go on."""
        for _ in range(20):
            self.trio.settle()
            await asyncio.sleep(0)

    async def had(self, work: Awaitable[T]) -> T:
        """What it comes to, within a few seconds of theirs."""
        task = asyncio.ensure_future(work)
        for _ in range(50):
            await self.turns()
            if task.done():
                return task.result()
            self.trio.pass_time(0.1)
        raise AssertionError("there is no answer")

    async def leases(self) -> None:
        for lease in (HOLDER, WAITER, NEXT):
            await self.had(self.at[1].lease_grant(LeaseGrantRequest(TTL=600, ID=lease)))

    async def keys(self) -> list[bytes]:
        found = await self.had(self.at[1].range(RangeRequest(b"n/", b"n0")))
        return sorted(kv.key for kv in found.kvs)


def lock(services: Services, at: int, lease: int) -> Coroutine[Any, Any, msgspec.Struct]:
    return services.at[at].lock(LockRequest(b"n", lease))


def campaign(services: Services, at: int, lease: int) -> Coroutine[Any, Any, msgspec.Struct]:
    return services.at[at].campaign(CampaignRequest(b"n", lease, b"v"))


BOTH = pytest.mark.parametrize(
    ("ask", "expired"),
    [
        pytest.param(lock, LOCK_SESSION_EXPIRED.message, id="lock"),
        pytest.param(campaign, ELECTION_SESSION_EXPIRED.message, id="campaign"),
    ],
)


def run(scenario: Callable[[Services], Awaitable[None]]) -> None:
    async def bounded() -> None:
        services = Services()
        with (
            patch.object(member_service, "monotonic", lambda: services.trio.now),
            patch.object(service_turns, "CONFIRM_AGAIN", 0.0),
        ):
            async with asyncio.timeout(DEADLINE):
                await scenario(services)

    asyncio.run(bounded())


async def waiting(services: Services, ask: Ask) -> "asyncio.Task[msgspec.Struct]":
    """One holds it at member 1, and one waits for it at member 3."""
    await services.leases()
    await services.had(ask(services, 1, HOLDER))
    waits = asyncio.create_task(ask(services, 3, WAITER))
    await services.turns()
    assert not waits.done()
    assert await services.keys() == [b"n/a", b"n/b"]
    return waits


async def heard_of_the_release(services: Services) -> None:
    """The holder gives it up; member 3 has applied that, and hears nothing from then on."""
    released = asyncio.create_task(services.at[1].unlock(UnlockRequest(b"n/a")))
    while services.at[3].machine.range(RangeRequest(b"n/a")).count:
        await asyncio.sleep(0)
        services.trio.settle()
    services.trio.cut.add(3)
    await services.had(released)


async def moves_on(services: Services, ask: Ask) -> None:
    """The waiter's lease ends, and the next one has it."""
    await services.had(services.at[1].lease_revoke(LeaseRevokeRequest(WAITER)))
    await services.had(ask(services, 1, NEXT))
    assert await services.keys() == [b"n/c"]


@BOTH
def test_who_waits_at_a_member_that_was_cut_off_is_not_given_what_is_another_s_by_now(ask: Ask, expired: str) -> None:
    async def scenario(services: Services) -> None:
        waits = await waiting(services, ask)
        services.trio.cut.add(3)
        await services.had(services.at[1].unlock(UnlockRequest(b"n/a")))
        await moves_on(services, ask)
        services.trio.cut.clear()
        with pytest.raises(CoordinationError, match=expired):
            await services.had(waits)

    run(scenario)


@BOTH
def test_a_member_that_hears_of_the_release_and_then_nothing_gives_no_grant(ask: Ask, expired: str) -> None:
    async def scenario(services: Services) -> None:
        waits = await waiting(services, ask)
        await heard_of_the_release(services)
        assert not waits.done()
        await moves_on(services, ask)
        assert not waits.done()
        services.trio.cut.clear()
        with pytest.raises(CoordinationError, match=expired):
            await services.had(waits)

    run(scenario)


@BOTH
def test_who_still_has_it_is_told_so(ask: Ask, expired: str) -> None:
    async def scenario(services: Services) -> None:
        waits = await waiting(services, ask)
        await services.had(services.at[1].unlock(UnlockRequest(b"n/a")))
        await services.had(waits)
        assert await services.keys() == [b"n/b"]

    run(scenario)


@BOTH
def test_without_a_majority_a_waiter_waits_on_and_is_told_when_there_is_one(ask: Ask, expired: str) -> None:
    async def scenario(services: Services) -> None:
        waits = await waiting(services, ask)
        await heard_of_the_release(services)
        services.trio.cut |= {1, 2, 3}
        for _ in range(20):  # longer than a request has
            services.trio.pass_time(1.0)
            await asyncio.sleep(0)
        assert not waits.done()
        services.trio.cut.clear()
        await services.had(waits)
        assert await services.keys() == [b"n/b"]

    run(scenario)


@BOTH
def test_who_leaves_while_that_is_made_sure_holds_nothing(ask: Ask, expired: str) -> None:
    async def scenario(services: Services) -> None:
        waits = await waiting(services, ask)
        await heard_of_the_release(services)
        assert not waits.done()
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        services.trio.cut.clear()
        await services.had(ask(services, 2, NEXT))
        assert await services.keys() == [b"n/c"]

    run(scenario)


@BOTH
def test_a_grant_without_waiting_is_not_told_by_who_knows_that_it_is_lost(ask: Ask, expired: str) -> None:
    async def scenario(services: Services) -> None:
        trio = services.trio
        await services.leases()
        await services.had(services.at[3].lease_revoke(LeaseRevokeRequest(HOLDER)))  # 3 has a session by now
        asked = asyncio.create_task(ask(services, 3, WAITER))
        await asyncio.sleep(0)
        trio[3].replica.pump(trio.now)
        ((sender, _, request),) = trio.in_flight
        trio.in_flight.clear()
        trio[1].replica.receive(sender, request, trio.now)
        trio.cut.add(3)
        await services.turns()
        assert await services.keys() == [b"n/b"]
        await services.had(services.at[1].lease_revoke(LeaseRevokeRequest(WAITER)))
        assert not asked.done()
        trio.cut.clear()
        with pytest.raises(CoordinationError, match=expired):
            await services.had(asked)

    run(scenario)
