"""The weighted strategy against nginx's rule written down plainly, and its bounds."""

from collections import Counter
from collections.abc import Collection
from itertools import product
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.balancing.backend import BackendState
from balancer.balancing.weighted import Weighted
from tests.support.backends import make_backends

UNTIMED = settings(deadline=None)  # how long an example takes says something about the machine only


class PlainSmoothRoundRobin:
    """The rule of nginx's round robin, O(n) per pick."""

    def __init__(self, backends: list[BackendState]) -> None:
        self.backends = backends
        self.current = dict.fromkeys(backends, 0)

    def pick(self, exclude: Collection[BackendState] = ()) -> BackendState | None:
        best: BackendState | None = None
        total = 0
        for backend in self.backends:
            if backend in exclude:
                continue
            self.current[backend] += backend.weight
            total += backend.weight
            if best is None or self.current[backend] > self.current[best]:
                best = backend
        if best is not None:
            self.current[best] -= total
        return best


def both_of(weights: list[int]) -> tuple[Weighted, PlainSmoothRoundRobin]:
    backends = make_backends(weights)
    strategy = Weighted()
    strategy.rebuild(backends, weights)
    return strategy, PlainSmoothRoundRobin(backends)


def test_every_small_vector_of_weights_gives_nginxs_order() -> None:
    rng = Random(1)
    for count in range(1, 5):
        for weights in product(range(1, 6), repeat=count):
            strategy, plain = both_of(list(weights))
            for _ in range(2 * sum(weights) + 1):
                assert strategy.pick(now=0.0, key=None, exclude=(), rng=rng) is plain.pick()


WEIGHTS = st.lists(st.sampled_from([1, 1, 2, 3, 5, 8, 100]) | st.integers(1, 1000), min_size=1, max_size=30)


@given(WEIGHTS)
@UNTIMED
def test_the_order_is_nginxs_and_nobody_gets_a_pick_more_than_its_share(weights: list[int]) -> None:
    strategy, plain = both_of(weights)
    total = sum(weights)
    rng = Random(1)
    counts: Counter[BackendState] = Counter()
    for ticks in range(1, min(total, 1000) + 1):
        backend = strategy.pick(now=0.0, key=None, exclude=(), rng=rng)
        assert backend is plain.pick()
        assert backend is not None
        counts[backend] += 1
        # Only the picked one's count rose, so only its bound can have been passed: n < T * w / W + 1.
        assert (counts[backend] - 1) * total < ticks * backend.weight
        if ticks == total:
            assert all(counts[each] == each.weight for each in plain.backends)


@given(WEIGHTS, st.integers(0, 10**6), st.integers(1, 4))
@UNTIMED
def test_the_order_is_nginxs_also_when_backends_are_left_out(weights: list[int], seed: int, rarity: int) -> None:
    draw = Random(seed)
    strategy, plain = both_of(weights)
    for _ in range(150):
        exclude: set[BackendState] = set()
        if not draw.randrange(rarity):
            exclude = {backend for backend in plain.backends if draw.random() < 0.4}
        assert strategy.pick(now=0.0, key=None, exclude=exclude, rng=draw) is plain.pick(exclude)


def test_after_exclusions_the_queues_come_back_into_step() -> None:
    strategy, plain = both_of([1, 2, 2, 1, 2, 1, 1])
    rng = Random(2)
    for _ in range(100):
        strategy.pick(now=0.0, key=None, exclude={rng.choice(plain.backends)}, rng=rng)
    for _ in range(30):
        strategy.pick(now=0.0, key=None, exclude=(), rng=rng)
    assert all(not weight_class.astray for weight_class in strategy._classes)
