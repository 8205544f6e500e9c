"""Keys, transactions, leases and watches of the client: the same against a real etcd and our own service."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from balancer.consensus.client import Coordination
from balancer.consensus.client_errors import CompactedError, RefusedError
from balancer.consensus.client_kv import (
    Operation,
    created_at,
    delete,
    delete_prefix,
    exists,
    get,
    get_prefix,
    missing,
    modified_at,
    prefix_range,
    put,
    transaction,
    value_is,
    version_is,
)
from balancer.coordination.errors import Code
from balancer.coordination.requests import Compare, WatchFilter
from balancer.coordination.responses import Event, EventType
from tests.support.coordination_etcd import Etcd
from tests.support.etcd_thread import ThreadedEtcd

Scenario = Callable[[Coordination], Awaitable[None]]


@pytest.fixture(scope="module", params=["etcd", "ours"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real etcd, and our own service behind its gateway."""
    if request.param == "ours":
        with ThreadedEtcd() as ours:
            yield ours.url
    else:
        with Etcd(tmp_path_factory.mktemp("etcd")) as etcd:
            yield etcd.urls[0]


@pytest.fixture
def run(url: str) -> Callable[[Scenario], None]:
    """Run a scenario with a client of an empty store; afterwards no task and no connection is left."""

    def running(scenario: Scenario) -> None:
        async def with_client() -> None:
            async with asyncio.timeout(60):
                async with Coordination([url]) as client:
                    await client.delete_prefix("")
                    await scenario(client)
            assert len(asyncio.all_tasks()) == 1
            assert [server.connections for server in client._endpoints.servers] == [0]

        asyncio.run(with_client())

    return running


def test_what_is_put_is_got_and_deleted(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        first = await client.put("a", b"\x00\xff")
        second = await client.put("a", "new", prev_kv=True)
        assert second.prev_kv is not None
        assert second.prev_kv.value == b"\x00\xff"
        found = await client.get("a")
        assert found is not None
        assert (found.value, found.version) == (b"new", 2)
        assert (found.create_revision, found.mod_revision) == (first.header.revision, second.header.revision)
        old = await client.get("a", revision=first.header.revision)
        assert old is not None
        assert old.value == b"\x00\xff"
        assert (await client.delete("a")).deleted == 1
        assert (await client.delete("a")).deleted == 0
        assert await client.get("a") is None
        assert await client.get("a", serializable=True) is None

    run(scenario)


def test_a_prefix_is_every_key_that_begins_with_it_and_no_other(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        keys = [b"a", b"a/", b"a/1", b"a/\xff", b"a0", b"\xfe", b"\xff", b"\xff\xff", b"\xff\xff1"]
        for key in keys:
            await client.put(key, b"")
        for prefix in (b"", b"a", b"a/", b"a/\xff", b"\xff", b"\xff\xff", b"b"):
            found = await client.get_prefix(prefix, keys_only=True)
            assert [kv.key for kv in found.kvs] == sorted(key for key in keys if key.startswith(prefix)), prefix
        assert (await client.delete_prefix(b"a/")).deleted == 3
        assert (await client.get_prefix("a", limit=1)).more
        assert (await client.get_prefix("a")).count == 2

    run(scenario)


def test_prefix_ends() -> None:
    assert prefix_range("a") == (b"a", b"b")
    assert prefix_range(b"a\xff") == (b"a\xff", b"b")
    assert prefix_range(b"\xff") == (b"\xff", b"\0")
    assert prefix_range("") == (b"\0", b"\0")


def test_each_comparison_holds_exactly_when_it_says(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        created = (await client.put("a", "1")).header.revision
        modified = (await client.put("a", "2")).header.revision
        holds = [
            exists("a"),
            missing("b"),
            created_at("a", created),
            created_at("b", 0),
            modified_at("a", modified),
            modified_at("b", 0),
            version_is("a", 2),
            value_is("a", "2"),
        ]
        holds_not = [
            exists("b"),
            missing("a"),
            created_at("a", modified),
            modified_at("a", created),
            version_is("a", 1),
            value_is("a", "1"),
            value_is("b", ""),
        ]
        for compare, expected in [*((one, True) for one in holds), *((one, False) for one in holds_not)]:
            assert (await client.txn([compare])).succeeded is expected, compare
        assert (await client.txn(holds)).succeeded
        assert not (await client.txn([*holds, holds_not[0]])).succeeded

    run(scenario)


def test_a_transaction_does_one_of_its_lists_in_order(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        await client.put("x", "1")
        nested = transaction([exists("x")], [get_prefix("x")])
        then: list[Operation] = [put("a", "1"), get("a"), delete("x"), delete_prefix("y"), nested]
        done = await client.txn([missing("a")], then=then, otherwise=[get("a")])
        assert done.succeeded
        kinds = [
            (part.response_put, part.response_range, part.response_delete_range, part.response_txn)
            for part in done.responses
        ]
        assert [[one is not None for one in kind].index(True) for kind in kinds] == [0, 1, 2, 2, 3]
        assert kinds[1][1] is not None
        assert kinds[1][1].kvs[0].value == b"1"
        again = await client.txn([missing("a")], then=[put("a", "2")], otherwise=[get("a")])
        assert not again.succeeded
        assert again.responses[0].response_range is not None
        assert again.responses[0].response_range.kvs[0].value == b"1"

    run(scenario)


def test_nobodys_change_is_lost_when_each_compares_what_it_read(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        await client.put("n", "0")

        async def add() -> None:
            done = False
            while not done:
                found = await client.get("n")
                assert found is not None
                guard: Compare = modified_at("n", found.mod_revision)
                done = (await client.txn([guard], then=[put("n", str(int(found.value) + 1))])).succeeded

        await asyncio.gather(*(add() for _ in range(10)))
        found = await client.get("n")
        assert found is not None
        assert found.value == b"10"

    run(scenario)


def test_a_refusal_has_etcds_code_and_words(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        with pytest.raises(RefusedError, match="requested lease not found") as caught:
            await client.put("a", "1", lease=12345)
        assert caught.value.code is Code.NOT_FOUND
        with pytest.raises(RefusedError, match="future revision"):
            await client.get("a", revision=10**9)
        with pytest.raises(RefusedError, match="key is not provided"):
            await client.put("", "1")

    run(scenario)


def test_keys_live_as_long_as_their_lease(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        async with client.lease(1) as lease:
            await client.put("a", "1", lease=lease)
            await client.txn([], then=[put("b", "2", lease=lease)])
            until = lease._deadline
            while lease._deadline == until:  # it is renewed
                await asyncio.sleep(0.01)
            assert lease.held
            assert (await client.get_prefix("")).count == 2
        assert (await client.get_prefix("")).count == 0

    run(scenario)


# ---- watches


async def first(client: Coordination, number: int, key: str, **options: object) -> list[Event]:
    """The first so many events of a watch."""
    async with client.watch(key, **options) as watch:  # type: ignore[arg-type]
        return [await anext(watch) for _ in range(number)]


def test_a_watch_tells_each_change_once_and_in_order(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        async with client.watch("w/", prefix=True, prev_kv=True) as watch:
            for number in range(5):
                await client.put(f"w/{number}", str(number))
            await client.put("other", "")
            await client.txn([], then=[put("w/0", "x"), delete("w/1")])
            found = [await anext(watch) for _ in range(7)]
        assert [one.kv.value for one in found[:5]] == [b"0", b"1", b"2", b"3", b"4"]
        assert found[5].prev_kv is not None
        assert found[5].prev_kv.value == b"0"
        assert (found[6].type, found[6].kv.key) == (EventType.DELETE, b"w/1")
        assert watch.revision == found[6].kv.mod_revision == found[5].kv.mod_revision

    run(scenario)


def test_a_watch_begins_where_it_is_told_to(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        revisions = [(await client.put("w", str(number))).header.revision for number in range(4)]
        found = await first(client, 2, "w", start_revision=revisions[2])
        assert [one.kv.value for one in found] == [b"2", b"3"]
        await client.delete("w")
        found = await first(client, 1, "w", start_revision=revisions[0], filters=[WatchFilter.NOPUT])
        assert found[0].type is EventType.DELETE

    run(scenario)


def test_a_reading_and_a_watch_from_its_revision_miss_nothing(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        async def write() -> None:
            for number in range(200):
                await client.put(f"k/{number % 7}", str(number))

        writing = asyncio.create_task(write())
        await asyncio.sleep(0.05)
        start = await client.get_prefix("k/")
        seen = {kv.key: kv.value for kv in start.kvs}
        async with client.watch("k/", prefix=True, start_revision=start.header.revision + 1) as watch:
            while seen.get(b"k/3") != b"199":  # 199 = 28 * 7 + 3
                one = await anext(watch)
                seen[one.kv.key] = one.kv.value
        await writing
        assert seen == {kv.key: kv.value for kv in (await client.get_prefix("k/")).kvs}

    run(scenario)


def test_a_compacted_start_is_an_error_that_says_what_to_do(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        begin = (await client.put("w", "1")).header.revision
        last = (await client.put("w", "2")).header.revision
        await client.compact(last)
        with pytest.raises(CompactedError, match="read the keys anew") as caught:
            await first(client, 1, "w", start_revision=begin)
        assert caught.value.compact_revision == last

    run(scenario)


def test_a_watch_survives_the_death_of_its_member(tmp_path: Path) -> None:
    async def scenario(etcd: Etcd) -> None:
        async with asyncio.timeout(60), Coordination(etcd.urls) as client:
            async with client.watch("w") as watch:
                await client.put("w", "1")
                assert (await anext(watch)).kv.value == b"1"
                await asyncio.to_thread(etcd.kill)
                waiting = asyncio.ensure_future(anext(watch))
                await asyncio.to_thread(etcd.restart)
                await client.put("w", "2")
                assert (await waiting).kv.value == b"2"

    with Etcd(tmp_path) as etcd:
        asyncio.run(scenario(etcd))
