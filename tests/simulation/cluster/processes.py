"""Clients and operators: generators that yield what they wait for, each with a clock of its own.

A process yields a call that takes (process, turn) and sees to it that `process.answer(turn, value)` is called; what is
called first counts, so that a wait may have a time-out.
"""

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.simulation.cluster.dials import MAX_RATE

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

Wait = Callable[["Process", int], None]
Doing = Generator[Wait, Any, Any]


class Process:
    """One generator on its way. `rate`: of its clock."""

    __slots__ = ("_doing", "_turn", "rate", "world")

    def __init__(self, world: "World", doing: Callable[["Process"], Doing]) -> None:
        self.world = world
        self.rate = world.rng.uniform(1 / MAX_RATE, MAX_RATE) if world.dials.drift else 1.0
        self._turn = 0
        self._doing = doing(self)
        world.timeline.after(0.0, self.answer, 0, None)

    def answer(self, turn: int, value: Any) -> None:
        """What was waited for in that turn has come, unless something else came before it."""
        if turn != self._turn:
            return
        self._turn += 1
        try:
            wait = self._doing.send(value)
        except StopIteration:
            return
        wait(self, self._turn)


def sleep(seconds: float) -> Wait:
    """For so long by the process's clock."""
    return partial(_sleep, seconds)


def _sleep(seconds: float, process: Process, turn: int) -> None:
    process.world.timeline.after(seconds / process.rate, process.answer, turn, None)
