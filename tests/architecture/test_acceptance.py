"""docs/acceptance.md: every line has a proof, and every proof exists."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent
TEXT = (PROJECT / "docs" / "acceptance.md").read_text(encoding="utf-8")
LINES = [*(f"{part}{number}" for part, last in (("A", 10), ("B", 8), ("C", 8)) for number in range(1, last + 1))]

# "## A3 ..." up to the next heading: the line in words, then its proofs as list items with a command in code type.
SECTIONS = dict(re.findall(r"^## ([ABC]\d+)\b(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
PROOFS = [
    (name, command)
    for name, section in SECTIONS.items()
    for command in re.findall(r"^- `([^`]+)`", section, re.MULTILINE)
]


def names_of_tests(path: Path) -> set[str]:
    """The test functions of a module, those in classes as Class::name."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return names


def missing(command: str) -> str:
    """What a proof names that does not exist; "" when all is there."""
    words = command.split()
    if words[0] == ".ci/run":
        return "" if (PROJECT / words[0]).is_file() else words[0]
    if words[:2] == ["python", "-m"]:
        top = words[2].partition(".")[0]
        if top not in {"balancer", "loadtest", "tests"}:
            return f"{words[2]} is not of this project"
        spec = find_spec(words[2])
        runs = spec is not None and (spec.submodule_search_locations is None or find_spec(f"{words[2]}.__main__"))
        return "" if runs else words[2]
    if words[0] != "pytest":
        return f"a proof is a pytest, python -m or .ci/run command, not {words[0]}"
    targets = [word for word in words[1:] if word.startswith("tests")]
    if not targets:
        return "which tests?"
    for target in targets:
        file, _, name = target.partition("::")
        path = PROJECT / file
        if not path.exists():
            return file
        if path.is_dir() and not list(path.rglob("test_*.py")):
            return f"{file} has no tests"
        if name and name.partition("[")[0] not in names_of_tests(path):
            return target
    return ""


def test_there_is_one_section_for_each_line() -> None:
    assert list(SECTIONS) == LINES


@pytest.mark.parametrize("name", LINES)
def test_a_line_has_a_proof(name: str) -> None:
    assert [command for line, command in PROOFS if line == name]


@pytest.mark.parametrize(("name", "command"), PROOFS)
def test_a_proof_exists(name: str, command: str) -> None:
    assert missing(command) == "", name


@pytest.mark.parametrize(("name", "command"), [proof for proof in PROOFS if " -m full " in f"{proof[1]} "])
def test_a_full_proof_is_marked_so(name: str, command: str) -> None:
    """`pytest -m full X` runs nothing, and passes, unless something in X carries the mark."""
    files = [PROJECT / word.partition("::")[0] for word in command.split() if word.startswith("tests")]
    sources = [path for file in files for path in ([file] if file.is_file() else sorted(file.rglob("test_*.py")))]
    assert any("mark.full" in path.read_text(encoding="utf-8") for path in sources), name


@pytest.mark.parametrize(
    "command",
    [
        "pytest tests/architecture/test_acceptance.py::test_of_nothing",
        "pytest tests/architecture/test_nothing.py",
        "pytest",
        "python -m loadtest.nothing",
        "python -m json.tool",
        "make check",
    ],
)
def test_a_proof_that_does_not_exist_is_found(command: str) -> None:
    assert missing(command)
