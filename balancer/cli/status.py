"""`balancer status`: what a running daemon says of its pools, as a table or as JSON."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from balancer.admin.status import BackendStatus, PoolStatus
from balancer.daemon.runtime_dir import ADMIN_URL
from balancer.errors import BalancerError
from balancer.transport.http_client import HttpClientError, Response, request

# Rows per pool without --all: a screen or two.
_ROWS_MAX = 50
# Into a file or a pipe there is no width to keep to; lines are not padded to it.
_WIDTH_PIPED = 250
# Narrower terminals do without addresses and connections.
_WIDTH_WHOLE = 110
_NUMBERS = ("weight", "in flight", "requests", "errors", "p50", "p99", "idle/open")


class _Answer(msgspec.Struct):
    """The part of /api/v1/pools that the table shows."""

    generation: int
    pools: list[PoolStatus]


class NoDaemonError(BalancerError):
    """No daemon was found, or more than one."""


@click.command("status")
@click.option(
    "--admin",
    "url",
    metavar="URL",
    envvar="BALANCER_ADMIN",
    help="Admin address: http://HOST:PORT or unix:/PATH. Default: $BALANCER_ADMIN, else the daemon that runs here.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="BALANCER_ADMIN_TOKEN_FILE",
    help="File with the admin token, where the daemon asks for one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's JSON as it is.")
@click.option("--all", "every", is_flag=True, help=f"Show every backend, not the first {_ROWS_MAX} of a pool.")
def command(url: str | None, token_file: Path | None, as_json: bool, every: bool) -> None:
    """Show the pools of a running daemon: backends, weights, traffic, errors, latency."""
    try:
        found = url or find_admin(os.environ, os.geteuid(), _bases())
        answer = asyncio.run(_ask(found, _token_of(token_file)))
    except BalancerError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        sys.stdout.write(answer.body.decode())
        return
    try:
        known = msgspec.json.decode(answer.body, type=_Answer)
    except msgspec.DecodeError:
        raise click.ClickException(f"{found} answers, but it is no balancer of this version") from None
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_PIPED)
    console.print(f"[bold]balancer[/] at {escape(found)}, configuration generation {known.generation}", highlight=False)
    for pool in known.pools:
        console.print()
        console.print(_table(pool, len(pool.backends) if every else _ROWS_MAX, narrow=console.width < _WIDTH_WHOLE))


def find_admin(environ: Mapping[str, str], uid: int, bases: Iterable[str]) -> str:
    """The admin address of the one daemon of this user that runs here. Raises NoDaemonError.

    A daemon writes it into its runtime folder, in XDG_RUNTIME_DIR or one of `bases`. A folder of another user is
    believed only where nobody but this user or root can make one: a daemon that root started as another user.
    """
    urls = {}
    for base in dict.fromkeys(base for base in (environ.get("XDG_RUNTIME_DIR", ""), *bases) if base):
        for file in sorted(Path(base).glob(f"balancer*/{ADMIN_URL}")):
            try:
                if _own(Path(base), uid) or {file.stat().st_uid, file.parent.lstat().st_uid} <= {uid, 0}:
                    urls[file] = file.read_text().strip()
            except OSError:  # gone, or not ours to read: then it is not the daemon that is meant
                continue
    if not urls:
        raise NoDaemonError("no running balancer found; start one with `balancer run CONFIG`, or say --admin URL")
    if len(set(urls.values())) > 1:
        listed = "\n".join(f"  --admin {url}  ({file.parent})" for file, url in urls.items())
        raise NoDaemonError(f"several balancers run here; choose one:\n{listed}")
    return next(iter(urls.values()))


def _own(folder: Path, uid: int) -> bool:
    found = folder.stat()
    return found.st_uid in (uid, 0) and not found.st_mode & 0o022


def _bases() -> tuple[str, ...]:
    """Where `daemon.runtime_dir.default_path` puts its folders, and /run, where files of a system say so."""
    return (f"/run/user/{os.geteuid()}", tempfile.gettempdir(), "/run")


def _token_of(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NoDaemonError(f"cannot read the token file {file}: {error}") from None


async def _ask(url: str, token: str | None) -> Response:
    headers = [("authorization", f"Bearer {token}")] if token else []
    try:
        answer = await request(url, path="/api/v1/pools", headers=headers)
    except HttpClientError as error:
        raise NoDaemonError(f"{error}; is the daemon running, and is this its admin address?") from None
    if answer.status == 401:
        raise NoDaemonError(f"{url} asks for a token; say --token-file FILE")
    if answer.status != 200:
        raise NoDaemonError(f"{url} answers {answer.status}: {answer.body[:300].decode('utf-8', 'replace').strip()}")
    return answer


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
    for heading in _NUMBERS[:-1] if narrow else _NUMBERS:
        table.add_column(heading, justify="right", no_wrap=True)
    for backend in pool.backends[:rows_max]:
        names = [escape(backend.name), escape(backend.address)] if with_address else [escape(backend.name)]
        cells = _cells(backend)
        table.add_row(*names, *(cells[:-1] if narrow else cells))
    left_out = len(pool.backends) - rows_max
    if left_out > 0:
        table.caption = f"and {left_out:,} more; --all shows them"
        table.caption_justify = "left"
    if not pool.backends:
        table.add_row("[dim]no backends[/]")
    return table


def _cells(backend: BackendStatus) -> tuple[str, ...]:
    """State, weight, in flight, requests, errors, p50, p99 and connections of one row."""
    requests = sum(backend.requests.values())
    errors = backend.requests.get("none", 0) + backend.requests.get("5xx", 0)
    weight = str(backend.weight)
    if backend.weight != backend.file_weight:
        weight = f"{backend.weight} [dim](file {backend.file_weight})[/]"
    limit = f"/{backend.max_connections}" if backend.max_connections else ""
    connections = backend.connections
    return (
        _STATE_STYLES.get(backend.state, "[yellow]{}[/]").format(escape(backend.state)),
        weight if backend.weight else f"[yellow]{weight}[/]",
        f"{backend.in_flight}{limit}",
        f"{requests:,}",
        f"[red]{errors:,} ({_share(errors / requests)})[/]" if errors else "0",
        _milliseconds(backend.latency.p50_ms),
        _milliseconds(backend.latency.p99_ms),
        f"{connections.idle}/{connections.idle + connections.active}",
    )


_STATE_STYLES = {"active": "[green]{}[/]", "unresolved": "[red]{}[/]"}


def _share(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "[dim]-[/]"
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"
