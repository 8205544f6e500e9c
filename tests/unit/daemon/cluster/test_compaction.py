"""The past is given up when it is old or too much, by whoever has the duty, and no further than said."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from structlog.testing import capture_logs

from balancer.consensus.client import Coordination
from balancer.consensus.client_errors import LockLostError, RefusedError
from balancer.consensus.client_kv import exists, missing
from balancer.coordination.requests import Compare
from balancer.daemon.cluster.compaction import KEY, Bounds, Compaction, Progress
from balancer.telemetry import events
from tests.unit.daemon.cluster.virtual_store import Store, Wire, run, until

ALWAYS = missing("never")
INTERVAL = 60.0
MUCH = 1 << 40
OFTEN = Bounds(interval=INTERVAL, revisions=MUCH, growth=MUCH, look=1.0)


@asynccontextmanager
async def duty(
    store: Store, bounds: Bounds = OFTEN, guard: Compare = ALWAYS
) -> AsyncIterator[tuple["asyncio.Task[None]", Wire]]:
    """Somebody has it."""
    client, wire = store.client()
    task = asyncio.create_task(Compaction(client, bounds).work(guard))
    try:
        yield task, wire
    finally:
        task.cancel()
        await asyncio.wait([task])


async def write(client: Coordination, times: int, size: int = 1) -> int:
    """The revision of the last of so many writes."""
    for _ in range(times):
        answer = await client.put("k", b"x" * size)
    return answer.header.revision


async def progress(client: Coordination) -> Progress:
    kv = await client.get(KEY)
    assert kv is not None
    return msgspec.json.decode(kv.value, type=Progress)


def compacted(store: Store) -> int:
    return store.service.machine.space.compacted


def test_what_is_older_than_an_interval_is_given_up_each_interval_and_nothing_younger() -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with duty(store):
            before = -1
            for number in range(1, 5):
                last = await write(client, 10)
                await asyncio.sleep(INTERVAL * number + 2 - asyncio.get_running_loop().time())
                assert compacted(store) == before
                assert (await progress(client)).mark == last
                before = last

    run(scenario)


def test_a_successor_goes_on_from_the_mark_after_a_whole_interval_of_its_own() -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        last = await write(client, 10)
        async with duty(store):
            await asyncio.sleep(INTERVAL + 2)
        await write(client, 10)
        assert await progress(client) == Progress(mark=last)
        async with duty(store):
            await asyncio.sleep(INTERVAL - 2)
            assert compacted(store) == -1
            await asyncio.sleep(4)
            assert compacted(store) == last
        assert (await progress(client)).compacted == last

    run(scenario)


def test_whoever_does_not_lead_any_more_writes_and_compacts_nothing() -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        await client.put("leads", "")
        async with duty(store, guard=exists("leads")) as (task, _):
            await asyncio.sleep(INTERVAL + 2)
            left = await progress(client)
            await client.delete("leads")
            await write(client, 10)
            await asyncio.wait([task])
            assert isinstance(task.exception(), LockLostError)
        assert await progress(client) == left
        assert compacted(store) == -1

    run(scenario)


def test_many_revisions_are_given_up_at_once_but_for_the_newest() -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with duty(store, OFTEN._replace(revisions=1000)):
            last = await write(client, 999)
            await asyncio.sleep(5)
            assert compacted(store) == -1
            last = await write(client, 10)
            await until(lambda: compacted(store) == last - last // 10)
            first = compacted(store)
            await asyncio.sleep(5)
            assert compacted(store) == first
            await write(client, 1001)
            await until(lambda: compacted(store) > first)

    run(scenario)


def test_what_was_given_up_at_once_leaves_the_rest_to_the_next_interval() -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with duty(store, OFTEN._replace(revisions=1000)):
            await write(client, 1010)
            await asyncio.sleep(INTERVAL - 4)
            first = compacted(store)
            assert first > 0
            await asyncio.sleep(6)
            assert compacted(store) == first
            assert (await progress(client)).compacted == first

    run(scenario)


def test_large_values_are_given_up_before_they_fill_the_store() -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with duty(store, OFTEN._replace(growth=100_000)):
            for _ in range(20):
                await write(client, 5, size=10_000)
                await asyncio.sleep(1.5)
            assert store.service.machine.size < 200_000
            await client.put("live", b"x" * 300_000)  # it stays: giving up the past again and again is of no use
            await asyncio.sleep(5)
            first = compacted(store)
            await asyncio.sleep(INTERVAL / 2)
            assert compacted(store) == first

    run(scenario)


def test_a_store_that_is_full_takes_writes_again() -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        store.service.machine.quota = 100_000
        with pytest.raises(RefusedError, match="space exceeded"):
            while True:
                await write(client, 1, size=900)
        while store.service.machine.size < 99_900:  # not even what the duty has to say finds room
            try:
                await client.put("k", "")
            except RefusedError:
                break
        async with duty(store, OFTEN._replace(growth=50_000)):
            await until(lambda: compacted(store) > 0)
            await asyncio.sleep(1)
            await write(client, 10, size=900)

    run(scenario)


def test_where_an_operator_compacted_further_it_goes_on() -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with duty(store) as (task, _):
            await write(client, 10)
            await asyncio.sleep(INTERVAL + 2)
            theirs = await write(client, 10)
            await client.compact(theirs)
            last = await write(client, 10)
            await asyncio.sleep(INTERVAL)
            assert not task.done()
            assert compacted(store) == theirs
            await asyncio.sleep(INTERVAL)
            assert compacted(store) == last

    run(scenario)


@pytest.mark.parametrize("left", [b"junk", b'{"version": 2, "mark": 7}', b'{"mark": "x"}'])
def test_what_cannot_be_read_is_begun_anew_and_said(left: bytes) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        await client.put(KEY, left)
        last = await write(client, 10)
        with capture_logs() as logged:
            async with duty(store):
                await asyncio.sleep(2 * INTERVAL + 4)
        assert compacted(store) == last
        assert [entry["key"] for entry in logged if entry["event"] == events.KEY_IGNORED] == [KEY]

    run(scenario)


def test_a_mark_from_a_future_that_never_was_does_no_harm() -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        await client.put(KEY, b'{"version": 1, "mark": 1000000, "compacted": 1000000}')
        last = await write(client, 10)
        async with duty(store):
            await asyncio.sleep(3 * INTERVAL + 4)
        assert compacted(store) >= last

    run(scenario)


def test_while_the_own_member_does_not_answer_it_waits() -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        last = await write(client, 10)
        async with duty(store) as (task, wire):
            await asyncio.sleep(2)
            wire.cut()
            await asyncio.sleep(INTERVAL * 2)
            assert not task.done()
            wire.mend()
            await asyncio.sleep(INTERVAL * 2 + 4)
            assert compacted(store) >= last

    run(scenario)
