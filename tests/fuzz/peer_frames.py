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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from random import Random

import msgspec

from balancer.consensus.peer_frames import (
    INT_MAX,
    MAC_SIZE,
    Change,
    Frame,
    FrameError,
    FrameReader,
    KeepAlive,
    Seal,
    decode_frame,
    encode,
)
from balancer.consensus.peer_hello import NONCE_SIZE, Handshake, HelloError, PeerIdentity
from balancer.raft import message
from tests.fuzz.peer_streams import BAD_INTS, KEY, Stream, make_stream, strange_payload

LIMIT = 100_000
HANDSHAKES = 0.1


class FindingError(AssertionError):
    """Something that must hold does not."""


def check(holds: bool, words: str) -> None:
    """Raise FindingError unless it holds."""
    if not holds:
        raise FindingError(words)


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
    ours = frame  # but for what a client gave: 64 bits, or it would not be itself
    if isinstance(frame, KeepAlive):
        ours = msgspec.structs.replace(frame, lease=0)
    elif isinstance(frame, Change):
        ours = msgspec.structs.replace(frame, member=0)
    _check_numbers(msgspec.to_builtins(ours, builtin_types=(bytes,)))
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
        return strange_payload(rng)
    if rng.random() < 0.5:
        parts = msgspec.msgpack.decode(payload)
        parts[rng.randrange(len(parts))] = rng.choice((*BAD_INTS, 0, None, "", "x" * 5000, b"", bytes(16), [], True))
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
