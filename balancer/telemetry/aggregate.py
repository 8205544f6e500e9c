"""The supervisor's sum over all workers: totals that never go back, gauges that die with their worker.

Workers send differences (`telemetry.registry`), so a worker that is killed and replaced takes nothing away
and starts at nothing. Bounded by the configuration, as the registries are.
"""

from collections.abc import Iterator

from prometheus_client import ProcessCollector

from balancer.telemetry.metrics import FAMILIES, Kind
from balancer.telemetry.registry import CELL_COUNTS, SLICE, Known, Sample

SUPERVISOR = -1  # stands where a worker's number would, for gauges that the supervisor sets itself


class Series:
    """One labelled list of a family. `values` holds totals; a gauge has `by_worker` instead."""

    __slots__ = ("by_worker", "label_text", "labels", "values")

    def __init__(self, labels: tuple[str, ...], values: list[float]) -> None:
        self.labels = labels
        self.values = values
        self.by_worker: dict[int, float] = {}
        self.label_text = ""  # filled by the exposition at the first rendering

    def current(self) -> list[float]:
        """The cells to show: the totals, or the sum of a gauge over those who report it."""
        return [sum(self.by_worker.values())] if self.by_worker else self.values


class Aggregate:
    """What /metrics shows. Series stand by family and pool, so that one pool can be rendered on its own."""

    def __init__(self) -> None:
        self._series: dict[str, dict[str, dict[tuple[str, ...], Series]]] = {name: {} for name in FAMILIES}
        self._pool_at = {
            name: family.labels.index("pool") if "pool" in family.labels else -1 for name, family in FAMILIES.items()
        }

    def add(self, worker: int, samples: list[Sample]) -> None:
        """Take what a worker's registry says has changed. O(samples); give at most a few thousand per call.

        Raises ValueError for a sample that does not fit the table of families.
        """
        for sample in samples:
            family = FAMILIES.get(sample.family)
            if family is None or len(sample.values) != CELL_COUNTS[family.kind]:
                raise ValueError(f"worker {worker} sent a sample that no family fits: {sample.family}")
            series = self._at(sample.family, sample.labels)
            if family.kind is Kind.GAUGE:
                series.by_worker[worker] = sample.values[0]
            else:
                cells = series.values
                for index, change in enumerate(sample.values):
                    if change > 0:
                        cells[index] += change

    def worker_gone(self, worker: int) -> None:
        """Forget the gauges of a worker that ended; its totals stay. O(gauges)."""
        for name, family in FAMILIES.items():
            if family.kind is not Kind.GAUGE:
                continue
            for by_labels in self._series[name].values():
                for labels in [key for key, series in by_labels.items() if worker in series.by_worker]:
                    series = by_labels[labels]
                    del series.by_worker[worker]
                    if not series.by_worker:
                        del by_labels[labels]

    def set(self, family: str, labels: tuple[str, ...], value: float) -> None:
        """Set a value that the supervisor itself knows: a gauge, or a counter's total (a lower one is not taken)."""
        series = self._at(family, labels)
        if FAMILIES[family].kind is Kind.GAUGE:
            series.by_worker[SUPERVISOR] = value
        else:
            series.values[0] = max(series.values[0], value)

    def remove(self, family: str, labels: tuple[str, ...]) -> None:
        """Forget one series, e.g. of a backend or worker that the configuration no longer has."""
        by_labels = self._series[family].get(self._pool_of(family, labels))
        if by_labels is not None:
            by_labels.pop(labels, None)

    def forget(self, known: Known) -> Iterator[None]:
        """Forget every series that is not known. Pauses after every pool of a family, and every 1000 series of one."""
        for family, by_pool in self._series.items():
            for pool, by_labels in list(by_pool.items()):
                for place, labels in enumerate(list(by_labels), start=1):
                    if not known.has(family, labels):
                        by_labels.pop(labels, None)
                    if place % SLICE == 0:
                        yield
                if not by_labels and by_pool.get(pool) is by_labels:
                    del by_pool[pool]
                yield

    def values(self, family: str, labels: tuple[str, ...]) -> list[float]:
        """The cells of one series as its kind lays them out; zeros when nothing was reported."""
        found = self._series[family].get(self._pool_of(family, labels), {}).get(labels)
        return found.current() if found is not None else [0.0] * CELL_COUNTS[FAMILIES[family].kind]

    def pools(self) -> frozenset[str]:
        """Every pool that some series names."""
        return frozenset(pool for by_pool in self._series.values() for pool in by_pool if pool)

    def series(self, family: str, pool: str | None = None) -> Iterator[list[Series]]:
        """The series of `family`, a list per pool (one in all for a family without that label), or of one pool.

        Lists are copies made when they are asked for: the aggregate may change while a caller waits between two.
        """
        by_pool = self._series[family]
        for name in list(by_pool) if pool is None else [pool]:
            found = by_pool.get(name)
            if found:
                yield list(found.values())

    def _pool_of(self, family: str, labels: tuple[str, ...]) -> str:
        at = self._pool_at[family]
        return labels[at] if at >= 0 else ""

    def _at(self, family: str, labels: tuple[str, ...]) -> Series:
        by_labels = self._series[family].setdefault(self._pool_of(family, labels), {})
        found = by_labels.get(labels)
        if found is None:
            expected = FAMILIES[family]
            if len(labels) != len(expected.labels):
                raise ValueError(f"{family} takes the labels {expected.labels}, not {labels}")
            found = by_labels[labels] = Series(labels, [0.0] * CELL_COUNTS[expected.kind])
        return found


_process = ProcessCollector(registry=None)


def read_process(aggregate: Aggregate) -> None:
    """Set the process_* families from this process's own state. Reads a few files of /proc: about 100 us."""
    for metric in _process.collect():
        for sample in metric.samples:
            if sample.name in FAMILIES:
                aggregate.set(sample.name, (), float(sample.value))
