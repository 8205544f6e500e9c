"""A worker's counters: plain lists of numbers that hot code raises in place, and their changes since last asked.

The layout of a list follows its family's kind (`telemetry.metrics`):
COUNTER, GAUGE: [value]. CODES: [none, 1xx, 2xx, 3xx, 4xx, 5xx], so `cells[status // 100] += 1`.
HISTOGRAM: one cell per bound of BOUNDS, one for above, and the sum:
`cells[bisect_left(BOUNDS, s)] += 1; cells[-1] += s`.
"""

from collections.abc import Collection, Iterable, Iterator

import msgspec

from balancer.config.model import Config
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


class Known:
    """Which series a configuration has: those whose listener, route, pool and backend it names.

    `further`: removed backends, as (pool, name), that are in use nevertheless.
    """

    def __init__(self, config: Config, further: Iterable[tuple[str, str]] = ()) -> None:
        self._backends = {(pool.name, backend.name) for pool in config.pools for backend in pool.backends}
        self._backends.update(further)
        self._values: dict[str, Collection[str]] = {
            "listener": {listener.name for listener in config.listeners},
            "route": {"-", *(route.name for route in config.routes)},
            "pool": {"-", *(pool.name for pool in config.pools), *(pool for pool, _ in self._backends)},
        }

    def has(self, family: str, labels: tuple[str, ...]) -> bool:
        """Whether a series stays."""
        names = FAMILIES[family].labels
        if names[:2] == ("pool", "backend"):
            return labels[:2] in self._backends
        return all(
            name not in self._values or value in self._values[name] for name, value in zip(names, labels, strict=True)
        )


class Registry:
    """All lists of one process. Bounded by the configuration: labels never come from traffic."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, tuple[str, ...]], Cells] = {}
        self._told: dict[tuple[str, tuple[str, ...]], Cells] = {}
        self._leaving: set[tuple[str, tuple[str, ...]]] = set()

    def cells(self, family: str, *labels: str) -> Cells:
        """The list for `family` with `labels`, made on first use. Keep it; do not look it up per request."""
        key = (family, labels)
        found = self._cells.get(key)
        if found is None:
            found = self._cells[key] = [0] * CELL_COUNTS[FAMILIES[family].kind]
        elif key in self._leaving:
            self._leaving.discard(key)
        return found

    def forget(self, known: Known) -> Iterator[None]:
        """Drop every list that is not known, once its last change was told. Pauses after every SLICE lists."""
        for place, key in enumerate(list(self._cells), start=1):
            if not known.has(*key):
                self._leaving.add(key)
            if place % SLICE == 0:
                yield

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
        cells = self._cells.get(key)
        if cells is None:  # another call of `changes` was faster
            return None
        if key in self._leaving:
            self._leaving.discard(key)
            del self._cells[key]
            told = self._told.pop(key, None)
            news = any(cells) if told is None else told != cells
            return self._difference(key, cells, told) if news else None
        told = self._told.get(key)
        if told == cells:
            return None
        sample = self._difference(key, cells, told)
        self._told[key] = list(cells)
        return sample

    @staticmethod
    def _difference(key: tuple[str, tuple[str, ...]], cells: Cells, told: Cells | None) -> Sample:
        family, labels = key
        if told is None or FAMILIES[family].kind is Kind.GAUGE:
            return Sample(family, labels, list(cells))
        return Sample(family, labels, [now - before for now, before in zip(cells, told, strict=True)])
