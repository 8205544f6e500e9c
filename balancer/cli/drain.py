"""`balancer drain` and `balancer undrain`: take a backend out of use without cutting anything, and back."""

import click

from balancer.cli.running_daemon import RunningDaemon, everywhere_option, print_notes, with_daemon


@click.command("drain")
@click.argument("pool")
@click.argument("backend")
@everywhere_option
@with_daemon
def command(daemon: RunningDaemon, pool: str, backend: str, everywhere: bool) -> None:
    """Give BACKEND of POOL no new work; what it is working on finishes.

    It stays so over reloads, until `undrain` or until the file's entry for this backend changes; with --cluster only
    `undrain --cluster` ends it. `status` shows what is still in flight here. Exit status: 0 done, 1 refused, 2 no
    daemon reached.
    """
    notes = daemon.change_backend(pool, backend, {"state": "drain"}, everywhere=everywhere)
    where = " in the whole cluster" if everywhere else ""
    click.echo(f"pool {pool}: backend {backend} drains{where}: no new work, what is in flight finishes")
    print_notes(notes)


@click.command("undrain")
@click.argument("pool")
@click.argument("backend")
@everywhere_option
@with_daemon
def undrain(daemon: RunningDaemon, pool: str, backend: str, everywhere: bool) -> None:
    """Give BACKEND of POOL work again.

    With --cluster that ends what `drain --cluster` began; a balancer that drains it alone goes on with that. Exit
    status: 0 done, 1 refused, 2 no daemon reached.
    """
    notes = daemon.change_backend(pool, backend, {"state": "active"}, everywhere=everywhere)
    where = " in the whole cluster" if everywhere else ""
    click.echo(f"pool {pool}: backend {backend} takes work again{where}")
    print_notes(notes)
