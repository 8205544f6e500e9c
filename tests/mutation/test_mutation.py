"""Every planted bug is found, by each test and by seeds of each kind that are named in its head."""

import pytest

from tests.mutation.patch import Patch, parse
from tests.mutation.suite import judged, needed_tests, patches, wrongly_found
from tests.mutation.tree import RunError, copied, failing_tests, read_source

pytestmark = [pytest.mark.full, pytest.mark.timeout(0)]


def test_without_a_patch_everything_passes() -> None:
    with copied() as tree:
        assert failing_tests(tree, needed_tests(patches())) == {}


@pytest.mark.parametrize("patch", patches(), ids=lambda patch: patch.name)
def test_a_planted_bug_is_found(patch: Patch) -> None:
    verdict = judged(patch)
    assert verdict.problems == ()
    assert verdict.found
    assert wrongly_found([verdict]) == []


# ---- the judge is judged

HARMLESS = """Bug: none.
Seen in: nothing.
Breaks: nothing.
Test: tests/unit/raft/test_commit.py::test_the_commit_index_never_goes_back
Storms: 2
Histories: 1
--- a/balancer/raft/commit.py
+++ b/balancer/raft/commit.py
@@ -1,1 +1,1 @@
-def advance(core: Core) -> None:
+def advance(core: Core) -> None:  # as before
"""


def test_what_changes_nothing_is_found_by_nobody() -> None:
    verdict = judged(parse("00-harmless", HARMLESS))
    assert verdict.found == ()
    assert [problem.split()[:2] for problem in verdict.problems] == [["it", "passes"]] * 3


@pytest.mark.parametrize(
    "lines", ["+def advance(core: Core) -> Nothing:\n", "+def advance(core: Core) -> None:\n+    nothing()\n"]
)
def test_a_slip_of_the_patch_is_not_taken_for_the_bug(lines: str) -> None:
    text = HARMLESS.replace("+def advance(core: Core) -> None:  # as before\n", lines)
    verdict = judged(parse("00-slip", text.replace("+1,1", f"+1,{lines.count('+')}")))
    assert verdict.found == ()
    assert "NameError" in verdict.problems[-1]


def test_the_work_tree_is_left_as_it_was() -> None:
    before = read_source("balancer/raft/commit.py")
    judged(parse("00-harmless", HARMLESS))
    assert read_source("balancer/raft/commit.py") == before


def test_a_test_that_is_not_there_is_no_test_that_passes() -> None:
    with copied() as tree, pytest.raises(RunError):
        failing_tests(tree, ["tests/unit/raft/test_commit.py::test_of_nothing"])
