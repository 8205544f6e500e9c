"""Transactions: compares, branches, nesting, and that a refused one leaves nothing behind."""

import pytest

from balancer.coordination.checks import check_txn
from balancer.coordination.errors import Code
from balancer.coordination.requests import (
    Compare,
    CompareResult,
    CompareTarget,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)
from balancer.coordination.transactions import is_read_only, is_serializable
from tests.unit.coordination.machine import Machine, op_delete, op_put, op_range, op_txn, refusal

DUPLICATE = (Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")
NOT_FOUND = (Code.INVALID_ARGUMENT, "etcdserver: key not found")
NO_LEASE = (Code.NOT_FOUND, "etcdserver: requested lease not found")
TOO_MANY = (Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request")
EMPTY_KEY = (Code.INVALID_ARGUMENT, "etcdserver: key is not provided")

EQUAL, GREATER, LESS, NOT_EQUAL = (
    CompareResult.EQUAL,
    CompareResult.GREATER,
    CompareResult.LESS,
    CompareResult.NOT_EQUAL,
)


@pytest.fixture
def machine() -> Machine:
    """Keys a (version 2, created at 3, changed at 4, value "m", lease 7) and b (created at 5, value "n")."""
    machine = Machine()
    machine.grant(7)
    machine.put(b"x")  # 2
    machine.put(b"a", b"l", 7)  # 3
    machine.put(b"a", b"m", 7)  # 4
    machine.put(b"b", b"n")  # 5
    return machine


def holds(machine: Machine, **compare: object) -> bool:
    return machine.txn(compare=(Compare(**compare),)).succeeded  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "field", "below", "same", "above"),
    [
        (CompareTarget.VERSION, "version", 1, 2, 3),
        (CompareTarget.CREATE, "create_revision", 2, 3, 4),
        (CompareTarget.MOD, "mod_revision", 3, 4, 5),
        (CompareTarget.VALUE, "value", b"l", b"m", b"ma"),
        (CompareTarget.LEASE, "lease", 6, 7, 8),
    ],
)
def test_each_target_with_each_result(
    machine: Machine, target: CompareTarget, field: str, below: object, same: object, above: object
) -> None:
    held = {
        (result, name)
        for result in CompareResult
        for name, value in (("below", below), ("same", same), ("above", above))
        if holds(machine, key=b"a", target=target, result=result, **{field: value})
    }
    assert held == {
        (EQUAL, "same"),
        (GREATER, "below"),  # the key's is greater than what is given
        (LESS, "above"),
        (NOT_EQUAL, "below"),
        (NOT_EQUAL, "above"),
    }


def test_a_missing_key_compares_as_zeros(machine: Machine) -> None:
    for target in (CompareTarget.VERSION, CompareTarget.CREATE, CompareTarget.MOD, CompareTarget.LEASE):
        assert holds(machine, key=b"none", target=target)
        assert not holds(machine, key=b"none", target=target, result=GREATER)


@pytest.mark.parametrize("result", CompareResult)
def test_a_missing_key_s_value_compares_to_nothing(machine: Machine, result: CompareResult) -> None:
    assert not holds(machine, key=b"none", target=CompareTarget.VALUE, result=result, value=b"x")
    assert not holds(machine, key=b"none", target=CompareTarget.VALUE, result=result)
    assert not holds(machine, key=b"n", range_end=b"o", target=CompareTarget.VALUE, result=result)


def test_a_compare_of_a_range_must_hold_for_each_key(machine: Machine) -> None:
    assert holds(machine, key=b"a", range_end=b"c", target=CompareTarget.CREATE, result=GREATER, create_revision=2)
    assert not holds(machine, key=b"a", range_end=b"c", target=CompareTarget.CREATE, result=GREATER, create_revision=3)
    assert holds(machine, key=b"a", range_end=b"\0", target=CompareTarget.CREATE, result=GREATER, create_revision=1)


def test_a_field_that_is_not_given_is_0_or_empty(machine: Machine) -> None:
    assert not holds(machine, key=b"a", target=CompareTarget.MOD)
    machine.put(b"e", b"")
    assert holds(machine, key=b"e", target=CompareTarget.VALUE)


def test_every_compare_must_hold_or_the_other_branch_is_done(machine: Machine) -> None:
    there = Compare(key=b"a", target=CompareTarget.VERSION, result=GREATER)
    gone = Compare(key=b"none", target=CompareTarget.VERSION, result=GREATER)
    for compare, expected in (((), True), ((there,), True), ((there, gone), False)):
        answer = machine.txn(op_put(b"t", b"then"), compare=compare, failure=(op_put(b"t", b"else"),))
        assert answer.succeeded == expected
        assert machine.get(b"t").value == (b"then" if expected else b"else")


def test_operations_see_what_those_before_them_did(machine: Machine) -> None:
    answer = machine.txn(
        op_range(b"c"), op_put(b"c", b"1"), op_range(b"c"), op_delete(b"a", b"b\0", prev_kv=True), op_range(b"a", b"d")
    )
    first, _, second, deleted, last = answer.responses
    assert first.response_range.kvs == ()
    assert [kv.value for kv in second.response_range.kvs] == [b"1"]
    assert [kv.key for kv in deleted.response_delete_range.prev_kvs] == [b"a", b"b"]
    assert [kv.key for kv in last.response_range.kvs] == [b"c"]


def test_inner_headers_say_the_revision_as_far_as_the_transaction_was(machine: Machine) -> None:
    answer = machine.txn(op_range(b"a"), op_delete(b"none"), op_put(b"c"), op_range(b"a"), op_delete(b"none"), op_txn())
    revisions = [
        (part.response_range or part.response_delete_range or part.response_put or part.response_txn).header.revision
        for part in answer.responses
    ]
    assert revisions == [5, 5, 6, 6, 6, 0], "a nested transaction's header is empty, as in etcd"
    assert answer.header.revision == 6


def test_a_read_of_the_past_inside_a_transaction_does_not_see_its_changes(machine: Machine) -> None:
    answer = machine.txn(op_put(b"a", b"new"), op_range(b"a", revision=5))
    assert answer.responses[1].response_range.kvs[0].value == b"m"


def test_nested_compares_see_the_state_before_the_whole(machine: Machine) -> None:
    missing = Compare(key=b"new", target=CompareTarget.VERSION)
    answer = machine.txn(
        op_put(b"new"), op_txn(op_put(b"y", b"then"), compare=(missing,), failure=(op_put(b"y", b"else"),))
    )
    assert answer.responses[1].response_txn.succeeded
    assert machine.get(b"y").value == b"then"


def test_nested_transactions_follow_their_branch_only(machine: Machine) -> None:
    never = Compare(key=b"a", target=CompareTarget.VERSION, version=99)
    answer = machine.txn(
        failure=(op_txn(op_put(b"p")), op_txn(op_put(b"q"), compare=(never,), failure=(op_txn(op_put(b"r")),))),
        compare=(never,),
    )
    assert [part.response_txn.succeeded for part in answer.responses] == [True, False]
    assert machine.get(b"p") is not None
    assert machine.get(b"q") is None
    assert machine.get(b"r") is not None


def unchanged(machine: Machine) -> tuple[object, ...]:
    return machine.range(), machine.state.size, machine.state.leases.keys(7)


@pytest.mark.parametrize(
    ("ops", "refused"),
    [
        ((op_put(b"c", lease=8),), NO_LEASE),
        ((op_put(b"c", ignore_value=True),), NOT_FOUND),
        ((op_put(b"c", ignore_lease=True),), NOT_FOUND),
        ((op_put(b"c", lease=8, ignore_value=True),), NOT_FOUND),
        (
            (op_range(b"a", revision=99),),
            (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"),
        ),
        ((op_range(b"a", revision=2),), (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")),
        ((op_range(b"a", revision=-1),), (Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")),
        ((op_txn(op_put(b"c", lease=8)),), NO_LEASE),
        ((op_delete(b"a", b"\0"), op_put(b"b", b"", ignore_lease=True)), NOT_FOUND),
    ],
    ids=str,
)
def test_what_would_fail_half_way_fails_before_anything_is_done(
    machine: Machine, ops: tuple[RequestOp, ...], refused: tuple[Code, str]
) -> None:
    machine.compact(3)
    before = unchanged(machine)
    with refusal(*refused):
        machine.txn(op_put(b"first"), *ops)
    assert unchanged(machine) == before


def test_the_revision_that_the_transaction_makes_cannot_be_asked_for(machine: Machine) -> None:
    with refusal(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"):
        machine.txn(op_put(b"a"), op_range(b"a", revision=6))


def test_a_bad_operation_of_the_other_branch_does_no_harm(machine: Machine) -> None:
    assert machine.txn(op_put(b"c"), failure=(op_put(b"d", lease=8),)).succeeded


# ---- puts


def test_ignore_value_and_ignore_lease_keep_what_is_there(machine: Machine) -> None:
    machine.grant(9)
    machine.put(b"a", lease=9, ignore_value=True)
    assert (machine.get(b"a").value, machine.get(b"a").lease) == (b"m", 9)
    machine.put(b"a", b"new", ignore_lease=True)
    assert (machine.get(b"a").value, machine.get(b"a").lease) == (b"new", 9)


@pytest.mark.parametrize(
    ("request_", "refused"),
    [
        (PutRequest(), EMPTY_KEY),
        (PutRequest(b"none", ignore_value=True), NOT_FOUND),
        (PutRequest(b"none", ignore_lease=True), NOT_FOUND),
        (PutRequest(b"none", lease=8, ignore_value=True), NO_LEASE),
        (PutRequest(b"a", b"v", ignore_value=True), (Code.INVALID_ARGUMENT, "etcdserver: value is provided")),
        (PutRequest(b"a", lease=7, ignore_lease=True), (Code.INVALID_ARGUMENT, "etcdserver: lease is provided")),
        (PutRequest(b"a", lease=8), NO_LEASE),
    ],
)
def test_puts_that_are_refused(machine: Machine, request_: PutRequest, refused: tuple[Code, str]) -> None:
    before = unchanged(machine)
    with refusal(*refused):
        machine.do(request_)
    assert unchanged(machine) == before


# ---- what is refused without a look at the state


@pytest.mark.parametrize(
    "ops",
    [
        (op_put(b"a"), op_put(b"a")),
        (op_put(b"a"), op_delete(b"a")),
        (op_delete(b"a", b"c"), op_put(b"b")),
        (op_put(b"a"), op_txn(op_put(b"a"))),
        (op_txn(op_put(b"a")), op_txn(failure=(op_put(b"a"),))),
        (op_txn(op_put(b"a")), op_delete(b"a")),
        (op_txn(op_delete(b"a")), op_put(b"a")),
        (op_txn(op_delete(b"a")), op_txn(op_put(b"a"))),
        (op_txn(failure=(op_delete(b"a", b"b"),)), op_put(b"a")),
        (op_txn(op_txn(op_put(b"a"), op_put(b"a"))),),
    ],
    ids=str,
)
def test_a_key_put_twice_or_put_and_deleted_is_refused(machine: Machine, ops: tuple[RequestOp, ...]) -> None:
    with refusal(*DUPLICATE):
        machine.txn(*ops)
    with refusal(*DUPLICATE):
        machine.txn(failure=ops)


@pytest.mark.parametrize(
    "ops",
    [
        (op_txn(op_put(b"a"), failure=(op_put(b"a"),)),),
        (op_delete(b"a"), op_delete(b"a", b"c")),
        (op_delete(b"a", b"b"), op_put(b"b")),
        (op_txn(op_put(b"a")), op_txn(op_delete(b"a"))),
        (op_delete(b"a", b"\0"), op_put(b"b")),
        (op_range(b"a"), op_put(b"a"), op_range(b"a")),
    ],
    ids=str,
)
def test_overlaps_that_etcd_lets_pass(machine: Machine, ops: tuple[RequestOp, ...]) -> None:
    machine.txn(*ops)


@pytest.mark.parametrize(
    ("request_", "refused"),
    [
        (TxnRequest(success=(RequestOp(),)), NOT_FOUND),
        (TxnRequest(compare=(Compare(),)), EMPTY_KEY),
        (TxnRequest(success=(op_put(b""),)), EMPTY_KEY),
        (TxnRequest(failure=(op_delete(b""),)), EMPTY_KEY),
        (TxnRequest(failure=(op_range(b""),)), EMPTY_KEY),
        (TxnRequest(success=(op_txn(op_put(b"")),)), EMPTY_KEY),
    ],
)
def test_operations_that_are_refused(machine: Machine, request_: TxnRequest, refused: tuple[Code, str]) -> None:
    with refusal(*refused):
        machine.do(request_)


def puts(count: int) -> tuple[RequestOp, ...]:
    return tuple(op_put(b"%d" % number) for number in range(count))


def test_128_operations_are_the_most_in_any_list(machine: Machine) -> None:
    machine.txn(*puts(128), failure=puts(128))
    for request in (
        TxnRequest(success=puts(129)),
        TxnRequest(failure=puts(129)),
        TxnRequest(compare=(Compare(key=b"a"),) * 129),
    ):
        with refusal(*TOO_MANY):
            machine.do(request)


def test_nested_operations_have_what_the_longest_list_around_them_leaves() -> None:
    check_txn(TxnRequest(success=(op_txn(*puts(127)),)))
    with refusal(*TOO_MANY):
        check_txn(TxnRequest(success=(op_txn(*puts(128)),)))
    with refusal(*TOO_MANY):
        check_txn(TxnRequest(success=(op_txn(*puts(118)),), failure=puts(11)))


def nested(depth: int) -> TxnRequest:
    request = TxnRequest()
    for _ in range(depth):
        request = TxnRequest(success=(RequestOp(request_txn=request),))
    return request


def test_nesting_is_bounded_by_the_same_number(machine: Machine) -> None:
    assert machine.do(nested(128)).succeeded
    with refusal(*TOO_MANY):
        machine.do(nested(129))


def test_many_overlapping_deletions_are_checked_in_little_time() -> None:
    """Nested lists have room for many operations; comparing each put with each deletion would take minutes."""
    deletions = [op_delete(b"%06d" % (2 * number), b"%06d" % (2 * number + 1)) for number in range(60 * 60)]
    lists = [op_txn(*deletions[at : at + 60]) for at in range(0, len(deletions), 60)]
    check_txn(TxnRequest(success=(*lists, op_txn(*(op_put(b"%06d" % (2 * n + 1)) for n in range(60))))))


# ---- reading


def test_what_counts_as_reading_only() -> None:
    assert is_read_only(TxnRequest(success=(op_range(b"a"),)))
    assert is_read_only(TxnRequest())
    assert not is_read_only(TxnRequest(failure=(op_put(b"a"),)))
    assert not is_read_only(TxnRequest(success=(op_txn(op_range(b"a")),)))
    assert is_serializable(TxnRequest(success=(op_range(b"a", serializable=True),)))
    assert not is_serializable(TxnRequest(success=(op_range(b"a", serializable=True), op_range(b"b"))))


def test_a_read_only_transaction_needs_no_entry(machine: Machine) -> None:
    request = TxnRequest((Compare(key=b"a", target=CompareTarget.VERSION, version=2),), (op_range(b"a"),))
    before = machine.state.hash()
    answer = machine.state.read_txn(request)
    assert (answer.succeeded, answer.header.revision) == (True, 5)
    assert answer.responses[0].response_range == machine.state.range(RangeRequest(b"a"))
    assert machine.state.hash() == before
