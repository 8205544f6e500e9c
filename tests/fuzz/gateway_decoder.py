"""What a request's body asks for, read a second time: Python's json, and protobuf's JSON mapping written for this.

The mapping (protobuf.dev, "ProtoJSON", with what etcd 3.5 does where it leaves a choice): names as in the .proto or in
lowerCamelCase, which wins where both are there, as in etcd; 64-bit integers as numbers or in strings; enums as names
or numbers; bytes as base64 of either alphabet, with its padding or without; null and absent are the same, but in an
array of messages, where null is an empty one; unknown names are ignored. Of a body only the first value is read.
"""

import base64
import enum
import json
import re
from dataclasses import dataclass
from typing import Any

from tests.fuzz.gateway_messages import BOOL, BYTES, INT, MEMBER_ADD, NUMBERS, OPERATION, TEXT, WATCH, Message, Method

OBJECT_MAX = 64 * 1024  # one request of a stream
REQUEST_MAX = 1536 * 1024  # bytes in a request's fields
VALUES_MAX = 32_768  # commas and opening brackets in a body
ADDRESS_MAX = 300  # characters of a member's
CLIENTS_FROM = 1 << 62  # the sessions of clients

_DEPTH_SURE = 200  # brackets inside each other that everybody can read
_SPACE = " \t\r\n"
_INTEGER = re.compile(r"[ \t\r\n]*(-?(?:0|[1-9][0-9]*))[ \t\r\n]*", re.ASCII)
_ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_ESCAPE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\.")
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class Verdict(enum.Enum):
    """What is to become of a body."""

    SURE = enum.auto()  # it asks for exactly this
    EITHER = enum.auto()  # for this, or it is refused: reasonable readers differ
    REFUSED = enum.auto()
    UNKNOWN = enum.auto()  # anything but a crash


@dataclass(frozen=True, slots=True)
class Reading:
    """`message`: the fields that are not zero. `ticket`: how the client numbered its change."""

    verdict: Verdict
    message: Message | None = None
    ticket: tuple[int, int, int] | None = None


class _RefusedError(Exception):
    pass


class _Doubts:
    """Whether, while a text was read, something came up on which readers differ."""

    def __init__(self) -> None:
        self.any = False

    def integer(self, digits: str) -> Any:
        if len(digits) > 300:
            self.any = True
            return float("inf")
        return int(digits)

    def fraction(self, digits: str) -> float:
        number = float(digits)
        self.any = self.any or abs(number) == float("inf")
        return number

    @staticmethod
    def constant(name: str) -> Any:
        raise _RefusedError(name)


_doubts = _Doubts()
_json = json.JSONDecoder(
    parse_int=_doubts.integer, parse_float=_doubts.fraction, parse_constant=_doubts.constant, strict=True
)
_camel_names: dict[str, str] = {}


def read_body(method: Method, body: bytes) -> Reading:
    """What a body asks of a method."""
    _doubts.any = False
    if sum(map(body.count, (b",", b"[", b"{"))) > VALUES_MAX:
        return Reading(Verdict.REFUSED)
    try:
        text = body.decode("utf-8", "surrogateescape")
        value, end = _first_value(text, 0)
        if value is None:
            _doubts.any = _doubts.any or bool(text[end:].strip(_SPACE))
            value = {}
        message = _message(method.asked, value)
        ticket = _ticket(value) if method.numbered else None
    except _RefusedError:
        return Reading(Verdict.REFUSED)
    except RecursionError:
        return Reading(Verdict.UNKNOWN)
    if method.asked is MEMBER_ADD and any(len(url) > ADDRESS_MAX for url in message.get("peerURLs", ())):
        return Reading(Verdict.REFUSED)
    if len(body) > REQUEST_MAX and (size := _size(message)) > REQUEST_MAX - 4096:
        return Reading(Verdict.REFUSED if size > REQUEST_MAX else Verdict.EITHER, message, ticket)
    return Reading(Verdict.EITHER if _doubts.any else Verdict.SURE, message, ticket)


def read_objects(method: Method, body: bytes) -> tuple[list[Message], bool]:
    """The messages of a stream of requests, up to the first fault; and whether nobody would read on there."""
    text = body.decode("utf-8", "surrogateescape")
    found: list[Message] = []
    at = 0
    while True:
        while text[at : at + 1] in (" ", "\t", "\r", "\n"):
            at += 1
        if not text.startswith("{", at):
            return found, True
        _doubts.any = False
        try:
            value, end = _first_value(text, at)
            message = _message(method.asked, value)
        except _RefusedError:
            return found, not _doubts.any
        except RecursionError:
            return found, False
        if end - at > OBJECT_MAX or sum(map(text[at:end].count, ",[{")) > VALUES_MAX:
            return found, True
        if _doubts.any:
            return found, False
        found.append(message)
        at = end


# ---- JSON


def _first_value(text: str, at: int) -> tuple[Any, int]:
    start = at
    while text[start : start + 1] in (" ", "\t", "\r", "\n"):
        start += 1
    if start == len(text):
        return None, start
    try:
        value, end = _json.raw_decode(text, start)
    except ValueError as error:
        raise _RefusedError(str(error)) from None
    span = text[start:end]
    if not span.isascii():
        try:
            span.encode()
        except UnicodeEncodeError:
            raise _RefusedError("not UTF-8") from None
    if "\\u" in span and any(len(one[0]) == 6 for one in _ESCAPE.finditer(span)):
        raise _RefusedError("half of a surrogate pair")
    if span.count("[") + span.count("{") > _DEPTH_SURE and _depth(span) > _DEPTH_SURE:
        _doubts.any = True
    return value, end


def _depth(text: str) -> int:
    depth = deepest = 0
    for found in _BRACKET.finditer(text):
        octet = found[0]
        if octet in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif octet in "]}":
            depth -= 1
    return deepest


# ---- the mapping


def camel(name: str) -> str:
    """The lowerCamelCase of a field's name."""
    if name not in _camel_names:
        first, *others = name.split("_")
        _camel_names[name] = first + "".join(other.capitalize() for other in others)
    return _camel_names[name]


def _message(fields: Message, value: Any) -> Message:
    if type(value) is not dict:
        raise _RefusedError("not an object")
    found: Message = {}
    given = 0
    for name, kind in fields.items():
        other = camel(name)
        if other in value:
            part = value[other]
        elif name in value:
            part = value[name]
        else:
            continue
        if part is None:
            continue
        given += 1
        read = _field(kind, part)
        if read or type(read) is dict:
            found[name] = read
    if given > 1 and (fields is OPERATION or fields is WATCH):
        raise _RefusedError("only one may be set")
    return found


def _field(kind: Any, value: Any) -> Any:
    if type(kind) is dict:
        return _message(kind, value)
    if type(kind) is list:
        return _repeated(kind[0], value)
    if type(kind) is tuple:
        return _enum(kind, value)
    if kind == INT:
        return _integer(value)
    if kind == BYTES:
        return _bytes(value)
    wanted = {BOOL: bool, TEXT: str}[kind]
    if type(value) is not wanted:
        raise _RefusedError(f"no {kind}")
    return value


def _repeated(kind: Any, value: Any) -> list[Any]:
    if type(value) is not list:
        raise _RefusedError("not an array")
    if type(kind) is dict:
        return [_message(kind, {} if part is None else part) for part in value]
    return [_field(kind, part) for part in value]


def _enum(names: tuple[str, ...], value: Any) -> int:
    if type(value) is str and value in names:
        return names.index(value)
    if type(value) is int and 0 <= value < len(names):
        return value
    raise _RefusedError("not of the enum")


def _integer(value: Any) -> int:
    if type(value) is str:
        if value == "null":  # as etcd
            return 0
        found = _INTEGER.fullmatch(value)
        if found is None or len(found[1]) > 30:
            raise _RefusedError("no integer")
        value = int(found[1])
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise _RefusedError("no 64-bit integer")
    return value


def _bytes(value: Any) -> bytes:
    if type(value) is not str:
        raise _RefusedError("not a string")
    text = value.replace("\r", "").replace("\n", "")
    digits = text.rstrip("=")
    missing = -len(digits) % 4
    if len(text) - len(digits) not in (0, missing) or missing == 3:
        raise _RefusedError("wrong padding")
    if ("-" in digits or "_" in digits) and ("+" in digits or "/" in digits):
        _doubts.any = True
    standard = digits.replace("-", "+").replace("_", "/")
    if not _ALPHABET.issuperset(standard):
        raise _RefusedError("not base64")
    return base64.b64decode(standard + "=" * missing)


def _ticket(value: dict[str, Any]) -> tuple[int, int, int] | None:
    if "session" not in value:
        return None
    numbers = _message(NUMBERS, value)
    session, seq, below = (numbers.get(name, 0) for name in NUMBERS)
    if not session:
        return None
    if session < CLIENTS_FROM or seq < 1 or not 0 <= below <= seq:
        raise _RefusedError("no ticket")
    return session, seq, below


def _size(value: Any) -> int:
    """Bytes of keys, values and texts."""
    if isinstance(value, bytes | str):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_size, parts))
