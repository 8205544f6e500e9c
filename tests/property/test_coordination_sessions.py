"""Exactly once, on any network: commands are lost, doubled and reordered, and each takes effect at most once."""

from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.coordination import sessions
from balancer.coordination.command import Command, RegisterSession
from balancer.coordination.errors import CoordinationError
from balancer.coordination.requests import PutRequest
from balancer.coordination.responses import PutResponse
from tests.unit.coordination.machine import Machine


class Client:
    """Numbers its commands, sends each several times, and confirms what was answered."""

    def __init__(self, session: int) -> None:
        self.session = session
        self.seq = 0
        self.answered: set[int] = set()

    def answered_below(self) -> int:
        return next(seq for seq in range(1, self.seq + 2) if seq not in self.answered)


@given(st.data())
@settings(deadline=None)
def test_each_command_is_done_once_and_every_answer_to_it_is_the_same(data: st.DataObject) -> None:
    machine = Machine()
    clients = [Client(machine.do(RegisterSession()).session) for _ in range(3)]
    network: list[Command] = []
    answers: dict[tuple[int, int], PutResponse] = {}
    for _ in range(data.draw(st.integers(1, 40))):
        if data.draw(st.booleans()) or not network:
            client = data.draw(st.sampled_from(clients))
            client.seq += 1
            request = PutRequest(b"%d/%d" % (client.session, client.seq))
            command = Command(client.session, client.seq, client.answered_below(), request)
            network += [command] * data.draw(st.integers(1, 3))
            continue
        command = network.pop(data.draw(st.integers(0, len(network) - 1)))
        result = machine.apply(
            command.request, session=command.session, seq=command.seq, answered_below=command.answered_below
        ).result
        name = command.session, command.seq
        if isinstance(result, CoordinationError):
            assert result.message == "coordination: this command was answered before"
            assert name in answers
        elif name in answers:
            assert result == answers[name]
        else:
            answers[name] = result
            next(c for c in clients if c.session == command.session).answered.add(command.seq)
    assert {kv.key: kv.version for kv in machine.range().kvs} == {b"%d/%d" % name: 1 for name in answers}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(0, 5)), max_size=60))
@settings(deadline=None)
def test_a_session_that_was_given_up_does_nothing_more(steps: list[tuple[int, int, int]]) -> None:
    """Which one goes is the least recently used one, by the log; a naive list says which that is."""
    with patch.object(sessions, "SESSIONS_MAX", 3):
        machine = Machine()
        used: list[int] = []
        given_out: list[int] = []
        for which, seq, answered_below in steps:
            if which == 0:
                given_out.append(machine.do(RegisterSession()).session)
                used = [*used, given_out[-1]][-3:]
            elif given_out:
                session = given_out[-which % len(given_out)]
                before = machine.state.revision
                result = machine.apply(PutRequest(b"a"), session=session, seq=seq, answered_below=answered_below).result
                unknown = isinstance(result, CoordinationError) and "unknown" in result.message
                assert unknown == (session not in used)
                if unknown:
                    assert machine.state.revision == before
                else:
                    used.remove(session)
                    used.append(session)
        assert [number for number, _ in machine.state.sessions] == used
