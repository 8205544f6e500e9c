"""Three real balancers know which of them live, and one of them does what is to be done once for all."""

import base64
import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.coordination_etcd import Etcd
from tests.support.daemon import Daemon, wait_until
from tests.support.queries import get, metric
from tests.support.three_balancers import NAMES, PATIENCE, Three, ask, members_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

TAKEN_OVER_WITHIN = 5.0
STOPPED_WITHIN = 3.0
DUTY = 'balancer_cluster_duty{duty="compaction"}'


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def nodes_at(port: int) -> list[str]:
    """The names of those that live."""
    prefix, end = "/balancer/nodes/", "/balancer/nodes0"
    answer = ask(port, "/v3/kv/range", {"key": base64_of(prefix), "range_end": base64_of(end)}, timeout=2.0)
    keys = [base64.b64decode(kv["key"]).decode() for kv in (answer or {}).get("kvs", [])]
    return sorted(key.removeprefix(prefix) for key in keys)


def led_at(port: int) -> str:
    """Who has the duty of compaction, as the cluster says; "" = nobody, or it does not say."""
    answer = ask(port, "/v3/election/leader", {"name": base64_of("/balancer/duties/compaction")}, timeout=2.0)
    return base64.b64decode(answer["kv"]["value"]).decode() if answer and "kv" in answer else ""


def doing(daemons: dict[str, Daemon]) -> list[str]:
    """Who has it, as the balancers say."""
    return [name for name, daemon in daemons.items() if metric(daemon, DUTY)]


def saw_leave(daemon: Daemon, name: str) -> bool:
    """It said so."""
    return name in [event["node"] for event in daemon.events("node.left")]


def settled(three: Three) -> str:
    """Wait until all three live and one has the duty. Who."""
    port = three.clients["n1"]
    assert wait_until(lambda: nodes_at(port) == list(NAMES), PATIENCE), three.said()
    assert wait_until(lambda: len(doing(three.daemons)) == 1, PATIENCE), three.said()
    return doing(three.daemons)[0]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    with Three(tmp_path_factory.mktemp("three")) as made:
        assert made.serving(), made.said()
        yield made


@pytest.mark.full
def test_all_live_and_one_has_the_duty(three: Three) -> None:
    found = settled(three)
    assert {led_at(port) for port in three.clients.values()} == {found}
    for daemon in three.daemons.values():
        assert {event["node"] for event in daemon.events("node.joined")} == set(NAMES)


@pytest.mark.full
def test_after_a_balancer_died_another_has_its_duty_and_it_counts_as_gone(three: Three) -> None:
    dead = settled(three)
    others = {name: daemon for name, daemon in three.daemons.items() if name != dead}
    port = next(three.clients[name] for name in others)
    three.daemons[dead].kill()
    died = time.monotonic()
    try:
        assert wait_until(lambda: doing(others), TAKEN_OVER_WITHIN), three.said()
        assert wait_until(lambda: dead not in nodes_at(port), died + TAKEN_OVER_WITHIN - time.monotonic())
        assert len(doing(others)) == 1
        assert led_at(port) in others
        for daemon in others.values():
            assert wait_until(partial(saw_leave, daemon, dead), 1.0), three.said()
            assert get(daemon.address("web"), "/")[0] == 200
    finally:
        three.start(dead)
    settled(three)
    assert three.daemons[dead].events("node.name_taken") == []


@pytest.mark.full
def test_a_balancer_that_stops_hands_its_duty_over(three: Three) -> None:
    stopped = settled(three)
    others = {name: daemon for name, daemon in three.daemons.items() if name != stopped}
    before = {name: len(daemon.events("duty.began")) for name, daemon in others.items()}
    assert three.daemons[stopped].stop() == 0
    try:
        assert three.daemons[stopped].events("duty.ended")[-1]["reason"] == "this balancer stops"
        assert wait_until(lambda: doing(others), TAKEN_OVER_WITHIN), three.said()
        assert sum(len(daemon.events("duty.began")) - before[name] for name, daemon in others.items()) == 1
    finally:
        three.start(stopped)
    settled(three)


@pytest.mark.full
@pytest.mark.parametrize("after", ["at once", "when it has noticed"])
def test_a_balancer_without_a_quorum_stops_quickly(three: Three, after: str) -> None:
    stopped = settled(three)  # the one that has the most to give back
    daemon = three.daemons[stopped]
    before = len(daemon.events("cluster.was_cut_off"))
    frozen = [pid for name, each in three.daemons.items() if name != stopped for pid in members_of(each)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        if after == "when it has noticed":
            assert wait_until(lambda: len(daemon.events("cluster.was_cut_off")) > before, PATIENCE), daemon.stderr
        assert get(daemon.address("web"), "/")[0] == 200
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < STOPPED_WITHIN, daemon.stderr
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        three.start(stopped)
    settled(three)


@pytest.mark.full
def test_on_an_etcd_balancers_know_each_other_and_its_history_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "etcd").mkdir()
    with Etcd(tmp_path / "etcd") as etcd, Three(tmp_path, etcd=etcd.urls) as three:
        port = three.clients["n1"]
        assert wait_until(lambda: nodes_at(port) == list(NAMES), PATIENCE), three.said()
        assert led_at(port) == ""
        assert [daemon.events("duty.began") for daemon in three.daemons.values()] == [[], [], []]
        three.daemons["n2"].kill()
        assert wait_until(lambda: nodes_at(port) == ["n1", "n3"], TAKEN_OVER_WITHIN), three.said()
        assert three.daemons["n3"].stop() == 0
        assert nodes_at(port) == ["n1"]
