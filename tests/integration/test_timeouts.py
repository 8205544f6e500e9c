"""Every timeout ends what it is for, within its bound, with the right answer and the right word in the log."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from inspect import signature

import pytest

from tests.support.scripted import (
    CutError,
    Message,
    Origin,
    Scene,
    Talk,
    elapsed_since,
    eventually,
    full_backlog,
    ok,
    request,
)

SLACK = 2.5  # seconds past a timeout: a busy machine; every other timeout in reach is longer
BIG = 24 * 1024 * 1024  # more than the buffers between origin and a client that does not read


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def filtered() -> Iterator[int]:
    """A port whose packets get lost."""
    with full_backlog() as port:
        yield port


@pytest.fixture(scope="module")
def scene(origin: Origin, filtered: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    backends = [f"127.0.0.1:{origin.port}"]
    idle = {"keepalive": {"idle": "300ms"}}
    bind = {"bind": "127.0.0.1:0"}
    scene = Scene(
        {
            "listeners": {
                "plain": bind,
                "head": {**bind, "timeouts": {"head": "700ms"}},
                "body": {**bind, "timeouts": {"body_idle": "600ms"}},
                "idle": {**bind, "timeouts": {"keepalive_idle": "500ms", "head": "3s"}},
                "send": {**bind, "timeouts": {"send": "500ms"}},
                "asks": {**bind, "timeouts": {"send": "500ms"}},
            },
            "routes": [
                {"name": "connect", "match": {"path_prefix": "/connect"}, "pool": "unreachable"},
                {"name": "first", "match": {"path_prefix": "/first"}, "pool": "first"},
                {"name": "idle", "match": {"path_prefix": "/idle"}, "pool": "idle"},
                {"name": "timed", "match": {"path_prefix": "/timed"}, "pool": "web", "timeout": "600ms"},
                {
                    "name": "timed-connect",
                    "match": {"path_prefix": "/never"},
                    "pool": "slow-connect",
                    "timeout": "400ms",
                },
                {"name": "attempt", "match": {"path_prefix": "/attempt"}, "pool": "attempt"},
                {"name": "tunnel", "match": {"path_prefix": "/tunnel"}, "pool": "tunnel"},
                {"name": "all", "pool": "web"},
            ],
            "pools": {
                "web": {"backends": backends, **idle},
                "unreachable": {"backends": [f"127.0.0.1:{filtered}"], "timeouts": {"connect": "400ms"}},
                "slow-connect": {"backends": [f"127.0.0.1:{filtered}"]},
                "first": {"backends": backends, "timeouts": {"first_byte": "500ms"}, **idle},
                "idle": {"backends": backends, "timeouts": {"body_idle": "400ms"}, **idle},
                "attempt": {"backends": backends, "timeouts": {"attempt": "500ms"}, **idle},
                "tunnel": {"backends": backends, "tunnel_idle": "600ms", **idle},
            },
        },
        tmp_path_factory.mktemp("timeouts"),
    )
    yield scene
    try:
        scene.assert_at_rest()
    finally:
        scene.close()


# The waits of all these tests overlap: one after the other they would take most of a minute.
_scenarios: list[Callable[..., None]] = []
Running = dict[Callable[..., None], "Future[None]"]


@pytest.fixture(scope="module")
def running(scene: Scene, origin: Origin) -> Iterator[Running]:
    """Every scenario of this module, under way."""
    fixtures = {"scene": scene, "origin": origin}
    with ThreadPoolExecutor(len(_scenarios)) as pool:
        yield {
            scenario: pool.submit(scenario, **{name: fixtures[name] for name in signature(scenario).parameters})
            for scenario in _scenarios
        }


def together(scenario: Callable[..., None]) -> Callable[[Running], None]:
    """A test that runs beside the others; it may use the fixtures scene and origin."""
    _scenarios.append(scenario)

    def test(running: Running) -> None:
        running[scenario].result()

    test.__doc__ = scenario.__doc__
    return test


def silent(talk: Talk, _: Message) -> None:
    """Say nothing until the other side goes."""
    talk.rest()


def trickle_until_answer(client: Talk, piece: bytes) -> bytes:
    """Send `piece` again and again until the other side ends; what it said."""
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(client.rest()[0]))
    reader.start()
    while reader.is_alive():
        with suppress(OSError):
            client.send(piece)
        reader.join(0.05)
    return got[0]


# The client's side.


@together
def test_a_head_that_trickles_in_ends_with_408_at_the_absolute_bound(scene: Scene) -> None:
    start = time.monotonic()
    with scene.connect("head") as client:
        client.send("GET /trickled HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        answer = trickle_until_answer(client, b"a")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert 0.6 <= elapsed_since(start) < 0.7 + SLACK
    assert scene.logged(listener="head", reason="head_timeout")["status"] == 408
    assert scene.ended("head", "head_timeout") >= 1


@together
def test_a_head_of_one_line_after_another_has_the_same_bound(scene: Scene) -> None:
    start = time.monotonic()
    with scene.connect("head") as client:
        client.send("GET / HTTP/1.1\r\n")
        assert trickle_until_answer(client, b"X-A: 1\r\n").startswith(b"HTTP/1.1 408 ")
    assert elapsed_since(start) < 0.7 + SLACK


@together
def test_the_bound_of_a_second_head_counts_from_its_own_first_byte(scene: Scene, origin: Origin) -> None:
    with scene.connect("head") as client:
        client.send(request("/a")).response()
        client.send("GET /b HTTP/1.1\r\n")
        assert client.response().status == 408


@together
def test_a_connection_without_a_byte_is_closed_in_silence(scene: Scene) -> None:
    start = time.monotonic()
    with scene.connect("head") as client:
        assert client.rest() == (b"", "fin")
    assert 0.6 <= elapsed_since(start) < 0.7 + SLACK


@together
def test_empty_lines_do_not_put_the_bound_off(scene: Scene) -> None:
    start = time.monotonic()
    with scene.connect("head") as client:
        client.send("\r\n")
        client.rest()
    assert elapsed_since(start) < 0.7 + SLACK


@together
def test_an_idle_connection_is_closed_in_silence(scene: Scene) -> None:
    with scene.connect("idle") as client:
        start = time.monotonic()
        client.send(request("/x")).response()
        assert client.rest() == (b"", "fin")
        assert 0.4 <= elapsed_since(start) < 0.5 + SLACK


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_silence_inside_a_request_body_is_408(scene: Scene, origin: Origin, framing: str) -> None:
    path = f"/body-idle-{framing[0]}"
    origin.on(path, silent, head_only=True)
    start = time.monotonic()
    with scene.connect("body") as client:
        client.send(f"POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n3\r\n")
        answer = client.response()
    assert answer.status == 408
    assert answer.field("connection") == "close"
    assert 0.5 <= elapsed_since(start) < 0.6 + SLACK
    line = scene.logged(target=path)
    assert (line["status"], line["reason"], line["ended_by"], line["phase"]) == (
        408,
        "body_timeout",
        "downstream",
        "request_body",
    )
    assert line["bytes_out"] > 0, "the answer was sent, so it counts"


@together
def test_a_body_that_keeps_coming_is_not_cut(scene: Scene) -> None:
    with scene.connect("body") as client:
        client.send("POST /slow-body HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            client.send("a")
            threading.Event().wait(0.15)  # the pause is what is tested: 1.2 s in all, each below 600 ms
        assert client.response().status == 200


def big(talk: Talk, _: Message) -> bool:
    talk.send(f"HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n")
    for _ in range(BIG // (1 << 20)):
        talk.send(b"x" * (1 << 20))
    return True


@together
def test_a_client_that_stops_reading_is_cut_within_the_bound(scene: Scene, origin: Origin) -> None:
    origin.on("/stall", big)
    with scene.connect("send", small=True) as client:
        client.send(request("/stall"))
        client.until(b"\r\n\r\n")
        start = time.monotonic()
        line = scene.logged(target="/stall")
        assert 0.3 < elapsed_since(start) < 0.5 + 0.5 + SLACK
        assert (line["reason"], line["status"], line["ended_by"]) == ("client_stalled", 200, "downstream")
        body, how = client.rest()
        assert len(body) < BIG
        del how


@together
def test_a_client_that_asks_but_never_reads_is_cut_within_the_bound(scene: Scene, origin: Origin) -> None:
    """Also where a response ended in our buffer: the bound is still `send`, not `keepalive_idle`."""
    for megabytes in range(1, 12):
        origin.on(f"/unread-{megabytes}", lambda talk, _, size=megabytes << 20: bool(talk.send(ok(b"y" * size))))
    with scene.connect("asks", small=True) as client:
        client.send(b"".join(request(f"/unread-{megabytes}") for megabytes in range(1, 12)))
        assert eventually(lambda: scene.metric("balancer_downstream_connections", listener="asks") == 1)
        start = time.monotonic()
        assert eventually(lambda: scene.metric("balancer_downstream_connections", listener="asks") == 0)
        assert elapsed_since(start) < 0.5 * 2 + SLACK


@together
def test_a_client_that_reads_slowly_but_reads_is_not_cut(scene: Scene, origin: Origin) -> None:
    origin.on("/slow-reader", big)
    with scene.connect("send", small=True) as client:
        client.send(request("/slow-reader"))
        head = client.head()
        assert head.status == 200
        left, until = BIG - len(client.buffer), time.monotonic() + 1.6
        client.buffer = b""
        while time.monotonic() < until:
            left -= len(client.sock.recv(4096))
            threading.Event().wait(0.02)
        left -= len(client.exactly(left))
        assert left == 0


# The backend's side.


@together
def test_a_connect_that_does_not_end_is_504(scene: Scene) -> None:
    start = time.monotonic()
    assert scene.ask("plain", "/connect").status == 504
    assert 0.3 < elapsed_since(start) < 0.4 + SLACK
    line = scene.logged(target="/connect")
    assert (line["reason"], line["phase"], line["ended_by"]) == ("connect_timeout", "connect", "upstream")
    assert scene.metric("balancer_upstream_connects_total", pool="unreachable", result="timeout") >= 1


@together
def test_no_first_byte_is_504(scene: Scene, origin: Origin) -> None:
    origin.on("/first/silent", silent)
    start = time.monotonic()
    assert scene.ask("plain", "/first/silent").status == 504
    assert 0.4 < elapsed_since(start) < 0.5 + SLACK
    line = scene.logged(target="/first/silent")
    assert (line["reason"], line["phase"], line["status"]) == ("first_byte_timeout", "response_head", 504)


@together
def test_half_a_head_is_504(scene: Scene, origin: Origin) -> None:
    def script(talk: Talk, _: Message) -> None:
        talk.send("HTTP/1.1 200 OK\r\nContent-")
        talk.rest()

    origin.on("/first/half", script)
    assert scene.ask("plain", "/first/half").status == 504


@together
def test_a_slow_upload_does_not_count_as_silence_of_the_backend(scene: Scene, origin: Origin) -> None:
    with scene.connect("plain") as client:
        client.send("POST /first/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        for _ in range(5):
            threading.Event().wait(0.2)  # a second in all, twice first_byte
            client.send("a")
        assert client.response().status == 200


def slow_upload(scene: Scene, path: str, framing: str, *pieces: str) -> Message:
    """The answer to a request whose body takes a second."""
    with scene.connect("plain") as client:
        client.send(f"POST {path} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")
        for piece in pieces:
            threading.Event().wait(1.0 / len(pieces))
            client.send(piece)
        return client.response()


@together
def test_a_slow_upload_does_not_use_up_the_time_of_an_attempt(scene: Scene, origin: Origin) -> None:
    def script(talk: Talk, _: Message) -> bool:
        threading.Event().wait(0.2)  # what the backend needs: less than an attempt may take
        return bool(talk.send(ok()))

    for name in ("new", "idle", "chunked"):
        origin.on(f"/attempt/{name}", script)
    for path in ("/attempt/new", "/attempt/idle"):  # a new connection, then an idle one
        assert slow_upload(scene, path, "Content-Length: 5", *"abcde").status == 200
    pieces = ("2\r\nab\r\n", "1\r\nc\r\n", "0\r\n\r\n")
    assert slow_upload(scene, "/attempt/chunked", "Transfer-Encoding: chunked", *pieces).status == 200


@together
def test_the_time_of_an_attempt_runs_from_the_end_of_the_upload(scene: Scene, origin: Origin) -> None:
    origin.on("/attempt/silent", silent)
    start = time.monotonic()
    assert slow_upload(scene, "/attempt/silent", "Content-Length: 5", *"abcde").status == 504
    assert 1.4 < elapsed_since(start) < 1.5 + SLACK
    assert scene.logged(target="/attempt/silent")["reason"] == "attempt_timeout"


@together
def test_a_backend_that_takes_nothing_of_a_body_is_cut_by_the_time_of_an_attempt(scene: Scene, origin: Origin) -> None:
    ended = threading.Event()
    origin.on("/attempt/unread", lambda _, __: ended.wait(20) and False, head_only=True)
    with scene.connect("plain") as client:
        client.send(request("/attempt/unread", f"Content-Length: {BIG}", method="PUT"))
        with suppress(OSError):
            client.send(b"x" * BIG)
        line = scene.logged(target="/attempt/unread")
        ended.set()
    assert (line["reason"], line["status"]) == ("attempt_timeout", 504)


@together
def test_the_time_to_the_first_byte_leaves_the_upload_out(scene: Scene) -> None:
    assert slow_upload(scene, "/first/told", "Content-Length: 5", *"abcde").status == 200
    line = scene.logged(target="/first/told")
    assert 0 <= line["first_byte_ms"] < line["total_ms"] - 700, "the upload took a second"


@together
def test_an_answer_before_the_end_of_the_upload_took_no_time(scene: Scene, origin: Origin) -> None:
    origin.on("/first/early", lambda talk, _: bool(talk.exactly(3) and talk.send(ok())), head_only=True)
    with scene.connect("plain") as client:
        client.send(request("/first/early", "Content-Length: 5", method="POST"))
        threading.Event().wait(0.3)  # the client's pause
        client.send("abc")
        assert client.response().status == 200
    assert scene.logged(target="/first/early")["first_byte_ms"] == 0


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked", "X-Until: close"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_silence_inside_a_response_is_a_reset_for_the_client(
    scene: Scene, origin: Origin, framing: str, version: str
) -> None:
    path = f"/idle/{framing[0]}{version}"

    def script(talk: Talk, _: Message) -> None:
        talk.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n3\r\nabc\r\n")
        talk.rest()

    origin.on(path, script)
    start = time.monotonic()
    with scene.connect("plain") as client:
        client.send(f"GET {path} HTTP/{version}\r\nHost: a\r\n\r\n")
        got, how = client.rest()
    assert got.startswith(b"HTTP/1.1 200 ")
    assert how == "reset", "a FIN could be taken for the end of the body"
    assert 0.3 < elapsed_since(start) < 0.4 + SLACK
    line = scene.logged(target=path)
    assert (line["reason"], line["status"], line["phase"]) == ("body_idle_timeout", 200, "response_body")


# The whole exchange.


@together
def test_the_exchange_timeout_is_504_while_nothing_was_sent(scene: Scene, origin: Origin) -> None:
    origin.on("/timed/silent", silent)
    start = time.monotonic()
    assert scene.ask("plain", "/timed/silent").status == 504
    assert 0.5 < elapsed_since(start) < 0.6 + SLACK
    line = scene.logged(target="/timed/silent")
    assert (line["reason"], line["ended_by"], line["status"]) == ("exchange_timeout", "internal", 504)


@together
def test_the_exchange_timeout_covers_connecting(scene: Scene) -> None:
    start = time.monotonic()
    assert scene.ask("plain", "/never").status == 504
    assert elapsed_since(start) < 0.4 + SLACK
    assert scene.logged(target="/never")["reason"] == "exchange_timeout"


@together
def test_the_exchange_timeout_covers_an_upload(scene: Scene, origin: Origin) -> None:
    origin.on("/timed/upload", silent, head_only=True)
    with scene.connect("plain") as client:
        client.send("POST /timed/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        assert client.response().status == 504


@together
def test_the_exchange_timeout_cuts_a_response_that_has_begun(scene: Scene, origin: Origin) -> None:
    def script(talk: Talk, _: Message) -> None:
        talk.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(100):  # never silent for long
            talk.send("a")
            threading.Event().wait(0.05)

    origin.on("/timed/begun", script)
    start = time.monotonic()
    with scene.connect("plain") as client:
        client.send(request("/timed/begun"))
        assert client.head().status == 200
        assert client.rest()[1] == "reset"
    assert 0.5 < elapsed_since(start) < 0.6 + SLACK
    line = scene.logged(target="/timed/begun")
    assert (line["reason"], line["status"]) == ("exchange_timeout", 200)


@together
def test_an_exchange_in_time_leaves_no_timer_to_the_next(scene: Scene, origin: Origin) -> None:
    with scene.connect("plain") as client:
        assert client.send(request("/timed/a")).response().status == 200
        origin.on("/longer", lambda talk, _: threading.Event().wait(1.0) or bool(talk.send(ok())))
        assert client.send(request("/longer")).response().status == 200


@together
def test_a_silent_tunnel_ends(scene: Scene, origin: Origin) -> None:
    ended: list[tuple[bytes, str]] = []

    def script(talk: Talk, _: Message) -> None:
        talk.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        ended.append(talk.rest())

    origin.on("/tunnel/silent", script)
    with scene.connect("plain") as client:
        client.send(request("/tunnel/silent", "Connection: upgrade", "Upgrade: websocket"))
        assert client.head().status == 101
        threading.Event().wait(0.4)
        client.send("still here")  # puts it off
        start = time.monotonic()
        assert client.rest()[0] == b""
    assert 0.5 < elapsed_since(start) < 0.6 + SLACK
    line = scene.logged(target="/tunnel/silent")
    assert (line["reason"], line["status"], line["phase"]) == ("tunnel_idle", 101, "tunnel")
    assert eventually(lambda: ended)
    assert ended[0][0] == b"still here"


# Expect: 100-continue.


def upload(scene: Scene, path: str) -> tuple[list[int], float]:
    """The statuses that a client gets that waits for 100 before its body, and how long the first took."""
    start = time.monotonic()
    with scene.connect("plain") as client:
        client.send(request(path, "Expect: 100-continue", "Content-Length: 3", method="POST"))
        statuses = [client.response(interim=True).status]
        took = elapsed_since(start)
        while statuses[-1] not in (100, 200):
            statuses.append(client.response(interim=True).status)
        if statuses[-1] == 100:
            client.send("abc")
        while statuses[-1] < 200:
            statuses.append(client.response("POST", interim=True).status)
    return statuses, took


@together
def test_a_backend_that_ignores_expect_gets_the_body_after_a_second(scene: Scene, origin: Origin) -> None:
    statuses, took = upload(scene, "/expect/ignored")
    assert statuses == [100, 200]
    assert 0.9 < took < 1.0 + SLACK
    assert origin.seen("/expect/ignored")[0].body == b"abc"


@together
def test_a_backend_that_says_100_is_heard_once_and_at_once(scene: Scene, origin: Origin) -> None:
    def script(talk: Talk, _: Message) -> bool:
        talk.send("HTTP/1.1 100 Continue\r\n\r\n")
        assert talk.exactly(3) == b"abc"
        talk.send(ok())
        return True

    origin.on("/expect/heard", script, head_only=True)
    statuses, took = upload(scene, "/expect/heard")
    assert statuses == [100, 200]
    assert took < 0.9


@together
def test_a_backend_that_says_100_late_is_not_heard_twice(scene: Scene, origin: Origin) -> None:
    def script(talk: Talk, _: Message) -> bool:
        assert talk.exactly(3) == b"abc"
        talk.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + ok().decode())
        return True

    origin.on("/expect/late", script, head_only=True)
    assert upload(scene, "/expect/late")[0] == [100, 103, 200]


@together
def test_early_hints_do_not_stand_for_100(scene: Scene, origin: Origin) -> None:
    def script(talk: Talk, _: Message) -> bool:
        talk.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        assert talk.exactly(3) == b"abc"
        talk.send(ok())
        return True

    origin.on("/expect/hints", script, head_only=True)
    assert upload(scene, "/expect/hints")[0] == [103, 100, 200]


@together
def test_a_refused_expectation_needs_no_100(scene: Scene, origin: Origin) -> None:
    origin.on(
        "/expect/refused",
        lambda talk, _: bool(talk.send(ok(status="413 Content Too Large"))),
        head_only=True,
    )
    with scene.connect("plain") as client:
        client.send(request("/expect/refused", "Expect: 100-continue", "Content-Length: 3", method="POST"))
        answer = client.response("POST", interim=True)
        assert answer.status == 413
        assert answer.field("connection") == "close"
        with pytest.raises(CutError):
            client.response()
