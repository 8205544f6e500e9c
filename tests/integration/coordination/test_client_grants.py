"""Who waits for a lock or an election at a member that stood still is not given what is another's by then."""

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.coordination_own import Own
from tests.support.etcd_http import EtcdHttp

SECONDS = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    with Own(tmp_path_factory.mktemp("members"), members=3) as running:
        yield running


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def done(http: EtcdHttp, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to what must be done; where there is no leader yet, it is asked again."""
    while True:
        answer = await http.call(path, body)
        if answer.status == 200:
            found: dict[str, Any] = answer.json
            return found
        assert answer.status == 503, answer
        await asyncio.sleep(0.05)


async def leader_and_follower(cluster: Own) -> tuple[int, int]:
    while True:
        for number, url in enumerate(cluster.urls):
            http = EtcdHttp(url)
            status = (await http.call("/v3/maintenance/status", {})).json
            await http.close()
            if "leader" in status and status["leader"] == status["header"]["member_id"]:
                return number, (number + 1) % 3
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("path", "name", "refused"),
    [
        ("/v3/lock/lock", "stopped lock", "mutex: session is expired"),
        ("/v3/election/campaign", "stopped election", "election: session expired"),
    ],
)
def test_a_member_that_stood_still_gives_nobody_what_was_lost_meanwhile(
    cluster: Own, path: str, name: str, refused: str
) -> None:
    async def scenario() -> None:
        leader, follower = await leader_and_follower(cluster)
        there, here = EtcdHttp(cluster.urls[leader]), EtcdHttp(cluster.urls[follower])
        holder, waiter, after = [int((await done(there, "/v3/lease/grant", {"TTL": 600}))["ID"]) for _ in range(3)]
        place = {"name": b64(name)}
        everybody = {"key": b64(f"{name}/"), "range_end": b64(f"{name}0")}
        await done(there, path, place | {"lease": holder})
        waits = asyncio.create_task(here.call_apart(path, place | {"lease": waiter}))
        while int((await done(there, "/v3/kv/range", everybody))["count"]) < 2:
            await asyncio.sleep(0.02)
        cluster.pause(follower)
        try:
            await done(there, "/v3/kv/deleterange", {"key": b64(f"{name}/{holder:x}")})
            await done(there, "/v3/lease/revoke", {"ID": waiter})
            await done(there, path, place | {"lease": after})
        finally:
            cluster.resume(follower)
        answer = await waits
        assert (answer.status, answer.json["message"]) == (500, refused)
        (left,) = (await done(here, "/v3/kv/range", everybody))["kvs"]
        assert left["lease"] == str(after)
        await done(there, "/v3/lease/revoke", {"ID": after})
        await there.close()
        await here.close()

    async def bounded() -> None:
        async with asyncio.timeout(SECONDS):
            await scenario()

    asyncio.run(bounded())
