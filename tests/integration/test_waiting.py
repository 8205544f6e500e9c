"""Waiting for a pool whose backends are all at their limit, and what serves when nobody does."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.scripted import Message, Origin, Scene, Talk, eventually, full_backlog, ok, request


class Gate:
    """Answers of a path wait until it is opened."""

    def __init__(self, origin: Origin, path: str) -> None:
        self._open = threading.Event()
        self.origin, self.path = origin, path
        origin.on(path, self._script)

    def _script(self, talk: Talk, _: Message) -> bool:
        assert self._open.wait(20)
        return bool(talk.send(ok()))

    def open(self) -> None:
        self._open.set()


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def bad() -> Iterator[Origin]:
    """Answers 503."""
    with Origin() as origin:
        origin.fallback = lambda talk, _: bool(talk.send(ok(b"busy", status="503 Service Unavailable")))
        yield origin


@pytest.fixture(scope="module")
def filtered() -> Iterator[int]:
    """A port whose packets get lost."""
    with full_backlog() as port:
        yield port


@pytest.fixture(scope="module")
def refusing() -> Iterator[int]:
    """A port at which nobody listens, held so that nobody else gets it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture(scope="module")
def scene(
    origin: Origin, bad: Origin, filtered: int, refusing: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    backend = {"name": "one", "address": f"127.0.0.1:{origin.port}", "max_connections": 1}

    def behind(port: int) -> list[dict[str, object]]:
        """All turns go to `port`, until it was tried."""
        return [{"name": "first", "address": f"127.0.0.1:{port}", "weight": 65535}, backend]

    check = {"path": "/healthz", "interval": "200ms", "fast_interval": "50ms", "timeout": "150ms"}
    idle = {"keepalive": {"idle": "300ms"}}
    pools = {
        "web": {"backends": [backend], "queue_timeout": "10s", **idle},
        "brief": {"backends": [backend], "queue_timeout": "200ms", **idle},
        "short": {"backends": [backend], "queue_timeout": "10s", "queue_max": 1, **idle},
        "empty": {"backends": [{**backend, "weight": 0}]},
        "refused": {"strategy": "weighted", "backends": behind(refusing), "retry": {}, "queue_timeout": "10s", **idle},
        "busy": {"strategy": "weighted", "backends": behind(bad.port), "retry": {}, "queue_timeout": "10s", **idle},
        "unqueued": {"strategy": "weighted", "backends": behind(refusing), "retry": {}, **idle},
        "impatient": {
            "strategy": "weighted",
            "backends": behind(refusing),
            "retry": {},
            "queue_timeout": "200ms",
            **idle,
        },
        "filtered": {
            "backends": [{"address": f"127.0.0.1:{filtered}", "max_connections": 1}],
            "timeouts": {"connect": "1500ms"},
            "queue_timeout": "10s",
        },
        "checked": {"backends": [backend], "queue_timeout": "10s", "health_check": check, **idle},
        "spare": {"backends": [f"127.0.0.1:{origin.port}"], "host": "spare.test", **idle},
    }
    routes = [{"name": name, "match": {"path_prefix": f"/{name}"}, "pool": name} for name in pools]
    routes[0]["timeout"] = "8s"
    for route in routes:
        if route["name"] == "checked":
            route["fallback"] = "spare"
    routes += [
        {"name": "saved", "match": {"path_prefix": "/saved"}, "pool": "empty", "fallback": "spare"},
        {"name": "lost", "match": {"path_prefix": "/lost"}, "pool": "empty", "fallback": "empty2"},
        {"name": "timed", "match": {"path_prefix": "/timed"}, "pool": "web", "timeout": "300ms"},
    ]
    pools["empty2"] = {"backends": []}
    scene = Scene(
        {"listeners": {"plain": {"bind": "127.0.0.1:0"}}, "routes": routes, "pools": pools},
        tmp_path_factory.mktemp("waiting"),
    )
    yield scene
    try:
        scene.assert_at_rest()
    finally:
        scene.close()


def occupied(scene: Scene, pool: str) -> bool:
    return scene.metric("balancer_backend_in_flight", pool=pool) == 1


def test_who_waits_is_served_in_the_order_of_arrival(scene: Scene, origin: Origin) -> None:
    gate = Gate(origin, "/web/held")
    clients = [scene.connect("plain") for _ in range(6)]
    clients[0].send(request("/web/held"))
    assert eventually(lambda: occupied(scene, "web"))
    for number, client in enumerate(clients[1:]):
        client.send(request(f"/web/in-line?{number}"))
        client.send(b"")  # one after the other: each is read before the next one is sent
        assert eventually(lambda wanted=number + 2: scene.metric("balancer_downstream_connections") >= wanted)
    gate.open()
    assert [client.response().status for client in clients] == [200] * 6
    assert [message.target for message in origin.seen("/web/in-line")] == [f"/web/in-line?{n}" for n in range(5)]
    for client in clients:
        client.close()


def test_a_body_that_comes_while_its_exchange_waits_arrives_whole(scene: Scene, origin: Origin) -> None:
    gate = Gate(origin, "/web/held-2")
    with scene.connect("plain") as first, scene.connect("plain") as second:
        first.send(request("/web/held-2"))
        assert eventually(lambda: occupied(scene, "web"))
        second.send(request("/web/body", "Content-Length: 200000", method="POST") + b"x" * 100)
        second.send(b"y" * 199_900)
        gate.open()
        assert first.response().status == 200
        assert second.response().status == 200
    assert origin.seen("/web/body")[0].body == b"x" * 100 + b"y" * 199_900


def test_who_waits_too_long_is_told_so(scene: Scene, origin: Origin) -> None:
    gate = Gate(origin, "/brief/held")
    with scene.connect("plain") as first, scene.connect("plain") as second:
        first.send(request("/brief/held"))
        assert eventually(lambda: occupied(scene, "brief"))
        answer = second.send(request("/brief/other")).response()
        assert (answer.status, answer.field("retry-after")) == (503, "1")
        scene.logged(target="/brief/other", reason="queue_timeout", attempts=0, status=503)
        gate.open()
        assert first.response().status == 200
        assert second.send(request("/brief/after")).response().status == 200


def test_a_full_line_takes_nobody(scene: Scene, origin: Origin) -> None:
    gate = Gate(origin, "/short/held")
    with scene.connect("plain") as first, scene.connect("plain") as second, scene.connect("plain") as third:
        first.send(request("/short/held"))
        assert eventually(lambda: occupied(scene, "short"))
        second.send(request("/short/waits"))
        answers = []

        def refused() -> bool:
            answers.append(third.send(request("/short/third")).response().status)
            return answers[-1] == 503

        assert refused() or eventually(refused)
        gate.open()
        assert second.response().status == 200
        assert first.response().status == 200


def test_a_client_that_leaves_the_line_leaves_nothing(scene: Scene, origin: Origin) -> None:
    gate = Gate(origin, "/web/held-3")
    with scene.connect("plain") as first:
        first.send(request("/web/held-3"))
        assert eventually(lambda: occupied(scene, "web"))
        second = scene.connect("plain")
        second.send(request("/web/left"))
        second.close()
        line = scene.logged(target="/web/left", reason="client_gone_in_queue")
        assert (line["status"], line["ended_by"], line["phase"], line["attempts"]) == (499, "downstream", "pick", 0)
        gate.open()
        assert first.response().status == 200
    assert not origin.seen("/web/left")


def test_the_routes_timeout_covers_the_wait(scene: Scene, origin: Origin) -> None:
    gate = Gate(origin, "/web/held-4")
    with scene.connect("plain") as first, scene.connect("plain") as second:
        first.send(request("/web/held-4"))
        assert eventually(lambda: occupied(scene, "web"))
        assert second.send(request("/timed/x")).response().status == 504
        scene.logged(target="/timed/x", reason="exchange_timeout", attempts=0)
        gate.open()
        assert first.response().status == 200
    assert not origin.seen("/timed/x")


def test_the_fallback_serves_when_the_pool_has_nobody(scene: Scene, origin: Origin) -> None:
    answer = scene.ask("plain", "/saved/x", method="POST", body=b"abc")
    assert answer.status == 200
    (seen,) = origin.seen("/saved/x")
    assert (seen.field("host"), seen.body) == ("spare.test", b"abc")
    scene.logged(target="/saved/x", pool="spare", route="saved", status=200)


def test_without_anybody_the_answer_is_503_with_its_reason(scene: Scene) -> None:
    for path in ("/empty/x", "/lost/x"):
        answer = scene.ask("plain", path)
        assert (answer.status, answer.field("retry-after")) == (503, "1")
        scene.logged(target=path, reason="pool_empty", status=503)


@pytest.mark.parametrize("pool", ["refused", "busy"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_request_whose_backend_fails_waits_for_one_that_is_full(
    scene: Scene, origin: Origin, pool: str, method: str
) -> None:
    gate = Gate(origin, f"/{pool}/held-{method}")
    body = b"" if method == "GET" else b"abc"
    with scene.connect("plain") as first, scene.connect("plain") as second:
        first.send(request(gate.path))
        assert eventually(lambda: scene.metric("balancer_backend_in_flight", pool=pool, backend="one") == 1)
        tried = scene.metric("balancer_backend_requests_total", pool=pool, backend="first")
        second.send(request(f"/{pool}/{method}", method=method, body=body))
        assert eventually(
            lambda: (
                scene.metric("balancer_backend_requests_total", pool=pool, backend="first") > tried
                and scene.metric("balancer_backend_in_flight", pool=pool, backend="first") == 0
            )
        )
        gate.open()
        assert first.response().status == 200
        assert second.response().status == 200
    (seen,) = origin.seen(f"/{pool}/{method}")
    assert (seen.body, seen.field("x-balancer-attempt")) == (body, "2")
    scene.logged(target=f"/{pool}/{method}", attempts=2, backend="one", status=200)


def test_a_retry_that_waits_too_long_is_told_so(scene: Scene, origin: Origin) -> None:
    gate = Gate(origin, "/impatient/held")
    with scene.connect("plain") as first:
        first.send(request("/impatient/held"))
        assert eventually(lambda: scene.metric("balancer_backend_in_flight", pool="impatient", backend="one") == 1)
        answer = scene.ask("plain", "/impatient/x")
        assert (answer.status, answer.field("retry-after")) == (503, "1")
        scene.logged(target="/impatient/x", reason="queue_timeout", attempts=1, status=503)
        gate.open()
        assert first.response().status == 200
    assert not origin.seen("/impatient/x")


def test_without_a_queue_a_request_whose_backend_fails_does_not_wait(scene: Scene, origin: Origin) -> None:
    gate = Gate(origin, "/unqueued/held")
    with scene.connect("plain") as first:
        first.send(request("/unqueued/held"))
        assert eventually(lambda: scene.metric("balancer_backend_in_flight", pool="unqueued", backend="one") == 1)
        assert scene.ask("plain", "/unqueued/x").status == 502
        gate.open()
        assert first.response().status == 200


def test_an_upload_whose_turn_comes_is_not_collected_while_it_connects(scene: Scene) -> None:
    with scene.connect("plain") as first, scene.connect("plain") as second:
        first.send(request("/filtered/first"))
        assert eventually(lambda: occupied(scene, "filtered"))
        size = 64 * 1024 * 1024
        second.send(request("/filtered/up", f"Content-Length: {size}", method="POST"))
        second.sock.setblocking(False)
        done = threading.Event()
        sender = threading.Thread(target=push, args=(second.sock, size, done))
        sender.start()
        assert first.response().status == 504
        line = scene.logged(target="/filtered/up")
        done.set()
        sender.join()
    assert (line["status"], line["reason"]) == (504, "connect_timeout")
    assert line["bytes_in"] < 1024 * 1024, "one read, and nobody took it"


def push(sock: socket.socket, size: int, done: threading.Event) -> None:
    """Send as much of `size` bytes as is taken, until `done`."""
    piece = b"x" * 65536
    while size > 0 and not done.is_set():
        try:
            size -= sock.send(piece)
        except BlockingIOError:
            done.wait(0.005)
        except OSError:
            return


@pytest.mark.parametrize("size", [0, 200_000])
def test_who_waits_is_served_by_the_fallback_when_the_pool_goes_down(scene: Scene, origin: Origin, size: int) -> None:
    sick = threading.Event()
    origin.on("/healthz", lambda talk, _: bool(talk.send(ok(status="503 No" if sick.is_set() else "200 OK"))))
    assert eventually(lambda: scene.metric("balancer_backend_up", pool="checked") == 1)
    gate = Gate(origin, f"/checked/held-{size}")
    path = f"/checked/waits-{size}"
    with scene.connect("plain") as first, scene.connect("plain") as second:
        first.send(request(gate.path))
        assert eventually(lambda: occupied(scene, "checked"))
        length = [f"Content-Length: {size}"] if size else []
        second.send(request(path, *length, method="POST" if size else "GET"))
        sick.set()
        second.send(b"y" * size)
        assert second.response().status == 200
        gate.open()
        assert first.response().status == 200
    sick.clear()
    (seen,) = origin.seen(path)
    assert (seen.field("host"), seen.body) == ("spare.test", b"y" * size)
    scene.logged(target=path, pool="spare", status=200, attempts=1)
