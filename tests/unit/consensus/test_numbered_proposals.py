"""Commands that clients numbered: done once whichever members they were sent to, and everybody who waits is told."""

import pytest

from balancer.consensus.numbered_proposals import FIRST, WAITERS_MAX, NumberedProposals
from balancer.consensus.peer_frames import Forward
from balancer.consensus.proposals import AGAIN, MOST
from balancer.coordination.command import (
    Command,
    RegisterSession,
    RegisterSessionResponse,
    Ticket,
    decode,
)
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.refusals import ALREADY_ANSWERED, UNKNOWN_SESSION
from balancer.coordination.requests import PutRequest, RangeRequest
from balancer.coordination.responses import PutResponse
from balancer.coordination.sessions import CLIENTS_FROM
from tests.unit.consensus.trio import Trio

SESSION = CLIENTS_FROM + 5
REQUEST = PutRequest(b"a", b"x")
TIMED_OUT = (Code.UNAVAILABLE, "etcdserver: request timed out")


class Log:
    """Where commands are carried. `reachable`: there is a leader."""

    def __init__(self) -> None:
        self.carried: list[tuple[int, Command]] = []
        self.reachable = True
        self.proposals = NumberedProposals(self.carry)
        self.heard: list[object] = []

    def carry(self, data: bytes, number: int) -> bool:
        if self.reachable:
            self.carried.append((number, decode(data)))
        return self.reachable

    def submit(self, seq: int = 1, now: float = 0.0, deadline: float = 10.0) -> None:
        ticket = Ticket(SESSION, seq, 1)
        self.proposals.submit(REQUEST, ticket, now, deadline=deadline, done=self.heard.append)

    def errors(self) -> list[tuple[Code, str]]:
        assert all(isinstance(told, CoordinationError) for told in self.heard)
        return [(told.code, told.message) for told in self.heard if isinstance(told, CoordinationError)]


def test_it_goes_out_under_the_client_s_number_and_its_waiter_hears_the_answer() -> None:
    log = Log()
    log.submit(3)
    assert log.carried == [(FIRST, Command(SESSION, 3, 1, REQUEST))]
    log.proposals.applied(SESSION, 2, "another")
    log.proposals.applied(SESSION + 1, 3, "another")
    assert log.heard == []
    log.proposals.applied(SESSION, 3, "done")
    log.proposals.applied(SESSION, 3, "done")
    assert (log.heard, len(log.proposals)) == (["done"], 0)


def test_the_same_number_again_goes_out_once_and_both_hear() -> None:
    log = Log()
    log.submit()
    log.submit(now=1.0)
    assert len(log.carried) == 1
    log.proposals.applied(SESSION, 1, "done")
    assert log.heard == ["done", "done"]


@pytest.mark.parametrize("how", ["refused", "another leader", "late", "no leader before"])
def test_what_may_be_lost_is_sent_again(how: str) -> None:
    log = Log()
    log.reachable = how != "no leader before"
    log.submit()
    log.reachable = True
    log.carried.clear()
    log.proposals.tick(AGAIN / 2)
    assert len(log.carried) == (how == "no leader before")
    if how == "refused":
        log.proposals.refused(FIRST)
        log.proposals.tick(AGAIN / 2)
    elif how == "another leader":
        log.proposals.leader_changed(AGAIN / 2)
    elif how == "late":
        log.proposals.tick(AGAIN)
    assert log.carried == [(FIRST, Command(SESSION, 1, 1, REQUEST))]


def test_a_refusal_of_another_s_command_is_passed_over() -> None:
    log = Log()
    log.submit()
    log.proposals.refused(7)
    log.proposals.tick(0.1)
    assert len(log.carried) == 1


def test_each_waiter_has_its_own_deadline() -> None:
    log = Log()
    log.submit(deadline=1.0)
    log.submit(deadline=2.0)
    log.proposals.tick(1.0)
    assert (log.errors(), len(log.proposals)) == ([TIMED_OUT], 1)
    log.proposals.tick(2.0)
    assert (log.errors(), len(log.proposals)) == ([TIMED_OUT] * 2, 0)
    sent = len(log.carried)
    log.proposals.tick(9.0)
    assert len(log.carried) == sent


def test_at_the_end_everybody_is_told() -> None:
    log = Log()
    for seq in (1, 1, 2):
        log.submit(seq)
    log.proposals.close()
    assert log.errors() == [TIMED_OUT] * 3


@pytest.mark.parametrize("again", [False, True])
def test_an_unknown_session_is_certain_only_for_what_was_sent_once(again: bool) -> None:
    log = Log()
    log.submit()
    if again:
        log.proposals.tick(AGAIN)
    log.proposals.applied(SESSION, 1, UNKNOWN_SESSION.error())
    assert log.errors() == [TIMED_OUT if again else tuple(UNKNOWN_SESSION)]


def test_there_is_a_bound_on_commands_and_on_waiters_of_one() -> None:
    log = Log()
    for _ in range(WAITERS_MAX + 1):
        log.submit()
    assert log.errors() == [(Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")]
    for seq in range(2, MOST + 2):
        log.submit(seq)
    assert len(log.errors()) == 2
    assert len(log.proposals) == MOST


# ---- three members


def opened(trio: Trio, at: int = 2) -> int:
    (answer,) = trio.ask(at, RegisterSession(client=True))
    assert isinstance(answer, RegisterSessionResponse)
    return answer.session


def numbered(trio: Trio, at: int, ticket: Ticket) -> list[object]:
    """Submits it there; nothing has arrived anywhere yet."""
    heard: list[object] = []
    trio[at].replica.submit(REQUEST, trio.now, trio.now + 5.0, heard.append, ticket=ticket)
    return heard


def version(trio: Trio, at: int = 1) -> int:
    found = trio[at].machine.range(RangeRequest(b"a")).kvs
    return found[0].version if found else 0


def test_sent_to_all_members_at_once_it_is_done_once_and_answered_the_same_everywhere() -> None:
    trio = Trio()
    trio.elect(1)
    ticket = Ticket(opened(trio), 1, 1)
    heard = [numbered(trio, at, ticket) for at in (1, 2, 3)]
    trio.settle()
    assert heard[0] == heard[1] == heard[2]
    assert [len(told) for told in heard] == [1, 1, 1]
    assert isinstance(heard[0][0], PutResponse)
    assert {version(trio, at) for at in (1, 2, 3)} == {1}
    assert len(trio.hashes()) == 1


def test_an_answer_that_died_with_the_leader_is_had_from_the_next() -> None:
    trio = Trio()
    trio.elect(1)
    ticket = Ticket(opened(trio), 1, 1)
    heard = numbered(trio, 1, ticket)
    trio.settle()
    (first,) = heard
    trio.cut.add(1)
    trio.elect(2)
    again = numbered(trio, 3, ticket)
    trio.settle()
    assert again == [first]
    assert {version(trio, at) for at in (2, 3)} == {1}


def test_what_an_older_leader_never_committed_is_done_once_by_the_next() -> None:
    trio = Trio()
    trio.elect(1)
    ticket = Ticket(opened(trio), 1, 1)
    trio.cut.add(1)
    lost = numbered(trio, 1, ticket)
    trio.settle()
    assert lost == []
    trio.elect(2)
    again = numbered(trio, 2, ticket)
    trio.settle()
    trio.cut.clear()
    trio.pass_time(3.0)
    assert len(lost) == len(again) == 1
    assert lost == again
    assert {version(trio, at) for at in (1, 2, 3)} == {1}
    assert len(trio.hashes()) == 1


def test_a_lost_way_to_the_leader_is_made_up_for() -> None:
    trio = Trio()
    trio.elect(1)
    ticket = Ticket(opened(trio), 1, 1)
    heard = numbered(trio, 2, ticket)
    trio[2].replica.pump(trio.now)
    assert [frame for _, _, frame in trio.in_flight if isinstance(frame, Forward)]
    trio.in_flight.clear()
    trio.pass_time(AGAIN + 0.2)
    assert len(heard) == 1
    assert isinstance(heard[0], PutResponse)
    assert version(trio) == 1


def test_who_got_a_snapshot_in_place_of_its_entry_hears_the_answer_all_the_same() -> None:
    trio = Trio()
    trio.elect(1)
    ticket = Ticket(opened(trio), 1, 1)
    trio.cut.add(3)
    waits = numbered(trio, 3, ticket)
    numbered(trio, 1, ticket)
    trio.settle()
    trio[1].save()
    trio.cut.clear()
    trio.pass_time(2.0)
    assert trio[3].installed
    assert len(waits) == 1
    assert isinstance(waits[0], PutResponse)
    assert {version(trio, at) for at in (1, 2, 3)} == {1}


def test_a_copy_that_comes_after_its_answer_was_confirmed_does_nothing() -> None:
    trio = Trio()
    trio.elect(1)
    session = opened(trio)
    numbered(trio, 1, Ticket(session, 1, 1))
    trio.settle()
    numbered(trio, 1, Ticket(session, 2, 2))
    trio.settle()
    late = numbered(trio, 2, Ticket(session, 1, 1))
    trio.settle()
    (told,) = late
    assert isinstance(told, CoordinationError)
    assert told.message == ALREADY_ANSWERED.message
    assert version(trio) == 2


def test_members_sessions_and_clients_sessions_have_different_numbers() -> None:
    trio = Trio()
    trio.elect(1)
    trio.put(2, "b")
    session = opened(trio)
    numbers = [number for number, _ in trio[1].machine.sessions]
    assert session in numbers
    assert session >= CLIENTS_FROM
    assert all(number < CLIENTS_FROM for number in numbers if number != session)
