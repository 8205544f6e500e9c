"""A worker's counters: plain lists of numbers that hot code raises in place, and their changes since last asked.

The layout of a list follows its family's kind (`telemetry.metrics`):
COUNTER, GAUGE: [value]. CODES: [none, 1xx, 2xx, 3xx, 4xx, 5xx], so `cells[status // 100] += 1`.
HISTOGRAM: one cell per bound of BOUNDS, one for above, and the sum:
`cells[bisect_left(BOUNDS, s)] += 1; cells[-1] += s`.
"""

import msgspec

from balancer.telemetry.metrics import BOUNDS, FAMILIES, Kind

Cells = list[float]

_LENGTH = {Kind.COUNTER: 1, Kind.GAUGE: 1, Kind.CODES: 6, Kind.HISTOGRAM: len(BOUNDS) + 2}


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """The values of one labelled list: differences for counters, codes and histograms, the value for gauges."""

    family: str
    labels: tuple[str, ...]
    values: list[float]


class Registry:
    """All lists of one process. Bounded by the configuration: labels never come from traffic."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, tuple[str, ...]], Cells] = {}
        self._told: dict[tuple[str, tuple[str, ...]], Cells] = {}

    def cells(self, family: str, *labels: str) -> Cells:
        """The list for `family` with `labels`, made on first use. Keep it; do not look it up per request."""
        key = (family, labels)
        found = self._cells.get(key)
        if found is None:
            found = self._cells[key] = [0] * _LENGTH[FAMILIES[family].kind]
        return found

    def changes(self) -> list[Sample]:
        """What changed since the last call; gauges as they are now. O(lists)."""
        samples = []
        for key, cells in self._cells.items():
            family, labels = key
            told = self._told.get(key)
            if told == cells:
                continue
            if FAMILIES[family].kind is Kind.GAUGE or told is None:
                values = list(cells)
            else:
                values = [now - before for now, before in zip(cells, told, strict=True)]
            self._told[key] = list(cells)
            samples.append(Sample(family, labels, values))
        return samples
