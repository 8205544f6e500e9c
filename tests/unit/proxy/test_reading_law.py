"""Reading from a client that uploads: never left paused where nothing lets it go on, never on while nobody takes it."""

import asyncio
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.balancing.backend import LoadTable
from balancer.balancing.pool import PoolState, make_strategy
from balancer.clock import monotonic
from balancer.config import model
from balancer.errors import CONNECT_FAILED, UPSTREAM_RESET, Outcome
from balancer.proxy import answering, retrying
from balancer.proxy.attempt import Attempt
from balancer.proxy.connections import ConnectError
from balancer.proxy.exchange import Exchange
from balancer.proxy.report import BackendCounters
from balancer.proxy.snapshot import PoolPlan
from balancer.proxy.waiting import WaitingLine
from balancer.telemetry.registry import Registry
from balancer.transport.timers import Deadlines
from tests.support.backends import make_backends

BACKENDS = 3


class FakeUpstream:
    """A connection whose write buffer is full when the test says so, or at once when it is sent something."""

    def __init__(self, connections: "Connections") -> None:
        self.connections = connections
        self.stalled = self.closed = False
        self.exchange: Any = None
        self.transport = SimpleNamespace(write=lambda _: None)
        self.watch_until = lambda _: None

    def send(self, exchange: Any, payload: bytes, deadline: float) -> None:
        self.exchange = exchange
        if self.connections.stalls_at_once:
            self.stall()

    def stall(self) -> None:
        self.stalled = True
        self.exchange.backend_is_slow()

    def drain(self) -> None:
        self.stalled = False
        self.exchange.backend_caught_up()

    def discard(self) -> None:
        self.closed = True


class Connections:
    """A backend's connections: idle ones, or one that is being opened until the test says how that ends."""

    def __init__(self) -> None:
        self.stale = [0]
        self.idle = self.stalls_at_once = False
        self.opening: asyncio.Future[bool] | None = None

    def take(self, now: float) -> FakeUpstream | None:
        return FakeUpstream(self) if self.idle else None

    async def connect(self, _: float | None) -> FakeUpstream:
        self.opening = asyncio.get_running_loop().create_future()
        try:
            if not await self.opening:
                raise ConnectError(CONNECT_FAILED, "refused")
        finally:
            self.opening = None
        return FakeUpstream(self)


class FakeExchange:
    """What an attempt, a line and `retrying` need of an exchange that uploads; the rest is the real thing's."""

    route = None
    repeatable = True
    fail = Exchange.fail
    backend_is_slow = Exchange.backend_is_slow
    backend_caught_up = Exchange.backend_caught_up

    def __init__(self, scene: "Scene") -> None:
        self.server = scene.server
        self.paused = self.over = False
        self.downstream = SimpleNamespace(
            closed=False,
            pause_reading=lambda: setattr(self, "paused", True),
            resume_reading=lambda: setattr(self, "paused", False),
            cut_off=lambda: None,
        )
        self.destination = SimpleNamespace(pool=scene.pool)
        self.head = SimpleNamespace(host_field=b"x", method=b"PUT")
        self.uploading = True
        self.status = 0
        self.attempt = Attempt(cast("Exchange", self))


class Scene:
    """A pool of which every backend takes one exchange, and what may happen to an upload there."""

    def __init__(self) -> None:
        self.other_worker = [0] * BACKENDS
        loads = LoadTable([0] * BACKENDS, [self.other_worker])
        self.backends = make_backends([1] * BACKENDS, 1)
        for backend in self.backends:
            backend.connections = Connections()
            backend.counters = BackendCounters(Registry(), "p", backend.name)
        self.server = SimpleNamespace(
            loads=loads,
            rng=Random(1),
            reports=SimpleNamespace(failed=lambda *_: None, succeeded=lambda *_: None),
            loop=asyncio.get_running_loop(),
            count_retry=lambda *_: None,
            log_failure=lambda *_: None,
        )
        state = PoolState("p", make_strategy("round_robin", loads, Random(1)), self.backends, loads)
        retry = model.Retry(attempts=4, when=("connect_failure", "reset", "503"))
        self.pool = PoolPlan(model.Pool(name="p", retry=retry), state, state.strategy)
        self.line = self.pool.line = WaitingLine(self.pool, Deadlines(), seconds=3600.0, most=10)
        self.exchange: FakeExchange | None = None

    def do(self, what: str, which: int) -> None:
        """One event, if it can happen now. `which` is a backend."""
        exchange = self.exchange
        connections: Connections = self.backends[which].connections
        if what == "occupy":
            self.other_worker[which] = 1
        elif what == "free":
            self.other_worker[which] = 0
        elif what == "tick":
            self.line.wake(monotonic())
        elif what == "idle":
            connections.idle = not connections.idle
        elif what == "full":
            connections.stalls_at_once = not connections.stalls_at_once
        elif what in ("connected", "refused"):
            for each in self.backends:
                if each.connections.opening is not None and not each.connections.opening.done():
                    each.connections.opening.set_result(what == "connected")
        elif exchange is None or exchange.over:
            self.exchange = exchange = FakeExchange(self)
            exchange.over = exchange.attempt.first(self.pool, b"PUT / HTTP/1.1\r\n\r\n", monotonic()) is not None
        else:
            self._at_its_backend(exchange, what)

    def _at_its_backend(self, exchange: FakeExchange, what: str) -> None:
        if what in ("data", "end") and exchange.uploading and not exchange.paused:
            exchange.uploading = what == "data"
            exchange.attempt.send_more(b"x", last=what == "end")
        upstream = cast("FakeUpstream | None", exchange.attempt.upstream)
        if upstream is None:
            return
        if what == "stall":
            upstream.stall()
        elif what == "drain" and upstream.stalled:
            upstream.drain()
        elif what == "reset":
            exchange.attempt.lost()
            exchange.fail(UPSTREAM_RESET)  # type: ignore[misc]
        elif what == "503":
            head: Any = SimpleNamespace(status=503, length=0, keep_alive=False)
            exchange.over = not retrying.replace(
                cast("Exchange", exchange), cast("Any", upstream), head, 0, monotonic()
            )
            if exchange.over:
                exchange.attempt.give_up()
                exchange.attempt.end(UPSTREAM_RESET, 503, monotonic())

    def look(self) -> None:
        """The law."""
        exchange = self.exchange
        if exchange is None or exchange.over:
            return
        attempt = exchange.attempt
        if exchange.paused:
            assert attempt.will_resume()
        if exchange.uploading and (attempt.connecting or attempt.line is not None):
            assert exchange.paused, "what comes would be collected"
        upstream = cast("FakeUpstream | None", attempt.upstream)
        if upstream is not None and upstream.stalled:
            assert exchange.paused, "what comes would pile up"


EVENTS = (
    *("begin", "data", "end", "reset", "503", "connected", "refused", "stall", "drain"),  # of the exchange
    *("idle", "full", "occupy", "free", "tick"),  # of a backend, and of time
)


SOME = st.sets(st.integers(0, BACKENDS - 1))


@given(SOME, SOME, st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, BACKENDS - 1)), max_size=30))
@settings(max_examples=300, deadline=None)
def test_reading_is_paused_exactly_while_somebody_will_let_it_go_on(
    busy: set[int], idle: set[int], events: list[tuple[str, int]]
) -> None:
    before = [*(("occupy", which) for which in busy), *(("idle", which) for which in idle), ("begin", 0)]

    def answered(exchange: Any, _: Outcome) -> None:
        exchange.over = True

    async def play() -> None:
        scene = Scene()
        for what, which in before + events:
            scene.do(what, which)
            for _ in range(4):  # the tasks that connect
                await asyncio.sleep(0)
            scene.look()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "outcome", answered)
        asyncio.run(play())
