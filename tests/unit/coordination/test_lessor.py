"""When leases are over: never early, by the leader's clock only, and not all at once."""

import pytest

from balancer.coordination.lessor import DUE_MAX, REVOKE_AGAIN, SPREAD, Lessor, Renewal


@pytest.fixture
def lessor() -> Lessor:
    """Leads since 100.0, with lease 1 of 10 s and lease 2 of 20 s, and 1 s on top of each."""
    lessor = Lessor()
    lessor.promote([(1, 10), (2, 20)], now=100.0, extend=1.0)
    return lessor


def test_a_new_leader_gives_each_lease_its_whole_ttl_and_an_election_timeout(lessor: Lessor) -> None:
    assert lessor.due(110.9) == []
    assert lessor.due(111.0) == [1]
    lessor.revoked(1)
    assert lessor.due(120.9) == []
    assert lessor.due(121.0) == [2]


def test_a_lease_that_was_granted_is_over_after_its_ttl(lessor: Lessor) -> None:
    lessor.granted(3, 5, now=102.0)
    assert lessor.due(106.9) == []
    assert lessor.due(107.0) == [3]


def test_a_renewal_gives_the_whole_ttl_again(lessor: Lessor) -> None:
    assert lessor.renew(1, now=110.0) is Renewal.RENEWED
    assert lessor.due(119.9) == []
    assert lessor.due(120.0) == [1]


def test_a_renewal_never_takes_time_away(lessor: Lessor) -> None:
    lessor.renew(1, now=100.0)
    assert lessor.remaining(1, 100.0) == 11
    assert lessor.due(110.9) == []


def test_a_lease_that_is_over_is_not_renewed_before_it_is_named(lessor: Lessor) -> None:
    assert lessor.renew(1, now=111.0) is Renewal.REVOKING


def test_a_lease_that_is_being_revoked_is_not_renewed_until_it_is_gone(lessor: Lessor) -> None:
    assert lessor.due(111.0) == [1]
    assert lessor.renew(1, now=111.0) is Renewal.REVOKING
    assert lessor.renew(1, now=50.0) is Renewal.REVOKING
    lessor.revoked(1)
    assert lessor.renew(1, now=111.5) is Renewal.UNKNOWN


def test_an_unknown_lease_is_not_renewed(lessor: Lessor) -> None:
    assert lessor.renew(9, now=100.0) is Renewal.UNKNOWN


def test_a_lease_that_was_revoked_is_not_named(lessor: Lessor) -> None:
    lessor.revoked(1)
    assert lessor.due(115.0) == []
    assert lessor.remaining(1, 101.0) is None


def test_a_lease_that_is_not_gone_is_named_again_later(lessor: Lessor) -> None:
    assert lessor.due(111.0) == [1]
    assert lessor.due(111.0 + REVOKE_AGAIN - 0.1) == []
    assert lessor.due(111.0 + REVOKE_AGAIN) == [1]


def test_an_id_that_is_granted_again_is_another_lease(lessor: Lessor) -> None:
    assert lessor.due(111.0) == [1]
    lessor.revoked(1)
    lessor.granted(1, 2, now=112.0)
    assert lessor.renew(1, now=112.5) is Renewal.RENEWED
    assert lessor.due(114.4) == []
    assert lessor.due(114.5) == [1]
    assert lessor.due(116.0) == []


def test_only_a_leader_decides() -> None:
    lessor = Lessor()
    lessor.granted(1, 1, now=0.0)
    assert not lessor.leads
    assert lessor.due(1e9) == []
    assert lessor.renew(1, now=0.0) is Renewal.NOT_LEADER
    assert lessor.remaining(1, 0.0) is None


def test_a_member_that_leads_no_more_lets_no_lease_end(lessor: Lessor) -> None:
    lessor.demote()
    assert lessor.due(1e9) == []
    assert lessor.renew(1, now=105.0) is Renewal.NOT_LEADER
    assert lessor.next_due() is None


def test_a_member_that_leads_again_begins_anew(lessor: Lessor) -> None:
    lessor.due(111.0)
    lessor.demote()
    lessor.promote([(1, 10), (2, 20)], now=200.0, extend=0.5)
    assert lessor.renew(1, now=200.0) is Renewal.RENEWED
    assert lessor.due(210.4) == []
    assert lessor.due(210.5) == [1]


def test_remaining_is_in_whole_seconds_and_never_below_0(lessor: Lessor) -> None:
    assert [lessor.remaining(1, now) for now in (100.0, 100.1, 110.5, 150.0)] == [11, 10, 0, 0]


def test_one_call_names_a_bounded_number() -> None:
    lessor = Lessor()
    lessor.promote([], now=0.0, extend=0.0)
    for lease in range(1, 3 * DUE_MAX + 1):
        lessor.granted(lease, 5, now=0.0)
    named = [lessor.due(5.0) for _ in range(4)]
    assert [len(some) for some in named] == [DUE_MAX, DUE_MAX, DUE_MAX, 0]
    assert len({lease for some in named for lease in some}) == 3 * DUE_MAX


def test_a_new_leader_spreads_what_would_end_all_at_once() -> None:
    lessor = Lessor()
    lessor.promote([(lease, 10) for lease in range(1, 4 * SPREAD + 1)], now=0.0, extend=1.0)
    assert lessor.due(10.9) == []
    ended: list[int] = []
    for second in range(4):
        some = [lease for _ in range(4) for lease in lessor.due(11.999 + second, 10_000)]
        assert SPREAD - 2 <= len(set(some) - set(ended)) <= SPREAD + 2
        ended += some


def test_leases_of_other_ttls_are_not_held_up_by_the_spread() -> None:
    lessor = Lessor()
    lessor.promote([(lease, 10) for lease in range(1, 2 * SPREAD + 1)] + [(9999, 60)], now=0.0, extend=0.0)
    assert lessor.remaining(9999, 0.0) == 60


def test_when_to_look_again_is_never_late(lessor: Lessor) -> None:
    assert lessor.next_due() == 111.0
    lessor.renew(1, now=110.0)
    assert lessor.next_due() == 111.0, "early, and then moved"
    assert lessor.due(111.0) == []
    assert lessor.next_due() == 120.0


def test_renewals_do_not_make_it_grow(lessor: Lessor) -> None:
    for number in range(1000):
        lessor.renew(1, now=100.0 + number / 1000)
        lessor.due(100.0 + number / 1000)
    assert len(lessor._heap) == 2
