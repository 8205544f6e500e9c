"""`balancer drain` and `balancer undrain`: take a backend out of use without cutting anything, and back."""

import click

from balancer.cli.running_daemon import RunningDaemon, with_daemon


@click.command("drain")
@click.argument("pool")
@click.argument("backend")
@with_daemon
def command(daemon: RunningDaemon, pool: str, backend: str) -> None:
    """Give BACKEND of POOL no new work; what it is working on finishes.

    It stays so over reloads, until `undrain` or until the file's entry for this backend changes. `status` shows what
    is still in flight. Exit status: 0 done, 1 refused, 2 no daemon reached.
    """
    daemon.change_backend(pool, backend, {"state": "drain"})
    click.echo(f"pool {pool}: backend {backend} drains: no new work, what is in flight finishes")


@click.command("undrain")
@click.argument("pool")
@click.argument("backend")
@with_daemon
def undrain(daemon: RunningDaemon, pool: str, backend: str) -> None:
    """Give BACKEND of POOL work again.

    Exit status: 0 done, 1 refused, 2 no daemon reached.
    """
    daemon.change_backend(pool, backend, {"state": "active"})
    click.echo(f"pool {pool}: backend {backend} takes work again")
