"""Documents against the code: links, paths, commands, terms, configuration keys and the shape of the pages."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

from balancer.cli.main import _COMMANDS, main
from balancer.config.load import load
from balancer.config.schema import LATER, File
from balancer.config.schema_base import Base, element

PROJECT = Path(__file__).resolve().parent.parent.parent
_FOLDERS = ("docs", "config", "loadtest", "tests")
PAGES = sorted([*PROJECT.glob("*.md"), *(page for folder in _FOLDERS for page in (PROJECT / folder).rglob("*.md"))])
DECISIONS = sorted((PROJECT / "docs" / "decisions").glob("[0-9]*.md"))

# The words that the project fixed; the glossary must have each, as a row or in a list.
TERMS = (
    "listener",
    "route",
    "pool",
    "backend",
    "strategy",
    "downstream",
    "upstream",
    "exchange",
    "attempt",
    "outcome",
    "drain",
    "snapshot",
    "generation",
    "slot",
    "supervisor",
    "worker",
    "member",
    "cluster",
    "voter",
    "learner",
    "term",
    "revision",
    "lease",
    "TTL",
    "lock",
    "election",
    "campaign",
    "watch",
    "ejection",
)
PHRASES = (
    "health check",
    "outlier detection",
    "panic threshold",
    "retry budget",
    "slow start",
    "log entry",
    "commit index",
    "read index",
    "fencing token",
)


def label(path: Path) -> str:
    """A page's path from the root."""
    return path.relative_to(PROJECT).as_posix()


def without_code(text: str) -> str:
    """The text without fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def fenced(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of every `balancer ...` call, in shell blocks and in code type."""
    lines = [line for block in fenced(text, "(?:sh|console|bash)") for line in block.splitlines()]
    lines += re.findall(r"`((?:[\w./]*/)?balancer [^`\n]+)`", without_code(text))
    for line in lines:
        for part in re.split(r"&&|\|\||;|(?<!\w)#", line):
            found = re.match(r"\s*(?:\$ )?(?:[\w./]*/)?balancer\s+(.*)", part)
            if found:
                yield found[1].split()


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue  # the network is not asked in tests
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_paths_that_are_named_exist(page: Path) -> None:
    text = without_code(page.read_text(encoding="utf-8"))
    named = re.findall(r"`((?:balancer|config|docs|loadtest|tests)/[\w./-]*)`", text)
    assert [path for path in named if not (PROJECT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_commands_that_are_named_exist_with_their_options(page: Path) -> None:
    wrong = []
    for words in command_lines(page.read_text(encoding="utf-8")):
        name = words[0].strip("`")
        if name.startswith("-") or name.isupper():
            continue
        if name not in _COMMANDS:
            wrong.append(name)
            continue
        command = import_module(_COMMANDS[name]).command
        words = words[: words.index("--")] if "--" in words else words  # what follows belongs to another command
        while isinstance(command, click.Group) and len(words) > 1 and words[1] in command.commands:
            command = command.commands[words.pop(1)]
        context = click.Context(command, parent=click.Context(main))
        known = {option for parameter in command.get_params(context) for option in parameter.opts} | {"-h"}
        given = {word.strip("[]").partition("=")[0] for word in words[1:] if word.strip("[]").startswith("-")}
        wrong += [f"{name} {option}" for option in given - known]
    assert wrong == []


def test_the_readme_names_every_command() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert {words[0] for words in command_lines(text)} >= _COMMANDS.keys()


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_yaml_examples_are_good_configurations(page: Path) -> None:
    """A block with listeners is a whole file; any other is a part, and stands in for that key of a whole file."""
    for block in fenced(page.read_text(encoding="utf-8"), "yaml"):
        whole = block if re.search(r"^listeners:", block, re.MULTILINE) else completed(block)
        load(whole.encode(), f"{label(page)} (yaml)", {})  # raises ConfigError with what is wrong


def completed(part: str) -> str:
    """A part of a file, with what it lacks to be one."""
    rest = {
        "listeners": 'listeners: {web: {bind: "127.0.0.1:8080"}}\n',
        "routes": "routes: [{name: all, respond: {status: 204}}]\n",
        "pools": 'pools: {web: {backends: ["127.0.0.1:9001"]}}\n',
    }
    return part + "".join(text for key, text in rest.items() if not re.search(rf"^{key}:", part, re.MULTILINE))


def schema_paths() -> set[str]:
    """Every key of the configuration as parent.child, and alone."""
    found: set[str] = set()

    def walk(model: type[Base], seen: tuple[type[Base], ...]) -> None:
        for name, field in model.model_fields.items():
            found.add(name)
            kind, inner = element(field.annotation)
            while kind in ("list", "dict"):
                kind, inner = element(inner)
            if kind == "model" and inner not in seen:
                found.update(f"{name}.{child}" for child in inner.model_fields)
                walk(inner, (*seen, inner))

    walk(File, (File,))
    return found


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_configuration_keys_that_are_named_exist(page: Path) -> None:
    """In documents a key is written with its parent: `limits.head_bytes`."""
    known = schema_paths() | {".".join(path) for path in LATER}  # which the page says are refused
    parents = {path.partition(".")[0] for path in known if "." in path}
    named = re.findall(r"`([a-z_0-9]+\.[a-z_0-9]+)`", without_code(page.read_text(encoding="utf-8")))
    named = [key for key in named if not key.endswith((".yaml", ".pem", ".py"))]  # files, not keys
    assert [key for key in named if key.partition(".")[0] in parents and key not in known] == []


@pytest.mark.parametrize("term", [*TERMS, *PHRASES])
def test_the_glossary_has_the_word(term: str) -> None:
    text = (PROJECT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert re.search(rf"(^\| {term} \||\b{term}[,.])", text, re.MULTILINE), f"{term} is missing"


@pytest.mark.parametrize("page", DECISIONS, ids=label)
def test_a_decision_has_its_four_parts_and_its_number(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Alternatives", "Consequences"]
    assert text.startswith(f"# {page.name[:4]}: ")


def test_decisions_are_numbered_without_a_gap_and_listed() -> None:
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    index = (PROJECT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\((\d{4}-[\w-]+\.md)\)", index) == [page.name for page in DECISIONS]


def test_the_changelog_has_what_is_not_released_yet_first() -> None:
    text = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[?(\w+)", text, re.MULTILINE)[0] == "Unreleased"
    kinds = set(re.findall(r"^### (\w+)", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_nothing_is_put_off(page: Path) -> None:
    assert re.findall(r"\b(?:TODO|FIXME|TBD|XXX)\b", page.read_text(encoding="utf-8")) == []
