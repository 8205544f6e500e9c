"""`balancer cluster members`: who belongs to the cluster, and changes of that."""

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from balancer.cli.cluster_client import endpoints_option, with_client
from balancer.consensus.client import Coordination
from balancer.coordination.responses import Member

_WIDTH_PIPED = 250


@click.group("members", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per member and line.")
@endpoints_option
@click.pass_context
def members(context: click.Context, as_json: bool, endpoints: str | None) -> None:
    """Show the members; add one, remove one, give one a vote, or let one lead.

    Members are named by their name or their id. One change at a time, and no more than a minority of voters down
    while it is made.
    """
    if context.invoked_subcommand is None:
        context.invoke(show, as_json=as_json, endpoints=endpoints)


@click.command("show", hidden=True)
@click.option("--json", "as_json", is_flag=True)
@with_client
async def show(client: Coordination, as_json: bool) -> int:
    """Show the members."""
    found = await client.members()
    if as_json:
        for member in found:
            click.echo(msgspec.json.encode(msgspec.to_builtins(member) | {"role": _role(member)}))
        return 0
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_PIPED)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("id", "name", "role", "peer addresses", "client addresses"):
        table.add_column(heading, overflow="fold")
    for member in found:
        name = escape(member.name) or "[dim](not started)[/]"
        table.add_row(f"{member.ID:x}", name, _role(member), ", ".join(member.peerURLs), ", ".join(member.clientURLs))
    console.print(table)
    return 0


@members.command("add")
@click.argument("peer_urls", metavar="PEER-URL...", nargs=-1, required=True)
@click.option("--voter", is_flag=True, help="With a vote at once, before it has the log: safer without.")
@with_client
async def add(client: Coordination, peer_urls: tuple[str, ...], voter: bool) -> int:
    """Let a new member in, whose peers' address is PEER-URL. Start it first, with `join: true`; an etcd afterwards.

    It begins as a learner, which gets the log and has no vote; `promote` gives it one.
    """
    answer = await client.add_member(peer_urls, learner=not voter)
    number = f"{answer.member.ID:x}"
    click.echo(f"member {number} was added as a {'voter' if voter else 'learner'}: start it now")
    if not voter:
        click.echo(f"when it has caught up: balancer cluster members promote {number}")
    return 0


@members.command("remove")
@click.argument("member")
@with_client
async def remove(client: Coordination, member: str) -> int:
    """Take MEMBER out of the cluster for good: it comes back only as a new one, with an empty data folder."""
    found = await _find(client, member)
    left = await client.remove_member(found.ID)
    click.echo(f"member {_named(found)} was removed; {len(left.members)} left")
    return 0


@members.command("promote")
@click.argument("member")
@with_client
async def promote(client: Coordination, member: str) -> int:
    """Give the learner MEMBER a vote. Refused while it has not caught up."""
    found = await _find(client, member)
    if not found.isLearner:
        raise click.ClickException(f"member {_named(found)} has a vote already")
    await client.promote_member(found.ID)
    click.echo(f"member {_named(found)} has a vote now")
    return 0


@members.command("transfer")
@click.argument("member")
@with_client
async def transfer(client: Coordination, member: str) -> int:
    """Let MEMBER lead, before the present leader is stopped, say."""
    found = await _find(client, member)
    if found.isLearner:
        raise click.ClickException(f"member {_named(found)} is a learner and cannot lead; promote it first")
    await client.transfer_leadership(found.ID)
    click.echo(f"member {_named(found)} leads now")
    return 0


async def _find(client: Coordination, text: str) -> Member:
    """The member of this name or id; ids as they are shown, or in decimal."""
    known = await client.members()
    for written in (lambda m: m.name, lambda m: f"{m.ID:x}", lambda m: str(m.ID)):
        found = [member for member in known if written(member) == text.lower() or written(member) == text]
        if len(found) == 1:
            return found[0]
        if found:
            raise click.ClickException(f"several members are named {text!r}; use the id")
    listed = ", ".join(_named(member) for member in known)
    raise click.ClickException(f"there is no member {text!r}; there are: {listed}")


def _named(member: Member) -> str:
    return f"{member.name} ({member.ID:x})" if member.name else f"{member.ID:x}"


def _role(member: Member) -> str:
    return "learner" if member.isLearner else "voter"
