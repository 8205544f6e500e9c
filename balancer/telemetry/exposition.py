"""The Prometheus text format 0.0.4, in pieces small enough to be rendered between two turns of a loop.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text-based format).
"""

from collections.abc import Callable, Iterator
from itertools import accumulate

from balancer.telemetry.aggregate import Aggregate, Series
from balancer.telemetry.metrics import BACKEND_DURATION, BOUNDS, FAMILIES, Family, Kind

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
CODES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")

# A histogram is 15 lines per backend: above this many backends in a pool they are rendered only when asked for.
DURATIONS_MAX = 200
# Lines per piece: a millisecond or two of work, however large a pool is.
_LINES_PER_PIECE = 1000
_LINES = {Kind.COUNTER: 1, Kind.GAUGE: 1, Kind.CODES: len(CODES), Kind.HISTOGRAM: len(BOUNDS) + 3}


def render(aggregate: Aggregate, pool: str | None = None, *, all_durations: bool = False) -> Iterator[bytes]:
    """The whole text, piece by piece: family by family, in it pool by pool, and large pools in parts.

    With `pool`, only the series of that pool. The aggregate may change between two pieces; each series
    is consistent in itself.
    """
    for name, family in FAMILIES.items():
        heading = f"# HELP {name} {_escape_help(family.help)}\n# TYPE {name} {_type_of(family)}\n"
        if pool is not None and "pool" not in family.labels:
            continue
        for series in aggregate.series(name, pool):
            if name == BACKEND_DURATION and len(series) > DURATIONS_MAX and not all_durations:
                note = (
                    f"# Not shown: {name} of the {len(series)} backends of one pool; add durations=all to the query.\n"
                )
                yield (heading + note).encode()
                heading = ""
                continue
            yield from _pieces(heading, family, series)
            heading = ""


def _pieces(heading: str, family: Family, series: list[Series]) -> Iterator[bytes]:
    """One pool's lines of one family."""
    lines_of = _RENDERERS[family.kind]
    step = _LINES_PER_PIECE // _LINES[family.kind]
    for start in range(0, len(series), step):
        lines = [heading]
        for one in series[start : start + step]:
            if not one.label_text:
                one.label_text = _label_text(family.labels, one.labels)
            lines_of(lines, family.name, one.label_text, one.current())
        heading = ""
        yield "".join(lines).encode()


def _plain(lines: list[str], name: str, labels: str, values: list[float]) -> None:
    lines.append(f"{name}{{{labels}}} {number(values[0])}\n" if labels else f"{name} {number(values[0])}\n")


def _codes(lines: list[str], name: str, labels: str, values: list[float]) -> None:
    for code, value in zip(CODES, values, strict=True):
        lines.append(f'{name}{{{labels},code="{code}"}} {number(value)}\n')


def _histogram(lines: list[str], name: str, labels: str, values: list[float]) -> None:
    """Buckets hold what is at most `le`; ours hold what lies between two bounds, so they are summed up here."""
    counts = list(accumulate(values[:-1]))
    for bound, count in zip(_LE, counts, strict=True):
        lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {number(count)}\n')
    lines.append(f"{name}_sum{{{labels}}} {number(values[-1])}\n{name}_count{{{labels}}} {number(counts[-1])}\n")


_LE = (*(repr(bound) for bound in BOUNDS), "+Inf")
_RENDERERS: dict[Kind, Callable[[list[str], str, str, list[float]], None]] = {
    Kind.COUNTER: _plain,
    Kind.GAUGE: _plain,
    Kind.CODES: _codes,
    Kind.HISTOGRAM: _histogram,
}


def number(value: float) -> str:
    """A value as the format wants it: whole numbers without a point, NaN, +Inf and -Inf by these names."""
    text = repr(value)
    if text.endswith(".0"):
        return text[:-2]
    return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}.get(text, text)


def _type_of(family: Family) -> str:
    return "counter" if family.kind is Kind.CODES else family.kind.value


def _label_text(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    return ",".join(f'{name}="{_escape_label(value)}"' for name, value in zip(names, values, strict=True))


def _escape_label(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
