"""`balancer run`: the daemon, in the foreground."""

import signal
import sys

import click


@click.command(short_help="Run the daemon in the foreground.")
@click.argument("config")
def command(config: str) -> None:
    """Run the balancer that the file CONFIG describes, in the foreground.

    Prints a line `listening NAME URL` for each address and `admin URL` when it serves. SIGTERM or Ctrl-C stops it
    in order; a second one at once. Exit status: 0 asked to stop, 1 the configuration cannot be used, 2 an address
    cannot be bound, 3 it crashed.
    """
    # Held back until there is somebody to hear it: what follows takes part of a second, and a SIGHUP would end us.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    import structlog

    from balancer.daemon import supervisor
    from balancer.daemon.config_file import UnusableFileError, read_config
    from balancer.daemon.named_files import check_named_files
    from balancer.errors import ConfigError
    from balancer.telemetry import events

    try:
        loaded = read_config(config, check_named_files)
    except UnusableFileError as error:
        click.echo(str(error), err=True)
        sys.exit(supervisor.BAD_CONFIGURATION)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(supervisor.BAD_CONFIGURATION)
    for problem in loaded.warnings:
        click.echo(str(problem), err=True)
    try:
        code = supervisor.run(loaded.config, config)
    except Exception as error:
        structlog.get_logger().exception(events.DAEMON_CRASHED)
        raise SystemExit(supervisor.CRASHED) from error
    sys.exit(code)
