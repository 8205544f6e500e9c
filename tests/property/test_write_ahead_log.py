"""The write-ahead log, for all that a member may write: what is synced is read back, in whatever batches it came."""

from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balancer.consensus.snapshot_format import decode_snapshot_file, encode_snapshot_file
from balancer.consensus.wal import Wal
from balancer.consensus.wal_record import Identity
from balancer.raft.log_entry import Entry, EntryKind, HardState, Membership, SnapshotMark
from tests.support.simulated_disk import SimulatedDisk

WHO = Identity(2**64 - 1, 2**63 - 1, b"\xff" * 16)
SETTINGS = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])

data = st.one_of(st.binary(max_size=40), st.integers(0, 9000).map(bytes), st.sampled_from([b"", b"\xff" * 511]))
ids = st.integers(1, 2**63 - 1)
members = st.lists(ids, max_size=5).map(lambda found: tuple(sorted(found)))
memberships = st.builds(Membership, members, members, st.binary(max_size=60))
batches = st.lists(
    st.tuples(
        st.lists(st.tuples(data, st.sampled_from(EntryKind)), max_size=6),
        st.integers(0, 3),  # later terms
        st.integers(0, 2**63 - 1),  # vote
        st.sampled_from(["sync", "flush", "seal", ""]),
    ),
    max_size=25,
)


@SETTINGS
@given(batches, memberships, st.sampled_from([4096, 8192, 1 << 20]), st.integers(0, 2**64))
def test_whatever_is_written_in_whatever_batches_is_read_back(
    written: list[tuple[list[tuple[bytes, EntryKind]], int, int, str]], first: Membership, segment: int, seed: int
) -> None:
    disk = SimulatedDisk()
    mark = SnapshotMark(0, 0, first)
    log = Wal.create(disk, WHO, mark, segment_bytes=segment)
    entries: list[Entry] = []
    state = HardState(1)
    for contents, later, vote, then in written:
        voted = vote if later or not state.vote else state.vote
        state = HardState(state.term + later, voted, len(entries))
        new = [Entry(len(entries) + at + 1, state.term, kind, content) for at, (content, kind) in enumerate(contents)]
        log.append(state, new)
        entries += new
        getattr(log, then, lambda: None)()
    log.sync()
    disk.crash(Random(seed))
    log, recovered = Wal.open(disk, WHO, segment_bytes=segment)
    assert list(recovered.entries) == entries
    assert recovered.mark == mark
    assert recovered.hard_state == (state if written else HardState())
    assert recovered.cut == 0
    log.append(HardState(state.term + 1), [Entry(len(entries) + 1, state.term + 1)])
    log.sync()
    assert len(Wal.open(disk, WHO, segment_bytes=segment)[1].entries) == len(entries) + 1


@SETTINGS
@given(st.lists(st.integers(1, 60), max_size=40), st.integers(0, 2**64))
def test_only_the_last_of_what_was_written_at_an_index_counts(ends: list[int], seed: int) -> None:
    """Each step is a leader of a later term, whose log differs from some index on."""
    disk = SimulatedDisk()
    log = Wal.create(disk, WHO, segment_bytes=4096)
    model: list[Entry] = []
    for term, end in enumerate(ends, start=1):
        first = min(end, len(model) + 1)
        new = [Entry(index, term, data=b"%d.%d" % (term, index)) for index in range(first, first + end % 4 + 1)]
        model[first - 1 :] = new
        log.append(HardState(term, term), new)
        if term % 3 == 0:
            log.sync()
    log.sync()
    disk.crash(Random(seed))
    assert list(Wal.open(disk, WHO, segment_bytes=4096)[1].entries) == model


@SETTINGS
@given(st.lists(st.integers(0, 300_000).map(bytes), max_size=6), memberships, ids, ids)
def test_a_snapshot_holds_what_it_was_given(pieces: list[bytes], members: Membership, index: int, term: int) -> None:
    mark = SnapshotMark(index, term, members)
    file = b"".join(encode_snapshot_file(7, mark, iter(pieces)))
    read = decode_snapshot_file("file", lambda at, size: file[at : at + size], 7, mark)
    assert b"".join(read) == b"".join(pieces)
