"""Every text in tests/scenarios/raft happens as it is written."""

from pathlib import Path

import pytest

from tests.unit.raft.scenario import FOLDER, play

SCENARIOS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=[path.stem for path in SCENARIOS])
def test_the_scenario_happens_as_written(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert play(text) == text, f"if it should be so now: python -m tests.unit.raft.scenario {path}"


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 15


def test_a_scenario_that_happens_otherwise_is_found() -> None:
    text = "members 1 2 3\ncampaign 1\nsettle quietly\nstatus 1\n----\n1: follower"
    assert play(text) != text
    assert "1: leader" in play(text)
