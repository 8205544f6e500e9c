"""Leases under changing leaders: never shorter than promised, and over at last."""

from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.coordination.command import Command, encode
from balancer.coordination.lessor import Lessor, Renewal
from balancer.coordination.requests import LeaseGrantRequest, LeaseRevokeRequest
from balancer.coordination.state_machine import StateMachine

EXTEND = 1.0
STEP = st.one_of(
    st.tuples(st.just("grant"), st.integers(1, 4), st.integers(1, 6)),
    st.tuples(st.just("renew"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("renew"), st.integers(1, 4), st.just(0)),
    st.tuples(st.just("pass"), st.integers(1, 40), st.just(0)),
    st.tuples(st.just("pass"), st.integers(1, 10), st.just(0)),
    st.tuples(st.just("decide"), st.integers(1, 3), st.just(0)),
    st.tuples(st.just("commit"), st.integers(0, 5), st.just(0)),
    st.tuples(st.just("lead"), st.integers(0, 2), st.just(0)),
    st.tuples(st.just("revoke"), st.integers(1, 4), st.just(0)),
)


class Members:
    """Three members that apply one log. `way`: commands that were proposed, with the term in which they enter it."""

    def __init__(self) -> None:
        self.state = StateMachine()  # all three are equal: one stands for them
        self.lessors = [Lessor(), Lessor(), Lessor()]
        self.leader, self.term, self.now = 0, 1, 0.0
        self.lessors[0].promote([], self.now, EXTEND)
        self.way: list[tuple[Command, int]] = []
        self.promised: dict[int, float] = {}  # until when a lease's holder may rely on it
        self.asked_to_end: set[int] = set()

    def commit(self, command: Command, term: int) -> None:
        applied = self.state.apply(self.state.applied_index + 1, term, encode(command))
        request = command.request
        if not applied.done:
            return
        if isinstance(request, LeaseGrantRequest):
            self.promised[request.ID] = self.now + request.TTL
            self.asked_to_end.discard(request.ID)
            for lessor in self.lessors:
                lessor.granted(request.ID, request.TTL, self.now)
        elif isinstance(request, LeaseRevokeRequest):
            assert self.now >= self.promised.pop(request.ID) or request.ID in self.asked_to_end, "ended too early"
            for lessor in self.lessors:
                lessor.revoked(request.ID)

    def step(self, name: str, number: int, more: int) -> None:
        lessor = self.lessors[self.leader]
        if name == "grant":
            self.commit(Command(0, 0, 0, LeaseGrantRequest(TTL=more, ID=number)), self.term)
        elif name == "revoke":
            self.asked_to_end.add(number)
            self.commit(Command(0, 0, 0, LeaseRevokeRequest(number)), self.term)
        elif name == "renew":
            self.renew(lessor, number)
        elif name == "pass":
            self.now += number / 4
        elif name == "decide":
            for lease in lessor.due(self.now, number):
                assert lease in self.state.leases
                self.way.append((Command(0, 0, 0, LeaseRevokeRequest(lease), decided_term=self.term), self.term))
        elif name == "commit" and self.way:
            self.commit(*self.way.pop(number % len(self.way)))
        elif name == "lead":
            self.lead(number)

    def renew(self, lessor: Lessor, lease: int) -> None:
        answer = lessor.renew(lease, self.now)
        if answer is Renewal.RENEWED:
            ttl = self.state.leases.ttl(lease)
            assert ttl is not None, "a lease was renewed that is not there"
            assert not any(
                command.request == LeaseRevokeRequest(lease) and term == self.term for command, term in self.way
            )
            self.promised[lease] = self.now + ttl
        else:
            assert (answer is Renewal.UNKNOWN) == (lease not in self.state.leases)

    def lead(self, member: int) -> None:
        """Another member leads. What is on its way may be lost, or enter the log as a command of the new term."""
        self.lessors[self.leader].demote()
        self.leader, self.term = member, self.term + 1
        self.way = [(command, self.term) for command, _ in self.way]
        self.lessors[member].promote(list(self.state.leases), self.now, EXTEND)


@given(st.lists(STEP, max_size=80))
@settings(deadline=None)
def test_no_lease_ends_before_its_ttl_since_the_last_renewal_and_each_ends_at_last(
    steps: list[tuple[str, int, int]],
) -> None:
    members = Members()
    for step in steps:
        members.step(*step)
    members.lead(1)
    for _ in range(60):
        members.step("pass", 1, 0)
        members.step("decide", 3, 0)
        while members.way:
            members.step("commit", 0, 0)
    assert len(members.state.leases) == 0
