"""An acknowledgement of the disk counts for what was in that write, and is in the log still."""

from balancer.raft.durable import Durable
from balancer.raft.log_entry import HardState


def test_writes_count_when_they_are_acknowledged_in_their_order() -> None:
    durable = Durable(3, HardState(1, 2))
    durable.writing(1, 5, 1, 2)
    durable.writing(2, 7, 2, 3)
    assert (durable.index, durable.term, durable.vote) == (3, 1, 2)
    assert durable.persisted(1)
    assert (durable.index, durable.term, durable.vote) == (5, 1, 2)
    assert durable.persisted(2)
    assert (durable.index, durable.term, durable.vote) == (7, 2, 3)


def test_one_acknowledgement_stands_for_all_before_it_and_a_second_says_nothing_new() -> None:
    durable = Durable(0, HardState())
    durable.writing(1, 5, 1, 0)
    durable.writing(3, 6, 1, 0)
    assert durable.persisted(4)
    assert durable.index == 6
    assert not durable.persisted(4)


def test_the_aba_of_a_slow_disk_entries_that_were_replaced_do_not_count_for_their_successors() -> None:
    durable = Durable(1, HardState(1))
    durable.writing(1, 4, 1, 0)  # entries 2 to 4
    durable.forget_from(3)  # a leader of term 2 replaces 3 and 4
    durable.writing(2, 5, 2, 0)
    durable.forget_from(3)  # and one of term 3, as many
    durable.writing(3, 5, 3, 0)
    durable.persisted(1)
    assert durable.index == 2
    durable.persisted(2)
    assert durable.index == 2
    durable.persisted(3)
    assert durable.index == 5


def test_what_was_on_the_disk_and_left_the_log_does_not_count() -> None:
    durable = Durable(9, HardState(1))
    durable.forget_from(4)
    assert durable.index == 3
