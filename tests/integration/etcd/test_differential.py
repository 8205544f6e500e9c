"""Our gateway answers as real etcds do; where it does not, docs/etcd-differences.yaml says so and why."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.etcd.differential import KINDS, run
from tests.support.etcd_answers import Normal, Outcome
from tests.support.etcd_differences import EXPLANATIONS, REDUCTIONS, REWRITES, Differences
from tests.support.etcd_planned import PLANNED
from tests.support.etcd_steps import Call
from tests.support.etcd_streams import StreamFaultError, watched
from tests.support.etcd_versions import VERSIONS

PLANNED_ONES = [(kind, 0) for kind in PLANNED]


def check(folder: Path, counts: dict[str, int], *, member: bool = False) -> None:
    assert counts.keys() == KINDS.keys()
    sequences = [(kind, seed) for kind, count in counts.items() for seed in range(count)]
    comparison = run(folder, PLANNED_ONES + sequences, member=member)
    assert not comparison.faults, "\n".join(comparison.faults)
    unused = comparison.differences.pairs - comparison.differences.used.keys()
    assert not unused, f"entries of docs/etcd-differences.yaml that no answer needed: {sorted(unused)}"


def test_random_requests_are_answered_as_by_etcd(tmp_path: Path) -> None:
    check(tmp_path, {"keys": 15, "watches": 6, "locks": 5, "elections": 5})


def test_a_whole_member_answers_as_etcd_does(tmp_path: Path) -> None:
    """The same through elections, the log and the disk; what is answered is decided beneath, so a few will do."""
    check(tmp_path, {"keys": 3, "watches": 3, "locks": 3, "elections": 3}, member=True)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_whole_member_answers_as_etcd_does_for_long(tmp_path: Path) -> None:
    check(tmp_path, {"keys": 100, "watches": 50, "locks": 50, "elections": 50}, member=True)


@pytest.mark.full
@pytest.mark.timeout(3 * 3600)
def test_three_thousand_random_sequences_are_answered_as_by_etcd(tmp_path: Path) -> None:
    check(tmp_path, {"keys": 1500, "watches": 700, "locks": 400, "elections": 400})


def test_every_permitted_difference_has_a_rule_and_every_rule_an_entry() -> None:
    assert {name for name, _ in Differences().pairs} == REWRITES.keys() | EXPLANATIONS.keys() | REDUCTIONS.keys()


def outcome(text: str, status: int = 200) -> Outcome:
    return Outcome(status, "application/json", text)


STEP = Call("/v3/kv/range", {"key": "YQ=="})


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (outcome('{"count": "1"}'), outcome('{"count": "2"}')),
        (outcome('{"a": 1, "b": 2}'), outcome('{"b": 2, "a": 1}')),
        (outcome("{}"), outcome("{}", 400)),
        (outcome('{"count": "1"}'), outcome('{"count": 1}')),
        (outcome('{"error": "a", "code": 3, "message": "a"}', 400), outcome('{"error": "b"}', 400)),
        (
            outcome('{"error": "b", "code": 3, "message": "b", "details": []}', 400),
            outcome('{"error": "a", "code": 3, "message": "a"}', 400),
        ),
        (
            outcome('{"error": "b", "code": 3, "message": "b", "details": []}', 400),
            outcome('{"error": "json: x", "code": 2, "message": "json: x"}', 400),
        ),
        (outcome('{"leases": [{"ID": "1"}]}'), outcome('{"leases": [{"ID": "2"}]}')),
        (outcome("", 501), outcome("", 500)),
        (outcome("still under way", 0), outcome("{}")),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_difference_that_is_not_in_the_table_is_not_permitted(version: str, ours: Outcome, theirs: Outcome) -> None:
    differences = Differences()
    assert not differences.permitted(version, STEP, ours, theirs)
    assert not differences.used


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"0": [{"created": True}]}, {}),
        ({"0": [{"created": True}]}, {"1": [{"created": True}]}),
        ({"0": [{"kv": 1}, {"kv": 2}]}, {"0": [{"kv": 2}, {"kv": 1}]}),
        ({"0": [{"kv": 1}]}, {"0": [{"kv": 1}, {"kv": 1}]}),
        ({"0": [{"created": True}]}, {"0": [{"created": True}, {"canceled": True}]}),
        ([{"kv": 1}], [{"kv": 1}, {"kv": 2}]),
        ({"progress": [{"header": 1}]}, {"progress": [{"header": 1}, {"header": 2}]}),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_stream_that_tells_something_else_is_not_permitted(version: str, ours: Any, theirs: Any) -> None:
    assert not Differences().streams_permitted(version, ours, theirs)


def test_a_message_that_runs_ahead_of_its_header_is_a_fault() -> None:
    event = {"kv": {"key": "YQ==", "mod_revision": "7"}}
    with pytest.raises(StreamFaultError):
        watched([{"result": {"header": {"revision": "6"}, "events": [event]}}], Normal(1, {}))
