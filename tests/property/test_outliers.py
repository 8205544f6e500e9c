"""Passive detection under any order of reports, ticks and reloads: the pool always keeps enough backends."""

from math import floor
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.config.model import OutlierDetection
from balancer.resilience.outliers import Decision, OutlierDetector, Verdict

UNTIMED = settings(deadline=None)  # how long an example takes says something about the machine only
SLOTS = 7


def some_settings() -> st.SearchStrategy[OutlierDetection]:
    return st.builds(
        OutlierDetection,
        mode=st.sampled_from(["enforce", "enforce", "observe"]),
        consecutive_failures=st.none() | st.integers(1, 5),
        failure_rate=st.booleans(),
        latency=st.booleans(),
        window=st.sampled_from([0.5, 2.0, 10.0]),
        base_ejection=st.sampled_from([0.5, 3.0, 10.0]),
        max_ejection=st.sampled_from([0.25, 12.0, 300.0]),
        max_ejected=st.sampled_from([0.0, 0.1, 0.34, 0.5, 0.9, 1.0]),
    )


SLOT = st.integers(0, SLOTS)  # the last one is in no pool
BURST = st.tuples(
    st.just("failed"), SLOT, st.integers(1, 40), st.integers(0, 1)
)  # so many failures, with a success before each or none
STEPS = st.lists(
    st.one_of(
        BURST,
        BURST,
        st.tuples(st.just("succeeded"), SLOT, st.integers(0, 60), st.sampled_from([0.001, 0.01, 1.0, 60.0])),
        st.tuples(st.just("checked_healthy"), SLOT),
        st.tuples(st.just("tick"), st.sampled_from([0.0, 0.1, 1.0, 5.0, 15.0, 400.0])),
        st.tuples(st.just("tick"), st.sampled_from([0.1, 1.0])),
        st.tuples(st.just("keep"), st.sets(st.integers(0, SLOTS - 1))),
        st.tuples(st.just("reconfigure"), some_settings()),
    ),
    max_size=80,
)


class Watched:
    """A detector beside what its decisions say, and nothing else."""

    def __init__(self, chosen: OutlierDetection) -> None:
        self.settings = chosen
        self.detector = OutlierDetector(chosen, Random(1))
        self.pool = set(range(SLOTS))
        self.detector.keep(self.pool)
        self.now = 0.0
        self.open: dict[int, float] = {}  # when each is over at the latest
        self.half_open: set[int] = set()
        self.shares: dict[int, float] = {}
        self.settled = False  # yes: a tick came after the last change of pool or settings

    def step(self, name: str, *given: object) -> None:
        match name, given:
            case "failed", (int(slot), int(count), int(succeeded)):
                for _ in range(count):
                    self.follow(self.detector.failed(slot, "upstream_reset", succeeded, self.now))
            case "succeeded", (int(slot), int(count), float(mean)):
                self.follow(self.detector.succeeded(slot, count, count * mean, self.now))
            case "checked_healthy", (int(slot),):
                self.follow(self.detector.checked_healthy(slot, self.now))
            case "tick", (float(seconds),):
                self.tick(seconds)
            case "keep", (set() as slots,):
                self.pool = set(slots)
                self.detector.keep(self.pool)
                self.open = {slot: end for slot, end in self.open.items() if slot in self.pool}
                self.half_open &= self.pool
                self.shares = {slot: share for slot, share in self.shares.items() if slot in self.pool}
                self.settled = False
            case "reconfigure", (OutlierDetection() as chosen,):
                self.settings = chosen
                self.detector.reconfigure(chosen)
                self.settled = False
            case _:
                raise AssertionError(name, given)
        self.check()

    def tick(self, seconds: float) -> None:
        self.now += seconds
        if not self.settled:
            latest = self.now + 1.1 * self.settings.max_ejection
            self.open = {slot: min(end, latest) for slot, end in self.open.items()}
        self.settled = True
        self.follow(self.detector.tick(self.now))
        assert all(end > self.now for end in self.open.values()), "an ejection is over and nobody is on trial"

    def follow(self, decisions: list[Decision]) -> None:
        """Each decision is possible after those before it, and is all that changes."""
        for decision in decisions:
            slot = decision.slot
            assert slot in self.pool
            assert decision.cause
            assert decision.evidence
            assert (decision.seconds > 0.0) == (
                decision.verdict is Verdict.EJECTED
                or (decision.verdict is Verdict.OBSERVED and decision.cause != "latency")
            )
            match decision.verdict:
                case Verdict.EJECTED:
                    self.ejected(decision)
                case Verdict.HALF_OPEN:
                    del self.open[slot]
                    self.half_open.add(slot)
                case Verdict.RETURNED:
                    assert (slot in self.open) != (slot in self.half_open)
                    self.open.pop(slot, None)
                    self.half_open.discard(slot)
                case Verdict.OBSERVED:
                    assert self.settings.mode == "observe"
                case Verdict.SPARED:
                    assert slot not in self.open
                    assert slot not in self.half_open
                case Verdict.SLOWED:
                    assert self.detector.share(slot) < self.shares.get(slot, 1.0)
                    self.shares[slot] = self.detector.share(slot)
                case Verdict.SPED_UP:
                    assert self.detector.share(slot) > self.shares[slot]
                    self.shares[slot] = self.detector.share(slot)

    def ejected(self, decision: Decision) -> None:
        assert self.settings.mode == "enforce"
        assert decision.slot not in self.open
        assert (decision.slot in self.half_open) == (decision.cause == "trial")
        assert decision.seconds <= 1.1 * self.settings.max_ejection
        self.half_open.discard(decision.slot)
        self.open[decision.slot] = self.now + 1.1 * self.settings.max_ejection
        self.shares.pop(decision.slot, None)
        if self.settled and decision.cause != "trial":
            self.check_cap()

    def check_cap(self) -> None:
        out, count = len(self.open) + len(self.half_open), len(self.pool)
        assert out <= max(1, floor(count * self.settings.max_ejected + 1e-9))
        assert out < count or not out, "the last one of the pool"

    def check(self) -> None:
        for slot in range(SLOTS + 1):
            assert self.detector.is_half_open(slot) == (slot in self.half_open)
            assert self.detector.is_ejected(slot) == (slot in self.half_open or slot in self.open)
            assert self.detector.share(slot) == self.shares.get(slot, 1.0)
            assert 0.01 <= self.detector.share(slot) <= 1.0
        if self.settled:
            self.check_cap()
            if self.settings.mode == "observe":
                assert not self.open
                assert not self.half_open
                assert all(share == 1.0 for share in self.shares.values())


@given(some_settings(), STEPS)
@UNTIMED
def test_any_order_of_events_keeps_the_cap_the_last_backend_and_the_way_back(
    chosen: OutlierDetection, steps: list[tuple[object, ...]]
) -> None:
    watched = Watched(chosen)
    for name, *given_ in steps:
        watched.step(str(name), *given_)
    watched.tick(0.0)
    everybody_gets_back(watched)


def everybody_gets_back(watched: Watched) -> None:
    """After the longest ejection all are on trial; one success each, and a while in use, and all is as at first."""
    watched.tick(watched.settings.window)  # may still eject for what the window holds
    watched.tick(1.1 * watched.settings.max_ejection)
    assert not watched.open
    for slot in list(watched.half_open):
        watched.step("succeeded", slot, 1, 0.01)
    assert not watched.half_open
    for _ in range(10 * 8):
        watched.tick(max(1.0, watched.settings.window / 10))
    assert all(share == 1.0 for share in watched.shares.values())


def test_the_events_above_reach_every_verdict() -> None:
    """What the property looks at does happen."""
    rng = Random(7)
    seen: set[Verdict] = set()

    class Counting(Watched):
        def follow(self, decisions: list[Decision]) -> None:
            seen.update(decision.verdict for decision in decisions)
            super().follow(decisions)

    for mode in ("enforce", "observe"):
        watched = Counting(OutlierDetection(mode=mode))
        for _ in range(400):
            for slot in range(SLOTS):
                watched.step("succeeded", slot, 20, 1.0 if slot == 0 and rng.random() < 0.9 else 0.01)
            watched.step("failed", rng.randrange(1, SLOTS), rng.randint(1, 8), 0)
            watched.step("tick", 1.0)
    assert seen == set(Verdict)
