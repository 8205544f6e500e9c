import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from balancer.admin.api import AdminApi
from balancer.admin.status import BackendStatus, PoolStatus
from balancer.telemetry import metrics
from balancer.telemetry.aggregate import Aggregate
from balancer.transport.http_server import Request, Response


class View:
    """A supervisor of two pools."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.sum = Aggregate()
        for pool in ("web", "api"):
            self.sum.set(metrics.BACKEND_WEIGHT, (pool, "a"), 2)
        self.sum.set(metrics.CONFIG_GENERATION, (), 7)

    def readiness(self) -> str | None:
        return self.reason

    async def aggregate(self) -> Aggregate:
        return self.sum

    async def pools(self) -> list[PoolStatus]:
        return [PoolStatus(name="web", strategy="random", backends=(BackendStatus(name="a", address="x:1"),))]

    def generation(self) -> int:
        return 7


async def whole(response: Response) -> bytes:
    if isinstance(response.body, bytes):
        return response.body
    body: AsyncIterator[bytes] = response.body
    return b"".join([piece async for piece in body])


def ask(
    target: str,
    *,
    method: str = "GET",
    host: str = "127.0.0.1:9901",
    authorization: str | None = None,
    api: AdminApi | None = None,
) -> tuple[Response, bytes]:
    headers = {"host": host}
    if authorization is not None:
        headers["authorization"] = authorization

    async def scenario() -> tuple[Response, bytes]:
        response = await (api or AdminApi(View(), None, frozenset()))(Request(method, target, "1.1", headers))
        return response, await whole(response)

    return asyncio.run(scenario())


def code_of(body: bytes) -> str:
    """The code of an error, after a look at its form."""
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message"}
    assert error["message"]
    return str(error["code"])


def test_metrics_are_prometheus_text_of_the_aggregate() -> None:
    response, body = ask("/metrics")
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert families["balancer_config_generation"].samples[0].value == 7
    assert len(families["balancer_backend_weight"].samples) == 2


def test_metrics_of_one_pool_alone() -> None:
    _, body = ask("/metrics?pool=api")
    assert b'pool="api"' in body
    assert b'pool="web"' not in body


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/metrics?pool=nope", 404, "unknown_pool"),
        ("/metrics?durations=some", 400, "bad_query"),
        ("/", 404, "not_found"),
        ("/metrics/", 404, "not_found"),
        ("/api/v1/reload", 404, "not_found"),  # this API was made without changes
        ("http://127.0.0.1/metrics", 404, "not_found"),
        ("*", 404, "not_found"),
    ],
)
def test_a_wrong_request_gets_an_error_with_a_code(target: str, status: int, code: str) -> None:
    response, body = ask(target)
    assert (response.status, response.content_type, code_of(body)) == (status, "application/json", code)


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/api/v1/pools"])
def test_what_only_tells_is_read_only(path: str) -> None:
    assert ask(path, method="HEAD")[0].status == 200
    response, body = ask(path, method="POST")
    assert (response.status, code_of(body)) == (405, "method_not_allowed")
    assert ("allow", "GET, HEAD") in response.headers


def test_readiness_says_why_not_and_liveness_does_not_depend_on_it() -> None:
    view = View()
    api = AdminApi(view, None, frozenset())
    assert ask("/readyz", api=api)[0].status == 200
    view.reason = "draining"
    response, body = ask("/readyz", api=api)
    assert (response.status, code_of(body)) == (503, "not_ready")
    assert json.loads(body)["error"]["message"] == "draining"
    assert ask("/livez", api=api)[0].status == 200


def test_pools_are_json_with_the_generation() -> None:
    known = json.loads(ask("/api/v1/pools")[1])
    assert known["generation"] == 7
    assert known["pools"][0]["backends"][0]["name"] == "a"
    assert {"state", "weight", "file_weight", "in_flight", "requests", "latency"} <= set(
        known["pools"][0]["backends"][0]
    )


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:9901", True),
        ("10.1.2.3:80", True),
        ("[::1]:9901", True),
        ("[::1]", True),
        ("localhost", True),
        ("LOCALHOST:9901", True),
        ("localhost.:9901", True),
        ("Admin.Example.com:9901", True),
        ("evil.example.com", False),
        ("localhost.evil.com", False),
        ("127.0.0.1.evil.com", False),
        ("admin.example.com.evil.com", False),
        ("", False),
        ("[evil]:80", False),
        ("a:b:c", False),
    ],
)
def test_only_hosts_that_a_web_page_cannot_choose_are_accepted(host: str, accepted: bool) -> None:
    api = AdminApi(View(), None, frozenset({"admin.example.com"}))
    for path in ("/metrics", "/livez", "/nothing"):
        response, body = ask(path, host=host, api=api)
        assert (response.status != 403) is accepted
        if not accepted:
            assert code_of(body) == "host_refused"


@pytest.mark.parametrize(
    ("authorization", "accepted"),
    [
        ("Bearer s3cret", True),
        ("bearer  s3cret", True),
        (None, False),
        ("", False),
        ("Bearer", False),
        ("Bearer s3cre", False),
        ("Bearer s3cret2", False),
        ("Basic s3cret", False),
        ("s3cret", False),
        ("Bearer é", False),
    ],
)
def test_a_token_is_asked_for_everywhere_but_at_the_probes(authorization: str | None, accepted: bool) -> None:
    api = AdminApi(View(), "s3cret", frozenset())
    for path in ("/metrics", "/api/v1/pools", "/nothing"):
        response, body = ask(path, authorization=authorization, api=api)
        assert (response.status != 401) is accepted
        if not accepted:
            assert code_of(body) == "token_required"
            assert ("www-authenticate", "Bearer") in response.headers
            assert b"s3cret" not in body
    assert ask("/livez", api=api)[0].status == 200
    assert ask("/readyz", api=api)[0].status == 200


def test_a_large_answer_leaves_turns_to_others() -> None:
    view = View()
    for number in range(5000):
        view.sum.set(metrics.BACKEND_WEIGHT, ("web", f"b{number}"), 1)

    async def scenario() -> int:
        turns, done = 0, False

        async def count() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        counter = asyncio.create_task(count())
        headers = {"host": "localhost"}
        await whole(await AdminApi(view, None, frozenset())(Request("GET", "/metrics", "1.1", headers)))
        done = True
        await counter
        return turns

    assert asyncio.run(scenario()) >= 5
