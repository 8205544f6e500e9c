"""A worker's counters: plain lists of numbers that hot code raises in place, and their changes since last asked.

The layout of a list follows its family's kind (`telemetry.metrics`):
COUNTER, GAUGE: [value]. CODES: [none, 1xx, 2xx, 3xx, 4xx, 5xx], so `cells[status // 100] += 1`.
HISTOGRAM: one cell per bound of BOUNDS, one for above, and the sum:
`cells[bisect_left(BOUNDS, s)] += 1; cells[-1] += s`.
"""

from collections.abc import Iterator

import msgspec

from balancer.telemetry.metrics import BOUNDS, FAMILIES, Kind

Cells = list[float]

CELL_COUNTS = {Kind.COUNTER: 1, Kind.GAUGE: 1, Kind.CODES: 6, Kind.HISTOGRAM: len(BOUNDS) + 2}

# Lists looked at before the loop gets a turn: a millisecond or two.
SLICE = 1000


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
            found = self._cells[key] = [0] * CELL_COUNTS[FAMILIES[family].kind]
        return found

    def changes(self) -> list[Sample]:
        """What changed since the last call; gauges as they are now. O(lists)."""
        return [sample for part in self.changes_in_slices() for sample in part]

    def changes_in_slices(self, size: int = SLICE) -> Iterator[list[Sample]]:
        """The same, after every `size` lists a part (it may be empty), for a loop that must not stall.

        What a part holds counts as told once it was yielded: send it, whatever comes of the rest.
        """
        keys = list(self._cells)
        for start in range(0, len(keys), size):
            yield [sample for key in keys[start : start + size] if (sample := self._change(key)) is not None]

    def _change(self, key: tuple[str, tuple[str, ...]]) -> Sample | None:
        cells = self._cells[key]
        told = self._told.get(key)
        if told == cells:
            return None
        family, labels = key
        if told is None:
            self._told[key] = list(cells)
            return Sample(family, labels, list(cells))
        if FAMILIES[family].kind is Kind.GAUGE:
            values = list(cells)
        else:
            values = [now - before for now, before in zip(cells, told, strict=True)]
        told[:] = cells
        return Sample(family, labels, values)
