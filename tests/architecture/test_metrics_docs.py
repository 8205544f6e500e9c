"""The table of metric families, docs/metrics.md and what the product raises say the same."""

import re
from pathlib import Path

import pytest

from balancer.telemetry import metrics
from balancer.telemetry.metrics import BOUNDS, FAMILIES, Family, Kind

PROJECT = Path(__file__).resolve().parent.parent.parent
PAGE = (PROJECT / "docs" / "metrics.md").read_text(encoding="utf-8")
SOURCES = sorted((PROJECT / "balancer").rglob("*.py"))


def row_of(family: Family) -> str:
    """A family's line in the page."""
    kind = "counter" if family.kind is Kind.CODES else family.kind.value
    labels = [*family.labels, *(["code"] if family.kind is Kind.CODES else [])]
    return f"| `{family.name}` | {kind} | {', '.join(f'`{label}`' for label in labels) or '-'} | {family.help} |"


def test_the_page_has_a_line_for_each_family_and_no_other() -> None:
    section = PAGE.split("## Families\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [row_of(family) for family in FAMILIES.values()]


def test_the_page_names_the_buckets() -> None:
    sentence = re.search(r"Histograms have the buckets ([^\n]*)", PAGE)
    assert sentence is not None
    milliseconds, seconds = sentence[1].split(" ms and ")
    told = [float(number) / 1000 for number in re.findall(r"[\d.]*\d", milliseconds)]
    told += [float(number) for number in re.findall(r"[\d.]*\d", seconds.split(" s.")[0])]
    assert tuple(told) == BOUNDS


def test_queries_of_the_page_name_families_that_exist() -> None:
    named = set(re.findall(r"\bbalancer_[a-z_]+", PAGE))
    assert named
    assert {name.removesuffix("_bucket") for name in named} <= set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_names_follow_the_rules_of_prometheus(family: Family) -> None:
    assert re.fullmatch(r"(balancer|process)_[a-z_]+", family.name)
    assert family.name.endswith("_total") is (family.kind in (Kind.COUNTER, Kind.CODES))
    if family.kind is Kind.HISTOGRAM:
        assert family.name.endswith("_seconds")
    assert not re.search(r"_(ms|millis|kb|minutes)\b", family.name)
    assert all(re.fullmatch(r"[a-z_]+", label) and label not in ("le", "code") for label in family.labels)
    assert family.help.endswith(".")


@pytest.mark.parametrize(
    "constant",
    [name for name, value in vars(metrics).items() if isinstance(value, str) and value in FAMILIES],
)
def test_every_family_is_raised_somewhere(constant: str) -> None:
    if constant.startswith("PROCESS_"):
        return  # read by name: `aggregate.read_process`
    folders = ("proxy", "daemon", "cluster")
    used = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES if path.parent.name in folders)
    assert re.search(rf"\bmetrics\.{constant}\b", used)
