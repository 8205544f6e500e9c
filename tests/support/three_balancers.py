"""Three real daemons that form a cluster, or share an etcd: `with Three(tmp_path) as three: ...`."""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.daemon import STOP_SECONDS, Daemon, wait_until
from tests.support.ports import free_ports

PATIENCE = 60.0
NAMES = ("n1", "n2", "n3")

Extra = Callable[[str], Mapping[str, Any]]
"""What one of them has in its configuration beside the rest."""


def configuration(name: str, peers: Mapping[str, int], client: int, data: Path) -> dict[str, Any]:
    """One with a member that answers every request itself. `peers`: name -> port, of all members."""
    member = {
        "name": name,
        "members": {each: f"127.0.0.1:{port}" for each, port in peers.items()},
        "client": f"127.0.0.1:{client}",
        "data_dir": str(data),
    }
    return {
        "listeners": {"web": {"bind": "127.0.0.1:0"}},
        "routes": [{"name": "all", "respond": {"status": 200, "body": "served"}}],
        "coordination": {"embedded": member},
    }


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `more` has: mappings key by key, anything else replaced."""
    result = dict(base)
    for key, value in more.items():
        before = result.get(key)
        result[key] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return result


def ask(port: int, path: str, body: dict[str, Any], timeout: float = 10.0) -> dict[str, Any] | None:
    """An answer of the API; None where there was none, or an error."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


def put(port: int, value: str = "YQ==") -> bool:
    """Write the key "k"; False where that was not possible. `value` in base64."""
    return ask(port, "/v3/kv/put", {"key": "aw==", "value": value}) is not None


def value_at(port: int) -> str | None:
    """What the key "k" holds, in base64."""
    answer = ask(port, "/v3/kv/range", {"key": "aw=="})
    return answer["kvs"][0]["value"] if answer and answer.get("kvs") else None


def members_of(daemon: Daemon) -> list[int]:
    """The process ids of its member."""
    found = []
    for child in Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split():
        if b"balancer.daemon.member" in Path(f"/proc/{child}/cmdline").read_bytes():
            found.append(int(child))
    return found


class Three:
    """Three daemons, each with a member, or all of one etcd whose addresses are `etcd`.

    `extra`: what the configuration of each has beside the rest. `clients`: the port of the coordination API that each
    uses. All serve when the constructor returns; the coordination may need a moment more: see `serving`.
    """

    def __init__(self, folder: Path, *, extra: Extra | None = None, etcd: Sequence[str] = ()) -> None:
        ports = free_ports(6)
        self.folder = folder
        self.peers = dict(zip(NAMES, ports[:3], strict=True))
        self.clients = dict(zip(NAMES, ports[3:], strict=True))
        if etcd:
            self.clients = dict.fromkeys(NAMES, urlsplit(etcd[0]).port or 0)
        self._etcd = [*etcd]
        self._extra = extra
        self.daemons: dict[str, Daemon] = {}
        try:
            for name in NAMES:
                (folder / name).mkdir()
                self.start(name)
        except BaseException:
            self.close()
            raise

    def configuration(self, name: str) -> dict[str, Any]:
        """What one of them is told."""
        text = configuration(name, self.peers, self.clients[name], self.folder / name / "data")
        if self._etcd:
            text["coordination"] = {"etcd": {"endpoints": self._etcd, "name": name}}
        return merged(text, self._extra(name) if self._extra else {})

    def start(self, name: str) -> Daemon:
        """Start one, for the first time or after its end; its data is as it left it."""
        self.daemons[name] = Daemon(self.configuration(name), self.folder / name)
        return self.daemons[name]

    def serving(self, seconds: float = PATIENCE) -> bool:
        """Whether the coordination takes writes within so many seconds, at each of them."""
        return all(wait_until(partial(put, port), seconds) for port in self.clients.values())

    def leader(self) -> str | None:
        """Who leads, of the members."""
        for name, port in self.clients.items():
            status = ask(port, "/v3/maintenance/status", {}, timeout=2.0)
            if status and status.get("leader") and status["leader"] == status["header"]["member_id"]:
                return name
        return None

    def said(self) -> str:
        """What all of them wrote to standard error."""
        return "\n".join(f"---- {name}\n{daemon.stderr}" for name, daemon in self.daemons.items())

    def close(self) -> None:
        """End them all, whatever state they are in."""
        for daemon in self.daemons.values():
            if daemon.process.poll() is None:
                daemon.process.terminate()
        for daemon in self.daemons.values():
            with suppress(subprocess.TimeoutExpired):
                daemon.process.wait(STOP_SECONDS)
            daemon.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
