"""Numbered changes over HTTP: sent again they are done once, and answered the same; what numbers nothing is refused."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from balancer.coordination.refusals import ALREADY_ANSWERED, NO_TICKET, NUMBER_USED, UNKNOWN_SESSION
from balancer.coordination.sessions import CLIENTS_FROM
from tests.support.etcd_http import EtcdHttp
from tests.support.etcd_memory_service import MemoryEtcd

DEADLINE = 20.0
KEY = {"key": "YQ=="}
PUT = "/v3/kv/put"

Scenario = Callable[[EtcdHttp, MemoryEtcd], Awaitable[None]]


def run(scenario: Scenario) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE), MemoryEtcd() as etcd:
            http = EtcdHttp(etcd.url)
            try:
                await scenario(http, etcd)
            finally:
                await http.close()

    asyncio.run(bounded())


async def opened(http: EtcdHttp) -> int:
    answer = await http.call("/v3/balancer/session", {})
    assert answer.status == 200
    return int(answer.json["session"])


async def version(http: EtcdHttp) -> int:
    """How often the key was put."""
    found = (await http.call("/v3/kv/range", KEY)).json
    return int(found["kvs"][0]["version"]) if "kvs" in found else 0


CHANGES: list[tuple[str, dict[str, Any]]] = [
    (PUT, KEY | {"value": "Yg==", "prev_kv": True}),
    ("/v3/kv/deleterange", KEY | {"prev_kv": True}),
    (
        "/v3/kv/txn",
        {"compare": [KEY | {"target": "VERSION", "version": 1}], "success": [{"request_put": KEY}], "failure": []},
    ),
    ("/v3/kv/compaction", {"revision": 2}),
    ("/v3/lease/grant", {"TTL": 60}),
    ("/v3/lease/grant", {"TTL": 60, "ID": 9}),
    ("/v3/lease/revoke", {"ID": 8}),
    ("/v3/kv/lease/revoke", {"ID": 8}),
]


@pytest.mark.parametrize(
    ("path", "body"), CHANGES, ids=[f"{path} {number}" for number, (path, _) in enumerate(CHANGES)]
)
def test_a_change_that_is_sent_again_is_done_once_and_answered_the_same(path: str, body: dict[str, Any]) -> None:
    async def scenario(http: EtcdHttp, etcd: MemoryEtcd) -> None:
        await http.call("/v3/lease/grant", {"TTL": 60, "ID": 8})
        await http.call(PUT, KEY)
        session = await opened(http)
        numbered = body | {"session": session, "seq": 1}
        first = await http.call(path, numbered)
        assert first.status == 200, first.body
        machine = etcd.service.machine
        revision, leases = machine.revision, list(machine.leases)
        again = await http.call(path, numbered)
        assert (again.status, again.body) == (200, first.body)
        assert (machine.revision, list(machine.leases)) == (revision, leases)
        other = await http.call(path, numbered | {"seq": 2})
        assert other.body != first.body

    run(scenario)


def test_numbers_come_as_etcd_writes_64_bits_and_in_both_spellings() -> None:
    async def scenario(http: EtcdHttp, etcd: MemoryEtcd) -> None:
        session = str(await opened(http))
        for _ in range(2):
            await http.call(PUT, KEY | {"session": session, "seq": "1", "answered_below": "1"})
        await http.call(PUT, KEY | {"session": session, "seq": "2", "answeredBelow": "2"})
        assert await version(http) == 2
        late = await http.call(PUT, KEY | {"session": session, "seq": "1"})
        assert (late.status, late.json["message"]) == (503, ALREADY_ANSWERED.message)
        assert await version(http) == 2

    run(scenario)


@pytest.mark.parametrize("session", [{}, {"session": 0, "seq": 1}, {"session": None, "seq": 1}, {"seq": 1}])
def test_without_a_session_it_is_done_as_often_as_it_comes(session: dict[str, Any]) -> None:
    async def scenario(http: EtcdHttp, etcd: MemoryEtcd) -> None:
        for _ in range(2):
            assert (await http.call(PUT, KEY | session)).status == 200
        assert await version(http) == 2

    run(scenario)


@pytest.mark.parametrize(
    "ticket",
    [
        {"session": -1, "seq": 1},
        {"session": 1, "seq": 1},
        {"session": CLIENTS_FROM - 1, "seq": 1},
        {"session": CLIENTS_FROM + 1},
        {"session": CLIENTS_FROM + 1, "seq": 0},
        {"session": CLIENTS_FROM + 1, "seq": -1},
        {"session": CLIENTS_FROM + 1, "seq": 1, "answered_below": 2},
        {"session": CLIENTS_FROM + 1, "seq": 1, "answered_below": -1},
    ],
)
def test_what_numbers_nothing_is_refused_and_no_session_of_a_member_can_be_named(ticket: dict[str, int]) -> None:
    async def scenario(http: EtcdHttp, etcd: MemoryEtcd) -> None:
        assert await opened(http) == CLIENTS_FROM + 1
        answer = await http.call(PUT, KEY | ticket)
        assert (answer.status, answer.json["message"]) == (400, NO_TICKET.message)
        assert await version(http) == 0

    run(scenario)


@pytest.mark.parametrize("ticket", [{"session": "x", "seq": 1}, {"session": 2**63, "seq": 1}, {"session": {}}])
def test_numbers_that_are_none_are_refused(ticket: dict[str, Any]) -> None:
    async def scenario(http: EtcdHttp, etcd: MemoryEtcd) -> None:
        answer = await http.call(PUT, KEY | ticket)
        assert (answer.status, answer.json["code"]) == (400, 3)
        assert await version(http) == 0

    run(scenario)


def test_a_session_that_nobody_opened_is_unknown() -> None:
    async def scenario(http: EtcdHttp, etcd: MemoryEtcd) -> None:
        answer = await http.call(PUT, KEY | {"session": CLIENTS_FROM + 7, "seq": 1})
        assert (answer.status, answer.json["message"]) == (503, UNKNOWN_SESSION.message)
        assert await version(http) == 0

    run(scenario)


def test_a_number_that_was_given_to_another_change_is_refused() -> None:
    async def scenario(http: EtcdHttp, etcd: MemoryEtcd) -> None:
        ticket = {"session": await opened(http), "seq": 1}
        await http.call(PUT, KEY | ticket)
        answer = await http.call("/v3/kv/deleterange", KEY | ticket)
        assert (answer.status, answer.json["message"]) == (400, NUMBER_USED.message)
        assert await version(http) == 1

    run(scenario)
