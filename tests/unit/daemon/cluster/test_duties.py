"""A duty is done by one balancer at a time, and by another soon after that one is gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from balancer.consensus.client_kv import put
from balancer.coordination.refusals import NO_SPACE
from balancer.coordination.requests import Compare
from balancer.daemon.cluster.duties import PREFIX, REST, TTL, Duties
from balancer.telemetry import events, metrics
from balancer.telemetry.aggregate import Aggregate
from tests.unit.daemon.cluster.virtual_store import Store, VirtualLink, run, until


def now() -> float:
    return asyncio.get_running_loop().time()


class Balancer:
    """Duties and their link. `work` is what it does; `guard` is set while it does."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self.link: VirtualLink = store.link(name)
        self.counted = Aggregate()
        self.duties = Duties(self.link, self.counted)
        self.duties.add("sweep", self.work)
        self.guard: Compare | None = None
        self.guards: list[Compare] = []
        self.began = self.ended = 0.0
        self.running = asyncio.create_task(self.duties.run())

    async def work(self, guard: Compare) -> None:
        self.guard = guard
        self.guards.append(guard)
        self.began = now()
        try:
            await self.do()
        finally:
            self.guard = None
            self.ended = now()

    async def do(self) -> None:
        await asyncio.Event().wait()

    @property
    def shown(self) -> float:
        return self.counted.values(metrics.CLUSTER_DUTY, ("sweep",))[0]

    async def end(self) -> None:
        if not self.running.done():
            self.running.cancel()
            await self.link.close()
            await asyncio.wait([self.running])
            assert self.running.cancelled()


@asynccontextmanager
async def balancers(store: Store, number: int) -> AsyncIterator[list[Balancer]]:
    made = [Balancer(store, f"n{place}") for place in range(number)]
    try:
        yield made
    finally:
        for each in made:
            each.link.wire.mend()
            await each.end()


async def leading(made: list[Balancer], seconds: float = 10.0) -> Balancer:
    """Who does it; nobody else may."""
    await until(lambda: any(each.guard is not None for each in made), seconds)
    (found,) = [each for each in made if each.guard is not None]
    return found


def test_one_of_three_does_it_and_says_so() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, 3) as made:
            with capture_logs() as logged:
                found = await leading(made)
                await asyncio.sleep(60)
            assert await leading(made) is found
            assert [each.shown for each in made] == [float(each is found) for each in made]
            (began,) = [entry for entry in logged if entry["event"] == events.DUTY_BEGAN]
            assert found.guard is not None
            assert (began["duty"], began["token"]) == ("sweep", found.guard.create_revision)
            client, _ = store.client()
            leader = await client.election(PREFIX + "sweep").leader()
            assert leader is not None
            assert leader.value == found.name.encode()

    run(scenario)


def test_another_has_it_at_once_when_its_balancer_stops() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, 3) as made:
            for _ in range(2):
                found = await leading(made)
                with capture_logs() as logged:
                    began = now()
                    await found.end()
                    made.remove(found)
                    await leading(made)
                    assert now() - began < 0.1
                ended = [entry["reason"] for entry in logged if entry["event"] == events.DUTY_ENDED]
                assert ended == ["this balancer stops"]
                assert found.shown == 0

    run(scenario)


def test_whoever_is_cut_off_has_ended_it_before_another_begins() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, 2) as made:
            found = await leading(made)
            (other,) = [each for each in made if each is not found]
            with capture_logs() as logged:
                found.link.wire.cut()
                began = now()
                await until(lambda: other.guard is not None)
                assert found.guard is None
                assert found.ended < other.began
                assert other.began - began < TTL + 0.5
                assert found.shown == 0
                ended = [entry["reason"] for entry in logged if entry["event"] == events.DUTY_ENDED]
                assert ended == ["it was not renewed in time"]
                found.link.wire.mend()
                await asyncio.sleep(30)
                assert await leading(made) is other

    run(scenario)


def test_the_guard_of_one_that_leads_no_more_does_not_hold() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, 2) as made:
            found = await leading(made)
            client, _ = store.client()
            assert (await client.txn(found.guards, then=[put("k", "1")])).succeeded
            await found.end()
            other = await leading(made)
            assert not (await client.txn(found.guards, then=[put("k", "2")])).succeeded
            assert (await client.txn(other.guards, then=[put("k", "3")])).succeeded
            assert other.guards[0].create_revision > found.guards[0].create_revision

    run(scenario)


def test_a_leader_whose_key_is_deleted_stops_and_another_begins() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, 2) as made:
            found = await leading(made)
            assert found.guard is not None
            client, _ = store.client()
            with capture_logs() as logged:
                await client.delete(found.guard.key)
                await until(lambda: found.guard is None)
                assert await leading(made) is not found
            assert [entry["reason"] for entry in logged if entry["event"] == events.DUTY_ENDED] == [
                "its key was deleted"
            ]
            assert not [entry for entry in logged if entry["event"] == events.CLUSTER_CUT_OFF]

    run(scenario)


def test_work_that_the_cluster_fails_goes_to_another_and_not_in_circles() -> None:
    async def scenario(store: Store) -> None:
        async def refused() -> None:
            raise NO_SPACE.error()

        async with balancers(store, 2) as made:
            found = await leading(made)
            (other,) = [each for each in made if each is not found]
            found.do = refused  # type: ignore[method-assign]
            client, _ = store.client()
            await client.delete(found.guards[0].key)
            await until(lambda: other.guard is not None)
            with capture_logs() as logged:
                other.do = refused  # type: ignore[method-assign]
                await client.delete(other.guards[-1].key)
                await asyncio.sleep(60)
            begun = [entry for entry in logged if entry["event"] == events.DUTY_BEGAN]
            assert 10 < len(begun) <= 2 * 60 / REST
            reasons = {entry["reason"] for entry in logged if entry["event"] == events.DUTY_ENDED}
            assert reasons == {"its key was deleted", str(NO_SPACE.error())}
            assert {each.shown for each in made} == {0}

    run(scenario)


def test_work_that_is_done_is_begun_again() -> None:
    async def scenario(store: Store) -> None:
        async def short() -> None:
            await asyncio.sleep(1)

        async with balancers(store, 1) as (alone,):
            alone.do = short  # type: ignore[method-assign]
            await until(lambda: len(alone.guards) > 3, 30)
            tokens = [guard.create_revision for guard in alone.guards]
            assert tokens == sorted(set(tokens))

    run(scenario)


def test_a_fault_of_our_own_ends_it_all() -> None:
    async def scenario(store: Store) -> None:
        async def wrong() -> None:
            raise KeyError

        async with balancers(store, 1) as (alone,):
            alone.do = wrong  # type: ignore[method-assign]
            await asyncio.wait([alone.running])
            error = alone.running.exception()
            assert isinstance(error, ExceptionGroup)
            assert isinstance(error.exceptions[0], KeyError)
            assert alone.shown == 0
            await alone.link.close()

    run(scenario)


def test_one_that_waits_and_was_cut_off_says_when_it_is_back() -> None:
    """It may wait for its turn for ever; that is not being cut off."""

    async def scenario(store: Store) -> None:
        async with balancers(store, 2) as made:
            found = await leading(made)
            (other,) = [each for each in made if each is not found]
            await asyncio.sleep(1)
            with capture_logs() as logged:
                other.link.wire.snap()
                await asyncio.sleep(30)
                other.link.wire.mend()
                await asyncio.sleep(10)
            said = [entry["event"] for entry in logged if entry.get("part") == "duty sweep"]
            assert said == [events.CLUSTER_CUT_OFF, events.CLUSTER_REACHED]
            await found.end()
            await until(lambda: other.guard is not None)

    run(scenario)


@pytest.mark.parametrize("cut_for", [0.5, 1.2])
def test_a_short_silence_is_no_loss(cut_for: float) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, 1) as (alone,):
            await leading([alone])
            await asyncio.sleep(0.05)
            alone.link.wire.cut()
            await asyncio.sleep(cut_for)
            alone.link.wire.mend()
            await asyncio.sleep(30)
            assert len(alone.guards) == 1

    run(scenario)


def test_stopping_without_a_cluster_takes_less_than_a_second() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, 1) as (alone,):
            await leading([alone])
            alone.link.wire.cut()
            await asyncio.sleep(0.5)
            assert alone.guard is not None
            began = now()
            await alone.end()
            assert now() - began < 1
        await until(lambda: len(asyncio.all_tasks()) == 1, 0.1)

    run(scenario)
