"""Interleaved rounds: every contestant of a workload once per round, the order turned round each time."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from loadtest.load import IdleRun, Run, run, run_idle, verify
from loadtest.proxies import OURS, VARIANTS, RunningProxy, Site, running_proxy
from loadtest.workloads import Workload

_WARM_UP_SECONDS = 1
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    proxies: tuple[str, ...]
    rounds: int
    seconds: int


@dataclass(slots=True)
class Row:
    """All runs of one contestant: a proxy in a mode of the workload."""

    proxy: str
    mode: str
    runs: list[Run] = field(default_factory=list)
    idle: list[IdleRun] = field(default_factory=list)

    @property
    def label(self) -> str:
        """`nginx`, or `nginx, varying` when the workload has several modes."""
        return f"{self.proxy}, {self.mode}" if self.mode else self.proxy

    @property
    def void(self) -> str | None:
        """The first reason why this row does not count; None = it does."""
        return next((void for void in [one.void for one in self.runs] + [one.void for one in self.idle] if void), None)

    @property
    def costs(self) -> list[float]:
        """The figure of which less is better, by round: CPU microseconds per request, or bytes per idle connection."""
        return [one.cpu_us for one in self.runs] or [one.bytes_per_connection for one in self.idle]


def measure(workload: Workload, plan: Plan, site: Site, progress: Progress) -> list[Row]:
    """The rows of `workload`: one per proxy and mode, each with `plan.rounds` runs."""
    rows = [Row(proxy, mode) for proxy in plan.proxies for mode in modes(workload, proxy)]
    if workload.request is None:
        _measure_idle(rows, plan, site, progress)
        return rows
    with ExitStack() as stack:
        started: dict[tuple[str, str], RunningProxy] = {}
        for row in rows:
            key = (row.proxy, _variant(row))
            if key not in started:
                started[key] = stack.enter_context(running_proxy(row.proxy, site, key[1]))
                verify(started[key])
                run(workload.request, started[key], site.origin, _WARM_UP_SECONDS, row.mode)
        for number in range(plan.rounds):
            for row in _in_turn(rows, number):
                progress(f"{workload.name}: round {number + 1} of {plan.rounds}, {row.label}")
                proxy = started[row.proxy, _variant(row)]
                row.runs.append(run(workload.request, proxy, site.origin, plan.seconds, row.mode))
    return rows


def modes(workload: Workload, proxy: str) -> tuple[str, ...]:
    """The modes in which `proxy` takes part."""
    if proxy == OURS:
        return workload.modes
    return () if workload.ours_only else workload.modes + workload.peers_also


def _variant(row: Row) -> str:
    return row.mode if row.mode in VARIANTS else ""


def _measure_idle(rows: Sequence[Row], plan: Plan, site: Site, progress: Progress) -> None:
    """Memory grows only once in a process's life, so that every run has a proxy of its own."""
    for number in range(plan.rounds):
        for row in _in_turn(rows, number):
            progress(f"idle: round {number + 1} of {plan.rounds}, {row.label}")
            with running_proxy(row.proxy, site) as proxy:
                row.idle.append(run_idle(proxy, site.origin))


def _in_turn(rows: Sequence[Row], number: int) -> Sequence[Row]:
    """Forwards in even rounds, backwards in odd ones, each from another row on: a drift of the machine hits all alike.

    Without the other beginning the second mode of the first proxy would always be what ends that proxy's rest.
    """
    begin = number % len(rows)
    turned = [*rows[begin:], *rows[:begin]]
    return turned if number % 2 == 0 else turned[::-1]
