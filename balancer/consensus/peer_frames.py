"""The bytes between members: frames, what they may hold, and how they are sealed. No I/O.

Law: a frame is `length u32 | payload | mac`, little-endian; `length` counts what follows it, the payload is msgpack
with a tag, the mac is there when the members share a secret. Whatever is not exactly that is a FrameError, and the
connection ends: both ends are ours, so there is nothing to salvage. Never pickle: a frame can only become one of the
structures below.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec

from balancer.errors import BalancerError
from balancer.raft.message import Append, Message, SnapshotChunk

FRAME_MAX = 2 * 1024 * 1024 + 4096  # an append carries about 1 MiB, a snapshot's part 256 KiB
QUESTION_MAX = 64 * 1024  # an answer with a long list of members
MAC_SIZE = 16
INT_MAX = 2**63 - 1
ADDRESS_MAX = 300  # characters

_LENGTH = struct.Struct("<I")
_NUMBER = struct.Struct("<Q")

Uuid = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Address = Annotated[str, msgspec.Meta(min_length=1, max_length=ADDRESS_MAX)]
Number = Annotated[int, msgspec.Meta(ge=0, le=INT_MAX)]
Given = Annotated[int, msgspec.Meta(ge=-INT_MAX - 1, le=INT_MAX)]  # by a client, who may well give a negative one
Words = Annotated[str, msgspec.Meta(max_length=4096)]


class FrameError(BalancerError):
    """What came is no frame, or none that may come here. The text says why."""


class Forward(msgspec.Struct, frozen=True, array_like=True, tag="forward"):
    """A follower hands a command to the leader. Its result comes by the follower's own apply."""

    request_id: Number
    command: bytes


class ForwardReply(msgspec.Struct, frozen=True, array_like=True, tag="forwarded"):
    """Whether the command was proposed. Where not: `error` says why, `leader` whom to ask (0 = not known)."""

    request_id: Number
    accepted: bool
    leader: Number = 0
    error: Words = ""


class KeepAlive(msgspec.Struct, frozen=True, array_like=True, tag="keep_alive"):
    """A follower hands a lease's keep-alive to the leader; without `renew` it only asks how long the lease has."""

    request_id: Number
    lease: Given
    renew: bool = True


class KeepAliveReply(msgspec.Struct, frozen=True, array_like=True, tag="kept_alive"):
    """The new time to live in seconds, 0 = there is no such lease; with `error` nothing was done."""

    request_id: Number
    ttl: Number
    error: Words = ""


ChangeKind = Literal["add", "remove", "promote", "transfer", "publish"]


class Change(msgspec.Struct, frozen=True, array_like=True, tag="change"):
    """A follower hands a change of the membership to the leader. `address`: of the newcomer, or the URL to publish."""

    request_id: Number
    kind: ChangeKind
    member: Given = 0
    address: Annotated[str, msgspec.Meta(max_length=ADDRESS_MAX)] = ""


class ChangeReply(msgspec.Struct, frozen=True, array_like=True, tag="changed"):
    """It is in use, or why not."""

    request_id: Number
    error: Words = ""


class Listed(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A member as a configuration file lists it."""

    name: Name
    address: Address


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A member of a cluster. `uuid` names its data directory: 16 random bytes, drawn when that was made."""

    node_id: Number
    name: Name
    address: Address
    uuid: Uuid


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """Who are you? Asked before there is a cluster, by a member that would like to belong to one."""

    name: Name
    uuid: Uuid


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    """Who the asked one is. `cluster_id` 0: its data directory is empty.

    Not yet `begun`: it agreed to found that cluster with `members`. Begun: `members` are those it knows of today.
    `listed`: what its configuration file says, sorted.
    """

    name: Name
    uuid: Uuid
    cluster_id: Number = 0
    begun: bool = False
    members: tuple[Member, ...] = ()
    listed: tuple[Listed, ...] = ()
    join: bool = False


Frame = Message | Forward | ForwardReply | KeepAlive | KeepAliveReply | Change | ChangeReply
RAFT_MESSAGES = frozenset(get_args(Message))

T = TypeVar("T")

encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
_decode_frame: Callable[[bytes], Frame] = msgspec.msgpack.Decoder(Frame).decode


def decoder(kinds: Any) -> Callable[[bytes], Any]:
    """A function that makes one of these tagged structures from a payload, or raises FrameError."""
    decode = msgspec.msgpack.Decoder(kinds).decode

    def decode_payload(payload: bytes) -> Any:
        return _decoded(decode, payload)

    return decode_payload


def _decoded(decode: Callable[[bytes], T], payload: bytes) -> T:
    # Beside its own errors msgspec passes on UnicodeDecodeError (a ValueError), and RecursionError for deep nesting.
    try:
        return decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FrameError(f"a frame that is not understood: {str(error)[:200]}") from None


def decode_frame(payload: bytes) -> Frame:
    """What a payload says, checked: numbers in their range, entries consecutive. FrameError. O(bytes)."""
    frame = _decoded(_decode_frame, payload)
    kind = type(frame)
    if kind in RAFT_MESSAGES:
        numbers = _NUMBERS_OF[kind](frame)
        if min(numbers) < 0 or max(numbers) > INT_MAX:
            raise FrameError(f"a number out of range in {kind.__name__}")
        if kind is Append:
            _check_entries(frame)  # type: ignore[arg-type]  # `kind` says what it is, faster than isinstance
        elif kind is SnapshotChunk:
            _check_chunk(frame)  # type: ignore[arg-type]
    return frame


def _numbers_of(kind: type[msgspec.Struct]) -> Callable[[object], tuple[int, ...]]:
    return attrgetter(*(field.name for field in msgspec.structs.fields(kind) if field.type is int))


_NUMBERS_OF: dict[type, Callable[[object], tuple[int, ...]]] = {kind: _numbers_of(kind) for kind in RAFT_MESSAGES}


def _check_entries(append: Append) -> None:
    index, term = append.previous_index, append.previous_term
    for entry in append.entries:
        index += 1
        if entry.index != index or not term <= entry.term <= append.term or entry.term < 1:
            raise FrameError(f"entry ({entry.index}, term {entry.term}) cannot stand at {index} in such an append")
        term = entry.term
    if index > INT_MAX:
        raise FrameError("a number out of range in Append")


def _check_chunk(chunk: SnapshotChunk) -> None:
    mark = chunk.mark
    numbers = (mark.index, mark.term, *mark.membership.voters, *mark.membership.learners)
    if min(numbers) < 0 or max(numbers) > INT_MAX:
        raise FrameError("a number out of range in SnapshotChunk")
    if chunk.offset + len(chunk.data) > chunk.size:
        raise FrameError(f"a part of a snapshot that ends behind the snapshot's {chunk.size} bytes")


class Seal:
    """One direction of one connection: numbers its frames and signs each with the number.

    So a frame that is altered, left out, repeated, moved, or taken from another connection or direction does not
    verify: BLAKE2b keyed (RFC 7693) over direction, number and payload. Without confidentiality: that is TLS's part.
    """

    __slots__ = ("_hash", "_number")

    def __init__(self, key: bytes, direction: bytes) -> None:
        self._hash = hashlib.blake2b(direction, key=key, digest_size=MAC_SIZE)
        self._number = 0

    def mac(self, payload: bytes) -> bytes:
        """The next frame's. O(bytes)."""
        keyed = self._hash.copy()
        keyed.update(_NUMBER.pack(self._number))
        keyed.update(payload)
        self._number += 1
        return keyed.digest()

    def verify(self, payload: bytes, mac: bytes) -> bool:
        """Whether this is the next frame, in constant time."""
        return hmac.compare_digest(self.mac(payload), mac)


def frame_bytes(payload: bytes, seal: Seal | None) -> bytes:
    """A payload as it goes over the wire. O(bytes)."""
    if seal is None:
        return _LENGTH.pack(len(payload)) + payload
    return b"".join((_LENGTH.pack(len(payload) + MAC_SIZE), payload, seal.mac(payload)))


class FrameReader:
    """Cuts what arrives into payloads, each verified. At most one frame and what was fed last is held.

    `limit` bounds a frame before its bytes are waited for; both it and `seal` may change between two frames.
    """

    __slots__ = ("_data", "_position", "limit", "seal")

    def __init__(self, limit: int, seal: Seal | None = None) -> None:
        self.limit = limit
        self.seal = seal
        self._data: bytes | bytearray = b""
        self._position = 0

    @property
    def held(self) -> int:
        """Bytes of a frame that has not arrived whole."""
        return len(self._data) - self._position

    def feed(self, data: bytes) -> None:
        """Take bytes as they came; then ask `take` until it has none. O(bytes)."""
        if not self.held:
            self._data, self._position = data, 0  # the usual case: whole frames, nothing to put together
            return
        if isinstance(self._data, bytes):
            self._data = bytearray(self._data[self._position :])
        else:
            del self._data[: self._position]
        self._position = 0
        self._data += data

    def take(self) -> bytes | None:
        """The next payload, or None until more is fed. FrameError; then the reader is of no further use."""
        held = len(self._data) - self._position
        if held < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._data, self._position)
        overhead = 0 if self.seal is None else MAC_SIZE
        if not overhead < length <= self.limit + overhead:
            raise FrameError(f"a frame of {length} bytes, where {overhead + 1} to {self.limit + overhead} may come")
        if held < _LENGTH.size + length:
            return None
        start = self._position + _LENGTH.size
        end = start + length
        self._position = end
        # Of bytes a slice is the one copy; of a bytearray it would be the first of two.
        view = self._data if type(self._data) is bytes else memoryview(self._data)
        payload = bytes(view[start : end - overhead])
        if self.seal is not None and not self.seal.verify(payload, bytes(view[end - overhead : end])):
            raise FrameError("a frame that the peer did not send here and now: its mac is wrong")
        return payload
