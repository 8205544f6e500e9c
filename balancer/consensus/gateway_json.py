"""etcd's JSON and our structs, both ways: protobuf's JSON mapping as etcd's gateway has it (UseProtoNames).

Out: names as in rpc.proto, 64-bit integers as strings, bytes as base64, enums by name, zero values left out.
In: snake_case or camelCase names (of both, that one), integers as numbers or strings, enums as names or numbers, base64
of both alphabets with or without padding, null = absent, unknown names ignored. An enum's unknown number is refused:
etcd 3.4 and 3.5 ignore some and die of others (a range with sort_target 9 ends the process).

The plan of each struct is made once, when its codec is made; per message there is one pass over its fields.
"""

import binascii
import enum
import re
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from types import UnionType
from typing import Any, Final, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from balancer.consensus.gateway_errors import TOO_LARGE
from balancer.coordination.errors import Code, CoordinationError

S = TypeVar("S", bound=msgspec.Struct)

DEPTH_MAX: Final = 260
"""Structs inside each other: a transaction may have 128 operations, nested ones included, and each takes two."""

VALUES_MAX: Final = 32_768
"""Commas and opening brackets in a text: more than any request needs. Making what millions of them stand for would keep
the member from its other work for longer than an election waits.
"""

_TRAILING = re.compile(r"trailing characters \(byte ([0-9]+)\)")  # msgspec's words; counted from 1
_INT = re.compile(r"[ \t\r\n]*(-?(?:0|[1-9][0-9]{0,18}))[ \t\r\n]*")
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_URL_SAFE = str.maketrans("-_", "+/", "\r\n")

Reader = Callable[[Any, int], Any]  # a JSON value, and how many structs it is in
Writer = Callable[[Any], Any]


class JsonError(CoordinationError):
    """The text is no JSON, or no message of this kind."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INVALID_ARGUMENT, message)


class Decoder(Generic[S]):
    """Messages of one kind out of their JSON. `one_of`: kinds of which only one field may be set."""

    def __init__(self, kind: type[S], one_of: frozenset[type[msgspec.Struct]] = frozenset()) -> None:
        self._read: Reader = _Readers(one_of).struct(kind)

    def decode(self, text: bytes) -> S:
        """The message that `text` begins with; nothing or null is the empty one. Raises JsonError.

        What follows the first object is left alone, as etcd does.
        """
        return self.convert(json_value(text))

    def convert(self, value: Any) -> S:
        """The message of a decoded JSON value. Raises JsonError."""
        message: S = self._read(value, 0)
        return message


def json_value(text: bytes) -> Any:
    """The JSON value that `text` begins with; {} for nothing and for null. Raises JsonError."""
    if len(text) > VALUES_MAX and text.count(b",") + text.count(b"{") + text.count(b"[") > VALUES_MAX:
        raise JsonError(TOO_LARGE)
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        value = _first_value(text, str(error))
    except (RecursionError, UnicodeDecodeError):
        raise JsonError("JSON that is nested too deeply, or not UTF-8") from None
    return {} if value is None else value


def _first_value(text: bytes, fault: str) -> Any:
    """The first JSON value of a text that is not one value. `fault`: what is wrong with it."""
    if not text.strip(b" \t\r\n"):
        return None
    behind = _TRAILING.search(fault)
    if behind is not None:
        with suppress(msgspec.DecodeError, RecursionError):
            return msgspec.json.decode(text[: int(behind[1]) - 1])
    raise JsonError(fault)


class _Readers:
    """Makes the readers of structs, each once, so that kinds may contain themselves."""

    def __init__(self, one_of: frozenset[type[msgspec.Struct]]) -> None:
        self._one_of = one_of
        self._structs: dict[type[msgspec.Struct], Reader] = {}

    def struct(self, kind: type[msgspec.Struct]) -> Reader:
        if kind in self._structs:
            return self._structs[kind]
        readers: dict[str, tuple[str, Reader, str]] = {}  # field, reader, the spelling that counts if it is there
        only_one = kind in self._one_of

        def read(value: Any, depth: int) -> Any:
            if type(value) is not dict:
                raise JsonError(f"{kind.__name__}: expected an object, got {_shown(value)}")
            if depth > DEPTH_MAX:
                raise JsonError("etcdserver: too many operations in txn request")  # nothing else nests
            fields = {}
            for name, part in value.items():
                known = readers.get(name)
                if known is not None and part is not None and not (known[2] and known[2] in value):
                    try:
                        fields[known[0]] = known[1](part, depth + 1)
                    except ValueError as error:
                        raise JsonError(f"{kind.__name__}.{known[0]}: {error}") from None
            if only_one and len(fields) > 1:
                raise JsonError(f"{kind.__name__}: only one of {', '.join(sorted(fields))} may be set")
            return kind(**fields)

        self._structs[kind] = read
        for name, hint in get_type_hints(kind).items():
            reader, camel = self._reader(hint), _camel(name)
            readers[name] = (name, reader, camel if camel != name else "")
            readers[camel] = (name, reader, "")
        return read

    def _reader(self, hint: Any) -> Reader:
        hint = _without_none(hint)
        if get_origin(hint) is tuple:
            return _tuple_reader(self._reader(get_args(hint)[0]))
        if issubclass(hint, msgspec.Struct):
            return self.struct(hint)
        if issubclass(hint, enum.IntEnum):
            return _enum_reader(hint)
        return _SCALARS[hint]


def _tuple_reader(read: Reader) -> Reader:
    def read_tuple(value: Any, depth: int) -> Any:
        if type(value) is not list:
            raise ValueError(f"expected an array, got {_shown(value)}")
        return tuple([read({} if part is None else part, depth) for part in value])

    return read_tuple


def _enum_reader(kind: type[enum.IntEnum]) -> Reader:
    members: dict[Any, enum.IntEnum] = {member.value: member for member in kind}
    members |= {member.name: member for member in kind}

    def read_enum(value: Any, depth: int) -> Any:
        found = members.get(value) if type(value) in (str, int) else None
        if found is None:
            raise ValueError(f"expected one of {', '.join(member.name for member in kind)}, got {_shown(value)}")
        return found

    return read_enum


def _read_int(value: Any, depth: int) -> int:
    if type(value) is str:
        if value == "null":  # a quirk of etcd's, which costs nothing to keep
            return 0
        match = _INT.fullmatch(value)
        number = int(match[1]) if match is not None else None
    else:
        number = value if type(value) is int else None
    if number is None or not _INT_MIN <= number <= _INT_MAX:
        raise ValueError(f"expected a 64-bit integer, got {_shown(value)}")
    return number


def _read_bytes(value: Any, depth: int) -> bytes:
    if type(value) is not str:
        raise ValueError(f"expected base64 in a string, got {_shown(value)}")
    try:
        found = binascii.a2b_base64(value, strict_mode=True)
        if len(found) % 3 or not value.endswith("="):  # Python takes any padding behind what needs none
            return found
    except ValueError:
        pass
    plain = value.translate(_URL_SAFE)
    digits = plain.rstrip("=")
    padding = "=" * (-len(digits) % 4)
    if plain in (digits, digits + padding):
        with suppress(ValueError):
            return binascii.a2b_base64(digits + padding, strict_mode=True)
    raise ValueError(f"expected base64, got {_shown(value)}")


def _read_bool(value: Any, depth: int) -> bool:
    if type(value) is not bool:
        raise ValueError(f"expected true or false, got {_shown(value)}")
    return value


def _read_str(value: Any, depth: int) -> str:
    if type(value) is not str:
        raise ValueError(f"expected a string, got {_shown(value)}")
    return value


_SCALARS: Final[dict[Any, Reader]] = {int: _read_int, bytes: _read_bytes, bool: _read_bool, str: _read_str}


class Encoder(Generic[S]):
    """Messages of one kind as JSON."""

    def __init__(self, kind: type[S]) -> None:
        self._write = _Writers().struct(kind)
        self._encode = msgspec.json.Encoder().encode

    def encode(self, message: S) -> bytes:
        """The JSON text, in one line without an end."""
        return self._encode(self._write(message))

    def convert(self, message: S) -> dict[str, Any]:
        """The message as a JSON value whose bytes are still bytes."""
        value: dict[str, Any] = self._write(message)
        return value


class _Writers:
    """Makes the writers of structs, each once, so that kinds may contain themselves."""

    def __init__(self) -> None:
        self._structs: dict[type[msgspec.Struct], Writer] = {}

    def struct(self, kind: type[msgspec.Struct]) -> Writer:
        if kind in self._structs:
            return self._structs[kind]
        hints = get_type_hints(kind)
        names = list(hints)
        writers: list[tuple[str, Writer | None]] = []
        single = len(names) == 1
        values_of = attrgetter(*names)

        def write(message: Any) -> dict[str, Any]:
            written = {}
            values = (values_of(message),) if single else values_of(message)
            for (name, convert), value in zip(writers, values, strict=True):
                if value:  # zero values of every type are false; a struct that is there is true
                    written[name] = value if convert is None else convert(value)
            return written

        self._structs[kind] = write
        writers += [(name, self._writer(hints[name])) for name in names]
        return write

    def _writer(self, hint: Any) -> Writer | None:
        """None: msgspec writes the value as it is; bytes become base64."""
        hint = _without_none(hint)
        if get_origin(hint) is tuple:
            write = self._writer(get_args(hint)[0])
            return None if write is None else lambda values: [write(value) for value in values]
        if issubclass(hint, msgspec.Struct):
            return self.struct(hint)
        if issubclass(hint, enum.IntEnum):
            return attrgetter("name")
        return str if hint is int else None


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def _camel(name: str) -> str:
    """The lowerCamelCase of protobuf's JSON mapping; names without an underscore stay."""
    first, *others = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in others)


def _shown(value: Any) -> str:
    """A value in an error text, cut short."""
    try:
        text = msgspec.json.encode(value).decode()
    except RecursionError:  # it could be read only just, with less on the stack
        return "what is nested too deeply"
    return text if len(text) <= 60 else f"{text[:57]}..."
