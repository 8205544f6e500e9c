"""Each exchange leaves one line that says how it ended, and the counters agree with the lines."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.scripted import Message, Origin, Scene, Talk, eventually, ok, request

WORDS = ("status", "ended_by", "phase", "reason")


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def scene(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        idle = {"keepalive": {"idle": "300ms"}}
        scene = Scene(
            {
                "via": "us",
                "listeners": {"plain": {"bind": "127.0.0.1:0"}},
                "routes": [
                    {"name": "refused", "match": {"path_prefix": "/refused"}, "pool": "refused"},
                    {"name": "empty", "match": {"path_prefix": "/empty"}, "pool": "empty"},
                    {"name": "all", "match": {"path_prefix": "/x"}, "pool": "web"},
                ],
                "pools": {
                    "web": {"backends": [{"name": "one", "address": f"127.0.0.1:{origin.port}"}], **idle},
                    "refused": {"backends": [f"127.0.0.1:{nobody.getsockname()[1]}"]},
                    "empty": {"backends": [{"address": f"127.0.0.1:{origin.port}", "weight": 0}]},
                },
            },
            tmp_path_factory.mktemp("access-log"),
        )
        yield scene
        try:
            scene.assert_at_rest()
        finally:
            scene.close()


def words(line: dict[str, object]) -> tuple[object, ...]:
    return tuple(line[word] for word in WORDS)


def test_a_line_says_all_about_an_exchange(scene: Scene, origin: Origin) -> None:
    answer = scene.ask("plain", "/x/all?q=1", "X-Request-Id: mine-1", method="POST", body=b"abc")
    line = scene.logged(id="mine-1")
    assert words(line) == (200, "-", "done", "ok")
    assert {name: line[name] for name in ("listener", "route", "pool", "backend", "attempts", "method", "target")} == {
        "listener": "plain",
        "route": "all",
        "pool": "web",
        "backend": "one",
        "attempts": 1,
        "method": "POST",
        "target": "/x/all?q=1",
    }
    sent = request("/x/all?q=1", "X-Request-Id: mine-1", method="POST", body=b"abc")
    assert (line["bytes_in"], line["bytes_out"]) == (len(sent), len(answer.raw_head) + len(answer.body))
    assert 0 <= line["connect_ms"] <= line["first_byte_ms"] <= line["total_ms"] < 5000
    assert line["client"] == "127.0.0.1"
    assert origin.seen("/x/all")[0].field("x-request-id") == "mine-1"


def test_an_id_is_made_where_there_is_none_and_both_sides_see_it(scene: Scene, origin: Origin) -> None:
    scene.ask("plain", "/x/made")
    (seen,) = origin.seen("/x/made")
    assert scene.logged(target="/x/made")["id"] == seen.field("x-request-id") != ""


def test_a_reused_connection_has_no_connect_time(scene: Scene) -> None:
    with scene.connect("plain") as client:
        for n in range(2):
            client.send(request(f"/x/reuse-{n}")).response()
    assert scene.logged(target="/x/reuse-1")["connect_ms"] is None


@pytest.mark.parametrize("target", [rb'/x/"},\u0022{%00%0a', b"/x/\x80\xff\xe2\x82", b"/x/" + b"%22" * 1000])
def test_hostile_bytes_do_not_break_a_line(scene: Scene, target: bytes) -> None:
    mark = f"hostile-{abs(hash(target))}"
    with scene.connect("plain") as client:
        client.send(b"GET %b HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\n\r\n" % (target, mark.encode()))
        status = client.response().status
    if status == 200:
        assert str(scene.logged(id=mark)["target"]).startswith("/x/")
    else:
        assert status == 400


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET /x/bad HTTP/1.1\r\n\r\n", (400, "downstream", "request_head", "bad_request")),
        (b"GET /x/bad HTTP/2.0\r\nHost: a\r\n\r\n", (505, "downstream", "request_head", "version_unsupported")),
        (b"BREW /x/bad HTTP/1.1\r\nHost: a\r\n\r\n", (501, "downstream", "request_head", "method_unknown")),
        (b"TRACE /x HTTP/1.1\r\nHost: a\r\n\r\n", (405, "downstream", "request_head", "method_refused")),
        (
            request("/x", "Expect: tea", method="POST", body=b"a"),
            (417, "downstream", "request_head", "expectation_failed"),
        ),
        (
            request("/x", "Transfer-Encoding: gzip, chunked", method="POST"),
            (501, "downstream", "request_head", "coding_unknown"),
        ),
        (
            request("/x/bad-body", "Transfer-Encoding: chunked", method="POST") + b"zz\r\n",
            (400, "downstream", "request_body", "bad_body"),
        ),
        (request("/nowhere/1"), (404, "internal", "route", "no_route")),
        (request("/refused/1"), (502, "upstream", "connect", "connect_failed")),
        (request("/empty/1"), (503, "internal", "pick", "pool_empty")),
        (request("/x/loop", "Via: 1.1 us, 1.1 us"), (508, "internal", "route", "loop")),
    ],
    ids=lambda value: value[3] if isinstance(value, tuple) else "",
)
def test_how_a_request_ended_is_told_and_counted(scene: Scene, data: bytes, expected: tuple[object, ...]) -> None:
    reason = str(expected[3])
    before = scene.ended("plain", reason)
    with scene.connect("plain") as client:
        assert client.send(data).response().status == expected[0]
    assert words(scene.logged(reason=reason)) == expected
    assert scene.ended("plain", reason) == before + 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"nonsense\r\n\r\n", (502, "upstream", "response_head", "bad_response")),
        (
            b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 90_000 + b"\r\n\r\n",
            (502, "upstream", "response_head", "response_head_too_large"),
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 30, (502, "upstream", "response_head", "bad_response")),
        (b"", (502, "upstream", "response_head", "upstream_reset")),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            (200, "upstream", "response_body", "bad_response_body"),
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            (200, "upstream", "response_body", "upstream_truncated"),
        ),
    ],
    ids=["nonsense", "large head", "flood of interim ones", "nothing", "bad chunk", "cut short"],
)
def test_what_a_backend_did_is_told(
    scene: Scene, origin: Origin, answer: bytes, expected: tuple[object, ...], request: pytest.FixtureRequest
) -> None:
    path = "/x/backend-" + "".join(char for char in request.node.name if char.isalnum())
    origin.on(path, lambda talk, _: talk.send(answer) and None)
    with scene.connect("plain") as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
        client.rest() if expected[0] == 200 else client.response()
    assert words(scene.logged(target=path)) == expected


# The client goes away.


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_client_that_leaves_while_it_sends_is_499(scene: Scene, origin: Origin, how: str) -> None:
    path = f"/x/in-request-{how}"
    origin.on(path, lambda talk, _: talk.rest() and None, head_only=True)
    client = scene.connect("plain").send(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    assert eventually(lambda: origin.seen(path))
    client.close() if how == "fin" else client.reset()
    line = scene.logged(target=path)
    assert words(line) == (499, "downstream", "request_body", "client_gone_in_request")
    assert line["bytes_in"] > 3


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_client_that_leaves_while_it_waits_is_499(scene: Scene, origin: Origin, how: str) -> None:
    path = f"/x/waiting-{how}"
    origin.on(path, lambda talk, _: talk.rest() and None)
    client = scene.connect("plain").send(request(path))
    assert eventually(lambda: origin.seen(path))
    client.close() if how == "fin" else client.reset()
    assert words(scene.logged(target=path)) == (499, "downstream", "response_head", "client_gone")


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_client_that_leaves_inside_the_response_keeps_its_status(scene: Scene, origin: Origin, how: str) -> None:
    path = f"/x/in-response-{how}"

    def script(talk: Talk, _: Message) -> None:
        talk.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        talk.rest()

    origin.on(path, script)
    client = scene.connect("plain").send(request(path))
    client.until(b"abc")
    client.close() if how == "fin" else client.reset()
    assert words(scene.logged(target=path)) == (200, "downstream", "response_body", "client_gone_in_response")


def test_a_client_that_leaves_after_its_answer_or_before_a_request_is_no_event(scene: Scene) -> None:
    before = scene.metric("balancer_terminations_total")
    with scene.connect("plain") as client:
        client.send(request("/x/after")).response()
    scene.connect("plain").close()
    scene.connect("plain").reset()
    scene.connect("plain").send("GET /x/half").close()
    assert eventually(lambda: scene.metric("balancer_downstream_connections") == 0)
    assert words(scene.logged(target="/x/after")) == (200, "-", "done", "ok")
    assert scene.metric("balancer_terminations_total") == before


def test_counters_agree_with_the_lines(scene: Scene, origin: Origin) -> None:
    origin.on("/x/sum", lambda talk, _: bool(talk.send(ok(b"s" * 1000))))
    threads = [threading.Thread(target=lambda: [scene.ask("plain", "/x/sum") for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert eventually(lambda: len([line for line in scene.log() if line["target"] == "/x/sum"]) == 80)
    assert eventually(lambda: scene.metric("balancer_downstream_connections") == 0)
    lines = scene.log()
    assert scene.metric("balancer_requests_total") == len(lines)
    for code in ("2xx", "4xx", "5xx"):
        due = sum(str(line["status"])[0] == code[0] and line["status"] != 499 for line in lines)
        assert scene.metric("balancer_requests_total", code=code) == due, code
    assert scene.metric("balancer_bytes_total", direction="out") == sum(line["bytes_out"] for line in lines)
    ended = scene.metric("balancer_terminations_total")
    assert ended == sum(line["reason"] != "ok" for line in lines)
