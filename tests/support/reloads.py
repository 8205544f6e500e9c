"""Reloads of a running daemon, asked for in each of the ways there are, and what came of them."""

import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.daemon import Daemon, wait_until

PATIENCE = 60.0
_ENDINGS = ("config.reloaded", "config.reload_unneeded", "config.reload_refused")


@dataclass(frozen=True, slots=True)
class Reloaded:
    """How a reload ended. `text` is all that was said of it: changes, or problems."""

    ok: bool
    generation: int
    text: str


def by_request(daemon: Daemon, query: str = "") -> Reloaded:
    """`POST /api/v1/reload`. The status and the body have to agree."""
    connection = http.client.HTTPConnection(*daemon.admin_address, timeout=PATIENCE)
    with closing(connection):
        connection.request("POST", f"/api/v1/reload{query}", headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        told = json.loads(response.read())
    assert response.status == (200 if told.get("ok") else 422), (response.status, told)
    if not told["ok"]:
        assert told["error"]["code"] == "reload_refused"
        assert told["changes"] == []
    return Reloaded(told["ok"], told["generation"], "\n".join([*told["changes"], *told["problems"]]))


def by_signal(daemon: Daemon) -> Reloaded:
    """SIGHUP; the log says how it ended."""
    log = daemon.folder / "stderr"
    said_before = log.stat().st_size
    daemon.process.send_signal(signal.SIGHUP)
    found: list[dict[str, Any]] = []

    def ended() -> bool:
        with log.open("rb") as file:
            file.seek(said_before)
            lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"}\n")]
        found[:] = [event for event in map(json.loads, lines) if event["event"] in _ENDINGS]
        return bool(found)

    assert wait_until(ended, PATIENCE), f"the log says nothing of a reload:\n{daemon.stderr[-2000:]}"
    event = found[0]
    words = [*event.get("changes", ()), *event.get("problems", ())]
    return Reloaded(event["event"] != "config.reload_refused", event["generation"], "\n".join(words))


def by_command(daemon: Daemon) -> Reloaded:
    """`balancer reload`; its exit status, its output and its errors have to agree."""
    done = subprocess.run(
        [sys.executable, "-m", "balancer", "reload", "--admin", daemon.admin],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    ok = done.returncode == 0
    assert done.returncode in (0, 1), (done.returncode, done.stderr)
    assert ok or not done.stdout, "a refusal has no changes to tell"
    said = done.stdout if ok else done.stderr
    found = re.search(r"^(?:reloaded|refused): .*generation (\d+) ", said, re.MULTILINE)
    assert found is not None, said
    return Reloaded(ok, int(found[1]), said)


WAYS: tuple[Callable[[Daemon], Reloaded], ...] = (by_request, by_signal, by_command)


class ConfigFile:
    """The daemon's configuration file, to be changed; `written` is what it held when the daemon started."""

    def __init__(self, daemon: Daemon) -> None:
        self.path: Path = daemon.config_path
        self.written: str = self.path.read_text()

    def content(self) -> dict[str, Any]:
        """A copy of what the daemon started with, to be changed and written."""
        content: dict[str, Any] = yaml.safe_load(self.written)
        return content

    def write(self, content: Mapping[str, Any] | str) -> None:
        """Put it in the file's place at once, as careful editors do."""
        text = content if isinstance(content, str) else yaml.safe_dump(dict(content), sort_keys=False)
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        beside.replace(self.path)

    def restore(self) -> None:
        """What the daemon started with, whatever is in its place."""
        if self.path.is_dir():
            self.path.rmdir()
        self.write(self.written)
