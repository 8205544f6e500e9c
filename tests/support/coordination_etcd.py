"""A real etcd on loopback for the client's tests: `with Etcd(folder, members=3) as etcd: etcd.urls ...`."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.etcd_versions import require_etcd

START_SECONDS = 30.0
STOP_SECONDS = 10.0
_TRIES = 3  # a free port may be taken before etcd binds it
_POLL = 0.02


class EtcdFailedError(AssertionError):
    """It did not start. Carries the end of its log."""


@dataclass
class _Member:
    name: str
    client: str
    peer: str
    process: "subprocess.Popen[bytes] | None" = None


class Etcd:
    """An etcd of so many members that serves when the block is entered; its data lies in `folder`.

    Timeouts are short, so that the least TTL is one second. Nothing is synced to the disk.
    """

    def __init__(self, folder: Path, members: int = 1, *, program: Path | None = None) -> None:
        self._program = program or require_etcd("3.4")
        self._folder = folder
        self._size = members
        self._members: list[_Member] = []

    @property
    def urls(self) -> list[str]:
        """The members' client addresses."""
        return [member.client for member in self._members]

    def __enter__(self) -> Self:
        for left in reversed(range(_TRIES)):
            try:
                self._start()
            except EtcdFailedError:
                self._stop()
                if not left:
                    raise
            else:
                return self
        raise AssertionError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def kill(self, number: int = 0) -> None:
        """End a member at once."""
        process = self._process(number)
        process.kill()
        process.wait()

    def restart(self, number: int = 0) -> None:
        """Start a member again that was killed; it serves when this returns."""
        self._run(self._members[number], "existing")
        self._wait_until_healthy([self._members[number]])

    def pause(self, number: int = 0) -> None:
        """Stop a member in its tracks (SIGSTOP)."""
        self._process(number).send_signal(signal.SIGSTOP)

    def resume(self, number: int = 0) -> None:
        """Let it go on."""
        self._process(number).send_signal(signal.SIGCONT)

    def _process(self, number: int) -> "subprocess.Popen[bytes]":
        process = self._members[number].process
        assert process is not None
        return process

    def _start(self) -> None:
        ports = _free_ports(2 * self._size)
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        self._members = [
            _Member(f"n{number + 1}", urls[2 * number], urls[2 * number + 1]) for number in range(self._size)
        ]
        for member in self._members:
            self._run(member, "new")
        self._wait_until_healthy(self._members)

    def _run(self, member: _Member, state: str) -> None:
        # Few members on a busy machine: an election takes longer than a heartbeat by far.
        beat = ["--heartbeat-interval", "20", "--election-timeout", "200"]
        if self._size > 1:
            beat = ["--heartbeat-interval", "50", "--election-timeout", "500"]
        addresses = [
            *("--listen-client-urls", member.client, "--advertise-client-urls", member.client),
            *("--listen-peer-urls", member.peer, "--initial-advertise-peer-urls", member.peer),
            *("--initial-cluster", ",".join(f"{other.name}={other.peer}" for other in self._members)),
        ]
        with (self._folder / f"{member.name}.log").open("ab") as log:
            member.process = subprocess.Popen(
                [
                    str(self._program),
                    *("--name", member.name, "--data-dir", str(self._folder / f"{member.name}-{member.peer[-5:]}")),
                    *("--initial-cluster-state", state, "--unsafe-no-fsync", *beat, *addresses),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("ETCD")},
            )

    def _wait_until_healthy(self, members: list[_Member]) -> None:
        until = time.monotonic() + START_SECONDS
        for member in members:
            while not _healthy(member.client):
                ended = member.process is not None and member.process.poll() is not None
                if ended or time.monotonic() > until:
                    log = (self._folder / f"{member.name}.log").read_text(errors="replace")
                    raise EtcdFailedError(f"{member.name} does not serve:\n{log[-2000:]}")
                time.sleep(_POLL)

    def _stop(self) -> None:
        for member in self._members:
            if member.process is not None and member.process.poll() is None:
                member.process.kill()  # also one that is stopped
                member.process.wait(STOP_SECONDS)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1.0) as answer:
            return b"true" in answer.read()
    except (OSError, urllib.error.URLError):
        return False


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [int(sock.getsockname()[1]) for sock in sockets]
