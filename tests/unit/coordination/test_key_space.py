"""etcd's data model: revisions, versions, deletions, compaction."""

import pytest

from balancer.coordination import state_machine
from balancer.coordination.errors import Code
from balancer.coordination.key_space import KeySpace, cost
from tests.unit.coordination.machine import Machine, op_delete, op_put, op_txn, refusal


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def _one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compaction frees one revision with each further entry."""
    monkeypatch.setattr(state_machine, "SWEEP_AT_COMPACTION", 0)
    monkeypatch.setattr(state_machine, "SWEEP_PER_ENTRY", 1)


def recounted(space: KeySpace) -> int:
    """The size, by what is there."""
    logged = space.log.between(space.log.first, space.log.last + 1)
    return sum(cost(kv) for changes in logged for kv in changes) + sum(map(cost, space.versions_before_log()))


def test_an_empty_store_is_at_revision_1(machine: Machine) -> None:
    assert machine.range().header.revision == 1


def test_each_change_adds_one_revision_and_its_answer_has_it(machine: Machine) -> None:
    assert machine.put(b"a").header.revision == 2
    assert machine.put(b"b").header.revision == 3
    assert machine.delete(b"a").header.revision == 4


def test_a_transaction_of_many_changes_adds_one_revision(machine: Machine) -> None:
    machine.txn(op_put(b"a"), op_put(b"b"), op_put(b"c"))
    assert {kv.mod_revision for kv in machine.range().kvs} == {2}
    assert machine.state.revision == 2


def test_deleting_nothing_adds_no_revision(machine: Machine) -> None:
    answer = machine.delete(b"a", b"z")
    assert (answer.deleted, answer.header.revision) == (0, 1)
    machine.put(b"a")
    assert machine.txn(op_delete(b"x"), op_delete(b"y")).header.revision == 2


def test_create_revision_and_version_begin_anew_after_a_deletion(machine: Machine) -> None:
    machine.put(b"a", b"1")
    machine.put(b"a", b"2")
    kv = machine.get(b"a")
    assert (kv.create_revision, kv.mod_revision, kv.version) == (2, 3, 2)
    machine.delete(b"a")
    assert machine.get(b"a") is None
    machine.put(b"a", b"3")
    kv = machine.get(b"a")
    assert (kv.create_revision, kv.mod_revision, kv.version) == (5, 5, 1)


def test_a_put_with_prev_kv_answers_what_was_there(machine: Machine) -> None:
    assert machine.put(b"a", b"1", prev_kv=True).prev_kv is None
    assert machine.put(b"a", b"2", prev_kv=True).prev_kv.value == b"1"
    assert machine.put(b"a", b"3").prev_kv is None


def test_a_deletion_answers_how_many_and_with_prev_kv_which(machine: Machine) -> None:
    for key in (b"a", b"b", b"c"):
        machine.put(key, key)
    assert machine.delete(b"a").deleted == 1
    answer = machine.delete(b"b", b"d", prev_kv=True)
    assert (answer.deleted, [kv.key for kv in answer.prev_kvs]) == (2, [b"b", b"c"])


def test_range_ends(machine: Machine) -> None:
    for key in (b"a", b"a/1", b"a/2", b"a0", b"\xff"):
        machine.put(key)
    assert machine.keys(key=b"a", range_end=b"") == [b"a"]
    assert machine.keys(key=b"a/", range_end=b"a0") == [b"a/1", b"a/2"], "a prefix"
    assert machine.keys(key=b"a/2", range_end=b"\0") == [b"a/2", b"a0", b"\xff"], "from a key on"
    assert machine.keys(key=b"\0", range_end=b"\0") == [b"a", b"a/1", b"a/2", b"a0", b"\xff"], "everything"
    assert machine.keys(key=b"b", range_end=b"a") == [], "the wrong way round"
    assert machine.keys(key=b"a", range_end=b"a") == []


def test_the_past_is_read_as_it_was_and_the_header_says_now(machine: Machine) -> None:
    machine.put(b"a", b"1")
    machine.delete(b"a")
    machine.put(b"a", b"2")
    answer = machine.range(revision=2)
    assert ([kv.value for kv in answer.kvs], answer.header.revision) == ([b"1"], 4)
    assert machine.keys(revision=3) == []
    assert machine.keys(revision=1) == []


def test_a_revision_to_come_is_refused(machine: Machine) -> None:
    machine.put(b"a")
    with refusal(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"):
        machine.range(revision=3)


def test_below_the_compacted_revision_is_refused_and_the_revision_itself_is_readable(machine: Machine) -> None:
    for value in (b"1", b"2", b"3"):
        machine.put(b"a", value)
    machine.compact(3)
    with refusal(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"):
        machine.range(revision=2)
    assert [kv.value for kv in machine.range(revision=3).kvs] == [b"2"]


def test_compacting_again_or_into_the_future_is_refused(machine: Machine) -> None:
    machine.put(b"a")
    machine.compact(2)
    for revision in (2, 1, 0, -1):
        with refusal(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"):
            machine.compact(revision)
    with refusal(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision"):
        machine.compact(3)


def test_revision_0_can_be_compacted_once(machine: Machine) -> None:
    machine.compact(0)
    with refusal(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"):
        machine.compact(0)


def test_a_compaction_adds_no_revision(machine: Machine) -> None:
    machine.put(b"a")
    assert machine.compact(2).header.revision == 2


def test_a_deletion_at_the_compacted_revision_is_still_in_the_history(machine: Machine) -> None:
    machine.put(b"a")
    machine.delete(b"a")
    machine.compact(3)
    assert [kv.mod_revision for kv in machine.state.space.log.at(3)] == [3]
    assert [kv.version for changes in machine.state.space.changes_of(b"a", 3, 3, 9)[0] for kv in changes] == [0]


def test_a_compaction_frees_what_was_overwritten_and_deleted(machine: Machine) -> None:
    for value in (b"1", b"2", b"3"):
        machine.put(b"a", value)
    machine.put(b"gone")
    machine.delete(b"gone")
    machine.put(b"b")
    before = machine.state.space.size
    machine.compact(machine.state.revision)
    assert machine.state.space.size == recounted(machine.state.space) < before
    assert machine.keys() == [b"a", b"b"]
    assert len(machine.state.space.versions_before_log()) == 1  # b is at the compacted revision itself


@pytest.mark.usefixtures("_one_by_one")
def test_a_compaction_that_is_not_swept_yet_hides_the_past_all_the_same(machine: Machine) -> None:
    for value in (b"1", b"2", b"3"):
        machine.put(b"a", value)
    machine.put(b"b")
    machine.put(b"a", b"4")
    machine.compact(5)
    assert not machine.state.space.swept
    while not machine.state.space.swept:
        with refusal(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"):
            machine.range(revision=4)
        assert [kv.value for kv in machine.range(b"a", b"", revision=5).kvs] == [b"3"]
        machine.enter(b"")
        assert machine.state.space.size == recounted(machine.state.space)


@pytest.mark.usefixtures("_one_by_one")
def test_a_key_that_was_deleted_and_comes_again_is_not_there_in_between(machine: Machine) -> None:
    machine.put(b"a")  # 2
    machine.delete(b"a")  # 3
    for number in range(4):
        machine.put(b"b", b"%d" % number)  # 4 to 7
    machine.compact(5)
    while not machine.state.space.swept:
        machine.enter(b"")
    machine.put(b"a")
    assert machine.range(b"a", b"", revision=5).kvs == ()
    assert machine.keys(revision=6) == [b"b"]


def test_a_key_deleted_and_put_in_one_transaction_is_a_new_key(machine: Machine) -> None:
    machine.put(b"b", b"old")
    machine.txn(op_delete(b"a", b"\0"), op_put(b"b", b"new"))  # etcd does not see this overlap
    kv = machine.get(b"b")
    assert (kv.create_revision, kv.version, kv.value) == (3, 1, b"new")
    assert [kv.version for kv in machine.state.space.log.at(3)] == [0, 1]
    assert machine.range(b"b", b"", revision=2).kvs[0].value == b"old"


def test_a_key_put_and_deleted_in_one_transaction_is_not_there(machine: Machine) -> None:
    machine.txn(op_txn(op_put(b"a")), op_txn(op_delete(b"a")))
    assert machine.get(b"a") is None
    assert machine.state.revision == 2
    machine.put(b"b")
    assert machine.keys(revision=2) == []
