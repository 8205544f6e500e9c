"""Without running any: all patches apply, every known bug is there, and what is named to find them exists."""

import ast
from pathlib import Path

import pytest

from tests.mutation.patch import Patch, PatchError, applied, parse
from tests.mutation.suite import NAMED, NUMBERS, PATCHES, missing, needed_tests, patches
from tests.mutation.tree import read_source
from tests.simulation.cluster.test_cluster import SEEDS as HISTORIES
from tests.unit.raft.test_storm import SEEDS as STORMS

KNOWN = patches()


def test_every_known_bug_is_planted_or_has_a_test_of_its_own() -> None:
    assert missing(KNOWN) == []
    assert len({patch.number for patch in KNOWN}) == 20
    assert not {patch.number for patch in KNOWN} & {named.number for named in NAMED}
    assert {patch.number for patch in KNOWN} <= set(NUMBERS)
    assert missing([patch for patch in KNOWN if patch.number != 5]) == [5]
    assert missing([]) == [number for number in NUMBERS if number not in {each.number for each in NAMED}]


@pytest.mark.parametrize("patch", KNOWN, ids=lambda patch: patch.name)
def test_a_patch_applies_and_is_a_program(patch: Patch) -> None:
    for path, text in applied(patch, read_source).items():
        assert path.startswith("balancer/")
        assert text != read_source(path)
        ast.parse(text, path)


@pytest.mark.parametrize("patch", KNOWN, ids=lambda patch: patch.name)
def test_the_default_tests_play_the_seeds_that_must_find_it(patch: Patch) -> None:
    assert patch.storms <= STORMS
    assert patch.histories <= HISTORIES


@pytest.mark.parametrize("test", needed_tests(KNOWN))
def test_what_must_find_it_is_a_test_of_the_default_tier(test: str, project: Path) -> None:
    path, _, name = test.partition("::")
    for node in ast.parse((project / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            assert "mark.full" not in "".join(map(ast.unparse, node.decorator_list))
            return
    pytest.fail(f"{path} has no test {name}")


def test_only_patches_are_there() -> None:
    assert {path.suffix for path in PATCHES.iterdir()} == {".patch"}


# ---- the judge is judged

HEAD = "Bug: one too many.\nSeen in: a test.\nBreaks: nothing.\nTest: tests/a.py::test_b\n"
DIFF = "--- a/balancer/x.py\n+++ b/balancer/x.py\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"
FILE = "zero\none\ntwo\nthree\nfour\n"


def test_a_patch_is_read() -> None:
    patch = parse("05-x", HEAD + "Storms: 7\nHistories: 3\n" + DIFF)
    assert (patch.number, patch.bug, patch.tests, patch.storms, patch.histories) == (
        5,
        "one too many.",
        ("tests/a.py::test_b",),
        7,
        3,
    )


def test_a_patch_applies_where_its_lines_stand() -> None:
    assert applied(parse("05-x", HEAD + DIFF), lambda path: FILE) == {"balancer/x.py": "zero\none\n2\nthree\nfour\n"}


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (FILE.replace("two", "too"), "nowhere"),
        (FILE.replace("three", "three "), "nowhere"),
        (FILE.replace("one", "  one"), "nowhere"),
        (FILE + FILE, "in 2 places"),
    ],
    ids=["another line", "other blanks", "deeper", "twice"],
)
def test_a_patch_that_no_longer_applies_is_refused(file: str, words: str) -> None:
    with pytest.raises(PatchError, match=f"05-x does not apply: in balancer/x.py these lines stand {words}"):
        applied(parse("05-x", HEAD + DIFF), lambda path: file)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("5-x", HEAD + DIFF, "the name"),
        ("05-X", HEAD + DIFF, "the name"),
        ("05-x", HEAD, "it changes nothing"),
        ("05-x", HEAD + DIFF.replace("+2", "+two"), "changes nothing"),
        ("05-x", HEAD + DIFF.replace("-1,3 +1,3", "-1,4 +1,3"), "other lines than it says"),
        ("05-x", HEAD + DIFF.replace("+++ b/", "+++ c/"), "no diff"),
        ("05-x", HEAD.replace("Breaks", "Break") + DIFF, "no line of a head"),
        ("05-x", HEAD + HEAD + DIFF, "one too many: Bug"),
        ("05-x", HEAD.replace("Breaks: nothing.\n", "") + DIFF, "does not say Breaks"),
        ("05-x", HEAD.replace("Test: tests/a.py::test_b\n", "") + DIFF, "nothing is named"),
        ("05-x", HEAD + "Storms: few\n" + DIFF, "a number of seeds"),
    ],
)
def test_what_is_no_patch_is_refused(name: str, text: str, words: str) -> None:
    with pytest.raises(PatchError, match=words):
        parse(name, text)
