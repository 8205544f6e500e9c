"""Streams of frames between members, as they are sent and as they may arrive: see peer_frames.py."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import msgspec

from balancer.consensus.peer_frames import (
    INT_MAX,
    MAC_SIZE,
    Change,
    ChangeReply,
    Forward,
    ForwardReply,
    Frame,
    KeepAlive,
    KeepAliveReply,
    Seal,
    encode,
    frame_bytes,
)
from balancer.raft import message
from balancer.raft.log_entry import Entry, EntryKind, Membership, SnapshotMark

KEY = b"k" * 32
BAD_INTS = (-1, -(2**63), 2**63, 2**64 - 1)

_INTS = (0, 1, 2, 3, 127, 128, 255, 256, 65_535, 65_536, 2**31, 2**32, INT_MAX - 1, INT_MAX)
_PLAIN = (
    message.VoteRequest,
    message.VoteReply,
    message.AppendReply,
    message.Heartbeat,
    message.HeartbeatReply,
    message.SnapshotReply,
    message.TimeoutNow,
    message.ReadIndexRequest,
    message.ReadIndexReply,
    Forward,
    ForwardReply,
    KeepAlive,
    KeepAliveReply,
    Change,
    ChangeReply,
)


@dataclass(frozen=True, slots=True)
class Stream:
    """Frames as they were sent, and the pieces that arrive. `intact`: so many bytes are as they were."""

    sent: list[Frame]
    ends: list[int]  # where each frame ends in the stream that was sent
    intact: int
    damaged: str
    sealed: bool
    pieces: list[bytes]


def make_frame(rng: Random) -> Frame:
    """Anything that a member may send."""
    kind = rng.random()
    if kind < 0.3:
        return _append(rng)
    if kind < 0.5:
        return _chunk(rng)
    structure = rng.choice(_PLAIN)
    return structure(**{field.name: _value(rng, field.name) for field in msgspec.structs.fields(structure)})


def _append(rng: Random) -> message.Append:
    previous, term = rng.choice((0, 1, 5, 300, 2**40)), rng.choice((0, 1, 7))
    entries = []
    now = term
    for number in range(rng.choice((0, 0, 1, 2, 5))):
        now = max(1, now + rng.choice((0, 0, 1)))
        data = rng.randbytes(rng.choice((0, 1, 10, 300)))
        entries.append(Entry(previous + number + 1, now, rng.choice(list(EntryKind)), data))
    return message.Append(
        sender=_int(rng),
        to=_int(rng),
        term=max(1, now) + rng.choice((0, 1, 9)),
        previous_index=previous,
        previous_term=term,
        commit=_int(rng),
        entries=tuple(entries),
    )


def _chunk(rng: Random) -> message.SnapshotChunk:
    data = rng.randbytes(rng.choice((0, 1, 100, 2000)))
    offset = rng.choice((0, 5, 2**40))
    mark = SnapshotMark(_int(rng), _int(rng), Membership((1, _int(rng)), (), rng.randbytes(3)))
    size = offset + len(data) + rng.choice((0, 1, 2**40))
    return message.SnapshotChunk(
        sender=1, to=2, term=_int(rng), mark=mark, offset=offset, size=size, data=data, crc=rng.getrandbits(32)
    )


def _value(rng: Random, name: str) -> object:
    if name in ("pre", "transfer", "granted", "rejected", "done", "refused", "accepted", "renew"):
        return rng.random() < 0.5
    if name == "command":
        return rng.randbytes(rng.choice((0, 1, 40, 1000)))
    if name == "kind":
        return rng.choice(("add", "remove", "promote", "transfer"))
    if name == "address":
        return rng.choice(("", "10.0.0.1:7001", "host.example:1"))
    if name == "error":
        return rng.choice(("", "not the leader", "\N{SNOWMAN}" * 5))
    return _int(rng)


def _int(rng: Random) -> int:
    return rng.choice(_INTS)


def make_stream(rng: Random) -> Stream:
    """Frames, one damage or none, and how it is cut."""
    sealed = rng.random() < 0.5
    sent = [make_frame(rng) for _ in range(rng.choice((1, 1, 2, 3, 6)))]
    payloads = [encode(frame) for frame in sent]
    damage = rng.choice(_DAMAGES) if rng.random() < 0.85 else None
    seal = Seal(KEY, b"there") if sealed else None
    frames = [frame_bytes(payload, seal) for payload in payloads]
    whole = b"".join(frames)
    arriving = damage(rng, frames, payloads) if damage is not None else whole
    ends = [sum(map(len, frames[: number + 1])) for number in range(len(frames))]
    intact = next((at for at, (a, b) in enumerate(zip(whole, arriving, strict=False)) if a != b), None)
    if intact is None:
        intact = min(len(whole), len(arriving))
    name = damage.__name__.lstrip("_") if damage is not None and arriving != whole else "none"
    return Stream(sent, ends, intact, name, sealed, _cut(rng, arriving))


def _cut(rng: Random, data: bytes) -> list[bytes]:
    way = rng.random()
    if way < 0.3:
        return [data]
    if way < 0.4 and len(data) < 2000:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((1, 2, 5)))) if data else []
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]


Damage = Callable[[Random, list[bytes], list[bytes]], bytes]


def _flipped(rng: Random, frames: list[bytes], _: list[bytes]) -> bytes:
    data = bytearray(b"".join(frames))
    for _bit in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _flipped_early(rng: Random, frames: list[bytes], _: list[bytes]) -> bytes:
    """In a length or a tag, where it hurts most."""
    data = bytearray(b"".join(frames))
    start = sum(map(len, frames[: rng.randrange(len(frames))]))
    data[min(start + rng.randrange(14), len(data) - 1)] = rng.randrange(256)
    return bytes(data)


def _truncated(rng: Random, frames: list[bytes], _: list[bytes]) -> bytes:
    data = b"".join(frames)
    return data[: rng.randrange(len(data))]


def _bytes_lost(rng: Random, frames: list[bytes], _: list[bytes]) -> bytes:
    data = b"".join(frames)
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 4, 16, 50)) :]


def _bytes_added(rng: Random, frames: list[bytes], _: list[bytes]) -> bytes:
    data = b"".join(frames)
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 16, 50))) + data[at:]


def _frame_lost(rng: Random, frames: list[bytes], _: list[bytes]) -> bytes:
    at = rng.randrange(len(frames))
    return b"".join(frames[:at] + frames[at + 1 :])


def _frame_repeated(rng: Random, frames: list[bytes], _: list[bytes]) -> bytes:
    at = rng.randrange(len(frames))
    return b"".join([*frames[: at + 1], frames[rng.randrange(at + 1)], *frames[at + 1 :]])


def _frames_shuffled(rng: Random, frames: list[bytes], _: list[bytes]) -> bytes:
    return b"".join(rng.sample(frames, len(frames)))


def _frame_of_another_connection(rng: Random, frames: list[bytes], payloads: list[bytes]) -> bytes:
    at = rng.randrange(len(frames))
    seal = Seal(*rng.choice(((KEY, b"back"), (b"o" * 32, b"there"))))
    return b"".join([*frames[:at], frame_bytes(rng.choice(payloads), seal), *frames[at:]])


def _frame_inserted(rng: Random, frames: list[bytes], _: list[bytes]) -> bytes:
    """In good form, with a payload of a stranger's making, and a mac that is none."""
    at = rng.randrange(len(frames))
    payload = strange_payload(rng)
    if rng.random() < 0.2:
        payload += bytes(MAC_SIZE)
    return b"".join([*frames[:at], frame_bytes(payload, None), *frames[at:]])


def strange_payload(rng: Random) -> bytes:
    """What no member sends, more or less well made."""
    way = rng.choice((0, 1, 2, 3, 3, 3, 3, 4, 5))
    if way == 0:
        return rng.randbytes(rng.choice((1, 5, 50)))
    if way == 1:
        nesting = rng.choice((b"\x91", b"\x81\xa1a", b"\x98\xa4beat"))
        return b"\x98\xa4beat" + nesting * rng.choice((10, 20_000)) + b"\xc0"
    if way == 2:
        return rng.choice((b"\x98\xa6append\x00\x00\x00", b"\xc6", b"\xdb", b"")) + b"\xdd\xff\xff\xff\xff"
    frame = msgspec.msgpack.decode(encode(make_frame(rng)))
    parts = frame
    at = rng.randrange(len(parts))
    while isinstance(parts[at], list) and parts[at] and rng.random() < 0.7:
        parts = parts[at]
        at = rng.randrange(len(parts))
    if way == 3:
        other = (None, 1.5, "", b"", [], {}, True, [[1, 2]] * 50, "\x00" * 100)
        parts[at] = rng.choice(rng.choice((_INTS, BAD_INTS, other)))
    elif way == 4:
        del parts[at]
    else:
        parts.insert(at, rng.choice((0, "beat", [], None)))
    return encode(frame)


_DAMAGES: tuple[Damage, ...] = (
    _flipped,
    _flipped_early,
    _truncated,
    _bytes_lost,
    _bytes_added,
    _frame_lost,
    _frame_repeated,
    _frames_shuffled,
    _frame_of_another_connection,
    _frame_inserted,
    _frame_inserted,
)
