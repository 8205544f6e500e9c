"""`balancer reload`: the running daemon reads its file again, or tells what that would change."""

import sys
from urllib.parse import urlencode

import click
import msgspec

from balancer.admin.changes import ReloadResult
from balancer.cli.running_daemon import REFUSED, RefusedError, RunningDaemon, with_daemon

_TIMEOUT = 90.0  # names are looked up and every worker builds the whole; the daemon gives up well before


@click.command("reload")
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
@click.option(
    "--discard-live",
    is_flag=True,
    help="End live weights, drains and added backends of this balancer; what was said with --cluster stays.",
)
@with_daemon
def command(daemon: RunningDaemon, dry_run: bool, discard_live: bool) -> None:
    """Let the running daemon read its configuration file again, and print what changed.

    Nothing in flight is cut. A file that cannot be used changes nothing, and every problem in it is printed with
    its place. Exit status: 0 done, 1 refused, 2 no daemon reached.
    """
    flags = [name for name, given in (("dry_run", dry_run), ("discard_live", discard_live)) if given]
    query = urlencode(dict.fromkeys(flags, "1"))
    path = f"/api/v1/reload?{query}" if query else "/api/v1/reload"
    answer = daemon.ask(path, "POST", good=(200, 422), timeout=_TIMEOUT)
    try:
        result = msgspec.json.decode(answer.body, type=ReloadResult)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RefusedError(f"{daemon.url} answers, but it is no balancer of this version") from None
    for problem in result.problems:
        click.echo(problem, err=True)
    if not result.ok:
        click.echo(f"refused: nothing was changed, generation {result.generation} stays in use", err=True)
        sys.exit(REFUSED)
    for change in result.changes or ["nothing differs from what is in use"]:
        click.echo(change)
    if dry_run:
        click.echo(f"dry run: nothing was changed, generation {result.generation} is in use")
    else:
        click.echo(f"reloaded: generation {result.generation} is in use")
