"""The member beside the workers: three daemons found a cluster, lose members, and never lose a request by it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.ports import free_ports
from tests.support.queries import get
from tests.support.three_balancers import NAMES, PATIENCE, Three, ask, configuration, members_of, put, value_at

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    with Three(tmp_path_factory.mktemp("three")) as made:
        assert made.serving(), made.said()
        yield made


def test_what_is_written_at_one_is_read_at_all(three: Three) -> None:
    assert put(three.clients["n2"], "Zm9v")
    assert {value_at(port) for port in three.clients.values()} == {"Zm9v"}


def test_a_killed_leader_is_followed_by_another_and_comes_back(three: Three) -> None:
    leader = three.leader()
    assert leader is not None
    daemon = three.daemons[leader]
    (pid,) = members_of(daemon)
    os.kill(pid, signal.SIGKILL)
    others = [port for name, port in three.clients.items() if name != leader]
    assert wait_until(lambda: put(others[0], "YmFy"), PATIENCE)
    assert get(daemon.address("web"), "/")[0] == 200
    assert wait_until(lambda: value_at(three.clients[leader]) == "YmFy", PATIENCE), daemon.stderr
    assert daemon.events("member.ended")


def test_traffic_flows_on_while_no_quorum_is_left(three: Three) -> None:
    stopped = [pid for name in ("n1", "n2") for pid in members_of(three.daemons[name])]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert ask(three.clients["n3"], "/v3/kv/put", {"key": "aw==", "value": "YQ=="}, timeout=1.0) is None
        for daemon in three.daemons.values():
            assert {get(daemon.address("web"), "/")[0] for _ in range(20)} == {200}
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert wait_until(lambda: put(three.clients["n3"], "Zm9v"), PATIENCE)


def test_suspect_data_keeps_the_member_down_and_traffic_up(tmp_path: Path) -> None:
    peer, client = free_ports(2)
    text = configuration("n1", {"n1": peer}, client, tmp_path / "data")
    with Daemon(text, tmp_path) as daemon:
        assert wait_until(lambda: put(client), PATIENCE), daemon.stderr
    log = next(file for file in sorted((tmp_path / "data").iterdir()) if file.name.startswith("wal-"))
    data = bytearray(log.read_bytes())
    data[200] ^= 1
    log.write_bytes(data)
    with Daemon(text, tmp_path) as daemon:
        assert wait_until(lambda: daemon.events("member.became_suspect"), PATIENCE), daemon.stderr
        assert get(daemon.address("web"), "/")[0] == 200
        assert members_of(daemon) == []
        told = daemon.events("member.failed")
        assert any("rejoin" in event["error"] for event in told), told


def command(client: int, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`balancer cluster ...` at this member."""
    line = [sys.executable, "-m", "balancer", "cluster", "--endpoints", f"http://127.0.0.1:{client}", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_member_is_added_promoted_leads_and_is_removed(three: Three, tmp_path: Path) -> None:
    """All of it asked of a follower."""
    assert put(three.clients["n1"], "Zm9v")
    follower = next(name for name in NAMES if name != three.leader())
    client = three.clients[follower]
    (peer, own) = free_ports(2)
    text = configuration("n4", {**three.peers, "n4": peer}, own, tmp_path / "data")
    text["coordination"]["embedded"]["join"] = True
    with Daemon(text, tmp_path) as newcomer:
        added = command(client, "members", "add", f"http://127.0.0.1:{peer}")
        assert added.returncode == 0, added.stdout + added.stderr
        assert wait_until(lambda: value_at(own) == "Zm9v", PATIENCE), newcomer.stderr
        assert wait_until(lambda: command(client, "members", "promote", "n4").returncode == 0, PATIENCE)
        assert command(client, "members", "transfer", "n4").returncode == 0
        status = ask(own, "/v3/maintenance/status", {})
        assert status is not None
        assert status["leader"] == status["header"]["member_id"]
        assert put(own, "YmFy")
        assert command(own, "members", "transfer", follower).returncode == 0
        assert command(client, "members", "remove", "n4").returncode == 0
        assert wait_until(lambda: put(client, "Zm9v"), PATIENCE)
        listed = ask(client, "/v3/cluster/member/list", {})
        assert listed is not None
        assert sorted(member["name"] for member in listed["members"]) == list(NAMES)
