"""Black-box conformance of the daemon: every row has cases, every case holds in every way of sending its bytes."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.conformance.catalogue import CASES
from tests.conformance.model import Case, Mode
from tests.conformance.rows import GROUPS, ROWS
from tests.conformance.session import Session, all_modes, quick_modes
from tests.support.peers import BalancerTarget


def test_every_row_has_a_case_or_a_reason() -> None:
    covered = {row for case in CASES for row in case.rows}
    bare = [row.id for row in ROWS.values() if row.id not in covered and not row.not_applicable]
    assert not bare
    assert not [row.id for row in ROWS.values() if row.id in covered and row.not_applicable]


def test_every_case_names_rows_that_exist() -> None:
    assert not {row for case in CASES for row in case.rows} - set(ROWS)
    assert not [case.name for case in CASES if not case.rows]


def test_every_row_belongs_to_a_group() -> None:
    assert {row.group for row in ROWS.values()} == set(GROUPS)


def test_case_names_are_unique() -> None:
    assert not [name for name, count in Counter(case.name for case in CASES).items() if count > 1]


def test_the_page_shows_every_row(project: Path) -> None:
    page = (project / "docs" / "conformance.md").read_text(encoding="utf-8")
    missing = [row for row in ROWS if f"| {row} |" not in page]
    assert not missing, "run `python -m tests.conformance` to write the page anew"


def test_the_full_tier_cuts_at_every_byte_over_both_transports() -> None:
    case = next(case for case in CASES if case.splits and case.tls and case.reply_bytes)
    modes = all_modes(case)
    wanted = 2 * (2 + case.request_bytes - 1 + case.reply_bytes - 1)
    assert len(set(modes)) == len(modes) == wanted
    assert set(quick_modes(case)) <= set(modes)


def _chosen(items: Iterable[pytest.Item]) -> Iterator[Case]:
    """The cases of the quick tier that this run will ask for, in its order."""
    for item in items:
        if isinstance(item, pytest.Function) and item.originalname == "test_case":
            case = item.callspec.params["case"]
            assert isinstance(case, Case)
            yield case


@pytest.fixture(scope="module")
def session(require_program: Callable[[str], Path], request: pytest.FixtureRequest) -> Iterator[Session]:
    """Our daemon before the lanes' origins, with the quick tier's chosen cases under way."""
    require_program("openssl")
    with Session(BalancerTarget()) as started:
        started.run_ahead(_chosen(request.session.items), quick_modes)
        yield started


def _report(case: Case, problems: list[str], modes: list[Mode]) -> str:
    shown = "\n".join(problems[:6])
    return f"{case.name} ({', '.join(case.rows)}): {len(problems)} problems in {len(modes)} runs\n{shown}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(session: Session, case: Case) -> None:
    modes = quick_modes(case)
    problems = session.problems(case, modes)
    assert not problems, _report(case, problems, modes)


@pytest.mark.full
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case_in_every_way(session: Session, case: Case) -> None:
    modes = all_modes(case)
    problems = session.problems(case, modes)
    assert not problems, _report(case, problems, modes)
