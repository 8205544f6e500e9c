"""Every limit answers with its status, its word in the log and its count, and what it refused takes no place."""

import os
import ssl
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import authority, issued
from tests.support.scripted import CutError, Message, Origin, Scene, Talk, eventually, ok, request

BOUNDED = 24 * 1024 * 1024  # how much a worker may grow where one connection's buffers are bounded; noise included


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def scene(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    backend, bind = f"127.0.0.1:{origin.port}", "127.0.0.1:0"
    idle = {"keepalive": {"idle": "300ms"}}
    scene = Scene(
        {
            "max_connections": 12,
            "listeners": {
                "plain": {"bind": bind},
                "heads": {"bind": bind, "limits": {"head_bytes": "1KiB", "header_count": 10, "uri_bytes": "64B"}},
                "bodies": {"bind": bind, "limits": {"max_body": "1KiB"}},
                "few": {"bind": bind, "limits": {"max_connections": 2}},
                "each": {"bind": bind, "limits": {"max_connections_per_client": 2}},
                "thrice": {"bind": bind, "limits": {"max_requests_per_connection": 3}},
            },
            "routes": [
                {"name": "roomy", "match": {"path": "/roomy"}, "pool": "web", "max_body": "2KiB"},
                {"name": "tight", "match": {"path": "/tight"}, "pool": "web", "max_body": "10B"},
                {"name": "full", "match": {"path_prefix": "/full"}, "pool": "full"},
                {"name": "large", "match": {"path": "/large"}, "respond": {"body": "r" * 60_000}},
                {"name": "all", "pool": "web"},
            ],
            "pools": {
                "web": {"backends": [backend], **idle},
                "full": {"backends": [{"address": backend, "max_connections": 1}], **idle},
            },
        },
        tmp_path_factory.mktemp("limits"),
    )
    yield scene
    try:
        scene.assert_at_rest()
    finally:
        scene.close()


def refused(scene: Scene, listener: str, data: bytes) -> Message:
    """The answer to something that is refused: it says close, and the connection ends."""
    with scene.connect(listener) as client:
        answer = client.send(data).response()
        assert answer.field("connection") == "close"
        assert client.rest() == (b"", "fin")
    return answer


# Heads.


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (request("/", "X-A: " + "a" * 1024), 431, "head_too_large"),
        (request("/", "X-A: " + "a" * 1024)[:-4], 431, "head_too_large"),
        (request("/", *(f"X-{n}: 1" for n in range(10))), 431, "head_too_large"),
        (request("/" + "a" * 64), 414, "uri_too_long"),
        (request("/" + "a" * 64)[:-4], None, ""),
        (b"GET /" + b"a" * 200, 414, "uri_too_long"),
        (b"GET /" + b"a" * 2000, 414, "uri_too_long"),
    ],
    ids=[
        "bytes",
        "bytes, unfinished",
        "fields",
        "target",
        "target, unfinished head",
        "target, unfinished line",
        "target over both",
    ],
)
def test_a_head_over_a_limit_is_refused(scene: Scene, data: bytes, status: int | None, reason: str) -> None:
    if status is None:  # the line is complete but not the head: refused now or at its end
        data += b"\r\n\r\n"
        status, reason = 414, "uri_too_long"
    before = scene.ended("heads", reason)
    assert refused(scene, "heads", data).status == status
    assert scene.ended("heads", reason) == before + 1
    assert scene.logged(listener="heads", reason=reason, status=status)["ended_by"] == "downstream"


def test_a_refused_head_request_gets_no_content(scene: Scene) -> None:
    with scene.connect("plain") as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: wonders\r\n\r\n")
        assert client.head().status == 417
        assert client.rest() == (b"", "fin")


def test_a_head_at_its_limits_passes(scene: Scene, origin: Origin) -> None:
    assert scene.ask("heads", "/" + "a" * 63).status == 200
    assert scene.ask("heads", "/", *(f"X-{n}: 1" for n in range(9))).status == 200
    exactly = 1024 - len(request("/", "X-A: "))
    assert scene.ask("heads", "/", "X-A: " + "a" * exactly).status == 200


def test_a_limit_holds_byte_by_byte_too(scene: Scene) -> None:
    with scene.connect("heads") as client:
        for byte in b"GET /" + b"a" * 80:
            client.send(bytes([byte]))
        with pytest.raises((CutError, OSError)):
            for byte in b" HTTP/1.1\r\nHost: a\r\n\r\n":
                client.send(bytes([byte]))
            assert client.response().status == 414
            client.response()


# Bodies.


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


@pytest.mark.parametrize(
    ("path", "limit"), [("/", 1024), ("/roomy", 2048), ("/tight", 10)], ids=["listener", "route above", "route below"]
)
def test_a_body_over_max_body_is_413(scene: Scene, origin: Origin, path: str, limit: int) -> None:
    served = len(origin.seen(path))
    assert scene.ask("bodies", path, method="POST", body=b"b" * limit).status == 200
    assert scene.ask("bodies", path, method="POST", body=b"b" * (limit + 1)).status == 413
    assert len(origin.seen(path)) == served + 1, "a length over the limit reaches no backend"
    line = scene.logged(reason="body_too_large", listener="bodies", target=path)
    assert (line["status"], line["phase"], line["method"]) == (413, "request_body", "POST")


@pytest.mark.parametrize("pieces", [1, 3], ids=["with the head", "later"])
def test_a_chunked_body_over_max_body_is_413(scene: Scene, pieces: int) -> None:
    path = f"/chunked-{pieces}"
    head = request(path, "Transfer-Encoding: chunked", method="POST")
    with scene.connect("bodies") as client:
        client.send(head + chunked(b"b" * 1024))
        assert client.response().status == 200, "exactly the limit passes"
        if pieces == 1:
            client.send(head + chunked(b"b" * 600, b"b" * 600))
        else:
            client.send(head).send(b"258\r\n" + b"b" * 600)
            assert eventually(lambda: scene.metric("balancer_backend_in_flight", pool="web") == 1)
            client.send(b"\r\n258\r\n" + b"b" * 600)
        answer = client.response()
        assert (answer.status, answer.field("connection")) == (413, "close")
    line = scene.logged(reason="body_too_large", target=path)
    assert (line["status"], line["ended_by"]) == (413, "downstream")


# Connections.


def idle_connections(scene: Scene, listener: str, count: int) -> list[Talk]:
    """Connections that have been served once each."""
    talks = [scene.connect(listener) for _ in range(count)]
    for talk in talks:
        assert talk.send(request("/x")).response().status == 200
    return talks


def close_all(talks: list[Talk]) -> None:
    for talk in talks:
        talk.close()


@pytest.mark.parametrize(
    ("listener", "limit", "status", "name", "reason"),
    [
        ("few", 2, 503, "listener_max_connections", "connections"),
        ("each", 2, 429, "max_connections_per_client", "client_connections"),
        ("plain", 12, 503, "max_connections", "connections"),
    ],
)
def test_a_connection_over_a_limit_is_told_so_at_once(
    scene: Scene, listener: str, limit: int, status: int, name: str, reason: str
) -> None:
    assert eventually(lambda: scene.metric("balancer_downstream_connections") == 0)
    before = scene.metric("balancer_limit_rejections_total", limit=name)
    talks = idle_connections(scene, listener, limit)
    with scene.connect(listener) as client:
        answer = client.response()
        assert answer.status == status
        assert answer.field("connection") == "close"
        if status == 503:
            assert answer.field("retry-after").isdigit()
    assert talks[0].send(request("/y")).response().status == 200, "those within the limit are not harmed"
    close_all(talks)
    assert scene.metric("balancer_limit_rejections_total", limit=name) == before + 1
    line = scene.logged(listener=listener, reason=reason)
    assert (line["status"], line["phase"]) == (status, "connection")
    assert eventually(lambda: scene.metric("balancer_downstream_connections", listener=listener) == 0)
    assert scene.ask(listener, "/z").status == 200, "there is room again"


@pytest.mark.parametrize("listener", ["few", "each"])
def test_refused_clients_that_linger_take_no_place(scene: Scene, listener: str) -> None:
    assert eventually(lambda: scene.metric("balancer_downstream_connections") == 0)
    talks = idle_connections(scene, listener, 2)
    lingering = [scene.connect(listener) for _ in range(3)]
    for talk in lingering:
        assert talk.response().status in (429, 503)
    talks.pop().close()
    assert eventually(lambda: scene.metric("balancer_downstream_connections", listener=listener) == 4)
    assert scene.ask(listener, "/x").status == 200, "one is served and two fit"
    close_all(talks + lingering)


def test_the_last_request_of_a_connection_says_close(scene: Scene) -> None:
    with scene.connect("thrice") as client:
        options = [client.send(request("/x")).response().field("connection") for _ in range(3)]
        assert options == ["", "", "close"]
        assert client.rest() == (b"", "fin")


def test_the_last_request_of_a_pipeline_says_close_and_the_rest_is_not_served(scene: Scene, origin: Origin) -> None:
    served = len(origin.seen("/pipe"))
    with scene.connect("thrice") as client:
        client.send(request("/pipe") * 5)
        assert [client.response().field("connection") for _ in range(3)] == ["", "", "close"]
        assert client.rest() == (b"", "fin")
    assert len(origin.seen("/pipe")) == served + 3


def test_a_full_pool_is_503_pool_full(scene: Scene, origin: Origin) -> None:
    go_on = threading.Event()

    def script(talk: Talk, _: Message) -> bool:
        go_on.wait(8)
        talk.send(ok())
        return True

    origin.on("/full/held", script)
    with scene.connect("plain") as first, scene.connect("plain") as second:
        first.send(request("/full/held"))
        assert eventually(lambda: scene.metric("balancer_backend_in_flight", pool="full") == 1)
        answer = second.send(request("/full/other")).response()
        assert answer.status == 503
        assert answer.field("retry-after").isdigit()
        assert "connection_limit_reached" in answer.field("proxy-status")
        assert not answer.field("connection"), "the connection is not to blame"
        line = scene.logged(target="/full/other")
        assert (line["reason"], line["phase"], line["pool"], line["backend"], line["attempts"]) == (
            "pool_full",
            "pick",
            "full",
            "-",
            0,
        )
        go_on.set()
        assert first.response().status == 200
        assert second.send(request("/full/again")).response().status == 200
    assert scene.ended("plain", "pool_full") == 1


# Memory.


def resident(scene: Scene) -> int:
    """Bytes of memory that the workers have."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in scene.daemon.workers().values())
    return pages * os.sysconf("SC_PAGE_SIZE")


def grows_by(scene: Scene, pipelined: bytes) -> int:
    """The most that the workers grow by while a client sends all this and reads nothing."""
    before = resident(scene)
    with scene.connect("plain", small=True) as client:
        client.send(pipelined)
        most, until = before, time.monotonic() + 0.8  # unbounded, they would grow by far more in half of this
        while time.monotonic() < until and most - before < BOUNDED:
            most = max(most, resident(scene))
    return most - before


def test_pipelined_answers_of_ours_wait_for_a_client_that_does_not_read(scene: Scene) -> None:
    """60 kB each: without a bound they would take 120 MB."""
    assert grows_by(scene, b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n" * 2000) < BOUNDED


def test_pipelined_responses_wait_for_a_client_that_does_not_read(scene: Scene, origin: Origin) -> None:
    body = b"m" * (1 << 20)
    origin.on("/megabyte", lambda talk, _: talk.send(ok(body)) and True)
    assert grows_by(scene, request("/megabyte") * 100) < BOUNDED


def test_a_client_that_reads_late_gets_all_that_it_pipelined(scene: Scene, origin: Origin) -> None:
    """A held-back pipeline goes on where it stopped, answers in order."""
    origin.on("/numbered", lambda talk, message: bool(talk.send(ok(message.target.encode() * 8000))))
    with scene.connect("plain", small=True) as client:
        client.send(b"".join(request(f"/numbered?{n}" if n % 2 else "/large") for n in range(150)))
        threading.Event().wait(0.3)  # so that it backs up
        for n in range(150):
            body = client.response().body
            assert body == (f"/numbered?{n}".encode() * 8000 if n % 2 else b"r" * 60_000), n


# Descriptors.

DESCRIPTORS = 400
BUDGET = (DESCRIPTORS - 256) // 2  # two for each client, less what the process itself needs


@pytest.fixture
def poor(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A daemon that may open few descriptors."""
    limited = tmp_path / "python"
    limited.write_text(f'#!/bin/sh\nulimit -n {DESCRIPTORS}\nexec "{sys.executable}" "$@"\n')
    limited.chmod(limited.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("sys.executable", str(limited))
    pair = issued("first.test")
    tls = {"certificates": [{"cert": str(pair.cert_path), "key": str(pair.key_path)}]}
    scene = Scene(
        {
            "listeners": {
                "plain": {"bind": "127.0.0.1:0"},
                "tls": {"bind": "127.0.0.1:0", "tls": tls, "timeouts": {"head": "2s"}},
            },
            "routes": [{"name": "all", "pool": "web"}],
            "pools": {"web": {"backends": [f"127.0.0.1:{origin.port}"], "keepalive": {"idle": "300ms"}}},
        },
        tmp_path,
    )
    yield scene
    scene.close()


def test_connections_beyond_the_descriptors_get_503(poor: Scene) -> None:
    talks = idle_connections(poor, "plain", BUDGET)
    extra = [poor.connect("plain") for _ in range(40)]
    for talk in extra:
        answer = talk.response()
        assert (answer.status, answer.field("retry-after")) == (503, "1")
    assert talks[0].send(request("/x")).response().status == 200
    assert poor.metric("balancer_limit_rejections_total", limit="descriptors") == 40
    assert eventually(lambda: sum(line["reason"] == "connections" for line in poor.log()) == 40)
    close_all(talks + extra)
    poor.assert_at_rest()


def test_handshakes_that_never_come_do_not_use_up_the_descriptors(poor: Scene) -> None:
    silent = [poor.connect("tls") for _ in range(DESCRIPTORS + 50)]
    assert eventually(lambda: poor.metric("balancer_limit_rejections_total", limit="descriptors") > DESCRIPTORS // 2)
    assert poor.ask("plain", "/x").status == 200, "clients of another listener are not harmed"
    close_all(silent)
    poor.assert_at_rest()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority().cert_path)
    with poor.connect("tls") as talk:
        talk.sock = context.wrap_socket(talk.sock, server_hostname="first.test")
        assert talk.send(request("/x")).response().status == 200


def test_a_tls_client_beyond_the_descriptors_gets_503(poor: Scene) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority().cert_path)
    talks = idle_connections(poor, "plain", BUDGET)
    with poor.connect("tls") as talk:
        talk.sock = context.wrap_socket(talk.sock, server_hostname="first.test")
        assert talk.response().status == 503
    close_all(talks)
