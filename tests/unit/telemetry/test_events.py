"""The table of events, the log calls of the product and docs/logs.md say the same."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.telemetry import events
from balancer.telemetry.access_log import ENDINGS, format_line, head_of
from balancer.telemetry.events import EVENTS

PROJECT = Path(__file__).resolve().parents[3]
PAGE = (PROJECT / "docs" / "logs.md").read_text(encoding="utf-8")
SOURCES = sorted((PROJECT / "balancer").rglob("*.py"))
METHODS = {"debug", "info", "warning", "error", "exception", "critical"}
CONSTANTS = {name: value for name, value in vars(events).items() if isinstance(value, str) and value in EVENTS}


def loggers(tree: ast.AST) -> set[str]:
    """Names that hold a structlog logger: assigned from `get_logger(...)`."""
    return {
        ast.unparse(target)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and "get_logger" in ast.unparse(node.value)
        for target in node.targets
    }


def log_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Every call of a log method on a logger, or on what `get_logger()` gives."""
    known = loggers(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            owner = ast.unparse(node.func.value)
            if owner in known or "get_logger" in owner:
                yield node


def breaches(source: str) -> list[str]:
    """What is wrong with the log calls of a module."""
    found = []
    for call in log_calls(ast.parse(source)):
        first = call.args[0] if call.args else None
        text = ast.unparse(call)
        if not (isinstance(first, ast.Attribute) and ast.unparse(first.value) == "events") or len(call.args) != 1:
            found.append(f"not one constant of `events`: {text}")
        elif first.attr not in CONSTANTS:
            found.append(f"no such event: {text}")
        else:
            known = {*EVENTS[CONSTANTS[first.attr]].fields, "exc_info"}
            extra = {keyword.arg for keyword in call.keywords} - known
            if extra:
                found.append(f"fields that the table does not have, {sorted(map(str, extra))}: {text}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_log_calls_keep_to_the_table(path: Path) -> None:
    assert breaches(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "call",
    [
        'log.info("worker.started")',
        "log.info(events.WORKER_EATEN)",
        "log.info(events.WORKER_STARTED, color=1)",
        "log.info(events.WORKER_STARTED, **fields)",
        "log.info(events.WORKER_STARTED, 1)",
        "log.info(f'worker {n}')",
        "structlog.get_logger().error('x')",
    ],
)
def test_a_call_outside_the_table_is_found(call: str) -> None:
    assert breaches(f"log = structlog.get_logger()\n{call}\n")


def test_a_call_inside_the_table_is_not_reported() -> None:
    assert breaches("log = structlog.get_logger()\nlog.info(events.WORKER_STARTED, worker=1, pid=2)\n") == []


def test_every_event_is_logged_somewhere() -> None:
    used = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES if path.name != "events.py")
    assert [name for name in CONSTANTS if not re.search(rf"\bevents\.{name}\b", used)] == []


def test_names_are_a_subject_and_what_happened() -> None:
    assert [name for name in EVENTS if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name)] == []
    assert len(EVENTS) == len(CONSTANTS)


def rows_under(heading: str) -> list[tuple[str, ...]]:
    """The rows of the table under a heading of docs/logs.md, without its head."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]


def test_the_page_lists_every_event_with_its_fields_and_meaning() -> None:
    table = [
        (f"`{event.name}`", ", ".join(f"`{field}`" for field in event.fields) or "-", event.help)
        for event in EVENTS.values()
    ]
    assert sorted(rows_under("Events")) == sorted(table)


def test_the_page_lists_the_fields_of_an_access_log_line_in_their_order() -> None:
    line = format_line(
        0.0, b"i", b"c", head_of("l", "r", "p"), b"b", 1, b"GET", b"/", 200, ENDINGS["ok"], 0, 0, 0.0, 0.0, 0.0
    )
    assert [row[0] for row in rows_under("Access log")] == [f"`{field}`" for field in json.loads(line)]
