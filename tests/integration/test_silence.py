"""A backend that has stopped to answer gets nothing more, long before any timeout, until it answers again."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.scripted import PATIENCE, Message, Origin, Scene, Talk, eventually, ok

AT_ONCE = 16


class Backend:
    """An origin that answers at once, or, while it `hangs`, when it goes on."""

    def __init__(self) -> None:
        self.origin = Origin()
        self.origin.fallback = self._script
        self.served = 0
        self.goes_on = threading.Event()
        self.goes_on.set()

    def _script(self, talk: Talk, message: Message) -> bool:
        self.served += 1
        self.goes_on.wait(PATIENCE)
        return bool(talk.send(ok()))


@pytest.fixture
def backends() -> Iterator[list[Backend]]:
    made = [Backend(), Backend()]
    yield made
    for backend in made:
        backend.goes_on.set()
        backend.origin.close()


def test_a_backend_that_stops_to_answer_gets_nothing_more_until_it_answers(
    backends: list[Backend], tmp_path: Path
) -> None:
    hanging, other = backends
    pool = {
        "backends": [
            {"name": f"b{number}", "address": f"127.0.0.1:{backend.origin.port}"}
            for number, backend in enumerate(backends)
        ],
        "retry": "off",
        "outlier_detection": {},
    }
    scene = Scene(
        {
            "workers": 1,
            "listeners": {"plain": {"bind": "127.0.0.1:0"}},
            "routes": [{"name": "all", "pool": "app"}],
            "pools": {"app": pool},
        },
        tmp_path,
    )
    try:
        assert [scene.ask("plain").status for _ in range(4)] == [200] * 4
        hanging.goes_on.clear()
        with ThreadPoolExecutor(AT_ONCE) as clients:
            waiting = [clients.submit(scene.ask, "plain") for _ in range(AT_ONCE)]
            assert eventually(lambda: scene.metric("balancer_backend_silences_total", backend="b0") >= 1)
            before = hanging.served, other.served
            assert [scene.ask("plain").status for _ in range(20)] == [200] * 20
            assert (hanging.served, other.served) == (before[0], before[1] + 20), "no timeout was needed for that"
            assert "backend.fell_silent" in scene.daemon.stderr
            hanging.goes_on.set()
            assert [each.result(PATIENCE).status for each in waiting] == [200] * AT_ONCE
        before = hanging.served, other.served

        def has_its_turn_again() -> bool:
            scene.ask("plain")
            return hanging.served > before[0]

        assert eventually(has_its_turn_again)
    finally:
        scene.close()
