"""Is there an order of operations, each between its call and its return, in which every answer is right?

The search of Wing and Gong with Lowe's cache: take any operation that was called before the first return among those
that are left, go on from the state that it leads to, go back where a return cannot be passed. NP-complete in general;
the cost grows with how many operations are under way at once. Operations whose outcome is not known return never, and
fit with any answer.
"""

from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import TypeVar

from tests.simulation.cluster.history import Operation

S = TypeVar("S", bound=Hashable)

STEPS_MAX = 200_000
"""After so many the search gives up."""


class UndecidedError(Exception):
    """The search took too long to say."""


def linearizable(
    calls: Sequence[tuple[float, float]], start: S, step: Callable[[S, int], tuple[bool, S]], steps_max: int = STEPS_MAX
) -> bool:
    """`calls`: (called, returned) of each operation. `step(state, i)`: whether i's answer fits, and the next state."""
    count = len(calls)
    events = sorted(
        [(called, 0, at) for at, (called, _) in enumerate(calls)]
        + [(returned, 1, at) for at, (_, returned) in enumerate(calls)]
    )
    end = len(events) + 1
    following = [*range(1, end + 1), end]
    before = [0, *range(end)]
    of = [-1, *(at for _, _, at in events), -1]
    is_return = [False, *(bool(kind) for _, kind, _ in events), False]
    return_of = [0] * count
    for place, (_, kind, at) in enumerate(events, 1):
        if kind:
            return_of[at] = place
    state, taken = start, 0
    chosen: list[tuple[int, S]] = []
    seen: set[tuple[int, S]] = set()
    place, steps = following[0], 0
    needed = sum(1 << at for at, (_, returned) in enumerate(calls) if returned != inf)
    while taken & needed != needed:
        steps += 1
        if steps > steps_max:
            raise UndecidedError
        if place != end and not is_return[place]:
            at = of[place]
            fits, after = step(state, at)
            if fits and (taken | 1 << at, after) not in seen:
                seen.add((taken | 1 << at, after))
                chosen.append((place, state))
                state, taken = after, taken | 1 << at
                for gone in (place, return_of[at]):
                    following[before[gone]] = following[gone]
                    before[following[gone]] = before[gone]
                place = following[0]
            else:
                place = following[place]
            continue
        if not chosen:
            return False
        place, state = chosen.pop()
        at = of[place]
        taken &= ~(1 << at)
        for back in (return_of[at], place):
            following[before[back]] = back
            before[following[back]] = back
        place = following[place]
    return True


def register_step(operations: Sequence[Operation]) -> Callable[[bytes | None, int], tuple[bool, bytes | None]]:
    """The meaning of the operations on one key; the state is its value."""

    def step(state: bytes | None, at: int) -> tuple[bool, bytes | None]:
        operation = operations[at]
        known = operation.returned != inf
        match operation.kind:
            case "put":
                return True, operation.value
            case "delete":
                return not known or operation.done == (state is not None), None
            case "cas":
                holds = state == operation.wanted
                if known and (holds != operation.done or (not holds and state != operation.found)):
                    return False, state
                return True, operation.value if holds else state
            case _:
                return not known or state == operation.found, state

    return step


def check_key(operations: Sequence[Operation]) -> bool:
    """Whether this history of one key is linearizable. Reads of which nothing was heard say nothing."""
    told = [each for each in operations if each.kind != "get" or each.returned != inf]
    return linearizable([(each.called, each.returned) for each in told], None, register_step(told))
