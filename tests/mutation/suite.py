"""The known bugs of other systems: each is planted here and found, or shown to be absent by tests of its own."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.patch import Patch, PatchError, parse
from tests.mutation.tree import RunError, copied, failing_tests, play

PATCHES = Path(__file__).resolve().parent / "patches"
NUMBERS = range(1, 23)
"""Of the known bugs."""


@dataclass(frozen=True, slots=True)
class Named:
    """A bug that is no patch, and the tests which show that it is not here."""

    number: int
    bug: str
    seen_in: str
    why: str
    tests: tuple[str, ...]


NAMED = (
    Named(
        21,
        "a whole cluster that is started at once does not come up again, or comes up with members that differ",
        "PySyncObj issue 201 (Patroni, one restart of all members in twenty)",
        "its cause was never found, but for the forgotten term, which is bug 1: there is nothing to plant",
        (
            "tests/simulation/cluster/test_restarts.py::test_bug_21_a_whole_cluster_that_goes_down_serves_again",
            "tests/simulation/cluster/test_restarts.py::test_members_that_never_come_back_are_found",
        ),
    ),
    Named(
        22,
        "members send each other pickles: whoever reaches the port runs code",
        "PySyncObj",
        "a choice of codec and no slip: a patch would have to bring another codec along",
        (
            "tests/unit/consensus/test_known_bugs.py::test_bug_22_a_pickle_on_the_wire_is_refused_and_runs_nothing",
            "tests/unit/consensus/test_known_bugs.py::test_bug_22_nothing_here_can_read_a_pickle",
        ),
    ),
)

CHECKER = (
    "tests/simulation/cluster/test_checkers.py::test_a_planted_stale_read_is_refused_by_the_search_which_knows_no_revisions",
    "tests/simulation/cluster/test_checkers.py::test_a_planted_stale_read_is_refused_by_its_revision",
    "tests/simulation/cluster/test_checkers.py::test_a_planted_double_lock_is_refused_by_the_search",
    "tests/simulation/cluster/test_checkers.py::test_a_planted_double_lock_is_refused",
    "tests/simulation/cluster/test_planted.py::test_a_stale_read",
    "tests/simulation/cluster/test_planted.py::test_a_lock_for_everybody",
)
"""A checker that accepts everything would find nothing: these plant in what it is given."""


@dataclass(frozen=True, slots=True)
class Found:
    """By what a planted bug was found: `by` tests, storms or histories; `seeds` 0 for tests."""

    by: str
    seeds: int
    seconds: float
    how: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a patch: who found it, and whoever should have and did not."""

    patch: Patch
    found: tuple[Found, ...]
    problems: tuple[str, ...]


def patches() -> list[Patch]:
    """All of them. Raises PatchError."""
    return [parse(path.stem, path.read_text(encoding="utf-8")) for path in sorted(PATCHES.glob("*"))]


def missing(known: Iterable[Patch]) -> list[int]:
    """Bugs that are neither planted nor named."""
    there = {patch.number for patch in known} | {named.number for named in NAMED}
    return [number for number in NUMBERS if number not in there]


def needed_tests(chosen: Sequence[Patch]) -> list[str]:
    """All tests that must pass without a patch."""
    named = [test for each in NAMED for test in each.tests]
    return list(dict.fromkeys([*(test for patch in chosen for test in patch.tests), *named, *CHECKER]))


def judged(patch: Patch) -> Verdict:
    """Plant the bug and run what must find it: each of the tests, and one of the seeds of each kind."""
    found: list[Found] = []
    problems: list[str] = []
    try:
        with copied(patch) as tree:
            for result in _results(patch, tree):
                if isinstance(result, Found):
                    found.append(result)
                else:
                    problems.append(result)
    except (PatchError, RunError) as error:
        problems.append(str(error))
    return Verdict(patch, tuple(found), tuple(problems))


def _results(patch: Patch, tree: Path) -> Iterator[Found | str]:
    """The cheapest first."""
    if patch.tests:
        began = time.monotonic()
        failed = failing_tests(tree, patch.tests)
        seconds = time.monotonic() - began
        yield from (f"it passes {test}" for test in patch.tests if test not in failed)
        if failed:
            yield Found(_counted(len(failed), "test"), 0, seconds, next(iter(failed.values())))
    for kind, bound in (("storms", patch.storms), ("histories", patch.histories)):
        if bound:
            played = play(tree, kind, range(bound))
            if played.failed:
                yield Found(kind, played.seeds, played.seconds, played.failed)
            else:
                yield f"it passes {bound} {kind}"


def wrongly_found(verdicts: Iterable[Verdict]) -> list[str]:
    """The seeds that found something, played without any patch: what fails even then found nothing."""
    verdicts = list(verdicts)
    problems = []
    with copied() as tree:
        for kind in ("storms", "histories"):
            seeds = sorted({each.seeds - 1 for verdict in verdicts for each in verdict.found if each.by == kind})
            if seeds and (failed := play(tree, kind, seeds).failed):
                problems.append(f"{kind}, without any patch: {failed}")
    return problems


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
