"""The operator's changes in use: what holds here, what holds everywhere, over reloads, and what is refused."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any, cast

import msgspec
import pytest

from balancer.admin.changes import LiveWeight, OutOfReachError, RefusedChangeError, ReloadResult, UnknownBackendError
from balancer.config import model
from balancer.daemon.messages import BackendStates, Prepare
from balancer.daemon.operator import Backends, Operator
from balancer.daemon.reload import Reloader
from balancer.daemon.states import States
from balancer.telemetry.aggregate import Aggregate
from tests.support.admin_address import backend, file_of


def file_with(**weights: int) -> model.Config:
    """A pool api of these backends, all at an address of their own."""
    backends = tuple(backend(name, weight=weight, port=ord(name)) for name, weight in weights.items())
    return file_of(model.Pool(name="api", backends=backends, slow_start=None))


class Everywhere:
    """What is said everywhere, by a test. `fault` is what asking for it ends with."""

    def __init__(self) -> None:
        self.said: dict[tuple[str, str], tuple[int | None, bool]] = {}
        self.fault: Exception | None = None
        self._changed: Callable[[str, str], None] | None = None

    def tell(self, changed: Callable[[str, str], None]) -> None:
        self._changed = changed

    def configure(self) -> None:
        assert self._changed is not None
        for pool, name in self.said:
            self._changed(pool, name)

    def say(self, name: str, weight: int | None = None, drained: bool = False) -> None:
        assert self._changed is not None
        self.said.pop(("api", name), None)
        if weight is not None or drained:
            self.said["api", name] = weight, drained
        self._changed("api", name)

    def weight(self, pool: str, name: str) -> int | None:
        return self.said.get((pool, name), (None, False))[0]

    def drained(self, pool: str, name: str) -> bool:
        return self.said.get((pool, name), (None, False))[1]

    def said_of(self, pool: str, name: str) -> str:
        return "said at `lb2`" if (pool, name) in self.said else ""

    def words(self, backends: Backends) -> Iterable[str]:
        return [f"{name} of {len(backends['api'])}" for _, name in self.said]

    async def change(self, pool: str, name: str, *, weight: LiveWeight | None, drained: bool | None) -> None:
        if self.fault is not None:
            raise self.fault
        before = self.said.get((pool, name), (None, False))
        new = before[0] if weight is None else None if weight == "file" else weight
        self.say(name, new, before[1] if drained is None else drained)


class Balancer:
    """An operator with real states; a reload puts a configuration to use in the order of the real one."""

    def __init__(self, folder: Path, file: model.Config, *, alone: bool = False) -> None:
        self.file = file
        self.plan = Prepare(1, file, ())
        self.told: list[BackendStates] = []
        self.states = States(
            tell=lambda worker, message: self.told.append(message),
            workers=lambda: [0],
            counted=Aggregate(),
            rng=Random(1),
            now=lambda: 0.0,
        )
        self.everywhere = Everywhere()
        wide = None if alone else self.everywhere
        self.operator = Operator(folder, self.states, lambda: cast("Reloader", self), everywhere=wide)
        self._slots: dict[tuple[str, str], int] = {}
        self._use(file, starting=True)
        self.operator.taken_into_use(self.file)

    async def reload(self, *, dry_run: bool = False, discard_live: bool = False) -> ReloadResult:
        return ReloadResult(True, 1)

    def put_to_use(self, file: model.Config, *, discard: bool = False) -> None:
        """What a reload does once every worker is ready."""
        self._use(self.operator.alter(file, discard).config)
        self.file = file
        self.operator.taken_into_use(file, discard=discard)

    def _use(self, config: model.Config, *, starting: bool = False) -> None:
        addresses = [
            model.ResolvedBackend(
                pool=pool.name,
                name=one.name,
                host=one.host,
                address=(one.host, one.port, ""),
                slot=self._slots.setdefault((pool.name, one.name), len(self._slots)),
            )
            for pool in config.pools
            for one in pool.backends
        ]
        self.plan = Prepare(self.plan.generation + 1, config, tuple(addresses))
        self.states.configure(config, addresses, starting=starting)
        if self.operator._everywhere is not None:
            self.everywhere.configure()

    def change(self, name: str = "a", *, everywhere: bool = False, **change: Any) -> list[str]:
        asked: dict[str, Any] = {"weight": None, "drained": None, **change}
        return asyncio.run(self.operator.change("api", name, everywhere=everywhere, **asked))

    def in_use(self, name: str = "a") -> int:
        """The weight that workers use; 0 while drained."""
        return self.states.weight("api", name)


@pytest.fixture
def balancer(tmp_path: Path) -> Balancer:
    return Balancer(tmp_path, file_with(a=3, b=1))


def test_what_is_said_everywhere_is_in_use_and_what_is_said_here_after_it_ends(balancer: Balancer) -> None:
    balancer.change(weight=7)
    balancer.everywhere.say("a", weight=5)
    assert balancer.in_use() == 5
    balancer.everywhere.say("a", weight=5, drained=True)
    assert balancer.in_use() == 0
    balancer.everywhere.say("a")
    assert balancer.in_use() == 7
    balancer.everywhere.say("z", weight=5)
    assert balancer.in_use("b") == 1


def test_a_drain_here_goes_on_when_that_everywhere_ends(balancer: Balancer) -> None:
    balancer.change(drained=True)
    balancer.everywhere.say("a", drained=True)
    assert balancer.change(drained=False, everywhere=True) == [
        "here it stays drained: that was begun at this balancer alone, and ends without --cluster"
    ]
    assert balancer.in_use() == 0
    assert balancer.change(drained=False) == []
    assert balancer.in_use() == 3


def test_a_weight_here_holds_again_when_that_everywhere_ends_and_is_told(balancer: Balancer) -> None:
    balancer.change(weight=7)
    assert balancer.change(weight=5, everywhere=True) == []
    assert balancer.change(weight="file", everywhere=True) == [
        "here it has weight 7, which was set at this balancer alone"
    ]
    assert balancer.in_use() == 7


@pytest.mark.parametrize("weight", [0, 5, 7, "file"])
def test_a_weight_here_under_one_everywhere_is_refused_and_changes_nothing(
    balancer: Balancer, weight: LiveWeight
) -> None:
    balancer.everywhere.say("a", weight=5)
    with pytest.raises(RefusedChangeError, match=r"weight 5 in the whole cluster, said at `lb2`.*--cluster"):
        balancer.change(weight=weight)
    assert (balancer.in_use(), len(balancer.operator.live)) == (5, 0)
    balancer.change("b", weight=9)
    assert balancer.in_use("b") == 9


def test_an_undrain_here_under_a_drain_everywhere_is_refused_and_changes_nothing(balancer: Balancer) -> None:
    balancer.change(drained=True)
    balancer.everywhere.say("a", drained=True)
    with pytest.raises(RefusedChangeError, match=r"drained in the whole cluster.*undrain POOL BACKEND --cluster"):
        balancer.change(drained=False)
    assert balancer.operator.live.drained("api", "a")
    with pytest.raises(RefusedChangeError):
        balancer.change(drained=False, weight=9)
    assert balancer.operator.live.weight("api", "a") is None
    balancer.change(drained=True, weight=9)
    balancer.everywhere.say("a")
    balancer.change(drained=False)
    assert balancer.in_use() == 9


def test_what_is_not_there_can_be_named_only_to_end_what_is_said_of_it(balancer: Balancer) -> None:
    for change in ({"drained": True}, {"weight": 2}, {"drained": False}, {"weight": "file"}):
        with pytest.raises(UnknownBackendError, match="there are: `a`, `b`"):
            balancer.change("z", everywhere=True, **change)
    balancer.everywhere.say("z", weight=4, drained=True)
    for change in ({"drained": True}, {"weight": 2}, {"weight": 2, "drained": False}):
        with pytest.raises(UnknownBackendError):
            balancer.change("z", everywhere=True, **change)
    balancer.change("z", everywhere=True, drained=False)
    balancer.change("z", everywhere=True, weight="file")
    assert not balancer.everywhere.said
    with pytest.raises(UnknownBackendError, match="no pool `web`; there are: `api`"):
        asyncio.run(balancer.operator.change("web", "a", weight=1, drained=None, everywhere=True))


def test_a_balancer_on_its_own_says_that_it_is(tmp_path: Path) -> None:
    alone = Balancer(tmp_path, file_with(a=3), alone=True)
    with pytest.raises(RefusedChangeError, match="has no `coordination`"):
        alone.change(drained=True, everywhere=True)
    assert (alone.in_use(), len(alone.operator.live)) == (3, 0)
    alone.change(drained=True)
    assert alone.in_use() == 0
    assert asyncio.run(alone.operator.differs()) == ["pool api: backend a: drained"]


def test_without_an_answer_nothing_is_changed_here(balancer: Balancer) -> None:
    balancer.everywhere.fault = OutOfReachError("nobody answers")
    with pytest.raises(OutOfReachError):
        balancer.change(drained=True, everywhere=True)
    assert balancer.in_use() == 3
    balancer.change(drained=True)
    assert balancer.in_use() == 0


def test_a_changed_entry_ends_what_was_said_here_and_not_what_is_said_everywhere(balancer: Balancer) -> None:
    balancer.change("a", weight=7, drained=True)
    balancer.change("b", drained=True)
    balancer.everywhere.say("b", weight=5)
    balancer.put_to_use(file_with(a=4, b=1))
    assert (balancer.in_use("a"), balancer.in_use("b")) == (4, 0)
    balancer.put_to_use(file_with(a=4, b=2))
    assert (balancer.in_use("a"), balancer.in_use("b")) == (4, 5)
    balancer.everywhere.say("b")
    assert balancer.in_use("b") == 2


def test_discarding_ends_what_was_said_here_and_not_what_is_said_everywhere(balancer: Balancer) -> None:
    balancer.change("a", weight=7, drained=True)
    balancer.change("b", weight=7, drained=True)
    balancer.everywhere.say("a", weight=5)
    balancer.everywhere.say("b", drained=True)
    balancer.put_to_use(balancer.file, discard=True)
    assert (balancer.in_use("a"), balancer.in_use("b")) == (5, 0)
    balancer.everywhere.say("a")
    balancer.everywhere.say("b")
    assert (balancer.in_use("a"), balancer.in_use("b")) == (3, 1)


def test_what_is_said_of_a_backend_holds_when_that_comes_before_any_worker_may_use_it(balancer: Balancer) -> None:
    balancer.everywhere.say("c", drained=True)
    balancer.everywhere.say("d", weight=9)
    balancer.told.clear()
    balancer.put_to_use(file_with(a=3, b=1, c=1, d=1))
    assert (balancer.in_use("c"), balancer.in_use("d")) == (0, 9)
    held = {standing.slot: standing for message in balancer.told for standing in message.changes}
    drained = held[balancer._slots["api", "c"]]
    assert (drained.eligible, held[balancer._slots["api", "d"]].weight) == (False, 9)


def test_what_was_said_here_and_everywhere_holds_from_the_start(tmp_path: Path) -> None:
    before = Balancer(tmp_path, file_with(a=3, b=1, c=1))
    before.change("a", weight=7)
    before.change("b", weight=7)

    class SaysAlready(Everywhere):
        def __init__(self) -> None:
            super().__init__()
            self.said = {("api", "b"): (5, False), ("api", "c"): (None, True)}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(f"{__name__}.Everywhere", SaysAlready)
        after = Balancer(tmp_path, file_with(a=3, b=1, c=1))
    assert [after.in_use(name) for name in "abc"] == [7, 5, 0]


def test_what_differs_from_the_file_is_told_with_what_is_said_everywhere(balancer: Balancer) -> None:
    balancer.change("a", weight=7)
    balancer.everywhere.say("b", weight=5)
    assert asyncio.run(balancer.operator.differs()) == [
        "pool api: backend a: live weight 7 instead of 3",
        "b of 2",
    ]
    values = balancer.operator.values
    assert (values.weight("api", "b"), values.weight_by("api", "b"), values.weight_by("api", "a")) == (
        5,
        "cluster",
        "balancer",
    )


def test_news_of_a_pool_that_is_just_coming_into_use_waits_for_it(balancer: Balancer) -> None:
    """The plan is another already, and the states do not know of it yet."""
    config = file_of(*balancer.file.pools, model.Pool(name="new", backends=(backend("n"),)))
    balancer.plan = msgspec.structs.replace(balancer.plan, config=config)
    balancer.everywhere.said["new", "n"] = None, True
    balancer.everywhere.configure()
    balancer._use(config)
    assert balancer.states.weight("new", "n") == 0
