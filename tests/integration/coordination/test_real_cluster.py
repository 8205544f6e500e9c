"""Three real members under faults and clients: linearizable, nothing lost, one holder at a time, and always back again.

The default tier has each fault once; the full tier ten minutes of them. A failure prints its seed and what happened;
the same plan again: `python -m tests.integration.coordination.real_run --seed N --seconds S`.
"""

import asyncio
import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path
from random import SystemRandom
from time import monotonic
from types import SimpleNamespace
from typing import cast

import pytest

from balancer.consensus.client_claim import Grant
from balancer.coordination.responses import KeyValue, RangeResponse, ResponseHeader
from balancer.coordination.revision_log import FIRST, Changes
from tests.integration.coordination.real_clients import History
from tests.integration.coordination.real_faults import KINDS
from tests.integration.coordination.real_history import Tellers, check, check_keys, truth_of
from tests.integration.coordination.real_lockers import LockBook
from tests.integration.coordination.real_run import Run, play
from tests.simulation.cluster.history import Operation
from tests.simulation.cluster.laws import BrokenLawError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cuts networks and fills disks as Linux has them")

SIZES = [
    pytest.param(12.0, id="small", marks=pytest.mark.timeout(300)),
    pytest.param(600.0, id="full", marks=(pytest.mark.full, pytest.mark.timeout(1_800))),
]


@pytest.mark.parametrize("seconds", SIZES)
def test_whatever_happens_to_members_no_answer_is_wrong_and_they_come_back(seconds: float, tmp_path: Path) -> None:
    run = Run(SystemRandom().randrange(1_000_000), seconds)
    try:
        asyncio.run(play(run, tmp_path))
    finally:
        print(run)
    assert run.faults is not None
    assert run.finding is not None
    counts, finding = run.history.counts, run.finding
    # What would have to be there on a machine that is ten times slower: else nothing was shown.
    assert set(run.faults.recoveries) == set(run.kinds) >= {*KINDS} - {"away"}
    assert run.failures >= 1, "no member with a full disk has stopped"
    assert min(counts[kind] for kind in ("get", "put", "transaction")) >= seconds, run
    assert counts["locks"] >= seconds / 10, run
    assert counts["locks by the API"] >= seconds / 60, run
    assert finding.guarded_writes >= seconds / 10, run
    assert finding.reads >= seconds, run


# ---- what would be found: the same judgement over histories that are wrong


def kv(key: str, revision: int, value: str = "", *, create: int = 0, version: int = 1) -> KeyValue:
    return KeyValue(key.encode(), create or revision, revision, version, value.encode())


def deletion(key: str, revision: int) -> KeyValue:
    return KeyValue(key.encode(), mod_revision=revision)


def operation(kind: str, times: tuple[float, float], revision: int = 0, **more: object) -> Operation:
    made = Operation(1, kind, b"keys/a", times[0], returned=times[1], revision=revision)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def judge(operations: Sequence[Operation], revisions: Sequence[Changes], undone: Sequence[bytes] = ()) -> None:
    """By all checks; the last reads are those of one member that tells the truth."""
    history = History()
    history.operations += operations
    history.undone.update(undone)
    state: dict[bytes, KeyValue] = {}
    for changes in revisions:
        for each in changes:
            state.pop(each.key, None)
            if each.version and each.key.startswith(b"keys/"):
                state[each.key] = each
    answer = RangeResponse(ResponseHeader(revision=len(revisions) + FIRST - 1), tuple(state.values()))
    check(history, revisions, {"n1": answer}, (90.0, 91.0))


RIGHT = [
    operation("put", (1.0, 2.0), 2, value=b"1.1", done=True),
    operation("get", (3.0, 4.0), 2, found=b"1.1"),
    operation("put", (5.0, inf), value=b"1.2"),
    operation("get", (6.0, 7.0), 3, found=b"1.2"),
    operation("delete", (8.0, 9.0), 4, done=True),
]
TRUTH: list[Changes] = [
    (kv("keys/a", 2, "1.1"),),
    (kv("keys/a", 3, "1.2", create=2, version=2),),
    (deletion("keys/a", 4),),
]


def test_a_right_history_is_accepted() -> None:
    judge(RIGHT, TRUTH)


def with_stale_read() -> list[Operation]:
    return [*RIGHT, operation("get", (10.0, 11.0), 3, found=b"1.2")]


def with_lost_write() -> list[Operation]:
    return [*RIGHT, operation("put", (10.0, 11.0), 5, value=b"1.3", done=True)]


def with_wrong_value() -> list[Operation]:
    return [*RIGHT, operation("get", (10.0, 11.0), 4, found=b"1.1")]


def with_write_from_nowhere() -> list[Operation]:
    return [each for each in RIGHT if each.value != b"1.2"]


def with_deletion_from_nowhere() -> list[Operation]:
    return [each for each in RIGHT if each.kind != "delete"]


def with_answer_before_it_was_asked() -> list[Operation]:
    """Revision 3 is answered before the write of revision 2 was asked for."""
    late = operation("put", (10.0, 11.0), 2, value=b"1.1", done=True)
    return [late, *(each for each in RIGHT if each.revision != 2)]


WRONG = [
    with_stale_read,
    with_lost_write,
    with_wrong_value,
    with_write_from_nowhere,
    with_deletion_from_nowhere,
    with_answer_before_it_was_asked,
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_history_is_found(wrong: object) -> None:
    assert callable(wrong)
    with pytest.raises(BrokenLawError):
        judge(wrong(), TRUTH)


def test_a_stale_read_is_found_without_knowledge_of_revisions() -> None:
    check_keys(RIGHT, truth_of(RIGHT, TRUTH))
    with pytest.raises(BrokenLawError, match="not linearizable"):
        check_keys(with_stale_read(), truth_of(RIGHT, TRUTH))


def test_a_change_whose_writer_was_told_that_it_was_not_done_is_found() -> None:
    with pytest.raises(BrokenLawError, match="heard it was not"):
        judge(RIGHT, TRUTH, undone=[b"1.2"])


@pytest.mark.parametrize("half", ["x", "y"])
def test_half_a_transaction_is_found(half: str) -> None:
    revisions: list[Changes] = [(kv(f"keys/{half}", 2, "1.1"),)]
    with pytest.raises(BrokenLawError, match="half a transaction"):
        judge([], revisions)


def test_writes_under_a_lock_that_go_back_are_found() -> None:
    revisions: list[Changes] = [(kv("under red", 2, "9"),), (kv("under red", 3, "8", create=2, version=2),)]
    with pytest.raises(BrokenLawError, match="have the tokens"):
        judge([], revisions)


def test_members_that_tell_different_things_are_found() -> None:
    tellers = Tellers(["n1", "n2"])
    tellers.tell("n1", (kv("keys/a", 2, "1.1"),))
    with pytest.raises(BrokenLawError, match="n2 tells"):
        tellers.tell("n2", (kv("keys/a", 2, "1.2"),))


def test_a_gap_in_what_a_member_tells_is_found() -> None:
    tellers = Tellers(["n1"])
    tellers.tell("n1", (kv("keys/a", 2, "1.1"),))
    with pytest.raises(BrokenLawError, match="revision 3 is due"):
        tellers.tell("n1", (kv("keys/a", 4, "1.1"),))


class HeldGrant:
    """What a LockBook looks at."""

    def __init__(self, token: int) -> None:
        self.token = token
        self.key = b"red/%d" % token
        self.held = True
        self.remaining = 5.0
        self.lease = SimpleNamespace(id=token, margin=0.5)


def book_of(first: HeldGrant) -> LockBook:
    book = LockBook()
    book.granted(b"red", cast(Grant, first))
    return book


def test_a_second_holder_is_found() -> None:
    book = book_of(HeldGrant(5))
    with pytest.raises(BrokenLawError, match="tokens 5 and 6"):
        book.granted(b"red", cast(Grant, HeldGrant(6)))


def test_a_second_holder_by_the_api_is_found() -> None:
    book = book_of(HeldGrant(5))
    book.renewed(6, 10, monotonic())
    with pytest.raises(BrokenLawError, match="token 5 and 6"):
        book.held(b"red", 6, 6)


def test_a_holder_that_knows_of_his_loss_is_no_second_one() -> None:
    first = HeldGrant(5)
    book = book_of(first)
    first.held = False
    book.granted(b"red", cast(Grant, HeldGrant(6)))


def test_a_token_that_does_not_grow_is_found() -> None:
    book = book_of(HeldGrant(5))
    book.released(b"red", 5)
    with pytest.raises(BrokenLawError, match="token 4 after 5"):
        book.granted(b"red", cast(Grant, HeldGrant(4)))


def test_a_lock_that_is_lost_without_its_holder_knowing_is_found() -> None:
    with pytest.raises(BrokenLawError, match="knows nothing of it"):
        LockBook().refused(cast(Grant, HeldGrant(5)))
