"""Locks and elections of the client against a real etcd and our own service: one holder, rising tokens, no rests."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest

from balancer.consensus.client import Coordination
from balancer.consensus.client_errors import LeaseLostError, LockLostError, NotAcquiredError
from balancer.consensus.client_http import Server
from balancer.consensus.client_kv import put
from balancer.consensus.client_lock import DELAY_PREFIX
from balancer.coordination.responses import KeyValue
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
    """Run a scenario with a client of an empty store; afterwards no key, lease, task or connection is left."""

    def running(scenario: Scenario) -> None:
        async def with_client() -> None:
            async with asyncio.timeout(60):
                async with Coordination([url]) as client:
                    await client.delete_prefix("")
                    await scenario(client)
                    await settled(client)
                    left = await client.get_prefix("")
                    assert [kv.key for kv in left.kvs if b"kept" not in kv.key] == []
                assert await leases(url) == []
            assert len(asyncio.all_tasks()) == 1
            assert [server.connections for server in client._endpoints.servers] == [0]

        asyncio.run(with_client())

    return running


async def settled(client: Coordination) -> None:
    """What is given up in the background is given up."""
    while client._background._last_words:
        await asyncio.sleep(0.005)


async def leases(url: str) -> list[int]:
    server = Server(url)
    answer = await server.exchange("/v3/lease/leases", b"{}", timeout=5)
    server.close()
    return [int(lease["ID"]) for lease in msgspec.json.decode(answer.body).get("leases", [])]


async def queue(client: Coordination, name: str) -> list[KeyValue]:
    """Who holds it and who waits, in their order."""
    return sorted((await client.get_prefix(f"{name}/")).kvs, key=lambda kv: kv.create_revision)


async def queued(client: Coordination, name: str, number: int) -> None:
    while len(await queue(client, name)) < number:
        await asyncio.sleep(0.005)


# ---- locks


def test_a_lock_has_one_holder_at_a_time_each_with_a_higher_token(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        inside: list[int] = []
        tokens: list[int] = []

        async def hold(number: int) -> None:
            async with client.lock("l", ttl=5) as grant:
                inside.append(number)
                assert inside == [number]
                assert grant.held
                tokens.append(grant.token)
                await asyncio.sleep(0.002)
                inside.remove(number)

        await asyncio.gather(*(hold(number) for number in range(12)))
        assert len(tokens) == 12
        assert tokens == sorted(set(tokens))

    run(scenario)


def test_who_came_first_gets_it_first(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        order: list[int] = []

        async def hold(number: int) -> None:
            async with client.lock("l", ttl=5):
                order.append(number)

        async with client.lock("l", ttl=5):
            tasks = []
            for number in range(5):
                tasks.append(asyncio.create_task(hold(number)))
                await queued(client, "l", number + 2)
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3, 4]

    run(scenario)


def test_the_token_is_the_create_revision_of_the_key_and_the_guard_compares_it(
    run: Callable[[Scenario], None],
) -> None:
    async def scenario(client: Coordination) -> None:
        async with client.lock("l", ttl=5) as grant:
            found = await client.get(grant.key)
            assert found is not None
            assert (found.create_revision, found.lease) == (grant.token, grant.lease.id)
            assert (await client.txn([grant.guard], then=[put("kept", "1")])).succeeded
        assert not (await client.txn([grant.guard], then=[put("kept", "2")])).succeeded
        assert not grant.held
        assert not grant.lost.is_set()
        async with client.lock("l", ttl=5) as later:
            assert later.token > grant.token
            assert not (await client.txn([grant.guard])).succeeded

    run(scenario)


@pytest.mark.parametrize("seed", range(2))
def test_a_cancelled_acquisition_leaves_nothing_behind(run: Callable[[Scenario], None], seed: int) -> None:
    """At any moment, with and without somebody before."""
    rng = random.Random(seed)

    async def scenario(client: Coordination) -> None:
        async def hold() -> None:
            async with client.lock("l", ttl=5, delay=rng.choice([0.0, 0.001])):
                await asyncio.sleep(rng.uniform(0, 0.005))

        for _ in range(20):
            tasks = [asyncio.create_task(hold()) for _ in range(2)]
            for task in tasks:
                await asyncio.sleep(rng.uniform(0, 0.008))
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await settled(client)
        assert await queue(client, "l") == []
        await client.delete_prefix(DELAY_PREFIX)

    run(scenario)


def test_waiting_has_an_end_when_asked_for(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        async with client.lock("l", ttl=5):
            with pytest.raises(NotAcquiredError, match=r"l was not got within 0\.05 s"):
                async with client.lock("l", ttl=5, timeout=0.05):
                    raise AssertionError
            await settled(client)
            assert len(await queue(client, "l")) == 1

    run(scenario)


def test_a_holder_hears_that_its_key_was_deleted_and_leaves_with_an_error(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        with pytest.raises(LockLostError, match="its key was deleted"):
            async with client.lock("l", ttl=60) as grant:
                await client.delete(grant.key)
                await grant.lost.wait()
                assert not grant.held

    run(scenario)


def test_an_error_inside_the_block_is_not_hidden_by_the_loss(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        with pytest.raises(KeyError):
            async with client.lock("l", ttl=60) as grant:
                await client.delete(grant.key)
                await grant.lost.wait()
                raise KeyError

    run(scenario)


def test_code_may_run_only_while_it_holds(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        async with client.lock("l", ttl=60) as grant:
            async with grant.while_held():
                await asyncio.sleep(0)
        with pytest.raises(LockLostError, match="deleted"):
            async with client.lock("l", ttl=60) as grant, grant.while_held():
                await client.delete(grant.key)
                await asyncio.sleep(60)

    run(scenario)


def test_who_waits_and_whose_key_is_deleted_does_not_get_it(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        async def hold() -> None:
            async with client.lock("l", ttl=60):
                raise AssertionError

        async with client.lock("l", ttl=60):
            waiting = asyncio.create_task(hold())
            await queued(client, "l", 2)
            await client.delete((await queue(client, "l"))[1].key)
        with pytest.raises(LeaseLostError, match="waited in the queue was deleted"):
            await waiting

    run(scenario)


def test_it_excludes_the_servers_own_lock_service(run: Callable[[Scenario], None], url: str) -> None:
    async def scenario(client: Coordination) -> None:
        server = Server(url)
        async with client.lease(60) as lease:
            body = msgspec.json.encode({"name": b"l", "lease": lease.id})
            async with client.lock("l", ttl=5):
                theirs = asyncio.create_task(server.exchange("/v3/lock/lock", body, timeout=30))
                await queued(client, "l", 2)
                assert not theirs.done()
            key = msgspec.json.decode((await theirs).body)["key"]
            with pytest.raises(NotAcquiredError):
                async with client.lock("l", ttl=5, timeout=0.05):
                    raise AssertionError
            await server.exchange("/v3/lock/unlock", msgspec.json.encode({"key": key}), timeout=5)
            async with client.lock("l", ttl=5):
                pass
        server.close()

    run(scenario)


def test_after_a_holder_that_did_not_release_the_next_one_waits_the_delay(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        now = asyncio.get_running_loop().time
        with pytest.raises(LockLostError):
            async with client.lock("l", ttl=5, delay=0.3) as grant:
                await client.delete(grant.key)
                await grant.lost.wait()
        began = now()
        async with client.lock("l", ttl=5, delay=0.3):
            assert now() - began >= 0.3
        began = now()
        async with client.lock("l", ttl=5, delay=30):
            assert now() - began < 20
        assert (await client.get_prefix(DELAY_PREFIX)).count == 0

    run(scenario)


# ---- elections


def test_one_leads_and_everybody_who_asks_knows(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        election = client.election("e")
        assert await election.leader() is None
        async with election.campaign("node-1", ttl=5) as first:
            leader = await election.leader()
            assert leader is not None
            assert (leader.value, leader.create_revision, leader.key) == (b"node-1", first.token, first.key)
            await first.proclaim("node-1, warm")
            leader = await election.leader()
            assert leader is not None
            assert (leader.value, leader.create_revision) == (b"node-1, warm", first.token)
            second = asyncio.create_task(lead(client, "node-2"))
            await queued(client, "e", 2)
            await first.resign()
            assert (await second) > first.token
            assert not first.held
        assert await election.leader() is None

    async def lead(client: Coordination, value: str) -> int:
        async with client.election("e").campaign(value, ttl=5) as leadership:
            return leadership.token

    run(scenario)


def test_who_does_not_lead_any_more_cannot_proclaim(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        with pytest.raises(LockLostError, match="its key is gone"):
            async with client.election("e").campaign("a", ttl=60) as leadership:
                leadership._watching.cancel()  # it has not heard of it
                await client.delete(leadership.key)
                await leadership.proclaim("b")
        assert leadership.lost.is_set()

    run(scenario)


def test_an_observer_hears_of_every_leader(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        async with client.election("e").observe() as leaders:
            seen = []
            for value in ("a", "b"):
                async with client.election("e").campaign(value, ttl=5) as leadership:
                    seen.append((await anext(leaders)).value)
                    await leadership.proclaim(value + "!")
                    seen.append((await anext(leaders)).value)
            assert seen == [b"a", b"a!", b"b", b"b!"]

    run(scenario)


def test_an_observer_outlives_compaction(run: Callable[[Scenario], None]) -> None:
    async def scenario(client: Coordination) -> None:
        async with client.election("e").observe() as leaders:
            assert leaders._watch is not None
            await leaders._watch._close()  # the connection is lost, and before it comes back ...
            async with client.election("e").campaign("a", ttl=5):
                last = (await client.put("kept", "")).header.revision
                await client.compact(last)
                assert (await anext(leaders)).value == b"a"

    run(scenario)
