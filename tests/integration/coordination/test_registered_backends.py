"""Programs register themselves at three real balancers, serve, and leave, and no request is lost by it."""

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from balancer.consensus.client import Coordination
from balancer.coordination.errors import CoordinationError
from tests.support.coordination_etcd import Etcd
from tests.support.daemon import Daemon, wait_until
from tests.support.etcd_versions import require_etcd
from tests.support.programs import require_program
from tests.support.queries import metric
from tests.support.scripted import Message, Origin, Talk, ok
from tests.support.steady_load import SteadyLoad
from tests.support.three_balancers import NAMES, PATIENCE, Three, members_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PAGE = Path(__file__).resolve().parents[3] / "docs" / "coordination.md"
PREFIX = "/services/api/"


def with_pool(name: str) -> dict[str, Any]:
    """One attempt per request and nothing that forgives: a request that meets a backend that is gone fails."""
    pool = {
        "slow_start": "off",
        "retry": "off",
        "outlier_detection": "off",
        "backends_from": {"prefix": PREFIX},
    }
    return {"routes": [{"name": "all", "pool": "api"}], "pools": {"api": pool}}


class Program:
    """A program that answers its own name, registers itself with a lease, keeps that alive, and serves on afterwards.

    It registers anew when the lease is lost, as on a machine that does too much at a time.
    """

    def __init__(self, urls: Sequence[str], name: str, *, ttl: float = 30.0, **more: object) -> None:
        self.name = name
        self.origin = Origin()
        self.origin.fallback = self._answer
        self.slow = threading.Event()  # lets requests for /slow be answered
        self.address = f"127.0.0.1:{self.origin.port}"
        self._value = json.dumps({"address": self.address, **more})
        self._urls = urls
        self._ttl = ttl
        self._registered = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._dies = False
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._live()))
        self._thread.start()
        assert self._registered.wait(PATIENCE), "the cluster takes no registration"

    async def _live(self) -> None:
        async with Coordination(self._urls) as client:
            while not self._stop.is_set():
                with suppress(CoordinationError):
                    lease = await client.lease(self._ttl).start()
                    await client.put(PREFIX + self.name, self._value, lease=lease)
                    self._registered.set()
                    ends = {asyncio.ensure_future(each.wait()) for each in (lease.lost, self._stop)}
                    _, others = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                    for other in others:
                        other.cancel()
            if not self._dies:
                await lease.give_up()

    def _answer(self, talk: Talk, request: Message) -> bool:
        if request.target == "/slow":
            self.slow.wait(PATIENCE)
        return bool(talk.send(ok(self.name.encode())))

    def leave(self, *, in_order: bool = True) -> None:
        """Give the lease back, or just stop renewing it."""
        if self._loop.is_closed():
            return
        self._dies = not in_order
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def close(self) -> None:
        """End, in order."""
        self.slow.set()
        self.leave()
        self.origin.close()


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    """Starts programs, all of which end with the test."""
    with ExitStack() as stack:

        def started(*arguments: Any, **more: Any) -> Program:
            one = Program(*arguments, **more)
            stack.callback(one.close)
            return one

        yield started


Start = Callable[..., Program]


def call(daemon: Daemon, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """A request to the admin API: status and decoded answer."""
    with closing(http.client.HTTPConnection(*daemon.admin_address, timeout=30)) as connection:
        data = b"" if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def fetch(daemon: Daemon, target: str = "/") -> str:
    """Who answered; the status where it was not 200."""
    with closing(http.client.HTTPConnection(*daemon.address("web"), timeout=PATIENCE)) as connection:
        connection.request("GET", target)
        answer = connection.getresponse()
        text = answer.read().decode()
        return text if answer.status == 200 else str(answer.status)


def served(daemon: Daemon) -> set[str]:
    return {fetch(daemon) for _ in range(8)}


def backends(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """What it says of its pool, by name."""
    _, answer = call(daemon, "GET", "/api/v1/pools")
    return {one["name"]: one for one in answer["pools"][0]["backends"]}


def serve(daemons: Sequence[Daemon], *names: str) -> bool:
    """Within some time exactly these serve, at each balancer."""
    return all(wait_until(lambda each=each: served(each) == set(names), PATIENCE) for each in daemons)  # type: ignore[misc]


@contextmanager
def loaded(daemons: Sequence[Daemon]) -> Iterator[Callable[[int], None]]:
    """Clients at each balancer that never stop, of which none may see anything but a good answer."""
    with ExitStack() as stack:
        loads = [stack.enter_context(SteadyLoad(each.address("web"), clients=2, pause=0.002)) for each in daemons]

        def go_on(answers: int) -> None:
            for load in loads:
                load.go_on(answers)

        go_on(10)
        yield go_on
        go_on(10)
        for load in loads:
            load.stop()
    assert [load.failures for load in loads] == [[] for _ in loads]


def put(urls: Sequence[str], name: str, value: str) -> None:
    async def one() -> None:
        async with Coordination(urls, timeout=PATIENCE) as client:
            await client.put(PREFIX + name, value)

    asyncio.run(one())


def delete(urls: Sequence[str], name: str, *, all_below: bool = False) -> None:
    async def one() -> None:
        async with Coordination(urls, timeout=PATIENCE) as client:
            await (client.delete_prefix(PREFIX + name) if all_below else client.delete(PREFIX + name))

    asyncio.run(one())


def has(daemon: Daemon, name: str) -> bool:
    return name in backends(daemon)


@contextmanager
def named(name: str) -> Iterator[Origin]:
    """An origin that answers a name."""

    def script(talk: Talk, _: Message) -> bool:
        return bool(talk.send(ok(name.encode())))

    with Origin() as origin:
        origin.fallback = script
        yield origin


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    with Three(tmp_path_factory.mktemp("three"), extra=with_pool) as made:
        assert made.serving(), made.said()
        yield made


@pytest.fixture
def three(cluster: Three) -> Three:
    """Three balancers whose pool is empty."""
    delete(urls(cluster), "", all_below=True)
    assert serve([*cluster.daemons.values()], "503"), cluster.said()
    return cluster


def urls(three: Three) -> list[str]:
    return [f"http://127.0.0.1:{port}" for port in dict.fromkeys(three.clients.values())]


@contextmanager
def frozen(three: Three, *names: str) -> Iterator[None]:
    """Members that are stopped in their tracks."""
    pids = [pid for name in names for pid in members_of(three.daemons[name])]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


# ---- coming and going


@pytest.mark.parametrize(
    "in_order", [pytest.param(True, marks=pytest.mark.full), False], ids=["gives its lease back", "stops renewing"]
)
def test_a_program_registers_serves_everywhere_and_leaves_without_a_failed_request(
    three: Three, program: Start, *, in_order: bool
) -> None:
    daemons = [*three.daemons.values()]
    program(urls(three), "a")
    leaves = program(urls(three), "b", ttl=2)
    assert serve(daemons, "a", "b"), three.said()
    with loaded(daemons):
        leaves.leave(in_order=in_order)
        assert serve(daemons, "a"), three.said()
        program(urls(three), "c")
        assert serve(daemons, "a", "c"), three.said()


@pytest.mark.full
def test_what_is_in_flight_when_a_lease_ends_is_answered(three: Three, program: Start) -> None:
    daemons = [*three.daemons.values()]
    leaves = program(urls(three), "a")
    assert serve(daemons, "a"), three.said()
    answers: list[str] = []
    asking = [threading.Thread(target=lambda each=each: answers.append(fetch(each, "/slow"))) for each in daemons]  # type: ignore[misc]
    for thread in asking:
        thread.start()
    assert wait_until(lambda: len(leaves.origin.seen("/slow")) == len(daemons), PATIENCE)
    leaves.leave()
    assert serve(daemons, "503"), three.said()
    assert answers == []
    leaves.slow.set()
    for thread in asking:
        thread.join(PATIENCE)
    assert answers == ["a", "a", "a"]


def blocks(language: str) -> list[str]:
    """The fenced blocks of the section of the page that tells how to register."""
    section = PAGE.read_text().split("## Backends that register themselves\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


@pytest.mark.full
@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_examples_of_the_page_work(three: Three, language: str) -> None:
    if language == "sh":
        require_program("curl")
    daemons = [*three.daemons.values()]
    first, second, _ = urls(three)
    with named("a") as origin:
        (text,) = blocks(language)
        places = {"http://127.0.0.1:2379": first, "http://10.0.0.1:2379": first, "http://10.0.0.2:2379": second}
        quick = {'"TTL": 10': '"TTL": 2', "sleep 3": "sleep 0.5", "lease(10)": "lease(2)"}
        for written, meant in {**places, **quick, "10.0.0.5:8080": f"127.0.0.1:{origin.port}"}.items():
            text = text.replace(written, meant)
        bin_folder = Path(sys.executable).parent
        environ = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "BALANCER_ENDPOINTS": first}
        command = ["sh", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        process = subprocess.Popen(command, env=environ, start_new_session=True)
        try:
            assert serve(daemons, "a"), three.said()
            assert not wait_until(lambda: not has(daemons[0], "app-1"), 4.0), "its lease is renewed"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert serve(daemons, "503"), three.said()


# ---- the admin API


@pytest.mark.full
def test_a_registered_backend_is_drained_weighted_and_told_like_any_other(three: Three, program: Start) -> None:
    daemon = three.daemons["n1"]
    path = "/api/v1/pools/api/backends/a"
    program(urls(three), "a", weight=3)
    program(urls(three), "b")
    assert serve([*three.daemons.values()], "a", "b"), three.said()
    told = backends(daemon)
    assert (told["a"]["source"], told["a"]["weight"], told["a"]["file_weight"]) == ("cluster", 3, None)
    command = [sys.executable, "-m", "balancer", "status", "--admin", daemon.admin]
    assert "(cluster)" in subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    assert call(daemon, "PATCH", path, {"state": "drain"})[0] == 200
    assert serve([daemon], "b"), daemon.stderr
    put(urls(three), "c", "127.0.0.1:1")
    assert wait_until(partial(has, daemon, "c"), PATIENCE)
    assert backends(daemon)["a"]["drained"], "others that come and go do not end it"
    assert call(daemon, "PATCH", path, {"state": "active", "weight": 7})[0] == 200
    assert backends(daemon)["a"]["weight"] == 7
    delete(urls(three), "c")
    assert serve([daemon], "a", "b"), daemon.stderr
    status, answer = call(daemon, "DELETE", path)
    assert status == 409
    assert f"its key `{PREFIX}a` is deleted" in answer["error"]["message"]
    assert metric(daemon, r'balancer_registered_backends{pool="api",state="in_use"}') == 2
    differs = call(daemon, "GET", "/api/v1/config")[1]["differs"]
    assert differs == ["pool api: backend a: live weight 7 instead of 3"], "the file says that others register"


def test_a_value_that_is_wrong_is_told_and_harms_nobody(three: Three, program: Start) -> None:
    daemon = three.daemons["n2"]
    serves = program(urls(three), "a")
    assert serve([daemon], "a"), three.said()
    before = len(daemon.events("registration.refused"))
    put(urls(three), "a", "nonsense")
    put(urls(three), "b", '{"address": "unix:/run/app"}')
    assert wait_until(lambda: len(daemon.events("registration.refused")) == before + 2, PATIENCE)
    assert serve([daemon], "a")
    put(urls(three), "c", serves.address)
    assert wait_until(lambda: set(backends(daemon)) == {"a", "c"}, PATIENCE)


@pytest.mark.full
def test_a_reload_keeps_what_registered(three: Three, program: Start) -> None:
    daemon = three.daemons["n3"]
    program(urls(three), "a")
    assert serve([daemon], "a"), three.said()
    reloads = metric(daemon, "balancer_config_reloads_total")
    generation = metric(daemon, "balancer_config_generation")
    told = call(daemon, "POST", "/api/v1/reload")[1]
    assert told == {"ok": True, "generation": generation, "changes": [], "problems": []}
    assert serve([daemon], "a")
    assert metric(daemon, "balancer_config_reloads_total") == reloads + 1
    put(urls(three), "b", "127.0.0.1:1")
    assert wait_until(partial(has, daemon, "b"), PATIENCE)
    assert metric(daemon, "balancer_config_reloads_total") == reloads + 1, "what registers is no reload"
    assert metric(daemon, "balancer_config_generation") > generation


# ---- members that fail


@pytest.mark.full
def test_registrations_go_on_over_the_deaths_of_members(three: Three, program: Start) -> None:
    daemons = [*three.daemons.values()]
    program(urls(three), "a")
    assert serve(daemons, "a"), three.said()
    with loaded(daemons) as go_on:
        for number, victim in enumerate(["a follower", "the leader", "the leader"]):
            assert wait_until(lambda: three.leader() is not None, PATIENCE)
            leader = three.leader() or NAMES[0]
            name = leader if victim == "the leader" else next(name for name in NAMES if name != leader)
            for pid in members_of(three.daemons[name]):
                os.kill(pid, signal.SIGKILL)
            newcomer = program(urls(three), f"b{number}")
            assert serve(daemons, "a", f"b{number}"), three.said()
            newcomer.leave()
            assert serve(daemons, "a"), three.said()
            go_on(10)


@pytest.mark.full
def test_workers_that_die_meanwhile_delay_registrations_and_lose_none(three: Three) -> None:
    daemon = three.daemons["n1"]
    for number in range(10):
        for pid in daemon.workers().values():
            os.kill(pid, signal.SIGKILL)
        put(urls(three), f"n{number}", "127.0.0.1:1")
    wanted = {f"n{number}" for number in range(10)}
    assert wait_until(lambda: set(backends(daemon)) == wanted, PATIENCE), daemon.stderr
    with named("n0") as origin:
        for number in range(10):
            put(urls(three), f"n{number}", f"127.0.0.1:{origin.port}")
        assert wait_until(lambda: bool(daemon.workers()), PATIENCE)
        assert serve([daemon], "n0"), daemon.stderr


@pytest.mark.full
def test_a_member_that_hangs_keeps_its_own_balancer_in_the_past_and_no_other(three: Three, program: Start) -> None:
    daemons = [*three.daemons.values()]
    serves = program(urls(three), "a")
    assert serve(daemons, "a"), three.said()
    with loaded(daemons):
        assert wait_until(lambda: three.leader() is not None, PATIENCE)
        hung = next(name for name in NAMES if name != three.leader())
        with frozen(three, hung):
            put([url for url in urls(three) if not url.endswith(f":{three.clients[hung]}")], "b", serves.address)
            others = [three.daemons[name] for name in NAMES if name != hung]
            assert all(wait_until(partial(has, each, "b"), PATIENCE) for each in others), three.said()
            assert not has(three.daemons[hung], "b")
        assert wait_until(partial(has, three.daemons[hung], "b"), PATIENCE), three.said()


def test_without_a_quorum_traffic_flows_on_also_over_a_restart(three: Three) -> None:
    with ExitStack() as stack:
        for name in ("a", "b"):  # without a lease: nobody could renew one
            put(urls(three), name, f"127.0.0.1:{stack.enter_context(named(name)).port}")
        daemons = [*three.daemons.values()]
        assert serve(daemons, "a", "b"), three.said()
        with frozen(three, "n1", "n2"):
            with loaded(daemons) as go_on:
                go_on(200)
            assert three.daemons["n3"].stop() == 0
            restarted = three.start("n3")
            assert served(restarted) == {"a", "b"}, "from the first request on"
            with loaded([restarted]) as go_on:
                go_on(200)
        with loaded([*three.daemons.values()]):
            delete(urls(three), "a")
            assert serve([*three.daemons.values()], "b"), three.said()


# ---- the same with an etcd


@pytest.mark.full
@pytest.mark.parametrize("version", ["3.4", "3.5"])
def test_with_an_etcd_it_is_the_same(tmp_path: Path, program: Start, version: str) -> None:
    (tmp_path / "etcd").mkdir()
    with (
        Etcd(tmp_path / "etcd", program=require_etcd(version)) as etcd,
        Three(tmp_path, extra=with_pool, etcd=etcd.urls) as three,
        named("a") as origin,
    ):
        put(etcd.urls, "a", f"http://127.0.0.1:{origin.port}")
        assert serve([*three.daemons.values()], "a"), three.said()
        with loaded([*three.daemons.values()]):
            leaves = program(etcd.urls, "b", ttl=2)
            assert serve([*three.daemons.values()], "a", "b"), three.said()
            leaves.leave(in_order=False)
            assert serve([*three.daemons.values()], "a"), three.said()
        etcd.kill()
        with loaded([*three.daemons.values()]) as go_on:
            go_on(100)
        assert three.daemons["n2"].stop() == 0
        assert served(three.start("n2")) == {"a"}
        etcd.restart()
        with loaded([*three.daemons.values()]):
            newcomer = program(etcd.urls, "c")
            assert serve([*three.daemons.values()], "a", "c"), three.said()
            newcomer.leave()
            assert serve([*three.daemons.values()], "a"), three.said()
