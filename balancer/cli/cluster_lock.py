"""`balancer cluster lock` and `elect`: run a command while holding a lock, or while leading."""

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import Callable
from typing import Any

import click

from balancer.cli.cluster_client import ENVIRONMENT, endpoints_of, with_client
from balancer.cli.cluster_command import FORWARDED, Command
from balancer.consensus.client import Coordination
from balancer.consensus.client_acquire import Acquisition
from balancer.consensus.client_errors import LockLostError, NotAcquiredError
from balancer.consensus.client_lease import MARGIN_LEAST, MARGIN_SHARE
from balancer.coordination.errors import CoordinationError

# Those of timeout(1) and env(1), where they fit.
LOST = 123
NOT_ACQUIRED = 124
FAILED = 125
NOT_RUNNABLE = 126
NOT_FOUND = 127

_STATUSES = """
    CMD finds the fencing token in BALANCER_FENCING_TOKEN and the key of the lock in BALANCER_LOCK_KEY; `balancer
    cluster kv put --guarded` uses both. Signals are passed on to it.

    When it is lost, CMD gets SIGTERM, and SIGKILL after the grace: both come before anybody else can have it, as long
    as this process is not itself stopped. A CMD that must not work on without it whatever happens lets the token be
    checked by what it works on.

    Exit status: CMD's own (128 + N when signal N ended it), or 123 it was lost and CMD was stopped, 124 not got within
    the --timeout, 125 the cluster failed, 126 CMD cannot be run, 127 there is no CMD.
"""


def _options(function: Callable[..., None]) -> Callable[..., None]:
    """The arguments and options that both commands have."""
    for option in (
        click.option(
            "--grace",
            type=click.FloatRange(min=0),
            default=2.0,
            show_default=True,
            help="Seconds that CMD has to end when it is lost.",
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            help="Seconds to wait for it. [default: for ever]",
        ),
        click.option(
            "--ttl",
            type=click.FloatRange(min=1),
            default=10.0,
            show_default=True,
            help="Seconds without a word from here after which somebody else gets it.",
        ),
        click.argument("words", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED),
        click.argument("name"),
    ):
        function = option(function)
    return function


@click.command(
    "lock", short_help="Run a command while holding a lock.", help=f"Run CMD while holding the lock NAME.\n{_STATUSES}"
)
@_options
@click.option(
    "--delay",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Seconds to wait longer after a holder that did not release it: for what cannot check tokens; all say it.",
)
@with_client
async def lock(client: Coordination, name: str, words: tuple[str, ...], ttl: float, delay: float, **rest: Any) -> int:
    margin = _margin(ttl, rest["grace"])
    acquisition = client.lock(name, ttl=ttl, timeout=rest["timeout"], margin=margin, delay=delay)
    return await _hold(acquisition, words, rest["grace"])


@click.command(
    "elect",
    short_help="Run a command while leading.",
    help=f"Run CMD while being the leader of the election NAME.\n{_STATUSES}",
)
@_options
@click.option("--value", help="What the leader is known by. [default: host name and process id]")
@with_client
async def elect(
    client: Coordination, name: str, words: tuple[str, ...], ttl: float, value: str | None, **rest: Any
) -> int:
    known_by = value if value is not None else f"{socket.gethostname()}:{os.getpid()}"
    margin = _margin(ttl, rest["grace"])
    campaign = client.election(name).campaign(known_by, ttl=ttl, timeout=rest["timeout"], margin=margin)
    return await _hold(campaign, words, rest["grace"])


def _margin(ttl: float, grace: float) -> float:
    """How long before the TTL is over CMD must begin to end: its grace, and what clocks may differ by."""
    margin = grace + max(MARGIN_LEAST, MARGIN_SHARE * ttl)
    if margin > ttl / 2:
        raise click.UsageError(
            f"a --grace of {grace:g} s leaves too little of a --ttl of {ttl:g} s; at least {2 * margin:.0f} s fit"
        )
    return margin


async def _hold(acquisition: Acquisition[Any], words: tuple[str, ...], grace: float) -> int:
    if shutil.which(words[0]) is None:
        there = os.path.exists(words[0])
        click.echo(f"Error: {words[0]} {'cannot be run' if there else 'is no program'}", err=True)
        return NOT_RUNNABLE if there else NOT_FOUND
    environ = {**os.environ, ENVIRONMENT: ",".join(endpoints_of(click.get_current_context(), os.environ))}
    command = Command(words, environ, grace)
    caught = _pass_signals_on(command)
    try:
        async with acquisition as grant:
            status = await command.run(grant)
            if status is None:
                raise grant.loss()
            return status
    except LockLostError as error:
        click.echo(f"Error: {error}; the command was stopped", err=True)
        return LOST
    except NotAcquiredError as error:
        click.echo(f"Error: {error}", err=True)
        return NOT_ACQUIRED
    except OSError as error:
        click.echo(f"Error: {words[0]} cannot be run: {error.strerror}", err=True)
        return NOT_RUNNABLE
    except CoordinationError as error:
        click.echo(f"Error: {error}", err=True)
        return FAILED
    except asyncio.CancelledError:
        if not caught:
            raise
        return 128 + caught[0]


def _pass_signals_on(command: Command) -> list[int]:
    """Signals go to the command; before it runs they end us, and stand in the list that this returns."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    caught: list[int] = []

    def forward(number: signal.Signals) -> None:
        if command.running:
            command.signal(number)
        elif task is not None and number not in (signal.SIGUSR1, signal.SIGUSR2):
            caught.append(number)
            task.cancel()

    for number in FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup keeps what it asked for
            loop.add_signal_handler(number, forward, number)
    return caught
