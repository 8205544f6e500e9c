"""`balancer demo`: three backends of our own and the real daemon before them, on loopback, until Ctrl-C."""

import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

_NAMES = ("red", "green", "blue")
_PORT = 8080
_ADMIN_PORT = 9901
_START_SECONDS = 30.0  # for a cold import on a busy machine; usually it is one
_END_SECONDS = 5.0  # the daemon's own graces below are shorter
_PR_SET_PDEATHSIG = 1  # prctl(2)

_CONFIGURATION = """\
# What `balancer demo` runs. A file of your own needs no more than listeners, routes and pools.
runtime_dir: {runtime_dir}
log: {{level: warning, access: stdout}}
admin: {{bind: "127.0.0.1:{admin_port}"}}
shutdown_delay: 100ms
shutdown_grace: 2s
tunnel_grace: 2s
listeners:
  demo: {{bind: "127.0.0.1:{port}"}}
routes:
  - {{name: everything, pool: demo}}
pools:
  demo:
    strategy: round_robin
    backends:
{backends}
"""

_TRY = """
Try, in another terminal:
  curl {url}/            # again and again: the backends take turns
  curl {url}/headers     # the request as a backend gets it
  curl {url}/slow        # takes a second; status shows it in flight
  curl {admin}/metrics
  {program} status --admin {admin}
The configuration is {configuration}
Ctrl-C ends all of it. An access log line follows for each request.
"""


class DemoError(click.ClickException):
    """A part of the demo did not start, or ended by itself."""


class Output:
    """The lines of a child's standard output, each waited for with a deadline."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(descriptor, selectors.EVENT_READ)

    def line(self, until: float | None = None) -> str | None:
        """The next line without its end; None when the child closed it. Raises TimeoutError at `until` (monotonic)."""
        while b"\n" not in self._buffer:
            left = None if until is None else until - time.monotonic()
            if left is not None and (left <= 0 or not self._selector.select(left)):
                raise TimeoutError
            data = os.read(self._descriptor, 65536)
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")


class Children:
    """The demo's child processes. Each has a group of its own, so that a terminal's Ctrl-C reaches only us."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def start(self, arguments: Sequence[str]) -> tuple[subprocess.Popen[bytes], Output]:
        """Run this Python with `arguments`; the child is told to end (SIGTERM) should we be killed."""
        parent = os.getpid()

        def end_with_parent() -> None:
            if self._libc is not None:
                self._libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
                if os.getppid() != parent:  # killed between fork and prctl
                    os._exit(1)

        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            process_group=0,
            # No thread runs in this process, so code between fork and exec is safe.
            preexec_fn=end_with_parent,
        )
        self._processes.append(process)
        assert process.stdout is not None
        return process, Output(process.stdout.fileno())

    def end(self) -> None:
        """Ask each to end, the last started first, and kill what has not within a few seconds."""
        try:
            for process in reversed(self._processes):
                process.terminate()
                process.wait(_END_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass  # too slow, or a second Ctrl-C: not gently, then
        for process in self._processes:
            process.kill()
            process.wait()


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _choose_port(asked: int | None, default: int, option: str) -> int:
    """The port to bind: what was asked for, else the default, else 0 = any free one."""
    port = default if asked is None else asked
    if _is_free(port):
        return port
    if asked is not None:
        raise DemoError(f"port {port} of 127.0.0.1 cannot be bound; choose another, or leave {option} out")
    click.echo(f"port {port} is taken: a free one is used ({option} chooses one)")
    return 0


def _wait_for_backends(output: Output) -> dict[str, int]:
    try:
        line = output.line(time.monotonic() + _START_SECONDS)
    except TimeoutError:
        line = None
    if line is None:
        raise DemoError("the backends did not start; see the message above")
    ports: dict[str, int] = json.loads(line)
    return ports


def _wait_for_balancer(process: subprocess.Popen[bytes], output: Output) -> tuple[str, str]:
    """The URLs of the listener and of the admin address, once both are printed."""
    url = ""
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            line = output.line(until)
        except TimeoutError:
            raise DemoError(f"the balancer was not ready within {_START_SECONDS:.0f} s") from None
        if line is None:
            raise DemoError(f"the balancer did not start (exit code {process.wait()}); see the message above")
        click.echo(line)
        if line.startswith("listening "):
            url = line.split()[-1]
        elif line.startswith("admin ") and url:
            return url.rstrip("/"), line.split()[-1].rstrip("/")


def _write_configuration(folder: Path, port: int, admin_port: int, backends: dict[str, int]) -> Path:
    lines = [f'      - {{name: {name}, address: "127.0.0.1:{number}"}}' for name, number in backends.items()]
    path = folder / "demo.yaml"
    text = _CONFIGURATION.format(
        runtime_dir=json.dumps(str(folder / "run")), port=port, admin_port=admin_port, backends="\n".join(lines)
    )
    path.write_text(text, encoding="utf-8")
    return path


def _serve(children: Children, folder: Path, port: int, admin_port: int) -> None:
    """Start the backends, then the balancer; say what to try; pass its lines on until it ends."""
    _, backends = children.start(["-m", "balancer.demo", *_NAMES])
    path = _write_configuration(folder, port, admin_port, _wait_for_backends(backends))
    process, output = children.start(["-m", "balancer", "run", str(path)])
    url, admin = _wait_for_balancer(process, output)
    program = sys.argv[0] if Path(sys.argv[0]).name == "balancer" else f"{sys.executable} -m balancer"
    click.echo(_TRY.format(url=url, admin=admin, program=program, configuration=path))
    while (line := output.line()) is not None:
        click.echo(line)
    raise DemoError(f"the balancer ended by itself (exit code {process.wait()})")


@click.command("demo")
@click.option(
    "--port", type=click.IntRange(0, 65535), help=f"Where to listen on 127.0.0.1. [default: {_PORT}, or free]"
)
@click.option(
    "--admin-port",
    type=click.IntRange(0, 65535),
    help=f"Where the admin API listens. [default: {_ADMIN_PORT}, or free]",
)
def command(port: int | None, admin_port: int | None) -> None:
    """Three small backends and a balancer before them, on loopback. No file needed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup keeps what it asked for
            signal.signal(number, signal.default_int_handler)  # ends it as Ctrl-C does
    chosen = _choose_port(port, _PORT, "--port"), _choose_port(admin_port, _ADMIN_PORT, "--admin-port")
    children = Children()
    with tempfile.TemporaryDirectory(prefix="balancer-demo-") as folder:
        try:
            _serve(children, Path(folder), *chosen)
        except KeyboardInterrupt:
            click.echo("ending")
        finally:
            children.end()
