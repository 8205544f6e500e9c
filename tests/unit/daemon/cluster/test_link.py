"""What keeps a part of the balancer going while the cluster comes and goes."""

import asyncio
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from balancer.config.model import Coordination, Etcd
from balancer.consensus.client_errors import NotReachedError
from balancer.coordination.responses import Event, EventType, RangeResponse
from balancer.daemon.cluster.link import CLOSE_WITHIN, RETRY_FIRST, RETRY_MAX, ClusterLink, Reached
from balancer.telemetry import events
from tests.unit.daemon.cluster.virtual_store import Store, run, until


def now() -> float:
    return asyncio.get_running_loop().time()


def test_what_the_cluster_fails_is_tried_again_after_a_pause_that_grows_and_is_logged_once() -> None:
    async def scenario(store: Store) -> None:
        link = store.link("n1")
        tries: list[float] = []

        async def life(reached: Reached) -> None:
            tries.append(now())
            if len(tries) == 10:
                reached()
            raise NotReachedError("nobody answers")

        with capture_logs() as logged:
            task = asyncio.create_task(link.keep("part", life))
            await until(lambda: len(tries) == 12, 60)
            task.cancel()
        pauses = [later - earlier for earlier, later in pairwise(tries)]
        assert pauses[:3] == pytest.approx([RETRY_FIRST, RETRY_FIRST * 2, RETRY_FIRST * 4])
        assert max(pauses) == pytest.approx(RETRY_MAX)
        assert pauses[9] == pytest.approx(RETRY_FIRST)
        said = [(entry["event"], entry["part"]) for entry in logged]
        cut_off, back = (events.CLUSTER_CUT_OFF, "part"), (events.CLUSTER_REACHED, "part")
        assert said == [cut_off, back, cut_off]

    run(scenario)


def test_a_fault_of_our_own_is_not_swallowed() -> None:
    async def scenario(store: Store) -> None:
        async def life(reached: Reached) -> None:
            raise KeyError

        with pytest.raises(KeyError):
            await store.link("n1").keep("part", life)

    run(scenario)


class Follower:
    """What is below "a/", as `follow` tells it."""

    def __init__(self) -> None:
        self.keys: dict[bytes, bytes] = {}
        self.reads = 0

    def read(self, answer: RangeResponse) -> None:
        self.reads += 1
        self.keys = {kv.key: kv.value for kv in answer.kvs}

    def heard(self, event: Event) -> None:
        if event.type is EventType.DELETE:
            del self.keys[event.kv.key]
        else:
            self.keys[event.kv.key] = event.kv.value


def test_a_follower_has_what_is_there_over_lost_connections_and_compaction() -> None:
    async def scenario(store: Store) -> None:
        link, follower = store.link("n1"), Follower()
        client, _ = store.client()
        await client.put("a/1", "1")
        await client.put("b", "1")

        async def life(reached: Reached) -> None:
            await link.follow("a/", read=follower.read, heard=follower.heard, reached=reached)

        task = asyncio.create_task(link.keep("part", life))
        await until(lambda: follower.keys == {b"a/1": b"1"})
        await client.put("a/2", "2")
        await client.delete("a/1")
        await until(lambda: follower.keys == {b"a/2": b"2"})
        link.wire.snap()
        await client.put("a/3", "3")
        link.wire.mend()
        await until(lambda: follower.keys == {b"a/2": b"2", b"a/3": b"3"})
        assert follower.reads == 1
        link.wire.snap()
        await client.delete("a/3")
        await client.compact((await client.put("b", "2")).header.revision)
        link.wire.mend()
        await until(lambda: follower.keys == {b"a/2": b"2"})
        assert follower.reads == 2
        await client.put("a/4", "4")
        await until(lambda: b"a/4" in follower.keys)
        task.cancel()
        await link.close()

    run(scenario)


def test_a_member_that_hangs_is_found_out_by_a_follower() -> None:
    """It says nothing, and its connection stands: after a while it is asked."""

    async def scenario(store: Store) -> None:
        link, follower = store.link("n1"), Follower()

        async def life(reached: Reached) -> None:
            await link.follow("a/", read=follower.read, heard=follower.heard, reached=reached)

        task = asyncio.create_task(link.keep("part", life))
        await until(lambda: follower.reads)
        await asyncio.sleep(60)
        probes = link.wire.requests.count("/v3/kv/range") - 1
        assert 20 <= probes <= 30
        task.cancel()
        await link.close()

    run(scenario)


def test_closing_waits_for_what_is_given_back_and_not_for_ever() -> None:
    async def scenario(store: Store) -> None:
        for takes, given_back in ((CLOSE_WITHIN / 2, True), (60.0, False)):
            link, done = store.link("n1"), False

            async def life(reached: Reached, takes: float = takes) -> None:
                nonlocal done
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(takes)
                    done = True

            task = asyncio.create_task(link.keep("part", life))
            await asyncio.sleep(0.01)
            task.cancel()
            began = now()
            await link.close()
            assert now() - began <= CLOSE_WITHIN + 0.01
            assert done is given_back
            task.cancel()

    run(scenario)


def test_a_balancer_has_the_name_of_its_member_or_the_one_given_or_that_of_its_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "machine")

    async def scenario(store: Store) -> None:
        assert (store.link("n2").name, store.link("n2").embedded) == ("n2", True)
        assert (store.link("lb1", embedded=False).name, store.link("lb1", embedded=False).embedded) == ("lb1", False)
        nameless = Coordination(etcd=Etcd(endpoints=("http://127.0.0.1:1",)))
        assert ClusterLink(nameless, None).name == "machine"

    run(scenario)
