"""Connections to backends: which are used again, which never, and what a request on a dead one turns into."""

import threading
import time
from collections.abc import Iterator
from random import Random

import pytest

from tests.support.scripted import CutError, Message, Origin, Scene, Script, Talk, eventually, ok, request


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def scene(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    backends = [f"127.0.0.1:{origin.port}"]

    def pool(**keepalive: object) -> dict[str, object]:
        return {"backends": backends, "keepalive": {"idle": "400ms", **keepalive}}

    pools = {
        "web": pool(),
        "thrice": pool(max_requests=3),
        "aged": pool(max_age="300ms"),
        "two": pool(max_idle=2),
        "none": pool(max_idle="off"),
        "brief": pool(idle="300ms"),
        "long": pool(idle="2s"),
    }
    scene = Scene(
        {
            "listeners": {"plain": {"bind": "127.0.0.1:0"}},
            "routes": [{"name": name, "match": {"path_prefix": f"/{name}"}, "pool": name} for name in pools],
            "pools": pools,
        },
        tmp_path_factory.mktemp("upstream"),
    )
    yield scene
    try:
        scene.assert_at_rest()
    finally:
        scene.close()


def connection_of(origin: Origin, path: str) -> list[int]:
    """Numbers of the backend connections that requests for `path` came on."""
    return [message.connection for message in origin.seen(path)]


def idle(scene: Scene, pool: str) -> float:
    return scene.metric("balancer_upstream_connections", pool=pool, state="idle")


def drained(scene: Scene, pool: str) -> None:
    """The pool has no connection."""
    assert eventually(lambda: scene.metric("balancer_upstream_connections", pool=pool) == 0)


# Use again.


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", ok()),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("POST", b"HTTP/1.1 100 Continue\r\n\r\n" + ok()),
        ("GET", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"),
    ],
    ids=["length", "HEAD length", "HEAD chunked", "204", "304", "chunked", "100 first", "1.0 keep-alive"],
)
def test_a_connection_is_used_again(scene: Scene, origin: Origin, method: str, answer: bytes, request_id: str) -> None:
    path = f"/web/again-{request_id}"
    origin.on(path, lambda talk, _: bool(talk.send(answer)))
    with scene.connect("plain") as client:
        for _ in range(3):
            client.send(request(path, method=method, body=b"abc" if method == "POST" else b"")).response(method)
    assert len(set(connection_of(origin, path))) == 1


@pytest.fixture
def request_id(request: pytest.FixtureRequest) -> str:
    """The test's parameters as a path segment."""
    return "".join(char for char in request.node.name if char.isalnum())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ok() + b"more",
        ok() + ok(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nmore",
        b"HTTP/1.1 204 No Content\r\n\r\nmore",
        b"HTTP/1.1 304 Not Modified\r\n\r\n" + ok(),
        b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n" + ok(),
        b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + ok(),
    ],
    ids=[
        "close",
        "1.0",
        "extra",
        "a second",
        "extra behind chunks",
        "extra behind 204",
        "a second behind 304",
        "1xx close",
        "1xx chunked",
    ],
)
def test_a_connection_that_says_close_or_too_much_is_not_used_again(
    scene: Scene, origin: Origin, answer: bytes, request_id: str
) -> None:
    path = f"/web/not-{request_id}"
    origin.on(path, lambda talk, _: bool(talk.send(answer)))
    with scene.connect("plain") as client:
        for _ in range(3):
            client.send(request(path))
            assert client.response().body in (b"ok", b"")
    assert len(set(connection_of(origin, path))) == 3


def test_extra_bytes_that_come_later_end_an_idle_connection(scene: Scene, origin: Origin) -> None:
    more = threading.Event()

    def script(talk: Talk, _: Message) -> bool:
        talk.send(ok())
        if more.wait(8):
            talk.send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        return True

    drained(scene, "long")
    origin.on("/long/unasked", script)
    assert scene.ask("plain", "/long/unasked").status == 200
    assert idle(scene, "long") == 1
    more.set()
    drained(scene, "long")
    assert scene.ask("plain", "/long/after").status == 200


def test_the_newest_idle_connection_is_taken_first(scene: Scene, origin: Origin) -> None:
    drained(scene, "long")
    gates = {n: threading.Event() for n in range(3)}

    def script(talk: Talk, message: Message) -> bool:
        gates[int(message.target[-1])].wait(8)
        return bool(talk.send(ok()))

    origin.on("/long/lifo", script)
    talks = [scene.connect("plain").send(request(f"/long/lifo?{n}")) for n in range(3)]
    assert eventually(lambda: len(origin.seen("/long/lifo")) == 3)
    number = {message.target[-1]: message.connection for message in origin.seen("/long/lifo")}
    for n in (1, 2, 0):  # given back in this order
        gates[n].set()
        assert talks[n].response().status == 200
    origin.on("/long/lifo", lambda talk, _: bool(talk.send(ok())))
    for _ in range(4):
        assert talks[0].send(request("/long/lifo")).response().status == 200
    assert connection_of(origin, "/long/lifo")[3:] == [number["0"]] * 4
    for talk in talks:
        talk.close()


# Limits of keeping.


def test_max_requests_replaces_a_connection(scene: Scene, origin: Origin) -> None:
    with scene.connect("plain") as client:
        for _ in range(7):
            client.send(request("/thrice/x")).response()
    numbers = connection_of(origin, "/thrice/x")
    assert [numbers.count(number) for number in dict.fromkeys(numbers)] == [3, 3, 1]


def test_max_age_replaces_a_connection(scene: Scene, origin: Origin) -> None:
    start = time.monotonic()
    with scene.connect("plain") as client:
        while time.monotonic() - start < 0.8:
            client.send(request("/aged/x")).response()
    assert 2 <= len(set(connection_of(origin, "/aged/x"))) <= 4


@pytest.mark.parametrize(("pool", "kept"), [("two", 2), ("none", 0)])
def test_no_more_than_max_idle_are_kept(scene: Scene, origin: Origin, pool: str, kept: int) -> None:
    barrier = threading.Barrier(4)

    def script(talk: Talk, _: Message) -> bool:
        barrier.wait(8)
        return bool(talk.send(ok()))

    origin.on(f"/{pool}/held", script)
    talks = [scene.connect("plain").send(request(f"/{pool}/held")) for _ in range(4)]
    for talk in talks:
        assert talk.response().status == 200
        talk.close()
    assert eventually(lambda: scene.metric("balancer_upstream_connections", pool=pool, state="active") == 0)
    assert idle(scene, pool) == kept


def test_an_idle_connection_is_closed_after_its_time(scene: Scene, origin: Origin) -> None:
    assert scene.ask("plain", "/brief/x").status == 200
    start = time.monotonic()
    drained(scene, "brief")
    assert 0.2 < time.monotonic() - start < 2.5


# Dead connections.


def stale(scene: Scene, pool: str) -> tuple[float, float]:
    return (
        scene.metric("balancer_stale_connections_total", pool=pool),
        scene.metric("balancer_retries_total", pool=pool, reason="stale_connection"),
    )


def dying(how: str, partial: bytes = b"") -> Script:
    """The first request of a connection is answered, the second one meets its end."""
    seen: set[int] = set()

    def script(talk: Talk, message: Message) -> bool:
        if talk.number not in seen:
            seen.add(talk.number)
            return bool(talk.send(ok() if message.method != "HEAD" else b"HTTP/1.1 200 OK\r\n\r\n"))
        if partial:
            talk.send(partial)
        if how == "reset":
            talk.reset()
        return False

    return script


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("HEAD", b""), ("PUT", b"abc"), ("DELETE", b"")])
def test_an_idempotent_request_on_a_dying_connection_is_sent_once_more(
    scene: Scene, origin: Origin, how: str, method: str, body: bytes
) -> None:
    path = f"/web/dying-{how}-{method}"
    origin.on(path, dying(how))
    drained(scene, "web")
    before = stale(scene, "web")
    with scene.connect("plain") as client:
        assert client.send(request(path, method=method, body=body)).response(method).status == 200
        assert client.send(request(path, method=method, body=body)).response(method).status == 200
    assert [message.body for message in origin.seen(path)] == [body] * 3
    after = stale(scene, "web")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)
    scene.logged(target=path, attempts=2, status=200, reason="ok")


def test_a_post_on_a_dying_connection_is_502_and_sent_once(scene: Scene, origin: Origin) -> None:
    origin.on("/web/dying-post", dying("fin"))
    drained(scene, "web")
    before = stale(scene, "web")
    with scene.connect("plain") as client:
        assert client.send(request("/web/dying-post", method="POST", body=b"abc")).response().status == 200
        assert client.send(request("/web/dying-post", method="POST", body=b"abc")).response().status == 502
    assert len(origin.seen("/web/dying-post")) == 2
    assert stale(scene, "web") == (before[0] + 1, before[1])
    line = scene.logged(target="/web/dying-post", status=502)
    assert (line["reason"], line["attempts"], line["ended_by"]) == ("stale_connection", 1, "upstream")


def test_a_request_is_not_repeated_once_the_answer_has_begun(scene: Scene, origin: Origin) -> None:
    origin.on("/web/dying-begun", dying("fin", b"HTTP/1.1 20"))
    drained(scene, "web")
    with scene.connect("plain") as client:
        client.send(request("/web/dying-begun")).response()
        assert client.send(request("/web/dying-begun")).response().status == 502
    assert len(origin.seen("/web/dying-begun")) == 2
    assert scene.logged(target="/web/dying-begun", status=502)["reason"] == "upstream_reset"


def test_a_fresh_connection_that_dies_is_502_and_not_repeated(scene: Scene, origin: Origin) -> None:
    origin.on("/web/fresh", lambda talk, _: talk.reset())
    drained(scene, "web")
    assert scene.ask("plain", "/web/fresh").status == 502
    assert len(origin.seen("/web/fresh")) == 1
    assert scene.logged(target="/web/fresh")["reason"] == "upstream_reset"


def test_no_request_fails_under_a_backend_that_closes_idle_connections_at_random(scene: Scene, origin: Origin) -> None:
    rng = Random(7)

    def script(talk: Talk, _: Message) -> bool:
        talk.send(ok())
        if rng.random() < 0.4:
            threading.Event().wait(rng.choice((0, 0.0005, 0.002)))
            return False
        return True

    origin.on("/web/random", script)
    with scene.connect("plain") as client:
        statuses = [client.send(request("/web/random")).response().status for _ in range(400)]
    assert statuses == [200] * 400


# Early and odd answers.


def test_a_backend_that_answers_then_resets_is_heard(scene: Scene, origin: Origin) -> None:
    def script(talk: Talk, _: Message) -> None:
        talk.send(ok(b"heard"))
        talk.reset()

    origin.on("/web/then-reset", script)
    for _ in range(20):
        with scene.connect("plain") as client:
            client.send(request("/web/then-reset"))
            assert client.response().body == b"heard"


@pytest.mark.parametrize("framing", ["Content-Length: 33554432", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("end", ["close", "reset", "wait"])
def test_an_early_413_reaches_a_client_that_still_sends(scene: Scene, origin: Origin, framing: str, end: str) -> None:
    path = f"/web/early-{framing[0]}-{end}"

    def script(talk: Talk, _: Message) -> None:
        talk.send(ok(b"too large", status="413 Content Too Large"))
        if end == "wait":
            talk.rest()
        if end == "reset":
            talk.reset()

    origin.on(path, script, head_only=True)
    block = b"%x\r\n%b\r\n" % (65536, b"u" * 65536) if framing[0] == "T" else b"u" * 65536
    with scene.connect("plain") as client:
        client.send(f"POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")

        def pour() -> None:
            try:
                for _ in range(10):
                    client.send(block)
            except OSError:
                return

        thread = threading.Thread(target=pour)
        thread.start()
        answer = client.response()
        thread.join()
        assert (answer.status, answer.body) == (413, b"too large")
        assert answer.field("connection") == "close"
    after = f"{path}-after"
    assert scene.ask("plain", after).status == 200
    early = connection_of(origin, path)[0]
    assert early not in connection_of(origin, after), "its backend still waits for a body"


def test_a_response_cut_short_is_a_reset_and_its_connection_is_gone(scene: Scene, origin: Origin) -> None:
    origin.on("/web/short", lambda talk, _: bool(talk.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")) and None)
    with scene.connect("plain") as client:
        client.send(request("/web/short"))
        assert client.head().status == 200
        assert client.rest() == (b"abc", "reset")
    assert scene.logged(target="/web/short")["reason"] == "upstream_truncated"


def test_a_client_that_leaves_takes_its_backend_connection_along(scene: Scene, origin: Origin) -> None:
    gone = threading.Event()

    def script(talk: Talk, _: Message) -> None:
        talk.rest()
        gone.set()

    origin.on("/web/left", script)
    client = scene.connect("plain").send(request("/web/left"))
    assert eventually(lambda: origin.seen("/web/left"))
    client.close()
    assert gone.wait(8)
    line = scene.logged(target="/web/left")
    assert (line["status"], line["reason"]) == (499, "client_gone")


def test_a_body_with_a_line_like_a_host_field_arrives_unchanged_from_an_old_client(
    scene: Scene, origin: Origin
) -> None:
    body = b"a\r\nHost: inside\r\n\r\nb"
    with scene.connect("plain") as client:
        client.send(b"POST /web/old HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert client.response().status == 200
    (seen,) = origin.seen("/web/old")
    assert seen.body == body
    assert seen.field("host") == f"127.0.0.1:{origin.port}"


def test_interrupted_reading_is_told_apart(scene: Scene, origin: Origin) -> None:
    """The client sees the end of its own connection, never another's bytes, when the backend dies between heads."""
    origin.on("/web/half", lambda talk, _: bool(talk.send("HTTP/1.1 200 OK\r\nContent-Le")) and None)
    with scene.connect("plain") as client:
        assert client.send(request("/web/half", "Connection: close")).response().status == 502
        with pytest.raises(CutError):
            client.response()
