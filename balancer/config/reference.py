"""The reference of the configuration file, made from the schema: `python -m balancer.config.reference` prints it.

docs/configuration.md is that output; a test checks that it is current.
"""

import sys
from collections.abc import Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from balancer.config import schema
from balancer.config.fields import Kind
from balancer.config.schema_base import Base, OrOff, element

_HEAD = """# Configuration

Made from the schema by `python -m balancer.config.reference > docs/configuration.md`; a test keeps it current.
`balancer check FILE` explains every mistake in a file, `balancer schema` prints the same as JSON Schema for editors,
and [config/](../config/README.md) holds examples that run.

## How values are written

- The file is YAML, one document, UTF-8, at most 4 MiB. Unknown and duplicate keys are errors. Aliases (`*name`) work,
  merge keys (`<<`) do not.
- Only `true` and `false` are booleans. Numbers are decimal, `0x1f` or `0o17`; a leading zero changes nothing, except in
  a file mode, which is octal. Where text is due, a number or boolean is taken as written.
- A **duration** has a unit: `250ms`, `2s`, `1m`, `1h`. A **size** too: `512B`, `64KiB`, `1MiB`, `2GiB`.
  A **share** is a percentage: `20%`.
- `off` switches off what can be off. `0` is refused where it could mean none as well as no limit.
- `*.example.com` must stand in quotes, because YAML takes an unquoted `*` for an alias. Inside `[ ]` and `{ }` so must
  values with `{`, `}`, `[`, `]`, `,` or `${...}`.
- `${NAME}` is replaced by the environment variable, `${NAME:-default}` by the default when the variable is unset or
  empty; `$$` is one `$`. What was put in is read as if it had stood there without quotes.
- A relative path, also of a Unix socket, starts from the folder of the configuration file.

Where a table says *required*, the key must be there whenever its section is. *unset* means that there is no default.
"""


def _label(annotation: Any, metadata: list[Any]) -> str:
    """The type of a value, in the words of the reference."""
    for marker in metadata:
        if isinstance(marker, Kind):
            return marker.label
    kind, inner = element(annotation)
    if kind == "list":
        return f"list of {_plural(inner)}"
    if kind == "dict":
        return f"mapping of names to {_plural(inner)}"
    if kind == "model":
        return "section, or off" if any(isinstance(marker, OrOff) for marker in metadata) else "section"
    return next(_label(None, list(part.__metadata__)) for part in (annotation, *get_args(annotation)) if _marked(part))


def _marked(part: Any) -> bool:
    return any(isinstance(marker, Kind) for marker in getattr(part, "__metadata__", ()))


def _plural(inner: Any) -> str:
    return "sections" if element(inner)[0] == "model" else f"{_label(inner, [])}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    if field.default is PydanticUndefined:
        return "*see below*" if element(field.annotation)[0] == "model" else "*empty*"
    if field.default is None:
        return "*unset*"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, list):
        return f"`[{', '.join(map(str, field.default))}]`"
    return f"`{field.default}`" if field.default != "" else '`""`'


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _section(path: str, model: type[Base]) -> Iterator[str]:
    """One heading and table, then those of the sections inside."""
    yield f"\n## {path}\n" if path else "\n## The file\n"
    text = (model.__doc__ or "").strip()
    yield f"{text}\n"
    yield "| key | type | default | what it does, and why this default |"
    yield "|---|---|---|---|"
    inside: list[tuple[str, type[Base]]] = []
    for name, field in model.model_fields.items():
        label = _label(field.annotation, field.metadata)
        yield f"| `{name}` | {_cell(label)} | {_default(field)} | {_cell(field.description or '')} |"
        kind, inner = element(field.annotation)
        suffix = {"list": "[]", "dict": ".NAME"}.get(kind, "")
        if kind in ("list", "dict"):
            kind, inner = element(inner)
        if kind == "model":
            inside.append((f"{path}.{name}{suffix}" if path else f"{name}{suffix}", inner))
    for place, inner in inside:
        yield from _section(place, inner)


def _later() -> Iterator[str]:
    yield "\n## Not supported yet\n"
    yield "These keys are reserved and refused until they work:"
    for pattern in sorted(schema.LATER):
        yield f"- `{'.'.join(pattern).replace('.*', '.NAME', 1).replace('backends.*', 'backends[]')}`"
    yield ""
    yield f"So are the strategies {', '.join(f'`{name}`' for name in schema.LATER_STRATEGIES)}."


def reference() -> str:
    """The whole page, as Markdown."""
    return "\n".join([_HEAD.rstrip(), *_section("", schema.File), *_later()]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
