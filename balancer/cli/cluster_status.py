"""`balancer cluster status`: what each endpoint says of itself."""

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from balancer.cli.cluster_client import NOT_REACHED, REFUSED, with_client
from balancer.consensus.client import Coordination
from balancer.consensus.client_members import Standing
from balancer.coordination.errors import CoordinationError

_WIDTH_PIPED = 250


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per endpoint and line.")
@with_client
async def status(client: Coordination, as_json: bool) -> int:
    """Show each endpoint: its member, version, role, term, how far its log is applied.

    The last line says whether the cluster can write: a member answers for itself without the others. Exit status: 0
    all answered and the cluster can write, 1 not so, 2 nobody answered.
    """
    found = await client.status()
    if as_json:
        for one in found:
            click.echo(msgspec.json.encode(_plain(one)))
    else:
        _show(found)
    answered = [one for one in found if one.status is not None]
    if not answered:
        return NOT_REACHED
    trouble = await _trouble(client)
    if not as_json:
        click.echo(f"the cluster cannot write now: {trouble}" if trouble else "the cluster can read and write")
    return REFUSED if trouble or len(answered) < len(found) else 0


async def _trouble(client: Coordination) -> str:
    """Why there is no linearizable read; "" when there is one."""
    try:
        await client.get("balancer/status")
    except CoordinationError as error:
        return str(error)
    return ""


def _plain(one: Standing) -> dict[str, object]:
    if one.status is None:
        return {"url": one.url, "error": str(one.error)}
    status = one.status
    return {
        "url": one.url,
        "cluster_id": status.header.cluster_id,
        "member_id": status.header.member_id,
        "role": _role(one),
        "leader": status.leader,
        "version": status.version,
        "term": status.raftTerm,
        "index": status.raftIndex,
        "applied": status.raftAppliedIndex,
        "revision": status.header.revision,
        "size": status.dbSize,
        "errors": status.errors,
    }


def _role(one: Standing) -> str:
    assert one.status is not None
    if one.status.leader == one.status.header.member_id:
        return "leader"
    if one.status.isLearner:
        return "learner"
    return "follower" if one.status.leader else "no leader"


def _show(found: list[Standing]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_PIPED)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("endpoint", style="bold", overflow="fold")
    for heading in ("member", "version", "role"):
        table.add_column(heading, no_wrap=True)
    for heading in ("term", "index", "applied", "revision"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in found:
        table.add_row(escape(one.url), *_cells(one))
    console.print(table)
    for one in found:
        troubles = [str(one.error)] if one.status is None else [*one.status.errors]
        for trouble in troubles:
            console.print(f"  {escape(one.url)}: [red]{escape(trouble)}[/]", highlight=False, soft_wrap=True)


def _cells(one: Standing) -> list[str]:
    if one.status is None:
        return ["", "", "[red]no answer[/]"]
    status = one.status
    role = _role(one)
    style = {"leader": "green", "no leader": "red"}.get(role)
    numbers = (status.raftTerm, status.raftIndex, status.raftAppliedIndex, status.header.revision)
    return [
        f"{status.header.member_id:x}",
        escape(status.version),
        f"[{style}]{role}[/]" if style else role,
        *map(str, numbers),
    ]
