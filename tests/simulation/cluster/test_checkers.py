"""The judges are judged: what is wrong is refused, what is right is not, and a brute search agrees."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations
from math import inf
from random import Random

import pytest

from balancer.coordination.key_space import KeySpace
from balancer.coordination.leases import Leases
from balancer.coordination.locks import Claim
from balancer.coordination.responses import KeyValue
from tests.simulation.cluster.clients import KEYS
from tests.simulation.cluster.history import Operation, Truth, check_replay
from tests.simulation.cluster.laws import BrokenLawError, Laws
from tests.simulation.cluster.linearizable import UndecidedError, check_key, linearizable, register_step
from tests.simulation.cluster.lock_laws import LockLaws, check_fencing, guarded_key
from tests.simulation.cluster.world import World, play

# ---- linearizability


def brute(operations: Sequence[Operation]) -> bool:
    """Tries every order of every choice of the operations whose outcome is not known."""
    certain = [each for each in operations if each.returned != inf]
    unknown = [each for each in operations if each.returned == inf]
    step = register_step(operations)
    for chosen in range(1 << len(unknown)):
        taken = certain + [each for at, each in enumerate(unknown) if chosen >> at & 1]
        for order in permutations(taken):
            if any(b.returned < a.called for at, a in enumerate(order) for b in order[at + 1 :]):
                continue
            state: bytes | None = None
            for each in order:
                fits, state = step(state, operations.index(each))
                if not fits:
                    break
            else:
                return True
    return False


def random_history(rng: Random) -> list[Operation]:
    operations = []
    for number in range(rng.randrange(1, 6)):
        kind = rng.choice(("put", "get", "get", "cas", "delete"))
        called = rng.random() * 5
        operation = Operation(number, kind, b"k", called, b"%d" % rng.randrange(3), rng.choice((None, b"0", b"1")))
        operation.returned = inf if rng.random() < 0.15 else called + rng.random() * 4
        operation.done = kind == "put" or (kind != "get" and rng.random() < 0.5)
        operation.found = None if operation.done else rng.choice((None, b"0", b"1", b"2"))
        operations.append(operation)
    return operations


def test_the_search_agrees_with_one_that_tries_everything() -> None:
    rng = Random(1)
    verdicts = {True: 0, False: 0}
    for _ in range(1_500):
        history = random_history(rng)
        verdict = check_key(history)
        assert verdict is brute([each for each in history if each.kind != "get" or each.returned != inf]), history
        verdicts[verdict] += 1
    assert min(verdicts.values()) > 300


def operation(kind: str, called: float, returned: float, **named: object) -> Operation:
    return replace(Operation(1, kind, b"k", called, returned=returned), **named)  # type: ignore[arg-type]


def test_a_read_of_what_was_replaced_before_is_refused() -> None:
    first = operation("put", 0, 1, value=b"1.1", done=True)
    second = operation("put", 2, 3, value=b"1.2", done=True)
    stale = operation("get", 4, 5, found=b"1.1")
    assert not check_key([first, second, stale])
    assert check_key([first, second, replace(stale, called=2.5)])


def test_two_swaps_of_the_same_value_are_refused() -> None:
    put = operation("put", 0, 1, value=b"a", done=True)
    swaps = [operation("cas", 2, 9, value=value, wanted=b"a", done=True) for value in (b"b", b"c")]
    assert check_key([put, swaps[0]])
    assert not check_key([put, *swaps])


def test_what_was_not_heard_of_may_have_been_done_or_not() -> None:
    lost = operation("put", 0, inf, value=b"a")
    assert check_key([lost, operation("get", 5, 6, found=None)])
    assert check_key([lost, operation("get", 5, 6, found=b"a")])
    assert not check_key([lost, operation("get", 5, 6, found=b"a"), operation("get", 7, 8, found=None)])


def test_a_search_that_takes_too_long_says_so() -> None:
    puts = [operation("put", 0, 10, value=b"%d" % at, done=True) for at in range(12)]
    with pytest.raises(UndecidedError):
        check_all = [*puts, operation("get", 11, 12, found=b"nothing")]
        linearizable([(each.called, each.returned) for each in check_all], None, register_step(check_all), 1_000)


# ---- replay by revisions


@cache
def honest() -> World:
    """A history in which every law held; not to be changed."""
    return play(11)


def check(change: Callable[[list[Operation], Truth], None]) -> None:
    """The same history, changed, is judged again."""
    truth = Truth(honest().laws.truth)
    operations = [replace(each) for each in honest().clients.operations]
    change(operations, truth)
    check_replay(operations, truth)


def test_a_history_that_is_right_is_accepted() -> None:
    check(lambda operations, truth: None)


def planted_stale_read(operations: list[Operation], truth: Truth) -> Operation:
    """A get is given what the key held before the last put that was finished when it was called."""
    for read in reversed(operations):
        if read.kind != "get" or read.found is None:
            continue
        for write in operations:
            replaced = truth.value(read.key, write.revision - 1)
            newest = write.key == read.key and write.done and write.value == read.found
            if newest and write.returned < read.called and replaced not in (None, read.found):
                read.found, read.revision = replaced, write.revision - 1
                return read
    raise AssertionError("this history has no such read")


def test_a_planted_stale_read_is_refused_by_its_revision() -> None:
    with pytest.raises(BrokenLawError, match="was answered before"):
        check(lambda operations, truth: [planted_stale_read(operations, truth)].clear())


def test_a_planted_stale_read_that_lies_about_its_revision_is_refused() -> None:
    def change(operations: list[Operation], truth: Truth) -> None:
        read = planted_stale_read(operations, truth)
        read.revision = max(each.revision for each in operations if each.returned < read.called)

    with pytest.raises(BrokenLawError, match="the key held"):
        check(change)


def test_a_planted_stale_read_is_refused_by_the_search_which_knows_no_revisions() -> None:
    truth = Truth(honest().laws.truth)
    operations = [replace(each) for each in honest().clients.operations]
    read = planted_stale_read(operations, truth)
    assert not check_key([each for each in operations if each.key == read.key and (each.revision or not each.value)])


def some(operations: list[Operation], kind: str) -> Operation:
    return next(each for each in operations if each.kind == kind and each.done and each.returned < inf)


def lost_write(operations: list[Operation], truth: Truth) -> None:
    some(operations, "put").value = b"0.0"


def early_write(operations: list[Operation], truth: Truth) -> None:
    put = some(operations, "put")
    put.called = truth.applied_at(put.revision) + 0.0001


def wrong_swap(operations: list[Operation], truth: Truth) -> None:
    some(operations, "cas").wanted = b"0.0"


def empty_delete(operations: list[Operation], truth: Truth) -> None:
    some(operations, "delete").revision -= 1


@pytest.mark.parametrize("change", [lost_write, early_write, wrong_swap, empty_delete])
def test_an_answer_that_is_wrong_is_refused(change: Callable[[list[Operation], Truth], None]) -> None:
    with pytest.raises(BrokenLawError):
        check(change)


def test_a_write_that_is_done_twice_is_refused() -> None:
    twice = [KeyValue(b"k", 2, 2, 1, b"1.1"), KeyValue(b"k", 2, 3, 2, b"1.1")]
    with pytest.raises(BrokenLawError, match="written twice"):
        Truth([((kv,), 0.0) for kv in twice])


def test_versions_that_do_not_follow_each_other_are_refused() -> None:
    with pytest.raises(BrokenLawError, match="revision 3 makes"):
        Truth([((KeyValue(b"k", 2, 2, 1, b"1.1"),), 0.0), ((KeyValue(b"k", 2, 3, 3, b"1.2"),), 0.0)])


# ---- locks


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.laws = Laws(lambda: self.now, honest().counts.__class__())
        self.locks = LockLaws(self.laws)


def test_a_planted_double_lock_is_refused() -> None:
    clock = Clock()
    for lease in (1, 2):
        clock.locks.renewed(lease, 5, 0.0)
    clock.locks.held(b"red", 1, 10)
    clock.now = 3.0
    with pytest.raises(BrokenLawError, match="is held with token 10 and 11"):
        clock.locks.held(b"red", 2, 11)


def test_a_planted_double_lock_is_refused_by_the_search() -> None:
    """A lock as an object of its own, whose state is its holder."""
    history = [("one", "take", 0.0, 1.0), ("two", "take", 0.5, 6.0), ("one", "let go", 4.0, 5.0)]

    def step(holder: str | None, at: int) -> tuple[bool, str | None]:
        who, what = history[at][:2]
        return (holder is None, who) if what == "take" else (holder == who, None)

    def check_lock() -> bool:
        return linearizable([(called, returned) for _, _, called, returned in history], None, step)

    assert check_lock()
    history[1] = ("two", "take", 2.0, 3.0)  # while the other holds it
    assert not check_lock()


def test_who_let_go_or_lost_his_lease_holds_nothing() -> None:
    clock = Clock()
    for lease in (1, 2, 3):
        clock.locks.renewed(lease, 5, 0.0)
    clock.locks.held(b"red", 1, 10)
    clock.locks.released(b"red", 1)
    clock.locks.held(b"red", 2, 11)
    clock.locks.renewed(3, 5, 5.0)
    clock.now = 5.5
    clock.locks.held(b"red", 3, 12)


def test_a_token_that_does_not_rise_is_refused() -> None:
    clock = Clock()
    for lease in (1, 2):
        clock.locks.renewed(lease, 5, 0.0)
    clock.locks.held(b"red", 1, 10)
    clock.locks.released(b"red", 1)
    with pytest.raises(BrokenLawError, match="token 10 after 10"):
        clock.locks.held(b"red", 2, 10)


def test_a_lock_for_who_is_not_the_first_is_refused() -> None:
    space = KeySpace(Leases())
    with pytest.raises(BrokenLawError, match="is given the lock, which is that of None"):
        Clock().locks.given(space, Claim(b"red/", b"red/1", 5))


def test_a_renewal_of_what_was_revoked_before_is_refused() -> None:
    clock = Clock()
    clock.laws.revoked[1] = 3.0
    clock.locks.renewed(1, 5, 2.9)
    with pytest.raises(BrokenLawError, match="lease 1 was gone"):
        clock.locks.renewed(1, 5, 3.1)


def test_a_write_under_an_old_token_is_refused() -> None:
    key = guarded_key(b"red")
    versions = [KeyValue(key, 2, 2, 1, b"10"), KeyValue(key, 2, 3, 2, b"12"), KeyValue(key, 2, 4, 3, b"10")]
    assert check_fencing(Truth([((kv,), 0.0) for kv in versions[:2]]), (b"red",)) == 2
    with pytest.raises(BrokenLawError, match="have the tokens"):
        check_fencing(Truth([((kv,), 0.0) for kv in versions]), (b"red",))


def test_every_key_of_the_honest_history_was_judged() -> None:
    assert honest().counts["keys found linearizable"] == len(KEYS)
