"""From a file to another generation: in which order, what each step may refuse, and that a refusal leaves no trace."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from structlog.testing import capture_logs

from balancer.admin.changes import ReloadResult
from balancer.config.model import Backend, Bind, Certificate, Config, Listener, ListenerTls, Log, Pool
from balancer.daemon import reload as module
from balancer.daemon import resolve as resolve_module
from balancer.daemon.bindings import Bindings, Rebinding
from balancer.daemon.children import RefusedError
from balancer.daemon.columns import RESERVED, Columns
from balancer.daemon.gate import Gate
from balancer.daemon.known_names import KnownNames
from balancer.daemon.loader import BadConfig, GoodConfig, Loader
from balancer.daemon.messages import Commit, Done, Message, Prepare, Prepared
from balancer.daemon.reload import Altered, Reloader
from balancer.daemon.resolve import Resolution
from balancer.daemon.shared_memory import SharedMemory
from balancer.daemon.workers import Workers
from balancer.telemetry.aggregate import Aggregate
from balancer.transport.sockets import BindError

BIND = Bind(host="127.0.0.1", port=0)
BASE = Config(
    listeners=(Listener(name="web", bind=(BIND,)),),
    routes=(),
    pools=(Pool(name="p", backends=(Backend(name="a", host="127.0.0.1", port=1),)),),
)


def with_(*names: str, **more: Any) -> Config:
    """Other backends, and whatever else."""
    backends = tuple(Backend(name=name, host="127.0.0.1", port=ord(name[0])) for name in names)
    return msgspec.structs.replace(BASE, pools=(Pool(name="p", backends=backends),), **more)


class FakeLoader:
    def __init__(self) -> None:
        self.answer: GoodConfig | BadConfig = GoodConfig(BASE)
        self.loads = 0
        self.go = asyncio.Event()
        self.go.set()
        self.closed = False

    async def load(self) -> GoodConfig | BadConfig:
        self.loads += 1
        await self.go.wait()
        return self.answer

    def close(self) -> None:
        self.closed = True


class FakeWorker:
    def __init__(self, slot: int, diary: list[str]) -> None:
        self.slot = slot
        self.alive = True
        self.refuses = ""
        self._diary = diary

    async def request(self, message: Message, *, timeout: float) -> Message:
        if isinstance(message, Prepare):
            self._diary.append(f"prepare {message.generation}")
            if self.refuses:
                raise RefusedError(self.refuses)
            return Prepared(message.generation)
        assert isinstance(message, Commit)
        self._diary.append(f"commit {message.generation}")
        return Done()

    def tell(self, message: Message) -> None:
        self._diary.append(type(message).__name__.lower())

    def kill(self) -> None:
        self._diary.append("kill")


class FakeBindings:
    """Says what is bound, and refuses port 1."""

    def __init__(self, diary: list[str]) -> None:
        self._diary = diary

    def rebind(self, config: Config, slots: Sequence[int]) -> Rebinding:
        for listener in config.listeners:
            for bind in listener.bind:
                if bind.port == 1:
                    raise BindError(bind, "address already in use", in_use=True)
        self._diary.append("bind")
        return Rebinding()

    def undo(self, change: Rebinding) -> None:
        self._diary.append("unbind")


class FakeWorkers:
    def __init__(self, diary: list[str]) -> None:
        self.gate = Gate()
        self.lending = self
        self.workers = [FakeWorker(slot, diary) for slot in range(2)]
        self._diary = diary

    def ready(self) -> list[FakeWorker]:
        return self.workers

    def rows(self, slots: Sequence[int]) -> tuple[int, ...]:
        return tuple(slots)

    def slots_for(self, count: int) -> list[int] | None:
        return list(range(count)) if count <= 4 else None

    async def switch(self, change: Rebinding) -> None:
        self._diary.append("listen")

    async def resize(self, slots: Sequence[int]) -> None:
        self._diary.append(f"workers {len(slots)}")


class Scene:
    def __init__(self) -> None:
        self.diary: list[str] = []
        self.loader = FakeLoader()
        self.workers = FakeWorkers(self.diary)
        self.memory = SharedMemory.create(rows=2, backends=1)
        self.columns = Columns(self.memory, Aggregate(), self.nothing)
        self.results: list[ReloadResult] = []
        self.extra: tuple[Backend, ...] = ()
        self.optional: frozenset[tuple[str, str]] = frozenset()
        self.reloader = Reloader(
            loader=cast(Loader, self.loader),
            workers=cast(Workers, self.workers),
            bindings=cast(Bindings, FakeBindings(self.diary)),
            columns=self.columns,
            in_use=self.in_use,
            ended=lambda result, _discard: self.results.append(result),
            alter=self.alter,
        )

    async def nothing(self) -> None:
        pass

    def in_use(self, plan: Prepare) -> Iterator[None]:
        yield
        self.diary.append(f"in use {plan.generation}")

    def alter(self, config: Config, discard: bool) -> Altered:
        extra = () if discard else self.extra
        pools = tuple(msgspec.structs.replace(pool, backends=(*pool.backends, *extra)) for pool in config.pools)
        ended = [f"{backend.name} ends" for backend in self.extra if discard]
        return Altered(msgspec.structs.replace(config, pools=pools), ended, self.optional)

    def names(self) -> list[str]:
        return [backend.name for backend in self.reloader.plan.backends]

    async def reload(self, answer: Config | BadConfig | GoodConfig, **how: bool) -> ReloadResult:
        self.diary.clear()
        self.loader.answer = GoodConfig(answer) if isinstance(answer, Config) else answer
        return await self.reloader.reload(**how)


def run(work: Callable[[Scene], Awaitable[None]], first: Config = BASE) -> None:
    async def all_of_it() -> None:
        it = Scene()
        await it.reloader.start(first, {}, [0, 1])
        try:
            await work(it)
        finally:
            it.memory.close()

    asyncio.run(all_of_it())


def test_addresses_are_bound_then_all_prepare_then_all_commit_and_then_they_listen() -> None:
    async def work(it: Scene) -> None:
        result = await it.reload(GoodConfig(with_("a", "b", workers=3), ("a warning",)))
        assert result == ReloadResult(
            True, 2, ["workers: 1 becomes 3", "pool p: +1 backend (b), another address for a"], ["a warning"]
        )
        assert it.diary == [
            "bind", "prepare 2", "prepare 2", "in use 2", "commit 2", "commit 2", "listen", "workers 3"
        ]  # fmt: skip
        assert it.results == [result]
        assert it.reloader.plan.rows == (0, 1, 2)
        assert it.reloader.plan.columns == {"web": 1}
        assert it.names() == ["a", "b"]

    run(work)


def test_what_equals_what_is_in_use_changes_nothing() -> None:
    async def work(it: Scene) -> None:
        result = await it.reload(BASE)
        assert result == ReloadResult(True, 1, [], [])
        assert it.diary == []
        assert it.results == [result]

    run(work)


UNREADABLE = ListenerTls(certificates=(Certificate(cert="/no/c", key="/no/k"),))
REFUSED: list[tuple[str, Config | BadConfig, str]] = [
    ("a bad file", BadConfig(("f:1:1: x: wrong", "f:2:1: y: wrong")), "f:1:1: x: wrong"),
    ("a restart is needed", with_("a", user="www"), "user: off becomes `www`; this needs a restart"),
    ("... for a part", with_("a", log=Log(access="off")), "log.access: `stdout` becomes `off`; this needs a restart"),
    ("too many workers", with_("a", workers=5), "workers: there is no room for 5 now"),
    (
        "a file that cannot be read",
        with_("a", listeners=(Listener(name="s", bind=(BIND,), tls=UNREADABLE),)),
        "/no/c: No such file or directory",
    ),
    ("too many backends", with_(*(chr(number) for number in range(200, 1400))), "1200 new backends, but only"),
    (
        "an address that is taken",
        with_("a", listeners=(Listener(name="web", bind=(Bind(host="127.0.0.1", port=1),)),)),
        "cannot bind 127.0.0.1:1: address already in use",
    ),
]


@pytest.mark.parametrize(("answer", "problem"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_refused_reaches_no_worker(answer: Config | BadConfig, problem: str) -> None:
    async def work(it: Scene) -> None:
        result = await it.reload(answer)
        assert not result.ok
        assert result.generation == 1
        assert result.changes == []
        assert problem in result.problems[0]
        assert it.diary == []
        assert it.results == [result]
        assert it.columns._backends.living() == [1]
        assert (await it.reload(with_("b"))).ok, "the next one is not hindered"

    run(work)


def test_a_workers_refusal_undoes_everything() -> None:
    async def work(it: Scene) -> None:
        before = it.reloader.plan
        it.workers.workers[1].refuses = "c.pem: expired"
        result = await it.reload(with_("b"))
        assert (result.ok, result.problems) == (False, ["c.pem: expired"])
        assert it.diary == ["bind", "prepare 2", "prepare 2", "abort", "abort", "unbind"]
        assert it.reloader.plan is before
        assert it.columns._backends.living() == [1]
        it.workers.workers[1].refuses = ""
        assert (await it.reload(with_("b"))).generation == 2

    run(work)


def test_a_dry_run_tells_and_touches_nothing() -> None:
    async def work(it: Scene) -> None:
        result = await it.reload(with_("a", "b"), dry_run=True)
        assert result == ReloadResult(True, 1, ["pool p: +1 backend (b), another address for a"], [])
        refused = await it.reload(with_("a", user="www"), dry_run=True)
        assert not refused.ok
        assert it.diary == []
        assert it.results == [], "and is not counted"

    run(work)


def test_who_asks_while_one_is_under_way_shares_the_next_one() -> None:
    async def work(it: Scene) -> None:
        it.loader.go.clear()
        first = asyncio.ensure_future(it.reload(with_("b")))
        await asyncio.sleep(0.01)
        later = [asyncio.ensure_future(it.reloader.reload()) for _ in range(20)]
        dry = asyncio.ensure_future(it.reloader.reload(dry_run=True))
        await asyncio.sleep(0.01)
        it.loader.go.set()
        assert (await first).generation == 2
        results = [await each for each in later]
        assert all(result is results[0] for result in results)
        assert (await dry).changes == []
        assert it.loader.loads == 3

    run(work)


def test_a_wish_to_discard_belongs_to_the_reload_it_came_with() -> None:
    async def work(it: Scene) -> None:
        it.extra = (Backend(name="x", host="127.0.0.1", port=9),)
        await it.reloader.reapply()
        it.loader.go.clear()
        plain = asyncio.ensure_future(it.reload(with_("b")))
        await asyncio.sleep(0.01)
        dry = asyncio.ensure_future(it.reloader.reload(dry_run=True, discard_live=True))
        it.loader.go.set()
        assert "x ends" not in (await plain).changes
        assert it.names() == ["b", "x"]
        assert "x ends" in (await dry).changes
        assert it.names() == ["b", "x"]
        assert "x ends" in (await it.reloader.reload(discard_live=True)).changes
        assert it.names() == ["b"]

    run(work)


def test_what_the_operator_changed_is_put_to_use_without_reading_the_file() -> None:
    async def work(it: Scene) -> None:
        it.extra = (Backend(name="x", host="127.0.0.1", port=9),)
        result = await it.reloader.reapply()
        assert result.changes == ["pool p: +1 backend (x)"]
        assert it.names() == ["a", "x"]
        assert it.loader.loads == 0
        await it.reload(with_("b"))
        assert it.names() == ["b", "x"]
        assert [backend.name for backend in it.reloader.file.pools[0].backends] == ["b"]

    run(work)


def test_putting_to_use_once_more_reads_no_file_and_is_no_reload(tmp_path: Path) -> None:
    """A certificate that is just being replaced, or a name server that is silent, must not hold it up."""
    cert, key = tmp_path / "c", tmp_path / "k"
    cert.write_text("one")
    key.write_text("key")
    tls = ListenerTls(certificates=(Certificate(cert=str(cert), key=str(key)),))
    config = with_("a", listeners=(Listener(name="web", bind=(BIND,), tls=tls),))

    async def work(it: Scene) -> None:
        await it.reload(config)
        it.results.clear()
        cert.unlink()
        it.extra = (Backend(name="x", host="127.0.0.1", port=9),)
        assert (await it.reloader.reapply()).changes == ["pool p: +1 backend (x)"]
        assert it.reloader.plan.files[str(cert)] == b"one"
        it.workers.workers[0].refuses = "no"
        it.extra = ()
        assert (await it.reloader.reapply()).problems == ["no"]
        assert it.results == []

    run(work)


def test_putting_to_use_once_more_what_is_in_use_says_nothing() -> None:
    async def work(it: Scene) -> None:
        with capture_logs() as logged:
            assert (await it.reloader.reapply()) == ReloadResult(True, 1, [], [])
        assert logged == []

    run(work)


def test_only_new_names_are_looked_up_for_what_is_put_to_use_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def look_up(host: str) -> list[str]:
        asked.append(host)
        if host == "gone":
            raise OSError(0, "no such name")
        return ["10.0.0.1"]

    monkeypatch.setattr(resolve_module, "look_up", look_up)
    monkeypatch.setattr(KnownNames.lookup, "__defaults__", (look_up,))
    monkeypatch.setattr(resolve_module.resolve, "__defaults__", (look_up,))
    backends = (Backend(name="a", host="app", port=80), Backend(name="b", host="gone", port=80))
    config = msgspec.structs.replace(BASE, pools=(Pool(name="p", backends=backends),))

    async def work(it: Scene) -> None:
        assert sorted(asked) == ["app", "gone"]
        it.extra = (Backend(name="x", host="new", port=9), Backend(name="y", host="app", port=9))
        assert (await it.reloader.reapply()).ok
        assert sorted(asked) == ["app", "gone", "new"]
        assert it.names() == ["a", "x", "y"]
        await it.reload(config)
        assert sorted(asked) == ["app", "app", "gone", "gone", "new", "new"], "a reload asks for all"

    run(work, config)


def test_backends_that_need_not_be_are_left_out_where_there_is_no_room() -> None:
    async def work(it: Scene) -> None:
        it.extra = tuple(Backend(name=f"x{number}", host="127.0.0.1", port=9) for number in range(2000))
        it.optional = frozenset(("p", one.name) for one in it.extra)
        room = it.memory.backend_columns
        assert (await it.reloader.reapply()).ok
        assert it.names() == ["a", *(f"x{number}" for number in range(room - room // RESERVED - 1))]
        assert (await it.reload(BASE)).changes == [], "what could not be before is no change now"
        assert (await it.reload(with_("a", "b"))).ok, "for the file there is room left"

    run(work)


def test_files_that_changed_under_their_names_are_a_change(tmp_path: Path) -> None:
    cert, key = tmp_path / "c", tmp_path / "k"
    cert.write_text("one")
    key.write_text("key")
    tls = ListenerTls(certificates=(Certificate(cert=str(cert), key=str(key)),))
    config = with_("a", listeners=(Listener(name="web", bind=(BIND,), tls=tls),))

    async def work(it: Scene) -> None:
        await it.reload(config)
        assert (await it.reload(config)).changes == []
        cert.write_text("two")
        assert (await it.reload(config)).changes == ["listener web: its TLS files have changed"]
        assert it.reloader.plan.files == {str(cert): b"two", str(key): b"key"}

    run(work)


def test_names_mean_what_they_meant_while_they_cannot_be_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, list[str]] = {"app": ["10.0.0.1", "10.0.0.2"]}

    async def resolve(config: Config) -> Resolution:
        addresses = {}
        failures = {}
        for pool in config.pools:
            for backend in pool.backends:
                if backend.host not in found:
                    failures[backend.host] = "no such name"
                addresses[pool.name, backend.name] = tuple(
                    (host, backend.port, "") for host in found.get(backend.host, [])
                )
        return Resolution(addresses, failures)

    monkeypatch.setattr(module, "resolve", resolve)
    config = msgspec.structs.replace(
        BASE, pools=(Pool(name="p", backends=(Backend(name="app:80", host="app", port=80),)),)
    )

    def hosts(it: Scene) -> list[str]:
        return [backend.address[0] for backend in it.reloader.plan.backends]

    async def work(it: Scene) -> None:
        assert hosts(it) == ["10.0.0.1", "10.0.0.2"]
        found["app"] = ["10.0.0.2", "10.0.0.3"]
        assert (await it.reload(config)).changes == ["pool p: app:80 now means 10.0.0.2, 10.0.0.3"]
        del found["app"]
        assert (await it.reload(config)).changes == [], "a silent name server empties no pool"
        shorter = msgspec.structs.replace(config, shutdown_delay=1.0)
        assert (await it.reload(shorter)).ok
        assert hosts(it) == ["10.0.0.2", "10.0.0.3"]

    run(work, config)


def test_once_the_daemon_stops_what_is_under_way_ends_and_nothing_begins() -> None:
    async def work(it: Scene) -> None:
        it.loader.go.clear()
        running = asyncio.ensure_future(it.reload(with_("b")))
        await asyncio.sleep(0.01)
        waiting = asyncio.ensure_future(it.reloader.reload())
        await asyncio.sleep(0.01)
        it.reloader.close()
        assert it.loader.closed
        for task in (running, waiting):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert it.diary == []
        assert (await it.reloader.reapply()).problems == ["the daemon is stopping"]

    run(work)
