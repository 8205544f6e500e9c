"""`balancer check`: every problem of a configuration file, with its place and what would be right."""

import sys

import click
import msgspec

from balancer.daemon.config_file import UnusableFileError, read_config
from balancer.daemon.named_files import check_named_files
from balancer.errors import ConfigError, Problem

BAD = 1
UNUSABLE = 2


def _as_json(file: str, problems: list[Problem], unusable: str = "") -> str:
    """The result for programs: {"file", "good", "problems": [{line, column, path, message, warning}]}."""
    result = {
        "file": file,
        "good": not unusable and all(problem.warning for problem in problems),
        "problems": [msgspec.to_builtins(problem) for problem in problems],
    }
    if unusable:
        result["unusable"] = unusable
    return msgspec.json.encode(result).decode()


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def problems_of(path: str) -> list[Problem]:
    """Everything wrong or doubtful about the configuration at `path` and the files that it names."""
    try:
        return read_config(path, check_named_files).warnings
    except ConfigError as error:
        return error.problems


@click.command(short_help="Check a configuration file.")
@click.argument("config")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def command(config: str, as_json: bool) -> None:
    """Check the configuration file CONFIG and print every problem as FILE:LINE:COLUMN: PATH: what is wrong.

    Exit status: 0 good (warnings allowed), 1 bad, 2 the file cannot be read.
    """
    try:
        problems = problems_of(config)
    except UnusableFileError as error:
        click.echo(_as_json(config, [], str(error)) if as_json else str(error), err=not as_json)
        sys.exit(UNUSABLE)
    errors = sum(not problem.warning for problem in problems)
    warnings = len(problems) - errors
    if as_json:
        click.echo(_as_json(config, problems))
    else:
        for problem in problems:
            click.echo(str(problem))
        tail = f", {_counted(warnings, 'warning')}" if warnings else ""
        click.echo(f"{config}: {_counted(errors, 'error')}{tail}" if errors else f"{config}: good{tail}")
    if errors:
        sys.exit(BAD)
