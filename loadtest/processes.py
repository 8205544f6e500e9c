"""Processes of a run: started on one core, measured through /proc, ended by their own pid."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

TICK = 1.0 / os.sysconf("SC_CLK_TCK")  # seconds per unit of utime and stime in /proc/PID/stat
_STOP_SECONDS = 10.0
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"  # Debian keeps daemons where a user's PATH does not look


class RunError(Exception):
    """A run cannot go on: a program is missing, does not start, or answers wrongly."""


def environment() -> dict[str, str]:
    """Our environment with the system's sbin folders at the end of PATH."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_FOLDERS}"}


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Children that start inside inherit the pin to `core`; our own affinity comes back afterwards."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(
    argv: Sequence[str], *, core: int, folder: Path, stdout: Path | IO[bytes] | int
) -> Iterator[subprocess.Popen[bytes]]:
    """`argv` on one core, its stderr in `folder`; ended with SIGTERM, then SIGKILL, with all its descendants.

    Raises RunError when the program is missing. A session of its own keeps Ctrl-C for us, so that we end it in order.
    """
    errors = folder / f"{Path(argv[0]).name}-{time.monotonic_ns()}.err"
    with errors.open("wb") as error_file:
        opened = stdout.open("ab") if isinstance(stdout, Path) else stdout
        try:
            with on_core(core):
                process = subprocess.Popen(
                    argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=opened, stderr=error_file,
                    env=environment(), start_new_session=True, bufsize=0,
                )  # fmt: skip
        except FileNotFoundError as missing:
            raise RunError(f"{argv[0]} is not installed: apt-get install nginx-light haproxy wrk") from missing
        finally:
            if isinstance(stdout, Path) and not isinstance(opened, int):
                opened.close()
    try:
        yield process
    finally:
        _end(process)
        if process.stdout is not None:
            process.stdout.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    family = tree(process.pid)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid, started in family.items():
        # A pid counts as ours only while its start time is the one that we saw: pids are used again.
        if pid != process.pid and _start_time(pid) == started:
            os.kill(pid, signal.SIGKILL)


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()  # from field 3, the state: a name may hold blanks


def _start_time(pid: int) -> int | None:
    fields = _stat(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[19])


def tree(root: int) -> dict[int, int]:
    """pid -> start time of `root` and all its living descendants. O(processes of the machine)."""
    children: dict[int, list[tuple[int, int]]] = {}
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        fields = _stat(int(entry.name))
        if fields is None or fields[0] == "Z":
            continue
        pid, parent, started = int(entry.name), int(fields[1]), int(fields[19])
        children.setdefault(parent, []).append((pid, started))
        if pid == root:
            found[pid] = started
    queue = list(found)
    while queue:
        for pid, started in children.get(queue.pop(), ()):
            found[pid] = started
            queue.append(pid)
    return found


def cpu_seconds(root: int) -> float:
    """User + system seconds of `root` and its descendants so far, including those that ended and were reaped."""
    total = 0
    for pid in tree(root):
        fields = _stat(pid)
        if fields is not None:
            total += sum(int(field) for field in fields[11:15])  # utime, stime, and of reaped children
    return total * TICK


def resident_bytes(root: int) -> int:
    """Resident memory of `root` and its descendants, exact (smaps_rollup; VmRSS lags behind on new kernels)."""
    total = 0
    for pid in tree(root):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total


def core_busy_seconds(core: int) -> float:
    """Seconds in which `core` did something, for whomever, since boot."""
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
            return (user + nice + system + irq + softirq + steal) * TICK
    raise RunError(f"this machine has no core {core}: two cores are needed, one for the proxy, one for the load")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_listening(port: int, process: subprocess.Popen[bytes], folder: Path, seconds: float = 10.0) -> None:
    """Returns once `port` accepts; raises RunError with the program's own words when it ends or stays silent."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RunError(f"{process.args!r} does not listen on port {port}: {said(folder)}")


def said(folder: Path) -> str:
    """The last lines of every stderr in `folder`."""
    lines: list[str] = []
    for path in sorted(folder.glob("*.err")):
        lines += path.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
    return " | ".join(lines) or "it wrote nothing to stderr"
