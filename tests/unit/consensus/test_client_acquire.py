"""Getting a lock from a cluster that fails in the middle: an error in words, and the lease is given back."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from balancer.consensus.client import Coordination
from balancer.consensus.client_errors import LeaseLostError, NotReachedError, RefusedError
from tests.support.coordination_fake import CUT, FakeGateway, Reply, ok, refused, stream

GRANT, REVOKE, KEEP_ALIVE = "/v3/lease/grant", "/v3/lease/revoke", "/v3/lease/keepalive"
TXN, RANGE, WATCH = "/v3/kv/txn", "/v3/kv/range", "/v3/watch"


def against(scenario: Callable[[FakeGateway, Coordination], Awaitable[None]], *, revoked: bool = True) -> None:
    """Afterwards the lease is given back, where there may be one."""

    async def run() -> None:
        async with asyncio.timeout(30), FakeGateway() as gateway:
            gateway.on(GRANT, ok(ID="1", TTL="10"))
            gateway.on(REVOKE, ok())
            async with Coordination([gateway.url], timeout=0.3) as client:
                await scenario(gateway, client)
            if revoked:
                assert gateway.bodies(REVOKE)[-1]["ID"] == gateway.bodies(GRANT)[-1]["ID"]
            else:
                assert not gateway.bodies(REVOKE)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (CUT, NotReachedError),
        (refused(503, 14, "etcdserver: no leader"), NotReachedError),
        (refused(404, 5, "etcdserver: requested lease not found"), LeaseLostError),
        (refused(429, 8, "etcdserver: too many requests"), RefusedError),
    ],
)
def test_a_queue_that_cannot_be_joined_is_an_error(reply: Reply, error: type[Exception]) -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(TXN, reply)
        with pytest.raises(error):
            async with client.lock("l"):
                raise AssertionError

    against(scenario)


def test_a_lease_that_cannot_be_granted_is_an_error() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(GRANT, CUT)
        with pytest.raises(NotReachedError):
            async with client.lock("l"):
                raise AssertionError

    against(scenario)


def test_a_lease_whose_first_grant_lost_its_answer_is_ones_own() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(GRANT, CUT, refused(412, 9, "etcdserver: lease already exists"))
        async with client.lease(10) as lease:
            assert lease.held
            assert 8 < lease.remaining <= 9
        first, second = gateway.bodies(GRANT)
        assert first == second

    against(scenario)


def test_a_lease_of_somebody_else_is_not_taken_for_ones_own() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        gateway.on(GRANT, refused(412, 9, "etcdserver: lease already exists"))
        with pytest.raises(RefusedError, match="already exists"):
            async with client.lease(10):
                raise AssertionError

    against(scenario, revoked=False)


def test_a_repeated_request_to_join_the_queue_finds_the_own_key() -> None:
    async def scenario(gateway: FakeGateway, client: Coordination) -> None:
        lock = client.lock("l")
        granting = asyncio.create_task(lock.__aenter__())
        gateway.on(WATCH, stream({"result": {"created": True, "header": {"revision": "7"}}}))
        gateway.on(TXN, CUT, CUT)
        while not gateway.bodies(TXN):
            await asyncio.sleep(0)
        key = gateway.bodies(TXN)[0]["compare"][0]["key"]
        own = {"key": key, "create_revision": "7"}
        there = ok(header={"revision": "9"}, responses=[{"response_range": {"kvs": [own]}}] * 2)
        gateway.on(TXN, there)
        grant = await granting
        assert grant.token == 7
        gateway.on(TXN, ok(succeeded=True))
        await lock.__aexit__(None, None, None)

    against(scenario)
