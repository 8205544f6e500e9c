"""A cluster of our own on loopback, each member a process, as `coordination_etcd.Etcd` is one of etcds."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from balancer.consensus.member import MemberSettings, RunningMember

START_SECONDS = 30.0
STOP_SECONDS = 10.0
_POLL = 0.02


class OwnFailedError(AssertionError):
    """A member did not start. Carries the end of what it said."""


class Own:
    """So many members that serve when the block is entered; their data lies in `folder`."""

    def __init__(self, folder: Path, members: int = 1) -> None:
        self._folder = folder
        self._size = members
        self._peers: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self.urls: list[str] = []

    def __enter__(self) -> Self:
        ports = _free_ports(2 * self._size)
        self.urls = [f"http://127.0.0.1:{port}" for port in ports[: self._size]]
        self._peers = [f"127.0.0.1:{port}" for port in ports[self._size :]]
        try:
            self._processes = [self._run(number) for number in range(self._size)]
            for number in range(self._size):
                self._wait_until_healthy(number)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def kill(self, number: int = 0) -> None:
        """End a member at once."""
        self._processes[number].kill()
        self._processes[number].wait()

    def restart(self, number: int = 0) -> None:
        """Start a member again that was killed; it serves when this returns."""
        self._processes[number] = self._run(number)
        self._wait_until_healthy(number)

    def pause(self, number: int = 0) -> None:
        """Stop a member in its tracks (SIGSTOP)."""
        self._processes[number].send_signal(signal.SIGSTOP)

    def resume(self, number: int = 0) -> None:
        """Let it go on."""
        self._processes[number].send_signal(signal.SIGCONT)

    def _run(self, number: int) -> "subprocess.Popen[bytes]":
        with (self._folder / f"n{number}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.support.coordination_own", str(number), self.urls[number], *self._peers],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "MEMBER_DATA": str(self._folder / f"n{number}")},
            )

    def _wait_until_healthy(self, number: int) -> None:
        until = time.monotonic() + START_SECONDS
        while not _healthy(self.urls[number]):
            if self._processes[number].poll() is not None or time.monotonic() > until:
                log = (self._folder / f"n{number}.log").read_text(errors="replace")
                raise OwnFailedError(f"member n{number} does not serve:\n{log[-2000:]}")
            time.sleep(_POLL)

    def _stop(self) -> None:
        for process in self._processes:
            process.kill()  # also one that is stopped
            process.wait(STOP_SECONDS)


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


async def _member(number: int, url: str, peers: list[str]) -> int:
    def listening(address: str) -> socket.socket:
        host, _, port = address.rpartition(":")
        return socket.create_server((host, int(port)))

    # An election takes longer than what else a busy machine does meanwhile.
    settings = MemberSettings(
        name=f"n{number}",
        members={f"n{other}": peer for other, peer in enumerate(peers)},
        data_dir=os.environ["MEMBER_DATA"],
        heartbeat=0.1,
        election=0.5,
    )
    running = RunningMember(settings, listening(peers[number]), listening(url.removeprefix("http://")))
    return await running.run(asyncio.Event())


if __name__ == "__main__":
    sys.exit(asyncio.run(_member(int(sys.argv[1]), sys.argv[2], sys.argv[3:])))
