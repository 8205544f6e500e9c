"""A snapshot is the state of one moment, whatever goes on while it is made, and a damaged one is no state at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.coordination import snapshot, state_machine
from balancer.coordination.command import RegisterSession
from balancer.coordination.errors import CoordinationError
from balancer.coordination.requests import LeaseGrantRequest, PutRequest
from balancer.coordination.snapshot import MAGIC, Reader, SnapshotError, View
from balancer.coordination.state_machine import StateMachine
from tests.unit.coordination.machine import Machine, op_delete, op_put, op_range, op_txn


def written(state: StateMachine) -> bytes:
    return b"".join(View(state).slices())


def read(data: bytes, piece: int = 1 << 20) -> StateMachine:
    reader = Reader()
    for at in range(0, len(data), piece):
        reader.feed(data[at : at + piece])
    return reader.finish()


def busy() -> Machine:
    """A machine with something of everything: two sessions, leases, an old version, a deletion, a refused answer."""
    machine = Machine()
    one, other = machine.do(RegisterSession()).session, machine.do(RegisterSession()).session
    machine.do(LeaseGrantRequest(TTL=30, ID=-5), session=other, seq=1)
    machine.grant(6)
    for number in range(12):
        machine.do(PutRequest(b"%d" % (number % 5), b"v" * number, 6 * (number % 2)), session=one, seq=number)
    machine.txn(op_put(b"x", lease=-5), op_delete(b"3", b"5"), op_txn(op_put(b"y")), op_txn(op_delete(b"y")))
    machine.apply(PutRequest(b"z", lease=99), session=other, seq=2, answered_below=2)
    machine.revoke(6)
    machine.compact(9)
    machine.do(PutRequest(b"0", prev_kv=True), session=one, seq=77, answered_below=3)
    machine.put(b"x", lease=-5)
    return machine


def test_a_restored_state_is_the_same_and_goes_on_the_same() -> None:
    machine = busy()
    restored = Machine()
    restored.state = read(written(machine.state))
    restored.term = machine.term
    assert restored.state.hash() == machine.state.hash()
    assert restored.state.size == machine.state.size
    assert restored.state.leases.keys(-5) == machine.state.leases.keys(-5) == [b"x"]
    for both in (machine, restored):
        both.put(b"new", b"1")
        both.revoke(-5)
        both.compact(both.state.revision - 1)
    for revision in range(machine.state.space.compacted, machine.state.revision + 1):
        assert restored.range(revision=revision) == machine.range(revision=revision)
    assert restored.state.hash() == machine.state.hash()


def test_a_key_that_went_and_came_again_is_there_once() -> None:
    machine = Machine()
    machine.put(b"a")
    machine.delete(b"a")
    machine.put(b"a")
    machine.put(b"b")
    restored = Machine()
    restored.state = read(written(machine.state))
    for revision in range(1, 6):
        assert restored.range(revision=revision) == machine.range(revision=revision)
        assert restored.range(revision=revision, count_only=True) == machine.range(revision=revision, count_only=True)


def test_an_empty_state() -> None:
    assert read(written(StateMachine())).hash() == StateMachine().hash()


def test_answers_that_were_kept_are_given_after_a_restore() -> None:
    machine = busy()
    restored = Machine()
    restored.state = read(written(machine.state))
    for session, seq in ((1, 77), (1, 11), (1, 3), (2, 2)):
        answers = [both.apply(PutRequest(b"other"), session=session, seq=seq).result for both in (machine, restored)]
        if isinstance(answers[0], CoordinationError):
            answers = [(answer.code, answer.message) for answer in answers]
        assert answers[0] == answers[1]
    assert restored.get(b"other") is None


def test_the_order_in_which_sessions_were_used_is_kept() -> None:
    machine = busy()
    machine.do(PutRequest(b"q"), session=1, seq=100)
    assert [number for number, _ in read(written(machine.state)).sessions] == [2, 1]


def test_what_is_applied_meanwhile_is_not_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "BLOCK", 1)
    monkeypatch.setattr(state_machine, "SWEEP_AT_COMPACTION", 1)
    monkeypatch.setattr(state_machine, "SWEEP_PER_ENTRY", 1)
    machine = busy()
    before = machine.state.hash()
    view = View(machine.state)
    data = b""
    for number, piece in enumerate(view.slices()):
        data += piece
        machine.put(b"%d" % (number % 7), b"later")
        machine.delete(b"%d" % (number % 3))
        if number == 5:
            machine.compact(machine.state.revision)
        machine.apply(PutRequest(b"s"), session=1, seq=1000 + number, answered_below=number)
    assert (view.hash, view.index, view.term) == (before, read(data).applied_index, 1)
    assert read(data).hash() == before != machine.state.hash()


def test_a_state_that_is_swept_half_is_restored_swept_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_machine, "SWEEP_AT_COMPACTION", 2)
    monkeypatch.setattr(state_machine, "SWEEP_PER_ENTRY", 1)
    machine = Machine()
    for number in range(20):
        machine.put(b"%d" % (number % 3))
        machine.delete(b"%d" % (number % 4))
    machine.compact(machine.state.revision)
    while not machine.state.space.swept:
        restored = read(written(machine.state))
        assert restored.hash() == machine.state.hash()
        machine.enter(b"")
        restored.apply(*machine.entries[-1])
        assert restored.hash() == machine.state.hash()
        assert restored.size == machine.state.size


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_it_may_come_in_pieces_of_any_size(piece: int) -> None:
    machine = busy()
    assert read(written(machine.state), piece).hash() == machine.state.hash()


def test_one_revision_larger_than_a_block_is_one_revision_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "BLOCK", 100)
    machine = Machine()
    machine.txn(*(op_put(b"%d" % number) for number in range(100)))
    machine.delete(b"\0", b"\0")
    assert max(map(len, View(machine.state).slices())) < 400
    restored = read(written(machine.state))
    assert len(restored.space.log.at(2)) == len(restored.space.log.at(3)) == 100
    assert restored.hash() == machine.state.hash()


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_damage_is_refused(data: st.DataObject) -> None:
    whole = bytearray(written(DAMAGED.state))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SnapshotError):
        read(bytes(whole), 64)


DAMAGED = busy()


def test_a_cut_or_a_longer_one_is_refused() -> None:
    whole = written(busy().state)
    for cut in range(len(whole)):
        with pytest.raises(SnapshotError):
            read(whole[:cut])
    for more in (b"\0", whole, whole[len(MAGIC) :]):
        with pytest.raises(SnapshotError):
            read(whole + more)


def test_another_format_is_refused() -> None:
    whole = written(busy().state)
    with pytest.raises(SnapshotError, match="format"):
        read(whole.replace(b"state 1", b"state 2"))


def blocks(data: bytes) -> list[bytes]:
    found, at = [], len(MAGIC)
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        found.append(data[at:end])
        at = end
    return found


def test_blocks_in_another_order_or_left_out_are_refused() -> None:
    parts = blocks(written(busy().state))
    assert len(parts) == 7
    for at in range(len(parts)):
        for order in (parts[:at] + parts[at + 1 :], [*parts[:at], parts[at], *parts[at:]], [parts[at], *parts]):
            with pytest.raises(SnapshotError):
                read(MAGIC + b"".join(order))


def test_reads_large_answers_back() -> None:
    machine = Machine()
    session = machine.do(RegisterSession()).session
    machine.put(b"a", b"x" * 1000)
    for seq in range(200):
        machine.txn(op_range(b"a"))
        request = op_txn(op_range(b"a"), op_put(b"b")).request_txn
        assert request is not None
        machine.do(request, session=session, seq=seq)
    pieces = list(View(machine.state).slices())
    assert max(map(len, pieces)) < 2 * snapshot.BLOCK
    assert read(b"".join(pieces)).hash() == machine.state.hash()
