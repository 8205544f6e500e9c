"""The store against a naive one: every answer, every past read and every history, whatever is asked in any order."""

from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from balancer.coordination import state_machine
from balancer.coordination.errors import CoordinationError
from balancer.coordination.requests import (
    CompactionRequest,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    SortOrder,
    SortTarget,
    TxnRequest,
)
from tests.unit.coordination.machine import Machine
from tests.unit.coordination.naive_store import NaiveStore

KEYS = [b"a", b"a/1", b"a/2", b"b", b"b\0", b"c", b"\xff", b"\xff\xff"]
KEY = st.sampled_from(KEYS)
END = st.sampled_from([b"", b"", b"\0", *KEYS, b"a0", b"\xff\xff\xff"])
LEASE = st.sampled_from([0, 0, 0, 1, 2, 3])
VALUE = st.sampled_from([b"", b"x", b"y", b"z" * 40])
REVISION = st.just(0) | st.integers(-2, 30)
BOUND = st.just(0) | st.just(0) | st.integers(-1, 20)
PUT = st.builds(
    PutRequest, KEY, VALUE, LEASE, prev_kv=st.booleans(), ignore_value=st.just(False), ignore_lease=st.just(False)
) | st.builds(PutRequest, KEY, lease=LEASE, ignore_value=st.just(True), prev_kv=st.booleans())
PUT |= st.builds(PutRequest, KEY, VALUE, ignore_lease=st.just(True))
DELETE = st.builds(DeleteRangeRequest, KEY, END, st.booleans())
RANGE = st.builds(
    RangeRequest,
    st.sampled_from([b"\0", b"a", b"a/2"]),
    st.sampled_from([b"\0", b"\0", b"b\0", b"c"]),
    limit=st.integers(0, 4),
    revision=st.just(0) | REVISION,
    sort_order=st.sampled_from(SortOrder),
    sort_target=st.sampled_from(SortTarget),
    keys_only=st.booleans(),
    count_only=st.sampled_from([False, False, True]),
    min_mod_revision=BOUND,
    max_mod_revision=BOUND,
    min_create_revision=BOUND,
    max_create_revision=BOUND,
) | st.builds(RangeRequest, KEY, END, limit=st.integers(0, 3), revision=REVISION)
COMPARE = st.builds(
    Compare,
    result=st.sampled_from(CompareResult),
    target=st.sampled_from(CompareTarget),
    key=KEY,
    range_end=END,
    version=st.integers(0, 2),
    create_revision=st.integers(0, 12),
    mod_revision=st.integers(0, 12),
    value=VALUE,
    lease=LEASE,
)
LEAF = (
    st.builds(RequestOp, request_put=PUT)
    | st.builds(RequestOp, request_put=st.builds(PutRequest, KEY, VALUE))
    | st.builds(RequestOp, request_delete_range=DELETE)
    | st.builds(RequestOp, request_range=RANGE)
    | st.builds(RequestOp, request_range=st.builds(RangeRequest, KEY, END))
)


def lists_of(operation: st.SearchStrategy[RequestOp]) -> st.SearchStrategy[tuple[RequestOp, ...]]:
    return st.lists(operation, max_size=3).map(tuple)


def txn_of(operation: st.SearchStrategy[RequestOp]) -> st.SearchStrategy[TxnRequest]:
    return st.builds(TxnRequest, st.lists(COMPARE, max_size=2).map(tuple), lists_of(operation), lists_of(operation))


TXN = txn_of(LEAF | st.builds(RequestOp, request_txn=txn_of(LEAF)))


def answer_of(ask: Any, *given: Any) -> Any:
    """The answer, or the refusal as something that can be compared."""
    try:
        return ask(*given)
    except CoordinationError as refused:
        return (refused.code, refused.message)


def same_changes(steps: list[PutRequest | DeleteRangeRequest]) -> tuple[Machine, NaiveStore]:
    """Two stores after the same changes."""
    machine, naive = Machine(), NaiveStore()
    for request in steps:
        machine.apply(request)
        answer_of(naive.put if isinstance(request, PutRequest) else naive.delete, request)
        naive.commit()
    return machine, naive


STEPS = st.lists(st.builds(PutRequest, KEY, VALUE) | st.builds(PutRequest, KEY, VALUE) | DELETE, max_size=25)


@given(STEPS, st.lists(RANGE, min_size=1, max_size=20))
@settings(deadline=None)
def test_a_range_answers_what_a_naive_store_answers(steps: list[Any], requests: list[RangeRequest]) -> None:
    machine, naive = same_changes(steps)
    for request in requests:
        assert answer_of(machine.state.range, request) == answer_of(naive.range, request)


@given(STEPS, st.lists(TXN, min_size=1, max_size=6))
@settings(deadline=None)
def test_a_txn_does_and_answers_what_a_naive_store_does(steps: list[Any], requests: list[TxnRequest]) -> None:
    machine, naive = same_changes(steps)
    for request in requests:
        expected = answer_of(naive.txn, request)
        naive.commit()
        assert answer_of(machine.do, request) == expected
        assert machine.range().kvs == tuple(naive.state[key] for key in sorted(naive.state))


class StoreAgainstNaive(RuleBasedStateMachine):
    """The same requests to both."""

    @initialize(sweep=st.sampled_from([(0, 0), (1, 1), (4000, 16)]))
    def begin(self, sweep: tuple[int, int]) -> None:
        self.patch = patch.multiple(state_machine, SWEEP_AT_COMPACTION=sweep[0], SWEEP_PER_ENTRY=sweep[1])
        self.patch.start()
        self.machine = Machine()
        self.naive = NaiveStore()

    def both(self, request: Any, naive: Any, *given: Any) -> None:
        entry = len(self.naive.events)
        expected = answer_of(naive, *given)
        self.naive.commit()
        applied = self.machine.apply(request)
        result = applied.result
        if isinstance(result, CoordinationError):
            assert (result.code, result.message) == expected
        elif isinstance(request, PutRequest | DeleteRangeRequest | TxnRequest):
            assert result == expected
        else:
            assert not isinstance(expected, tuple)
            assert result.header.revision == self.naive.revision
        assert applied.revision == self.naive.revision
        assert [list(applied.changes)] == (self.naive.events[entry:] or [[]])

    @rule(request=PUT)
    def put(self, request: PutRequest) -> None:
        self.both(request, self.naive.put, request)

    @rule(key=KEY, value=VALUE)
    def put_simply(self, key: bytes, value: bytes) -> None:
        self.put(PutRequest(key, value))

    @rule(request=DELETE)
    def delete(self, request: DeleteRangeRequest) -> None:
        self.both(request, self.naive.delete, request)

    @rule(request=TXN)
    def txn(self, request: TxnRequest) -> None:
        self.both(request, self.naive.txn, request)

    @rule(lease=st.sampled_from([1, 2, 3]))
    def grant(self, lease: int) -> None:
        self.both(LeaseGrantRequest(TTL=10, ID=lease), self.naive.grant, lease, 10)

    @rule(lease=st.sampled_from([1, 2, 3]))
    def revoke(self, lease: int) -> None:
        self.both(LeaseRevokeRequest(lease), self.naive.revoke, lease)

    @rule(back=st.integers(-1, 6))
    def compact(self, back: int) -> None:
        revision = self.naive.revision - back
        self.both(CompactionRequest(revision), self.naive.compact, revision)

    @rule(request=RANGE)
    def range(self, request: RangeRequest) -> None:
        assert answer_of(self.machine.state.range, request) == answer_of(self.naive.range, request)

    @rule(request=txn_of(st.builds(RequestOp, request_range=RANGE)))
    def read_only_txn(self, request: TxnRequest) -> None:
        assert answer_of(self.machine.state.read_txn, request) == answer_of(self.naive.txn, request)

    @invariant()
    def every_past_agrees(self) -> None:
        if not hasattr(self, "naive"):
            return
        readable = range(max(self.naive.compacted, 1), self.naive.revision + 1)
        for request in (RangeRequest(b"\0", b"\0", revision=revision) for revision in readable):
            assert self.machine.state.range(request) == self.naive.range(request)
            one = RangeRequest(self.naive.some_key(), revision=request.revision)
            assert self.machine.state.range(one) == self.naive.range(one)

    @rule()
    def histories(self) -> None:
        """What a watch from each revision on would see, of all keys and of each."""
        first = max(self.naive.compacted, 2)
        space = self.machine.state.space
        for revision in range(first, self.naive.revision + 1):
            expected = self.naive.events[revision:]
            assert [list(changes) for changes in space.log.between(revision, self.naive.revision + 1)] == expected
            for key in KEYS:
                of_key = [kv for changes in expected for kv in changes if kv.key == key]
                changes, _ = space.changes_of(key, revision, self.naive.revision, 1000)
                assert [kv for entry in changes for kv in entry] == of_key

    @invariant()
    def leases_agree(self) -> None:
        if not hasattr(self, "naive"):
            return
        leases = self.machine.state.leases
        assert list(leases) == list(self.naive.leases.items())
        for lease in self.naive.leases:
            held = sorted(key for key, kv in self.naive.state.items() if kv.lease == lease)
            assert leases.keys(lease) == held

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.stop()


StoreAgainstNaive.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestStoreAgainstNaive = StoreAgainstNaive.TestCase
