"""What the supervisor decides reaches every worker: at once, once, and a trial at exactly one of them."""

from collections.abc import Iterator
from contextlib import suppress
from random import Random

import msgspec
import pytest
from structlog.testing import capture_logs

from balancer.admin.changes import UnknownBackendError
from balancer.config.model import (
    Backend,
    Bind,
    Config,
    HealthCheck,
    Listener,
    OutlierDetection,
    Pool,
    PoolAction,
    ResolvedBackend,
    Route,
)
from balancer.daemon import states
from balancer.daemon.messages import BackendStates, Failure, Outcomes, Successes
from balancer.daemon.states import POOLS_PER_TICK, TRIAL_PATIENCE, States
from balancer.resilience.known_backend import State
from balancer.resilience.standing import Standing
from balancer.telemetry import events, metrics
from balancer.telemetry.aggregate import Aggregate

CHECK = HealthCheck(healthy_after=2, unhealthy_after=3)
EJECT = OutlierDetection(consecutive_failures=3, failure_rate=False, latency=False, base_ejection=10.0)


def config_of(**pools: dict[str, object]) -> Config:
    """Pools by name; `backends` is a text of one-letter names, the other keys are the pool's."""
    made = []
    for name, settings in pools.items():
        backends = tuple(Backend(name=one, host="10.0.0.1", port=ord(one)) for one in str(settings.pop("backends")))
        defaults: dict[str, object] = {"outlier_detection": None, "slow_start": None}
        made.append(Pool(name=name, backends=backends, **{**defaults, **settings}))  # type: ignore[arg-type]
    return Config(
        listeners=(Listener(name="web", bind=(Bind(host="127.0.0.1"),)),),
        routes=(Route(name="all", action=PoolAction(pool=made[0].name)),),
        pools=tuple(made),
    )


def resolved(config: Config) -> list[ResolvedBackend]:
    """One address per backend. A slot is the letter's number, and a thousand more per pool."""
    return [
        ResolvedBackend(
            pool=pool.name,
            name=one.name,
            host=one.host,
            address=(one.host, one.port, ""),
            slot=1000 * number + one.port,
        )
        for number, pool in enumerate(config.pools)
        for one in pool.backends
    ]


class Fleet:
    """States with workers that keep what they are told, as workers do."""

    def __init__(self, config: Config, workers: int = 2) -> None:
        self.now = 0.0
        self.counted = Aggregate()
        self.ready: list[int] = []
        self.messages: list[tuple[int, BackendStates]] = []
        self.held: dict[int, dict[int, Standing]] = {}
        self.down: dict[int, tuple[str, ...]] = {}
        self.states = States(
            tell=self.told, workers=lambda: self.ready, counted=self.counted, rng=Random(1), now=lambda: self.now
        )
        self.states.configure(config, resolved(config), starting=True)
        for worker in range(workers):
            self.join(worker)

    def join(self, worker: int) -> None:
        """A worker that begins: it gets everything, and is ready."""
        self.held[worker] = {}
        self.take(worker, self.states.welcome(worker))
        self.ready.append(worker)

    def leave(self, worker: int) -> None:
        """A worker that ends."""
        self.ready.remove(worker)
        del self.held[worker]
        self.states.worker_gone(worker)

    def told(self, worker: int, message: BackendStates) -> None:
        self.messages.append((worker, message))
        if worker in self.held:
            self.take(worker, message)

    def take(self, worker: int, message: BackendStates) -> None:
        self.held[worker].update({change.slot: change for change in message.changes})
        self.down[worker] = message.down

    def sent(self) -> list[tuple[int, BackendStates]]:
        """What was sent since last asked."""
        messages, self.messages = self.messages, []
        return messages

    def eligible(self, worker: int = 0) -> str:
        """The letters of who is eligible in the first pool, as a worker holds it."""
        return "".join(sorted(chr(one.slot) for one in self.held[worker].values() if one.eligible and one.slot < 1000))

    def trials(self, name: str) -> list[int]:
        """The workers that hold the trial of a backend."""
        return [worker for worker, held in self.held.items() if held[ord(name)].trial]

    def fail(self, name: str, times: int = 3, worker: int = 0) -> None:
        """So many attempts fail, told in one message."""
        self.states.outcomes(worker, Outcomes(tuple(Failure(ord(name), "upstream_reset", 0) for _ in range(times))))

    def check(self, name: str, *results: bool) -> None:
        for passed in results:
            self.states.checked(ord(name), passed, "200" if passed else "refused")

    def tick(self, seconds: float = 0.1) -> None:
        self.now += seconds
        self.states.tick()

    def until(self, seconds: float) -> None:
        """Time passes in ticks."""
        while self.now < seconds:
            self.tick()


def half_open(workers: int = 2) -> Fleet:
    """A fleet whose backend `a` waits for its one request."""
    fleet = Fleet(config_of(p={"backends": "abc", "outlier_detection": EJECT}), workers)
    fleet.fail("a")
    fleet.until(12.0)
    assert fleet.states.facts("p", "a")[0].state is State.HALF_OPEN
    return fleet


# ---- what is told, and when


def test_a_worker_that_is_welcomed_holds_everything() -> None:
    fleet = Fleet(config_of(p={"backends": "ab"}, q={"backends": "c", "health_check": CHECK}), workers=1)
    unchecked = Standing(1099, True, 1, doubtful=True)
    assert fleet.held[0] == {97: Standing(97, True, 1), 98: Standing(98, True, 1), 1099: unchecked}
    assert fleet.sent() == []


def test_an_ejection_is_sent_in_the_call_that_decided_it_once_to_each_worker() -> None:
    fleet = Fleet(config_of(p={"backends": "abc", "outlier_detection": EJECT}), workers=3)
    fleet.fail("a", 2)
    assert fleet.sent() == []
    fleet.fail("a", 1, worker=1)
    sent = fleet.sent()
    assert [worker for worker, _ in sent] == [0, 1, 2]
    assert {message.changes for _, message in sent} == {(Standing(97, False, 1),)}
    assert len({message.epoch for _, message in sent}) == 1
    assert [fleet.eligible(worker) for worker in range(3)] == ["bc"] * 3


def test_epochs_rise_by_one() -> None:
    fleet = Fleet(config_of(p={"backends": "abc"}), workers=1)
    for weight in (2, 3, 4):
        fleet.states.set_live("p", "a", weight=weight)
    epochs = [message.epoch for _, message in fleet.sent()]
    assert epochs == list(range(epochs[0], epochs[0] + 3))
    assert fleet.states.welcome(1).epoch == epochs[-1]


def test_five_failures_are_five_whoever_reports_them() -> None:
    settings = msgspec.structs.replace(EJECT, consecutive_failures=5)
    fleet = Fleet(config_of(p={"backends": "abc", "outlier_detection": settings}), workers=2)
    for worker in (0, 1, 0, 1):
        fleet.fail("a", 1, worker)
    assert fleet.eligible() == "abc"
    fleet.fail("a", 1)
    assert fleet.eligible(0) == fleet.eligible(1) == "bc"


def test_results_of_checks_are_sent_at_once_but_those_that_follow_in_the_same_tick_together() -> None:
    fleet = Fleet(config_of(p={"backends": "abcdefgh", "health_check": CHECK, "panic_threshold": 0.0}), workers=1)
    fleet.tick()
    fleet.check("a", True)
    assert len(fleet.sent()) == 1
    for name in "bcde":
        fleet.check(name, True)
    assert fleet.sent() == []
    fleet.tick()
    assert len(fleet.sent()) == 1
    assert fleet.eligible() == "abcde"
    fleet.check("f", True)
    assert fleet.eligible() == "abcdef", "a quiet time again"


def test_that_a_pool_is_down_or_back_never_waits() -> None:
    fleet = Fleet(config_of(p={"backends": "ab", "health_check": CHECK}), workers=1)
    fleet.check("a", False)
    fleet.check("b", False)
    assert fleet.down[0] == ("p",)
    assert fleet.eligible() == ""
    assert fleet.states.welcome(5).down == ("p",)
    fleet.check("a", True, True)
    assert fleet.down[0] == ()
    assert fleet.eligible() == "a"


def test_a_change_between_a_welcome_and_readiness_is_not_lost() -> None:
    fleet = Fleet(config_of(p={"backends": "abc"}), workers=1)
    fleet.held[1] = {}
    fleet.take(1, fleet.states.welcome(1))  # not ready yet
    fleet.states.set_live("p", "a", drained=True)
    assert fleet.held[1] == fleet.held[0]
    assert fleet.eligible(1) == "bc"


def test_a_worker_that_is_gone_is_told_nothing() -> None:
    fleet = Fleet(config_of(p={"backends": "abc"}))
    fleet.leave(1)
    fleet.states.set_live("p", "a", weight=2)
    assert [worker for worker, _ in fleet.sent()] == [0]


def test_nothing_is_sent_when_nothing_changed() -> None:
    fleet = Fleet(config_of(p={"backends": "abc", "outlier_detection": EJECT, "health_check": CHECK}))
    fleet.check("a", True)
    fleet.check("b", True)
    fleet.tick()
    fleet.sent()
    fleet.states.outcomes(0, Outcomes(successes=(Successes(97, 10, 0.1), Successes(5, 1, 0.0))))
    fleet.fail("a", 1)
    fleet.check("a", True)
    fleet.check("b", False)
    fleet.states.checked(4711, True, "of a backend that is gone")
    fleet.states.set_live("p", "a", weight=1, drained=False)
    fleet.until(60.0)
    assert fleet.sent() == []


# ---- trials


def test_a_trial_is_exactly_one_workers() -> None:
    fleet = half_open(workers=4)
    assert len(fleet.trials("a")) == 1
    assert all(fleet.eligible(worker) == "bc" for worker in range(4))


@pytest.mark.parametrize("well", [True, False])
def test_the_result_of_a_trial_ends_it(well: bool) -> None:
    fleet = half_open()
    holder = fleet.trials("a")[0]
    if well:
        fleet.states.outcomes(holder, Outcomes(successes=(Successes(97, 1, 0.01),)))
        assert fleet.eligible() == "abc"
    else:
        fleet.fail("a", 1, holder)
        assert fleet.states.facts("p", "a")[0].state is State.EJECTED
    assert fleet.trials("a") == []


def test_a_result_from_another_worker_ends_it_too() -> None:
    fleet = half_open()
    fleet.fail("a", 1, worker=1 - fleet.trials("a")[0])
    assert fleet.trials("a") == []


def test_a_trial_without_a_result_goes_to_another_worker() -> None:
    fleet = half_open()
    seen = [fleet.trials("a")]
    for _ in range(3):
        fleet.until(fleet.now + TRIAL_PATIENCE + 0.2)
        seen.append(fleet.trials("a"))
    assert seen in ([[0], [1], [0], [1]], [[1], [0], [1], [0]])


def test_the_only_worker_is_asked_again() -> None:
    fleet = half_open(workers=1)
    fleet.sent()
    fleet.until(fleet.now + 2 * TRIAL_PATIENCE + 0.5)
    assert [message.changes for _, message in fleet.sent()] == [(Standing(97, False, 1, trial=True),)] * 2


def test_only_those_whose_trial_it_is_hear_of_it() -> None:
    fleet = half_open(workers=5)
    fleet.sent()
    fleet.until(fleet.now + TRIAL_PATIENCE + 0.2)
    assert len(fleet.sent()) == 2


def test_a_trial_of_a_worker_that_ended_goes_to_another_at_once() -> None:
    fleet = half_open()
    holder = fleet.trials("a")[0]
    fleet.leave(holder)
    assert fleet.trials("a") == [1 - holder]


def test_a_trial_waits_for_a_worker_and_its_successor_gets_it() -> None:
    fleet = half_open(workers=1)
    fleet.leave(0)
    fleet.until(fleet.now + 20.0)
    fleet.join(0)
    assert fleet.trials("a") == [0]
    assert fleet.held[0][97].eligible is False


def test_a_backend_that_is_drained_loses_its_trial_and_gets_it_back() -> None:
    fleet = half_open()
    fleet.states.set_live("p", "a", drained=True)
    assert fleet.trials("a") == []
    fleet.states.set_live("p", "a", drained=False)
    assert len(fleet.trials("a")) == 1


def test_another_change_of_the_backend_leaves_the_trial_where_it_is() -> None:
    fleet = half_open()
    before = fleet.trials("a")
    fleet.states.set_live("p", "a", weight=5)
    assert fleet.trials("a") == before


# ---- operators


def test_an_operators_wish_is_sent_at_once_and_told_of() -> None:
    fleet = Fleet(config_of(p={"backends": "abc"}))
    with capture_logs() as logged:
        fleet.states.set_live("p", "a", weight=7, drained=True)
        fleet.states.set_live("p", "a", weight=7)
        fleet.states.set_live("p", "a", drained=False)
    assert [entry["event"] for entry in logged] == [
        events.BACKEND_WEIGHT_SET,
        events.BACKEND_DRAIN_BEGAN,
        events.BACKEND_DRAIN_ENDED,
    ]
    assert fleet.held[1][97] == Standing(97, True, 7)
    assert fleet.states.weight("p", "a") == 7
    facts = fleet.states.facts("p", "a")[0]
    assert (facts.weight, facts.file_weight) == (7, 1)


def test_a_drained_backend_weighs_nothing_and_is_told_from_a_draining_one() -> None:
    fleet = Fleet(config_of(p={"backends": "abc"}))
    fleet.states.set_live("p", "a", drained=True)
    assert fleet.eligible() == "bc"
    assert fleet.states.weight("p", "a") == 0
    assert fleet.states.facts("p", "a")[0].state is State.DRAINING
    assert fleet.states.facts("p", "a", lambda slot: 0)[0].state is State.DRAINED


def test_names_that_there_are_not_are_refused_with_those_that_there_are() -> None:
    fleet = Fleet(config_of(p={"backends": "ab"}, q={"backends": "c"}))
    with pytest.raises(UnknownBackendError, match=r"x.*a.*b"):
        fleet.states.set_live("p", "x", weight=1)
    with pytest.raises(UnknownBackendError, match=r"r.*p.*q"):
        fleet.states.facts("r", "a")
    with pytest.raises(UnknownBackendError):
        fleet.states.weight("q", "a")


# ---- reloads


def test_a_reload_tells_of_new_backends_only_and_keeps_what_is_known() -> None:
    fleet = Fleet(config_of(p={"backends": "abc", "outlier_detection": EJECT}))
    fleet.fail("a")
    fleet.states.set_live("p", "b", weight=4)
    fleet.sent()
    after = config_of(p={"backends": "abcd", "outlier_detection": EJECT, "slow_start": 30.0})
    fleet.states.configure(after, resolved(after))
    assert [message.changes for _, message in fleet.sent()] == [(Standing(100, True, 1, 0.1),)] * 2
    assert fleet.held[0][97].eligible is False
    assert fleet.held[0][98].weight == 4


def test_what_is_removed_is_not_told_of_any_more() -> None:
    fleet = half_open()
    after = config_of(p={"backends": "bc", "outlier_detection": EJECT}, q={"backends": "z"})
    fleet.states.configure(after, resolved(after))
    fleet.sent()
    fleet.until(fleet.now + 20.0)
    fleet.fail("a")
    assert 97 not in {change.slot for _, message in fleet.sent() for change in message.changes}
    assert {change.slot for change in fleet.states.welcome(9).changes} == {98, 99, 1122}
    with pytest.raises(UnknownBackendError):
        fleet.states.facts("p", "a")


def test_a_pool_that_is_gone_is_not_down() -> None:
    fleet = Fleet(config_of(p={"backends": "a", "health_check": CHECK}, q={"backends": "b"}))
    fleet.check("a", False)
    assert fleet.down[0] == ("p",)
    after = config_of(q={"backends": "b"})
    fleet.states.configure(after, [msgspec.structs.replace(one, slot=1098) for one in resolved(after)])
    assert fleet.down[0] == ()


def test_checks_are_those_of_the_configuration_and_trackers_outlive_a_reload() -> None:
    fleet = Fleet(config_of(p={"backends": "ab", "health_check": CHECK}, q={"backends": "c"}))
    before = fleet.states.checks()
    assert set(before) == {97, 98}
    after = config_of(p={"backends": "bd", "health_check": msgspec.structs.replace(CHECK, interval=1.0)})
    fleet.states.configure(after, resolved(after))
    assert set(fleet.states.checks()) == {98, 100}
    assert fleet.states.checks()[98] is before[98]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_while_a_configuration_is_taken_in_workers_hold_what_is_decided(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "BACKENDS_PER_SLICE", 1)
    rng = Random(seed)

    def some() -> Config:
        pools = {
            name: {
                "backends": "".join(sorted(rng.sample("abcdef", rng.randint(1, 5)))),
                "health_check": rng.choice([None, CHECK]),
                "outlier_detection": rng.choice([None, EJECT]),
                "slow_start": rng.choice([None, 5.0]),
            }
            for name in rng.sample("pqrs", rng.randint(1, 4))
        }
        return config_of(**{name: dict(settings) for name, settings in pools.items()})

    def with_slots(config: Config) -> list[ResolvedBackend]:
        """A slot belongs to a pool and a backend, and so is never another's."""
        return [msgspec.structs.replace(one, slot=1000 * ord(one.pool) + ord(one.name)) for one in resolved(config)]

    def something(fleet: Fleet) -> None:
        fleet.now += rng.choice([0.0, 0.1, 4.0])
        slot, worker = 1000 * rng.choice(b"pqrs") + rng.choice(b"abcdef"), rng.randrange(2)
        match rng.randrange(5):
            case 0:
                fleet.states.outcomes(worker, Outcomes((Failure(slot, "reset", 0),) * 3, ()))
            case 1:
                fleet.states.checked(slot, rng.random() < 0.5, "as told")
            case 2:
                fleet.states.tick()
            case 3:
                fleet.leave(worker)
                fleet.join(worker)
            case 4:
                with suppress(UnknownBackendError):
                    fleet.states.set_live(chr(slot // 1000), chr(slot % 1000), weight=rng.randint(0, 3))

    fleet = Fleet(some())
    for _ in range(20):
        config = some()
        for _ in fleet.states.configure_in_slices(config, with_slots(config)):
            for _ in range(rng.randrange(4)):
                something(fleet)
        for _ in range(rng.randrange(4)):
            something(fleet)
        fleet.states.tick()
        slots = {one.slot for one in with_slots(config)}
        for worker in range(2):
            held = {slot: standing for slot, standing in fleet.held[worker].items() if slot in slots}
            before = dict(held)
            fleet.leave(worker)
            fleet.join(worker)
            after = fleet.held[worker]
            assert set(after) == slots == set(before)
            for slot in slots:
                assert msgspec.structs.replace(before[slot], trial=False) == msgspec.structs.replace(
                    after[slot], trial=False
                )
            assert fleet.states.checks().keys() <= slots


# ---- metrics and logs


def value(fleet: Fleet, family: str, *labels: str) -> float:
    return fleet.counted.values(family, labels)[0]


def test_metrics_follow() -> None:
    fleet = Fleet(config_of(p={"backends": "abcd", "health_check": CHECK, "outlier_detection": EJECT}))
    assert value(fleet, metrics.BACKEND_UP, "p", "a") == 0
    for name in "abcd":
        fleet.check(name, True)
    assert value(fleet, metrics.BACKEND_UP, "p", "a") == 1
    fleet.check("a", False, False, False)
    assert value(fleet, metrics.BACKEND_UP, "p", "a") == 0
    assert value(fleet, metrics.HEALTH_CHECKS, "p", "a", "failed") == 3
    assert value(fleet, metrics.HEALTH_CHECKS, "p", "a", "passed") == 1
    fleet.fail("b")
    assert value(fleet, metrics.BACKEND_UP, "p", "b") == 0
    assert value(fleet, metrics.BACKEND_EJECTIONS, "p", "b") == 1
    assert value(fleet, metrics.EJECTIONS_DETECTED, "p", "b") == 1
    assert value(fleet, metrics.PANIC, "p") == 0
    fleet.check("c", False, False, False)
    assert value(fleet, metrics.PANIC, "p") == 1


def test_observed_ejections_are_detected_and_not_made() -> None:
    settings = msgspec.structs.replace(EJECT, mode="observe")
    fleet = Fleet(config_of(p={"backends": "ab", "outlier_detection": settings}))
    with capture_logs() as logged:
        fleet.fail("a")
    assert value(fleet, metrics.BACKEND_EJECTIONS, "p", "a") == 0
    assert value(fleet, metrics.EJECTIONS_DETECTED, "p", "a") == 1
    assert [(entry["event"], entry["kept_by"]) for entry in logged] == [(events.EJECTION_DETECTED, "observe")]


def test_series_of_backends_that_are_gone_go() -> None:
    fleet = Fleet(config_of(p={"backends": "ab", "health_check": CHECK}, q={"backends": "c"}))
    fleet.check("a", True)
    after = config_of(p={"backends": "b", "health_check": CHECK})
    fleet.states.configure(after, resolved(after))
    for family in (metrics.BACKEND_UP, metrics.HEALTH_CHECKS, metrics.PANIC):
        labels = {one.labels for series in fleet.counted.series(family) for one in series}
        assert not labels & {("p", "a"), ("p", "a", "passed"), ("q", "c"), ("q",)}
    assert value(fleet, metrics.PANIC, "p") == 0


def test_each_change_is_one_event_with_its_evidence() -> None:
    settings = {"backends": "abcd", "health_check": CHECK, "outlier_detection": EJECT}
    fleet = Fleet(config_of(p=settings))
    with capture_logs() as logged:
        for name in "abcd":
            fleet.check(name, True)
        fleet.check("a", False, False, False)
        fleet.fail("b")
        fleet.check("c", False, False, False)
        fleet.check("c", True, True)
        fleet.until(12.0)
        fleet.states.outcomes(0, Outcomes(successes=(Successes(98, 1, 0.01),)))
    assert [entry["event"] for entry in logged] == [
        *[events.BACKEND_HEALTHY] * 4,
        events.BACKEND_UNHEALTHY,
        events.BACKEND_EJECTED,
        events.BACKEND_UNHEALTHY,
        events.PANIC_BEGAN,
        events.BACKEND_HEALTHY,
        events.PANIC_ENDED,
        events.BACKEND_HALF_OPEN,
        events.BACKEND_RETURNED,
    ]
    by_event = {entry["event"]: entry for entry in logged}
    assert by_event[events.BACKEND_UNHEALTHY]["evidence"] == "refused"
    assert by_event[events.BACKEND_UNHEALTHY]["address"] == "10.0.0.1:99"
    assert by_event[events.BACKEND_EJECTED]["duration_ms"] >= 9000
    assert by_event[events.PANIC_BEGAN]["evidence"] == "1 of 4 usable, 2 unhealthy, 1 ejected"


# ---- the law


def operations(fleet: Fleet, rng: Random, names: str) -> Iterator[None]:
    """Random things happen, one per step."""
    while True:
        name = rng.choice(names)
        match rng.randrange(8):
            case 0 | 1:
                fleet.fail(name, rng.randint(1, 4), rng.randrange(3))
            case 2:
                fleet.states.outcomes(0, Outcomes(successes=(Successes(ord(name), rng.randint(1, 9), 0.1),)))
            case 3 | 4:
                fleet.check(name, *[rng.random() < 0.5] * rng.randint(1, 3))
            case 5:
                fleet.states.set_live(
                    "p", name, weight=rng.choice([None, 0, 1, 2]), drained=rng.choice([None, True, False])
                )
            case 6:
                fleet.tick(rng.choice([0.1, 0.1, 1.0, 6.0]))
            case _:
                worker = rng.randrange(3)
                if worker in fleet.ready:
                    fleet.leave(worker)
                else:
                    fleet.join(worker)
        yield


@pytest.mark.parametrize("seed", range(20))
def test_workers_hold_what_is_decided_and_a_trial_is_one_workers(seed: int) -> None:
    names = "abcdef"
    settings = {"backends": names, "health_check": CHECK, "outlier_detection": EJECT, "slow_start": 5.0}
    fleet = Fleet(config_of(p=settings), workers=3)
    for step, _ in enumerate(operations(fleet, Random(seed), names)):
        if step == 300:
            break
        if step % 5 == 0:
            fleet.tick()
            decided = {change.slot: change for change in fleet.states.welcome(99).changes}
            fleet.states.worker_gone(99)
            for worker in fleet.ready:
                held = {slot: msgspec.structs.replace(one, trial=False) for slot, one in fleet.held[worker].items()}
                assert held == {slot: msgspec.structs.replace(one, trial=False) for slot, one in decided.items()}
            for name in names:
                waits = fleet.states.facts("p", name)[0].state is State.HALF_OPEN
                assert len(fleet.trials(name)) == (1 if waits and fleet.ready else 0)


def test_many_pools_are_looked_at_in_turns_and_none_is_forgotten() -> None:
    count = 3 * POOLS_PER_TICK
    pools = tuple(
        Pool(name=f"p{number}", backends=(Backend(name="a", host="10.0.0.1", port=1),), slow_start=30.0)
        for number in range(count)
    )
    config = msgspec.structs.replace(config_of(p={"backends": "a"}), pools=pools)
    backends = [
        ResolvedBackend(pool=pool.name, name="a", host="10.0.0.1", address=("10.0.0.1", 1, ""), slot=slot)
        for slot, pool in enumerate(pools)
    ]
    fleet = Fleet(config_of(p={"backends": "a"}), workers=1)
    fleet.states.configure(config, backends)
    fleet.now += 31.0
    for _ in range(4):
        fleet.tick()
    assert [fleet.held[0][slot].share for slot in range(count)] == [1.0] * count
    assert sum(series.current()[0] for some in fleet.counted.series(metrics.BACKEND_UP) for series in some) == count
