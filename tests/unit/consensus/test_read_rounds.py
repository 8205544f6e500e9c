"""A read happens only after a round that began when it had come, in a state that holds what the round said."""

from balancer.consensus.proposals import no_leader
from balancer.consensus.read_rounds import AGAIN, ReadRounds
from balancer.coordination.errors import CoordinationError


class Core:
    """Gives rounds their numbers. `told`: who was told to read, and why not."""

    def __init__(self) -> None:
        self.begun = 0
        self.leads = True
        self.rounds = ReadRounds(self.begin)
        self.told: list[tuple[str, CoordinationError | None]] = []

    def begin(self) -> int:
        if not self.leads:
            return 0
        self.begun += 1
        return self.begun

    def join(self, name: str, deadline: float = 10.0) -> None:
        self.rounds.join(lambda refused: self.told.append((name, refused)), deadline)

    @property
    def names(self) -> list[str]:
        return [name for name, refused in self.told if refused is None]

    @property
    def refused(self) -> list[str]:
        return [name for name, refused in self.told if refused is not None]


def test_who_came_before_a_round_shares_it() -> None:
    core = Core()
    core.join("a")
    core.join("b")
    core.rounds.pump(0.0)
    assert core.begun == 1
    core.rounds.confirmed(1, 5)
    core.rounds.applied(5)
    assert core.names == ["a", "b"]


def test_who_comes_later_waits_for_another_round() -> None:
    core = Core()
    core.join("a")
    core.rounds.pump(0.0)
    core.join("b")
    core.rounds.confirmed(1, 5)
    core.rounds.applied(5)
    assert core.names == ["a"]
    core.rounds.pump(0.0)
    core.rounds.confirmed(2, 5)
    core.rounds.applied(5)
    assert core.names == ["a", "b"]


def test_a_confirmed_read_waits_until_its_index_is_applied() -> None:
    core = Core()
    core.join("a")
    core.rounds.pump(0.0)
    core.rounds.confirmed(1, 5)
    core.rounds.applied(4)
    assert core.names == []
    core.rounds.applied(6)
    assert core.names == ["a"]


def test_without_waiters_no_round_begins() -> None:
    core = Core()
    core.rounds.pump(0.0)
    assert core.begun == 0


def test_a_refused_round_is_followed_by_another_with_another_number() -> None:
    core = Core()
    core.join("a")
    core.rounds.pump(0.0)
    core.rounds.refused(1)
    core.rounds.pump(0.0)
    core.rounds.confirmed(1, 5)
    core.rounds.applied(9)
    assert core.names == []
    core.rounds.confirmed(2, 5)
    core.rounds.applied(9)
    assert core.names == ["a"]


def test_a_round_that_takes_too_long_is_given_up_and_a_late_confirmation_is_void() -> None:
    core = Core()
    core.join("a")
    core.rounds.pump(0.0)
    core.rounds.tick(AGAIN)
    core.rounds.confirmed(1, 5)
    core.rounds.applied(9)
    assert core.names == []
    core.rounds.pump(AGAIN)
    assert core.begun == 2


def test_rounds_of_a_leader_of_before_are_nobodys() -> None:
    core = Core()
    core.join("a")
    core.rounds.pump(0.0)
    core.rounds.leader_changed()
    core.rounds.confirmed(1, 5)
    core.rounds.applied(9)
    assert core.names == []


def test_without_a_leader_a_read_waits_for_one_until_its_deadline() -> None:
    core = Core()
    core.leads = False
    core.join("a", deadline=1.0)
    core.join("b", deadline=2.0)
    core.rounds.pump(0.0)
    core.rounds.tick(1.0)
    assert core.refused == ["a"]
    core.leads = True
    core.rounds.pump(1.5)
    core.rounds.confirmed(1, 5)
    core.rounds.applied(5)
    assert core.names == ["b"]


def test_the_deadline_holds_while_a_round_is_under_way() -> None:
    core = Core()
    core.join("a", deadline=0.1)
    core.join("b", deadline=5.0)
    core.rounds.pump(0.0)
    core.rounds.tick(0.1)
    assert core.refused == ["a"]
    core.rounds.confirmed(1, 5)
    core.rounds.applied(5)
    assert core.names == ["b"]
    assert len(core.told) == 2


def test_the_deadline_holds_while_the_state_is_behind() -> None:
    """A member that is cut off between the confirmation and the entry would else never answer."""
    core = Core()
    core.join("a", deadline=1.0)
    core.rounds.pump(0.0)
    core.rounds.confirmed(1, 5)
    core.rounds.tick(1.0)
    assert core.refused == ["a"]
    core.rounds.applied(5)
    assert len(core.told) == 1
    assert len(core.rounds) == 0


def test_who_waits_when_the_member_ends_is_told_once() -> None:
    core = Core()
    core.join("confirmed")
    core.rounds.pump(0.0)
    core.rounds.confirmed(1, 5)
    core.join("in a round")
    core.rounds.pump(0.0)
    core.join("arrived")
    core.rounds.close(no_leader())
    assert sorted(core.refused) == ["arrived", "confirmed", "in a round"]
    core.rounds.close(no_leader())
    assert len(core.told) == 3


def test_a_turn_may_ask_again() -> None:
    core = Core()
    core.rounds.join(lambda _: core.join("next"), 10.0)
    core.rounds.pump(0.0)
    core.rounds.confirmed(1, 5)
    core.rounds.applied(5)
    core.rounds.pump(0.0)
    assert core.begun == 2
