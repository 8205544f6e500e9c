"""The kinds of value that the schema is made of: each parses the scalar's text and tells editors what is due.

`File` data reach pydantic as mappings, lists and *text*; a `Kind` turns the text into the value. Its label is
what the reference prints as the type.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from balancer.config import addresses, scalars
from balancer.config.scalars import shown


def described(value: object) -> str:
    """What `value` is, for messages that say it is the wrong thing."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return shown(str(value))


def did_you_mean(text: str, choices: Collection[str]) -> str:
    """The nearest of `choices` as a question, or all of them. O(choices)."""
    near = get_close_matches(text.lower(), choices, n=1, cutoff=0.6)
    if near and not near[0][-1].isdigit():  # `1.1` is as near to 1.2 as to 1.3
        return f"did you mean {near[0]}?"
    return f"possible here: {', '.join(choices)}"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of scalar: its label, the function from text to value, and its JSON Schema."""

    label: str
    parse: Callable[[str], Any]
    schema: dict[str, Any] = field(compare=False)

    def _value(self, value: object) -> Any:
        if isinstance(value, (dict, list)):
            raise ValueError(f"{described(value)} stands where one value is due: {self.label}")  # noqa: TRY004
        return self.parse(value if isinstance(value, str) else str(value).lower())  # defaults are Python values too

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._value)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


def _within(
    parse: Callable[[str], float], least: str, most: str, *, off: object = None, off_ok: bool = False
) -> Callable[[str], Any]:
    """`parse` bounded to [least, most], both as written; with `off_ok` the word `off` gives `off`."""
    low, high = parse(least), parse(most)

    def bounded(text: str) -> Any:
        if text == "off":
            if off_ok:
                return off
            raise ValueError(f"this cannot be off; write {least} to {most}")
        zero = text == "0" and low > 0
        if zero or (value := parse(text)) == 0 < low:
            also = "off, or " if off_ok else ""
            raise ValueError(f"{shown(text)} could mean none or no limit; write {also}{least} to {most}")
        if not low <= value <= high:
            raise ValueError(f"{shown(text)} is out of range; write {least} to {most}")
        return value

    return bounded


_DURATION_SCHEMA = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)? ?(ms|s|m|h)|.*\$\{.*)$", "examples": ["5s"]}
_SIZE_SCHEMA = {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)? ?(B|KiB|MiB|GiB|TiB)|.*\$\{.*)$"}
_SHARE_SCHEMA = {"type": "string", "pattern": r"^([0-9]{1,3}(\.[0-9]+)?%|.*\$\{.*)$", "examples": ["20%"]}
_TEXT_SCHEMA: dict[str, Any] = {"type": ["string", "number", "boolean"]}
_STRING_SCHEMA: dict[str, Any] = {"type": "string"}
_OFF_SCHEMA = {"const": "off"}


def duration(least: str, most: str) -> Kind:
    """A time within bounds."""
    return Kind(f"duration, {least} to {most}", _within(scalars.duration, least, most), _DURATION_SCHEMA)


def duration_or_off(least: str, most: str) -> Kind:
    """A time within bounds, or `off` (None)."""
    parse = _within(scalars.duration, least, most, off_ok=True)
    return Kind(f"duration, {least} to {most}, or off", parse, {"anyOf": [_DURATION_SCHEMA, _OFF_SCHEMA]})


def size(least: str, most: str) -> Kind:
    """Bytes within bounds."""
    return Kind(f"size, {least} to {most}", _within(scalars.size, least, most), _SIZE_SCHEMA)


def size_or_off(least: str, most: str) -> Kind:
    """Bytes within bounds, or `off` (None)."""
    parse = _within(scalars.size, least, most, off_ok=True)
    return Kind(f"size, {least} to {most}, or off", parse, {"anyOf": [_SIZE_SCHEMA, _OFF_SCHEMA]})


def share(least: str, most: str) -> Kind:
    """A part of the whole, 0.0 to 1.0, within bounds."""
    return Kind(f"share, {least} to {most}", _within(scalars.share, least, most), _SHARE_SCHEMA)


def share_or_off(least: str, most: str, off: float | None = None) -> Kind:
    """A part of the whole within bounds, or `off`."""
    parse = _within(scalars.share, least, most, off=off, off_ok=True)
    return Kind(f"share, {least} to {most}, or off", parse, {"anyOf": [_SHARE_SCHEMA, _OFF_SCHEMA]})


def _integer_schema(least: int, most: int) -> dict[str, Any]:
    return {"anyOf": [{"type": "integer", "minimum": least, "maximum": most}, _VARIABLE_SCHEMA]}


_VARIABLE_SCHEMA = {"type": "string", "pattern": r"\$\{"}


def integer(least: int, most: int) -> Kind:
    """A whole number within bounds."""
    parse = _within(scalars.integer, str(least), str(most))
    return Kind(f"{least:,} to {most:,}", parse, _integer_schema(least, most))


def integer_or_off(least: int, most: int, off: int | None = None) -> Kind:
    """A whole number within bounds, or `off`."""
    parse = _within(scalars.integer, str(least), str(most), off=off, off_ok=True)
    return Kind(f"{least:,} to {most:,}, or off", parse, {"anyOf": [_integer_schema(least, most), _OFF_SCHEMA]})


def choice(*choices: str) -> Kind:
    """One of a few words."""

    def parse(text: str) -> str:
        if text in choices:
            return str(text)
        raise ValueError(f"{shown(text)} is not possible; {did_you_mean(text, choices)}")

    return Kind(" or ".join(choices), parse, {"enum": list(choices)})


def one_status(*choices: int) -> Kind:
    """One of a few status codes."""

    def parse(text: str) -> int:
        value = scalars.integer(text)
        if value in choices:
            return value
        raise ValueError(f"{shown(text)} is not possible here; write {', '.join(map(str, choices))}")

    return Kind(" or ".join(map(str, choices)), parse, {"enum": list(choices)})


def _mode(text: str) -> int:
    found = re.fullmatch(r"0o?([0-7]{1,4})", text, re.ASCII)
    if found is not None and int(found[1], 8) <= 0o777:
        return int(found[1], 8)
    hint = f"write 0{text}" if re.fullmatch(r"[0-7]{3}", text, re.ASCII) else "such as 0660"
    raise ValueError(f"{shown(text)} is not a file mode; it is octal, at most 0777, with a leading zero: {hint}")


def _text(limit: int) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if len(text.encode()) > limit:
            raise ValueError(f"has {len(text.encode()):,} bytes; at most {limit:,} are taken")
        return str(text)

    return parse


def _file(text: str) -> str:
    if "\0" in text or "\n" in text or len(text.encode()) > 4096 or not text:
        raise ValueError(f"{shown(text)} is not the path of a file")
    return str(text)


def of(label: str, parse: Callable[[str], Any]) -> Kind:
    """A kind of text with a parser of its own."""
    return Kind(label, lambda text: parse(str(text)), _TEXT_SCHEMA)


Boolean = Annotated[bool, Kind("true or false", scalars.boolean, {"anyOf": [{"type": "boolean"}, _VARIABLE_SCHEMA]})]
FilePath = Annotated[str, Kind("path", _file, _STRING_SCHEMA)]
Mode = Annotated[
    int, Kind("file mode", _mode, {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^0[0-7]{3,4}$"}]})
]
Body = Annotated[str, Kind("text", _text(64 * 1024), _TEXT_SCHEMA)]
Text = Annotated[str, Kind("text", _text(8 * 1024), _TEXT_SCHEMA)]
Name = Annotated[str, of("name", addresses.name)]
Host = Annotated[str, of("host", addresses.host_pattern)]
Network = Annotated[str, of("CIDR", addresses.network)]
Method = Annotated[str, of("method", addresses.method)]
UrlPath = Annotated[str, of("URL path", addresses.url_path)]
HeaderName = Annotated[str, of("header name", addresses.header_name)]
HeaderValue = Annotated[str, of("text", addresses.header_value)]
