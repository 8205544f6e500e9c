"""Ejection and health checks as clients and operators see them, with real processes."""

import json
import threading
from collections.abc import Iterator

import pytest

from tests.support.scripted import Message, Origin, Scene, Talk, eventually, full_backlog, ok, request


class Backend:
    """An origin that resets every request while `failing`, and whose checks fail while `sick`."""

    def __init__(self) -> None:
        self.origin = Origin()
        self.failing = False
        self.sick = False
        self.served: list[str] = []
        self.origin.fallback = self._script

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.origin.port}"

    def _script(self, talk: Talk, message: Message) -> bool:
        if message.target == "/healthz":
            status = "503 Service Unavailable" if self.sick else "200 OK"
            talk.send(ok(b"", status=status))
            return False
        self.served.append(message.target)
        if "slow" in message.target:
            threading.Event().wait(1.0)
        if "silent" in message.target:
            return bool(talk.more()) and False
        if self.failing:
            talk.reset()
            return False
        return bool(talk.send(ok()))


NAMES = ("e0", "e1", "o0", "o1", "p0", "p1", "c0", "c1", "d0", "b0", "b1", "n0", "n1", "n2", "h0", "u0", "f1")


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, Backend]]:
    made = {name: Backend() for name in NAMES}
    yield made
    for backend in made.values():
        backend.origin.close()


CHECK = {"path": "/healthz", "interval": "200ms", "fast_interval": "50ms", "timeout": "150ms"}


@pytest.fixture(scope="module")
def filtered() -> Iterator[int]:
    """A port whose packets get lost."""
    with full_backlog() as port:
        yield port


@pytest.fixture(scope="module")
def scene(backends: dict[str, Backend], filtered: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    def pool(*names: str, **more: object) -> dict[str, object]:
        members = [{"name": name, "address": backends[name].address} for name in names]
        return {"backends": members, "keepalive": {"idle": "300ms"}, "slow_start": "off", **more}

    short = {"consecutive_failures": 3, "base_ejection": "400ms", "failure_rate": False, "latency": False}
    pools = {
        "eject": pool("e0", "e1", retry={}, outlier_detection=short),
        "observe": pool("o0", "o1", retry={}, outlier_detection={**short, "mode": "observe"}),
        "post": pool("p0", "p1", retry={}, outlier_detection=short),
        "checked": pool("c0", "c1", retry={}, health_check=CHECK),
        "down": pool("d0", health_check=CHECK),
        "backup": pool("b0", "b1", health_check=CHECK),
        "panic": pool("n0", "n1", "n2", retry={}, health_check=CHECK),
        "hang": pool("h0", outlier_detection={**short, "mode": "observe"}),
        "upload": pool("u0", outlier_detection={**short, "mode": "observe", "consecutive_failures": 1}),
        "filtered": pool("f1", outlier_detection=short),
    }
    pools["filtered"]["backends"].append({"name": "f0", "address": f"127.0.0.1:{filtered}"})  # type: ignore[attr-defined]
    timeouts = {"hang": "400ms", "upload": "2s", "filtered": "300ms"}
    pools["backup"]["backends"][1]["backup"] = True  # type: ignore[index]
    scene = Scene(
        {
            "workers": 2,
            "listeners": {"plain": {"bind": "127.0.0.1:0"}},
            "routes": [
                {
                    "name": name,
                    "match": {"path_prefix": f"/{name}"},
                    "pool": name,
                    "timeout": timeouts.get(name, "off"),
                }
                for name in pools
            ],
            "pools": pools,
        },
        tmp_path_factory.mktemp("ejection"),
    )
    yield scene
    scene.close()


def up(scene: Scene, backend: str) -> bool:
    return scene.metric("balancer_backend_up", backend=backend) == 1


def picks(scene: Scene, backend: Backend, path: str, method: str = "GET", count: int = 10) -> int:
    """How many of `count` requests the backend got."""
    before = len(backend.served)
    for _ in range(count):
        scene.ask("plain", path, method=method)
    return len(backend.served) - before


def test_a_failing_backend_is_ejected_gets_nothing_and_returns_by_one_request(
    scene: Scene, backends: dict[str, Backend]
) -> None:
    bad = backends["e0"]
    bad.failing = True
    statuses = {scene.ask("plain", "/eject/x").status for _ in range(20)}
    assert statuses == {200}, "the client sees nothing of it"
    assert eventually(lambda: scene.metric("balancer_backend_ejections_total", backend="e0") >= 1)
    assert "backend.ejected" in scene.daemon.stderr
    bad.failing = False
    assert eventually(lambda: picks(scene, bad, "/eject/y", count=4) > 0)
    assert eventually(lambda: up(scene, "e0"))
    assert eventually(lambda: picks(scene, bad, "/eject/z", count=4) == 2), "half of the traffic again"


def test_a_pool_that_gets_only_unsafe_requests_has_its_backend_back_too(
    scene: Scene, backends: dict[str, Backend]
) -> None:
    bad = backends["p0"]
    bad.failing = True
    for _ in range(12):
        scene.ask("plain", "/post/x", method="POST", body=b"a")
    assert eventually(lambda: scene.metric("balancer_backend_ejections_total", backend="p0") >= 1)
    bad.failing = False
    assert eventually(lambda: picks(scene, bad, "/post/y", "POST", 4) > 0)
    assert eventually(lambda: up(scene, "p0"))


def test_observing_counts_and_changes_nothing(scene: Scene, backends: dict[str, Backend]) -> None:
    bad = backends["o0"]
    bad.failing = True
    for _ in range(16):
        scene.ask("plain", "/observe/x")
    assert eventually(lambda: scene.metric("balancer_ejections_detected_total", backend="o0") >= 1)
    assert scene.metric("balancer_backend_ejections_total", backend="o0") == 0
    assert picks(scene, bad, "/observe/y") >= 5, "it keeps its turns"


def test_a_backend_that_fails_its_checks_gets_nothing_until_it_passes_them(
    scene: Scene, backends: dict[str, Backend]
) -> None:
    sick = backends["c0"]
    assert eventually(lambda: picks(scene, sick, "/checked/x", count=4) == 2)
    sick.sick = True
    assert eventually(lambda: not up(scene, "c0"))
    assert picks(scene, sick, "/checked/y") == 0
    sick.sick = False
    assert eventually(lambda: up(scene, "c0"))
    assert eventually(lambda: picks(scene, sick, "/checked/z", count=4) == 2)
    assert "status 503, expected 200-399" in scene.daemon.stderr


def test_a_pool_whose_backends_all_fail_their_checks_says_so_at_once(
    scene: Scene, backends: dict[str, Backend]
) -> None:
    backends["d0"].sick = True
    assert eventually(lambda: scene.ask("plain", "/down/x").status == 503)
    before = len(backends["d0"].served)
    answer = scene.ask("plain", "/down/y")
    assert (answer.status, answer.field("retry-after")) == (503, "1")
    assert len(backends["d0"].served) == before
    scene.logged(target="/down/y", reason="pool_down", attempts=0)
    backends["d0"].sick = False
    assert eventually(lambda: scene.ask("plain", "/down/z").status == 200)


def test_backups_serve_only_while_nobody_else_does(scene: Scene, backends: dict[str, Backend]) -> None:
    primary, backup = backends["b0"], backends["b1"]
    assert eventually(lambda: up(scene, "b0"))
    assert picks(scene, backup, "/backup/x") == 0
    primary.sick = True
    assert eventually(lambda: picks(scene, backup, "/backup/y", count=2) == 2)
    primary.sick = False
    assert eventually(lambda: picks(scene, backup, "/backup/z", count=2) == 0)


def test_in_a_panic_a_request_that_one_of_the_dead_lost_is_served_by_who_is_well(
    scene: Scene, backends: dict[str, Backend]
) -> None:
    for name in ("n1", "n2"):
        backends[name].sick = backends[name].failing = True
    assert eventually(lambda: scene.metric("balancer_panic", pool="panic") == 1)
    assert [scene.ask("plain", "/panic/x").status for _ in range(30)] == [200] * 30
    assert backends["n1"].served, "it has its turns all the same"


def test_a_backend_that_lets_the_routes_timeout_pass_is_blamed_for_it(
    scene: Scene, backends: dict[str, Backend]
) -> None:
    for _ in range(3):
        assert scene.ask("plain", "/hang/silent").status == 504
    assert eventually(lambda: scene.metric("balancer_ejections_detected_total", backend="h0") == 1)


def test_a_backend_is_not_blamed_for_the_time_of_an_upload(scene: Scene) -> None:
    """The route's timeout passes while it works: of 2 s it had half a second, its client the rest."""
    with scene.connect("plain") as client:
        client.send(request("/upload/slow", "Content-Length: 15", method="POST"))
        for _ in range(15):
            threading.Event().wait(0.1)
            client.send("a")
        assert client.response().status == 504
    scene.logged(target="/upload/slow", reason="exchange_timeout")
    assert scene.ask("plain", "/upload/silent").status == 504
    assert eventually(lambda: scene.metric("balancer_ejections_detected_total", backend="u0") >= 1)
    assert scene.metric("balancer_ejections_detected_total", backend="u0") == 1, "for its own silence alone"


def test_a_backend_to_which_no_connection_comes_about_in_the_routes_timeout_is_ejected(scene: Scene) -> None:
    assert eventually(
        lambda: (
            scene.ask("plain", "/filtered/x").status in (200, 504)
            and scene.metric("balancer_backend_ejections_total", backend="f0") >= 1
        )
    )
    assert scene.ask("plain", "/filtered/y").status == 200


def test_the_api_and_the_log_say_why(scene: Scene, backends: dict[str, Backend]) -> None:
    backends["c1"].sick = True
    assert eventually(lambda: not up(scene, "c1"))
    lines = [json.loads(line) for line in scene.daemon.stderr.splitlines() if '"backend.became_unhealthy"' in line]
    (line,) = [line for line in lines if line["backend"] == "c1"]
    assert line["evidence"]
    assert line["pool"] == "checked"
    backends["c1"].sick = False
    assert eventually(lambda: up(scene, "c1"))


def test_nothing_of_this_left_a_traceback(scene: Scene) -> None:
    assert "Traceback" not in scene.daemon.stderr
