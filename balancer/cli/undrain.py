"""`balancer undrain`, beside `balancer.cli.drain`: the table of commands has one module for each."""

from balancer.cli.drain import undrain as command

__all__ = ["command"]
