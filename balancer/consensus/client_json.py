"""The wire of the client: etcd's v3 JSON from and to the messages of `coordination`.

64-bit numbers are sent as JSON numbers and read as the strings that they come as; bytes are base64; zero values are
left out on both ways (protobuf's JSON mapping, as etcd's gateway has it).
"""

from typing import Any, TypeVar

import msgspec

from balancer.consensus.client_errors import RefusedError
from balancer.coordination.errors import Code
from balancer.coordination.responses import Event, EventType, KeyValue, ResponseHeader

T = TypeVar("T")

# What a refusal has for a status where its body is no JSON of etcd: a proxy, or another program.
_CODES = {404: Code.UNIMPLEMENTED, 405: Code.UNIMPLEMENTED, 501: Code.UNIMPLEMENTED, 400: Code.INVALID_ARGUMENT}


class WatchMessage(msgspec.Struct, frozen=True):
    """A message of a watch: the events' `type` comes by name, so the answer of `coordination` does not fit."""

    header: ResponseHeader = ResponseHeader()
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: tuple["_Event", ...] = ()


class _Event(msgspec.Struct, frozen=True):
    type: str | int = "PUT"
    kv: KeyValue = KeyValue()
    prev_kv: KeyValue | None = None

    def event(self) -> Event:
        kind = EventType[self.type] if isinstance(self.type, str) else EventType(self.type)
        return Event(kind, self.kv, self.prev_kv)


class _Refusal(msgspec.Struct):
    """etcd up to 3.5 and from 3.6 on; inside a stream older ones have `grpc_code`."""

    message: str
    code: int | None = None
    grpc_code: int | None = None


class StreamItem(msgspec.Struct):
    """One line of a stream."""

    result: msgspec.Raw = msgspec.Raw(b"")
    error: _Refusal | None = None


def fields(message: msgspec.Struct) -> dict[str, Any]:
    """The fields of a request as JSON has them, zero values left out. O(size)."""
    defaults = message.__struct_defaults__
    found = {}
    for name, default in zip(message.__struct_fields__, defaults, strict=True):
        value = getattr(message, name)
        if value != default:
            found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return fields(value)
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def encoded(body: dict[str, Any]) -> bytes:
    """A request's body."""
    return msgspec.json.encode(body)


def decoded(body: bytes | msgspec.Raw, kind: type[T]) -> T:
    """An answer. Raises RefusedError (UNKNOWN) when it is none: another program listens there."""
    try:
        return msgspec.json.decode(body, type=kind, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(Code.UNKNOWN, f"the answer is none of etcd's v3 API: {error}") from None


def events_of(message: WatchMessage) -> list[Event]:
    """The events of a message. Raises RefusedError when one is of an unknown kind."""
    try:
        return [event.event() for event in message.events]
    except (KeyError, ValueError) as error:
        raise RefusedError(Code.UNKNOWN, f"an event of an unknown kind: {error}") from None


def refusal(status: int, body: bytes) -> RefusedError:
    """What an answer other than 200 says."""
    try:
        found = msgspec.json.decode(body, type=_Refusal, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        code = _CODES.get(status, Code.UNAVAILABLE if status >= 500 else Code.UNKNOWN)
        return RefusedError(code, f"HTTP status {status}: {body[:200].decode('utf-8', 'replace').strip()}")
    if status == 404 and found.message == "Not Found":  # the gateway's word for a path that it does not have
        return RefusedError(Code.UNIMPLEMENTED, found.message)
    return refusal_in_stream(found)


def refusal_in_stream(found: _Refusal) -> RefusedError:
    """What an error inside a stream says."""
    number = found.code if found.code is not None else found.grpc_code
    try:
        code = Code(number or Code.UNKNOWN)
    except ValueError:
        code = Code.UNKNOWN
    return RefusedError(code, found.message)
