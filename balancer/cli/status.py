"""`balancer status`: what a running daemon says of its pools, as a table or as JSON."""

import sys

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from balancer.admin.status import UNRESOLVED, UP, BackendStatus, PoolStatus
from balancer.cli.running_daemon import RefusedError, RunningDaemon, with_daemon

# Rows per pool without --all: a screen or two.
_ROWS_MAX = 50
# Into a file or a pipe there is no width to keep to; lines are not padded to it.
_WIDTH_PIPED = 250
# Narrower terminals do without addresses and connections.
_WIDTH_WHOLE = 110
_COLUMNS = ("weight", "share", "in flight", "requests", "errors", "p50", "p99", "idle/open")
# Any other state is on its way to one of these, or wanted by someone: yellow.
_STATE_STYLES = {UP: "green", UNRESOLVED: "red", "unhealthy": "red", "ejected": "red"}


class _Answer(msgspec.Struct):
    """The part of /api/v1/pools that the table shows."""

    generation: int
    pools: list[PoolStatus]


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's JSON as it is.")
@click.option("--all", "every", is_flag=True, help=f"Show every backend, not the first {_ROWS_MAX} of a pool.")
@with_daemon
def command(daemon: RunningDaemon, as_json: bool, every: bool) -> None:
    """Show the pools of a running daemon: backends, states, weights, traffic, errors, latency.

    A weight that was set while the daemon runs stands beside the file's, with `cluster` where it holds at all balancers
    of the cluster. Under a pool's table stands why a backend is not in use. Exit status: 0 shown, 1 refused, 2 no
    daemon reached.
    """
    answer = daemon.ask("/api/v1/pools")
    if as_json:
        sys.stdout.write(answer.body.decode())
        return
    try:
        known = msgspec.json.decode(answer.body, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RefusedError(f"{daemon.url} answers, but it is no balancer of this version") from None
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_PIPED)
    console.print(
        f"[bold]balancer[/] at {escape(daemon.url)}, configuration generation {known.generation}", highlight=False
    )
    for pool in known.pools:
        rows_max = len(pool.backends) if every else _ROWS_MAX
        console.print()
        console.print(_table(pool, rows_max, narrow=console.width < _WIDTH_WHOLE))
        for backend in pool.backends[:rows_max]:
            if backend.state != UP or backend.share < 1:
                console.print(_why(backend), highlight=False, soft_wrap=True)


def _table(pool: PoolStatus, rows_max: int, *, narrow: bool) -> Table:
    table = Table(
        title=f"[bold]{escape(pool.name)}[/]  {pool.strategy}",
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
        padding=(0, 1 if narrow else 2, 0, 0),
    )
    table.add_column("backend", style="bold", min_width=15, overflow="fold")
    with_address = not narrow and any(backend.name != backend.address for backend in pool.backends)
    if with_address:
        table.add_column("address", min_width=15, overflow="fold")
    table.add_column("state", no_wrap=True)
    with_share = any(backend.share < 1 for backend in pool.backends)
    columns = [name for name in _COLUMNS if (name != "share" or with_share) and not (narrow and name == "idle/open")]
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for backend in pool.backends[:rows_max]:
        names = [escape(backend.name), escape(backend.address)] if with_address else [escape(backend.name)]
        cells = _cells(backend)
        table.add_row(*names, _state(backend), *(cells[name] for name in columns))
    left_out = len(pool.backends) - rows_max
    if left_out > 0:
        table.caption = f"and {left_out:,} more; --all shows them"
        table.caption_justify = "left"
    if not pool.backends:
        table.add_row("[dim]no backends[/]")
    return table


def _state(backend: BackendStatus) -> str:
    """The state and, where they are not the usual ones, the backend's role and source."""
    style = _STATE_STYLES.get(backend.state, "yellow")
    marks = [word for word, holds in (("backup", backend.backup), (backend.source, backend.source != "file")) if holds]
    told = f"[{style}]{escape(backend.state)}[/]"
    return f"{told} [dim]({', '.join(marks)})[/]" if marks else told


def _why(backend: BackendStatus) -> str:
    """One line: since when a backend is what it is, and what that rests on."""
    since = f" since {backend.since}" if backend.since else ""
    drained = f", drained {_drained_by(backend)}" if backend.drained else ""
    evidence = f": {backend.evidence}" if backend.evidence else ""
    line = f"  {backend.name}: {backend.state}{since}{drained}{evidence}"
    return escape("".join(char if char.isprintable() else "?" for char in line))  # a backend's words may be in it


def _drained_by(backend: BackendStatus) -> str:
    if "cluster" not in backend.drained_by:
        return "by the operator"
    return "in the whole cluster" if len(backend.drained_by) == 1 else "in the whole cluster, and here by itself"


def _cells(backend: BackendStatus) -> dict[str, str]:
    """The numbers of one row by their headings."""
    requests = sum(backend.requests.values())
    errors = backend.requests.get("none", 0) + backend.requests.get("5xx", 0)
    weight = str(backend.weight)
    marks = ["cluster"] if backend.weight_by == "cluster" else []
    if backend.file_weight is not None and backend.weight != backend.file_weight:
        marks.append(f"file {backend.file_weight}")
    if marks:
        weight += f" [dim]({', '.join(marks)})[/]"
    limit = f"/{backend.max_connections}" if backend.max_connections else ""
    connections = backend.connections
    return {
        "weight": weight if backend.weight else f"[yellow]{weight}[/]",
        "share": f"{backend.share:.0%}" if backend.share == 1 else f"[yellow]{backend.share:.0%}[/]",
        "in flight": f"{backend.in_flight}{limit}",
        "requests": f"{requests:,}",
        "errors": f"[red]{errors:,} ({_share(errors / requests)})[/]" if errors else "0",
        "p50": _milliseconds(backend.latency.p50_ms),
        "p99": _milliseconds(backend.latency.p99_ms),
        "idle/open": f"{connections.idle}/{connections.idle + connections.active}",
    }


def _share(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "[dim]-[/]"
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"
