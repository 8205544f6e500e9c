"""Further attempts: which requests go to another backend, which never, what they carry, and what limits them."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.scripted import Message, Origin, Scene, Talk, ok, request


@pytest.fixture(scope="module")
def bad() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def good() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def refusing() -> Iterator[int]:
    """A port at which nobody listens, held so that nobody else gets it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture(scope="module")
def all_refusing(refusing: int) -> Iterator[list[int]]:
    """Eight of those ports."""
    with ExitStack() as stack:
        ports = [refusing]
        for _ in range(7):
            holder = stack.enter_context(socket.socket())
            holder.bind(("127.0.0.1", 0))
            ports.append(holder.getsockname()[1])
        yield ports


@pytest.fixture(scope="module")
def scene(
    bad: Origin, good: Origin, refusing: int, all_refusing: list[int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    # All turns go to `bad` (weights), until it was tried: then only `good` is left.
    def pool(first: int, **more: object) -> dict[str, object]:
        backends = [
            {"name": "bad", "address": f"127.0.0.1:{first}", "weight": 65535},
            {"name": "good", "address": f"127.0.0.1:{good.port}", "weight": 1},
        ]
        return {"strategy": "weighted", "backends": backends, "keepalive": {"idle": "300ms"}, "retry": {}, **more}

    def dead(count: int) -> dict[str, object]:
        """So many ports that refuse, and only then `good`; next to nothing to pay retries with."""
        refused = [{"address": f"127.0.0.1:{port}", "weight": 65535} for port in all_refusing[:count]]
        members = [*refused, {"name": "good", "address": f"127.0.0.1:{good.port}", "weight": 1}]
        return pool(refusing, backends=members, retry={"budget": "1%", "budget_min": 1})

    every = ["connect_failure", "reset", "timeout", 503]
    pools = {
        "refused": pool(refusing),
        "web": pool(bad.port, retry={"when": every}),
        "again": pool(bad.port, retry={"when": every}),
        "only": {**pool(bad.port, retry={"attempts": 3}), "backends": [f"127.0.0.1:{bad.port}"]},
        "words": pool(bad.port, retry={"when": ["connect_failure"]}),
        "late": pool(bad.port, timeouts={"first_byte": "300ms"}),
        "limited": pool(bad.port, timeouts={"attempt": "300ms"}),
        "off": pool(bad.port, retry="off"),
        "poor": pool(bad.port, retry={"when": every, "budget": "1%", "budget_min": "off"}),
        "named": pool(bad.port, retry={"when": every}, host="backend"),
        "warm": pool(refusing, keepalive={"idle": "3s"}),
        "dead": dead(3),
        "deader": dead(8),
        "once": pool(refusing, retry={"attempts": 1}),
    }
    routes = [{"name": name, "match": {"path_prefix": f"/{name}"}, "pool": name} for name in pools]
    for route in routes:
        if route["name"] == "again":
            route["retry_non_idempotent"] = True
    scene = Scene(
        {"listeners": {"plain": {"bind": "127.0.0.1:0"}}, "routes": routes, "pools": pools},
        tmp_path_factory.mktemp("retries"),
    )
    yield scene
    try:
        scene.assert_at_rest()
    finally:
        scene.close()


def reset(talk: Talk, _: Message) -> bool:
    talk.reset()
    return False


def silent(talk: Talk, _: Message) -> bool:
    return bool(talk.more()) and False  # reads on and never answers


def busy(talk: Talk, _: Message) -> bool:
    return bool(talk.send(ok(b"busy", status="503 Service Unavailable")))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refused_connection_is_no_loss_for_any_method(scene: Scene, good: Origin, method: str) -> None:
    path = f"/refused/{method}"
    body = b"abc" if method == "POST" else b""
    assert scene.ask("plain", path, method=method, body=body).status == 200
    (seen,) = good.seen(path)
    assert (seen.body, seen.field("x-balancer-attempt")) == (body, "2")
    scene.logged(target=path, attempts=2, status=200, backend="good", reason="ok")
    assert scene.metric("balancer_retries_total", pool="refused", reason="connect_failed") >= 1


@pytest.mark.parametrize(
    ("method", "body", "retried"),
    [("GET", b"", True), ("HEAD", b"", True), ("PUT", b"abc", True), ("DELETE", b"", True), ("POST", b"abc", False)],
)
def test_a_reset_is_tried_elsewhere_if_that_cannot_do_a_thing_twice(
    scene: Scene, bad: Origin, good: Origin, method: str, body: bytes, retried: bool
) -> None:
    path = f"/web/reset-{method}"
    bad.on(path, reset)
    assert scene.ask("plain", path, method=method, body=body).status == (200 if retried else 502)
    assert len(bad.seen(path)) == 1
    assert [message.body for message in good.seen(path)] == [body] * retried


@pytest.mark.parametrize(
    ("pool", "method", "status"), [("web", "GET", 200), ("web", "POST", 503), ("again", "POST", 200)]
)
def test_a_listed_status_is_replaced_where_that_is_safe_or_the_route_says_so(
    scene: Scene, bad: Origin, good: Origin, pool: str, method: str, status: int
) -> None:
    path = f"/{pool}/busy-{method}"
    bad.on(path, busy)
    answer = scene.ask("plain", path, method=method, body=b"abc" if method == "POST" else b"")
    assert answer.status == status
    assert len(good.seen(path)) == (status == 200)
    scene.logged(target=path, attempts=2 if status == 200 else 1, status=status)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_response_that_is_replaced_leaves_nothing_behind_however_it_comes(
    scene: Scene, bad: Origin, framing: str
) -> None:
    path = f"/web/large-{framing}"
    head = b"HTTP/1.1 503 Busy\r\n"

    def script(talk: Talk, _: Message) -> bool:
        if framing == "length":
            talk.send(head + b"Content-Length: 500000\r\n\r\n" + b"x" * 1000)
        else:
            talk.send(head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        return bool(talk.more()) and False

    bad.on(path, script)
    with scene.connect("plain") as client:
        for _ in range(2):
            assert client.send(request(path)).response().status == 200


def test_a_backends_last_word_is_passed_on(scene: Scene, bad: Origin, good: Origin) -> None:
    bad.on("/web/both", busy)
    good.on("/web/both", busy)
    answer = scene.ask("plain", "/web/both")
    assert (answer.status, answer.body) == (503, b"busy")
    assert (len(bad.seen("/web/both")), len(good.seen("/web/both"))) == (1, 1)


def test_the_only_backend_is_tried_again(scene: Scene, bad: Origin) -> None:
    tries: list[int] = []

    def third(talk: Talk, _: Message) -> bool:
        tries.append(1)
        return bool(talk.send(ok())) if len(tries) == 3 else reset(talk, _)

    bad.on("/only/third", third)
    assert scene.ask("plain", "/only/third").status == 200
    assert [message.field("x-balancer-attempt") for message in bad.seen("/only/third")] == ["", "2", "3"]


def test_what_is_not_listed_is_not_tried_again(scene: Scene, bad: Origin, good: Origin) -> None:
    bad.on("/words/reset", reset)
    assert scene.ask("plain", "/words/reset").status == 502
    bad.on("/off/reset", reset)
    assert scene.ask("plain", "/off/reset").status == 502
    assert not good.seen("/words/reset")
    assert not good.seen("/off/reset")


@pytest.mark.parametrize(("pool", "reason"), [("late", "first_byte_timeout"), ("limited", "attempt_timeout")])
def test_silence_is_cut_short_and_tried_elsewhere(scene: Scene, bad: Origin, pool: str, reason: str) -> None:
    path = f"/{pool}/silent"
    bad.on(path, silent)
    assert scene.ask("plain", path).status == 200
    assert scene.metric("balancer_retries_total", pool=pool, reason=reason) == 1


@pytest.mark.parametrize(("size", "status"), [(60 * 1024, 200), (70 * 1024, 502)])
def test_a_body_is_sent_again_if_it_was_kept(scene: Scene, bad: Origin, good: Origin, size: int, status: int) -> None:
    path = f"/web/put-{size}"
    bad.on(path, reset)
    body = bytes(range(256)) * (size // 256)
    assert scene.ask("plain", path, method="PUT", body=body).status == status
    assert [message.body for message in good.seen(path)] == [body] * (status == 200)


def test_a_body_that_still_comes_follows_to_the_next_backend(scene: Scene, bad: Origin, good: Origin) -> None:
    begun = threading.Event()

    def script(talk: Talk, _: Message) -> bool:
        talk.exactly(5)
        begun.set()
        return reset(talk, _)

    bad.on("/web/slow-put", script, head_only=True)
    with scene.connect("plain") as client:
        client.send(request("/web/slow-put", "Content-Length: 10", method="PUT"))
        client.send(b"01234")
        assert begun.wait(10)
        client.send(b"56789")
        assert client.response().status == 200
    assert [message.body for message in good.seen("/web/slow-put")] == [b"0123456789"]


def test_the_clients_own_word_about_attempts_is_replaced(scene: Scene, bad: Origin, good: Origin) -> None:
    bad.on("/web/word", reset)
    assert scene.ask("plain", "/web/word", "x-balancer-attempt: 9").status == 200
    assert good.seen("/web/word")[0].all("x-balancer-attempt") == ["2"]


def test_each_backend_gets_its_own_host(scene: Scene, bad: Origin, good: Origin) -> None:
    bad.on("/named/host", reset)
    assert scene.ask("plain", "/named/host").status == 200
    hosts = [message.all("host") for origin in (bad, good) for message in origin.seen("/named/host")]
    assert hosts == [[f"127.0.0.1:{bad.port}"], [f"127.0.0.1:{good.port}"]]


def test_a_stale_connection_costs_nothing_where_the_route_says_that_requests_may_be_repeated(
    scene: Scene, bad: Origin
) -> None:
    seen: set[int] = set()

    def script(talk: Talk, message: Message) -> bool:
        if talk.number in seen:
            return reset(talk, message)
        seen.add(talk.number)
        return bool(talk.send(ok()))

    bad.on("/again/stale", script)
    with scene.connect("plain") as client:
        for _ in range(3):
            assert client.send(request("/again/stale", method="POST", body=b"abc")).response().status == 200
    assert scene.metric("balancer_stale_connections_total", pool="again") >= 1


def test_retries_end_with_the_budget(scene: Scene, bad: Origin) -> None:
    bad.on("/poor/reset", reset)
    statuses = [scene.ask("plain", "/poor/reset").status for _ in range(30)]
    assert statuses.count(200) <= 1, "1 % of 30 requests"
    assert set(statuses) <= {200, 502}


def test_an_upload_goes_on_where_the_retry_finds_an_idle_connection(scene: Scene, good: Origin) -> None:
    """While it connected in vain, the client was not read from."""
    body = bytes(range(256)) * 16384
    assert scene.ask("plain", "/warm/get").status == 200
    with scene.connect("plain") as client:
        client.send(request("/warm/up", f"Content-Length: {len(body)}", method="POST") + body[:100])
        client.send(body[100:])
        assert client.response().status == 200
    (seen,) = good.seen("/warm/up")
    assert seen.body == body
    assert seen.connection == good.seen("/warm/get")[0].connection, "it was an idle connection"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_backends_that_refuse_use_up_neither_attempts_nor_budget(scene: Scene, good: Origin, method: str) -> None:
    """Nothing was sent, so no work is multiplied: with three dead of four nothing fails."""
    path = f"/dead/{method}"
    body = b"abc" if method == "POST" else b""
    statuses = [scene.ask("plain", path, method=method, body=body).status for _ in range(40)]
    assert statuses == [200] * 40
    assert len(good.seen(path)) == 40
    scene.logged(target=path, attempts=4, status=200)


def test_a_request_does_not_look_for_a_living_backend_for_ever(scene: Scene) -> None:
    assert scene.ask("plain", "/deader/x").status == 502
    assert scene.logged(target="/deader/x")["attempts"] == 7, "five free ones after the first, and one that is paid for"


def test_one_attempt_is_one_whatever_it_ends_with(scene: Scene) -> None:
    assert scene.ask("plain", "/once/x").status == 502
    assert scene.logged(target="/once/x")["attempts"] == 1
