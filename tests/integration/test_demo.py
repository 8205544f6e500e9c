"""`balancer demo` as a person runs it: it serves, says what to try, and leaves nothing behind."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

END_SECONDS = 20.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _at_a_terminal() -> None:
    """Signals as a shell leaves them to a command in the foreground: one in the background ignores them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Demo:
    """A running `balancer demo` and what it printed until it was ready."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "balancer", "demo", *options],
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
            preexec_fn=_at_a_terminal,
        )
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C ends"):
                break
        self.said = "".join(lines)
        urls = dict(re.findall(r"^(listening|admin) .*?http://(127\.0\.0\.1:\d+)/?$", self.said, re.MULTILINE))
        assert urls.keys() == {"listening", "admin"}, self.said
        self.listener, self.admin = urls["listening"], urls["admin"]

    def end(self) -> None:
        """Whatever happened, leave no process: those of the demo end when it does."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def running_demo(*options: str) -> Iterator[Demo]:
    demo = Demo(*options)
    try:
        yield demo
    finally:
        demo.end()


def get(address: str, target: str) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


def descendants(pid: int) -> set[int]:
    """Every living process below `pid`."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # gone meanwhile
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found = {pid}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found - {pid}


def is_alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_the_backends_take_turns_and_see_who_asked() -> None:
    with running_demo("--port", "0", "--admin-port", "0") as demo:
        answers = [get(demo.listener, "/") for _ in range(6)]
        assert [status for status, _, _ in answers] == [200] * 6
        assert Counter(body for _, _, body in answers) == {f"hello from {n}\n": 2 for n in ("red", "green", "blue")}
        assert "X-Forwarded-For: 127.0.0.1" in get(demo.listener, "/headers")[2]
        assert "balancer_requests_total" in get(demo.admin, "/metrics")[2]


def test_what_it_says_to_try_works_as_printed() -> None:
    with running_demo("--port", "0", "--admin-port", "0") as demo:
        for url in re.findall(r"curl (http://\S+)", demo.said):
            address, _, target = url.removeprefix("http://").partition("/")
            assert get(address, f"/{target}")[0] == 200, url
        status = re.search(r"status --admin \S+", demo.said)
        assert status is not None
        result = subprocess.run(
            [sys.executable, "-m", "balancer", *status.group().split()], capture_output=True, text=True, timeout=30
        )
        assert result.returncode == 0, result.stderr
        assert "red" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_every_process_and_leaves_no_file(number: signal.Signals) -> None:
    with running_demo("--port", "0", "--admin-port", "0") as demo:
        processes = descendants(demo.process.pid)
        assert len(processes) >= 3, "backends, supervisor and worker"
        folder = re.search(r"^The configuration is (\S+)/demo\.yaml$", demo.said, re.MULTILINE)
        assert folder is not None
        assert Path(folder[1]).is_dir()
        demo.process.send_signal(number)
        assert demo.process.wait(END_SECONDS) == 0
        assert not [pid for pid in processes if is_alive(pid)]
        assert not Path(folder[1]).exists()


def test_no_process_outlives_a_demo_that_was_killed() -> None:
    with running_demo("--port", "0", "--admin-port", "0") as demo:
        processes = descendants(demo.process.pid)
        os.kill(demo.process.pid, signal.SIGKILL)
        assert wait_until(lambda: not any(map(is_alive, processes)), END_SECONDS), "a process outlived the demo"


def test_a_taken_default_port_is_replaced_and_named() -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", 8080))
            holder.listen()
        except OSError:
            pass  # somebody else holds it: just as taken
        with running_demo("--admin-port", "0") as demo:
            assert "port 8080 is taken: a free one is used (--port chooses one)" in demo.said
            assert not demo.listener.endswith(":8080")
            assert get(demo.listener, "/")[0] == 200


def test_a_taken_port_that_was_asked_for_is_an_error_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        result = subprocess.run(
            [sys.executable, "-m", "balancer", "demo", "--port", port], capture_output=True, text=True, timeout=30
        )
    assert result.returncode == 1
    assert f"port {port} of 127.0.0.1 cannot be bound" in result.stderr
