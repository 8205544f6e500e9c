"""What backends really do, as nobody but the simulation knows."""

from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import TYPE_CHECKING

from balancer.config.model import Backend, ResolvedBackend

if TYPE_CHECKING:
    from tests.simulation.wires import BackendWire

CONNECT_MAX = 0.005  # seconds
GOES_AFTER = 0.4  # seconds after an answer, at most, in which some backends close the connection
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"fine"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


class Manner(Enum):
    """What a backend does with connections."""

    ANSWERS = "answers"
    SILENT = "takes them, and says nothing"
    REFUSES = "refuses them, and breaks off those there are"
    FILTERED = "does not even refuse them"


class Truth(Enum):
    """What a backend really is: whether it passes checks, how often it fails requests, how long it takes."""

    GOOD = (True, 0.0, 0.03)
    LYING = (True, 1.0, 0.01)
    FLAKY = (True, 0.5, 0.03)
    SLOW = (True, 0.0, 0.2)
    SICK = (False, 0.0, 0.03)
    DEAD = (False, 1.0, 0.0, Manner.REFUSES)
    SILENT = (False, 1.0, 0.0, Manner.SILENT)
    FILTERED = (False, 1.0, 0.0, Manner.FILTERED)

    def __init__(self, passes: bool, failures: float, first_byte: float, manner: Manner = Manner.ANSWERS) -> None:
        self.passes = passes
        self.failures = failures
        self.first_byte = first_byte
        self.manner = manner


TRUTHS: tuple[tuple[Truth, ...], ...] = (
    tuple(Truth),
    tuple(Truth),
    (Truth.GOOD, Truth.GOOD, Truth.SLOW),
    (Truth.GOOD, Truth.FLAKY, Truth.LYING, Truth.DEAD),
    (Truth.GOOD, Truth.LYING),
)
"""What the backends of one schedule may become."""


@dataclass(eq=False)
class Server:
    """A backend: what it does, what operators want of it, and what the supervisor said of it."""

    entry: Backend
    slot: int = -1
    truth: Truth = Truth.GOOD
    weight: int = 1
    drained: bool = False
    next_check: float = 0.0
    ejected: bool = False
    half_open: bool = False
    healthy: bool = False  # as far as checks say, where there are any
    unhealthy: bool = False
    proven: bool = False  # it was healthy once, or in use without checks
    added: bool = False  # while the others served, and it was not healthy since

    @property
    def wanted(self) -> bool:
        """An operator wants it to have traffic."""
        return self.weight > 0 and not self.drained

    def as_new(self, entry: Backend, *, added: bool) -> None:
        """Nobody knows anything of it, or not any more."""
        self.as_in_the_file(entry)
        self.next_check = 0.0
        self.ejected = self.half_open = self.healthy = self.unhealthy = self.proven = False
        self.added = added

    def as_in_the_file(self, entry: Backend) -> None:
        """No operator has any wish beyond it."""
        self.entry = entry
        self.weight, self.drained = entry.weight, False

    def serve(self, wire: "BackendWire", rng: Random) -> None:
        """A request came: answer by and by, fail, or say nothing."""
        truth = self.truth
        if truth.manner in (Manner.SILENT, Manner.FILTERED):
            return
        after = truth.first_byte * rng.uniform(0.3, 1.7)
        if rng.random() < truth.failures:
            if truth.manner is Manner.REFUSES or rng.random() < 0.5:
                wire.plan(after, wire.reset)
            else:
                wire.plan(after, wire.answer, FAILED, True)
            return
        head, body = OK
        if rng.random() < 0.3:
            wire.plan(after, wire.answer, head, False)
            after += rng.uniform(0.0, 0.05)
            if rng.random() < 0.05:
                wire.plan(after, wire.reset)
            else:
                wire.plan(after, wire.answer, body, True)
        else:
            wire.plan(after, wire.answer, head + body, True)
        if rng.random() < 0.1:  # perhaps while the next request is on its way
            wire.loop.call_later(after + rng.uniform(0.0, GOES_AFTER), wire.go)


def resolved(entry: Backend, slot: int) -> ResolvedBackend:
    """A backend as the supervisor hands it over."""
    return ResolvedBackend(
        pool="p",
        name=entry.name,
        host="h",
        address=("10.0.0.1", entry.port, ""),
        slot=slot,
        weight=entry.weight,
        max_connections=entry.max_connections,
    )
