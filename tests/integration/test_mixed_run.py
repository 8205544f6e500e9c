"""Everything at once: faults, kills, reloads and live changes at random, and afterwards nothing is left behind.

`MIXED_SEED=7 pytest -m full tests/integration/test_mixed_run.py` runs the schedule of seed 7 again;
`MIXED_SECONDS=60` makes the run shorter.
"""

import asyncio
import http.client
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop
import yaml

from balancer.config.load import load
from balancer.errors import ConfigError
from tests.integration.faults import mixed
from tests.integration.faults.load import Load, Request, Result, Size
from tests.integration.faults.mixed import Action, Cut, Episode, File
from tests.support.daemon import Daemon, children_of, wait_until
from tests.support.faulty_origin import NORMAL, FaultyOrigin, journal_of, running_faulty_origins
from tests.support.queries import client_ports_of, descriptors_of, get

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

RATE = 250  # requests a second, a fifth of them POSTs
TUNNELS, DOWNLOADS = 6, 3
LOOKS_APART = 0.5  # seconds between two scrapes
ANSWERED_WITHIN = 5.0  # an answer of the admin address
RELOADED_WITHIN = 15.0  # two attempts of a reload that a worker's death spoils, and what starting a worker takes
HEALED_WITHIN = 30.0  # checks, an ejection, and the longest back-off of a worker that was killed again and again
GROWTH_MAX = 4 * 1024 * 1024  # bytes of memory above those after the first tenth
PATIENCE = 20.0
STATES = {"drain": "drain", "undrain": "active"}  # by kind of action: what the admin API is told

# ---- what a process holds, told by itself

CENSUS = """
import asyncio, gc, json, os, signal, sys

def census(number, frame):
    gc.collect()
    kinds = {}
    for one in gc.get_objects():
        kind = type(one)
        if str(kind.__module__).startswith("balancer."):
            kinds[kind.__name__] = kinds.get(kind.__name__, 0) + 1
    try:
        tasks = sorted(task.get_coro().__qualname__ for task in asyncio.all_tasks())
    except RuntimeError:
        tasks = []
    path = os.path.join(os.environ["CENSUS_FOLDER"], str(os.getpid()))
    with open(path + ".new", "w") as out:
        json.dump({"tasks": tasks, "kinds": kinds}, out)
    os.replace(path + ".new", path)

signal.signal(signal.SIGUSR2, census)
"""
"""Python runs a `sitecustomize` at its start: on SIGUSR2 the daemon's processes write down their tasks and objects."""
HELD_MAX = {
    "Config": 2,  # the supervisor's: as in the file, and as in use
    "Prepare": 1,
    "Snapshot": 1,
    "PoolPlan": 2,  # one for each pool
    "Exchange": 0,
    "Downstream": 0,
    "Upstream": 0,
}
"""What a process that is at rest may hold: nothing of an old generation, and no exchange."""


def census_environ(folder: Path) -> dict[str, str]:
    """What a daemon has to be started with, for `census` to work."""
    (folder / "sitecustomize.py").write_text(CENSUS)
    path = os.pathsep.join(part for part in (str(folder), os.environ.get("PYTHONPATH", "")) if part)
    return {"PYTHONPATH": path, "CENSUS_FOLDER": str(folder)}


def census(folder: Path, pid: int) -> dict[str, Any]:
    """Names of tasks and counts of the product's objects by class, in this process now."""
    path = folder / str(pid)
    path.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR2)
    assert wait_until(path.exists, PATIENCE), f"process {pid} does not say what it holds"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


# ---- counters


class Monotonic:
    """Hears one scrape after the other and says which counters went back."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def hear(self, text: str, excused: Callable[[str], bool]) -> list[str]:
        """`excused(series)`: its backend was away since the last scrape, so that it may begin anew or be gone."""
        now = dict(counters(text))
        wrong = []
        for series, before in self.values.items():
            if not excused(series) and now.get(series, -1.0) < before:
                wrong.append(f"{series} went from {before:g} to {now.get(series, 'nothing')}")
        self.values = now
        return wrong


def counters(text: str) -> Iterator[tuple[str, float]]:
    """Every series of the text that may only grow, with its value."""
    growing: tuple[str, ...] = ()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            growing = {
                "counter": (name,),
                "histogram": (f"{name}_bucket", f"{name}_count", f"{name}_sum"),
            }.get(kind, ())
        elif not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] in growing:
                yield series, float(value)


def resident(pid: int) -> int:
    """Bytes of memory of a process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


# ---- tunnels and downloads, before backends that never fail

PIECE = b"0123456789abcdef" * 512
PIECES, PIECE_EVERY = 100, 0.02  # a download: 800 KiB in 2 s


async def _serve_steady(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A backend for one connection: /steady/tunnel is echoed, /steady/download comes slowly."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"/steady/tunnel" in head.split(b"\r\n")[0]:
                writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                while (data := await reader.read(65536)) and not writer.is_closing():
                    writer.write(data)
                    await writer.drain()
                break
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (PIECES * len(PIECE)))
            for _ in range(PIECES):
                if writer.is_closing():
                    return
                writer.write(PIECE)
                await writer.drain()
                await asyncio.sleep(PIECE_EVERY)
    writer.close()


@dataclass(frozen=True, slots=True)
class Torn:
    """A tunnel or download that did not end as it should."""

    what: str
    port: int
    began: float
    ended: float
    why: str


class Steady:
    """Clients with tunnels and slow downloads. Each goes on until `stop`; what is cut is in `torn`."""

    def __init__(self, address: tuple[str, int], seed: int) -> None:
        self.torn: list[Torn] = []
        self.done: Counter[str] = Counter()
        self._address = address
        self._rng = Random(seed)
        self._stop = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(TUNNELS):
                group.create_task(self._again("tunnel", self._tunnel))
            for _ in range(DOWNLOADS):
                group.create_task(self._again("download", self._download))

    def stop(self) -> None:
        """What is under way ends as it should; nothing new begins."""
        self._stop.set()

    async def _again(self, what: str, talk: Callable[..., Any]) -> None:
        while not self._stop.is_set():
            began, port = time.monotonic(), 0
            try:
                async with asyncio.timeout(PATIENCE):
                    reader, writer = await asyncio.open_connection(*self._address)
                    port = int(writer.get_extra_info("sockname")[1])
                    writer.write(f"GET /steady/{what} HTTP/1.1\r\nHost: a\r\n".encode())
                    try:
                        await talk(reader, writer)
                    finally:
                        writer.transport.abort() if what == "download" else writer.close()
            except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
                self.torn.append(Torn(what, port, began, time.monotonic(), repr(error)))
            else:
                self.done[what] += 1

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        until = time.monotonic() + self._rng.uniform(1.0, PATIENCE - 5.0)
        writer.write(b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ValueError(head)
        number = 0
        while time.monotonic() < until and not self._stop.is_set():
            number += 1
            message = b"%08d" % number * 8
            writer.write(message)
            if (echo := await reader.readexactly(len(message))) != message:
                raise ValueError(echo)
            await asyncio.sleep(0.05)

    async def _download(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError(head)
        for _ in range(PIECES):
            if await reader.readexactly(len(PIECE)) != PIECE:
                raise ValueError("other bytes")


# ---- the run


@dataclass
class Run:
    """One run: the world, what was done to it, and what was seen."""

    seed: int
    seconds: float
    folder: Path
    origins: list[FaultyOrigin]
    kinds: tuple[str, ...] = mixed.KINDS
    steady_ports: list[int] = field(default_factory=list)
    script: list[Action] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    reloads: Counter[str] = field(default_factory=Counter)
    applied: list[File] = field(default_factory=lambda: [File()])
    away: set[str] = field(default_factory=set)  # backends that were not in the file at some time since a scrape
    memory: dict[str, list[tuple[float, int]]] = field(default_factory=dict)  # by "role pid": (when, bytes)
    slowest_look: float = 0.0

    daemon: Daemon = field(init=False)
    load: Load = field(init=False)
    steady: Steady = field(init=False)
    reloading: asyncio.Lock = field(init=False)  # one at a time; live changes come in between as they like
    wanted: File = field(default_factory=File)  # the file of the reload that is under way, or was last

    def report(self) -> str:
        """How to see it again, and what had been done."""
        return "\n".join([f"seed {self.seed}, {self.seconds:g} s; done so far:", *self.lines])

    def say(self, text: str) -> None:
        """Into the printed schedule."""
        began = self.load.began or time.monotonic()
        self.lines.append(f"{time.monotonic() - began:7.2f} | {text}")

    def complain(self, text: str) -> None:
        """Something that must not be; the run goes on, for there may be more."""
        self.say(f"WRONG: {text}")
        self.wrong.append(text)

    # ---- asking the daemon

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """The admin API."""
        connection = http.client.HTTPConnection(*self.daemon.admin_address, timeout=RELOADED_WITHIN)
        with closing(connection):
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def metrics(self) -> str:
        """The text of a scrape."""
        status, text = get(self.daemon.admin_address, "/metrics", ANSWERED_WITHIN)
        assert status == 200
        return text.decode()

    def value(self, pattern: str) -> float:
        """The sum of the series that match."""
        found = re.findall(rf"^{pattern}(?:{{[^}}]*}})? (\S+)$", self.metrics(), re.MULTILINE)
        return sum(map(float, found))

    def processes(self) -> dict[str, int]:
        """The supervisor and the workers, by role."""
        return {"supervisor": self.daemon.pid} | {f"worker {n}": pid for n, pid in self.daemon.workers().items()}

    def loaders(self) -> dict[str, int]:
        """The process that reads the file, while there is one."""
        others = set(children_of(self.daemon.pid)) - set(self.daemon.workers().values())
        return {f"loader {n}": pid for n, pid in enumerate(sorted(others))}

    # ---- actions

    def write(self, content: bytes) -> None:
        """Replace the file at once, as editors do."""
        new = self.daemon.config_path.with_suffix(".new")
        new.write_bytes(content)
        new.replace(self.daemon.config_path)

    def text_of(self, file: File) -> str:
        """The whole file, with what the daemon of the tests adds to it."""
        kept = {key: value for key, value in self._kept.items() if key not in ("workers", "routes", "pools")}
        whole = {**kept, **mixed.configuration(file, [origin.port for origin in self.origins], self.steady_ports)}
        return yaml.safe_dump(whole, sort_keys=False)

    def start(self) -> None:
        """The daemon, with the first file."""
        first = mixed.configuration(File(number=-1), [origin.port for origin in self.origins], self.steady_ports)
        first["listeners"] = {"web": {"bind": "127.0.0.1:0"}}
        self.daemon = Daemon(first, self.folder, environ=census_environ(self.folder))
        self._kept: dict[str, Any] = yaml.safe_load(self.daemon.config_path.read_text())

    def _trigger(self, via: str, refused_before: float) -> tuple[bool, str]:
        """Have the file read again; (whether it is in use, what was said). TimeoutError when nothing happens."""
        if via == "api":
            status, said = self.ask("POST", "/api/v1/reload")
            if (status == 200) != said.get("ok", False):
                self.complain(f"POST reload: {status} {said}")
            return status == 200, f"{status} {said.get('problems')}"
        generation = self.value("balancer_config_generation")
        self.daemon.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + RELOADED_WITHIN
        while time.monotonic() < until:
            if self.value("balancer_config_generation") > generation:
                return True, ""
            if self._refused() > refused_before:
                return False, "refused"
            time.sleep(0.02)
        raise TimeoutError(f"SIGHUP: nothing happened within {RELOADED_WITHIN:g} s")

    def _refused(self) -> float:
        return self.value(r'balancer_config_reloads_total{result="refused"}')

    def reload(self, file: File, via: str) -> None:
        """Until it is in use. Only the death of a worker may spoil it."""
        self.wanted = file
        self.write(self.text_of(file).encode())
        gone = {f"origin{n}" for n, weight in enumerate(file.weights) if weight is None}
        self.away |= gone
        until = time.monotonic() + RELOADED_WITHIN
        while True:
            began = time.monotonic()
            done, said = self._trigger(via, self._refused())
            if done:
                break
            if not any(cut.at > began - 5.0 for cut in self.cuts):  # so long a worker may take to be there again
                self.complain(f"reload {file.words()} by {via} was refused: {said}")
                return
            self.reloads["spoiled"] += 1
            assert time.monotonic() < until, f"no reload succeeds: {said}"
            time.sleep(0.2)
        self.applied.append(file)
        self.reloads["good"] += 1
        if not wait_until(lambda: self._number() == str(file.number), 1.0):
            self.complain(f"reload {file.words()} is done, but a worker says it has {self._number()}")

    def _number(self) -> str:
        """Which file a worker answers by; the older when they differ."""
        address = self.daemon.address("web")
        return min((get(address, "/number")[1].decode() for _ in range(4)), key=lambda text: int(text or -1))

    def reload_badly(self, file: File, how: str, via: str) -> None:
        """It is refused, and nothing changes."""
        self.write(mixed.spoiled(self.text_of(file), how))
        generation = self.value("balancer_config_generation")
        done, said = self._trigger(via, self._refused())
        if done or self.value("balancer_config_generation") != generation:
            self.complain(f"a bad file ({how}) was taken: {said}")
        self.reloads["bad"] += 1

    def change(self, origin: int, body: dict[str, object]) -> None:
        """A live change."""
        status, said = self.ask("PATCH", f"/api/v1/pools/{mixed.POOL}/backends/origin{origin}", body)
        # While a reload is late the schedule may speak of a backend that is not there yet, or no more.
        absent = any(file.weights[origin] is None for file in (self.applied[-1], self.wanted))
        if status != 200 and not (status == 404 and absent):
            self.complain(f"PATCH origin{origin} {body}: {status} {said}")

    def kill_worker(self, slot: int) -> None:
        """Stopped first, so that the connections which it has do not change."""
        pid = self.daemon.workers().get(slot)
        if pid is None:
            self.say(f"worker {slot} is not there")
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            ports = client_ports_of(pid, self.daemon.address("web")[1])
            os.kill(pid, signal.SIGKILL)
            self.cuts.append(Cut(time.monotonic(), frozenset(ports)))

    async def _fault(self, action: Action) -> None:
        """From its beginning to its end."""
        origin = self.origins[action.origin]
        episode = Episode(action.kind, action.origin, time.monotonic())
        self.episodes.append(episode)
        match action.kind:
            case "killed":
                begin, end = origin.kill, origin.restart
            case "stopped":
                begin, end = origin.pause, origin.resume
            case kind:
                begin, end = lambda: origin.behave(mixed.BEHAVIOURS[kind]), lambda: origin.behave(NORMAL)
        await asyncio.to_thread(begin)
        try:
            await asyncio.sleep(action.seconds)
        finally:
            await asyncio.to_thread(end)
            episode.ended = time.monotonic()
            self.say(f"{action.kind} origin {action.origin} is over")

    async def act(self, action: Action) -> None:
        """Do it, to its end."""
        if action.kind in mixed.FAULTS:
            await self._fault(action)
        elif action.kind == "worker_killed":
            await asyncio.to_thread(self.kill_worker, action.slot)
        elif action.file is not None:
            async with self.reloading:
                if action.bad:
                    await asyncio.to_thread(self.reload_badly, action.file, action.bad, action.via)
                else:
                    await asyncio.to_thread(self.reload, action.file, action.via)
                self.say(f"{action.kind} #{action.file.number} is done")
        elif action.kind == "weight":
            await asyncio.to_thread(self.change, action.origin, {"weight": action.weight})
        elif action.kind in STATES:
            await asyncio.to_thread(self.change, action.origin, {"state": STATES[action.kind]})

    async def act_all(self) -> None:
        """The schedule; returns when the last action is over."""
        await self.load.started.wait()
        async with asyncio.TaskGroup() as group:
            for action in self.script:
                await asyncio.sleep(self.load.began + action.at - time.monotonic())
                self.say(action.words())
                group.create_task(self.act(action))

    # ---- looking

    def look(self, counted: Monotonic) -> None:
        """One scrape: counters, and everybody's memory."""
        away, self.away = self.away, set()
        self.away |= {f"origin{n}" for n, weight in enumerate(self.applied[-1].weights) if weight is None}
        away |= self.away
        began = time.monotonic()
        text = self.metrics()
        self.slowest_look = max(self.slowest_look, time.monotonic() - began)
        for problem in counted.hear(text, lambda series: any(f'backend="{name}"' in series for name in away)):
            self.complain(problem)
        for role, pid in (self.processes() | self.loaders()).items():
            self.memory.setdefault(f"{role} {pid}", []).append((began, resident(pid)))

    async def look_on(self, stop: asyncio.Event) -> None:
        """Again and again."""
        counted = Monotonic()
        while not stop.is_set():
            await asyncio.to_thread(self.look, counted)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOKS_APART)

    # ---- rest

    def at_rest(self) -> dict[str, object]:
        """What there is when nobody asks for anything: connections, what is in flight, each process's descriptors."""
        status, said = self.ask("GET", "/api/v1/pools")
        assert status == 200
        backends = [backend for pool in said["pools"] for backend in pool["backends"]]
        return {
            "states": sorted(f"{one['name']} {one['state']} {one['weight']}" for one in backends),
            "in flight": sum(one["in_flight"] for one in backends),
            "in flight by metrics": self.value("balancer_backend_in_flight"),
            "upstream connections": self.value("balancer_upstream_connections"),
            "downstream connections": self.value("balancer_downstream_connections"),
            "descriptors": {role: descriptors_of(pid) for role, pid in self.processes().items()},
        }

    def holdings(self) -> dict[str, dict[str, Any]]:
        """The census of each process."""
        return {role: census(self.folder, pid) for role, pid in self.processes().items()}

    def heal(self) -> None:
        """Everything as in the beginning: the first file's settings under a new number, no live change."""
        file = File(number=self.applied[-1].number + 1)
        self.reload(file, "api")
        for origin in range(mixed.ORIGINS):
            self.change(origin, {"state": "active", "weight": 1})

    async def play(self) -> None:
        """The load and the schedule, both to their ends; then everything is healed."""
        self.reloading = asyncio.Lock()
        address, stop = self.daemon.address("web"), asyncio.Event()
        size = Size(gets=round(0.8 * RATE * self.seconds), posts=round(0.2 * RATE * self.seconds), seconds=self.seconds)
        self.load = Load(address, size, seed=self.seed)
        self.load.requests = mixed.with_resets(self.load.requests, self.script, self.seconds, self.seed)
        self.steady = Steady(address, self.seed)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self.look_on(stop))
            going = group.create_task(self.steady.run())
            acting = group.create_task(self.act_all())
            self.results = await self.load.run()
            await acting
            await asyncio.to_thread(self.heal)
            self.steady.stop()
            await going
            stop.set()
            await watching


# ---- judging


def settled(run: Run, before: dict[str, object] | None = None) -> dict[str, object]:
    """What there is at rest, once every backend is up and nothing is open, and as before if that is given."""
    seen: dict[str, object] = {}

    def quiet() -> bool:
        seen.clear()
        seen.update(run.at_rest())
        states = seen["states"]
        assert isinstance(states, list)
        nothing = ("in flight", "in flight by metrics", "upstream connections", "downstream connections")
        well = all(text.split(" ")[1] == "up" for text in states) and not any(seen[name] for name in nothing)
        return well and (before is None or back_to(before, seen))

    if not wait_until(quiet, HEALED_WITHIN):
        run.complain(f"not healed after {HEALED_WITHIN:g} s: {seen}; it was {before}")
    return dict(seen)


def back_to(before: dict[str, object], now: dict[str, object]) -> bool:
    """The same backends in the same state, and no more descriptors."""
    was, has = before["descriptors"], now["descriptors"]
    assert isinstance(was, dict)
    assert isinstance(has, dict)
    return now["states"] == before["states"] and all(count <= was.get(role, 0) for role, count in has.items())


def growth(run: Run) -> dict[str, int]:
    """For each process that lives at the end: bytes above the most that its role had in the first tenth."""
    began = min(when for samples in run.memory.values() for when, _ in samples)
    tenth = began + run.seconds / 10
    levels: dict[str, int] = {}
    for process, samples in run.memory.items():
        role = process.split(" ")[0]
        levels[role] = max([levels.get(role, 0), *(size for when, size in samples if when <= tenth)])
    living = (run.processes() | run.loaders()).items()
    return {f"{role} {pid}": resident(pid) - levels[role.split(" ")[0]] for role, pid in living}


def unexplained(run: Run) -> list[str]:
    """Requests, tunnels and downloads that failed and should not have."""
    began = run.load.began
    wrong = [
        f"{one.request.method} {one.request.number}{' (reset)' if one.request.reset else ''}: {one.kind},"
        f" {one.sent - began:.2f} to {one.ended - began:.2f}, port {one.port}"
        for one in mixed.unexplained(run.results, run.episodes, run.cuts)
    ]
    for torn in run.steady.torn:
        if not any(cut.took(torn.port, torn.began, torn.ended) for cut in run.cuts):
            wrong.append(f"{torn.what} cut: {torn.began - began:.2f} to {torn.ended - began:.2f}, {torn.why}")
    return wrong


def in_logs(run: Run) -> list[str]:
    """Errors of its own that the daemon wrote down."""
    bad = [event for event in run.daemon.events() if "exception" in event or event["event"] == "daemon.crashed"]
    loose = [line for line in run.daemon.stderr.splitlines() if not line.startswith("{")]
    return [f"logged: {event}" for event in bad] + [f"on standard error: {line}" for line in loose]


def held_more(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[str]:
    """Tasks and objects beyond those of the beginning."""
    wrong = []
    for role, now in after.items():
        was = before[role]
        if more := Counter(now["tasks"]) - Counter(was["tasks"]):
            wrong.append(f"{role} has more tasks than it had: {dict(more)}")
        for kind, most in HELD_MAX.items():
            if (count := now["kinds"].get(kind, 0)) > most:
                wrong.append(f"{role} has {count} x {kind}, {most} may be")
    return wrong


def leftovers(run: Run, before: dict[str, dict[str, Any]]) -> list[str]:
    """The same once a health check or a scrape that is under way is over."""
    wrong: list[str] = []

    def nothing() -> bool:
        wrong[:] = held_more(before, run.holdings())
        return not wrong

    wait_until(nothing, ANSWERED_WITHIN)
    return wrong


def figures(run: Run, grown: dict[str, int]) -> str:
    """What a run came to, in a few lines."""
    failed = Counter(
        f"{one.request.method} {one.kind} ({mixed.explanation(one, run.episodes, run.cuts) or 'UNEXPLAINED'})"
        for one in run.results
        if one.failed
    )
    memory = ", ".join(f"{process} {size / 2**20:+.1f} MiB" for process, size in grown.items())
    return "\n".join(
        [
            f"mixed run: seed {run.seed}, {run.seconds:g} s, {len(run.results)} requests, {len(run.script)} actions",
            f"  actions: {dict(Counter(action.kind for action in run.script))}",
            f"  at the origins: {dict(journal_of(run.origins).kinds)}",
            f"  failed: {dict(failed)}",
            f"  reloads: {dict(run.reloads)}; slowest scrape: {1000 * run.slowest_look:.0f} ms",
            f"  tunnels and downloads: {dict(run.steady.done)} whole, {len(run.steady.torn)} cut",
            f"  memory since the first tenth: {memory}",
        ]
    )


async def _play(run: Run) -> str:
    """The whole run, with what has to be true before and after. Returns its figures."""
    servers = [await asyncio.start_server(_serve_steady, "127.0.0.1", 0) for _ in range(2)]
    run.steady_ports = [server.sockets[0].getsockname()[1] for server in servers]
    await asyncio.to_thread(run.start)
    try:
        await warm_up(run)
        await asyncio.to_thread(run.reload, File(), "api")
        before = await asyncio.to_thread(settled, run)
        held_before = await asyncio.to_thread(run.holdings)
        await run.play()
        await asyncio.to_thread(settled, run, before)
        grown = growth(run)
        run.wrong += [f"{process} grew by {size:,} bytes" for process, size in grown.items() if size > GROWTH_MAX]
        run.wrong += await asyncio.to_thread(leftovers, run, held_before)
        run.wrong += unexplained(run)
        journal = journal_of(run.origins)
        if journal.duplicates:
            run.wrong.append(f"processed again: {[number for number, count in journal.posts.items() if count > 1]}")
        if (code := await asyncio.to_thread(run.daemon.stop)) != 0:
            run.wrong.append(f"exit status {code}")
        run.wrong += in_logs(run)
        return figures(run, grown)
    finally:
        run.daemon.kill()
        for server in servers:
            server.close()


async def warm_up(run: Run) -> None:
    """Everything that the load will ask for, once and more: what a process keeps for ever, it has then."""
    address = run.daemon.address("web")
    first = Load(address, Size(gets=160, posts=40, seconds=1.0), seed=run.seed)
    first.requests = [Request(-number, request.method) for number, request in enumerate(first.requests, start=1)]
    await first.warm_up(24, PATIENCE)
    await first.run()
    steady = Steady(address, run.seed)
    going = asyncio.create_task(steady.run())
    while len(steady.done) < 1:
        await asyncio.sleep(0.05)
    steady.stop()
    await going


def run_mixed(seed: int, seconds: float, folder: Path, kinds: tuple[str, ...] = mixed.KINDS) -> str:
    """A run. AssertionError with all that was wrong, the seed, and the schedule so far."""
    with running_faulty_origins(mixed.ORIGINS, folder) as origins:
        run = Run(seed, seconds, folder, origins, kinds, script=mixed.schedule(seed, seconds, kinds))
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                said = runner.run(_play(run))
        except BaseException:
            print(run.report())
            raise
        shown = "\n".join(run.wrong[:40])
        assert not run.wrong, f"{len(run.wrong)} things are wrong:\n{shown}\n\n{said}\n\n{run.report()}"
        return said


DEFAULT_SEED = 619


def test_nothing_is_lost_and_nothing_is_left(tmp_path: Path) -> None:
    run_mixed(DEFAULT_SEED, 10.0, tmp_path)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_ten_minutes_of_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("MIXED_SEED") or Random().randrange(1_000_000))
    with capsys.disabled():
        print(f"\nmixed run: MIXED_SEED={seed}", flush=True)
    said = run_mixed(seed, float(os.environ.get("MIXED_SECONDS") or 600.0), tmp_path)
    with capsys.disabled():
        print(said, flush=True)


# ---- the script


def test_a_schedule_is_that_of_its_seed() -> None:
    assert mixed.schedule(7, 600.0) == mixed.schedule(7, 600.0)
    assert mixed.schedule(7, 600.0) != mixed.schedule(8, 600.0)


@pytest.mark.parametrize("seed", range(50))
def test_at_most_two_origins_are_out_and_everything_happens(seed: int) -> None:
    actions = mixed.schedule(seed, 600.0)
    file, drained, weightless, faults = File(), set[int](), set[int](), dict[int, float]()
    for action in actions:
        absent = {origin for origin, weight in enumerate(file.weights) if weight is None}
        match action.kind:
            case "reload":
                assert action.file is not None
                file = action.file
            case "drain":
                assert action.origin not in drained | absent
                drained.add(action.origin)
            case "undrain":
                drained.remove(action.origin)
            case "weight":
                assert action.origin not in absent
                (weightless.discard if action.weight else weightless.add)(action.origin)
            case kind if kind in mixed.FAULTS:
                assert faults.get(action.origin, 0.0) <= action.at, "two faults of one origin"
                faults[action.origin] = action.at + action.seconds
        absent = {origin for origin, weight in enumerate(file.weights) if weight is None}
        out = absent | drained | weightless | {one for one, end in faults.items() if end + mixed.RECOVERY > action.at}
        assert len(out) <= 2, action.words()
    happened = {action.kind for action in actions}
    assert happened == {*mixed.FAULTS, *mixed.KINDS} - {"fault"}
    assert {action.bad for action in actions} == {"", *mixed.BAD_FILES}


def test_requests_are_broken_off_in_their_windows_only() -> None:
    window = Action(at=2.0, kind="resets", seconds=3.0)
    requests = mixed.with_resets([Request(number, "GET") for number in range(1_000)], [window], 10.0, 1)
    marked = [request.number for request in requests if request.reset]
    assert 5 < len(marked) < 40
    assert min(marked) >= 200
    assert max(marked) < 500


def problems_of(content: bytes) -> list[str]:
    try:
        load(content, "mixed.yaml", {})
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_good_files_are_good_and_bad_ones_bad() -> None:
    for action in mixed.schedule(1, 600.0):
        if action.file is not None:
            whole = {
                "listeners": {"web": {"bind": "127.0.0.1:0"}},
                **mixed.configuration(action.file, [1, 2, 3, 4], [5, 6]),
            }
            text = yaml.safe_dump(whole, sort_keys=False)
            content = mixed.spoiled(text, action.bad) if action.bad else text.encode()
            assert bool(problems_of(content)) == bool(action.bad), action.words()


# ---- the judges

OLD = 1000.0


def result(kind: str, method: str = "GET", *, sent: float = OLD, port: int = 1, reset: bool = False) -> Result:
    return Result(Request(1, method, reset=reset), sent, sent + 0.1, kind, port)


FAILING = Episode("failing", 0, OLD - 1.0, OLD + 1.0)
CUT = Cut(OLD, frozenset({7}))


@pytest.mark.parametrize(
    ("failed", "why"),
    [
        (result("500"), ""),
        (result("truncated"), ""),
        (result("truncated", reset=True), "reset"),
        (result("502", reset=True), ""),
        (result("500", "POST"), "failing"),
        (result("502", "POST"), ""),
        (result("500", "POST", sent=OLD + 2.0), ""),
        (result("500", "POST", sent=OLD - 2.0), ""),
        (result("reset", port=7), "worker_killed"),
        (result("unanswered", "POST", port=7), "worker_killed"),
        (result("reset", port=8), ""),
        (result("502", port=7), ""),
        (result("reset", port=7, sent=OLD + 1.0), ""),
        (result("reset", port=7, sent=OLD - 1.0), ""),
    ],
)
def test_a_failure_is_excused_by_what_can_have_caused_it(failed: Result, why: str) -> None:
    assert mixed.explanation(failed, [FAILING], [CUT]) == why


TEXT = """# HELP a_total x
# TYPE a_total counter
a_total{backend="origin1"} 5
a_total{backend="origin2"} 5
# TYPE b gauge
b 7
# TYPE c histogram
c_bucket{le="+Inf"} 3
c_sum 1.5
c_count 3
"""


def test_a_counter_that_goes_back_or_vanishes_is_found() -> None:
    def heard(second: str, away: str = "nobody") -> list[str]:
        counted = Monotonic()
        assert counted.hear(TEXT, lambda series: False) == []
        return counted.hear(second, lambda series: away in series)

    assert heard(TEXT) == []
    assert heard(TEXT.replace("b 7", "b 1").replace(" 5", " 6")) == []
    back = TEXT.replace('"origin1"} 5', '"origin1"} 4')
    gone = TEXT.replace('a_total{backend="origin1"} 5\n', "")
    assert len(heard(back)) == len(heard(gone)) == 1
    assert heard(back, "origin1") == heard(gone, "origin1") == []
    assert len(heard(back, "origin2")) == 1
    assert len(heard(TEXT.replace("c_sum 1.5", "c_sum 1.4"))) == 1


def test_what_is_held_beyond_the_beginning_is_found() -> None:
    before = {"worker 0": {"tasks": ["a"], "kinds": {}}}
    assert held_more(before, {"worker 0": {"tasks": ["a"], "kinds": {"Snapshot": 1}}}) == []
    assert len(held_more(before, {"worker 0": {"tasks": ["a", "a"], "kinds": {"Snapshot": 2, "Exchange": 1}}})) == 3
    assert held_more(before, {"worker 0": {"tasks": [], "kinds": {}}}) == []


def test_more_descriptors_and_other_states_are_not_the_beginning() -> None:
    before: dict[str, object] = {"states": ["a up 1"], "descriptors": {"worker 0": 5}}
    assert back_to(before, before)
    assert back_to(before, {**before, "descriptors": {"worker 0": 4}})
    assert not back_to(before, {**before, "descriptors": {"worker 0": 6}})
    assert not back_to(before, {**before, "states": ["a up 2"]})
