"""What must not stand among the header fields that a file gives."""

from collections.abc import Iterator

from balancer.config import model
from balancer.config.source import KEY, Path, Source
from balancer.errors import Problem


def own_field(name: str, place: Path, source: Source) -> Iterator[Problem]:
    """A field that only the balancer may write."""
    if name.lower() in model.UNEDITABLE_FIELDS:
        yield source.problem(
            place, f"{name} frames messages or belongs to one connection, so the balancer alone sets it; remove it"
        )


def same_name(names: list[str], place: Path, source: Source) -> Iterator[Problem]:
    """Names that differ only in case mean one field, or one condition."""
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(name.lower(), name)
        if first != name:
            yield source.problem((*place, name, KEY), f"is the same field as {first}; keep one of the two")
