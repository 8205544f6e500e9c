"""Bugs that etcd had in its store, where no other test says the law alone; the numbers are those of tests/mutation."""

import pytest

from balancer.coordination.snapshot import Reader, View
from tests.unit.coordination.machine import Machine
from tests.unit.coordination.watching import Watched, told


def restarted(machine: Machine) -> Machine:
    """Another process, with the snapshot that this one wrote."""
    reader = Reader()
    for piece in View(machine.state).slices():
        reader.feed(piece)
    after = Machine()
    after.state = reader.finish()
    return after


# 15: compaction and a restart make the revision go back, or deletions unheard of (etcd 14685, 17780, 18089, 19179).


@pytest.mark.parametrize("compacted", [0, 2, 3, 4])
def test_bug_15_a_restart_keeps_the_revision_though_the_last_change_was_a_deletion(compacted: int) -> None:
    machine = Machine()
    machine.put(b"a")
    machine.put(b"b")
    machine.delete(b"b")
    machine.compact(compacted)
    machine = restarted(machine)
    assert machine.state.revision == machine.range().header.revision == 4
    assert machine.put(b"c").header.revision == 5


def test_bug_15_a_deletion_at_the_compacted_revision_is_told_to_who_starts_there() -> None:
    watched = Watched()
    watched.put(b"a")
    watched.delete(b"a")
    watched.compact(3)
    watch = watched.watch(start=3)
    assert told(watched.events(watch)) == [("delete", b"a", 3)]
