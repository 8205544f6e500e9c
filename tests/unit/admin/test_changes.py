"""The requests that change something: what is done, what is refused and how that is told."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.admin.api import AdminApi
from balancer.admin.changes import (
    NewBackend,
    OutOfReachError,
    RefusedChangeError,
    ReloadResult,
    UncertainChangeError,
)
from balancer.admin.status import BackendStatus
from balancer.config import model
from balancer.transport.http_server import Request, Response
from tests.support.admin_address import Supervisor

A = "/api/v1/pools/api/backends/a"
BACKENDS = "/api/v1/pools/api/backends"
RELOAD = "/api/v1/reload"
CONFIG = "/api/v1/config"
JSON = {"content-type": "application/json"}


def ask(
    supervisor: Supervisor,
    method: str,
    target: str,
    body: object = b"",
    *,
    headers: dict[str, str] = JSON,
    token: str | None = None,
) -> tuple[int, Any, Response]:
    """Status and decoded body of one request, and the response itself. `body` is bytes or what JSON is made of."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = Request(method, target, "1.1", {"host": "127.0.0.1", **headers}, data)
    response = asyncio.run(AdminApi(supervisor, token, frozenset(), supervisor)(request))
    assert isinstance(response.body, bytes)
    return response.status, json.loads(response.body), response


def status_of(supervisor: Supervisor, pool: str, name: str) -> BackendStatus:
    (found,) = [one for one in asyncio.run(supervisor.pools()) if one.name == pool]
    (backend,) = [one for one in found.backends if one.name == name]
    return backend


# ---- PATCH


@pytest.mark.parametrize(
    ("body", "weight", "state", "drained"),
    [
        ({"weight": 7}, 7, "up", False),
        ({"weight": 0}, 0, "up", False),
        ({"weight": 65535}, 65535, "up", False),
        ({"state": "drain"}, 3, "draining", True),
        ({"weight": 7, "state": "drain"}, 7, "draining", True),
        ({"state": "active"}, 3, "up", False),
    ],
)
def test_a_patch_changes_what_it_names_and_the_rest_stays(
    body: dict[str, object], weight: int, state: str, drained: bool
) -> None:
    supervisor = Supervisor()
    assert ask(supervisor, "PATCH", A, body)[:2] == (200, {"pool": "api", "backend": "a"})
    backend = status_of(supervisor, "api", "a")
    assert (backend.weight, backend.file_weight, backend.state, backend.drained) == (weight, 3, state, drained)
    assert status_of(supervisor, "api", "b").weight == 1


def test_file_ends_a_live_weight_and_leaves_the_drain() -> None:
    supervisor = Supervisor()
    ask(supervisor, "PATCH", A, {"weight": 7, "state": "drain"})
    assert status_of(supervisor, "api", "a").weight_by == "balancer"
    assert ask(supervisor, "PATCH", A, {"weight": "file"})[0] == 200
    backend = status_of(supervisor, "api", "a")
    assert (backend.weight, backend.weight_by, backend.drained_by) == (3, None, ("balancer",))


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"weight": 7, "cluster": True}, ("api", "a", 7, None)),
        ({"weight": "file", "cluster": True}, ("api", "a", "file", None)),
        ({"state": "drain", "cluster": True}, ("api", "a", None, True)),
        ({"weight": 0, "state": "active", "cluster": True}, ("api", "a", 0, False)),
    ],
)
def test_a_patch_for_all_balancers_is_asked_for_as_such(body: dict[str, object], asked: object) -> None:
    supervisor = Supervisor()
    assert ask(supervisor, "PATCH", A, body)[:2] == (200, {"pool": "api", "backend": "a"})
    assert (supervisor.everywhere, len(supervisor.live)) == ([asked], 0)
    ask(supervisor, "PATCH", A, {"weight": 7, "cluster": False})
    assert len(supervisor.everywhere) == len(supervisor.live) == 1


def test_what_an_operator_should_know_comes_with_the_answer() -> None:
    supervisor = Supervisor()
    supervisor.notes = ["here it stays drained"]
    _, answer, _ = ask(supervisor, "PATCH", A, {"state": "active", "cluster": True})
    assert answer["notes"] == ["here it stays drained"]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (RefusedChangeError("say --cluster"), 409, "refused"),
        (OutOfReachError("nothing was changed"), 503, "out_of_reach"),
        (UncertainChangeError("nobody knows"), 504, "outcome_unknown"),
    ],
)
def test_a_change_that_is_not_made_is_told_with_the_reason(fault: Exception, status: int, code: str) -> None:
    supervisor = Supervisor()
    supervisor.fault = fault
    found, answer, _ = ask(supervisor, "PATCH", A, {"state": "drain", "cluster": True})
    assert (found, answer) == (status, {"error": {"code": code, "message": str(fault)}})


def test_active_ends_a_drain_and_leaves_the_weight() -> None:
    supervisor = Supervisor()
    ask(supervisor, "PATCH", A, {"weight": 7, "state": "drain"})
    ask(supervisor, "PATCH", A, {"state": "active"})
    backend = status_of(supervisor, "api", "a")
    assert (backend.weight, backend.state) == (7, "up")


def test_names_in_a_path_are_percent_encoded() -> None:
    supervisor = Supervisor()
    path = f"/api/v1/pools/{quote('odd/[pool]', safe='')}/backends/{quote('127.0.0.1:9001', safe='')}"
    assert ask(supervisor, "PATCH", path, {"weight": 2})[0] == 200
    assert status_of(supervisor, "odd/[pool]", "127.0.0.1:9001").weight == 2


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "nothing to change"),
        ({"wieght": 3}, "unknown field `wieght`"),
        ({"weight": -1}, ">= 0"),
        ({"weight": 65536}, "<= 65535"),
        ({"weight": "3"}, "Invalid enum value '3'"),
        ({"weight": 3, "cluster": 1}, "got `int`"),
        ({"weight": 3, "everywhere": True}, "unknown field `everywhere`"),
        ({"cluster": True}, "nothing to change"),
        ({"weight": None}, "got `null`"),
        ({"weight": True}, "got `bool`"),
        ({"weight": 1.5}, "got `float`"),
        ({"state": "drained"}, "'drained'"),
        ({"state": "x" * 60_000}, "a body looks like"),
        ([], "got `array`"),
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"\xff", "malformed"),
        (b'{"state":"\xff"}', "utf-8"),
        (b'{"weight":3}{"weight":4}', "trailing"),
        (b"[" * 60_000, "got `array`"),
        (b'{"weight":' + b"[" * 60_000, "got `array`"),
    ],
)
def test_a_body_that_is_none_is_told_with_what_would_be_one(body: object, told: str) -> None:
    supervisor = Supervisor()
    status, answer, _ = ask(supervisor, "PATCH", A, body)
    assert (status, answer["error"]["code"]) == (400, "bad_body")
    assert told in answer["error"]["message"]
    assert '{"weight": 3, "state": "drain"}' in answer["error"]["message"]
    assert len(answer["error"]["message"]) < 500
    assert not supervisor.live


@given(st.binary(max_size=200))
def test_no_body_is_more_than_a_bad_one(body: bytes) -> None:
    for method, path in (("PATCH", A), ("POST", BACKENDS)):
        assert ask(Supervisor(), method, path, body)[0] in (200, 201, 400)


def test_a_body_has_a_bound() -> None:
    supervisor = Supervisor()
    assert ask(supervisor, "PATCH", A, b'{"weight": 7}' + b" " * (64 * 1024 - 13))[0] == 200
    status, answer, _ = ask(supervisor, "PATCH", A, b'{"weight": 8}' + b" " * (64 * 1024 - 12))
    assert (status, answer["error"]["code"]) == (413, "body_too_large")
    assert status_of(supervisor, "api", "a").weight == 7


@pytest.mark.parametrize(
    ("path", "code", "told"),
    [
        ("/api/v1/pools/apo/backends/a", "unknown_pool", "no pool `apo`; there are: `api`, `odd/[pool]`"),
        ("/api/v1/pools/api/backends/c", "unknown_backend", "no backend `c` in pool `api`; there are: `a`, `b`"),
        ("/api/v1/pools//backends/", "unknown_pool", "no pool ``"),
        ("/api/v1/pools/api/backends/%0A%1B[1m", "unknown_backend", "`\\n\\x1b[1m`"),
        ("/api/v1/pools/api/backends/%FF", "not_found", "nothing here"),
        ("/api/v1/pools/api/backends/a/", "not_found", "nothing here"),
        ("/api/v1/pools/odd/[pool]/backends/x", "not_found", "nothing here"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(path: str, code: str, told: str) -> None:
    status, answer, _ = ask(Supervisor(), "PATCH", path, {"weight": 2})
    assert (status, answer["error"]["code"]) == (404, code)
    assert told in answer["error"]["message"]


# ---- POST and DELETE of backends


def test_an_added_backend_is_there_until_it_is_deleted() -> None:
    supervisor = Supervisor()
    body = {"address": "10.0.0.7:80", "name": "c/d", "weight": 4, "max_connections": 9, "backup": True}
    status, answer, response = ask(supervisor, "POST", BACKENDS, body)
    assert (status, answer) == (201, {"pool": "api", "backend": "c/d"})
    location = dict(response.headers)["location"]
    assert location == "/api/v1/pools/api/backends/c%2Fd"
    backend = status_of(supervisor, "api", "c/d")
    assert (backend.address, backend.source, backend.weight, backend.file_weight) == ("10.0.0.7:80", "api", 4, None)
    assert (backend.max_connections, backend.backup) == (9, True)
    assert ask(supervisor, "PATCH", location, {"weight": 5})[0] == 200
    assert ask(supervisor, "DELETE", location)[:2] == (200, {"pool": "api", "backend": "c/d"})
    assert ask(supervisor, "DELETE", location)[0] == 404


def test_a_name_defaults_to_the_address_as_it_was_written() -> None:
    supervisor = Supervisor()
    assert ask(supervisor, "POST", BACKENDS, {"address": "App.Example.com:80"})[1]["backend"] == "App.Example.com:80"
    assert status_of(supervisor, "api", "App.Example.com:80").address == "app.example.com:80"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "`address`"),
        ({"address": "10.0.0.7"}, "lacks its port"),
        ({"address": "http://10.0.0.7:80"}, "is a URL"),
        ({"address": "10.0.0.7:80", "name": "a b"}, "cannot be a name"),
        ({"address": "10.0.0.7:80", "name": ""}, "cannot be a name"),
        ({"address": "10.0.0.7:80", "max_connections": 0}, ">= 1"),
        ({"address": "10.0.0.7:80", "port": 80}, "unknown field `port`"),
        ({"address": "unix:"}, "needs a path"),
        ({"address": "unix:here.sock"}, "the/whole/path"),
        ({"address": "unix:/run/\n"}, "control character"),
        ({"address": "unix:/" + "x" * 107}, "at most 107 bytes"),
    ],
)
def test_a_backend_that_the_file_could_not_have_is_refused(body: dict[str, object], told: str) -> None:
    supervisor = Supervisor()
    status, answer, _ = ask(supervisor, "POST", BACKENDS, body)
    assert (status, answer["error"]["code"]) == (400, "bad_body")
    assert told in answer["error"]["message"]
    assert not supervisor.live


def test_an_added_backend_is_as_the_file_would_have_it() -> None:
    assert NewBackend(address="[::1]:80").entry() == model.Backend(name="[::1]:80", host="::1", port=80)
    assert NewBackend(address="unix:/run/s").entry() == model.Backend(name="unix:/run/s", path="/run/s")


def test_a_name_that_is_taken_and_a_backend_of_the_file_are_refused() -> None:
    supervisor = Supervisor()
    for method, path, body, told in (
        ("POST", BACKENDS, {"address": "10.0.0.7:80", "name": "a"}, "another name"),
        ("DELETE", A, b"", "drain it"),
    ):
        status, answer, _ = ask(supervisor, method, path, body)
        assert (status, answer["error"]["code"]) == (409, "refused")
        assert told in answer["error"]["message"]


# ---- reload and config


@pytest.mark.parametrize(
    ("query", "dry_run", "discard_live"),
    [
        ("", False, False),
        ("?dry_run=1", True, False),
        ("?discard_live=1", False, True),
        ("?dry_run=1&discard_live=1", True, True),
        ("?dry_run=0", False, False),
    ],
)
def test_a_reload_tells_what_changed(query: str, dry_run: bool, discard_live: bool) -> None:
    supervisor = Supervisor()
    status, answer, _ = ask(supervisor, "POST", RELOAD + query)
    assert (status, answer) == (200, {"ok": True, "generation": 2, "changes": ["pool api: +1 backend"], "problems": []})
    assert supervisor.reloads == [(dry_run, discard_live)]


def test_a_refused_reload_tells_every_problem() -> None:
    supervisor = Supervisor()
    problems = ["b.yaml:3:1: pools: is wrong", "b.yaml:4:1: routes: is wrong"]
    supervisor.result = ReloadResult(False, 1, [], problems)
    status, answer, _ = ask(supervisor, "POST", RELOAD)
    assert status == 422
    assert answer == {
        "error": {"code": "reload_refused", "message": "\n".join(problems)},
        "ok": False,
        "generation": 1,
        "changes": [],
        "problems": problems,
    }


@pytest.mark.parametrize("query", ["?dryrun=1", "?dry_run=yes", "?dry_run=", "?dry_run", "?discard_live=1&x=1"])
def test_a_mistyped_query_does_not_reload(query: str) -> None:
    supervisor = Supervisor()
    status, answer, _ = ask(supervisor, "POST", RELOAD + query)
    assert (status, answer["error"]["code"]) == (400, "bad_query")
    assert "dry_run=1 and discard_live=1" in answer["error"]["message"]
    assert supervisor.reloads == []


@pytest.mark.parametrize(("method", "path"), [("POST", RELOAD), ("DELETE", A)])
def test_a_body_that_would_not_be_read_is_refused(method: str, path: str) -> None:
    supervisor = Supervisor()
    status, answer, _ = ask(supervisor, method, path, {"dry_run": True})
    assert (status, answer["error"]["code"]) == (400, "bad_body")
    assert supervisor.reloads == []


def test_config_tells_what_differs_from_the_file() -> None:
    supervisor = Supervisor()
    assert ask(supervisor, "GET", CONFIG)[:2] == (200, {"generation": 1, "differs": []})
    ask(supervisor, "PATCH", A, {"weight": 7})
    differs = ["pool api: backend a: live weight 7 instead of 3"]
    assert ask(supervisor, "GET", CONFIG)[1]["differs"] == differs


def test_what_the_supervisor_cannot_do_now_is_told() -> None:
    class Busy(Supervisor):
        async def reload(self, *, dry_run: bool, discard_live: bool) -> ReloadResult:
            raise RefusedChangeError("the daemon is stopping")

    status, answer, _ = ask(Busy(), "POST", RELOAD)
    assert (status, answer) == (409, {"error": {"code": "refused", "message": "the daemon is stopping"}})


# ---- who may, and how

CHANGING = [("PATCH", A), ("DELETE", A), ("POST", BACKENDS), ("POST", RELOAD)]
BODIES: dict[tuple[str, str], bytes] = {
    ("PATCH", A): b'{"weight": 7}',
    ("POST", BACKENDS): b'{"address": "10.0.0.7:80"}',
}


@pytest.mark.parametrize(
    ("path", "allow"),
    [(A, "PATCH, DELETE"), (BACKENDS, "POST"), (RELOAD, "POST"), (CONFIG, "GET, HEAD"), ("/metrics", "GET, HEAD")],
)
def test_another_method_is_told_which_there_are(path: str, allow: str) -> None:
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - set(allow.split(", ")):
        supervisor = Supervisor()
        status, answer, response = ask(supervisor, method, path, b'{"weight": 7}')
        assert (status, answer["error"]["code"]) == (405, "method_not_allowed")
        assert dict(response.headers)["allow"] == allow
        assert not supervisor.live
        assert not supervisor.reloads


@pytest.mark.parametrize(("method", "path"), CHANGING)
@pytest.mark.parametrize(
    ("kind", "taken"),
    [
        (None, False),
        ("text/plain", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data; boundary=application/json", False),
        ("text/plain; application/json", False),
        ("text/plain, application/json", False),
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
    ],
)
def test_without_a_token_no_form_of_a_web_page_changes_anything(
    method: str, path: str, kind: str | None, taken: bool
) -> None:
    supervisor = Supervisor()
    headers = {} if kind is None else {"content-type": kind}
    status, answer, _ = ask(supervisor, method, path, BODIES.get((method, path), b""), headers=headers)
    if taken:
        assert status != 415
    else:
        assert (status, answer["error"]["code"]) == (415, "json_required")
        assert not supervisor.live
        assert not supervisor.reloads


@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_with_a_token_it_is_the_token_that_counts(method: str, path: str) -> None:
    body = BODIES.get((method, path), b"")
    supervisor = Supervisor()
    status, answer, _ = ask(supervisor, method, path, body, token="s3cret")
    assert (status, answer["error"]["code"]) == (401, "token_required")
    assert not supervisor.live
    assert not supervisor.reloads
    good = {"authorization": "Bearer s3cret"}
    assert ask(supervisor, method, path, body, token="s3cret", headers=good)[0] not in (401, 415)


@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_a_host_that_a_web_page_can_choose_changes_nothing(method: str, path: str) -> None:
    supervisor = Supervisor()
    headers = {"host": "evil.example.com", **JSON}
    status, answer, _ = ask(supervisor, method, path, BODIES.get((method, path), b""), headers=headers)
    assert (status, answer["error"]["code"]) == (403, "host_refused")
    assert not supervisor.live
    assert not supervisor.reloads
