"""Header edits of a route, applied to the field lines of a head."""

import re

from balancer.config.model import SET_ONLY_FIELDS, UNEDITABLE_FIELDS, HeaderEdits

_name = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch  # RFC 9110 section 5.6.2, token
_value = re.compile(r"[^\x00\r\n]*").fullmatch


class HeaderEditor:
    """`remove`, then `set` (in place of every line of that name), then `add`. Names compare without case.

    `names` are the fields touched, in lower case.
    Raises ValueError on a field that may not be edited, or on a name or value that would break the head's framing.
    """

    __slots__ = ("_added", "_cut", "names")

    def __init__(self, edits: HeaderEdits) -> None:
        for name in edits.remove:
            _check(name, "", replaced=False)
        for name, value in edits.set.items():
            _check(name, value, replaced=True)
        for name, value in edits.add.items():
            _check(name, value, replaced=False)
        cut = sorted({name.lower() for name in (*edits.remove, *edits.set)})
        self.names = frozenset(name.lower().encode("ascii") for name in (*cut, *edits.add))
        alternatives = "|".join(map(re.escape, cut))
        pattern = rf"\r\n(?:{alternatives}):[^\n]*(?=\r\n|\Z)"
        self._cut = re.compile(pattern.encode("ascii")) if cut else None
        lines = (f"\r\n{name}: {value}" for edit in (edits.set, edits.add) for name, value in edit.items())
        self._added = "".join(lines).encode("utf-8")

    def apply(self, lines: bytes) -> bytes:
        """The edited field lines. Each line has its CRLF in front, and none follows the last. O(head)."""
        if self._cut is not None:
            # Searched in a lower-case copy: half the price of a search that ignores case.
            pieces, kept = [], 0
            for match in self._cut.finditer(lines.lower()):
                pieces.append(lines[kept : match.start()])
                kept = match.end()
            if pieces:
                pieces.append(lines[kept:])
                lines = b"".join(pieces)
        return lines + self._added


def _check(name: str, value: str, *, replaced: bool) -> None:
    if _name(name) is None:
        raise ValueError(f"{name!r} is no field name")
    if _value(value) is None:
        raise ValueError(f"the value of {name} has a line break or NUL")
    if name.lower() in UNEDITABLE_FIELDS:
        raise ValueError(f"{name} frames messages or belongs to one connection and cannot be edited")
    if name.lower() in SET_ONLY_FIELDS and not replaced:
        raise ValueError(f"{name} can be set, but neither added nor removed: a request has exactly one")
