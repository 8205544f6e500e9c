"""Answers made comparable: ids, terms and lease ids replaced, revisions counted from where the sequence began.

Nothing else is changed: an unknown field, another type or another order of fields stays a difference.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.etcd_http import Answer

_REVISIONS = {"revision", "create_revision", "mod_revision", "compact_revision", "rev", "start_revision"}
_LEASE_IDS = {"ID", "lease"}
_OWN_LEASES_MAX = 10_000  # ids that the test chose are below; those that a server chose are far above
_HEX_TAIL = re.compile(rb"(.*/)([0-9a-f]{8,16})", re.DOTALL)


@dataclass(frozen=True)
class Outcome:
    """An answer in comparable form. `text`: the JSON with its order of fields, or the plain text.

    `cors`: pages from anywhere are told that they may read it.
    """

    status: int
    content_type: str
    text: str
    cors: bool = False

    @property
    def json(self) -> Any:
        """The text as JSON; None where it is none."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None


@dataclass
class Normal:
    """Makes the answers of one server during one sequence comparable."""

    base: int
    ids: Mapping[str, str]  # cluster_id and member_id of the server
    _labels: dict[int, str] = field(default_factory=dict)

    def answer(self, answer: Answer) -> Outcome:
        """A whole answer, also one of a stream, whose objects stand line by line."""
        lines = answer.body.decode("utf-8", "replace").splitlines()
        text = "\n".join(self._line(line) for line in lines)
        return Outcome(answer.status, answer.content_type, text, "access-control-allow-origin" in answer.fields)

    def _line(self, line: str) -> str:
        try:
            value = json.loads(line)
        except ValueError:
            return line
        return json.dumps(self.value(value))

    def value(self, value: Any) -> Any:
        """A JSON value."""
        match value:
            case dict():
                return {name: self._field(name, part, value) for name, part in value.items()}
            case list():
                return [self.value(part) for part in value]
            case _:
                return value

    def _field(self, name: str, part: Any, around: Mapping[str, Any]) -> Any:
        if name == "header" and isinstance(part, dict):
            return {key: self._header(key, one) for key, one in part.items()}
        if isinstance(part, str):
            if name in _REVISIONS and _is_number(part):
                return f"base{int(part) - self.base:+d}"
            if name in _LEASE_IDS and _is_number(part):
                return self._lease(int(part))
            if name == "TTL" and "grantedTTL" in around:
                return _about(int(part), int(around["grantedTTL"]))
            if name == "key":
                return self._key(part)
        return self.value(part)

    def _header(self, name: str, part: Any) -> Any:
        if name == "revision":
            return f"base{int(part) - self.base:+d}"
        if name == "raft_term" and _is_number(part):
            return "TERM"
        return name.upper() if self.ids.get(name) == part else part

    def _lease(self, lease: int) -> str:
        if lease < _OWN_LEASES_MAX:
            return str(lease)
        return self._labels.setdefault(lease, f"LEASE-{len(self._labels)}")

    def _key(self, text: str) -> str:
        """A lock's key ends in its lease, which the server may have chosen."""
        match = _HEX_TAIL.fullmatch(b64decode(text))
        if match is None:
            return text
        return b64encode(match[1] + self._lease(int(match[2], 16)).encode()).decode()


def _is_number(text: str) -> bool:
    return text.lstrip("-").isdecimal()


def _about(left: int, granted: int) -> str:
    """What is left of a TTL that began a moment ago."""
    return "GRANTED" if granted - 60 <= left <= granted else str(left)
