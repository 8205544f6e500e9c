"""Which balancers live: everybody knows within a lease's time, and who cannot know says so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from structlog.testing import capture_logs

from balancer.consensus.client import Coordination
from balancer.daemon.cluster.nodes import NAME_PATIENCE, NODES_MAX, PREFIX, TTL, NodeInfo, Nodes
from balancer.telemetry import events
from tests.unit.daemon.cluster.virtual_store import Store, VirtualLink, run, until


class Balancer:
    """Nodes and their link, as a balancer has them."""

    def __init__(self, store: Store, name: str) -> None:
        self.link: VirtualLink = store.link(name)
        self.nodes = Nodes(self.link)
        self.told = 0
        self.nodes.on_change(self._count)
        self._running: asyncio.Task[None] | None = None

    def _count(self) -> None:
        self.told += 1

    def begin(self) -> None:
        self._running = asyncio.create_task(self.nodes.run())

    async def end(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await self.link.close()
            await asyncio.wait([running])
            assert running.cancelled()

    def sees(self, *names: str) -> bool:
        return self.nodes.known and sorted(self.nodes.live) == sorted(names)


@asynccontextmanager
async def balancers(store: Store, *names: str) -> AsyncIterator[list[Balancer]]:
    """They live, and know it."""
    made = [Balancer(store, name) for name in names]
    for each in made:
        each.begin()
    try:
        await until(lambda: all(each.sees(*names) for each in made))
        yield made
    finally:
        for each in made:
            each.link.wire.mend()
            await each.end()


def now() -> float:
    return asyncio.get_running_loop().time()


def test_balancers_that_live_know_each_other_and_those_that_end_are_gone_at_once() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, "n1", "n2", "n3") as (first, second, third):
            assert first.nodes.live == {name: NodeInfo() for name in ("n1", "n2", "n3")}
            began = now()
            await third.end()
            assert await until(lambda: first.sees("n1", "n2") and second.sees("n1", "n2")) - began < 0.1

    run(scenario)


def test_nothing_is_known_before_the_cluster_was_asked() -> None:
    async def scenario(store: Store) -> None:
        alone = Balancer(store, "n1")
        alone.link.wire.cut()
        alone.begin()
        with capture_logs() as logged:
            await asyncio.sleep(30)
            assert (alone.nodes.known, alone.nodes.live, alone.nodes.lease) == (False, {}, None)
            alone.link.wire.mend()
            await until(lambda: alone.sees("n1"))
        cut_off = [entry["part"] for entry in logged if entry["event"] == events.CLUSTER_CUT_OFF]
        assert sorted(cut_off) == ["node", "nodes"]
        await alone.end()

    run(scenario)


def test_a_cluster_that_takes_its_time_to_begin_is_no_lost_lease() -> None:
    async def scenario(store: Store) -> None:
        alone = Balancer(store, "n1")
        alone.link.wire.cut()
        with capture_logs() as logged:
            alone.begin()
            await asyncio.sleep(2 * TTL)
            alone.link.wire.mend()
            await until(lambda: alone.sees("n1"), 0.1)
        assert [entry["event"] for entry in logged] == [events.NODE_JOINED]
        await alone.end()

    run(scenario)


def test_one_that_is_cut_off_knows_before_it_is_gone_for_the_others() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, "n1", "n2") as (first, second):
            second.link.wire.cut()
            began = now()
            unknown = await until(lambda: not second.nodes.known)
            assert first.sees("n1", "n2")
            gone = await until(lambda: first.sees("n1"))
            assert unknown - began < TTL - 0.4
            assert unknown < gone
            assert gone - began < TTL + 0.1

    run(scenario)


def test_what_was_known_last_stays_while_the_cluster_cannot_be_asked() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, "n1", "n2") as (first, second):
            first.link.wire.snap()
            await second.end()
            await asyncio.sleep(300)
            assert not first.nodes.known
            assert sorted(first.nodes.live) == ["n1", "n2"]
            first.link.wire.mend()
            await until(lambda: first.sees("n1"))

    run(scenario)


def test_what_is_said_of_pools_reaches_the_others_under_the_same_lease() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, "n1", "n2") as (first, second):
            lease = first.nodes.lease
            assert lease is not None
            first.nodes.tell({"api": "3f2a"})
            first.nodes.tell({"api": "77"})
            await until(lambda: second.nodes.live["n1"].pools == {"api": "77"})
            assert first.nodes.lease is lease
            client, _ = store.client()
            kv = await client.get(PREFIX + "n1")
            assert kv is not None
            assert (kv.lease, kv.version) == (lease.id, 2)
            assert msgspec.json.decode(kv.value) == {"version": 1, "pools": {"api": "77"}}

    run(scenario)


def test_it_is_said_again_with_a_new_lease_and_whoever_hears_is_told_of_that() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, "n1", "n2") as (first, second):
            first.nodes.tell({"api": "77"})
            first.link.wire.cut()
            await until(lambda: second.sees("n2"))
            told, lease = first.told, first.nodes.lease
            assert lease is None
            first.link.wire.mend()
            await until(lambda: "n1" in second.nodes.live)
            assert second.nodes.live["n1"].pools == {"api": "77"}
            await until(lambda: first.sees("n1", "n2"))
            assert first.nodes.lease is not None
            assert first.told > told

    run(scenario)


def test_a_lease_that_its_holder_gave_up_for_lost_is_followed_by_another_and_nobody_sees_a_gap() -> None:
    """Its key lives on in the cluster for a moment: that is no other process of this name."""

    async def scenario(store: Store) -> None:
        async with balancers(store, "n1", "n2") as (first, second):
            with capture_logs() as logged:
                lost = first.nodes.lease
                assert lost is not None
                first.link.wire.cut()
                await until(lambda: first.nodes.lease is None)
                first.link.wire.mend()
                await until(lambda: first.sees("n1", "n2"))
                assert first.nodes.lease is not lost
                await asyncio.sleep(3 * TTL)
                assert first.sees("n1", "n2")
                assert second.sees("n1", "n2")
            assert not [entry for entry in logged if entry["event"] in (events.NODE_LEFT, events.NODE_NAME_TAKEN)]

    run(scenario)


def test_a_name_that_somebody_has_is_not_taken_and_the_log_says_so_once() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, "n1") as (first,):
            with capture_logs() as logged:
                second = Balancer(store, "n1")
                second.begin()
                await asyncio.sleep(NAME_PATIENCE - 0.1)
                assert not [entry for entry in logged if entry["event"] == events.NODE_NAME_TAKEN]
                await asyncio.sleep(60)
                (entry,) = [entry for entry in logged if entry["event"] == events.NODE_NAME_TAKEN]
                assert (entry["node"], entry["key"], entry["log_level"]) == ("n1", PREFIX + "n1", "error")
                assert (second.nodes.known, second.nodes.lease) == (False, None)
                assert first.sees("n1")
                await first.end()
                await until(lambda: second.sees("n1"))
            await second.end()

    run(scenario)


def test_after_a_crash_the_name_is_free_when_the_old_lease_ends_and_that_is_no_error() -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        lease = await client.lease(TTL).start()
        await client.put(PREFIX + "n1", b'{"version": 1}', lease=lease)
        lease.retire()  # it crashed
        with capture_logs() as logged:
            async with balancers(store, "n1") as (first,):
                assert TTL - 0.1 < now() < TTL + 1
                assert first.sees("n1")
        assert not [entry for entry in logged if entry["log_level"] == "error"]

    run(scenario)


def test_a_key_that_somebody_deletes_is_put_again_with_the_same_lease() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, "n1", "n2") as (first, second):
            client, _ = store.client()
            lease = first.nodes.lease
            for number in range(3):
                first.nodes.tell({"api": str(number)})
                deleted = await client.delete(PREFIX + "n1")
                await asyncio.sleep(0.1)
                assert first.sees("n1", "n2")
                assert second.sees("n1", "n2")
                assert second.nodes.live["n1"].pools == {"api": str(number)}
                assert first.nodes.lease is lease
                kv = await client.get(PREFIX + "n1")
                assert kv is not None
                assert kv.create_revision > deleted.header.revision

    run(scenario)


def test_a_name_that_somebody_takes_meanwhile_is_waited_for() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, "n1") as (first,):
            client, _ = store.client()
            other = Balancer(store, "n1")
            first.link.wire.cut()
            await client.delete(PREFIX + "n1")
            other.begin()
            await until(lambda: other.sees("n1"))
            first.nodes.tell({"not": "theirs"})
            first.link.wire.mend()
            await asyncio.sleep(TTL)
            assert other.nodes.live == {"n1": NodeInfo()}
            assert (first.nodes.known, first.nodes.lease) == (False, None)
            assert other.nodes.known
            await other.end()
            await until(lambda: first.sees("n1"))

    run(scenario)


def test_a_key_that_was_deleted_unheard_is_put_again() -> None:
    """The deletion was compacted away before it was heard of."""

    async def scenario(store: Store) -> None:
        async with balancers(store, "n1", "n2") as (first, second):
            first.link.wire.snap()
            await forget(store, PREFIX + "n1")
            first.link.wire.mend()
            await asyncio.sleep(TTL / 4)  # within the lease
            assert first.sees("n1", "n2")
            assert second.sees("n1", "n2")

    run(scenario)


def test_changes_that_were_compacted_away_unheard_are_read() -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, "n1", "n2") as (first, second):
            third = Balancer(store, "n3")
            with capture_logs() as logged:
                first.link.wire.snap()
                third.begin()
                await second.end()
                await until(lambda: third.sees("n3", "n1"))
                await forget(store, "other")
                first.link.wire.mend()
                await until(lambda: first.sees("n1", "n3"))
            said = [(entry["event"], entry["node"]) for entry in logged if entry["event"].startswith("node.")]
            assert said.count((events.NODE_LEFT, "n2")) == 2
            assert not [entry for entry in logged if entry["event"] == events.CLUSTER_CUT_OFF]
            await third.end()

    run(scenario)


async def forget(store: Store, key: str) -> None:
    """Delete a key, and all history."""
    client, _ = store.client()
    await client.put("other", "")
    await client.delete(key)
    last = (await client.put("other", "")).header.revision
    await client.compact(last)


def test_what_cannot_be_read_is_ignored_and_the_log_says_so_once() -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        await client.put(PREFIX + "junk", b"\xff")
        with capture_logs() as logged:
            async with balancers(store, "n1") as (first,):
                for value in (b'{"pools": 1}', b'{"version": 2}', b"", b"[]"):
                    await client.put(PREFIX + "junk", value)
                    await client.put(PREFIX.encode() + b"\xff", value)
                await client.put(PREFIX + "n2", b'{"version": 1, "pools": {"a": "b"}, "later": 1}')
                await until(lambda: first.sees("n1", "n2"))
                await client.put(PREFIX + "n2", b"junk")
                await until(lambda: first.sees("n1"))
                await client.put(PREFIX + "junk", b"{}")
                await until(lambda: first.sees("n1", "junk"))
        complaints = [entry["key"] for entry in logged if entry["event"] == events.KEY_IGNORED]
        assert sorted(complaints) == [PREFIX + "junk", PREFIX + "n2", PREFIX + "\ufffd"]

    run(scenario)


def test_there_is_a_bound_to_those_taken_notice_of() -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        await put_many(client, range(NODES_MAX - 2))
        with capture_logs() as logged:
            first = Balancer(store, "a")
            first.begin()
            await until(lambda: first.nodes.known)
            await put_many(client, range(NODES_MAX + 20))
            await until(lambda: len(first.nodes.live) == NODES_MAX)
            await asyncio.sleep(1)
            assert len(first.nodes.live) == NODES_MAX
            first.link.wire.snap()
            await forget(store, "other")
            first.link.wire.mend()
            await asyncio.sleep(30)
            assert len(first.nodes.live) == NODES_MAX
            assert first.nodes.known
            await first.end()
        assert [entry["key"] for entry in logged if entry["event"] == events.KEY_IGNORED] == [PREFIX]

    run(scenario)


def name_of(number: int) -> str:
    return f"m{number:04}"


async def put_many(client: Coordination, numbers: range) -> None:
    for number in numbers:
        await client.put(PREFIX + name_of(number), b"{}")


def test_stopping_without_a_cluster_takes_less_than_a_second() -> None:
    async def scenario(store: Store) -> None:
        alone = Balancer(store, "n1")
        alone.begin()
        await until(lambda: alone.sees("n1"))
        alone.link.wire.cut()
        await asyncio.sleep(1)  # the lease is held still, so it is to be given back
        assert alone.nodes.lease is not None
        began = now()
        await alone.end()
        assert now() - began < 1
        assert len(asyncio.all_tasks()) == 1

    run(scenario)
