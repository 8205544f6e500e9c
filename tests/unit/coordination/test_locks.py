"""Locks: the order of the log decides, the token rises, and nobody gets what it has lost already."""

import itertools

import pytest

from balancer.coordination.elections import campaign, campaigned
from balancer.coordination.errors import Code
from balancer.coordination.locks import (
    Claim,
    Standing,
    acquire,
    claimed,
    first_of,
    one_before,
    owner_key,
    release,
    standing,
    still_there,
)
from balancer.coordination.requests import PutRequest, TxnRequest
from balancer.coordination.waiters import Verdict, Waiters
from tests.unit.coordination.machine import Machine, op_delete, op_put, refusal


class Office(Machine):
    """With leases 1 to 9, and a list of waiters that is told of every entry."""

    def __init__(self) -> None:
        super().__init__()
        for lease in range(1, 10):
            self.grant(lease)
        self.waiters = Waiters()
        self.verdicts: list[Verdict] = []

    def apply(self, request, **command):
        applied = super().apply(request, **command)
        if hasattr(self, "waiters"):
            self.verdicts += self.waiters.applied(self.state.space, applied.changes)
        return applied

    def lock(self, lease: int, name: bytes = b"lock") -> tuple[Claim, bool]:
        return claimed(name, lease, self.do(acquire(name, lease)))

    def wait(self, lease: int, name: bytes = b"lock") -> tuple[Claim, Standing]:
        claim, _ = self.lock(lease, name)
        return claim, self.waiters.wait(self.state.space, claim)

    def judged(self) -> list[tuple[bytes, Standing]]:
        """What was decided since the last call."""
        found = [(verdict.claim.key, verdict.standing) for verdict in self.verdicts]
        self.verdicts.clear()
        return found


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.mark.parametrize(
    ("lease", "key"),
    [(0x694D805A644B770A, b"mylock/694d805a644b770a"), (1, b"mylock/1"), (0xABC, b"mylock/abc"), (-5, b"mylock/-5")],
)
def test_the_owner_s_key(lease: int, key: bytes) -> None:
    assert owner_key(b"mylock", lease) == key


def test_the_first_to_ask_holds_and_its_key_has_its_lease(office: Office) -> None:
    claim, held = office.lock(1)
    assert (held, claim.key, claim.revision) == (True, b"lock/1", 2)
    kv = office.get(b"lock/1")
    assert (kv.lease, kv.value, kv.create_revision) == (1, b"", 2)


def test_the_next_to_ask_does_not_hold(office: Office) -> None:
    office.lock(1)
    claim, held = office.lock(2)
    assert (held, claim.revision) == (False, 3)
    assert standing(office.state.space, claim) is Standing.WAITING


def test_asking_again_with_the_same_lease_is_the_same_claim(office: Office) -> None:
    first, _ = office.lock(1)
    second, _ = office.lock(2)
    assert office.lock(1) == (first, True)
    assert office.lock(2) == (second, False)
    assert office.state.revision == 3


def test_an_unknown_lease_is_refused(office: Office) -> None:
    with refusal(Code.NOT_FOUND, "etcdserver: requested lease not found"):
        office.lock(77)


def test_the_token_rises_from_owner_to_owner(office: Office) -> None:
    tokens = []
    for lease in (3, 1, 2, 3):
        claim, held = office.lock(lease)
        assert held
        tokens.append(claim.revision)
        office.do(release(claim))
    assert tokens == sorted(set(tokens))


def test_a_release_is_of_this_claim_only(office: Office) -> None:
    old, _ = office.lock(1)
    office.do(release(old))
    new, _ = office.lock(1)
    assert not office.do(release(old)).succeeded
    assert standing(office.state.space, new) is Standing.HELD
    assert standing(office.state.space, old) is Standing.LOST


def test_the_guard_stops_a_write_with_an_old_token(office: Office) -> None:
    claim, _ = office.lock(1)
    office.revoke(1)
    office.lock(2)
    guarded = TxnRequest((still_there(claim.key, claim.revision),), (op_put(b"data", b"stale"),))
    assert not office.do(guarded).succeeded
    assert office.get(b"data") is None


def test_who_can_only_ask_and_watch_waits_for_the_one_before(office: Office) -> None:
    claims = [office.lock(lease)[0] for lease in (5, 3, 9, 1)]
    before = [[kv.key for kv in office.state.range(one_before(claim)).kvs] for claim in claims]
    assert before == [[], [b"lock/5"], [b"lock/3"], [b"lock/9"]]
    assert [kv.key for kv in office.state.range(first_of(b"lock")).kvs] == [b"lock/5"]


# ---- waiting


def test_waiters_get_the_lock_in_the_order_of_the_log(office: Office) -> None:
    claims = [office.lock(lease)[0] for lease in (5, 3, 9)]
    assert [office.waiters.wait(office.state.space, claim) for claim in claims] == [
        Standing.HELD,
        Standing.WAITING,
        Standing.WAITING,
    ]
    for current, following in itertools.pairwise(claims):
        assert office.judged() == []
        office.do(release(current))
        assert office.judged() == [(following.key, Standing.HELD)]
    assert len(office.waiters) == 0


def test_a_verdict_has_the_revision_at_which_it_was_given(office: Office) -> None:
    first, _ = office.lock(1)
    office.wait(2)
    office.put(b"other")
    office.do(release(first))
    assert [verdict.revision for verdict in office.verdicts] == [office.state.revision]


def test_a_holder_whose_lease_ends_makes_way(office: Office) -> None:
    office.lock(1)
    claim, _ = office.wait(2)
    office.revoke(1)
    assert office.judged() == [(claim.key, Standing.HELD)]


def test_a_waiter_whose_lease_ended_never_gets_the_lock(office: Office) -> None:
    holder, _ = office.lock(1)
    claim, _ = office.wait(2)
    office.revoke(2)
    assert office.judged() == [(claim.key, Standing.LOST)]
    office.do(release(holder))
    assert office.judged() == []
    assert standing(office.state.space, claim) is Standing.LOST


def test_who_loses_its_key_in_the_entry_that_makes_way_for_it_has_lost(office: Office) -> None:
    office.lock(1)
    claim, _ = office.wait(2)
    third, _ = office.wait(3)
    office.txn(op_delete(b"lock/1"), op_delete(claim.key))
    assert office.judged() == [(claim.key, Standing.LOST), (third.key, Standing.HELD)]


def test_a_key_that_went_and_came_again_is_another_claim(office: Office) -> None:
    office.lock(1)
    claim, _ = office.wait(2)
    office.txn(op_delete(b"lock/2", b"\0"), op_put(b"lock/2", lease=2))
    assert office.judged() == [(claim.key, Standing.LOST)]


def test_a_claim_that_was_lost_before_its_wait_began_is_told_so(office: Office) -> None:
    office.lock(1)
    claim, _ = office.lock(2)
    office.revoke(2)
    assert office.waiters.wait(office.state.space, claim) is Standing.LOST
    office.revoke(1)
    assert office.judged() == []


def test_a_lock_that_came_free_before_the_wait_began_is_held(office: Office) -> None:
    holder, _ = office.lock(1)
    claim, _ = office.lock(2)
    office.do(release(holder))
    assert office.waiters.wait(office.state.space, claim) is Standing.HELD


def test_a_waiter_in_the_middle_that_goes_does_not_promote_those_behind(office: Office) -> None:
    office.lock(1)
    middle, _ = office.wait(2)
    office.wait(3)
    office.revoke(2)
    assert office.judged() == [(middle.key, Standing.LOST)]


def test_who_gave_up_waiting_is_not_judged(office: Office) -> None:
    holder, _ = office.lock(1)
    claim, _ = office.wait(2)
    office.waiters.give_up(claim)
    office.do(release(holder))
    assert office.judged() == []
    office.waiters.give_up(claim)


def test_locks_of_other_names_do_not_matter(office: Office) -> None:
    office.lock(1)
    office.lock(1, b"lock2")
    claim, _ = office.wait(2)
    office.delete(b"lock2/1")
    office.delete(b"lock0", b"lock1")
    assert office.judged() == []
    assert office.waiters.wait(office.state.space, claim) is Standing.WAITING


def test_a_name_with_slashes_lies_under_the_shorter_one_as_in_etcd(office: Office) -> None:
    inner, held = office.lock(1, b"lock/inner")
    assert held
    outer, now = office.wait(2)
    assert now is Standing.WAITING
    office.do(release(inner))
    assert office.judged() == [(outer.key, Standing.HELD)]


def test_a_mass_of_deletions_is_judged_once(office: Office) -> None:
    for number in range(50):
        office.put(b"lock/x%d" % number, lease=9)
    claims = [office.wait(lease)[0] for lease in (1, 2)]
    office.revoke(9)
    assert office.judged() == [(claims[0].key, Standing.HELD)]


def test_after_a_snapshot_everybody_is_judged_anew(office: Office) -> None:
    office.lock(1)
    second, _ = office.wait(2)
    third, _ = office.wait(3)
    later = Machine()
    for entry in office.entries:
        later.enter(entry[2])
    later.revoke(1)
    later.revoke(3)
    verdicts = office.waiters.restored(later.state.space)
    assert [(verdict.claim, verdict.standing) for verdict in verdicts] == [
        (second, Standing.HELD),
        (third, Standing.LOST),
    ]


def test_who_campaigns_waits_in_the_same_way(office: Office) -> None:
    first, other_value = campaigned(b"office", 1, b"v1", office.do(campaign(b"office", 1, b"v1")))
    second, _ = campaigned(b"office", 2, b"v2", office.do(campaign(b"office", 2, b"v2")))
    assert not other_value
    assert office.waiters.wait(office.state.space, first) is Standing.HELD
    assert office.waiters.wait(office.state.space, second) is Standing.WAITING
    office.do(PutRequest(first.key, b"v3", 1))
    assert office.judged() == []
    office.revoke(1)
    assert office.judged() == [(second.key, Standing.HELD)]
