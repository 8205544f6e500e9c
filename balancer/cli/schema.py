"""`balancer schema`: the JSON Schema of the configuration file."""

import json

import click

from balancer.config.schema import json_schema


@click.command(short_help="Print the JSON Schema of the configuration, for editors.")
def command() -> None:
    """Print the JSON Schema of the configuration file, with every key's description and default.

    Editors with YAML support complete and explain keys with it.
    """
    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
