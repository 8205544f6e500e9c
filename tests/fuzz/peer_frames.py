"""`python -m tests.fuzz.peer_frames`: what members send each other, damaged in every way, against what was sent.

Each input has a number, and its number and the seed make it again. It is a stream of frames, sealed or not, with one
damage or none, cut into pieces; or a handshake with one altered payload. What must hold:
- nothing but FrameError (of a handshake: HelloError) comes out;
- of a sealed stream comes a prefix of what was sent, at least all frames before the damage; of an undamaged one, all;
- of an unsealed one comes the same up to the damage, and after it only frames that a member could have sent;
- how the bytes are cut makes no difference, and no more is held than one frame;
- with a secret, an altered handshake is never accepted.
"""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from random import Random

import msgspec

from balancer.consensus.peer_frames import (
    INT_MAX,
    MAC_SIZE,
    Forward,
    ForwardReply,
    Frame,
    FrameError,
    FrameReader,
    KeepAlive,
    KeepAliveReply,
    Seal,
    decode_frame,
    encode,
    frame_bytes,
)
from balancer.consensus.peer_hello import NONCE_SIZE, Handshake, HelloError, PeerIdentity
from balancer.raft import message
from balancer.raft.log_entry import Entry, EntryKind, Membership, SnapshotMark

LIMIT = 100_000
KEY = b"k" * 32
HANDSHAKES = 0.1

_INTS = (0, 1, 2, 3, 127, 128, 255, 256, 65_535, 65_536, 2**31, 2**32, INT_MAX - 1, INT_MAX)
_BAD_INTS = (-1, -(2**63), 2**63, 2**64 - 1)
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
)


class FindingError(AssertionError):
    """Something that must hold does not."""


def check(holds: bool, words: str) -> None:
    """Raise FindingError unless it holds."""
    if not holds:
        raise FindingError(words)


# ---- making inputs


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
    if name in ("pre", "transfer", "granted", "rejected", "done", "refused", "accepted"):
        return rng.random() < 0.5
    if name == "command":
        return rng.randbytes(rng.choice((0, 1, 40, 1000)))
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
    for _ in range(rng.choice((1, 1, 2, 8))):
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
    payload = _strange_payload(rng)
    if rng.random() < 0.2:
        payload += bytes(MAC_SIZE)
    return b"".join([*frames[:at], frame_bytes(payload, None), *frames[at:]])


def _strange_payload(rng: Random) -> bytes:
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
        parts[at] = rng.choice(rng.choice((_INTS, _BAD_INTS, other)))
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


# ---- judging


@dataclass(slots=True)
class Read:
    """What a reader made of the pieces."""

    frames: list[Frame]
    refused: bool
    held: int


def read(pieces: list[bytes], sealed: bool) -> Read:
    """Feed a reader until the pieces end, or it refuses."""
    reader = FrameReader(LIMIT, Seal(KEY, b"there") if sealed else None)
    frames: list[Frame] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (payload := reader.take()) is not None:
                frames.append(decode_frame(payload))
            check(reader.held <= LIMIT + MAC_SIZE + 4, f"{reader.held} bytes are held")
    except FrameError:
        return Read(frames, refused=True, held=0)
    return Read(frames, refused=False, held=reader.held)


def judge_stream(given: Stream) -> str:
    """Run one; a label for the statistics. FindingError."""
    got = read(given.pieces, given.sealed)
    check(got == read([b"".join(given.pieces)], given.sealed), "it matters how the bytes are cut")
    before = sum(end <= given.intact for end in given.ends)
    check(got.frames[:before] == given.sent[:before], "a frame before the damage is not as it was sent")
    if given.sealed:
        check(got.frames == given.sent[: len(got.frames)], "a frame came that was not sent at that place")
    for frame in got.frames[before:]:
        check_possible(frame)
    if given.damaged == "none":
        check(len(got.frames) == len(given.sent) and not got.refused and not got.held, "a good frame did not come")
    end = "refused" if got.refused else "waits" if got.held else "read"
    return f"{'sealed' if given.sealed else 'plain'}, {given.damaged}: {end}"


def check_possible(frame: Frame) -> None:
    """That a member could have sent this, by the definitions alone."""
    check(decode_frame(encode(frame)) == frame, f"{frame} is not itself after a second reading")
    _check_numbers(msgspec.to_builtins(frame, builtin_types=(bytes,)))
    if isinstance(frame, message.Append):
        indexes = [entry.index for entry in frame.entries]
        start = frame.previous_index + 1
        check(indexes == list(range(start, start + len(indexes))), f"entries {indexes} after {start - 1}")
        terms = [frame.previous_term, *(entry.term for entry in frame.entries)]
        check(len(terms) == 1 or (terms == sorted(terms) and terms[-1] <= frame.term), f"terms {terms}")
    if isinstance(frame, message.SnapshotChunk):
        check(frame.offset + len(frame.data) <= frame.size, "a part that ends behind the snapshot")


def _check_numbers(value: object) -> None:
    if isinstance(value, int):
        check(0 <= value <= INT_MAX, f"the number {value}")
    elif isinstance(value, list | tuple):
        for part in value:
            _check_numbers(part)


def judge_handshake(rng: Random) -> str:
    """Let two members shake hands, with one payload altered or none. FindingError."""
    secret = rng.choice((b"", b"a secret of some length"))
    names = (PeerIdentity(7, 1, b"1" * 16, "n1"), PeerIdentity(7, 2, b"2" * 16, "n2"))
    one, two = (Handshake(own, rng.randbytes(NONCE_SIZE), secret) for own in names)
    which = rng.randrange(6)  # 5: none
    number = 0
    altered = False

    def pass_on(data: bytes, to: Handshake) -> bytes:
        nonlocal number, altered
        answer = b""
        reader = FrameReader(4096)
        reader.feed(data)
        while (payload := reader.take()) is not None:
            if number == which:
                changed = _altered(rng, payload)
                altered = changed != payload
                payload = changed
            number += 1
            answer += to.take(payload)
        return answer

    try:
        pass_on(pass_on(pass_on(pass_on(one.begin(), two), one), two), one)
    except HelloError:
        check(altered, "a good handshake is refused")
        check(not (one.accepted and two.accepted), "refused, and both accepted")
        return "handshake: refused"
    check(one.accepted and two.accepted, "neither refused nor accepted")
    check(not altered or not secret or which == 4, "an altered handshake is accepted")
    return f"handshake: accepted, {'altered' if altered else 'good'}"


def _altered(rng: Random, payload: bytes) -> bytes:
    if rng.random() < 0.3:
        return _strange_payload(rng)
    if rng.random() < 0.5:
        parts = msgspec.msgpack.decode(payload)
        parts[rng.randrange(len(parts))] = rng.choice((*_BAD_INTS, 0, None, "", "x" * 5000, b"", bytes(16), [], True))
        return encode(parts)
    data = bytearray(payload)
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


# ---- many of them


def judge(seed: int, number: int) -> str:
    """Make and run the input with this number; its label. FindingError, or whatever else went wrong."""
    rng = Random((seed << 64) + number)
    if rng.random() < HANDSHAKES:
        return judge_handshake(rng)
    return judge_stream(make_stream(rng))


def run_range(seed: int, first: int, count: int) -> Counter[str]:
    """So many inputs; how they ended. FindingError at the first finding, with the command that makes it again."""
    labels: Counter[str] = Counter()
    for number in range(first, first + count):
        try:
            labels[judge(seed, number)] += 1
        except Exception as error:
            replay = f"python -m tests.fuzz.peer_frames --replay {seed}:{number}"
            raise FindingError(f"{replay}\n{type(error).__name__}: {error}") from error
    return labels


def run(seed: int, count: int, jobs: int = 1) -> Counter[str]:
    """The same, in so many processes."""
    if jobs == 1:
        return run_range(seed, 0, count)
    step = -(-count // (jobs * 8))
    starts = range(0, count, step)
    labels: Counter[str] = Counter()
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        sizes = [min(step, count - start) for start in starts]
        for part in pool.map(run_range, [seed] * len(starts), starts, sizes):
            labels += part
    return labels


def main() -> int:
    """Run what the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.peer_frames", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="inputs (20000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--replay", metavar="SEED:NUMBER", help="run one input again")
    arguments = parser.parse_args()
    if arguments.replay:
        seed, _, number = arguments.replay.partition(":")
        print(judge(int(seed), int(number)))
        return 0
    start = time.monotonic()
    try:
        labels = run(arguments.seed, arguments.count, arguments.jobs)
    except FindingError as error:
        print(error)
        return 1
    print(f"{arguments.count} inputs of seed {arguments.seed}, no finding, {time.monotonic() - start:.1f} s")
    for label, number in sorted(labels.items()):
        print(f"  {label}: {number}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
