"""Checks that look at more than one value."""

from balancer.config import schema
from balancer.config.source import Source
from balancer.errors import Problem


def check(file: schema.File, source: Source, base: str) -> list[Problem]:
    """Every problem."""
    return []
