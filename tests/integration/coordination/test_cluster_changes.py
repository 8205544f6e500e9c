"""Drain and weight with three real balancers: said at one, in use at all, kept over kills, refused without a quorum."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.coordination_etcd import Etcd
from tests.support.daemon import Daemon, wait_until
from tests.support.scripted import Message, Origin, Talk, ok
from tests.support.steady_load import SteadyLoad
from tests.support.three_balancers import NAMES, PATIENCE, Three, members_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

EVERYWHERE_WITHIN = 5.0
"""Seconds from the answer of a command to its being in use at every balancer: a millisecond on a quiet machine."""


class Origins:
    """Backends that answer their own name; `seen` counts what came to each."""

    def __init__(self, stack: ExitStack) -> None:
        self.origins = {name: stack.enter_context(Origin()) for name in ("a", "b")}
        for name, origin in self.origins.items():
            origin.fallback = partial(_answer, name.encode())

    def seen(self, name: str) -> int:
        return len(self.origins[name].requests)

    def pools(self, _: str) -> dict[str, Any]:
        """What each balancer has beside its coordination."""
        backends = [{"name": name, "address": f"127.0.0.1:{one.port}"} for name, one in self.origins.items()]
        return {
            "routes": [{"name": "all", "pool": "web"}],
            "pools": {"web": {"strategy": "weighted", "slow_start": "off", "backends": backends}},
        }


def _answer(name: bytes, talk: Talk, _: Message) -> bool:
    return bool(talk.send(ok(name)))


@pytest.fixture(scope="module")
def origins() -> Iterator[Origins]:
    with ExitStack() as stack:
        yield Origins(stack)


@pytest.fixture(scope="module")
def running(origins: Origins, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    with Three(tmp_path_factory.mktemp("three"), extra=origins.pools) as made:
        assert made.serving(), made.said()
        yield made


@pytest.fixture
def three(running: Three) -> Iterator[Three]:
    """The three, with nothing said of any backend before and after a test."""
    yield running
    assert running.serving(), running.said()
    for name in ("a", "b"):
        change(running.daemons["n1"], name, weight="file", state="active", cluster=True)
    assert everywhere(running), running.said()


def command(daemon: Daemon, *arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "balancer", *arguments, "--admin", daemon.admin]
    return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)


def done(daemon: Daemon, *arguments: str) -> str:
    """What a command says that does what it is told."""
    result = command(daemon, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr + daemon.stderr[-2000:]
    return result.stdout + result.stderr


def shown(daemon: Daemon, path: str) -> Any:
    with closing(http.client.HTTPConnection(*daemon.admin_address, timeout=30)) as connection:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


def change(daemon: Daemon, name: str, **body: object) -> None:
    with closing(http.client.HTTPConnection(*daemon.admin_address, timeout=30)) as connection:
        path, fields = f"/api/v1/pools/web/backends/{name}", {"Content-Type": "application/json"}
        connection.request("PATCH", path, json.dumps(body), fields)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()


def of_backend(daemon: Daemon, name: str = "a") -> dict[str, Any]:
    (pool,) = shown(daemon, "/api/v1/pools")["pools"]
    found: dict[str, Any] = next(one for one in pool["backends"] if one["name"] == name)
    return found


def served(daemon: Daemon, count: int = 20) -> Counter[str]:
    """Who answered."""
    names: Counter[str] = Counter()
    with closing(http.client.HTTPConnection(*daemon.address("web"), timeout=10)) as connection:
        for _ in range(count):
            connection.request("GET", "/")
            answer = connection.getresponse()
            names[answer.read().decode()] += 1
            assert answer.status == 200
    return names


def everywhere(three: Three, *, weight: int = 1, drained: bool = False) -> bool:
    """All three have that of the backend a in use, soon."""

    def holds(daemon: Daemon) -> bool:
        found = of_backend(daemon)
        return (found["weight"], found["drained"]) == (weight, drained)

    return wait_until(lambda: all(holds(daemon) for daemon in three.daemons.values()), EVERYWHERE_WITHIN)


def follows_an_operator(three: Three, origins: Origins) -> None:
    """Drained at one, weighed at another, undrained at the third; under load, and nothing fails."""
    first, second, third = three.daemons.values()
    with ExitStack() as stack:
        loads = [
            stack.enter_context(SteadyLoad(daemon.address("web"), clients=3, pause=0.005))
            for daemon in three.daemons.values()
        ]
        for load in loads:
            load.go_on(20)
        assert "in the whole cluster" in done(first, "drain", "web", "a", "--cluster")
        assert everywhere(three, drained=True), three.said()
        assert wait_until(lambda: all(of_backend(each)["in_flight"] == 0 for each in three.daemons.values()), PATIENCE)
        before = origins.seen("a")
        for load in loads:
            load.go_on(100)
        assert origins.seen("a") == before, "a new request went to a drained backend"
        done(second, "weight", "web", "a", "3", "--cluster")
        assert everywhere(three, weight=3, drained=True), three.said()
        done(third, "undrain", "web", "a", "--cluster")
        assert everywhere(three, weight=3), three.said()
        for load in loads:
            load.go_on(20)
            load.stop()
        assert [load.failures for load in loads] == [[], [], []]
    for daemon in three.daemons.values():
        assert served(daemon, 40) == {"a": 30, "b": 10}


@pytest.mark.full
def test_what_is_said_at_one_is_in_use_at_all_and_no_request_fails(three: Three, origins: Origins) -> None:
    follows_an_operator(three, origins)
    assert "weight of its entry again" in done(three.daemons["n2"], "weight", "web", "a", "file", "--cluster")
    assert everywhere(three), three.said()
    for daemon in three.daemons.values():
        assert served(daemon) == {"a": 10, "b": 10}


@pytest.mark.full
def test_it_is_shown_to_be_the_clusters(three: Three) -> None:
    first, second, _ = three.daemons.values()
    done(first, "weight", "web", "a", "3", "--cluster")
    done(first, "drain", "web", "a", "--cluster")
    assert everywhere(three, weight=3, drained=True), three.said()
    found = of_backend(second)
    assert (found["weight_by"], found["drained_by"], found["file_weight"]) == ("cluster", ["cluster"], 1)
    (words,) = shown(second, "/api/v1/config")["differs"]
    assert words.startswith(
        "pool web: backend a: weight 3 instead of 1, drained in the whole cluster, said at `n1` (20"
    )
    told = done(second, "status")
    assert "3 (cluster, file 1)" in told
    assert "drained in the whole cluster" in told
    assert of_backend(second, "b")["weight_by"] is None
    change(first, "a", weight="file", state="active", cluster=True)
    assert everywhere(three), three.said()
    assert shown(second, "/api/v1/config")["differs"] == []


@pytest.mark.full
def test_a_command_for_one_balancer_that_could_do_nothing_is_refused(three: Three) -> None:
    first, second, _ = three.daemons.values()
    done(first, "drain", "web", "a", "--cluster")
    done(first, "weight", "web", "a", "3", "--cluster")
    assert everywhere(three, weight=3, drained=True), three.said()
    for arguments in (["undrain", "web", "a"], ["weight", "web", "a", "5"]):
        refused = command(second, *arguments)
        assert refused.returncode == 1
        assert "in the whole cluster, said at `n1`" in refused.stderr
        assert "--cluster" in refused.stderr
    done(second, "drain", "web", "a")
    assert "note: here it stays drained" in done(second, "undrain", "web", "a", "--cluster")
    assert wait_until(lambda: not of_backend(first)["drained"], EVERYWHERE_WITHIN)
    assert of_backend(second)["drained_by"] == ["balancer"]
    done(second, "undrain", "web", "a")
    assert not of_backend(second)["drained"]


@pytest.mark.full
def test_a_backend_that_no_balancer_has_is_told(three: Three) -> None:
    refused = command(three.daemons["n1"], "drain", "web", "nobody", "--cluster")
    assert refused.returncode == 1
    assert "there are: `a`, `b`" in refused.stderr


@pytest.mark.full
def test_a_reload_with_another_entry_and_one_that_discards_leave_what_the_cluster_says(three: Three) -> None:
    daemon = three.daemons["n1"]
    done(daemon, "drain", "web", "a", "--cluster")
    try:
        other = three.configuration("n1")
        other["pools"]["web"]["backends"][0]["weight"] = 5
        daemon.write(other)
        assert "generation" in done(daemon, "reload")
        assert served(daemon) == {"b": 20}
        found = of_backend(daemon)
        assert (found["weight"], found["file_weight"], found["drained"]) == (5, 5, True)
        done(daemon, "reload", "--discard-live")
        assert served(daemon) == {"b": 20}
        without = three.configuration("n1")
        del without["pools"]["web"]["backends"][0]
        daemon.write(without)
        done(daemon, "reload")
        assert "there is no such backend here" in shown(daemon, "/api/v1/config")["differs"][0]
    finally:
        daemon.write(three.configuration("n1"))
        done(daemon, "reload")
    assert served(daemon) == {"b": 20}, "it came back, and is drained"


@pytest.mark.full
def test_it_holds_over_a_kill_of_everybody_before_the_cluster_answers(three: Three) -> None:
    for daemon in three.daemons.values():
        assert served(daemon)["a"]
    done(three.daemons["n2"], "drain", "web", "a", "--cluster")
    done(three.daemons["n2"], "weight", "web", "b", "7", "--cluster")
    assert everywhere(three, drained=True), three.said()
    saved = [three.folder / name / "run" / "cluster-changes.json" for name in NAMES]
    assert wait_until(lambda: all(path.exists() and b'"b"' in path.read_bytes() for path in saved), PATIENCE)
    for daemon in three.daemons.values():
        daemon.kill()
    alone = three.start("n3")
    assert served(alone) == {"b": 20}, "nobody can be asked, so that it must come from the file"
    found = of_backend(alone)
    assert (found["drained_by"], of_backend(alone, "b")["weight"]) == (["cluster"], 7)
    three.start("n1")
    three.start("n2")
    assert three.serving(), three.said()
    assert [served(daemon) for daemon in three.daemons.values()] == [{"b": 20}] * 3
    for name in ("a", "b"):
        change(alone, name, weight="file", state="active", cluster=True)
    assert wait_until(lambda: not any(path.exists() for path in saved), PATIENCE)


@pytest.mark.full
def test_without_a_quorum_it_is_refused_in_words_and_traffic_flows(three: Three) -> None:
    done(three.daemons["n1"], "drain", "web", "a", "--cluster")
    assert everywhere(three, drained=True), three.said()
    stopped = [pid for name in ("n1", "n2") for pid in members_of(three.daemons[name])]
    assert len(stopped) == 2
    alone = three.daemons["n3"]
    with SteadyLoad(alone.address("web"), clients=3, body=b"b", pause=0.005) as load:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            refused = command(alone, "undrain", "web", "a", "--cluster")
            assert time.monotonic() - began < 20
            assert (refused.returncode, refused.stdout) == (1, "")
            assert "the cluster cannot be asked, so nothing was changed" in refused.stderr
            assert "without --cluster the command changes this balancer alone" in refused.stderr
            assert of_backend(alone)["drained"]
            load.go_on(50)
            done(alone, "weight", "web", "b", "2")
            assert of_backend(alone, "b")["weight_by"] == "balancer"
            done(alone, "weight", "web", "b", "file")
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        load.stop()
        assert load.failures == []
    assert three.serving(), three.said()
    done(alone, "undrain", "web", "a", "--cluster")
    assert everywhere(three), three.said()


def test_a_balancer_without_coordination_says_so(origins: Origins, tmp_path: Path) -> None:
    with Daemon({"listeners": {"web": {"bind": "127.0.0.1:0"}}, **origins.pools("")}, tmp_path) as daemon:
        refused = command(daemon, "drain", "web", "a", "--cluster")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "this balancer belongs to no cluster: its file has no `coordination`" in refused.stderr
        assert set(served(daemon)) == {"a", "b"}


@pytest.mark.full
def test_three_balancers_of_one_etcd_do_the_same(origins: Origins, tmp_path: Path) -> None:
    (tmp_path / "etcd").mkdir()
    with (
        Etcd(tmp_path / "etcd") as etcd,
        Three(tmp_path, extra=origins.pools, etcd=etcd.urls) as three,
    ):
        assert three.serving(), three.said()
        follows_an_operator(three, origins)
        etcd.kill()
        refused = command(three.daemons["n1"], "drain", "web", "a", "--cluster")
        assert refused.returncode == 1
        assert "nothing was changed" in refused.stderr
        for daemon in three.daemons.values():
            assert served(daemon, 40) == {"a": 30, "b": 10}
        etcd.restart()
        assert three.serving(), three.said()
        change(three.daemons["n2"], "a", weight="file", cluster=True)
        assert everywhere(three), three.said()
