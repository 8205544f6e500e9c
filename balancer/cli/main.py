"""`balancer`: the command group. Each command lives in a module of its own and is imported when it is used."""

from importlib import import_module

import click

from balancer import __version__

# command -> module, which defines a click command named `command`.
_COMMANDS = {
    "run": "balancer.cli.run",
    "check": "balancer.cli.check",
    "reload": "balancer.cli.reload",
    "status": "balancer.cli.status",
    "drain": "balancer.cli.drain",
    "undrain": "balancer.cli.undrain",
    "weight": "balancer.cli.weight",
    "cluster": "balancer.cli.cluster",
    "schema": "balancer.cli.schema",
    "demo": "balancer.cli.demo",
}


class LazyGroup(click.Group):
    """A group whose commands are imported on use, so that `balancer check` does not pay for the proxy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None when there is none of that name."""
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = import_module(module).command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="balancer")
def main() -> None:
    """A Layer-7 (HTTP) load balancer: one YAML file, many backends, nothing lost."""
