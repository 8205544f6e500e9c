"""Applying: in order, deterministic, within a bound, whatever the log holds."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from balancer.coordination.command import Command, RegisterSession, encode
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.key_space import VERSION_COST
from balancer.coordination.requests import PutRequest
from balancer.coordination.state_machine import OutOfOrderError, StateMachine
from tests.unit.coordination.machine import Machine, op_delete, op_put, op_txn, refusal

NO_SPACE = (Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")


def test_an_entry_out_of_order_is_refused_and_does_nothing() -> None:
    state = StateMachine()
    state.apply(1, 1, b"")
    before = state.hash()
    for index in (1, 3, 0):
        with pytest.raises(OutOfOrderError):
            state.apply(index, 1, encode(Command(0, 0, 0, PutRequest(b"a"))))
    assert state.hash() == before
    assert state.applied_index == 1


def test_an_entry_without_a_command_is_counted() -> None:
    machine = Machine()
    applied = machine.enter(b"")
    assert (applied.result, applied.revision, applied.changes, applied.done) == (None, 1, (), False)
    assert machine.state.applied_index == 1


def test_a_command_that_cannot_be_read_is_counted_and_refused() -> None:
    machine = Machine()
    result = machine.enter(b"\xc1nonsense").result
    assert isinstance(result, CoordinationError)
    assert (machine.state.applied_index, machine.state.revision) == (1, 1)


def test_it_says_what_the_entry_held_and_whether_that_was_done_now() -> None:
    machine = Machine()
    session = machine.do(RegisterSession()).session
    request = PutRequest(b"a")
    told = [machine.apply(request, session=session, seq=1) for _ in range(2)]
    told.append(machine.apply(PutRequest(b"a", lease=9)))
    assert [applied.done for applied in told] == [True, False, False]
    assert [applied.command.request for applied in told if applied.command] == [
        request,
        request,
        PutRequest(b"a", lease=9),
    ]


def test_the_changes_are_told_in_their_order() -> None:
    machine = Machine()
    machine.put(b"z")
    applied = machine.apply(PutRequest(b"a", b"1"))
    assert [(kv.key, kv.mod_revision) for kv in applied.changes] == [(b"a", 3)]
    assert applied.revision == 3


# ---- the bound on the size


def test_puts_and_grants_are_refused_when_there_is_no_room_and_deletions_and_revocations_are_not() -> None:
    machine = Machine(quota=4 * VERSION_COST + 20)
    machine.grant(1)
    machine.put(b"a", b"0123456789")
    machine.put(b"b", lease=1)
    with refusal(*NO_SPACE):
        machine.put(b"c", b"x" * VERSION_COST)
    machine.put(b"c")
    for ask in (lambda: machine.put(b"d"), lambda: machine.txn(op_txn(op_put(b"d"))), lambda: machine.grant(2)):
        before = machine.state.size, machine.range()
        with refusal(*NO_SPACE):
            ask()
        assert (machine.state.size, machine.range()) == before
    machine.delete(b"a")
    machine.txn(op_delete(b"c"))
    machine.revoke(1)
    assert machine.keys() == []


def test_a_compaction_makes_room() -> None:
    machine = Machine(quota=10 * VERSION_COST)
    for _ in range(9):
        machine.put(b"a", b"1")
    with refusal(*NO_SPACE):
        machine.put(b"a", b"1")
    machine.compact(machine.state.revision)
    for _ in range(7):
        machine.put(b"a", b"1")


def test_the_branch_that_is_not_taken_needs_no_room() -> None:
    machine = Machine(quota=2 * VERSION_COST)
    machine.txn(op_put(b"a"), failure=(op_put(b"b", b"x" * 1000),))


def test_a_kept_value_needs_room_as_well() -> None:
    machine = Machine(quota=4 * VERSION_COST)
    machine.put(b"a", b"x" * VERSION_COST)
    with refusal(*NO_SPACE):
        machine.put(b"a", ignore_value=True)


# ---- determinism

PROGRAM = """
from tests.unit.coordination.machine import *
from balancer.coordination.command import RegisterSession
machine = Machine()
machine.grant(5)
session = machine.do(RegisterSession()).session
for number in range(300):
    machine.do(PutRequest(b"%d" % (number * 7 % 90), b"v", 5 * (number % 2)), session=session, seq=number)
machine.delete(b"1", b"3")
machine.txn(op_put(b"x"), op_delete(b"4", b"5"), op_put(b"y", lease=5))
machine.revoke(5)
machine.compact(200)
print(machine.state.hash().hex(), [kv.key for kv in machine.state.space.log.at(machine.state.revision)])
"""


def test_the_hash_does_not_depend_on_the_order_in_which_python_hashes() -> None:
    answers = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(answers) == 1


def test_every_part_of_the_state_is_in_the_hash() -> None:
    def after(*steps: Callable[[Machine], object]) -> bytes:
        machine = Machine()
        machine.do(RegisterSession())
        for step in steps:
            step(machine)
        return machine.state.hash()

    def in_session(seq: int, answered_below: int) -> Callable[[Machine], object]:
        return lambda machine: machine.do(PutRequest(b"a", b"1"), session=1, seq=seq, answered_below=answered_below)

    hashes = [
        after(),
        after(lambda machine: machine.put(b"a", b"1")),
        after(lambda machine: machine.put(b"b", b"1")),
        after(lambda machine: machine.put(b"a", b"2")),
        after(lambda machine: machine.grant(1, 60)),
        after(lambda machine: machine.grant(1, 61)),
        after(lambda machine: machine.grant(2, 60)),
        after(lambda machine: machine.compact(1)),
        after(lambda machine: machine.delete(b"a")),
        after(lambda machine: machine.do(RegisterSession())),
        after(in_session(1, 0)),
        after(in_session(2, 0)),
        after(in_session(2, 1)),
    ]
    assert len(set(hashes)) == len(hashes)
    term, quota = Machine(), Machine(quota=5)
    term.term = 2
    for machine in (term, quota):
        machine.do(RegisterSession())
    assert len({*hashes, term.state.hash(), quota.state.hash()}) == len(hashes) + 2


def test_the_order_of_changes_in_a_revision_is_in_the_hash() -> None:
    one, other = Machine(), Machine()
    one.txn(op_put(b"a"), op_put(b"b"))
    other.txn(op_put(b"b"), op_put(b"a"))
    assert one.range() == other.range()
    assert one.state.hash() != other.state.hash()
