import asyncio
import selectors
from collections.abc import Callable, Coroutine
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from balancer.config.model import HealthCheck
from balancer.daemon import health_schedule
from balancer.daemon.health_schedule import Check, HealthSchedule
from balancer.transport.probe import ProbeResult, Target, Tls

HTTP = HealthCheck()


class VirtualSelector(selectors.SelectSelector):
    """Where a loop would wait, its clock goes on instead."""

    clock = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is planned any more: the loop would wait for ever")
        self.clock += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Virtual time; `turns` counts the turns of the loop."""

    def __init__(self) -> None:
        self.selector = VirtualSelector()
        self.turns = 0
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.clock

    def _run_once(self) -> None:
        self.turns += 1
        super()._run_once()  # type: ignore[misc]


class Tracker:
    """Asks for the same delay, spread by 10 %; notes in what order it is asked and told."""

    def __init__(self, delay: float = 5.0, log: list[str] | None = None) -> None:
        self.delay = delay
        self.log = log if log is not None else []

    def next_delay(self, rng: Random) -> float:
        self.log.append("next_delay")
        return self.delay * rng.uniform(0.9, 1.1)


class Bench:
    """A schedule on a virtual clock, with a probe that takes `takes` seconds and notes who asked when."""

    def __init__(self, loop: VirtualLoop, takes: float = 0.01, at_once: int = 1000) -> None:
        self.loop = loop
        self.takes = takes
        self.started: list[tuple[float, int]] = []  # (when, port): ports tell the slots apart
        self.ended: list[tuple[float, int]] = []
        self.seen: list[Tls | None] = []
        self.results: list[tuple[int, bool, str]] = []
        self.unable: list[tuple[int, str]] = []
        self.running: set[int] = set()
        self.most = 0
        self.passing = True
        self.ours = False
        self.schedule = HealthSchedule(
            result=lambda *result: self.results.append(result),
            rng=Random(1),
            now=loop.time,
            probe=self.probe,
            unable=lambda *what: self.unable.append(what),
            at_once=at_once,
        )

    async def probe(self, target: Target, check: HealthCheck, tls: Tls | None) -> ProbeResult:
        port = target.address[1]
        assert port not in self.running, "two probes for one slot"
        self.running.add(port)
        self.most = max(self.most, len(self.running))
        self.started.append((self.loop.time(), port))
        self.seen.append(tls)
        try:
            await asyncio.sleep(self.takes)
        finally:
            self.running.discard(port)
            self.ended.append((self.loop.time(), port))
        return ProbeResult(self.passing, f"evidence {port}", self.takes, self.ours)

    def times(self, port: int) -> list[float]:
        return [when for when, started in self.started if started == port]


def check_of(slot: int, tracker: Tracker, *, port: int | None = None, **other: Any) -> Check:
    target = Target(("127.0.0.1", slot if port is None else port, ""), "backend")
    return Check(slot, target, other.get("health_check", HTTP), other.get("tls"), tracker)


def checks_of(*slots: int, tracker: Tracker | None = None) -> dict[int, Check]:
    tracker = tracker or Tracker()
    return {slot: check_of(slot, tracker) for slot in slots}


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    errors: list[object] = []  # of tasks and callbacks: an assertion that failed there, too
    loop.set_exception_handler(lambda _, context: errors.append(context.get("exception", context)))
    try:
        loop.run_until_complete(main(loop))
        assert not asyncio.all_tasks(loop)
        assert not errors
    finally:
        loop.close()


async def for_seconds(bench: Bench, *steps: tuple[float, Callable[[], None]]) -> None:
    """Run the schedule; do each step at its time (the last one only ends it), then cancel it."""
    task = asyncio.ensure_future(bench.schedule.run())
    for when, step in steps:
        await asyncio.sleep(when - bench.loop.time())
        assert not task.done(), task
        step()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not bench.running


def nothing() -> None:
    pass


def test_the_first_probe_comes_at_once_and_the_next_after_the_delay() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop)
        bench.schedule.configure(checks_of(7))
        await for_seconds(bench, (100.0, nothing))
        times = bench.times(7)
        assert times[0] == 0.0
        assert 18 <= len(times) <= 23
        delays = [later - earlier - bench.takes for earlier, later in pairwise(times)]
        assert all(4.5 <= delay <= 5.5 + 2 * health_schedule.TICK for delay in delays)
        assert len(set(delays)) == len(delays)
        assert bench.results == [(7, True, "evidence 7")] * len(bench.ended)

    run(main)


def test_a_result_is_told_before_the_tracker_is_asked_for_the_delay() -> None:
    async def main(loop: VirtualLoop) -> None:
        log: list[str] = []
        bench = Bench(loop)
        bench.passing = False
        bench.schedule._result = lambda slot, passed, evidence: log.append(f"result {slot} {passed} {evidence}")
        bench.schedule.configure({3: check_of(3, Tracker(log=log))})
        await for_seconds(bench, (7.0, nothing))
        assert log == ["result 3 False evidence 3", "next_delay"] * 2

    run(main)


def test_first_probes_are_spread_over_turns_and_keep_their_order() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, takes=1.0, at_once=10_000)
        turns: list[int] = []
        probe = bench.probe

        async def counted(target: Target, check: HealthCheck, tls: Tls | None) -> ProbeResult:
            turns.append(loop.turns)
            return await probe(target, check, tls)

        bench.schedule._probe = counted
        bench.schedule.configure(checks_of(*range(1000)))
        await for_seconds(bench, (0.5, nothing))
        assert [port for _, port in bench.started] == list(range(1000))
        assert max(turns.count(turn) for turn in set(turns)) <= health_schedule.SLICE
        assert bench.started[-1][0] < 0.1

    run(main)


def test_while_the_loop_is_busy_few_are_started() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, at_once=10_000)
        probe = bench.probe

        async def costly(target: Target, check: HealthCheck, tls: Tls | None) -> ProbeResult:
            loop.selector.clock += 0.001  # as much CPU
            done = await probe(target, check, tls)
            loop.selector.clock += 0.001
            return done

        bench.schedule._probe = costly
        bench.schedule.configure(checks_of(*range(1000)))
        await for_seconds(bench, (4.0, nothing))
        assert len(bench.started) == 1000
        assert bench.most <= 50  # all that are started meanwhile would be 1000: each start costs as much as an end

    run(main)


def test_no_more_run_at_a_time_than_allowed_and_those_due_wait_in_order() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, takes=1.0, at_once=8)
        bench.schedule.configure(checks_of(*range(40)))
        await for_seconds(bench, (5.9, nothing))
        assert bench.most == 8
        ports = [port for _, port in bench.started]
        assert ports[:40] == list(range(40))
        assert bench.started[39][0] <= 4.0 + 10 * health_schedule.TICK  # freed room is used at once

    run(main)


def test_a_slow_probe_is_never_doubled() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, takes=30.0)
        bench.schedule.configure(checks_of(1, 2, tracker=Tracker(1.0)))
        await for_seconds(bench, (100.0, nothing))
        assert bench.most == 2
        assert len(bench.times(1)) == 4

    run(main)


def test_a_slot_that_stays_keeps_its_time_and_a_new_one_is_probed_at_once() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop)
        tracker = Tracker()
        bench.schedule.configure(checks_of(1, tracker=tracker))
        await for_seconds(
            bench,
            (1.0, lambda: bench.schedule.configure(checks_of(1, 2, tracker=tracker))),
            (2.0, lambda: bench.schedule.configure(checks_of(1, 2, tracker=tracker))),
            (4.4, nothing),
        )
        assert bench.times(1) == [0.0]
        assert bench.times(2) == [pytest.approx(1.0)]

    run(main)


@pytest.mark.parametrize("change", [
    {"port": 1001},
    {"health_check": HealthCheck(path="/other")},
    {"tracker": Tracker()},
    {"tls": ("context", "name")},
])  # fmt: skip
def test_a_slot_whose_settings_changed_is_probed_at_once(change: dict[str, Any]) -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop)
        old = Tracker()
        changed = check_of(1, **({"tracker": old} | change))
        bench.schedule.configure({1: check_of(1, old)})
        await for_seconds(bench, (2.0, lambda: bench.schedule.configure({1: changed})), (4.0, nothing))
        assert [when for when, _ in bench.started] == [0.0, pytest.approx(2.0)]

    run(main)


def test_an_equal_check_with_a_new_context_keeps_its_time_and_uses_the_context() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop)
        tracker = Tracker()

        def with_context(context: str) -> dict[int, Check]:
            return {1: check_of(1, tracker, tls=(context, "name"), health_check=HealthCheck(path="/same"))}

        bench.schedule.configure(with_context("old"))
        await for_seconds(bench, (2.0, lambda: bench.schedule.configure(with_context("new"))), (7.0, nothing))
        assert len(bench.started) == 2
        assert bench.started[1][0] > 4.0
        assert [tls and tls[0] for tls in bench.seen] == ["old", "new"]

    run(main)


def test_a_running_probe_of_a_slot_that_left_is_ended_and_not_told() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, takes=2.0)
        bench.schedule.configure(checks_of(1, 2))
        await for_seconds(bench, (1.0, lambda: bench.schedule.configure(checks_of())), (20.0, nothing))
        assert bench.results == []
        assert [when for when, _ in bench.ended] == [pytest.approx(1.0)] * 2

    run(main)


def test_a_probe_that_cannot_be_ended_is_still_not_told_nor_doubled() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, takes=2.0)
        probe = bench.probe

        async def deaf(target: Target, check: HealthCheck, tls: Tls | None) -> ProbeResult:
            running = asyncio.ensure_future(probe(target, check, tls))
            while not running.done():
                try:
                    await asyncio.shield(running)
                except asyncio.CancelledError:
                    continue
            return running.result()

        bench.schedule._probe = deaf
        tracker = Tracker(5.0)
        bench.schedule.configure({1: check_of(1, tracker, health_check=HealthCheck(path="/old"))})
        await for_seconds(
            bench,
            (1.0, lambda: bench.schedule.configure({1: check_of(1, tracker)})),
            (3.0, lambda: bench.results.append((0, True, "mark"))),
            (5.0, nothing),
        )
        assert [when for when, _ in bench.started] == [0.0, pytest.approx(2.0, abs=0.1)]
        assert bench.results == [(0, True, "mark"), (1, True, "evidence 1")]

    run(main)


def test_a_slot_that_left_and_came_back_while_its_probe_ran_is_probed_anew() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, takes=2.0)

        def swap() -> None:
            bench.schedule.configure({})
            bench.schedule.configure(checks_of(1))

        bench.schedule.configure(checks_of(1))
        await for_seconds(bench, (1.0, swap), (6.0, nothing))
        assert bench.times(1) == [0.0, pytest.approx(1.0, abs=0.1)]
        assert len(bench.results) == 1

    run(main)


def test_a_probe_cancelled_before_its_first_step_is_cleared_away() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop)
        schedule = bench.schedule
        schedule.configure(checks_of(1))
        schedule._start_due(loop)
        schedule.configure(checks_of(2))
        await for_seconds(bench, (1.0, nothing))
        assert [port for _, port in bench.started] == [2]

    run(main)


def test_a_configuration_wakes_a_schedule_that_had_nothing_to_do() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop)
        await for_seconds(bench, (50.0, lambda: bench.schedule.configure(checks_of(1))), (51.0, nothing))
        assert bench.times(1) == [pytest.approx(50.0)]

    run(main)


def test_a_result_may_lead_to_another_configuration() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop)
        bench.schedule._result = lambda *_: bench.schedule.configure(checks_of(2))
        bench.schedule.configure(checks_of(1))
        await for_seconds(bench, (4.0, nothing))
        assert len(bench.times(1)) == 1
        assert bench.times(2)

    run(main)


def test_an_end_cancels_the_probes_and_waits_for_them() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, takes=60.0)
        bench.schedule.configure(checks_of(*range(30)))
        await for_seconds(bench, (1.0, nothing))
        assert len(bench.ended) == 30
        assert bench.results == []
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_what_this_machine_could_not_ask_is_no_result_and_is_asked_again() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop)
        bench.ours = True
        bench.schedule.configure(checks_of(1))
        await for_seconds(bench, (7.0, nothing))
        assert bench.results == []
        assert bench.unable == [(1, "evidence 1")] * 2

    run(main)


def test_a_result_that_cannot_be_told_does_not_end_the_checks() -> None:
    async def main(loop: VirtualLoop) -> None:
        told: list[object] = []
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        bench = Bench(loop)
        bench.schedule._result = lambda *_: 1 / 0  # type: ignore[assignment, func-returns-value]
        bench.schedule.configure(checks_of(1))
        await for_seconds(bench, (7.0, nothing))
        assert len(bench.times(1)) == 2
        assert [type(error) for error in told] == [ZeroDivisionError] * 2

    run(main)


# ---- a share of the slots


def test_added_slots_are_probed_at_once_and_the_others_when_they_were_due() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop)
        tracker = Tracker()
        bench.schedule.configure(checks_of(1, tracker=tracker))
        more = checks_of(1, 2, tracker=tracker).values()
        await for_seconds(bench, (1.0, lambda: bench.schedule.add(more)), (4.4, nothing))
        assert bench.times(1) == [0.0]
        assert bench.times(2)[0] == pytest.approx(1.0)

    run(main)


def test_slots_that_were_added_together_do_not_stay_in_step() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop)
        bench.schedule.configure({})
        await for_seconds(bench, (1.0, lambda: bench.schedule.add(checks_of(*range(200)).values())), (8.0, nothing))
        second = sorted(bench.times(port)[1] - 1.0 for port in range(200))
        assert second[0] >= 5.0 * 0.9 * health_schedule.SPREAD_LEAST
        assert second[-1] < 6.0
        assert second[40] < 1.5  # a fifth of them in the first third: spread over all of it
        assert second[160] > 3.5

    run(main)


def test_dropped_slots_are_probed_no_more_and_what_runs_for_them_is_not_told() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, takes=2.0)
        bench.schedule.configure(checks_of(1, 2))
        await for_seconds(bench, (1.0, lambda: bench.schedule.drop([1, 7])), (20.0, nothing))
        assert bench.times(1) == [0.0]
        assert bench.ended[0] == (pytest.approx(1.0), 1)
        assert {slot for slot, _, _ in bench.results} == {2}

    run(main)


def test_a_slot_that_was_dropped_and_added_is_probed_once_at_a_time() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, takes=2.0)

        def swap() -> None:
            for _ in range(3):
                bench.schedule.drop([1])
                bench.schedule.add(checks_of(1).values())

        bench.schedule.configure(checks_of(1))
        # While its probe runs, and while it waits for the next.
        await for_seconds(bench, (1.0, swap), (5.0, swap), (8.0, nothing))
        assert bench.times(1)[:3] == [0.0, pytest.approx(1.0, abs=0.1), pytest.approx(5.0, abs=0.1)]
        assert bench.most == 1

    run(main)


def test_slots_that_come_and_go_leave_nothing_behind() -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop)
        bench.schedule.configure(checks_of(*range(10)))

        def swap() -> None:
            for _ in range(3000):
                bench.schedule.drop([3])
                bench.schedule.add(checks_of(3).values())
            assert len(bench.schedule._heap) <= 2 * 10 + health_schedule.LEFT_BEHIND + 1

        await for_seconds(bench, (1.0, swap), (20.0, nothing))
        assert len(bench.schedule._heap) <= 10
        assert len(bench.times(3)) >= 3

    run(main)


def test_any_history_keeps_the_promises() -> None:
    """Random configurations and shares: no slot is doubled, no configured slot is forgotten, no other is told."""

    async def main(loop: VirtualLoop) -> None:
        rng = Random(5)
        bench = Bench(loop, takes=0.7, at_once=6)
        tracker = Tracker(2.0)
        configured: dict[int, Check] = {}

        def told(slot: int, passed: bool, evidence: str) -> None:
            assert slot in configured
            bench.results.append((slot, passed, evidence))

        def change() -> None:
            nonlocal configured
            slots = rng.sample(range(12), rng.randrange(1, 6))
            what = rng.randrange(3)
            if what == 1:
                bench.schedule.add(check_of(slot, tracker) for slot in slots)
                configured = {slot: check_of(slot, tracker) for slot in slots} | configured
                return
            if what == 2:
                bench.schedule.drop(slots)
                configured = {slot: check for slot, check in configured.items() if slot not in slots}
                return
            paths = {slot: f"/{rng.randrange(2)}" for slot in rng.sample(range(12), rng.randrange(1, 12))}
            configured = {slot: check_of(slot, tracker, health_check=HealthCheck(path=p)) for slot, p in paths.items()}
            bench.schedule.configure(configured)

        bench.schedule._result = told
        steps = [(0.3 * step, change) for step in range(1, 300)]
        await for_seconds(bench, *steps, (120.0, nothing))
        assert bench.most == 6
        recent = {port for when, port in bench.started if when > 110.0}
        assert recent == set(configured)

    run(main)
