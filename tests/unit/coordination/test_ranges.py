"""Limit, filters, order and count of a range, as etcd's txn/range.go does them."""

import pytest

from balancer.coordination.errors import Code
from balancer.coordination.requests import RangeRequest, SortOrder, SortTarget
from tests.unit.coordination.machine import Machine, refusal


@pytest.fixture
def machine() -> Machine:
    """Keys a to d: created in the order d c b a, changed last in the order a c b d; b has the highest version."""
    machine = Machine()
    for key, value in ((b"d", b"1"), (b"c", b"2"), (b"b", b"3"), (b"a", b"4")):
        machine.put(key, value)  # 2 to 5
    machine.put(b"c", b"2")  # 6
    machine.put(b"b", b"3")  # 7
    machine.put(b"b", b"3")  # 8
    machine.put(b"d", b"1")  # 9
    return machine


def test_an_empty_key_is_refused() -> None:
    with refusal(Code.INVALID_ARGUMENT, "etcdserver: key is not provided"):
        Machine().state.range(RangeRequest())


@pytest.mark.parametrize(
    ("target", "ascending"),
    [
        (SortTarget.KEY, b"abcd"),
        (SortTarget.CREATE, b"dcba"),
        (SortTarget.MOD, b"acbd"),
        (SortTarget.VERSION, b"acdb"),  # c and d have version 2, a has 1, b has 3
        (SortTarget.VALUE, b"dcba"),
    ],
    ids=lambda value: value.name if isinstance(value, SortTarget) else "",
)
def test_each_order(machine: Machine, target: SortTarget, ascending: bytes) -> None:
    keys = b"".join(machine.keys(sort_order=SortOrder.ASCEND, sort_target=target))
    assert keys == ascending
    assert b"".join(machine.keys(sort_target=target)) == ascending, "without an order it is ASCEND"
    turned = b"".join(machine.keys(sort_order=SortOrder.DESCEND, sort_target=target))
    if target is SortTarget.VERSION:
        assert turned == b"bcda", "equal ones stay in the order of their keys"
    else:
        assert turned == ascending[::-1]


def test_a_limit_comes_after_a_sort_that_is_asked_for(machine: Machine) -> None:
    answer = machine.range(limit=2, sort_order=SortOrder.ASCEND, sort_target=SortTarget.CREATE)
    assert ([kv.key for kv in answer.kvs], answer.more, answer.count) == ([b"d", b"c"], True, 4)


def test_a_limit_comes_before_a_sort_without_an_order(machine: Machine) -> None:
    """etcd's oddity: the first three keys are taken (one more than asked for), sorted, and cut to two."""
    answer = machine.range(limit=2, sort_target=SortTarget.CREATE)
    assert ([kv.key for kv in answer.kvs], answer.more, answer.count) == ([b"c", b"b"], True, 4)


def test_a_limit_comes_after_the_filters(machine: Machine) -> None:
    answer = machine.range(limit=1, min_mod_revision=9)
    assert ([kv.key for kv in answer.kvs], answer.more, answer.count) == ([b"d"], False, 4)
    answer = machine.range(limit=1, min_mod_revision=8)
    assert ([kv.key for kv in answer.kvs], answer.more, answer.count) == ([b"b"], True, 4)


def test_each_filter_and_0_is_none(machine: Machine) -> None:
    assert machine.keys(min_mod_revision=8) == [b"b", b"d"]
    assert machine.keys(max_mod_revision=6) == [b"a", b"c"]
    assert machine.keys(min_create_revision=4) == [b"a", b"b"]
    assert machine.keys(max_create_revision=2) == [b"d"]
    assert machine.keys(min_mod_revision=0, max_create_revision=0) == [b"a", b"b", b"c", b"d"]


def test_more_says_that_the_limit_cut_something(machine: Machine) -> None:
    assert not machine.range(limit=4).more
    assert machine.range(limit=3).more
    assert not machine.range(limit=0).more


def test_count_is_of_the_whole_range(machine: Machine) -> None:
    assert machine.range(limit=1, max_create_revision=2).count == 4
    answer = machine.range(count_only=True, limit=1)
    assert (answer.kvs, answer.more, answer.count) == ((), False, 4)
    assert machine.range(b"a", b"", count_only=True).count == 1
    assert machine.range(b"x", b"", count_only=True).count == 0
    assert machine.range(revision=3, count_only=True).count == 2


def test_keys_only_drops_the_values_after_the_sort(machine: Machine) -> None:
    answer = machine.range(keys_only=True, sort_order=SortOrder.ASCEND, sort_target=SortTarget.VALUE)
    assert [kv.key for kv in answer.kvs] == [b"d", b"c", b"b", b"a"]
    assert {kv.value for kv in answer.kvs} == {b""}
    assert all(kv.version and kv.mod_revision and kv.create_revision for kv in answer.kvs)


def test_a_negative_revision_or_limit_is_none(machine: Machine) -> None:
    assert len(machine.keys(revision=-5)) == 4
    assert len(machine.keys(limit=-1)) == 4
