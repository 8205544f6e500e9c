"""Columns are given back, and series forgotten, only when nobody uses them."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from balancer.config.model import Backend, Config, Listener, Pool
from balancer.daemon import columns
from balancer.daemon.columns import Columns
from balancer.daemon.resolve import Resolution
from balancer.daemon.shared_memory import CONNECTION_COLUMNS, Area, SharedMemory, SlotsExhaustedError
from balancer.telemetry import metrics
from balancer.telemetry.aggregate import Aggregate
from balancer.telemetry.registry import Sample


def config_of(backends: str, listeners: str = "w") -> Config:
    return Config(
        listeners=tuple(Listener(name=name, bind=()) for name in listeners),
        routes=(),
        pools=(Pool(name="p", backends=tuple(Backend(name=name, host="127.0.0.1", port=1) for name in backends)),),
    )


def resolution_of(config: Config) -> Resolution:
    return Resolution(
        {
            (pool.name, backend.name): ((backend.host, ord(backend.name), ""),)
            for pool in config.pools
            for backend in pool.backends
        },
        {},
    )


class Scene:
    def __init__(self) -> None:
        self.memory = SharedMemory.create(rows=2, backends=1)
        self.counted = Aggregate()
        self.pulled = 0
        self.columns = Columns(self.memory, self.counted, self.pull)
        self.config = config_of("ab")
        self.generation = 0
        self.oldest = 1

    async def pull(self) -> None:
        self.pulled += 1

    def use(self, config: Config) -> dict[str, int]:
        """The slots by backend and the columns by listener."""
        self.generation += 1
        self.config = config
        backends, listeners = self.columns.take(self.generation, config, resolution_of(config))
        for backend in backends:
            self.counted.add(0, [Sample(metrics.UPSTREAM_CONNECTS, ("p", backend.name, "ok"), [1])])
        return {**{backend.name: backend.slot for backend in backends}, **listeners}

    def shown(self) -> set[str]:
        return {one.labels[1] for part in self.counted.series(metrics.UPSTREAM_CONNECTS) for one in part}


def run(monkeypatch: pytest.MonkeyPatch, work: Callable[[Scene], Awaitable[None]]) -> None:
    monkeypatch.setattr(columns, "EVERY", 0.001)

    async def all_of_it() -> None:
        it = Scene()
        tidying = asyncio.ensure_future(
            it.columns.tidy(lambda: (it.generation, it.config), lambda: min(it.oldest, it.generation))
        )
        try:
            await work(it)
        finally:
            tidying.cancel()
            it.memory.close()

    asyncio.run(all_of_it())


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def some_turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


def test_series_of_a_removed_backend_stay_while_a_worker_uses_its_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(it: Scene) -> None:
        it.use(config_of("ab"))
        it.use(config_of("bc"))
        await some_turns()
        assert it.shown() == {"a", "b", "c"}
        assert it.pulled == 0
        it.oldest = 2
        await until(lambda: it.shown() == {"b", "c"})
        assert it.pulled == 1, "what workers told last was heard before"

    run(monkeypatch, work)


def test_a_slot_with_something_in_flight_is_not_given_away_and_its_series_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(it: Scene) -> None:
        first = it.use(config_of("ab"))
        it.memory.row(Area.IN_FLIGHT, 1)[first["a"]] = 1
        it.use(config_of("b"))
        it.oldest = 2
        await some_turns()
        assert it.shown() == {"a", "b"}
        assert it.use(config_of("bc"))["c"] != first["a"]
        it.oldest = 3
        it.memory.row(Area.IN_FLIGHT, 1)[first["a"]] = 0
        await until(lambda: it.shown() == {"b", "c"})
        assert it.use(config_of("bcd"))["d"] == first["a"]

    run(monkeypatch, work)


def test_a_listener_keeps_its_column_and_a_removed_one_until_its_connections_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(it: Scene) -> None:
        first = it.use(config_of("a", "wx"))
        assert set(first.values()) >= {1, 2}
        it.memory.row(Area.CONNECTIONS, 0)[first["x"]] = 1
        assert it.use(config_of("a", "yw"))["w"] == first["w"]
        it.oldest = 2
        await some_turns()
        assert first["x"] not in it.use(config_of("a", "ywz")).values()
        it.oldest = 3
        it.memory.row(Area.CONNECTIONS, 0)[first["x"]] = 0
        await until(it.columns._listeners.settled)
        assert it.use(config_of("a", "ywzv"))["v"] == first["x"]

    run(monkeypatch, work)


def test_what_was_made_for_a_generation_that_did_not_come_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(it: Scene) -> None:
        it.use(config_of("ab"))
        before = it.config
        it.use(config_of("abc"))
        it.generation, it.config = 1, before
        it.columns.release(2)
        await until(lambda: it.shown() == {"a", "b"})

    run(monkeypatch, work)


def test_listeners_that_do_not_fit_take_no_backends_along() -> None:
    it = Scene()
    with pytest.raises(SlotsExhaustedError, match="listeners"):
        config = Config(
            listeners=tuple(Listener(name=str(number), bind=()) for number in range(CONNECTION_COLUMNS)),
            routes=(),
            pools=config_of("ab").pools,
        )
        it.columns.take(1, config, resolution_of(config))
    assert it.columns._backends.names() == []
    it.memory.close()
