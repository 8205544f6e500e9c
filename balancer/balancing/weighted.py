"""Smooth weighted round robin in nginx's exact order, at a cost that grows with the distinct weights only.

The rule (nginx, ngx_http_upstream_get_peer): at every pick each backend's current value rises by its weight; the
highest current is picked, the first in the file among equals; the picked one's current falls by W, the sum of the
weights. So after t picks, n of them at backend i, its current is t * w - n * W.

Why n backends need no n steps. Call `debt` what picks took from a current: current = t * w - debt. Backends of one
weight ("a class") differ in debt alone, so the best of a class is the one with the least debt, the first in the
file among equals, and only the best of each class can be the best of all. A pick thus compares one backend per
class. The picked one's debt rises by W. Each class is a queue sorted by (debt, place in the file): picks take from
the front in rising order of debt, and adding the same W to each keeps that order, so the picked one belongs at the
back of the queue. No search, no sort.

Backends left out (`exclude`) neither rise nor count in W, as in nginx: their debt rises by their weight, which
cancels the rise of t. Such a debt is no longer in step with its class. It is corrected when it comes to the front,
and, where the back of the queue is not its place, it waits in a small heap beside the queue until it is picked;
one round of picks later the heap is empty again.

Bounds, without exclusions: a backend never gets a whole pick more than its share, n < t * w / W + 1, because the
currents before the fall sum to W > 0, so the highest is positive; and after W picks everyone has exactly its weight
in picks.
"""

from collections import deque
from collections.abc import Collection, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState
from balancer.errors import Outcome

if TYPE_CHECKING:
    from random import Random

# (debt, place): sorts by least debt, then by the file's order.
Turn = tuple[int, int]


class _WeightClass:
    """The backends of one weight, the next to be picked first. `astray` holds those that the queue cannot take."""

    __slots__ = ("astray", "queue", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.queue: deque[Turn] = deque()
        self.astray: list[Turn] = []

    def put(self, turn: Turn) -> None:
        """Back into the class: O(1) in step, O(log of those astray) otherwise."""
        queue = self.queue
        if not queue or queue[-1] < turn:
            queue.append(turn)
        else:
            heappush(self.astray, turn)

    def first(self, debts: list[int]) -> Turn:
        """The next turn, with what exclusions added to its debt. Never of an empty class. Amortised O(1)."""
        queue, astray = self.queue, self.astray
        while True:
            turn = astray[0] if astray and (not queue or astray[0] < queue[0]) else queue[0]
            debt, place = turn
            if debts[place] == debt:
                return turn
            self.drop_first(turn)
            self.put((debts[place], place))

    def drop_first(self, turn: Turn) -> None:
        """Take out `turn`, which `first` just gave."""
        if self.queue and self.queue[0] is turn:
            self.queue.popleft()
        else:
            heappop(self.astray)


class Weighted:
    """Smooth weighted round robin: 5:1:1 gives a a b a c a a.

    A pick is O(distinct weights); with `exclude`, O(distinct weights + left out * log n).
    """

    __slots__ = ("_backends", "_classes", "_debts", "_places", "_ticks", "_total", "_weights")

    counts_attempts = False
    honours_weights = True

    def __init__(self) -> None:
        self._backends: list[BackendState] = []
        self._weights: list[int] = []
        self._places: dict[BackendState, int] = {}
        self._debts: list[int] = []
        self._classes: list[_WeightClass] = []
        self._total = 0
        self._ticks = 0

    def rebuild(self, eligible: Sequence[BackendState], weights: Sequence[int]) -> None:
        """Take a new list. O(n log n); nothing happens when it is the one in use.

        Backends that stay keep how far they are ahead of or behind their share, up to one pick: otherwise a list
        that changes often would start over each time and favour whoever is first.
        """
        backends, weights = list(eligible), list(weights)
        if backends == self._backends and weights == self._weights:
            return
        total = sum(weights)
        debts = self._carried_debts(backends, total)
        self._backends, self._weights, self._debts = backends, weights, debts
        self._places = {backend: place for place, backend in enumerate(backends)}
        self._total, self._ticks = total, 0
        classes: dict[int, _WeightClass] = {}
        for debt, place in sorted(zip(debts, range(len(debts)), strict=True)):
            weight = weights[place]
            if weight not in classes:
                classes[weight] = _WeightClass(weight)
            classes[weight].queue.append((debt, place))
        self._classes = list(classes.values())

    def _carried_debts(self, backends: Sequence[BackendState], total: int) -> list[int]:
        """Debts of a new list whose weights sum to `total`: as far from the mean, in picks, as they are now."""
        ahead: dict[BackendState, int] = {}
        for backend in backends:
            place = self._places.get(backend)
            if place is not None:
                ahead[backend] = (self._debts[place] - self._ticks * self._weights[place]) * total // self._total
        mean = sum(ahead.values()) // len(ahead) if ahead else 0
        return [max(-total, min(total, ahead[each] - mean)) if each in ahead else 0 for each in backends]

    def pick(
        self, *, now: float, key: bytes | None, exclude: Collection[BackendState], rng: "Random"
    ) -> BackendState | None:
        """The backend with the highest current, the first in the file among equals."""
        if exclude:
            return self._pick_outside(exclude)
        ticks = self._ticks + 1
        debts = self._debts
        best: _WeightClass | None = None
        best_turn = (0, 0)
        best_current = 0
        for weight_class in self._classes:
            queue = weight_class.queue
            # The plain case of first(), without the call.
            turn = queue[0] if queue and not weight_class.astray else weight_class.first(debts)
            if debts[turn[1]] != turn[0]:
                turn = weight_class.first(debts)
            current = ticks * weight_class.weight - turn[0]
            if best is None or current > best_current or (current == best_current and turn[1] < best_turn[1]):
                best, best_turn, best_current = weight_class, turn, current
        if best is None:
            return None
        self._ticks = ticks
        self._charge(best, best_turn, self._total)
        return self._backends[best_turn[1]]

    def _charge(self, weight_class: _WeightClass, turn: Turn, price: int) -> None:
        debt, place = turn
        weight_class.drop_first(turn)
        debt += price
        self._debts[place] = debt
        weight_class.put((debt, place))

    def _pick_outside(self, exclude: Collection[BackendState]) -> BackendState | None:
        debts = self._debts
        left_out = {self._places[backend] for backend in exclude if backend in self._places}
        if len(left_out) == len(self._backends):
            return None
        ticks = self._ticks + 1
        aside: list[tuple[_WeightClass, int]] = []
        best: _WeightClass | None = None
        best_turn = (0, 0)
        best_current = 0
        for weight_class in self._classes:
            turn: Turn | None = None
            while turn is None and (weight_class.queue or weight_class.astray):
                turn = weight_class.first(debts)
                if turn[1] in left_out:
                    weight_class.drop_first(turn)
                    aside.append((weight_class, turn[1]))
                    turn = None
            if turn is None:
                continue
            current = ticks * weight_class.weight - turn[0]
            if best is None or current > best_current or (current == best_current and turn[1] < best_turn[1]):
                best, best_turn, best_current = weight_class, turn, current
        assert best is not None, "a backend outside `exclude` is in some class"
        self._ticks = ticks
        self._charge(best, best_turn, self._total - sum(self._weights[place] for place in left_out))
        for place in left_out:
            debts[place] += self._weights[place]
        for weight_class, place in aside:
            weight_class.put((debts[place], place))
        return self._backends[best_turn[1]]

    def started(self, backend: BackendState, now: float) -> None:
        """Turns do not depend on load."""

    def finished(self, backend: BackendState, outcome: Outcome, latency: float, first_byte: float, now: float) -> None:
        """Turns do not depend on outcomes."""
