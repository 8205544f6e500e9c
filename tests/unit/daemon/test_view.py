"""What the admin address tells while a generation comes into use."""

import asyncio
from random import Random
from typing import cast

from balancer.config.model import Backend, Config, Pool, ResolvedBackend
from balancer.daemon.messages import BackendStates
from balancer.daemon.operator import Operator
from balancer.daemon.shared_memory import SharedMemory
from balancer.daemon.states import States
from balancer.daemon.view import View
from balancer.daemon.workers import Workers
from balancer.telemetry import metrics
from balancer.telemetry.aggregate import Aggregate


class NoWorkers:
    slots: tuple[int, ...] = ()
    restarts_total = 0

    def ready(self) -> list[object]:
        return []


def ignore(_worker: int, _message: BackendStates) -> None:
    pass


def test_a_backend_that_the_states_do_not_know_yet_is_told_with_its_own_weight() -> None:
    """The view hears first of a generation, and somebody may ask before the states have taken it in."""
    config = Config(listeners=(), routes=(), pools=(Pool(name="p", backends=(Backend(name="a", port=1, weight=3),)),))
    backend = ResolvedBackend(pool="p", name="a", host="h", address=("10.0.0.1", 1, ""), slot=0, weight=3)
    memory = SharedMemory.create(rows=1, backends=1)
    view = View(cast(Workers, NoWorkers()), memory, config)
    states = States(tell=ignore, workers=list, counted=Aggregate(), rng=Random(1), now=lambda: 0.0)
    view.show(states, cast(Operator, None))
    view.serve_generation(1, config, [backend])
    aggregate = asyncio.run(view.aggregate())
    assert aggregate.values(metrics.BACKEND_WEIGHT, ("p", "a")) == [3.0]
    states.configure(config, [backend])
    states.set_live("p", "a", weight=5)
    aggregate = asyncio.run(view.aggregate())
    assert aggregate.values(metrics.BACKEND_WEIGHT, ("p", "a")) == [5.0]
    memory.close()
