"""A snapshot: the whole state as bytes, made in slices while the writer goes on, and read back in slices.

Layout: MAGIC with the format's number, then blocks, each a length (4 bytes, big-endian) and that many bytes of
msgpack: the head, the leases, the versions older than the log, the log, the sessions, their answers, the end with the
digests of all bytes before it and of the state. The latter is computed anew from what was read: so a fault of ours in
writing or reading is noticed as well as damage.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from struct import Struct
from typing import Annotated, TypeVar

import msgspec

from balancer.coordination.command import Number, Result
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.responses import KeyValue
from balancer.coordination.revision_log import RevisionLog
from balancer.coordination.sessions import Answer, Session
from balancer.coordination.state_machine import StateMachine
from balancer.errors import BalancerError

MAGIC = b"balancer state 1\n"
BLOCK = 64 * 1024
"""Bytes after which a block ends. Making or reading one takes about a millisecond."""

BLOCK_MAX = 64 * 1024 * 1024
"""A length above this is damage: a block is longer than BLOCK by one version or answer at most."""

_LENGTH = Struct(">I")
Signed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Version = tuple[bytes, Number, Number, Number, bytes, Signed]
"""The fields of a KeyValue, in its order."""


T = TypeVar("T")


class SnapshotError(BalancerError):
    """These bytes are no snapshot, or a damaged one, or of another format."""


class _Head(msgspec.Struct, frozen=True, array_like=True, tag="head"):
    applied_index: Number
    applied_term: Number
    quota: Number
    compacted: Signed
    log_first: Number


class _Leases(msgspec.Struct, frozen=True, array_like=True, tag="leases"):
    leases: list[tuple[Signed, Number]]


class _Bases(msgspec.Struct, frozen=True, array_like=True, tag="bases"):
    versions: list[_Version]


class _Log(msgspec.Struct, frozen=True, array_like=True, tag="log"):
    """Changes in order; those of one revision have its number and may be in two blocks."""

    versions: list[_Version]


class _Sessions(msgspec.Struct, frozen=True, array_like=True, tag="sessions"):
    """(number, answered_below), the least recently used first."""

    sessions: list[tuple[Number, Number]]


class _Answers(msgspec.Struct, frozen=True, array_like=True, tag="answers"):
    """(session, seq, code, message, answer); code 0 where it was no refusal."""

    answers: list[tuple[Number, Number, int, str, Result | None]]


class _End(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """`content`: a digest of every byte before this block. `hash`: the state's."""

    hash: bytes
    content: bytes


_Block = _Head | _Leases | _Bases | _Log | _Sessions | _Answers | _End
_SECTIONS: tuple[type, ...] = (_Head, _Leases, _Bases, _Log, _Sessions, _Answers, _End)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Block)


class View:
    """The state as it is now, whatever is applied later: versions never change, so it is enough to note which."""

    def __init__(self, state: StateMachine) -> None:
        space = state.space
        self.index = state.applied_index
        self.term = state.applied_term
        self.hash = state.hash()
        self._head = _Head(state.applied_index, state.applied_term, state.quota, space.compacted, space.log.first)
        self._leases = list(state.leases)
        self._bases = space.versions_before_log()
        self._log = space.log.between(space.log.first, space.log.last + 1)
        self._sessions = [
            (number, session.answered_below, list(session.answers.items())) for number, session in state.sessions
        ]

    def slices(self) -> Iterator[bytes]:
        """The snapshot's bytes in order, about BLOCK each; do something else between two of them."""
        written = blake2b(digest_size=16)
        for piece in self._content():
            written.update(piece)
            yield piece
        yield _block(_End(self.hash, written.digest()))

    def _content(self) -> Iterator[bytes]:
        yield MAGIC
        yield _block(self._head)
        yield from _blocks(_Leases, self._leases, lambda _: 24)
        yield from _blocks(_Bases, map(_fields, self._bases), _version_size)
        yield from _blocks(_Log, (_fields(kv) for changes in self._log for kv in changes), _version_size)
        yield from _blocks(_Sessions, ((number, below) for number, below, _ in self._sessions), lambda _: 24)
        yield from self._answers()

    def _answers(self) -> Iterator[bytes]:
        answers = ((number, seq, *_answer_fields(answer)) for number, _, kept in self._sessions for seq, answer in kept)
        yield from _blocks(_Answers, answers, lambda fields: len(_encoder.encode(fields)))


def _fields(kv: KeyValue) -> _Version:
    return kv.key, kv.create_revision, kv.mod_revision, kv.version, kv.value, kv.lease


def _version_size(fields: _Version) -> int:
    return len(fields[0]) + len(fields[4]) + 40


def _answer_fields(answer: Answer) -> tuple[int, str, Result | None]:
    if isinstance(answer, CoordinationError):
        return answer.code, answer.message, None
    return 0, "", answer


def _block(content: _Block) -> bytes:
    data = _encoder.encode(content)
    return _LENGTH.pack(len(data)) + data


def _blocks(kind: Callable[[list[T]], _Block], items: Iterable[T], size: Callable[[T], int]) -> Iterator[bytes]:
    """The items in as many blocks as they need."""
    held: list[T] = []
    held_size = 0
    for item in items:
        held.append(item)
        held_size += size(item)
        if held_size >= BLOCK:
            yield _block(kind(held))
            held, held_size = [], 0
    if held:
        yield _block(kind(held))


class Reader:
    """Reads a snapshot that comes in pieces of any size. Raises SnapshotError, and is of no use afterwards."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._begun = False
        self._section = -1  # where in _SECTIONS the last block was
        self._state = StateMachine()
        self._revision: list[KeyValue] = []  # changes of a revision whose end was not seen yet
        self._hash = b""
        self._read_bytes = blake2b(digest_size=16)

    def feed(self, data: bytes) -> None:
        """The next bytes. O(their number): give it small pieces, and do something else between them."""
        self._unread += data
        if not self._begun:
            if not self._unread.startswith(MAGIC[: len(self._unread)]):
                raise SnapshotError("this is no snapshot, or one of another format")
            if len(self._unread) < len(MAGIC):
                return
            del self._unread[: len(MAGIC)]
            self._read_bytes.update(MAGIC)
            self._begun = True
        done = 0
        while (end := self._block_end(done)) <= len(self._unread):
            self._read(bytes(self._unread[done + _LENGTH.size : end]))
            self._read_bytes.update(self._unread[done:end])
            done = end
        del self._unread[:done]

    def finish(self) -> StateMachine:
        """The state, once everything was fed."""
        if not self._hash or self._unread:
            raise SnapshotError("the snapshot is cut off, or goes on after its end")
        if self._state.hash() != self._hash:
            raise SnapshotError("the snapshot's content does not have the hash that it states")
        return self._state

    def _block_end(self, start: int) -> int:
        if len(self._unread) < start + _LENGTH.size:
            return len(self._unread) + 1
        (length,) = _LENGTH.unpack_from(self._unread, start)
        if length > BLOCK_MAX:
            raise SnapshotError(f"a block of {length} bytes")
        return int(start + _LENGTH.size + length)

    def _read(self, data: bytes) -> None:
        try:
            block = _decoder.decode(data)
            section = _SECTIONS.index(type(block))
            if section < self._section or (section > 0) != (self._section >= 0) or self._hash:
                raise SnapshotError(f"a block {type(block).__name__} out of place")
            self._section = section
            self._restore(block)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise SnapshotError(f"a damaged block: {error}") from error

    def _restore(self, block: _Block) -> None:
        state = self._state
        if isinstance(block, _Head):
            self._restore_head(block)
        elif isinstance(block, _Leases):
            for lease, ttl in block.leases:
                state.leases.grant(lease, ttl)
        elif isinstance(block, _Bases):
            for fields in block.versions:
                state.space.restore_base(KeyValue(*fields))
        elif isinstance(block, _Log):
            for fields in block.versions:
                self._restore_change(KeyValue(*fields))
        elif isinstance(block, _Sessions):
            for number, answered_below in block.sessions:
                state.sessions.restore(number, Session(answered_below))
        elif isinstance(block, _Answers):
            for answer in block.answers:
                self._restore_answer(*answer)
        else:
            self._restore_end(block)

    def _restore_head(self, head: _Head) -> None:
        self._state = state = StateMachine(quota=head.quota)
        state.applied_index = head.applied_index
        state.applied_term = head.applied_term
        state.space.compacted = head.compacted
        state.space.log = RevisionLog(head.log_first)

    def _restore_change(self, kv: KeyValue) -> None:
        if self._revision and self._revision[-1].mod_revision != kv.mod_revision:
            self._end_revision()
        self._revision.append(kv)

    def _end_revision(self) -> None:
        if self._revision:
            self._state.space.restore_revision(tuple(self._revision))
            self._revision = []

    def _restore_end(self, end: _End) -> None:
        if end.content != self._read_bytes.digest() or not end.hash:
            raise ValueError("the content is not what was written")
        self._end_revision()
        self._state.space.revision = self._state.space.log.last
        self._hash = end.hash

    def _restore_answer(self, number: int, seq: int, code: int, message: str, answer: Result | None) -> None:
        given = CoordinationError(Code(code), message) if answer is None else answer
        self._state.sessions.restore_answer(number, seq, given)
