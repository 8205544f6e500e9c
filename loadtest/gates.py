"""The limits that a release must keep. `python -m loadtest --gates` exits 1 when one is unmet or was not measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from loadtest.proxies import OURS, PEERS
from loadtest.rounds import Row
from loadtest.statistics import ROUNDS_TO_WIN, Estimate, mean, ratio

Results = Mapping[str, Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Gate:
    """`figure` computes what must not exceed `limit`; it raises UnmeasuredError when a row that it needs is missing."""

    workload: str
    what: str
    unit: str
    limit: float
    figure: Callable[[Sequence[Row]], Estimate]
    aim: float | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What came of a gate. `estimate` None = not measured, `text` says why."""

    gate: Gate
    met: bool
    text: str
    estimate: Estimate | None = None


class UnmeasuredError(Exception):
    """A row that a gate needs is missing or void."""


def _costs(rows: Sequence[Row], proxy: str, mode: str = "") -> list[float]:
    for row in rows:
        if row.proxy == proxy and row.mode == mode:
            if row.void:
                raise UnmeasuredError(f"{row.label} is void: {row.void}")
            return row.costs
    raise UnmeasuredError(f"{proxy} was not measured")


def better_peer(rows: Sequence[Row], mode: str = "") -> Row | None:
    """The peer's row with the lower mean cost; void rows do not count; None = there is none."""
    peers = [row for row in rows if row.proxy in PEERS and row.mode == mode and not row.void]
    return min(peers, key=lambda row: mean(row.costs).value, default=None)


def _against_better(rows: Sequence[Row]) -> Estimate:
    for name in PEERS:
        _costs(rows, name)  # "the better of two" needs both
    peer = better_peer(rows)
    assert peer is not None
    return ratio(_costs(rows, OURS), peer.costs)


def _against_haproxy(rows: Sequence[Row]) -> Estimate:
    return ratio(_costs(rows, OURS), _costs(rows, "haproxy"))


def _against_own(base: str, mode: str) -> Callable[[Sequence[Row]], Estimate]:
    return lambda rows: ratio(_costs(rows, OURS, mode), _costs(rows, OURS, base))


def _own(rows: Sequence[Row]) -> Estimate:
    return mean(_costs(rows, OURS))


GATES = (
    Gate("get64", "CPU per request to the better peer", "x", 1.9, _against_better, aim=1.5),
    Gate("get64_varying", "varying fields to identical ones", "x", 1.05, _against_own("identical", "varying")),
    Gate("get64_log", "access log on to off", "x", 1.25, _against_own("off", "log"), aim=1.15),
    Gate("get64_guarded", "with all that watches backends to without", "x", 1.08, _against_own("bare", "guarded")),
    Gate("get1m", "CPU per request to HAProxy", "x", 1.0, _against_haproxy),
    Gate("idle", "resident memory per idle connection", "B", 6 * 1024, _own),
)


def rule(results: Results) -> list[Ruling]:
    """One ruling per gate whose workload was run, by the figure itself; its text says if the interval spans it."""
    rulings: list[Ruling] = []
    for gate in GATES:
        if gate.workload not in results:
            continue
        try:
            estimate = gate.figure(results[gate.workload])
        except UnmeasuredError as why:
            rulings.append(Ruling(gate, met=False, text=f"not measured: {why}"))
            continue
        met = estimate.value <= gate.limit
        text = "met" if met else "UNMET"
        if estimate.low <= gate.limit <= estimate.high:
            text += " (the interval spans the limit)"
        if min(len(row.costs) for row in results[gate.workload]) < ROUNDS_TO_WIN:
            met, text = False, f"{text}, but fewer than {ROUNDS_TO_WIN} rounds decide nothing"
        if gate.aim is not None:
            text += f"; aim {gate.aim:g} {'met' if estimate.value <= gate.aim else 'missed'}"
        rulings.append(Ruling(gate, met, text, estimate))
    return rulings
