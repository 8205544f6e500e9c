"""Scalars as the configuration reads them: YAML 1.2 core plain scalars, durations, sizes, shares, `${NAME}`.

A scalar stays its source text until the schema says what is due at its place; the functions here turn that
text into the value. So `on`, `yes`, `1:30` and `0100` are never surprises: a boolean is only `true` or `false`,
and where a string is due the text is taken as written. Every function raises ValueError with a message that
says what is wrong and what would be right. Source of the plain scalar rules: YAML 1.2.2 section 10.3.2.
"""

import re
from collections.abc import Mapping

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
# What other tools and YAML 1.1 take for a boolean; only used to say what would be right.
_LOOKS_TRUE = frozenset({"on", "yes", "y", "enable", "enabled", "1"})
_LOOKS_FALSE = frozenset({"off", "no", "n", "disable", "disabled", "0", "none"})

_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OCTAL = re.compile(r"0o[0-7]+", re.ASCII)
_HEX = re.compile(r"0x[0-9a-fA-F]+", re.ASCII)
_DIGITS_MAX = 18  # fits a signed 64-bit integer: what shared memory and counters hold
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-zµ]+)", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]+)?)%", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_SUBSTITUTION = re.compile(r"\$(?:\$|\{([^}]*)(\}?))")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(:-(.*))?", re.ASCII | re.DOTALL)
_SHOWN_MAX = 60  # characters of a value that a message repeats


class Quoted(str):
    """The text of a scalar that stood in quotes or in a block: always a string, never a number or boolean."""

    __slots__ = ()


def shown(text: str) -> str:
    """`text` as a message repeats it: quoted, control characters escaped, cut when long."""
    cut = text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."
    return "`" + "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut) + "`"


def boolean(text: str) -> bool:
    """`true` or `false`; everything else is refused, with the right word where the meaning is plain."""
    if not isinstance(text, Quoted):
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
    lowered = text.lower()
    if lowered in _LOOKS_TRUE:
        raise ValueError(f"{shown(text)} is not a boolean here; write true")
    if lowered in _LOOKS_FALSE:
        raise ValueError(f"{shown(text)} is not a boolean here; write false")
    if lowered in {"true", "false"}:
        raise ValueError(f"{shown(text)} is quoted, so it is a string; write {lowered} without quotes")
    raise ValueError(f"{shown(text)} is not a boolean; write true or false")


def integer(text: str) -> int:
    """A whole number: decimal (a leading zero changes nothing), `0o17` or `0x1f`."""
    if len(text) <= _DIGITS_MAX + 2:
        value: int | None = None
        if _INTEGER.fullmatch(text):
            value = int(text, 10)
        elif _OCTAL.fullmatch(text):
            value = int(text[2:], 8)
        elif _HEX.fullmatch(text):
            value = int(text[2:], 16)
        if value is not None:
            if isinstance(text, Quoted):
                raise ValueError(f"{shown(text)} is quoted, so it is a string; write {value} without quotes")
            return value
    raise ValueError(f"{shown(text)} is not a whole number; write digits only, such as 10")


def duration(text: str) -> float:
    """Seconds from `250ms`, `2s`, `1.5m` or `1h`. A number without its unit is refused."""
    if _NUMBER.fullmatch(text):
        raise ValueError(f"{shown(text)} has no unit; write {text.lstrip('+-')}s for seconds, or use ms, m or h")
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{shown(text)} is not a duration; write a number and its unit, such as 250ms, 5s, 1m or 1h")
    number, unit = found.groups()
    if unit not in _SECONDS:
        raise ValueError(f"{shown(text)} has the unit {shown(unit)}; the units are ms, s, m and h, such as 5s")
    return float(number) * _SECONDS[unit]


def size(text: str) -> int:
    """Bytes from `512B`, `64KiB`, `1MiB`, `2GiB`. A number without its unit is refused."""
    if _NUMBER.fullmatch(text):
        raise ValueError(f"{shown(text)} has no unit; write {text.lstrip('+-')}B for bytes, or use KiB, MiB or GiB")
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{shown(text)} is not a size; write a number and its unit, such as 512B, 64KiB or 1MiB")
    number, unit = found.groups()
    if unit not in _BYTES:
        near = {name[0].lower(): name for name in _BYTES}.get(unit[0].lower())
        hint = f"; did you mean {number}{near}?" if near else ""
        raise ValueError(f"{shown(text)} has the unit {shown(unit)}; the units are B, KiB, MiB, GiB and TiB{hint}")
    value = float(number) * _BYTES[unit]
    if value != int(value):
        raise ValueError(f"{shown(text)} is not a whole number of bytes")
    return int(value)


def share(text: str) -> float:
    """A part of the whole, 0.0 to 1.0, from `20%`."""
    found = _SHARE.fullmatch(text)
    if found is None or float(found[1]) > 100.0:
        hint = f"; write {text}%" if re.fullmatch(r"[0-9]{1,2}|100", text, re.ASCII) else ""
        raise ValueError(f"{shown(text)} is not a share; write 0% to 100%, such as 20%{hint}")
    return float(found[1]) / 100.0


def substitute(text: str, environ: Mapping[str, str]) -> str:
    """`text` with `${NAME}` and `${NAME:-default}` taken from `environ` and `$$` turned into `$`.

    The default is used when the variable is unset or empty, as in a shell. What was put in is not looked at
    again. Raises ValueError for a variable that is missing and for a malformed `${`.
    """

    def replacement(found: re.Match[str]) -> str:
        inner, closed = found.groups()
        if inner is None:
            return "$"
        variable = _VARIABLE.fullmatch(inner)
        if not closed or variable is None:
            written = found[0] if closed else found[0].split()[0]
            raise ValueError(
                f"{shown(written)} is not a variable; write ${{NAME}} or ${{NAME:-default}}, or $${{ for the bare text"
            )
        name, has_default, default = variable.groups()
        value = environ.get(name)
        if value is not None and any("\ud800" <= char <= "\udfff" for char in value):
            raise ValueError(f"the value of the variable {name} is not UTF-8; set it to text")
        if has_default is not None:
            return value or default
        if value is None:
            raise ValueError(f"the variable {name} is not set; set it, or write ${{{name}:-default}}")
        return value

    return _SUBSTITUTION.sub(replacement, text)
