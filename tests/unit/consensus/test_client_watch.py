"""Watches: in order, each once, without a gap, over members that break off, fall silent or belong elsewhere."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from balancer.consensus.client import Coordination
from balancer.consensus.client_errors import CompactedError, NotReachedError, RefusedError
from balancer.coordination.errors import Code
from balancer.coordination.requests import WatchFilter
from balancer.coordination.responses import Event, EventType
from tests.support.coordination_fake import SILENCE, FakeGateway, ok, refused, stream

PATH, RANGE = "/v3/watch", "/v3/kv/range"


def header(revision: int, cluster: int = 1) -> dict[str, Any]:
    return {"header": {"cluster_id": str(cluster), "revision": str(revision)}}


def created(revision: int, cluster: int = 1) -> dict[str, Any]:
    return {"result": {**header(revision, cluster), "created": True}}


def event(revision: int, key: bytes = b"a", kind: str = "PUT") -> dict[str, Any]:
    return {"type": kind, "kv": {"key": base64.b64encode(key).decode(), "mod_revision": str(revision)}}


def events(*revisions: int) -> dict[str, Any]:
    return {"result": {**header(revisions[-1]), "events": [event(revision) for revision in revisions]}}


def starts(gateway: FakeGateway) -> list[int]:
    """From which revisions it was asked to watch."""
    return [body["create_request"]["start_revision"] for body in gateway.bodies(PATH)]


def against(scenario: Callable[[FakeGateway, Coordination], Awaitable[None]]) -> None:
    async def run() -> None:
        async with FakeGateway() as gateway, Coordination([gateway.url], timeout=1.0) as client:
            await scenario(gateway, client)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(within(run()))


async def within(scenario: Awaitable[None]) -> None:
    """A deadline, without a task of its own."""
    async with asyncio.timeout(30):
        await scenario


def revisions(found: list[Event]) -> list[int]:
    return [one.kv.mod_revision for one in found]


def test_a_watch_asks_for_what_it_was_told_to() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(PATH, stream(created(5)))
        async with client.watch("ab", prefix=True, start_revision=3, prev_kv=True, filters=[WatchFilter.NODELETE]):
            pass
        assert gateway.bodies(PATH) == [
            {
                "create_request": {
                    "key": "YWI=",
                    "range_end": "YWM=",
                    "start_revision": 3,
                    "prev_kv": True,
                    "filters": [1],
                    "progress_notify": True,
                }
            }
        ]

    against(scenario)


def test_a_broken_watch_goes_on_with_the_next_revision() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(
            PATH,
            stream(created(5), events(6, 6, 7), then="cut"),
            stream(created(9), events(8), then="end"),
            stream(created(9), events(9)),
        )
        async with client.watch("a", start_revision=6) as watch:
            assert revisions([await anext(watch) for _ in range(5)]) == [6, 6, 7, 8, 9]
        assert starts(gateway) == [6, 8, 9]

    against(scenario)


def test_a_watch_from_now_on_misses_nothing_even_if_it_breaks_before_the_first_event() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(PATH, stream(created(5), then="cut"), stream(created(8), events(6, 8)))
        async with client.watch("a") as watch:
            assert watch.revision == 5
            assert revisions([await anext(watch), await anext(watch)]) == [6, 8]
        assert starts(gateway) == [0, 6]

    against(scenario)


def test_the_revision_is_that_up_to_which_everything_was_handed_out() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        bookmark = {"result": header(20)}
        gateway.on(PATH, stream(created(5), events(6, 7), bookmark, events(21)))
        async with client.watch("a", start_revision=6) as watch:
            seen = []
            for _ in range(3):
                seen.append(watch.revision)
                await anext(watch)
            assert seen == [5, 5, 7]
            assert watch.revision == 21

    against(scenario)


def test_a_bookmark_moves_where_a_broken_watch_goes_on() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(PATH, stream(created(5), {"result": header(20)}, then="cut"), stream(created(21), events(21)))
        async with client.watch("a", start_revision=6) as watch:
            await anext(watch)
        assert starts(gateway) == [6, 21]

    against(scenario)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "when it goes on"])
def test_a_compacted_start_says_what_to_do(late: bool) -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gone = stream(created(90), {"result": {"canceled": True, "compact_revision": "80"}})
        gateway.on(PATH, *([stream(created(5), events(6), then="cut")] if late else []), gone)
        async with client.watch("a", start_revision=6) as watch:
            if late:
                await anext(watch)
            with pytest.raises(CompactedError, match="read the keys anew, then watch from the revision of") as caught:
                await anext(watch)
        assert caught.value.compact_revision == 80

    against(scenario)


def test_a_watch_that_is_canceled_as_it_is_created_is_compacted_too() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        reason = "etcdserver: mvcc: required revision has been compacted"
        message = {**header(90), "watch_id": "-1", "created": True, "canceled": True, "cancel_reason": reason}
        gateway.on(PATH, stream({"result": message}))
        with pytest.raises(CompactedError):
            async with client.watch("a", start_revision=-1):
                pass

    against(scenario)


@pytest.mark.parametrize(
    "broken",
    [
        {"error": {"grpc_code": 14, "http_code": 503, "message": "etcdserver: no leader"}},
        {"error": {"code": 14, "message": "etcdserver: no leader", "details": []}},
        {"result": {"canceled": True, "cancel_reason": "etcdserver: no leader"}},
    ],
)
def test_a_member_that_ends_a_watch_is_left_for_another(broken: dict[str, Any]) -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(PATH, stream(created(5), events(6), broken), stream(created(7), events(7)))
        async with client.watch("a", start_revision=6) as watch:
            assert revisions([await anext(watch), await anext(watch)]) == [6, 7]

    against(scenario)


def test_a_refused_watch_is_an_error() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(PATH, stream({"error": {"code": 3, "message": "no such watch", "details": []}}))
        with pytest.raises(RefusedError, match="no such watch"):
            async with client.watch("a"):
                pass
        gateway.on(PATH, refused(400, 3, "no such watch"))
        with pytest.raises(RefusedError, match="no such watch"):
            async with client.watch("a"):
                pass

    against(scenario)


def test_a_silent_member_that_serves_is_kept() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(PATH, stream(created(5)))
        gateway.on(RANGE, ok())
        async with client.watch("a", idle=0.02) as watch:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await anext(watch)
        assert len(gateway.bodies(RANGE)) > 2
        assert len(gateway.bodies(PATH)) == 1

    against(scenario)


@pytest.mark.parametrize("probe", [SILENCE, refused(503, 14, "etcdserver: no leader")], ids=["stopped", "cut off"])
def test_a_silent_member_that_does_not_serve_is_left(probe: Any) -> None:
    async def run() -> None:
        async with FakeGateway() as one, FakeGateway() as two:
            one.on(PATH, stream(created(5)))
            one.on(RANGE, probe)
            two.on(PATH, stream(created(5), events(6)))
            async with Coordination([one.url, two.url], timeout=0.2) as client:
                async with client.watch("a", idle=0.05) as watch:
                    assert revisions([await anext(watch)]) == [6]
            assert starts(two) == [6]

    asyncio.run(within(run()))


def test_revisions_of_another_cluster_are_not_taken() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(PATH, stream(created(5), then="cut"), stream(created(5, cluster=2), events(6)))
        async with client.watch("a") as watch:
            with pytest.raises(RefusedError, match="another cluster") as caught:
                await anext(watch)
        assert caught.value.code is Code.FAILED_PRECONDITION

    against(scenario)


def test_a_cancelled_iteration_has_taken_no_event() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(PATH, stream(created(5), events(6, 7)))
        found = []
        async with client.watch("a") as watch:
            while len(found) < 2:
                task = asyncio.ensure_future(anext(watch))
                await asyncio.sleep(0)
                task.cancel()
                found += [one for one in await asyncio.gather(task, return_exceptions=True) if isinstance(one, Event)]
        assert revisions(found) == [6, 7]

    against(scenario)


def test_a_watch_without_a_member_waits_for_one() -> None:
    async def run() -> None:
        async with FakeGateway() as gateway:
            gateway.on(PATH, stream(created(5), then="cut"), refused(503, 14, "etcdserver: no leader"))
            async with Coordination([gateway.url], timeout=0.1) as client:
                async with client.watch("a") as watch:
                    waiting = asyncio.ensure_future(anext(watch))
                    done, _ = await asyncio.wait([waiting], timeout=0.5)
                    assert not done
                    gateway.on(PATH, stream(created(9), events(8)))
                    assert (await waiting).kv.mod_revision == 8

    asyncio.run(within(run()))


def test_a_watch_that_cannot_begin_says_so() -> None:
    async def run() -> None:
        async with Coordination(["http://127.0.0.1:1"], timeout=0.1) as client:
            with pytest.raises(NotReachedError, match="Connection refused"):
                async with client.watch("a"):
                    pass

    asyncio.run(run())


def test_a_member_that_never_begins_a_watch_is_given_up() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(PATH, stream(then="end"))
        with pytest.raises(NotReachedError, match="no member begins the watch"):
            async with client.watch("a"):
                pass

    against(scenario)


def test_a_delete_is_an_event_with_the_key_alone() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(PATH, stream(created(5), {"result": {**header(6), "events": [event(6, b"a", "DELETE")]}}))
        async with client.watch("a") as watch:
            found = await anext(watch)
        assert (found.type, found.kv.key, found.kv.value) == (EventType.DELETE, b"a", b"")

    against(scenario)
