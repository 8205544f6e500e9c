"""Exactly once: a command that comes again is not done again, and has the same answer (Raft thesis 6.3)."""

import random

import pytest

from balancer.coordination import sessions
from balancer.coordination.command import RegisterSession
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.requests import LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest
from balancer.coordination.snapshot import Reader, View
from tests.unit.coordination.machine import Machine, refusal

UNKNOWN = (Code.UNAVAILABLE, "coordination: the session is unknown or was given up")
ANSWERED = (Code.UNAVAILABLE, "coordination: this command was answered before")


@pytest.fixture
def machine() -> Machine:
    return Machine()


def register(machine: Machine) -> int:
    return machine.do(RegisterSession()).session


def test_a_session_s_number_is_the_index_of_its_entry(machine: Machine) -> None:
    machine.put(b"a")
    assert register(machine) == 2
    assert register(machine) == 3


def test_a_command_that_comes_again_is_done_once_and_answered_the_same(machine: Machine) -> None:
    session = register(machine)
    request = PutRequest(b"a", b"1", prev_kv=True)
    first = machine.apply(request, session=session, seq=1)
    machine.put(b"a", b"2")
    again = machine.apply(request, session=session, seq=1)
    assert again.result == first.result
    assert (first.changes != (), again.changes) == (True, ())
    assert machine.get(b"a").value == b"2"


def test_without_a_session_it_is_done_as_often_as_it_comes(machine: Machine) -> None:
    machine.put(b"a")
    machine.put(b"a")
    assert machine.get(b"a").version == 2


def test_a_refusal_is_an_answer_as_well(machine: Machine) -> None:
    session = register(machine)
    with refusal(Code.NOT_FOUND, "etcdserver: requested lease not found"):
        machine.do(PutRequest(b"a", lease=9), session=session, seq=1)
    machine.grant(9)
    with refusal(Code.NOT_FOUND, "etcdserver: requested lease not found"):
        machine.do(PutRequest(b"a", lease=9), session=session, seq=1)
    assert machine.get(b"a") is None


def test_the_same_number_in_another_session_is_another_command(machine: Machine) -> None:
    one, other = register(machine), register(machine)
    machine.do(PutRequest(b"a"), session=one, seq=1)
    machine.do(PutRequest(b"a"), session=other, seq=1)
    assert machine.get(b"a").version == 2


def test_numbers_may_come_in_any_order_and_with_gaps(machine: Machine) -> None:
    session = register(machine)
    for seq in (5, 2, 9, 2, 5):
        machine.do(PutRequest(b"a"), session=session, seq=seq)
    assert machine.get(b"a").version == 3


def test_a_command_of_an_unknown_session_is_refused_and_not_done(machine: Machine) -> None:
    with refusal(*UNKNOWN):
        machine.do(PutRequest(b"a"), session=77, seq=1)
    assert machine.get(b"a") is None


def test_a_command_that_was_confirmed_is_refused_and_not_done(machine: Machine) -> None:
    session = register(machine)
    machine.do(PutRequest(b"a"), session=session, seq=1)
    machine.do(PutRequest(b"b"), session=session, seq=2, answered_below=2)
    with refusal(*ANSWERED):
        machine.do(PutRequest(b"a"), session=session, seq=1)
    with refusal(*ANSWERED):
        machine.do(PutRequest(b"a"), session=session, seq=1, answered_below=0)
    assert machine.get(b"a").version == 1


def test_what_a_late_command_confirms_does_not_bring_answers_back(machine: Machine) -> None:
    session = register(machine)
    machine.do(PutRequest(b"a"), session=session, seq=3, answered_below=3)
    machine.do(PutRequest(b"b"), session=session, seq=4, answered_below=1)
    with refusal(*ANSWERED):
        machine.do(PutRequest(b"a"), session=session, seq=2)


@pytest.mark.parametrize("leap", [3, 5, 2**62])
def test_confirmed_answers_are_forgotten(machine: Machine, leap: int) -> None:
    session = register(machine)
    for seq in range(1, 5):
        machine.do(PutRequest(b"a"), session=session, seq=seq)
    machine.do(PutRequest(b"a"), session=session, seq=leap, answered_below=leap)
    ((_, kept),) = machine.state.sessions
    assert set(kept.answers) == {seq for seq in (1, 2, 3, 4, leap) if seq >= leap}


def test_a_leap_keeps_the_answer_that_it_does_not_confirm(machine: Machine) -> None:
    session = register(machine)
    for seq in (1, 100):
        machine.do(PutRequest(b"a"), session=session, seq=seq)
    machine.do(PutRequest(b"a"), session=session, seq=100, answered_below=100)
    assert machine.get(b"a").version == 2


def test_the_least_recently_used_session_goes(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 2)
    one, other = register(machine), register(machine)
    machine.do(PutRequest(b"a"), session=one, seq=1)
    third = register(machine)
    with refusal(*UNKNOWN):
        machine.do(PutRequest(b"b"), session=other, seq=1)
    machine.do(PutRequest(b"b"), session=one, seq=2)
    machine.do(PutRequest(b"b"), session=third, seq=1)
    assert [number for number, _ in machine.state.sessions] == [one, third]


def test_a_session_with_too_many_unconfirmed_answers_is_refused_more(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "ANSWERS_MAX", 2)
    session = register(machine)
    for seq in (1, 2):
        machine.do(PutRequest(b"a"), session=session, seq=seq)
    with refusal(Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests"):
        machine.do(PutRequest(b"a"), session=session, seq=3)
    assert machine.do(PutRequest(b"a"), session=session, seq=2).header.revision == 3
    machine.do(PutRequest(b"a"), session=session, seq=3, answered_below=2)
    assert machine.get(b"a").version == 3


def test_an_answer_too_large_to_keep_is_given_once(machine: Machine) -> None:
    session = register(machine)
    machine.put(b"a", b"x" * sessions.ANSWER_SIZE_MAX)
    request = TxnRequest(success=(RequestOp(request_put=PutRequest(b"b")), RequestOp(request_range=RangeRequest(b"a"))))
    assert len(machine.do(request, session=session, seq=1).responses) == 2
    with refusal(Code.UNAVAILABLE, "coordination: the command was done; its answer was too large to keep"):
        machine.do(request, session=session, seq=1)
    assert machine.get(b"b").version == 1


def test_the_answer_of_a_repetition_is_of_then(machine: Machine) -> None:
    session = register(machine)
    grant = LeaseGrantRequest(TTL=5, ID=3)
    machine.do(grant, session=session, seq=1)
    machine.revoke(3)
    assert machine.do(grant, session=session, seq=1).ID == 3
    assert 3 not in machine.state.leases


def test_a_decision_of_another_term_is_void(machine: Machine) -> None:
    machine.term = 4
    machine.grant(1)
    for decided in (3, 5):
        result = machine.apply(LeaseGrantRequest(TTL=5, ID=2), decided_term=decided).result
        assert isinstance(result, CoordinationError)
        assert (result.code, result.message) == (Code.UNAVAILABLE, "etcdserver: leader changed")
    assert 2 not in machine.state.leases
    machine.do(LeaseGrantRequest(TTL=5, ID=2), decided_term=4)
    assert 2 in machine.state.leases


# ---- what all of them may hold


def reading(key: bytes) -> TxnRequest:
    """A change whose answer has all of `key`'s value."""
    return TxnRequest(success=(RequestOp(request_put=PutRequest(b"n")), RequestOp(request_range=RangeRequest(key))))


def sizes(machine: Machine) -> tuple[int, int]:
    """What is said, and what is there."""
    kept = [answer for _, session in machine.state.sessions for answer in session.answers.values()]
    return machine.state.sessions.size, sum(sessions.ANSWER_COST + sessions.size(answer) for answer in kept)


def test_a_client_s_session_has_a_number_that_no_member_has(machine: Machine) -> None:
    one = machine.do(RegisterSession(client=True)).session
    assert one == sessions.CLIENTS_FROM + 1
    machine.do(PutRequest(b"a"), session=one, seq=1)
    machine.do(PutRequest(b"a"), session=one, seq=1)
    assert machine.get(b"a").version == 1
    assert register(machine) == machine.state.applied_index


def test_a_session_keeps_so_many_bytes_and_what_is_more_is_given_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SESSION_SIZE_MAX", 12_000)
    session = register(machine)
    machine.put(b"a", b"x" * 3_000)
    for seq in range(1, 5):
        assert len(machine.do(reading(b"a"), session=session, seq=seq).responses) == 2
    for seq in (1, 2, 3):
        assert len(machine.do(reading(b"a"), session=session, seq=seq).responses) == 2
    with refusal(Code.UNAVAILABLE, "coordination: the command was done; its answer was too large to keep"):
        machine.do(reading(b"a"), session=session, seq=4)
    assert machine.get(b"n").version == 4
    ((_, kept),) = machine.state.sessions
    assert kept.size <= 12_000 + sessions.ANSWER_COST
    machine.do(reading(b"a"), session=session, seq=5, answered_below=5)
    assert len(machine.do(reading(b"a"), session=session, seq=5).responses) == 2
    assert sizes(machine)[0] == sizes(machine)[1]


def test_above_so_many_bytes_the_least_recently_used_sessions_go(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SIZE_MAX", 10_000)
    machine.put(b"a", b"x" * 3_000)
    hungry = []
    for _ in range(4):
        hungry.append(register(machine))
        machine.do(reading(b"a"), session=hungry[-1], seq=1)
    assert [number for number, _ in machine.state.sessions] == hungry[-2:]
    assert sizes(machine)[0] == sizes(machine)[1] <= 10_000
    with refusal(*UNKNOWN):
        machine.do(reading(b"a"), session=hungry[0], seq=1)
    assert machine.get(b"n").version == 4


def test_whatever_clients_do_what_is_kept_stays_within_its_bounds(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, bound in (("SESSIONS_MAX", 5), ("ANSWERS_MAX", 6), ("SESSION_SIZE_MAX", 9_000), ("SIZE_MAX", 20_000)):
        monkeypatch.setattr(sessions, name, bound)
    rng = random.Random(4)
    machine.put(b"a", b"x" * 2_000)
    opened = [machine.do(RegisterSession(client=True)).session]
    for seq in range(1, 600):
        if rng.random() < 0.1:
            opened.append(machine.do(RegisterSession(client=True)).session)
        below = rng.choice((0, 0, seq - rng.randrange(20)))
        request = rng.choice((reading(b"a"), PutRequest(b"b"), PutRequest(b"b", lease=9)))
        machine.apply(request, session=rng.choice(opened[-7:]), seq=seq, answered_below=max(below, 0))
        said, held = sizes(machine)
        assert said == held <= 20_000
        assert len(machine.state.sessions) <= 5
        for _, kept in machine.state.sessions:
            assert len(kept.answers) <= 6
            assert kept.size <= 9_000 + 6 * sessions.ANSWER_COST
    assert len({number for number, _ in machine.state.sessions}) > 1


def test_a_restored_state_counts_the_same_bytes(machine: Machine) -> None:
    machine.put(b"a", b"x" * 3_000)
    one, other = register(machine), machine.do(RegisterSession(client=True)).session
    for seq, request in enumerate((reading(b"a"), PutRequest(b"b", prev_kv=True), PutRequest(b"b", lease=9)), 1):
        machine.apply(request, session=one, seq=seq)
        machine.apply(request, session=other, seq=seq)
    reader = Reader()
    for piece in View(machine.state).slices():
        reader.feed(piece)
    restored = reader.finish().sessions
    assert restored.size == machine.state.sessions.size == sizes(machine)[1]
    assert [(number, session.size) for number, session in restored] == [
        (number, session.size) for number, session in machine.state.sessions
    ]


def test_no_number_of_clients_makes_a_member_lose_its_session(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 2)
    monkeypatch.setattr(sessions, "SIZE_MAX", 10_000)
    member = register(machine)
    machine.do(PutRequest(b"m"), session=member, seq=1)
    machine.put(b"a", b"x" * 3_000)
    for _ in range(9):
        session = machine.do(RegisterSession(client=True)).session
        for seq in (1, 2):
            machine.do(reading(b"a"), session=session, seq=seq)
    assert [number for number, _ in machine.state.sessions][:1] == [member]
    machine.do(PutRequest(b"m"), session=member, seq=1)
    assert machine.get(b"m").version == 1
