"""Reloads that cannot be: each is refused with its reason, changes nothing, and no client notices.

And workers that die in the middle of one: before the point of no return nothing changed, after it everything did.
"""

import os
import re
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.support.certificates import issued
from tests.support.daemon import Daemon, wait_until
from tests.support.echo_origin import running_origins
from tests.support.long_load import Clients, Entry, LongLoad
from tests.support.queries import PATIENCE, client_ports_of, get, metric
from tests.support.reloads import WAYS, ConfigFile, Reloaded, by_request

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
FULL = (pytest.mark.full, pytest.mark.timeout(1800))

REFUSED = r'balancer_config_reloads_total{result="refused"}'
ACCEPTED = r'balancer_config_reloads_total{result="ok"}'


# ---- the mistakes

Content = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What a mistake may be made of."""

    file: ConfigFile
    folder: Path
    taken: int  # a port that somebody else listens on


Spoil = Callable[[Bench], None]


@dataclass(frozen=True)
class Mistake:
    """`spoil` makes it, `says` has to be told; `line`: where in the file, looked up by the text that stands there."""

    name: str
    spoil: Spoil
    says: str
    line: str = ""


def edited(edit: Callable[[Content, Bench], None]) -> Spoil:
    """A mistake in the content of a file that is YAML."""

    def spoil(bench: Bench) -> None:
        content = bench.file.content()
        edit(content, bench)
        bench.file.write(content)

    return spoil


def replaced(old: str, new: str) -> Spoil:
    """A mistake in the text of the file."""

    def spoil(bench: Bench) -> None:
        assert old in bench.file.written
        bench.file.write(bench.file.written.replace(old, new, 1))

    return spoil


def set_to(*path: str | int, value: object) -> Spoil:
    """A key of the file gets another value."""

    def edit(content: Content, bench: Bench) -> None:
        place: Any = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value(bench) if callable(value) else value

    return edited(edit)


def one_more(*path: str | int, value: object) -> Spoil:
    """A list of the file gets another entry at its end."""

    def edit(content: Content, bench: Bench) -> None:
        place: Any = content
        for key in path:
            place = place[key]
        place.append(value)

    return edited(edit)


def empty(bench: Bench) -> None:
    bench.file.write("")


def removed(bench: Bench) -> None:
    bench.file.path.unlink()


def a_directory(bench: Bench) -> None:
    bench.file.path.unlink()
    bench.file.path.mkdir()


def unreadable_bytes(bench: Bench) -> None:
    bench.file.path.write_bytes(bench.file.written.encode() + b"# \xff\xfe\n")


def too_large(bench: Bench) -> None:
    bench.file.path.write_bytes(bench.file.written.encode() + b"#" * (11 * 1024 * 1024))


def other_key(bench: Bench) -> str:
    return str(issued("other.example").key_path)


def no_certificate(bench: Bench) -> str:
    path = bench.folder / "text.pem"
    path.write_text("this is no certificate\n")
    return str(path)


MISTAKES = (
    Mistake("a bracket that is not closed", replaced("pools:", "pools: ["), r"flow sequence \(line [0-9]+\)"),
    Mistake("a tab", replaced("\npools:\n", "\npools:\n\t"), r"tab|'\\t'", line="\t"),
    Mistake("no mapping", lambda bench: bench.file.write("- listeners\n- pools\n"), "mapping", line="- listeners"),
    Mistake("an empty file", empty, "empty|listeners"),
    Mistake("no file", removed, "no such file"),
    Mistake("a directory", a_directory, "is a directory"),
    Mistake("bytes that are no text", unreadable_bytes, "UTF-8"),
    Mistake("a file that is too large", too_large, "larger than"),
    Mistake("an unknown key", replaced("workers:", "workerz:"), "did you mean .?workers", line="workerz:"),
    Mistake("a key twice", replaced("\nroutes:", "\nworkers: 1\nroutes:"), "stands twice", line="workers: 1"),
    Mistake("a variable that is not set", set_to("via", value="${NO_SUCH_VARIABLE}"), "NO_SUCH_VARIABLE", line="via:"),
    Mistake("a duration without its unit", set_to("shutdown_grace", value="5 parsecs"), "5 parsecs", "shutdown_grace:"),
    Mistake("a pool that is not there", set_to("routes", -1, "pool", value="orgins"), "orgins", line="pool: orgins"),
    Mistake(
        "a fallback that is not there", set_to("routes", -1, "fallback", value="nobody"), "nobody", line="fallback:"
    ),
    Mistake(
        "a route that is not there", set_to("listeners", "web", "routes", value=["evrything"]), "evrything", "- evryth"
    ),
    Mistake(
        "two routes of one name", one_more("routes", value={"name": "marker", "pool": "origins"}), "a route `marker`"
    ),
    Mistake(
        "two backends of one name",
        one_more("pools", "origins", "backends", value={"address": "127.0.0.9:1", "name": "a"}),
        "there is a backend `a`",
        line="address: 127.0.0.9:1",
    ),
    Mistake(
        "an unknown strategy", set_to("pools", "origins", "strategy", value="round_robbin"), "round_robin", "strategy:"
    ),
    Mistake(
        "a weight out of range", set_to("pools", "origins", "backends", 0, "weight", value=70_000), "65535", "weight:"
    ),
    Mistake(
        "a pattern that is none",
        one_more("routes", value={"name": "odd", "match": {"path_regex": "/("}, "pool": "origins"}),
        "path_regex|pattern|parenthesis",
        line="path_regex:",
    ),
    Mistake("a port that is none", set_to("listeners", "web", "bind", value="127.0.0.1:70000"), "70000", "70000"),
    Mistake(
        "a port that is taken",
        set_to("listeners", "more", value=lambda bench: {"bind": f"127.0.0.1:{bench.taken}"}),
        "cannot bind 127.0.0.1:[0-9]+",
    ),
    Mistake(
        "a socket in no folder",
        set_to("listeners", "more", value=lambda bench: {"bind": f"unix:{bench.folder}/none/s.sock"}),
        "there is no folder",
    ),
    Mistake(
        "a certificate that is not there",
        set_to("listeners", "secure", "tls", "certificates", 0, "cert", value="missing.pem"),
        "missing.pem does not exist",
        line="missing.pem",
    ),
    Mistake(
        "the key of another certificate",
        set_to("listeners", "secure", "tls", "certificates", 0, "key", value=other_key),
        "is not the key of the certificate",
        line="key:",
    ),
    Mistake(
        "a certificate that is none",
        set_to("listeners", "secure", "tls", "certificates", 0, "cert", value=no_certificate),
        "are not a PEM certificate",
        line="text.pem",
    ),
    Mistake(
        "another runtime folder", set_to("runtime_dir", value=lambda bench: f"{bench.folder}/other"), "runtime_dir: "
    ),
    Mistake("another admin address", set_to("admin", "bind", value="127.0.0.1:9"), "admin.bind: .*needs a restart"),
    Mistake("another user", set_to("user", value="nobody"), "user: .*needs a restart"),
    Mistake("another log format", set_to("log", "format", value="console"), "log.format: .*needs a restart"),
)


# ---- the daemon, and who uses it


def before(ports: list[int], marker: int = 0) -> Content:
    """A daemon with two workers whose answer to /marker tells which configuration serves."""
    pair = issued("test.example")
    return {
        "workers": 2,
        "listeners": {
            "web": {"bind": "127.0.0.1:0"},
            "secure": {
                "bind": "127.0.0.1:0",
                "tls": {"certificates": [{"cert": str(pair.cert_path), "key": str(pair.key_path)}]},
            },
        },
        "routes": [
            {"name": "marker", "match": {"path": "/marker"}, "respond": {"body": str(marker)}},
            {"name": "everything", "pool": "origins"},
        ],
        "pools": {
            "origins": {
                "backends": [
                    {"name": name, "address": f"127.0.0.1:{port}"} for name, port in zip("ab", ports, strict=True)
                ]
            }
        },
    }


def load_on(daemon: Daemon) -> LongLoad:
    """Clients on kept connections, plain and over TLS, that ask without end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    entries = [Entry(daemon.address("web")), Entry(daemon.address("secure"), context)]
    return LongLoad(entries, Clients(keepalive=8, pause=0.01))


def marked(file: ConfigFile, marker: int) -> Content:
    """The configuration whose /marker says so."""
    content = file.content()
    content["routes"][0]["respond"]["body"] = str(marker)
    return content


def listening_at(path: Path, content: Content) -> Content:
    """The same with another listener, there."""
    content["listeners"]["more"] = {"bind": f"unix:{path}"}
    return content


def larger(content: Content) -> Content:
    """The same with a pool that takes a while to build."""
    addresses = [f"127.0.1.{n % 250}:{1 + n // 250}" for n in range(2000)]
    content["pools"]["large"] = {"backends": addresses, "timeouts": {"first_byte": "1s"}}
    content["routes"].append({"name": "large", "match": {"path": "/large"}, "pool": "large"})
    content["routes"].sort(key=lambda route: route["name"] == "everything")
    return content


def markers(daemon: Daemon) -> set[bytes]:
    """What /marker says on several new connections, which all workers get some of."""
    return {get(daemon.address("web"), "/marker")[1] for _ in range(8)}


@pytest.fixture(scope="module")
def origins() -> Iterator[list[int]]:
    with running_origins(2) as ports:
        yield ports


@contextmanager
def taken_port() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        yield stranger.getsockname()[1]


# ---- mistakes


def refused(daemon: Daemon, bench: Bench, mistake: Mistake, ask: Callable[[Daemon], Reloaded]) -> None:
    """One bad reload: its reason is told, and everything is as it was."""
    refusals, generation = metric(daemon, REFUSED), int(metric(daemon, "balancer_config_generation"))
    mistake.spoil(bench)
    place = line_of(bench.file.path, mistake.line)
    result = ask(daemon)
    bench.file.restore()
    assert not result.ok, f"{mistake.name}: {result}"
    assert result.generation == generation
    assert re_found(mistake.says, result.text), f"{mistake.name}: {result.text}"
    assert place is None or f"{bench.file.path}:{place}:" in result.text, f"{mistake.name}, line {place}: {result.text}"
    assert metric(daemon, REFUSED) == refusals + 1
    assert metric(daemon, "balancer_config_last_reload_success") == 0
    assert metric(daemon, "balancer_config_generation") == generation
    assert markers(daemon) == {b"0"}
    events = daemon.events("config.reload_refused")
    assert len(events) == refusals + 1
    assert re_found(mistake.says, "\n".join(events[-1]["problems"]))


def re_found(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


def line_of(path: Path, text: str) -> int | None:
    """The number of the first line that has it; None when no line is due."""
    if not text:
        return None
    lines = path.read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


@pytest.mark.parametrize("rounds", [1, pytest.param(4, marks=FULL)])
def test_every_kind_of_bad_reload_is_refused_with_its_reason_and_changes_nothing(
    rounds: int, tmp_path: Path, origins: list[int]
) -> None:
    assert len({mistake.name for mistake in MISTAKES}) >= 25
    with taken_port() as port, Daemon(before(origins), tmp_path) as daemon, load_on(daemon) as clients:
        bench = Bench(ConfigFile(daemon), tmp_path, port)
        assert metric(daemon, "balancer_config_last_reload_success") == 1, "the first one is in use"
        for number in range(rounds * len(MISTAKES)):
            asked = WAYS[(number + number // len(MISTAKES)) % len(WAYS)]
            refused(daemon, bench, MISTAKES[number % len(MISTAKES)], asked)
        clients.go_on()
        assert clients.failures == []
        assert clients.connects == len(clients.names()), "nobody had to come again"
        pids = daemon.workers()
        bench.file.write(marked(bench.file, 1))
        result = by_request(daemon)
        assert (result.ok, result.generation) == (True, 2), result.text
        assert wait_until(lambda: markers(daemon) == {b"1"}, PATIENCE)
        assert metric(daemon, "balancer_config_last_reload_success") == 1
        assert metric(daemon, ACCEPTED) == 1
        clients.go_on()
        assert clients.failures == []
        assert daemon.workers() == pids
        assert metric(daemon, "balancer_worker_restarts_total") == 0
        assert not list(tmp_path.rglob("*.sock")), "nothing that was bound in vain is left"


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path: Path, origins: list[int]) -> None:
    with Daemon(before(origins), tmp_path) as daemon:
        file = ConfigFile(daemon)
        content = file.content()
        content["pools"]["origins"]["strategy"] = "round_robbin"
        content["routes"][-1]["pool"] = "orgins"
        content["workerz"] = 3
        file.write(content)
        for ask in WAYS:
            result = ask(daemon)
            assert not result.ok
            for mistyped in ("strategy:", "pool: orgins", "workerz:"):
                assert f"{file.path}:{line_of(file.path, mistyped)}:" in result.text


# ---- deaths of workers

DEATHS = 6
KILLED_WITHIN = 0.1  # seconds: about what both phases take


@contextmanager
def asked_meanwhile(daemon: Daemon) -> Iterator[Future[Reloaded]]:
    """A reload under way."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(by_request, daemon)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def ready_events(daemon: Daemon, worker: int) -> list[dict[str, Any]]:
    return [event for event in daemon.events("worker.became_ready") if event["worker"] == worker]


def stop(daemon: Daemon, worker: int) -> tuple[int, set[int]]:
    """A worker that does nothing more: its pid, and the client ports whose connections it holds."""
    pid = daemon.workers()[worker]
    os.kill(pid, signal.SIGSTOP)
    assert wait_until(lambda: is_stopped(pid), PATIENCE)
    ports = [daemon.address(name)[1] for name in ("web", "secure")]
    return pid, set().union(*(client_ports_of(pid, port) for port in ports))


def test_a_worker_that_dies_while_it_prepares_ends_the_reload_and_nothing_has_changed(
    tmp_path: Path, origins: list[int]
) -> None:
    with Daemon(before(origins), tmp_path) as daemon, load_on(daemon) as clients:
        file = ConfigFile(daemon)
        assert by_request(daemon).ok, "what reads files is warm"
        clients.go_on()
        listening = daemon.folder / "more.sock"
        victim, doomed = stop(daemon, 1)
        file.write(
            marked(file, 1) | {"listeners": {**file.content()["listeners"], "more": {"bind": f"unix:{listening}"}}}
        )
        with asked_meanwhile(daemon) as reload:
            # Addresses are bound before workers are asked. The rest of the wait is that for the one that is stopped.
            assert wait_until(listening.exists, PATIENCE)
            assert not wait_for([reload], timeout=1.0).done, "it needs every worker"
            os.kill(victim, signal.SIGKILL)
            result = reload.result(PATIENCE)
        assert not result.ok
        assert "worker 1" in result.text
        assert result.generation == 1
        assert not listening.exists(), "what was bound for it is gone"
        assert wait_until(lambda: len(ready_events(daemon, 1)) == 2, PATIENCE)
        assert [event["generation"] for event in ready_events(daemon, 1)] == [1, 1]
        assert markers(daemon) == {b"0"}
        assert metric(daemon, REFUSED) == 1
        assert {failure.port for failure in clients.failures} <= doomed, "nobody else's"
        again = by_request(daemon)
        assert (again.ok, again.generation) == (True, 2), again.text
        assert wait_until(lambda: markers(daemon) == {b"1"}, PATIENCE)


def test_a_worker_that_dies_after_the_change_comes_back_with_the_new_generation(
    tmp_path: Path, origins: list[int]
) -> None:
    with Daemon(before(origins), tmp_path) as daemon, load_on(daemon) as clients:
        file = ConfigFile(daemon)
        clients.go_on()
        file.write(marked(file, 1))
        result = by_request(daemon)
        victim, doomed = stop(daemon, 1)
        os.kill(victim, signal.SIGKILL)
        assert (result.ok, result.generation) == (True, 2), result.text
        assert wait_until(lambda: len(ready_events(daemon, 1)) == 2, PATIENCE)
        assert ready_events(daemon, 1)[-1]["generation"] == 2
        assert markers(daemon) == {b"1"}
        assert {failure.port for failure in clients.failures} <= doomed, "nobody else's"


@pytest.mark.parametrize("daemons", [pytest.param(10, marks=FULL)])
def test_whenever_a_worker_dies_in_a_reload_all_end_with_the_generation_that_was_told(
    daemons: int, tmp_path: Path, origins: list[int]
) -> None:
    """New addresses are bound just before workers are asked; the kill comes soon after, when exactly is drawn."""
    seed = int(os.environ.get("RELOAD_SEED", "7"))
    print(f"seed {seed}: again with RELOAD_SEED={seed}")
    rng, ends = Random(seed), {True: 0, False: 0}
    for number in range(daemons):  # several, since a slot whose workers keep dying waits longer and longer
        folder = tmp_path / str(number)
        folder.mkdir()
        with Daemon(larger(before(origins)), folder) as daemon, load_on(daemon):
            for ok in deaths_in_reloads(daemon, rng):
                ends[ok] += 1
    print(f"taken into use: {ends[True]}, refused: {ends[False]}")
    assert ends[True], "a kill that comes late does not undo a reload"


def deaths_in_reloads(daemon: Daemon, rng: Random) -> Iterator[bool]:
    """A few reloads in which a worker is killed, each checked: was it taken into use?"""
    file, marker = ConfigFile(daemon), 0
    for number in range(1, DEATHS + 1):
        ready, victim = len(ready_events(daemon, number % 2)), daemon.workers()[number % 2]
        listening = daemon.folder / f"{number}.sock"
        content = listening_at(listening, marked(file, number))
        content["pools"]["large"]["timeouts"]["first_byte"] = f"{number + 1}s"  # it is built anew
        file.write(content)
        with asked_meanwhile(daemon) as reload:
            assert wait_until(listening.exists, PATIENCE)
            killer = threading.Timer(rng.uniform(0, KILLED_WITHIN), os.kill, (victim, signal.SIGKILL))
            killer.start()
            result = reload.result(PATIENCE)
            killer.join()
        marker = number if result.ok else marker
        assert wait_until(lambda: len(ready_events(daemon, number % 2)) == ready + 1, PATIENCE)  # noqa: B023
        assert metric(daemon, "balancer_config_generation") == result.generation
        assert markers(daemon) == {str(marker).encode()}
        assert [path.name for path in daemon.folder.glob("*.sock")] == ([f"{marker}.sock"] if marker else [])
        yield result.ok
