"""The suite itself: it sees failures where nobody hides them, its bounds find breaches, and it runs before peers."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.faults import NAMES, WINS_DUE, gate, judge
from tests.integration.faults import bounds
from tests.integration.faults.load import Request, Result, Size
from tests.integration.faults.proxies import NOBODY, OURS, PEERS
from tests.integration.faults.rows import Row
from tests.integration.faults.run import problems, run_row
from tests.integration.faults.scenarios import SCENARIOS
from tests.integration.faults.summaries import Summary
from tests.support.faulty_origin import Journal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
SMALL = Size(gets=400, posts=100, seconds=1.0)
OLD = 1000.0  # a time of the results below


def result(number: int, kind: str = "200", method: str = "GET", *, at: float = OLD, port: int = 1) -> Result:
    return Result(Request(number, method), sent=at, ended=at + 0.001, kind=kind, port=port)


def row(*results: Result, **more: object) -> Row:
    made = Row("made", "none", Size(gets=len(results), posts=0, seconds=1.0), list(results))
    made.journal.requests = len(results)
    for name, value in more.items():
        setattr(made, name, value)
    return made


# ---- with nobody between the client and the backend


def test_without_a_proxy_every_500_is_a_failure_of_its_method(tmp_path: Path) -> None:
    seen = run_row(BY_NAME["half_500"], NOBODY, SMALL, tmp_path)
    assert seen is not None
    assert len(seen.results) == 500
    assert seen.journal.requests == 500
    assert seen.failed("GET") + seen.failed("POST") == seen.journal.kinds["500"] > 50
    assert min(seen.failed("GET"), seen.failed("POST")) > 0
    assert seen.duplicates == 0
    assert any("GETs failed" in problem for problem in problems(BY_NAME["half_500"], seen))


def test_without_a_proxy_a_dead_backend_refuses_and_one_that_is_back_serves(tmp_path: Path) -> None:
    size = Size(gets=400, posts=100, seconds=4.0)
    killed = run_row(BY_NAME["killed"], NOBODY, SMALL, tmp_path / "killed")
    back = run_row(BY_NAME["refused"], NOBODY, size, tmp_path / "refused")
    assert killed is not None
    assert back is not None
    for seen, scenario in ((killed, "killed"), (back, "refused")):
        assert seen.kinds["refused"] > 100
        assert set(seen.kinds) <= {"200", "refused", "reset", "unanswered", "truncated"}
        assert problems(BY_NAME[scenario], seen)
    in_order = sorted(back.results, key=lambda one: one.sent)
    assert (in_order[0].kind, in_order[-1].kind) == ("200", "200")


def test_a_reset_inside_an_answer_is_a_truncation_and_nothing_else_fails(tmp_path: Path) -> None:
    seen = run_row(BY_NAME["reset"], NOBODY, SMALL, tmp_path)
    assert seen is not None
    assert seen.kinds["truncated"] == seen.journal.kinds["reset"] > 0
    assert problems(BY_NAME["reset"], seen) == []


@pytest.mark.parametrize("peer", [pytest.param(name, marks=pytest.mark.real_part(name)) for name in PEERS])
def test_the_same_script_runs_before_a_peer(peer: str, tmp_path: Path) -> None:
    seen = run_row(BY_NAME["reset"], peer, SMALL, tmp_path)
    assert seen is not None
    assert seen.kinds["truncated"] == seen.journal.kinds["reset"] > 0
    assert problems(BY_NAME["reset"], seen) == []


def test_a_row_that_makes_no_sense_for_a_proxy_is_none(tmp_path: Path) -> None:
    assert run_row(BY_NAME["worker_killed"], NOBODY, SMALL, tmp_path) is None


# ---- the journals


def test_a_post_that_is_processed_again_is_counted(tmp_path: Path) -> None:
    journal = Journal()
    for name, text in (
        ("a", "POST 1 200\nGET 2 200\nPOST 3 silent\n"),
        ("b", "POST 1 500\nGET 2 200\n- - idle_closed\n"),
    ):
        (tmp_path / name).write_text(text)
        journal.read(tmp_path / name)
    assert (journal.requests, journal.duplicates) == (5, 1)
    assert journal.kinds == Counter({"200": 3, "silent": 1, "500": 1, "idle_closed": 1})


# ---- the bounds

OUTAGE = {"down": OLD, "returning": OLD + 3.0, "returned": OLD + 3.1}
TOLD = [result(number, "503", at=OLD + 2.0) for number in range(10)]


def twice() -> Row:
    return row(result(1), journal=Journal(requests=2, posts=Counter({1: 2})))


BREACHES: list[tuple[Callable[[Row], list[str]], Row]] = [
    (bounds.nothing_twice, twice()),
    (bounds.nothing_twice, row(result(1), size=Size(gets=2, posts=0, seconds=1.0))),
    (bounds.nothing_twice, row(result(1, "wrong"))),
    (bounds.no_get_fails, row(result(1, "502"))),
    (bounds.no_get_fails, row(result(1, "refused"))),
    (bounds.errors_and_attempts, row(result(1, "500"), result(2), journal=Journal(8, Counter({"500": 3})))),
    (bounds.errors_and_attempts, row(*map(result, range(4)), journal=Journal(6, Counter({"500": 2})))),
    (bounds.only_marked_fail, row(result(1, "truncated"))),
    (bounds.only_marked_fail, row(Result(Request(1, "GET", reset=True), OLD, OLD, "200", 1))),
    (bounds.only_cut_fail, row(result(1, "reset", port=7), cut_ports={8})),
    (bounds.only_cut_fail, row(result(1, "refused", port=0), cut_ports={8})),
    (bounds.only_cut_fail, row(result(1, "502", port=8), cut_ports={8})),
    (bounds.down_is_told_and_return_is_seen, row(*TOLD, result(20, "502", at=OLD + 2.0), marks=OUTAGE)),
    (bounds.down_is_told_and_return_is_seen, row(*TOLD, marks=OUTAGE)),
    (bounds.down_is_told_and_return_is_seen, row(*TOLD, result(20, at=OLD + 4.6), marks=OUTAGE)),
    (bounds.down_is_told_and_return_is_seen, row(result(20, at=OLD + 3.2), marks=OUTAGE)),
    (
        bounds.down_is_told_and_return_is_seen,
        row(
            *(Result(Request(1, "GET"), OLD + 2.0, OLD + 2.01, "503", 1) for _ in range(9)),
            result(20, at=OLD + 3.5),
            marks=OUTAGE,
        ),
    ),
]


@pytest.mark.parametrize(("bound", "seen"), BREACHES)
def test_a_breach_is_found(bound: Callable[[Row], list[str]], seen: Row) -> None:
    assert bound(seen)


KEPT: list[tuple[Callable[[Row], list[str]], Row]] = [
    (bounds.nothing_twice, row(result(1), result(2, "502", "POST"))),
    (bounds.no_get_fails, row(result(1), result(2, "502", "POST"))),
    (bounds.errors_and_attempts, row(result(1, "500"), result(2), journal=Journal(2, Counter({"500": 1})))),
    (bounds.only_marked_fail, row(Result(Request(1, "GET", reset=True), OLD, OLD, "truncated", 1), result(2))),
    (bounds.only_cut_fail, row(result(1, "reset", port=8), result(2), cut_ports={8})),
    (bounds.down_is_told_and_return_is_seen, row(*TOLD, result(20, at=OLD + 4.0), marks=OUTAGE)),
]


@pytest.mark.parametrize(("bound", "seen"), KEPT)
def test_what_is_allowed_is_not_a_breach(bound: Callable[[Row], list[str]], seen: Row) -> None:
    assert bound(seen) == []


def test_a_fault_that_was_not_felt_is_a_problem() -> None:
    assert problems(BY_NAME["silence"], row(result(1)))
    assert problems(BY_NAME["worker_killed"], row(result(1)))
    assert problems(BY_NAME["refused"], row(result(1))) == []


# ---- the comparison


def rounds(*failed: int, p99: float = 0.01, attempts: float = 1.0) -> list[Summary]:
    return [
        Summary(failed_gets=count, failed_posts=0, duplicates=0, attempts=attempts, p50=p99, p99=p99, longest=p99)
        for count in failed
    ]


def test_failures_decide_before_latency_and_chance_decides_nothing() -> None:
    refused = BY_NAME["refused"]
    assert str(judge(refused, rounds(0, 0, 0, 0, 0, p99=1.0), rounds(9, 8, 9, 8, 9))) == "won (failed)"
    assert str(judge(refused, rounds(9, 8, 9, 8, 9), rounds(0, 0, 0, 0, 0, p99=1.0))) == "lost (failed)"
    assert str(judge(refused, rounds(9, 0, 9, 0, 9), rounds(1, 0, 1, 0, 1, p99=0.01))) == "tie"
    assert str(judge(refused, rounds(0, 0, 0, 0, 0, p99=0.01), rounds(0, 0, 0, 0, 0, p99=0.02))) == "won (p99)"
    assert str(judge(refused, rounds(0, 0, 0, 0), rounds(9, 9, 9, 9))) == "too few rounds"
    assert str(judge(refused, rounds(0), [])) == "-"


def test_fewer_errors_bought_with_too_many_attempts_are_no_win() -> None:
    storm, calm = rounds(1, 1, 1, 1, 1, attempts=1.6), rounds(9, 9, 9, 9, 9, attempts=1.2)
    assert str(judge(BY_NAME["all_half_500"], calm, storm)) == "won (attempts beyond)"
    assert str(judge(BY_NAME["half_500"], calm, storm)) == "lost (failed)"


def test_the_gate_wants_every_row_measured_none_lost_and_some_won() -> None:
    even = {one.name: {proxy: rounds(0, 0, 0, 0, 0) for proxy in NAMES} for one in SCENARIOS}
    assert gate(even) == [f"0 rows are better than both peers, {WINS_DUE} are due"]
    won = {one.name: {**even[one.name], **{peer: rounds(9, 9, 9, 9, 9) for peer in PEERS}} for one in SCENARIOS}
    assert gate(won) == []
    lost = {**won, "killed": {**won["killed"], OURS: rounds(99, 99, 99, 99, 99)}}
    assert gate(lost) == ["killed: lost (failed)"] * len(PEERS)
    assert "killed: not measured often enough" in gate({**won, "killed": {}})
