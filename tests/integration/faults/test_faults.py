"""Faults of backends and workers under load: what a client sees of them, at most."""

import sys
from pathlib import Path

import pytest

from tests.integration.faults.load import Size
from tests.integration.faults.proxies import OURS
from tests.integration.faults.run import DEFAULT, FULL, problems, run_row
from tests.integration.faults.scenarios import SCENARIOS, Scenario

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SMALL = {"killed", "three_killed", "silence", "half_500", "reset", "worker_killed", "all_down"}
"""One row of each kind; the others differ in how the same is brought about."""
CASES = [
    *(pytest.param(each, DEFAULT, id=f"{each.name}-small") for each in SCENARIOS if each.name in SMALL),
    *(
        pytest.param(each, FULL, id=f"{each.name}-full", marks=(pytest.mark.full, pytest.mark.timeout(300)))
        for each in SCENARIOS
    ),
]


@pytest.mark.parametrize(("scenario", "size"), CASES)
def test_a_fault_costs_no_more_than_it_must(scenario: Scenario, size: Size, tmp_path: Path) -> None:
    row = run_row(scenario, OURS, size, tmp_path)
    assert row is not None
    assert problems(scenario, row) == [], f"{dict(row.kinds)}, at the origins {dict(row.journal.kinds)}"
