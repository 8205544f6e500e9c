"""Columns are given back, and series forgotten, only when nobody uses them."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from balancer.config.model import Backend, BackendsFrom, Config, Listener, Pool
from balancer.daemon import columns
from balancer.daemon.cluster.registrations import BACKENDS_MAX
from balancer.daemon.columns import Columns, room_for
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


# ---- backends that need not be


def fitting(it: Scene, backends: str, optional: str) -> list[str]:
    config = config_of(backends)
    places = {("p", name) for name in optional}
    return [one.name for one in it.columns.fitting(config, resolution_of(config), places).pools[0].backends]


def with_columns(count: int, names: str) -> Scene:
    """A scene with so many columns, some of which are taken."""
    it = Scene()
    it.columns._backends = columns.Allocator(count)
    it.use(config_of(names))
    return it


def test_where_there_is_room_nothing_is_left_out() -> None:
    it = with_columns(6, "ab")
    config = config_of("abcdef")
    assert it.columns.fitting(config, resolution_of(config), {("p", "f")}) is config
    assert it.columns.fitting(config, resolution_of(config), ()) is config
    it.memory.close()


def test_of_those_that_need_not_be_the_last_new_ones_are_left_out_first() -> None:
    it = with_columns(4, "abz")
    assert fitting(it, "abcdz", "bcdz") == ["a", "b", "c", "z"], "who has a column keeps it"
    assert fitting(it, "abcdez", "bcz") == ["a", "b", "d", "e", "z"], "those that must be come first, room or not"
    config = config_of("abcdez")
    short = it.columns.fitting(config_of("abcdz"), resolution_of(config), {("p", "c"), ("p", "d")})
    it.columns.take(2, short, resolution_of(config))
    it.memory.close()


def test_for_what_the_file_gets_later_some_columns_are_kept_free() -> None:
    it = with_columns(2 * columns.RESERVED, "a")
    names = "abcdefghijklmnopqrstuvwxyz"
    assert len(fitting(it, names, names[1:])) == 2 * columns.RESERVED - 2
    assert len(fitting(it, names, names[5:])) == 2 * columns.RESERVED - 2
    it.memory.close()


def test_a_name_with_more_addresses_than_there_is_room_for_is_left_out_and_a_smaller_one_fits() -> None:
    it = with_columns(4, "ab")
    config = config_of("abcd")
    resolution = resolution_of(config)
    many = tuple(("10.0.0.1", port, "") for port in range(1, 4))
    resolution.addresses["p", "c"] = many
    found = it.columns.fitting(config, resolution, {("p", "c"), ("p", "d")})
    assert [one.name for one in found.pools[0].backends] == ["a", "b", "d"]
    it.memory.close()


def test_there_is_room_for_what_the_file_has_and_for_what_registers() -> None:
    backends = (Backend(name="a", host="10.0.0.1", port=1), Backend(name="b", host="app", port=1))
    config = Config(listeners=(), routes=(), pools=(Pool(name="p", backends=backends), Pool(name="q")))
    assert room_for(config) == 1 + columns.ADDRESSES_OF_A_NAME
    more = Pool(name="r", backends_from=BackendsFrom(prefix="/r/"))
    assert room_for(Config(listeners=(), routes=(), pools=(more,))) == BACKENDS_MAX
