"""A real `balancer run` for tests: `with Daemon(configuration, tmp_path) as daemon: ...`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import yaml

READY_SECONDS = 30.0
STOP_SECONDS = 30.0
_POLL = 0.01


class DaemonFailedError(AssertionError):
    """The daemon ended before it was ready, or did not become ready in time. Carries what it said."""


class Daemon:
    """`balancer run` with a configuration written to `folder`, ready when the constructor returns.

    `configuration` is a mapping, or YAML text. Unless it says otherwise the admin address is a free port, the
    runtime folder lies in `folder`, nothing waits at the stop (`shutdown_delay`) and the access log is off.
    `listening` has the URLs of each listener by its name.
    """

    def __init__(
        self,
        configuration: Mapping[str, Any] | str,
        folder: Path,
        *,
        environ: Mapping[str, str] | None = None,
        ready_within: float = READY_SECONDS,
    ) -> None:
        self.folder = folder
        self.config_path = folder / "balancer.yaml"
        self.runtime_dir = folder / "run"
        self._out, self._err = folder / "stdout", folder / "stderr"
        self.write(configuration)
        # Appended: a second daemon in the same folder must not wipe what the first one said.
        with self._out.open("ab") as out, self._err.open("ab") as err:
            self._said_before = out.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "balancer", "run", str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **(environ or {})},
            )
        self.listening: dict[str, list[str]] = {}
        self.admin = ""
        if ready_within:
            try:
                self._wait_ready(ready_within)
            except BaseException:
                self.kill()
                raise

    def write(self, configuration: Mapping[str, Any] | str) -> None:
        """Write the file, with the defaults of the constructor."""
        text = configuration if isinstance(configuration, str) else yaml.safe_dump(dict(configuration), sort_keys=False)
        self.config_path.write_text(self._with_defaults(text))

    def _with_defaults(self, text: str) -> str:
        given = yaml.safe_load(text)
        given = given if isinstance(given, dict) else {}
        defaults = {
            "runtime_dir": str(self.runtime_dir),
            "admin": {"bind": "127.0.0.1:0"},
            "shutdown_delay": "10ms",
            "log": {"access": "off"},
        }
        missing = {key: value for key, value in defaults.items() if key not in given}
        return text.rstrip("\n") + "\n" + (yaml.safe_dump(missing) if missing else "")

    def _wait_ready(self, seconds: float) -> None:
        if not wait_until(lambda: self.is_ready() or self.process.poll() is not None, seconds):
            raise DaemonFailedError(f"not ready after {seconds:g} s:\n{self.stderr}")
        if not self.is_ready():
            raise DaemonFailedError(f"ended with {self.process.returncode} before it was ready:\n{self.stderr}")

    def is_ready(self) -> bool:
        """It has said where it listens; `listening` and `admin` are set then."""
        listening: dict[str, list[str]] = {}
        for line in self.stdout.splitlines():
            match line.split(" "):
                case ["listening", name, url]:
                    listening.setdefault(name, []).append(url)
                case ["admin", url]:
                    self.listening, self.admin = listening, url
                    return True
        return False

    # ---- what it says

    @property
    def stdout(self) -> str:
        """What this daemon has written to standard output so far."""
        return self._out.read_bytes()[self._said_before :].decode()

    @property
    def stderr(self) -> str:
        """What daemons in this folder have written to standard error so far."""
        return self._err.read_text()

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The events logged so far, all or those of one name. Only for `log.format` json or auto."""
        found = [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{")]
        return [event for event in found if name is None or event["event"] == name]

    def address(self, listener: str) -> tuple[str, int]:
        """Host and port of a listener's first TCP bind."""
        parts = urlsplit(next(url for url in self.listening[listener] if not url.startswith("unix:")))
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    @property
    def admin_address(self) -> tuple[str, int]:
        """Host and port of the admin address."""
        parts = urlsplit(self.admin)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    # ---- its processes

    @property
    def pid(self) -> int:
        """The supervisor."""
        return self.process.pid

    def workers(self) -> dict[int, int]:
        """Worker number -> pid, of the worker processes that live now."""
        found = {}
        for pid in children_of(self.pid):
            arguments = _arguments(pid)
            if "balancer.daemon.worker" in arguments:
                found[int(json.loads(arguments[-1])["worker"])] = pid
        return found

    # ---- its end

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = STOP_SECONDS) -> int:
        """Ask the supervisor to stop, wait, and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """Leave no process of it, whatever state it is in."""
        workers = list(self.workers().values()) if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        for pid in workers:
            if "balancer.daemon.worker" in _arguments(pid):
                os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    """Look at `condition` until it holds, for at most `seconds`. True when it held."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(_POLL)
    return True


def children_of(pid: int) -> list[int]:
    """The living child processes of `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and fields[0] != "Z" and int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    """The process exists and is no zombie."""
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    except OSError:
        return []
