"""Frames: what one member encodes the other decodes, and nothing else becomes a frame."""

import struct

import msgspec
import pytest

from balancer.consensus.peer_frames import (
    FRAME_MAX,
    INT_MAX,
    MAC_SIZE,
    RAFT_MESSAGES,
    Answer,
    Ask,
    Change,
    ChangeReply,
    Forward,
    ForwardReply,
    Frame,
    FrameError,
    FrameReader,
    KeepAlive,
    KeepAliveReply,
    Member,
    Seal,
    decode_frame,
    decoder,
    encode,
    frame_bytes,
)
from balancer.raft.log_entry import Entry, EntryKind, Membership, SnapshotMark
from balancer.raft.message import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    ReadIndexReply,
    ReadIndexRequest,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)

WAY = {"sender": 1, "to": 2, "term": 7}
MARK = SnapshotMark(9, 3, Membership((1, 2, 3), (4,), b"names"))
FRAMES: list[Frame] = [
    VoteRequest(**WAY, last_index=5, last_term=6, pre=True, transfer=True),
    VoteReply(**WAY, granted=True),
    Append(**WAY, previous_index=4, previous_term=5, commit=INT_MAX),
    Append(
        **WAY,
        previous_index=4,
        previous_term=5,
        commit=4,
        entries=(Entry(5, 5, EntryKind.MEMBERSHIP, b"\x00\xff"), Entry(6, 7, EntryKind.COMMAND, b"x" * 1000)),
    ),
    AppendReply(**WAY, index=5, rejected=True, hint_index=3, hint_term=2),
    Heartbeat(**WAY, commit=5, read_id=8),
    HeartbeatReply(**WAY, read_id=8),
    SnapshotChunk(**WAY, mark=MARK, offset=10, size=15, data=b"12345", crc=0xFFFFFFFF),
    SnapshotReply(**WAY, index=9, snapshot_term=3, offset=15, done=True),
    TimeoutNow(**WAY),
    ReadIndexRequest(**WAY, read_id=3),
    ReadIndexReply(**WAY, read_id=3, index=0),
    Forward(5, b"command"),
    ForwardReply(5, False, 3, "not the leader"),
    KeepAlive(6, INT_MAX),
    KeepAlive(6, -INT_MAX),  # clients may choose such leases
    KeepAliveReply(6, 60),
    Change(7, "add", address="10.0.0.4:7001"),
    Change(8, "promote", 12),
    Change(9, "remove", -INT_MAX - 1),  # as a client wrote it; the leader knows no such member
    ChangeReply(7, "etcdserver: member not found"),
]


def test_every_message_of_the_core_has_a_frame_here() -> None:
    assert {type(frame) for frame in FRAMES} >= RAFT_MESSAGES


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_what_is_encoded_is_decoded(frame: Frame) -> None:
    assert decode_frame(encode(frame)) == frame


def append(previous: tuple[int, int], *entries: tuple[int, int], term: int = 7) -> Append:
    return Append(
        sender=1,
        to=2,
        term=term,
        previous_index=previous[0],
        previous_term=previous[1],
        commit=0,
        entries=tuple(Entry(index, of) for index, of in entries),
    )


BAD_FRAMES = {
    "not msgpack": b"\xc1",
    "empty": b"",
    "no structure": encode(5),
    "an unknown tag": encode(["surprise", 1]),
    "a map": encode({"type": "beat"}),
    "a field short": encode(["beat", 1, 2, 3, 4]),
    "another type in a field": encode(["beat", "1", 0, 1, 2, 7]),
    "bytes behind the end": encode(FRAMES[5]) + b"\x00",
    "cut": encode(FRAMES[5])[:-1],
    "a tag that is no text": b"\x96\xa4\xff\xff\xff\xff\x01\x02\x03\x04\x05",
    "nested deeper than anything": b"\x98\xa4beat" + b"\x91" * 100_000,
    "a tuple that claims four billion entries": encode(append((4, 5)))[:-4] + b"\xdd\xff\xff\xff\xff",
    "a negative term": encode(Heartbeat(sender=1, to=2, term=-1, commit=0)),
    "a term above every other": encode(Heartbeat(sender=1, to=2, term=2**64 - 1, commit=0)),
    "a negative commit index": encode(Heartbeat(sender=1, to=2, term=1, commit=-1)),
    "a negative request id": encode(["forward", -1, b""]),
    "a request id out of range": encode(["forward", 2**63, b""]),
    "entries with a gap": encode(append((4, 5), (5, 5), (7, 5))),
    "entries that do not follow": encode(append((4, 5), (6, 5))),
    "an entry twice": encode(append((4, 5), (5, 5), (5, 5))),
    "an entry of a term before the one before": encode(append((4, 5), (5, 4))),
    "an entry of a term after the leader's": encode(append((4, 5), (5, 8))),
    "an entry of no term": encode(append((0, 0), (1, 0))),
    "entries behind the last index": encode(append((INT_MAX, 5), (INT_MAX + 1, 5))),
    "an unknown kind of entry": encode(["append", 0, 0, 0, [[1, 1, 9, b""]], 1, 2, 7]),
    "a part that ends behind the snapshot": encode(
        SnapshotChunk(**WAY, mark=MARK, offset=11, size=15, data=b"12345", crc=1)
    ),
    "a snapshot of a negative voter": encode(
        SnapshotChunk(**WAY, mark=SnapshotMark(1, 1, Membership((-1,))), offset=0, size=0, data=b"", crc=1)
    ),
    "a question on a link": encode(Ask("n1", bytes(16))),
    "an answer on a link": encode(Answer("n1", bytes(16))),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_what_no_member_says_is_no_frame(name: str) -> None:
    with pytest.raises(FrameError):
        decode_frame(BAD_FRAMES[name])


NUMBERS = [
    (frame, field.name)
    for frame in FRAMES
    if type(frame) in RAFT_MESSAGES
    for field in msgspec.structs.fields(frame)
    if field.type is int
]


@pytest.mark.parametrize("bad", [-1, INT_MAX + 1])
@pytest.mark.parametrize(("frame", "field"), NUMBERS, ids=[f"{type(frame).__name__} {name}" for frame, name in NUMBERS])
def test_no_number_of_a_message_is_negative_or_beyond_what_is_counted(frame: Frame, field: str, bad: int) -> None:
    with pytest.raises(FrameError, match="out of range"):
        decode_frame(encode(msgspec.structs.replace(frame, **{field: bad})))


@pytest.mark.parametrize(
    "bad",
    [
        Ask("", bytes(16)),
        Ask("n" * 129, bytes(16)),
        Ask("n1", bytes(15)),
        Answer("n1", bytes(16), -1),
        Answer("n1", bytes(16), 1, True, (Member(1, "n1", "", bytes(16)),)),
        Answer("n1", bytes(16), 1, True, (Member(INT_MAX + 1, "n1", "a:1", bytes(16)),)),
    ],
    ids=repr,
)
def test_questions_and_answers_keep_their_bounds(bad: msgspec.Struct) -> None:
    with pytest.raises(FrameError):
        decoder(Ask | Answer)(encode(bad))


# ---- cutting and sealing


def seals(key: bytes = b"k" * 32, way: bytes = b"there") -> tuple[Seal, Seal]:
    return Seal(key, way), Seal(key, way)


def taken(reader: FrameReader, *parts: bytes) -> list[bytes]:
    payloads = []
    for part in parts:
        reader.feed(part)
        while (payload := reader.take()) is not None:
            payloads.append(payload)
    return payloads


@pytest.mark.parametrize("sealed", [False, True])
def test_frames_come_out_the_same_however_the_bytes_are_cut(sealed: bool) -> None:
    payloads = [b"a", b"b" * 300, b"c" * 5000, b"d"]
    for way in (1, 2, 3, 7, 300, 5000, 10_000):
        sender, receiver = seals()
        stream = b"".join(frame_bytes(payload, sender if sealed else None) for payload in payloads)
        reader = FrameReader(5000, receiver if sealed else None)
        assert taken(reader, *(stream[at : at + way] for at in range(0, len(stream), way))) == payloads
        assert reader.held == 0


@pytest.mark.parametrize("length", [0, 11, FRAME_MAX, 2**32 - 1])
def test_a_length_out_of_bounds_is_refused_before_anything_is_waited_for(length: int) -> None:
    reader = FrameReader(10)
    reader.feed(struct.pack("<I", length))
    with pytest.raises(FrameError):
        reader.take()


def test_a_sealed_frame_is_more_than_its_mac() -> None:
    reader = FrameReader(10, seals()[0])
    reader.feed(struct.pack("<I", MAC_SIZE) + bytes(MAC_SIZE))
    with pytest.raises(FrameError):
        reader.take()


def test_a_reader_holds_no_more_than_a_frame_and_a_read() -> None:
    reader = FrameReader(1000)
    piece = frame_bytes(b"x" * 900, None)
    most = 0
    for _ in range(100):
        assert taken(reader, piece[:500])[1:] == []
        most = max(most, reader.held)
        taken(reader, piece[500:])
    assert most < 2000
    assert reader.held == 0


def three_sealed() -> list[bytes]:
    sender, _ = seals()
    return [frame_bytes(payload, sender) for payload in (b"first", b"second", b"third")]


@pytest.mark.parametrize(
    ("name", "arrange", "good"),
    [
        ("repeated", lambda one, two, three: [one, one, two, three], 1),
        ("left out", lambda one, two, three: [one, three], 1),
        ("swapped", lambda one, two, three: [two, one, three], 0),
        ("cut and joined", lambda one, two, three: [one[:4], two[4:]], 0),
        ("inserted", lambda one, two, three: [one, frame_bytes(b"else", None) + bytes(16), two], 1),
    ],
)
def test_a_sealed_frame_holds_at_its_place_only(name: str, arrange: object, good: int) -> None:
    assert callable(arrange)
    reader = FrameReader(100, seals()[1])
    came = []
    with pytest.raises(FrameError):
        for part in arrange(*three_sealed()):
            came += taken(reader, part)
        raise FrameError("it waits for the rest of a frame" if reader.held else "")
    assert came == [b"first", b"second", b"third"][:good], name


def test_any_flipped_bit_of_a_sealed_frame_is_noticed() -> None:
    frame = three_sealed()[0]
    for bit in range(len(frame) * 8):
        altered = bytearray(frame)
        altered[bit // 8] ^= 1 << bit % 8
        reader = FrameReader(2**32, seals()[1])
        try:
            came = taken(reader, bytes(altered))
        except FrameError:
            continue
        assert came == []  # a longer length: it waits for bytes that would have to verify
        assert reader.held == len(frame)
        assert bit < 32


@pytest.mark.parametrize("other", [seals(key=b"o" * 32)[1], seals(way=b"back")[1]], ids=["key", "direction"])
def test_a_sealed_frame_of_another_connection_or_direction_is_noticed(other: Seal) -> None:
    with pytest.raises(FrameError):
        taken(FrameReader(100, other), three_sealed()[0])
