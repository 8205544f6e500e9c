"""A member that was restored from a snapshot of any moment does, answers and hashes the same from then on."""

from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.coordination import sessions, snapshot, state_machine
from balancer.coordination.command import Command, RegisterSession, encode
from balancer.coordination.errors import CoordinationError
from balancer.coordination.requests import (
    CompactionRequest,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from balancer.coordination.snapshot import Reader, View
from balancer.coordination.state_machine import Applied, StateMachine

KEY = st.sampled_from([b"a", b"a/1", b"b"])
END = st.sampled_from([b"", b"", b"\0", b"b", b"c"])
LEASE = st.sampled_from([0, 0, 1, 2])
PUT = st.builds(PutRequest, KEY, st.binary(max_size=4), LEASE, st.booleans())
DELETE = st.builds(DeleteRangeRequest, KEY, END, st.booleans())
OPERATION = (
    st.builds(RequestOp, request_put=PUT)
    | st.builds(RequestOp, request_delete_range=DELETE)
    | st.builds(RequestOp, request_range=st.builds(RangeRequest, KEY, END))
)
BRANCH = st.lists(OPERATION | st.builds(RequestOp, request_txn=st.builds(TxnRequest, success=st.tuples(OPERATION))))
REQUEST = (
    PUT
    | PUT
    | DELETE
    | st.builds(TxnRequest, success=BRANCH.map(tuple))
    | st.builds(CompactionRequest, st.integers(1, 40))
    | st.builds(LeaseGrantRequest, st.just(5), st.integers(1, 2))
    | st.builds(LeaseRevokeRequest, st.integers(1, 2))
    | st.builds(RegisterSession)
)
FIRST = [Command(0, 0, 0, request) for request in (RegisterSession(), RegisterSession(), LeaseGrantRequest(5, 1))]
COMMAND = st.builds(Command, st.just(0), st.just(0), st.just(0), REQUEST) | st.builds(
    Command, st.sampled_from([1, 2, 2, 9]), st.integers(0, 6), st.integers(0, 5), REQUEST
)


def comparable(applied: Applied) -> Any:
    result = applied.result
    if isinstance(result, CoordinationError):
        result = (result.code, result.message)  # type: ignore[assignment]
    return result, applied.revision, applied.changes


def restored(state: StateMachine) -> StateMachine:
    reader = Reader()
    for piece in View(state).slices():
        reader.feed(piece)
    return reader.finish()


@given(
    st.lists(COMMAND, max_size=40).map(lambda commands: [*FIRST, *commands]),
    st.sets(st.integers(0, 43), max_size=4),
    st.sampled_from([(0, 0), (0, 1), (2, 1), (4000, 16)]),
    st.sampled_from([1, 100, 64 * 1024]),
)
@settings(deadline=None, max_examples=150)
def test_a_restored_member_is_as_one_that_was_there_all_the_time(
    commands: list[Command], moments: set[int], sweep: tuple[int, int], block: int
) -> None:
    sizes = patch.multiple(state_machine, SWEEP_AT_COMPACTION=sweep[0], SWEEP_PER_ENTRY=sweep[1])
    bounds = patch.multiple(sessions, SESSIONS_MAX=2, ANSWERS_MAX=3, ANSWER_SIZE_MAX=300)
    with sizes, bounds, patch.object(snapshot, "BLOCK", block):
        members = [StateMachine(quota=12_000)]
        views = []
        for index, command in enumerate(commands, 1):
            if index - 1 in moments:
                views.append(View(members[0]))
                members.append(restored(members[-1]))
            answers = [comparable(member.apply(index, 1 + index // 7, encode(command))) for member in members]
            assert answers == answers[:1] * len(members)
            assert len({member.hash() for member in members}) == 1
        for member in members:
            for revision in range(max(member.space.compacted, 1), member.revision + 1):
                request = RangeRequest(b"\0", b"\0", revision=revision)
                assert member.range(request) == members[0].range(request)
            assert [member.leases.keys(lease) for lease in (1, 2)] == [
                members[0].leases.keys(lease) for lease in (1, 2)
            ]
        for view in views:
            reader = Reader()
            for piece in view.slices():
                reader.feed(piece)
            again = reader.finish()
            for index, command in enumerate(commands[again.applied_index :], again.applied_index + 1):
                again.apply(index, 1 + index // 7, encode(command))
            assert again.hash() == members[0].hash()
