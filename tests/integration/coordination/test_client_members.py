"""Three real members: all know at which addresses clients reach each, a client learns them, the leader is removed."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from balancer.clock import monotonic
from balancer.consensus.client import Coordination
from balancer.consensus.client_errors import NotReachedError
from balancer.coordination.errors import CoordinationError
from tests.support.coordination_etcd import Etcd
from tests.support.coordination_own import Own
from tests.support.ports import free_ports

ELECTION_MAX = 1.0
"""Seconds without a word of the leader after which every member of `Own` campaigns: twice its election timeout."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    with Own(tmp_path_factory.mktemp("members"), members=3) as running:
        yield running


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def running() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(running())


async def told(url: str) -> dict[str, list[str]]:
    """The client addresses of all members, by name, as one says."""
    async with Coordination([url]) as client:
        return {member.name: list(member.clientURLs) for member in await client.members()}


async def all_tell(cluster: Own) -> None:
    wanted = {f"n{number}": [url] for number, url in enumerate(cluster.urls)}
    for url in cluster.urls:
        while await told(url) != wanted:
            await asyncio.sleep(0.05)


async def leader_of(client: Coordination) -> int:
    """The id of the member that leads."""
    while True:
        for standing in await client.status():
            if standing.status is not None and standing.status.leader == standing.status.header.member_id:
                return standing.status.leader
        await asyncio.sleep(0.02)


def members_command(url: str, *arguments: str) -> str:
    line = [sys.executable, "-m", "balancer", "cluster", "--endpoints", url, "members", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_member_knows_the_client_addresses_of_all_also_after_one_changed(cluster: Own) -> None:
    async def scenario() -> None:
        await all_tell(cluster)
        shown = await asyncio.to_thread(members_command, cluster.urls[1])
        assert all(url in shown for url in cluster.urls), shown
        await asyncio.to_thread(cluster.kill, 2)
        cluster.urls[2] = f"http://127.0.0.1:{free_ports(1)[0]}"
        await asyncio.to_thread(cluster.restart, 2)
        await all_tell(cluster)

    run(scenario)


def test_a_client_that_was_given_one_address_learns_the_others_and_outlives_that_member(cluster: Own) -> None:
    async def scenario() -> None:
        await all_tell(cluster)
        async with Coordination([cluster.urls[0]]) as client, Coordination([cluster.urls[0]], timeout=1.0) as without:
            await client.put("a", "1")
            await client.sync()
            asked = [server.url for server in client._endpoints.servers]
            assert (asked[0], sorted(asked)) == (cluster.urls[0], sorted(cluster.urls))
            await asyncio.to_thread(cluster.kill, 0)
            found = await client.get("a")
            assert found is not None
            await client.put("a", "2")
            with pytest.raises(NotReachedError):
                await without.get("a")
            await asyncio.to_thread(cluster.restart, 0)

    run(scenario)


@pytest.mark.full
def test_the_addresses_of_an_etcd_are_learned_as_well(tmp_path: Path) -> None:
    with Etcd(tmp_path, members=3) as etcd:

        async def scenario() -> None:
            async with Coordination([etcd.urls[1]]) as client:
                await client.sync()
                assert sorted(server.url for server in client._endpoints.servers) == sorted(etcd.urls)

        run(scenario)


async def remove_leader(urls: list[str], *, at_itself: bool) -> list[str]:
    """Remove it while somebody writes at the others. The addresses of who is left."""
    async with Coordination(urls) as everybody:
        leader = await leader_of(everybody)
        members = await everybody.members()
    (gone,) = (member for member in members if leader == member.ID)
    left = {member.ID: member.clientURLs[0] for member in members if member is not gone}
    at = gone.clientURLs[0] if at_itself else next(iter(left.values()))
    async with Coordination([*left.values()], timeout=0.2) as writer, Coordination([at]) as operator:
        await writer.put("w", "0")
        longest, last, after = 0.0, monotonic(), 0
        removing = asyncio.create_task(operator.remove_member(leader))
        while after < 20:  # writes that were begun when it was gone
            gone_before = removing.done()
            with suppress(CoordinationError):
                await writer.put("w", "1")
                longest, last = max(longest, monotonic() - last), monotonic()
                after += gone_before
        assert longest < ELECTION_MAX
        assert {member.ID for member in (await removing).members} == left.keys()
        assert {member.ID for member in await writer.members()} == left.keys()
        assert await leader_of(writer) in left
    return [*left.values()]


def test_leaders_are_removed_and_nobody_waits_for_longer_than_an_election(tmp_path: Path) -> None:
    """Of three the one that leads, asked of another one; then of two, asked of itself."""
    with Own(tmp_path, members=3) as own:

        async def scenario() -> None:
            await all_tell(own)
            two = await remove_leader(own.urls, at_itself=False)
            (last,) = await remove_leader(two, at_itself=True)
            async with Coordination([last]) as client:
                await client.put("alone", "1")

        run(scenario)
