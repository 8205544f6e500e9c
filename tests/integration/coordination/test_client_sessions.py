"""Changes whose answers are lost are done once: members are killed, connections cut, sessions given up, and then asked.

Between the client and each member stands a proxy that loses answers: when it has one, the change is done.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from balancer.consensus.client import Coordination
from balancer.consensus.client_errors import OutcomeUnknownError
from balancer.consensus.client_kv import DELETE, PUT, TXN, missing, put
from balancer.coordination.responses import KeyValue
from balancer.coordination.sessions import SESSIONS_MAX
from tests.support.answer_proxy import AnswerProxy
from tests.support.coordination_etcd import Etcd
from tests.support.coordination_own import Own
from tests.support.etcd_http import EtcdHttp

TIMEOUT = 30.0
OPENING = 8


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    with Own(tmp_path_factory.mktemp("members"), members=3) as running:
        yield running


@asynccontextmanager
async def behind_proxies(urls: list[str]) -> AsyncIterator[tuple[Coordination, list[AnswerProxy]]]:
    """A client, and the proxies through which it asks, in the order of `urls`."""
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(AnswerProxy(url)) for url in urls]
        yield (
            await stack.enter_async_context(Coordination([proxy.url for proxy in proxies], timeout=TIMEOUT)),
            proxies,
        )


def run(scenario: Callable[[], Awaitable[None]], seconds: float = 60) -> None:
    async def running() -> None:
        async with asyncio.timeout(seconds):
            await scenario()

    asyncio.run(running())


async def found(cluster: Own, key: str, at: int = 0) -> KeyValue:
    async with Coordination([cluster.urls[at]], timeout=TIMEOUT) as client:
        kv = await client.get(key)
        assert kv is not None
        return kv


async def leader_first(cluster: Own) -> list[int]:
    """The numbers of the members, the leader's first."""
    async with Coordination(cluster.urls, timeout=TIMEOUT) as client:
        while True:
            statuses = [standing.status for standing in await client.status()]
            for number, status in enumerate(statuses):
                if status is not None and status.leader == status.header.member_id:
                    return [number, *(other for other in range(len(statuses)) if other != number)]
            await asyncio.sleep(0.02)


def test_changes_whose_answers_are_lost_are_done_once(cluster: Own) -> None:
    async def scenario() -> None:
        async with behind_proxies(cluster.urls) as (client, proxies):
            for number in range(1, 11):
                for proxy in random.Random(number).sample(proxies, 2):
                    proxy.lose(PUT)
                revision = (await client.put("lost", str(number))).header.revision
                kv = await found(cluster, "lost", at=number % 3)
                assert (kv.version, kv.mod_revision, kv.value) == (number, revision, str(number).encode())
            assert sum(proxy.caught.qsize() for proxy in proxies) >= 10

    run(scenario)


def test_what_would_be_answered_otherwise_the_second_time_is_answered_as_the_first(cluster: Own) -> None:
    async def scenario() -> None:
        async with behind_proxies(cluster.urls) as (client, proxies):
            for proxy in proxies[:2]:
                proxy.lose(TXN)
            created = await client.txn([missing("made")], then=[put("made", "1")], otherwise=[put("made", "2")])
            assert created.succeeded
            for proxy in proxies:
                proxy.lose(DELETE)
            assert (await client.delete("made")).deleted == 1
            lost = [proxy.caught.qsize() for proxy in proxies]
            assert sum(lost) >= 3, lost

    run(scenario)


def test_a_change_is_done_once_though_the_leader_dies_between_doing_and_answering_it(cluster: Own) -> None:
    async def scenario() -> None:
        order = await leader_first(cluster)
        async with behind_proxies([cluster.urls[number] for number in order]) as (client, proxies):
            proxies[0].hold(PUT)
            changing = asyncio.create_task(client.put("killed", "1"))
            answer = json.loads(await proxies[0].caught.get())
            await asyncio.to_thread(cluster.kill, order[0])
            try:
                proxies[0].cut()
                revision = (await changing).header.revision
                assert revision == int(answer["header"]["revision"])
                for number in order[1:]:
                    kv = await found(cluster, "killed", at=number)
                    assert (kv.version, kv.mod_revision) == (1, revision)
            finally:
                await asyncio.to_thread(cluster.restart, order[0])

    run(scenario)


@pytest.mark.full
@pytest.mark.timeout(300)
def test_a_change_is_done_once_whenever_the_leader_dies(cluster: Own) -> None:
    async def scenario() -> None:
        for number in range(1, 11):
            order = await leader_first(cluster)
            async with Coordination([cluster.urls[each] for each in order], timeout=TIMEOUT) as client:
                await client.get("any")  # connected
                changing = asyncio.create_task(client.put("whenever", str(number)))
                await asyncio.sleep(random.uniform(0, 0.02))
                await asyncio.to_thread(cluster.kill, order[0])
                try:
                    revision = (await changing).header.revision
                    kv = await found(cluster, "whenever", at=order[1])
                    assert (kv.version, kv.mod_revision, kv.value) == (number, revision, str(number).encode())
                finally:
                    await asyncio.to_thread(cluster.restart, order[0])

    run(scenario, 280)


async def push_out(url: str) -> None:
    """Open as many sessions as there can be: whichever were there are given up."""
    clients = [EtcdHttp(url) for _ in range(OPENING)]

    async def open_some(client: EtcdHttp) -> None:
        for _ in range(SESSIONS_MAX // OPENING + 1):
            assert (await client.call("/v3/balancer/session", {})).status == 200
        await client.close()

    await asyncio.gather(*map(open_some, clients))


def test_a_session_that_was_given_up_leaves_the_outcome_unknown_and_nothing_is_done_again(cluster: Own) -> None:
    async def scenario() -> None:
        async with behind_proxies(cluster.urls) as (client, proxies):
            await client.put("other", "1")  # the session is there
            proxies[0].hold(PUT)
            changing = asyncio.create_task(client.put("expired", "1"))
            await proxies[0].caught.get()
            await push_out(cluster.urls[1])
            proxies[0].cut()
            with pytest.raises(OutcomeUnknownError, match=r"may have been done, or not: .*session is unknown"):
                await changing
            assert (await found(cluster, "expired")).version == 1
            await client.put("expired", "2")  # with a new session
            assert (await found(cluster, "expired")).version == 2

    run(scenario, 120)


def test_a_change_that_finds_its_session_given_up_is_done_once_with_a_new_one(cluster: Own) -> None:
    async def scenario() -> None:
        async with Coordination(cluster.urls, timeout=TIMEOUT) as client:
            await client.put("renewed", "1")
            await push_out(cluster.urls[2])
            await client.put("renewed", "2")
            assert (await found(cluster, "renewed")).version == 2

    run(scenario, 120)


def test_an_etcd_has_no_sessions_and_a_lost_answer_is_an_unknown_outcome(tmp_path: Path) -> None:
    with Etcd(tmp_path) as etcd:

        async def scenario() -> None:
            async with behind_proxies(etcd.urls) as (client, proxies):
                assert (await client.put("k", "1")).header.revision > 0
                proxies[0].lose(PUT)
                with pytest.raises(OutcomeUnknownError, match="may have been done, or not"):
                    await client.put("k", "2")
                await client.put("k", "3")
                kv = await client.get("k")
                assert kv is not None
                assert (kv.version, kv.value) == (3, b"3")

        run(scenario)
