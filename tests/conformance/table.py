"""Writes docs/conformance.md: what our daemon, nginx and HAProxy do with every row."""

from dataclasses import dataclass, field

from tests.conformance.judge import Verdict, describe
from tests.conformance.model import Case
from tests.conformance.rows import GROUPS, ROWS, Row
from tests.conformance.runner import Observation

HEADER = """\
# Conformance

Written by `python -m tests.conformance`; do not edit. Every rule (row) of the suite in `tests/conformance` with what
our daemon does, and what nginx and HAProxy of the versions below do with the same bytes. The expectations are ours:
stricter than the RFCs demand in many places (each choice stands in the column "ours"), so "differs" is a fact and not
always a fault. Our daemon is judged byte for byte, what the origin got included; peers by meaning: the same requests
forwarded or not, the same status, body and end. Each cell counts the row's cases; peers run each once, whole, over
TCP, with the configurations `loadtest/peers/nginx.conf` and `loadtest/peers/haproxy.conf`. Below the tables stands,
case by case, what a peer did where it differs.

"ok*" marks a request that was refused with another status than ours.
"""


@dataclass
class Outcome:
    """One case at one target."""

    problems: list[str]
    did: str
    other_status: int | None = None


@dataclass
class TargetResult:
    """All cases at one target."""

    name: str
    version: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def add(self, case: Case, seen: Observation | None, problems: list[str]) -> None:
        """Take one case's result."""
        if seen is None:
            self.outcomes[case.name] = Outcome(problems, problems[0])
            return
        verdict = Verdict(case, seen, strict=False)
        verdict.judge()
        self.outcomes[case.name] = Outcome(problems, describe(seen), verdict.other_status)

    def cell(self, row: Row, cases: list[Case]) -> str:
        """`ok 5`, `ok* 5` or `differs 2 of 5`."""
        mine = [self.outcomes[case.name] for case in cases if row.id in case.rows]
        differing = sum(1 for outcome in mine if outcome.problems)
        if differing:
            return f"differs {differing} of {len(mine)}"
        return f"ok* {len(mine)}" if any(outcome.other_status for outcome in mine) else f"ok {len(mine)}"


def render(results: list[TargetResult], cases: list[Case]) -> str:
    """The whole page."""
    parts = [HEADER, "Versions: " + ", ".join(result.version for result in results) + f". Cases: {len(cases)}.\n"]
    names = " | ".join(result.name for result in results)
    for group, title in GROUPS.items():
        parts.append(f"## {group} {title}\n")
        parts.append(f"| row | rule | ours | {names} |\n|---|---|---|{'---|' * len(results)}")
        for row in ROWS.values():
            if row.group != group:
                continue
            if row.not_applicable:
                cells = " | ".join("n/a" for _ in results)
                parts.append(f"| {row.id} | {row.rule} | {row.not_applicable} | {cells} |")
                continue
            cells = " | ".join(result.cell(row, cases) for result in results)
            parts.append(f"| {row.id} | {row.rule} | {row.ours} | {cells} |")
        parts.append("")
    parts.append("## What differs, case by case\n")
    parts.append(
        f"Per target: the answers, the end of the client's connection, what was forwarded.\n\n| case | {names} |"
    )
    parts.append(f"|---|{'---|' * len(results)}")
    for case in cases:
        outcomes = [result.outcomes[case.name] for result in results]
        if any(outcome.problems for outcome in outcomes):
            cells = " | ".join(_cell(outcome) for outcome in outcomes)
            parts.append(f"| {case.name} | {cells} |")
    return "\n".join([*parts, ""])


def _cell(outcome: Outcome) -> str:
    if not outcome.problems:
        return "ok" if outcome.other_status is None else f"ok* ({outcome.other_status})"
    text = outcome.did
    first = outcome.problems[0]
    if "\n" not in first and ("with" in first or "trailers" in first or "upstream" in first or "Connection" in first):
        text += f": {first}"
    return _printable(text)


def _printable(text: str) -> str:
    """Text for a table: no control, no raw octet, no column mark."""
    return "".join(c if " " <= c <= "~" else f"\\x{ord(c):02x}" for c in text).replace("|", "\\|").replace("<", "&lt;")
