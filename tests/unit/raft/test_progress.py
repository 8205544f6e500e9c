"""What a leader knows of a peer only grows, and late answers change nothing."""

from balancer.raft.log_entry import SnapshotMark
from balancer.raft.progress import InFlight, Pace, Progress, Sending


def test_match_never_goes_back() -> None:
    progress = Progress(2, 10)
    assert progress.matched(5)
    assert not progress.matched(3)
    assert not progress.matched(5)
    assert (progress.match, progress.next) == (5, 10)
    assert progress.matched(12)
    assert (progress.match, progress.next) == (12, 13)


def test_a_refused_probe_goes_where_the_logs_may_agree_but_never_below_the_match() -> None:
    progress = Progress(2, 10)
    assert progress.rejected(9, 6)
    assert progress.next == 7
    progress.match = 4
    assert progress.rejected(6, 1)
    assert progress.next == 5


def test_a_refusal_of_an_earlier_probe_changes_nothing() -> None:
    progress = Progress(2, 10)
    progress.probe_sent = True
    assert not progress.rejected(7, 3)
    assert (progress.next, progress.probe_sent) == (10, True)


def test_a_refusal_of_what_is_known_to_match_is_late() -> None:
    progress = Progress(2, 10)
    progress.matched(9)
    progress.replicate()
    assert not progress.rejected(9, 3)
    assert progress.pace is Pace.REPLICATE


def test_a_refusal_in_the_flow_ends_it() -> None:
    progress = Progress(2, 10)
    progress.matched(9)
    progress.replicate()
    progress.next = 20
    progress.in_flight.add(19, 100)
    assert progress.rejected(15, 9)
    assert (progress.pace, progress.next, len(progress.in_flight)) == (Pace.PROBE, 10, 0)


def test_nothing_is_refused_while_a_snapshot_is_sent() -> None:
    progress = Progress(2, 10)
    progress.send_snapshot(Sending(SnapshotMark(20, 1), 100))
    assert not progress.rejected(9, 3)
    assert progress.pace is Pace.SNAPSHOT


def test_the_window_is_freed_up_to_what_was_answered() -> None:
    in_flight = InFlight()
    for last, size in ((3, 10), (5, 20), (9, 30)):
        in_flight.add(last, size)
    in_flight.free_to(4)
    assert (len(in_flight), in_flight.bytes) == (2, 50)
    in_flight.free_to(9)
    assert (len(in_flight), in_flight.bytes) == (0, 0)
