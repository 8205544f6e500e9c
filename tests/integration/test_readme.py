"""The README is right: its command lines work as printed in a fresh clone, its example serves."""

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVE_SECONDS = 60.0  # from the end of installing to the first answer
END_SECONDS = 30.0


def command_lines(project: Path) -> tuple[str, str]:
    """The README's first two shell blocks: what runs the demo, what runs the tests."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (project / "README.md").read_text(encoding="utf-8"), re.S | re.M)
    assert [len(block.splitlines()) for block in blocks[:2]] == [1, 1]
    return blocks[0].strip(), blocks[1].strip()


def example(project: Path) -> str:
    """The README's first YAML block."""
    found = re.search(r"^```yaml\n(.*?)^```", (project / "README.md").read_text(encoding="utf-8"), re.S | re.M)
    assert found is not None
    return found[1]


def get(address: str, target: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@contextmanager
def running(arguments: list[str] | str, folder: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A program in a process group of its own, which is asked to end and then killed."""
    process = subprocess.Popen(
        arguments,
        shell=isinstance(arguments, str),
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def address_after(process: subprocess.Popen[str], word: str) -> str:
    """host:port of the first line of output that begins with `word`."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line.split()[-1].removeprefix("http://").rstrip("/")
    pytest.fail(f"no line began with {word!r}; exit code {process.wait()}")


def test_the_first_screen_has_all_that_a_visitor_looks_for(project: Path) -> None:
    demo, tests = command_lines(project)
    assert demo.endswith(".venv/bin/balancer demo")
    assert tests.endswith(".venv/bin/pytest")
    assert len(example(project).splitlines()) <= 10
    screen = (project / "README.md").read_text(encoding="utf-8").splitlines()[:60]
    assert any("supervisor" in line and "│" in line for line in screen), "the picture of the processes"


def test_ci_runs_the_readmes_test_command(project: Path) -> None:
    _, tests = command_lines(project)
    assert tests in (project / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_example_serves(project: Path, tmp_path: Path) -> None:
    names = ("one", "two", "three", "four")
    with running([sys.executable, "-m", "balancer.demo", *names], tmp_path) as backends:
        assert backends.stdout is not None
        ports = [int(port) for port in re.findall(r"\d+", backends.stdout.readline())]
        text = example(project).replace('"0.0.0.0:8080"', '"127.0.0.1:0"')
        for number, port in enumerate(ports, start=9001):
            assert f":{number}" in text
            text = text.replace(f":{number}", f":{port}")
        (tmp_path / "balancer.yaml").write_text(
            f'{text}\nadmin: {{bind: "127.0.0.1:0"}}\nruntime_dir: {tmp_path}/run\nshutdown_delay: 100ms\n',
            encoding="utf-8",
        )
        with running([sys.executable, "-m", "balancer", "run", "balancer.yaml"], tmp_path) as balancer:
            listener = address_after(balancer, "listening web ")
            assert {get(listener, "/")[1] for _ in range(4)} == {"hello from one\n", "hello from two\n"}
            assert {get(listener, "/api/x")[1] for _ in range(8)} <= {"hello from three\n", "hello from four\n"}


@pytest.fixture
def clone(project: Path, tmp_path: Path) -> Path:
    """A copy of the files that git knows, as they are now, without any virtual environment."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=project, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        target = tmp_path / "clone" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (project / name).exists():
            shutil.copy2(project / name, target)
    return tmp_path / "clone"


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_demo_line_works_as_printed_and_serves_within_a_minute(project: Path, clone: Path) -> None:
    install, _, demo = command_lines(project)[0].rpartition(" && ")
    subprocess.run(install, shell=True, cwd=clone, check=True)
    started = time.monotonic()
    with running(f"exec {demo}", clone) as process:
        address = address_after(process, "listening ")
        status, body = get(address, "/")
        assert (status, body[:11]) == (200, "hello from ")
        assert time.monotonic() - started < SERVE_SECONDS


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_the_test_line_works_as_printed(project: Path, clone: Path) -> None:
    result = subprocess.run(command_lines(project)[1], shell=True, cwd=clone, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:]
    assert re.search(r"^\d+ passed", result.stdout.splitlines()[-1])
