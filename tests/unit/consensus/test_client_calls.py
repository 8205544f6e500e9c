"""Changes are done once: numbered where the server can recognise a repeated one, never repeated where it cannot."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from balancer.clock import monotonic
from balancer.consensus.client_calls import Calls
from balancer.consensus.client_endpoints import Endpoints
from balancer.consensus.client_errors import NotReachedError, OutcomeUnknownError, RefusedError, UnsupportedError
from balancer.consensus.client_kv import PUT
from balancer.coordination.refusals import ALREADY_ANSWERED, ANSWER_TOO_LARGE, TOO_MANY_REQUESTS, UNKNOWN_SESSION
from balancer.coordination.requests import PutRequest
from balancer.coordination.responses import PutResponse
from tests.support.coordination_fake import CUT, SILENCE, FakeGateway, ok, refused

SESSION = "/v3/balancer/session"
REQUEST = PutRequest(b"a", b"1")
DONE = ok(header={"revision": "7"})

GONE = refused(503, 14, UNKNOWN_SESSION.message)


def against(scenario: Callable[[FakeGateway, Calls], Awaitable[None]], *, exactly_once: bool = True) -> None:
    async def run() -> None:
        async with FakeGateway() as gateway:
            endpoints = Endpoints([gateway.url], timeout=2.0, clock=monotonic, rng=random.Random(1))
            try:
                await scenario(gateway, Calls(endpoints, exactly_once=exactly_once))
            finally:
                endpoints.close()

    asyncio.run(run())


async def put(calls: Calls) -> int:
    return (await calls.change(PUT, REQUEST, PutResponse)).header.revision


def numbers(gateway: FakeGateway) -> list[tuple[int, int, int]]:
    return [(body["session"], body["seq"], body["answered_below"]) for body in gateway.bodies(PUT)]


def test_a_server_without_sessions_is_asked_for_one_once() -> None:
    async def scenario(gateway: FakeGateway, calls: Calls) -> None:
        gateway.on(PUT, DONE)
        await asyncio.gather(*(put(calls) for _ in range(3)))
        await put(calls)
        assert len(gateway.bodies(SESSION)) == 1
        assert gateway.bodies(PUT)[-1] == {"key": "YQ==", "value": "MQ=="}

    against(scenario)


def test_a_client_that_does_not_want_sessions_asks_for_none() -> None:
    async def scenario(gateway: FakeGateway, calls: Calls) -> None:
        gateway.on(PUT, DONE)
        assert await put(calls) == 7
        assert gateway.bodies(SESSION) == []

    against(scenario, exactly_once=False)


def test_changes_are_numbered_and_confirm_what_was_answered() -> None:
    async def scenario(gateway: FakeGateway, calls: Calls) -> None:
        gateway.on(SESSION, ok(session="41"))
        gateway.on(PUT, DONE)
        for _ in range(3):
            await put(calls)
        assert numbers(gateway) == [(41, 1, 1), (41, 2, 2), (41, 3, 3)]
        gateway.on(PUT, SILENCE)
        waiting = asyncio.create_task(put(calls))
        while len(gateway.bodies(PUT)) < 4:
            await asyncio.sleep(0)
        gateway.on(PUT, DONE)
        await put(calls)
        assert numbers(gateway)[3:] == [(41, 4, 4), (41, 5, 4)]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await put(calls)
        assert numbers(gateway)[5] == (41, 6, 6)

    against(scenario)


def test_a_numbered_change_is_sent_again_under_its_number() -> None:
    async def scenario(gateway: FakeGateway, calls: Calls) -> None:
        gateway.on(SESSION, ok(session="41"))
        gateway.on(PUT, CUT, refused(503, 14, "etcdserver: leader changed"), DONE)
        assert await put(calls) == 7
        assert numbers(gateway) == [(41, 1, 1)] * 3

    against(scenario)


def test_without_sessions_a_change_is_sent_once() -> None:
    async def scenario(gateway: FakeGateway, calls: Calls) -> None:
        gateway.on(PUT, CUT, DONE)
        with pytest.raises(OutcomeUnknownError):
            await put(calls)
        assert len(gateway.bodies(PUT)) == 1

    against(scenario)


def test_a_session_that_was_given_up_is_replaced() -> None:
    async def scenario(gateway: FakeGateway, calls: Calls) -> None:
        gateway.on(SESSION, ok(session="41"), ok(session="42"))
        gateway.on(PUT, DONE, GONE, DONE)
        await put(calls)
        assert await put(calls) == 7
        assert numbers(gateway) == [(41, 1, 1), (41, 2, 2), (42, 1, 1)]

    against(scenario)


def test_a_session_that_was_given_up_after_a_lost_answer_leaves_the_outcome_unknown() -> None:
    async def scenario(gateway: FakeGateway, calls: Calls) -> None:
        gateway.on(SESSION, ok(session="41"), ok(session="42"))
        gateway.on(PUT, CUT, GONE, DONE)
        with pytest.raises(OutcomeUnknownError, match="session is unknown"):
            await put(calls)
        assert len(gateway.bodies(PUT)) == 2
        assert await put(calls) == 7
        assert numbers(gateway)[2:] == [(42, 1, 1)]

    against(scenario)


@pytest.mark.parametrize(
    ("refusal", "told"), [(ALREADY_ANSWERED, "may have been done, or not"), (ANSWER_TOO_LARGE, "was done")]
)
def test_an_answer_that_is_lost_for_good_is_an_unknown_outcome(refusal: tuple[int, str], told: str) -> None:
    async def scenario(gateway: FakeGateway, calls: Calls) -> None:
        gateway.on(SESSION, ok(session="41"))
        gateway.on(PUT, refused(503, 14, refusal[1]))
        with pytest.raises(OutcomeUnknownError, match=told):
            await put(calls)
        assert len(gateway.bodies(PUT)) == 1

    against(scenario)


def test_a_refusal_of_another_attempt_does_not_say_that_nothing_was_done() -> None:
    async def scenario(gateway: FakeGateway, calls: Calls) -> None:
        gateway.on(SESSION, ok(session="41"))
        gateway.on(PUT, CUT, refused(429, 8, TOO_MANY_REQUESTS.message))
        with pytest.raises(OutcomeUnknownError, match="may have been done, or not: etcdserver: too many requests"):
            await put(calls)
        gateway.on(PUT, refused(429, 8, TOO_MANY_REQUESTS.message))
        with pytest.raises(RefusedError, match="too many requests"):
            await put(calls)

    against(scenario)


def test_a_server_that_cannot_open_a_session_now_does_nothing() -> None:
    async def scenario(gateway: FakeGateway, calls: Calls) -> None:
        calls.endpoints.timeout = 0.1
        gateway.on(SESSION, refused(503, 14, "etcdserver: no leader"))
        with pytest.raises(NotReachedError, match="no leader"):
            await put(calls)
        gateway.on(SESSION, refused(429, 8, "etcdserver: too many requests"))
        with pytest.raises(RefusedError, match="too many"):
            await put(calls)
        assert gateway.bodies(PUT) == []

    against(scenario)


def test_what_is_the_same_when_done_twice_needs_no_session() -> None:
    async def scenario(gateway: FakeGateway, calls: Calls) -> None:
        gateway.on(PUT, CUT, DONE)
        assert (await calls.repeat(PUT, REQUEST, PutResponse)).header.revision == 7
        assert gateway.bodies(SESSION) == []

    against(scenario)


def test_a_call_that_the_server_does_not_have_says_so() -> None:
    async def scenario(gateway: FakeGateway, calls: Calls) -> None:
        with pytest.raises(UnsupportedError, match=r"does not support this call \(/v3/x\)"):
            await calls.administer("/v3/x", {}, PutResponse)

    against(scenario)
