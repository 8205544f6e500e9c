"""Drain, weight and added backends with a real daemon: in use on every worker, over kills, reloads and restarts."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.load_client import scrape
from tests.support.scripted import Message, Origin, Talk, eventually, ok


@pytest.fixture
def ports() -> Iterator[dict[str, int]]:
    """Origins that answer their own name."""

    def named(origin: Origin, name: str) -> None:
        def script(talk: Talk, _: Message) -> bool:
            return bool(talk.send(ok(name.encode())))

        origin.fallback = script

    with ExitStack() as stack:
        origins = {name: stack.enter_context(Origin()) for name in ("a", "b", "c")}
        for name, origin in origins.items():
            named(origin, name)
        yield {name: origin.port for name, origin in origins.items()}


def configuration(ports: dict[str, int], *names: str, **weights: int) -> dict[str, Any]:
    backends = [{"name": n, "address": f"127.0.0.1:{ports[n]}", "weight": weights.get(n, 1)} for n in names]
    return {
        "workers": 2,
        "listeners": {"web": {"bind": "127.0.0.1:0"}},
        "routes": [{"name": "all", "pool": "web"}],
        "pools": {"web": {"strategy": "weighted", "slow_start": "off", "backends": backends}},
    }


def call(daemon: Daemon, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """A request to the admin API: status and decoded answer."""
    with closing(http.client.HTTPConnection(*daemon.admin_address, timeout=30)) as connection:
        data = b"" if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None


def served(daemon: Daemon, count: int = 24) -> Counter[str]:
    """Who answered, on connections of their own so that both workers take part."""
    names: Counter[str] = Counter()
    for _ in range(count):
        with closing(http.client.HTTPConnection(*daemon.address("web"), timeout=10)) as connection:
            connection.request("GET", "/")
            names[connection.getresponse().read().decode()] += 1
    return names


def set_live(daemon: Daemon, name: str, **change: object) -> None:
    status, answer = call(daemon, "PATCH", f"/api/v1/pools/web/backends/{name}", change)
    assert status == 200, answer


def test_a_drained_backend_gets_nothing_on_any_worker_also_after_kills_reload_and_restart(
    ports: dict[str, int], tmp_path: Path
) -> None:
    with Daemon(configuration(ports, "a", "b"), tmp_path) as daemon:
        set_live(daemon, "a", state="drain")
        assert served(daemon) == {"b": 24}
        for pid in daemon.workers().values():
            os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: scrape(daemon.admin, "balancer_worker_restarts_total") == 2)
        assert eventually(lambda: scrape(daemon.admin, "balancer_worker_up") == 2)
        assert served(daemon) == {"b": 24}
        daemon.write(configuration(ports, "a", "b", "c"))
        assert call(daemon, "POST", "/api/v1/reload")[0] == 200
        assert set(served(daemon)) == {"b", "c"}
    with Daemon(configuration(ports, "a", "b"), tmp_path) as daemon:
        assert served(daemon) == {"b": 24}
        set_live(daemon, "a", state="active")
        assert set(served(daemon)) == {"a", "b"}
    with Daemon(configuration(ports, "a", "b"), tmp_path) as daemon:
        assert set(served(daemon)) == {"a", "b"}


def test_a_changed_entry_wins_over_a_live_weight(ports: dict[str, int], tmp_path: Path) -> None:
    with Daemon(configuration(ports, "a", "b"), tmp_path) as daemon:
        set_live(daemon, "a", weight=3)
        assert call(daemon, "POST", "/api/v1/reload")[1]["ok"]
        assert call(daemon, "GET", "/api/v1/pools")[1]["pools"][0]["backends"][0]["weight"] == 3
        daemon.write(configuration(ports, "a", "b", a=5))
        answer = call(daemon, "POST", "/api/v1/reload")[1]
        assert answer["ok"], answer
        shown = call(daemon, "GET", "/api/v1/pools")[1]["pools"][0]["backends"][0]
        assert (shown["weight"], shown["file_weight"]) == (5, 5)


def test_an_added_backend_serves_over_a_reload_until_it_is_deleted(ports: dict[str, int], tmp_path: Path) -> None:
    with Daemon(configuration(ports, "a"), tmp_path) as daemon:
        spec = {"name": "b", "address": f"127.0.0.1:{ports['b']}"}
        assert call(daemon, "POST", "/api/v1/pools/web/backends", spec)[0] in (200, 201)
        assert set(served(daemon)) == {"a", "b"}
        assert call(daemon, "POST", "/api/v1/reload")[1]["ok"]
        assert set(served(daemon)) == {"a", "b"}
        assert call(daemon, "GET", "/api/v1/config")[1]["differs"]
        assert call(daemon, "DELETE", "/api/v1/pools/web/backends/a")[0] == 409, "it is the file's"
        assert call(daemon, "DELETE", "/api/v1/pools/web/backends/b")[0] in (200, 204)
        assert served(daemon) == {"a": 24}
        assert not call(daemon, "GET", "/api/v1/config")[1]["differs"]


def test_discarding_ends_every_live_change(ports: dict[str, int], tmp_path: Path) -> None:
    with Daemon(configuration(ports, "a", "b"), tmp_path) as daemon:
        set_live(daemon, "a", state="drain")
        spec = {"name": "c", "address": f"127.0.0.1:{ports['c']}"}
        assert call(daemon, "POST", "/api/v1/pools/web/backends", spec)[0] in (200, 201)
        assert set(served(daemon)) == {"b", "c"}
        told = call(daemon, "POST", "/api/v1/reload?discard_live=1&dry_run=1")[1]["changes"]
        assert any("backend a: drained: discarded" in words for words in told), told
        assert set(served(daemon)) == {"b", "c"}
        assert call(daemon, "POST", "/api/v1/reload?discard_live=1")[1]["changes"] == told
        assert set(served(daemon)) == {"a", "b"}
        assert not (daemon.runtime_dir / "live-changes.json").exists()


def test_the_commands_do_the_same(ports: dict[str, int], tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "balancer", *arguments, "--admin", daemon.admin]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    with Daemon(configuration(ports, "a", "b"), tmp_path) as daemon:
        assert run("drain", "web", "a").returncode == 0
        assert served(daemon) == {"b": 24}
        status = run("status").stdout
        assert "drained" in status
        assert "draining" not in status, "nothing is in flight there any more"
        assert run("undrain", "web", "a").returncode == 0
        assert run("weight", "web", "b", "0").returncode == 0
        assert served(daemon) == {"a": 24}
        daemon.write(configuration(ports, "a", "b", "c"))
        dry = run("reload", "--dry-run")
        assert (dry.returncode, scrape(daemon.admin, "balancer_config_generation")) == (0, 1)
        assert "+1 backend" in dry.stdout
        assert run("reload").returncode == 0
        assert set(served(daemon)) == {"a", "c"}
        daemon.config_path.write_text("listeners: {web: {bind: 1}}\n")
        refused = run("reload")
        assert refused.returncode == 1
        assert f"{daemon.config_path}:1:" in refused.stdout + refused.stderr
        assert set(served(daemon)) == {"a", "c"}
        assert run("drain", "web", "nobody").returncode == 1


def test_a_damaged_file_of_changes_is_told_and_does_not_keep_the_daemon_from_starting(
    ports: dict[str, int], tmp_path: Path
) -> None:
    with Daemon(configuration(ports, "a"), tmp_path) as daemon:
        set_live(daemon, "a", weight=2)
    (tmp_path / "run" / "live-changes.json").write_bytes(b"{broken")
    with Daemon(configuration(ports, "a"), tmp_path) as daemon:
        assert served(daemon) == {"a": 24}
        assert "live.unreadable" in daemon.stderr
