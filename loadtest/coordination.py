"""`python -m loadtest.coordination`: three of our members beside three of etcd 3.4, over the same JSON API.

Both clusters are up for the whole run and share the cores; fsync is on for both; one is loaded at a time, in turns.
Puts (32-byte values, one key) and linearizable reads go to the leader with 1, 16, 64 and 256 connections of wrk. A lock
is handed over between clients that all want it. Then leaders are killed (SIGKILL) and the time is taken to the next put
that another member accepts.

Gates: 0.4 x etcd's puts/s at every concurrency, a median fail-over of 0.8 s, as many hand-overs per second.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import yaml

from balancer.consensus.client import Coordination
from loadtest.processes import environment

CONNECTIONS = (1, 16, 64, 256)
CONTENDERS = 8
PATIENCE = 60.0
GATE_PUTS, GATE_FAIL_OVER, GATE_HAND_OVERS = 0.4, 0.8, 1.0
_PUT = '{"key":"Zm9v","value":"YmFyYmFyYmFyYmFyYmFyYmFyYmFyYmFyYmFyYmFyYmFy"}'
_GET = '{"key":"Zm9v"}'
_NAMES = ("n1", "n2", "n3")


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at this moment."""
    with ExitStack() as held:
        return [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def ask(port: int, path: str, body: dict[str, Any], seconds: float = 2.0) -> dict[str, Any] | None:
    """An answer; None where there was none, or an error."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (urllib.error.URLError, TimeoutError, ConnectionError, OSError):
        return None


@dataclass
class Member:
    """One member: how to start it, and the process that is to be killed."""

    argv: Sequence[str]
    port: int
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None
    victim: Callable[[int], int] = field(default=lambda pid: pid)  # from the process to the member in it

    def start(self) -> None:
        """Begin."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(), cwd=self.folder
            )

    def stop(self) -> None:
        """End it and what it started."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def member_of(pid: int) -> int:
    """The member process that this balancer has."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if b"balancer.daemon.member" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise click.ClickException("the balancer has no member process")


class Trio:
    """Three members of one kind."""

    def __init__(self, name: str, members: list[Member], *, restarts: bool) -> None:
        self.name = name
        self.members = members
        self.restarts = restarts  # who was killed has to be started again

    def start(self) -> None:
        """Until they have a leader."""
        for member in self.members:
            member.start()
        self.leader()

    def leader(self) -> Member:
        """Who leads now; waits until somebody does."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            for member in self.members:
                status = ask(member.port, "/v3/maintenance/status", {})
                if status and status.get("leader") and status["leader"] == status["header"]["member_id"]:
                    return member
            time.sleep(0.05)
        raise click.ClickException(f"{self.name} has no leader: {(self.members[0].folder / 'log').read_text()[-2000:]}")

    def fail_over(self) -> float:
        """Kill the leader's process. Seconds until another member accepts a put; then it is there again."""
        leader = self.leader()
        other = next(member for member in self.members if member is not leader)
        assert leader.process is not None
        began = time.monotonic()
        os.kill(leader.victim(leader.process.pid), signal.SIGKILL)
        while ask(other.port, "/v3/kv/put", json.loads(_PUT), 5.0) is None:
            if time.monotonic() - began > PATIENCE:
                raise click.ClickException(f"{self.name} accepts no put any more")
            time.sleep(0.002)
        took = time.monotonic() - began
        if self.restarts:  # else its balancer does
            leader.process.wait()
            leader.start()
        until = time.monotonic() + PATIENCE
        while ask(leader.port, "/v3/kv/range", json.loads(_GET)) is None and time.monotonic() < until:
            time.sleep(0.05)
        return took


def ours(folder: Path) -> Trio:
    """Three balancers, each with a member."""
    peers, clients = free_ports(3), free_ports(3)
    made = []
    for name, client in zip(_NAMES, clients, strict=True):
        home = folder / f"balancer-{name}"
        home.mkdir()
        (home / "balancer.yaml").write_text(
            yaml.safe_dump(
                {
                    "admin": {"bind": "127.0.0.1:0"},
                    "log": {"access": "off"},
                    "runtime_dir": str(home / "run"),
                    "shutdown_delay": "10ms",
                    "listeners": {"web": {"bind": "127.0.0.1:0"}},
                    "routes": [{"name": "all", "respond": {"status": 204}}],
                    "coordination": {
                        "embedded": {
                            "name": name,
                            "members": {each: f"127.0.0.1:{port}" for each, port in zip(_NAMES, peers, strict=True)},
                            "client": f"127.0.0.1:{client}",
                            "data_dir": str(home / "data"),
                        }
                    },
                }
            )
        )
        argv = [sys.executable, "-m", "balancer", "run", str(home / "balancer.yaml")]
        made.append(Member(argv, client, home, victim=member_of))
    return Trio("balancer", made, restarts=False)


def etcd(folder: Path) -> Trio:
    """Three of Debian's etcd, with its defaults."""
    program = shutil.which("etcd", path=environment()["PATH"])
    if program is None:
        raise click.ClickException("etcd is not installed: apt-get install etcd-server")
    peers, clients = free_ports(3), free_ports(3)
    everybody = ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in zip(_NAMES, peers, strict=True))
    made = []
    for name, peer, client in zip(_NAMES, peers, clients, strict=True):
        home = folder / f"etcd-{name}"
        home.mkdir()
        own, face = f"http://127.0.0.1:{peer}", f"http://127.0.0.1:{client}"
        argv = [program, "--name", name, "--data-dir", str(home / "data"), "--listen-peer-urls", own]
        argv += ["--initial-advertise-peer-urls", own, "--listen-client-urls", face, "--advertise-client-urls", face]
        argv += ["--initial-cluster", everybody, "--logger", "zap", "--log-level", "error"]
        made.append(Member(argv, client, home))
    return Trio("etcd", made, restarts=True)


def load(port: int, path: str, body: str, connections: int, seconds: float) -> tuple[float, str, str]:
    """Requests per second, p50 and p99 of one run of wrk."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(f"wrk.method='POST'; wrk.headers['Content-Type']='application/json'; wrk.body='{body}'")
        script.flush()
        line = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", script.name]
        run = subprocess.run(
            [*line, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True, env=environment()
        )
    if "Non-2xx" in run.stdout or "Socket errors" in run.stdout:
        raise click.ClickException(run.stdout)

    def found(pattern: str) -> str:
        match = re.search(pattern, run.stdout)
        return match[1] if match else "?"

    return float(found(r"Requests/sec:\s+([\d.]+)")), found(r"50%\s+(\S+)"), found(r"99%\s+(\S+)")


async def hand_overs(port: int, seconds: float) -> float:
    """How often a second a lock that all contenders want has another holder."""
    count = 0
    until = time.monotonic() + seconds

    async def contend(client: Coordination) -> None:
        nonlocal count
        while time.monotonic() < until:
            async with client.lock("bench", ttl=30):
                count += 1

    async with Coordination([f"http://127.0.0.1:{port}"], exactly_once=False) as client:
        await asyncio.gather(*(contend(client) for _ in range(CONTENDERS)))
    return count / seconds


def _row(what: str, ours_: Sequence[float], theirs: Sequence[float], note: str) -> float:
    one, other = median(ours_), median(theirs)
    share = one / other if other else 0.0
    click.echo(f"{what:32s} {one:10.1f} {other:10.1f} {share:8.2f}   {note}")
    return share


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=3, show_default=True, help="Turns of each row.")
@click.option("--seconds", default=3.0, show_default=True, help="Length of one run.")
@click.option("--trials", default=10, show_default=True, help="Leaders killed of each.")
@click.option("--gates", is_flag=True, help="Exit 1 when one is not met.")
def main(rounds: int, seconds: float, trials: int, gates: bool) -> None:
    """Our cluster beside etcd's."""
    folder = Path(tempfile.mkdtemp(prefix="coordination-"))
    trios = [ours(folder), etcd(folder)]
    unmet: list[str] = []
    try:
        for trio in trios:
            trio.start()
        click.echo(f"{'':32s} {'balancer':>10s} {'etcd':>10s} {'ratio':>8s}")
        for path, body, kind in (("/v3/kv/put", _PUT, "puts"), ("/v3/kv/range", _GET, "reads")):
            for connections in CONNECTIONS:
                rates: dict[str, list[float]] = {trio.name: [] for trio in trios}
                last: dict[str, str] = {}
                for number in range(rounds):
                    for trio in trios if number % 2 == 0 else trios[::-1]:
                        rate, p50, p99 = load(trio.leader().port, path, body, connections, seconds)
                        rates[trio.name].append(rate)
                        last[trio.name] = f"{trio.name} p50 {p50} p99 {p99}"
                share = _row(
                    f"{kind}/s, {connections} connections", rates["balancer"], rates["etcd"], "; ".join(last.values())
                )
                if kind == "puts" and share < GATE_PUTS:
                    unmet.append(f"puts with {connections} connections: {share:.2f}")
        held = {
            trio.name: [asyncio.run(hand_overs(trio.leader().port, seconds)) for _ in range(rounds)] for trio in trios
        }
        if _row("lock hand-overs/s", held["balancer"], held["etcd"], f"{CONTENDERS} contenders") < GATE_HAND_OVERS:
            unmet.append("lock hand-overs")
        took = {trio.name: [trio.fail_over() for _ in range(trials)] for trio in trios}
        for name, times in took.items():
            click.echo(f"fail-over, {name}: median {median(times):.3f} s of {sorted(round(each, 3) for each in times)}")
        if median(took["balancer"]) > GATE_FAIL_OVER:
            unmet.append("fail-over")
    finally:
        for trio in trios:
            for member in trio.members:
                member.stop()
        shutil.rmtree(folder, ignore_errors=True)
    click.echo("gates: " + ("met" if not unmet else "UNMET: " + "; ".join(unmet)))
    sys.exit(bool(unmet and gates))


if __name__ == "__main__":
    main(prog_name="python -m loadtest.coordination")
