"""A command is applied at most once however often it is sent, and its waiter hears exactly once."""

from balancer.consensus.proposals import AGAIN, MOST, Proposals
from balancer.coordination.command import Command, RegisterSession, Request, decode
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.refusals import UNKNOWN_SESSION
from balancer.coordination.requests import PutRequest

TOKEN = 99


class Log:
    """Where commands are carried. `reachable`: there is a leader."""

    def __init__(self) -> None:
        self.carried: list[tuple[int, Command]] = []
        self.reachable = True
        self.proposals = Proposals(self.carry, TOKEN)
        self.heard: list[object] = []

    def carry(self, data: bytes, number: int) -> bool:
        if self.reachable:
            self.carried.append((number, decode(data)))
        return self.reachable

    def submit(self, request: Request, now: float = 0.0, deadline: float = 10.0) -> None:
        self.proposals.submit(request, now, deadline, self.heard.append)

    def registered(self, session: int = 7, now: float = 0.0) -> None:
        self.proposals.registered(TOKEN, session, now)

    def taken(self) -> list[tuple[int, Command]]:
        carried, self.carried = self.carried, []
        return carried


def put(name: str) -> PutRequest:
    return PutRequest(name.encode(), b"x")


def with_session(session: int = 7) -> Log:
    log = Log()
    log.submit(put("first"))
    log.registered(session)
    log.proposals.applied(session, 1, "done")
    log.taken()
    log.heard.clear()
    return log


def test_the_first_request_asks_for_a_session_and_waits_for_it() -> None:
    log = Log()
    log.submit(put("a"))
    log.submit(put("b"))
    assert log.taken() == [(0, Command(0, TOKEN, 0, RegisterSession()))]
    log.registered(7)
    assert log.taken() == [(1, Command(7, 1, 1, put("a"))), (2, Command(7, 2, 1, put("b")))]
    assert log.proposals.session == 7


def test_a_registration_is_asked_for_again_after_a_while_and_not_before() -> None:
    log = Log()
    log.submit(put("a"))
    log.proposals.tick(AGAIN / 2)
    assert len(log.taken()) == 1
    log.proposals.tick(AGAIN)
    assert len(log.taken()) == 1


def test_a_registration_of_another_start_is_not_ours() -> None:
    log = Log()
    log.submit(put("a"))
    log.proposals.registered(TOKEN + 1, 5, 0.0)
    assert log.proposals.session == 0


def test_of_two_registrations_the_first_counts() -> None:
    log = with_session(7)
    log.registered(8)
    assert log.proposals.session == 7


def test_the_answer_goes_to_who_asked_once() -> None:
    log = with_session()
    log.submit(put("a"))
    log.proposals.applied(7, 2, "answer")
    log.proposals.applied(7, 2, "answer")
    assert log.heard == ["answer"]
    assert len(log.proposals) == 0


def test_answers_of_other_sessions_are_passed_over() -> None:
    log = with_session()
    log.submit(put("a"))
    log.proposals.applied(8, 2, "answer")
    assert log.heard == []


def test_a_command_is_sent_again_with_the_same_number_and_session() -> None:
    log = with_session()
    log.submit(put("a"), now=1.0)
    first = log.taken()
    log.proposals.tick(1.0 + AGAIN)
    assert log.taken() == first
    log.proposals.tick(1.0 + AGAIN + AGAIN / 2)
    assert log.taken() == []


def test_a_refused_command_is_sent_again_at_the_next_tick() -> None:
    log = with_session()
    log.submit(put("a"), now=1.0)
    first = log.taken()
    log.proposals.refused(2)
    log.proposals.tick(1.01)
    assert log.taken() == first


def test_a_refused_registration_is_sent_again_at_the_next_tick() -> None:
    log = Log()
    log.submit(put("a"))
    log.taken()
    log.proposals.refused(0)
    log.proposals.tick(0.01)
    assert len(log.taken()) == 1


def test_another_leader_is_sent_everything_at_once() -> None:
    log = with_session()
    log.submit(put("a"), now=1.0)
    log.submit(put("b"), now=1.0)
    sent = log.taken()
    log.proposals.leader_changed(1.01)
    assert log.taken() == sent


def test_without_a_leader_a_command_waits_for_one() -> None:
    log = with_session()
    log.reachable = False
    log.submit(put("a"), now=1.0)
    log.proposals.tick(1.1)
    log.reachable = True
    log.proposals.tick(1.2)
    assert [number for number, _ in log.taken()] == [2]


def test_at_its_deadline_the_outcome_is_not_known() -> None:
    log = with_session()
    log.submit(put("a"), now=1.0, deadline=2.0)
    log.proposals.tick(1.99)
    assert log.heard == []
    log.proposals.tick(2.0)
    (error,) = log.heard
    assert isinstance(error, CoordinationError)
    assert error.code is Code.UNAVAILABLE
    log.proposals.applied(7, 2, "late")
    assert len(log.heard) == 1


def test_the_deadline_holds_before_there_is_a_session() -> None:
    log = Log()
    log.submit(put("a"), deadline=1.0)
    log.submit(put("b"), deadline=3.0)
    log.proposals.tick(1.0)
    assert len(log.heard) == 1
    log.registered(7, 1.5)
    assert [command.request for _, command in log.taken()][-1] == put("b")


def test_a_command_that_was_given_up_is_confirmed_so_that_a_late_copy_is_refused() -> None:
    log = with_session()
    log.submit(put("a"), now=1.0, deadline=2.0)
    log.proposals.tick(2.0)
    log.taken()
    log.submit(put("b"), now=2.0)
    assert [command.answered_below for _, command in log.taken()] == [3]


def test_nothing_that_still_waits_is_confirmed() -> None:
    log = with_session()
    log.submit(put("a"))
    log.submit(put("b"))
    log.proposals.applied(7, 3, "answer to b")
    log.taken()
    log.submit(put("c"))
    assert [command.answered_below for _, command in log.taken()] == [2]


def test_a_session_that_was_given_up_leaves_outcomes_unknown_and_another_is_asked_for() -> None:
    log = with_session()
    log.submit(put("a"))
    log.submit(put("b"))
    log.taken()
    log.proposals.applied(7, 2, UNKNOWN_SESSION.error())
    assert [type(each) for each in log.heard] == [CoordinationError, CoordinationError]
    log.submit(put("c"), now=1.0)
    assert [type(command.request) for _, command in log.taken()] == [RegisterSession]
    log.registered(20)
    assert [(command.session, command.request) for _, command in log.taken()] == [(20, put("c"))]


def test_numbers_are_not_used_again_in_another_session() -> None:
    log = with_session()
    log.submit(put("a"))
    log.proposals.applied(7, 2, UNKNOWN_SESSION.error())
    log.submit(put("b"), now=1.0)
    log.taken()
    log.registered(20)
    log.proposals.applied(7, 3, "of the old session")
    assert len(log.heard) == 1


def test_above_the_bound_a_request_is_refused_and_not_tried() -> None:
    log = with_session()
    for _ in range(MOST):
        log.submit(put("a"))
    log.taken()
    log.submit(put("one too many"))
    (error,) = log.heard
    assert isinstance(error, CoordinationError)
    assert error.code is Code.RESOURCE_EXHAUSTED
    assert log.taken() == []


def test_who_waits_when_the_member_ends_is_told() -> None:
    log = with_session()
    log.submit(put("a"))
    log.proposals.close()
    assert len(log.heard) == 1
    unsent = Log()
    unsent.submit(put("b"))
    unsent.proposals.close()
    assert len(unsent.heard) == 1
    assert len(unsent.proposals) == 0


def test_an_answer_may_bring_about_another_request() -> None:
    log = with_session()
    log.proposals.submit(put("a"), 1.0, 9.0, lambda _: log.submit(put("b"), 1.0))
    log.taken()
    log.proposals.applied(7, 2, "answer")
    assert [command.request for _, command in log.taken()] == [put("b")]
