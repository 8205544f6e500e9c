"""Several servers of one cluster: who is asked next, what is sent again, and what is never sent twice."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from balancer.clock import monotonic
from balancer.consensus.client_endpoints import LEARNED_MAX, Endpoints
from balancer.consensus.client_errors import NotReachedError, OutcomeUnknownError, RefusedError
from balancer.consensus.client_http import ExchangeError
from balancer.coordination.errors import Code
from tests.support.coordination_fake import CUT, SILENCE, FakeGateway, Reply, ok, refused, stream

PATH = "/v3/kv/put"
NOWHERE = "http://127.0.0.1:1"  # nobody listens there

Scenario = Callable[[FakeGateway, FakeGateway, Endpoints], Awaitable[None]]


def with_two(scenario: Scenario, timeout: float = 5.0) -> None:
    """Against two members."""

    async def run() -> None:
        async with FakeGateway() as one, FakeGateway() as two:
            endpoints = of([one.url, two.url], timeout)
            try:
                await scenario(one, two, endpoints)
            finally:
                endpoints.close()

    asyncio.run(run())


def of(urls: list[str], timeout: float = 5.0) -> Endpoints:
    return Endpoints(urls, timeout=timeout, clock=monotonic, rng=random.Random(1))


NO_LEADER = refused(503, 14, "etcdserver: no leader")


def test_the_member_that_answered_last_is_asked_first() -> None:
    async def scenario(one: FakeGateway, two: FakeGateway, endpoints: Endpoints) -> None:
        one.on(PATH, NO_LEADER, ok())
        two.on(PATH, ok())
        for _ in range(3):
            await endpoints.ask(PATH, b"{}", repeatable=True)
        assert (len(one.asked), len(two.asked)) == (1, 3)

    with_two(scenario)


@pytest.mark.parametrize(
    "reply", [CUT, NO_LEADER, refused(504, 4, "etcdserver: request timed out"), Reply(502, b"bad")]
)
def test_what_may_be_repeated_is_asked_of_the_next(reply: Reply) -> None:
    async def scenario(one: FakeGateway, two: FakeGateway, endpoints: Endpoints) -> None:
        one.on(PATH, reply)
        two.on(PATH, ok(x="1"))
        assert await endpoints.ask(PATH, b"{}", repeatable=True, change=True) == b'{"x": "1"}'

    with_two(scenario)


def test_a_member_that_is_silent_leaves_time_for_the_next() -> None:
    async def scenario(one: FakeGateway, two: FakeGateway, endpoints: Endpoints) -> None:
        one.on(PATH, SILENCE)
        two.on(PATH, ok(x="1"))
        assert await endpoints.ask(PATH, b"{}", repeatable=True) == b'{"x": "1"}'

    with_two(scenario, timeout=1.0)


@pytest.mark.parametrize(
    "reply",
    [
        CUT,
        SILENCE,
        NO_LEADER,
        refused(504, 4, "etcdserver: request timed out"),
        refused(500, 2, "rafthttp: x"),
        Reply(502, b"bad gateway"),
    ],
)
def test_a_change_that_may_have_been_done_is_not_sent_again(reply: Reply) -> None:
    async def scenario(one: FakeGateway, two: FakeGateway, endpoints: Endpoints) -> None:
        one.on(PATH, reply)
        two.on(PATH, ok())
        with pytest.raises(OutcomeUnknownError, match=r"may have been done, or not: .*http"):
            await endpoints.ask(PATH, b"{}", repeatable=False, change=True)
        assert not two.asked

    with_two(scenario, timeout=0.3)


def test_a_change_that_was_not_sent_goes_to_the_next() -> None:
    async def run() -> None:
        async with FakeGateway() as gateway:
            gateway.on(PATH, ok(x="1"))
            endpoints = of([NOWHERE, gateway.url])
            assert await endpoints.ask(PATH, b"{}", repeatable=False, change=True) == b'{"x": "1"}'
            endpoints.close()

    asyncio.run(run())


def test_a_refusal_is_final_and_the_member_is_asked_again() -> None:
    async def scenario(one: FakeGateway, two: FakeGateway, endpoints: Endpoints) -> None:
        one.on(PATH, refused(404, 5, "etcdserver: requested lease not found"))
        for _ in range(2):
            with pytest.raises(RefusedError, match="lease not found") as caught:
                await endpoints.ask(PATH, b"{}", repeatable=True)
            assert (caught.value.code, caught.value.doubtful) == (Code.NOT_FOUND, False)
        assert not two.asked

    with_two(scenario)


def test_a_refusal_after_a_lost_answer_says_that_there_is_a_doubt() -> None:
    async def scenario(one: FakeGateway, two: FakeGateway, endpoints: Endpoints) -> None:
        one.on(PATH, CUT)
        two.on(PATH, refused(412, 9, "etcdserver: lease already exists"))
        with pytest.raises(RefusedError) as caught:
            await endpoints.ask(PATH, b"{}", repeatable=True, change=True)
        assert caught.value.doubtful

    with_two(scenario)


def test_an_unreachable_cluster_is_an_error_that_names_each_member_and_its_reason() -> None:
    async def run() -> None:
        endpoints = of([NOWHERE, "http://127.0.0.1:2"], timeout=0.2)
        with pytest.raises(
            NotReachedError, match=r"127\.0\.0\.1:1: Connection refused; .*127\.0\.0\.1:2: Connection r"
        ):
            await endpoints.ask(PATH, b"{}", repeatable=False, change=True)
        with pytest.raises(NotReachedError, match="Connection refused"):
            async with endpoints.stream(PATH, b"{}"):
                pass

    asyncio.run(run())


def test_a_repeated_change_whose_outcome_stays_unknown_says_so_in_the_end() -> None:
    async def scenario(one: FakeGateway, two: FakeGateway, endpoints: Endpoints) -> None:
        one.on(PATH, CUT)
        two.on(PATH, CUT)
        with pytest.raises(OutcomeUnknownError):
            await endpoints.ask(PATH, b"{}", repeatable=True, change=True)
        with pytest.raises(NotReachedError):
            await endpoints.ask(PATH, b"{}", repeatable=True)

    with_two(scenario, timeout=0.2)


def test_attempts_have_pauses_between_their_rounds() -> None:
    async def scenario(one: FakeGateway, two: FakeGateway, endpoints: Endpoints) -> None:
        one.on(PATH, NO_LEADER)
        two.on(PATH, NO_LEADER)
        with pytest.raises(NotReachedError, match="no leader"):
            await endpoints.ask(PATH, b"{}", repeatable=True)
        assert 4 <= len(one.asked) + len(two.asked) < 30

    with_two(scenario, timeout=0.5)


def test_a_stream_comes_from_the_first_member_that_gives_one() -> None:
    async def scenario(one: FakeGateway, two: FakeGateway, endpoints: Endpoints) -> None:
        one.on(PATH, NO_LEADER)
        two.on(PATH, stream({"a": 1}))
        async with endpoints.stream(PATH, b"{}") as (server, lines):
            assert server.url == two.url
            assert await lines.next() == b'{"a": 1}'

    with_two(scenario)


def test_a_refused_stream_is_an_error() -> None:
    async def scenario(one: FakeGateway, two: FakeGateway, endpoints: Endpoints) -> None:
        one.on(PATH, refused(400, 3, "bad"))
        with pytest.raises(RefusedError, match="bad"):
            async with endpoints.stream(PATH, b"{}"):
                pass
        assert not two.asked

    with_two(scenario)


@pytest.mark.parametrize("urls", [[], [""], ["https://a"], ["http://a:1", "a:2"]])
def test_what_is_no_address_is_said_before_anything_is_asked(urls: list[str]) -> None:
    with pytest.raises(NotReachedError, match="http://HOST:PORT"):
        of(urls)


def test_an_address_may_end_in_a_slash() -> None:
    assert of([" http://127.0.0.1:2379/ "]).current.url == "http://127.0.0.1:2379"


# ---- what is learned


def urls(endpoints: Endpoints) -> list[str]:
    return [server.url for server in endpoints.servers]


A, B, C = (f"http://127.0.0.1:{port}" for port in (1, 2, 3))


def test_what_is_learned_comes_after_what_was_given_each_once_and_nothing_that_is_no_address() -> None:
    endpoints = of([A])
    endpoints.learn([B, A, f"{B}/", "https://a:1", "", "unix:/run/x", "a:1", f" {C} "])
    assert urls(endpoints) == [A, B, C]


def test_what_is_learned_later_takes_the_place_of_what_was_before_but_not_of_what_was_given() -> None:
    endpoints = of([A])
    endpoints.learn([B])
    kept = endpoints.servers[1]
    endpoints.learn([C, B])
    assert urls(endpoints) == [A, C, B]
    assert endpoints.servers[2] is kept
    endpoints.learn([])
    assert urls(endpoints) == [A]


def test_there_is_a_bound_on_what_is_learned() -> None:
    endpoints = of([A])
    endpoints.learn(f"http://127.0.0.1:{port}" for port in range(100, 1000))
    assert len(endpoints.servers) == 1 + LEARNED_MAX


def test_who_is_asked_first_stays_so_unless_it_goes() -> None:
    endpoints = of([A])
    endpoints.learn([B, C])
    endpoints.avoid(endpoints.current)
    assert endpoints.current.url == B
    endpoints.learn([C, B])
    assert endpoints.current.url == B
    endpoints.learn([C])
    assert endpoints.current.url == A


def test_a_learned_member_is_asked_when_the_given_one_is_gone() -> None:
    async def scenario(one: FakeGateway, two: FakeGateway, _: Endpoints) -> None:
        endpoints = of([NOWHERE])
        endpoints.learn([two.url])
        two.on(PATH, ok(x="1"))
        assert await endpoints.ask(PATH, b"{}", repeatable=False) == b'{"x": "1"}'
        endpoints.close()

    with_two(scenario)


def test_a_stream_of_a_member_that_goes_lasts_and_ends_with_the_client() -> None:
    async def scenario(one: FakeGateway, two: FakeGateway, _: Endpoints) -> None:
        endpoints = of([NOWHERE])
        endpoints.learn([two.url])
        two.on("/v3/other", ok())
        two.on(PATH, stream({"a": 1}))
        await endpoints.ask("/v3/other", b"{}", repeatable=True)  # leaves an idle connection
        async with endpoints.stream(PATH, b"{}") as (server, lines):
            endpoints.learn([])
            assert await lines.next() == b'{"a": 1}'
            assert server.connections == 1
            with pytest.raises(NotReachedError):
                await endpoints.ask("/v3/other", b"{}", repeatable=True, timeout=0.1)
            endpoints.close()
            with pytest.raises(ExchangeError):
                await lines.next()
        assert server.connections == 0

    with_two(scenario)
