"""`python -m loadtest.faults`: the fault suite before our balancer, nginx and HAProxy, as a table kept in docs/."""

import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from types import FrameType

import click
from rich.console import Console
from rich.table import Table

from loadtest import report
from loadtest.statistics import ROUNDS_TO_WIN, verdict
from tests.integration.faults.load import Size
from tests.integration.faults.proxies import OURS, PEERS, MissingProxyError
from tests.integration.faults.run import BACKENDS, DEFAULT, ROUND, run_row
from tests.integration.faults.scenarios import SCENARIOS, Scenario
from tests.integration.faults.summaries import Summary, summarise

PAGE = Path(__file__).resolve().parent.parent / "docs" / "faults.md"
NAMES = (OURS, *PEERS)
WINS_DUE = 4  # rows better than both peers; and none worse than either
_QUICK_ROUNDS = 1
ALIKE_SECONDS, ALIKE_SHARE = 0.003, 0.05
Results = dict[str, dict[str, list[Summary]]]
"""scenario -> proxy -> its rounds; none where the fault makes no sense for the proxy."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How we stand to one peer in one row. `by` names the figure that decided; "" = none did."""

    text: str
    by: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.by.replace('_', ' ')})" if self.by else self.text


def judge(scenario: Scenario, ours: Sequence[Summary], theirs: Sequence[Summary]) -> Judgement:
    """Figure by figure; the first that differs beyond chance decides (95 % intervals of at least five rounds)."""
    if not ours or not theirs:
        return Judgement("-")
    if min(len(ours), len(theirs)) < ROUNDS_TO_WIN:
        return Judgement("too few rounds")
    for name in scenario.judged_by:
        mine, other = [getattr(one, name) for one in ours], [getattr(one, name) for one in theirs]
        text = verdict(mine, other)
        if text != "tie" and not (name == "p99" and _is_alike(median(mine), median(other))):
            return Judgement(text, name)
    return Judgement("tie")


def _is_alike(one: float, other: float) -> bool:
    """Seconds that nobody would choose a proxy for: what differs by less comes from the load, not from the fault."""
    return abs(one - other) <= max(ALIKE_SECONDS, ALIKE_SHARE * max(one, other))


def judgements(scenario: Scenario, rows: dict[str, list[Summary]]) -> dict[str, Judgement]:
    """Peer -> how we stand to it."""
    return {peer: judge(scenario, rows.get(OURS, []), rows.get(peer, [])) for peer in PEERS}


def gate(results: Results) -> list[str]:
    """What is unmet: no row may be lost to a peer, enough must be won against both, and ours keep their bounds."""
    unmet, won = [], 0
    for scenario in SCENARIOS:
        rows = results.get(scenario.name, {})
        unmet += [f"{scenario.name}: {problem}" for one in rows.get(OURS, []) for problem in one.problems]
        stands = [one for one in judgements(scenario, rows).values() if one.text != "-"]
        if not stands or any(one.text == "too few rounds" for one in stands):
            unmet.append(f"{scenario.name}: not measured often enough")
        unmet += [f"{scenario.name}: {one}" for one in stands if one.text == "lost"]
        won += bool(stands) and all(one.text == "won" for one in stands)
    if won < WINS_DUE:
        unmet.append(f"{won} rows are better than both peers, {WINS_DUE} are due")
    return unmet


def cell(rounds: Sequence[Summary]) -> list[str]:
    """What one proxy showed, all rounds together, in lines."""
    if not rounds:
        return ["-"]
    failures: Counter[str] = sum((one.failures for one in rounds), Counter())

    def shown(figure: Callable[[Summary], float | None], factor: float) -> str:
        values = [value for one in rounds if (value := figure(one)) is not None]
        return f"{factor * median(values):.1f}" if values else ""

    latencies = [shown(figure, 1000) for figure in (lambda one: one.p50, lambda one: one.p99, lambda one: one.longest)]
    lines = [f"failed: {sum(one.failed_gets for one in rounds)} GET, {sum(one.failed_posts for one in rounds)} POST"]
    if failures:
        lines.append("(" + ", ".join(f"{count} x {kind}" for kind, count in sorted(failures.items())) + ")")
    lines.append(f"POSTs twice: {sum(one.duplicates for one in rounds)}")
    lines.append(f"attempts: {fmean(one.attempts for one in rounds):.3f}")
    lines.append(f"p50 / p99 / max: {' / '.join(latencies)} ms")
    if told := shown(lambda one: one.told, 1000):
        lines.append(f"down told in {told} ms (p99), return seen after {shown(lambda one: one.seen, 1)} s")
    if broken := sum(bool(one.problems) for one in rounds):
        lines.append(f"bound broken in {broken} of {len(rounds)}")
    return lines


def _standing(scenario: Scenario, rows: dict[str, list[Summary]]) -> list[str]:
    return [f"{peer}: {one}" for peer, one in judgements(scenario, rows).items()]


def console_table(scenarios: Sequence[Scenario], proxies: Sequence[str], results: Results) -> Table:
    """For the terminal."""
    table = Table(title="Faults", title_justify="left", show_lines=True)
    for name in ("row", *proxies, "ours against"):
        table.add_column(name, overflow="fold")
    for scenario in scenarios:
        rows = results[scenario.name]
        cells = ["\n".join(cell(rows.get(proxy, []))) for proxy in proxies]
        table.add_row(scenario.name, *cells, "\n".join(_standing(scenario, rows)))
    return table


_INTRODUCTION = """\
# Faults

What clients see while backends and workers fail: the balancer beside nginx and HAProxy.
Written by `python -m loadtest.faults`; not edited by hand.

- Load: {gets:,} GETs and {posts:,} POSTs in {seconds:g} s for each row, proxy and round; {rounds} round(s), \
the proxies in turns. Connections are kept alive. The client sends every request once and never again, at a steady \
rate, however many are still waiting.
- Before {backends} backends, each a process that takes 5 ms for an answer and writes down every request that it gets. \
Two workers or threads per proxy, 3 attempts, 1 s to connect and 1 s to the first byte, a check every second; the \
configurations, with the reason for each line, are `faults_*` in `loadtest/peers/`.
- A request fails unless its own right answer comes whole. `unanswered`, `reset` and `truncated`: the connection \
ended before or inside an answer. "POSTs twice": backends processed them again. Attempts: requests that reached a \
backend, per request. Latencies are those of the right answers, the median of the rounds.
- A row is won or lost by failed requests first, then POSTs twice, then p99, and only where the 95 % intervals of at \
least {enough} rounds do not overlap; p99 only where the medians differ by more than 3 ms and 5 %, too. \
In `all_half_500` attempts beyond the bound come before all: more of them buy \
fewer errors, and the backends pay.
- {time}, {cpu}, {cores} cores, Linux {kernel}, Python {python}, commit {commit:.12}; {nginx}; {haproxy}.

"""


def page(proxies: Sequence[str], results: Results, size: Size, rounds: int) -> str:
    """docs/faults.md."""
    facts = {"rounds": rounds, "backends": BACKENDS, "enough": ROUNDS_TO_WIN, **asdict(size), **report.machine()}
    lines = [f"| Fault and bound | {' | '.join(proxies)} | ours against |", f"|---|{'---|' * len(proxies)}---|"]
    for scenario in (one for one in SCENARIOS if one.name in results):
        rows = results[scenario.name]
        cells = [f"**{scenario.name}**: {scenario.what}.<br>Bound: {scenario.must}."]
        cells += ["<br>".join(cell(rows.get(proxy, []))) for proxy in proxies]
        lines.append(f"| {' | '.join(cells)} | {'<br>'.join(_standing(scenario, rows))} |")
    return _INTRODUCTION.format(**facts) + "\n".join(lines) + "\n"


def run_all(
    scenarios: Sequence[Scenario], proxies: Sequence[str], size: Size, rounds: int, console: Console
) -> Results:
    """Interleaved: every proxy in every round, the order turned round each time."""
    results: Results = {scenario.name: {proxy: [] for proxy in proxies} for scenario in scenarios}
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        for number in range(rounds):
            for scenario in scenarios:
                for proxy in proxies if number % 2 == 0 else tuple(reversed(proxies)):
                    row = run_row(scenario, proxy, size, folder / f"{number}-{scenario.name}-{proxy}", seed=number)
                    if row is not None:
                        results[scenario.name][proxy].append(one := summarise(scenario, row))
                        told = "; ".join([*cell([one]), *one.problems])
                        console.print(f"{number + 1}/{rounds} {scenario.name}, {proxy}: {told}", soft_wrap=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return results


def _chosen(known: Sequence[str], text: str | None) -> tuple[str, ...]:
    names = {name.strip() for name in text.split(",")} if text else set(known)
    for name in sorted(names - set(known)):
        raise click.BadParameter(f"{name!r} is not one of {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _stop(signum: int, _frame: FrameType | None) -> None:
    """SIGTERM ends us as Ctrl-C does: through every `finally` that ends a child."""
    raise KeyboardInterrupt(signum)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--row", help=f"Only these, comma-separated: {', '.join(one.name for one in SCENARIOS)}.")
@click.option("--proxy", help=f"Only these, comma-separated: {', '.join(NAMES)}.")
@click.option("--rounds", type=click.IntRange(min=1), help=f"Rounds per row and proxy (default {ROUNDS_TO_WIN}).")
@click.option("--quick", is_flag=True, help="Less load, one round: shows that it runs, decides nothing.")
@click.option("--gates", is_flag=True, help="Exit 1 when a bound is broken, a row lost, or too few are won.")
@click.option(
    "--page",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the page goes (default docs/faults.md, and only after all rows and proxies in full).",
)
def main(
    row: str | None, proxy: str | None, rounds: int | None, quick: bool, gates: bool, target: Path | None
) -> None:  # fmt: skip
    """What clients see while backends fail, before our balancer, nginx and HAProxy."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    chosen = _chosen([one.name for one in SCENARIOS], row)
    scenarios = [one for one in SCENARIOS if one.name in chosen]
    proxies = _chosen(NAMES, proxy)
    size, rounds = (DEFAULT if quick else ROUND), rounds or (_QUICK_ROUNDS if quick else ROUNDS_TO_WIN)
    signal.signal(signal.SIGTERM, _stop)
    try:
        results = run_all(scenarios, proxies, size, rounds, console)
    except MissingProxyError as why:
        raise click.ClickException(str(why)) from why
    except KeyboardInterrupt:
        raise click.Abort from None
    console.print(console_table(scenarios, proxies, results))
    if target is None and not quick and len(scenarios) == len(SCENARIOS) and proxies == NAMES:
        target = PAGE
    if target is not None:
        target.write_text(page(proxies, results, size, rounds), encoding="utf-8")
        console.print(f"{target}", soft_wrap=True)
    if gates and (unmet := gate(results)):
        console.print("\n".join(["UNMET", *unmet]), soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m loadtest.faults")
