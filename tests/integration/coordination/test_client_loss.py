"""What the client does when members, or its own process, die or stand still: they are killed and stopped."""

import asyncio
import signal
import sys
import textwrap
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from balancer.clock import monotonic
from balancer.consensus.client import Coordination
from balancer.consensus.client_claim import Grant
from balancer.consensus.client_errors import LockLostError, NotReachedError, OutcomeUnknownError
from balancer.consensus.client_kv import put
from tests.support.coordination_etcd import Etcd
from tests.support.coordination_own import Own

KINDS = [pytest.param(Etcd, id="etcd"), pytest.param(Own, id="ours", marks=pytest.mark.full)]


@pytest.fixture(params=KINDS)
def one(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Etcd | Own]:
    with request.param(tmp_path) as running:
        yield running


@pytest.fixture(scope="module", params=KINDS)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd | Own]:
    with request.param(tmp_path_factory.mktemp("members"), members=3) as running:
        yield running


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def running() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(running())


async def leader_of(client: Coordination) -> int:
    """The number of the member that leads."""
    while True:
        statuses = [standing.status for standing in await client.status()]
        for number, status in enumerate(statuses):
            if status is not None and status.leader == status.header.member_id:
                return number
        await asyncio.sleep(0.02)


async def renewed(grant: Grant) -> None:
    """The cluster was heard of again."""
    until = grant.lease._deadline
    while grant.lease._deadline == until:
        assert grant.held, grant.why
        await asyncio.sleep(0.02)


# ---- the holder and its clock


def test_a_holder_that_cannot_renew_knows_of_its_loss_before_its_ttl_is_over(one: Etcd | Own) -> None:
    async def scenario() -> None:
        async with Coordination(one.urls) as client:
            with pytest.raises(LockLostError, match="not renewed in time"):
                async with client.lock("l", ttl=2) as grant:
                    granted = monotonic()
                    one.pause()
                    try:
                        await grant.lost.wait()
                    finally:
                        one.resume()
                    assert monotonic() - granted < grant.lease.ttl  # it was granted later than its time counts from
                    assert not grant.held

    run(scenario)


def test_a_member_that_dies_and_comes_back_in_time_costs_no_lock(one: Etcd | Own) -> None:
    async def scenario() -> None:
        async with Coordination(one.urls) as client:
            async with client.lock("l", ttl=5) as grant:
                await asyncio.to_thread(one.kill)
                await asyncio.to_thread(one.restart)
                await renewed(grant)
                assert (await client.txn([grant.guard])).succeeded

    run(scenario)


_HOLDER = """
    import asyncio, sys
    from balancer.consensus.client import Coordination
    from balancer.consensus.client_kv import put

    async def main():
        async with Coordination([sys.argv[1]]) as client, client.lock("l", ttl=1) as grant:
            print(grant.token, flush=True)
            sys.stdin.readline()  # does not let the event loop run: nothing is renewed, no timer is looked at
            if sys.argv[2] == "looks":
                print(grant.held, grant.lost.is_set(), flush=True)
            answer = await client.txn([grant.guard], then=[put("written-by", "first")])
            print(answer.succeeded, flush=True)

    asyncio.run(main())
"""


@pytest.mark.parametrize("looks", ["looks", "does not look"])
def test_a_holder_that_was_stopped_can_do_no_harm(one: Etcd | Own, tmp_path: Path, looks: str) -> None:
    """Two at once believe that they hold it: the clock tells the one that was stopped, its token stops it anyway."""
    script = tmp_path / "holder.py"
    script.write_text(textwrap.dedent(_HOLDER))

    async def scenario() -> None:
        holder = await asyncio.create_subprocess_exec(
            sys.executable,
            str(script),
            one.urls[0],
            looks,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        try:
            assert holder.stdout is not None
            assert holder.stdin is not None
            first = int(await holder.stdout.readline())
            holder.send_signal(signal.SIGSTOP)
            async with Coordination(one.urls) as client, client.lock("l", ttl=5) as grant:
                assert grant.token > first
                assert (await client.txn([grant.guard], then=[put("written-by", "second")])).succeeded
                holder.send_signal(signal.SIGCONT)
                holder.stdin.write(b"\n")
                said = (await holder.stdout.read()).split()
                assert said == ([b"False", b"True"] if looks == "looks" else []) + [b"False"]
                found = await client.get("written-by")
                assert found is not None
                assert found.value == b"second"
                assert grant.held
            assert holder.stderr is not None
            assert b"LockLostError" in await holder.stderr.read()  # the block could not end as if nothing had been
            await holder.wait()
        finally:
            if holder.returncode is None:
                holder.kill()

    run(scenario)


# ---- several members


def test_a_lock_outlives_the_leader_of_the_cluster(cluster: Etcd | Own) -> None:
    async def scenario() -> None:
        async with Coordination(cluster.urls) as client:
            leader = await leader_of(client)
            async with client.lock("outlives", ttl=6) as grant:
                await asyncio.to_thread(cluster.kill, leader)
                try:
                    await renewed(grant)
                    assert (await client.txn([grant.guard])).succeeded
                finally:
                    await asyncio.to_thread(cluster.restart, leader)

    run(scenario)


def test_a_stopped_member_is_left_by_reads_locks_and_watches(cluster: Etcd | Own) -> None:
    async def scenario() -> None:
        async with (
            Coordination(cluster.urls, timeout=1.0) as client,
            Coordination(cluster.urls[1:], timeout=1.0) as other,
        ):
            await leader_of(client)
            async with client.watch("w", idle=0.2) as watch, client.lock("stopped", ttl=5) as grant:
                assert watch._server is not None
                assert watch._server.url == cluster.urls[0]
                cluster.pause(0)
                try:
                    while (await put_somehow(other, "w", "1")) is False:
                        pass
                    assert (await anext(watch)).kv.value == b"1"
                    assert await client.get("w") is not None
                    await renewed(grant)
                finally:
                    cluster.resume(0)

    run(scenario)


async def put_somehow(client: Coordination, key: str, value: str) -> bool:
    """Write; False where that was not done for sure, as in an election."""
    try:
        await client.put(key, value)
    except (OutcomeUnknownError, NotReachedError):
        return False
    return True


def test_a_change_that_met_a_stopped_member_is_not_sent_again_and_the_next_goes_elsewhere(cluster: Etcd | Own) -> None:
    async def scenario() -> None:
        async with Coordination(cluster.urls, timeout=0.5, exactly_once=False) as client:
            while not await put_somehow(client, "n", "0"):
                pass
            stopped = client._endpoints.servers.index(client._endpoints.current)
            cluster.pause(stopped)
            try:
                with pytest.raises(OutcomeUnknownError, match="may have been done, or not: no complete answer"):
                    await client.put("n", "1")
                while not await put_somehow(client, "n", "2"):
                    pass
                found = await client.get("n")
                assert found is not None
                assert found.value == b"2"
            finally:
                cluster.resume(stopped)

    run(scenario)


def test_who_waits_for_a_lock_gets_it_over_the_death_of_a_member(cluster: Etcd | Own) -> None:
    async def scenario() -> None:
        async with Coordination(cluster.urls) as holder, Coordination(cluster.urls) as waiter:
            leader = await leader_of(holder)
            async with holder.lock("waits", ttl=10) as grant:
                waiting = asyncio.create_task(waiter.lock("waits", ttl=10).__aenter__())
                while (await holder.get_prefix("waits/")).count < 2:
                    await asyncio.sleep(0.02)
                await asyncio.to_thread(cluster.kill, leader)
                await asyncio.to_thread(cluster.restart, leader)
                assert not waiting.done()
            later = await waiting
            assert later.token > grant.token
            await later.give_up()

    run(scenario)
