"""`balancer weight`: another weight for a backend, while the daemon runs."""

from typing import Any

import click
import msgspec

from balancer.cli.running_daemon import (
    NoDaemonError,
    RefusedError,
    RunningDaemon,
    everywhere_option,
    print_notes,
    with_daemon,
)

_WEIGHT_MAX = 65535
_OF_FILE = "file"


class _WeightOrFile(click.IntRange):
    """A number, or the word for the weight that the backend's entry has."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click asks for it."""
        return value if value == _OF_FILE else super().convert(value, param, ctx)


class _Pool(msgspec.Struct):
    name: str
    strategy: str


class _Pools(msgspec.Struct):
    pools: list[_Pool]


@click.command("weight")
@click.argument("pool")
@click.argument("backend")
@click.argument("weight", metavar="N", type=_WeightOrFile(0, _WEIGHT_MAX))
@everywhere_option
@with_daemon
def command(daemon: RunningDaemon, pool: str, backend: str, weight: int | str, everywhere: bool) -> None:
    """Set the weight of BACKEND of POOL to N (0 to 65535; 0 = no new traffic), or back to what the `file` says.

    It holds over reloads, until it is set again or until the file's entry for this backend changes; with --cluster
    until it is set again with --cluster. Exit status: 0 done, 1 refused, 2 no daemon reached.
    """
    notes = daemon.change_backend(pool, backend, {"weight": weight}, everywhere=everywhere)
    where = " in the whole cluster" if everywhere else ""
    now = "the weight of its entry again" if weight == _OF_FILE else f"weight {weight}"
    click.echo(f"pool {pool}: backend {backend} has {now}{where}")
    print_notes(notes)
    if weight in (0, 1, _OF_FILE):
        return
    if (strategy := _strategy_of(daemon, pool)) and _ignores_weights(strategy):
        click.echo(f"note: the strategy of pool {pool}, {strategy}, ignores weights (but for 0)", err=True)


def _strategy_of(daemon: RunningDaemon, pool: str) -> str:
    """The pool's strategy; "" when it cannot be learnt: by now the weight is set, and only the note is missing."""
    try:
        found = msgspec.json.decode(daemon.ask("/api/v1/pools").body, type=_Pools)
    except (NoDaemonError, RefusedError, msgspec.DecodeError):
        return ""
    return next((one.strategy for one in found.pools if one.name == pool), "")


def _ignores_weights(strategy: str) -> bool:
    from balancer.config.schema_pools import IGNORE_WEIGHTS  # here: it loads the whole schema

    return strategy in IGNORE_WEIGHTS
