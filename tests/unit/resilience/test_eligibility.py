"""Who may be picked: operators before health, primaries before backups, panic before overload, one before none."""

from itertools import combinations_with_replacement

import pytest

from balancer.resilience.eligibility import Ruling, Tally, Tier, Use, rule, use_of
from balancer.resilience.health import Health

U, C, E, X, B = Use.USABLE, Use.CHECKING, Use.EJECTED, Use.UNHEALTHY, Use.BARRED
N, W = Use.NEVER_HEALTHY, Use.NEW


def ruling(primaries: list[Use], backups: list[Use] | None = None, threshold: float = 0.5) -> Ruling:
    tally = Tally()
    for use in primaries:
        tally.add(use, backup=False)
    for use in backups or []:
        tally.add(use, backup=True)
    return rule(tally, threshold)


def used(primaries: list[Use], backups: list[Use] | None = None, threshold: float = 0.5) -> list[Use]:
    """The uses of who is eligible, primaries and then backups."""
    made = ruling(primaries, backups, threshold)
    return [use for use in primaries if made.admits(use, backup=False)] + [
        use for use in backups or [] if made.admits(use, backup=True)
    ]


# ---- one backend


@pytest.mark.parametrize("health", [None, *Health])
@pytest.mark.parametrize("ejected", [False, True])
def test_an_operators_wish_comes_before_everything(health: Health | None, ejected: bool) -> None:
    assert use_of(weight=0, drained=False, health=health, ejected=ejected) is B
    assert use_of(weight=3, drained=True, health=health, ejected=ejected) is B


@pytest.mark.parametrize(
    ("health", "ejected", "expected"),
    [
        (None, False, U),
        (None, True, E),
        (Health.HEALTHY, False, U),
        (Health.HEALTHY, True, E),
        (Health.CHECKING, False, C),
        (Health.CHECKING, True, E),
        (Health.UNHEALTHY, False, X),
        (Health.UNHEALTHY, True, X),
    ],
)
def test_a_backend_is_usable_when_its_checks_pass_or_there_are_none_and_it_is_not_ejected(
    health: Health | None, ejected: bool, expected: Use
) -> None:
    assert use_of(weight=1, drained=False, health=health, ejected=ejected) is expected


# ---- a pool


def test_the_usable_primaries_serve() -> None:
    assert used([U, U, X, E, B], [U]) == [U, U]
    assert ruling([U, U, X, E, B], [U]) == Ruling(Tier.PRIMARY, frozenset({U}))


def test_backups_serve_only_when_no_primary_can() -> None:
    assert used([X, E], [U, X]) == [U]
    assert ruling([X, E], [U, X]).tier is Tier.BACKUP
    assert used([B, B], [U, B]) == [U]
    assert used([], [U]) == [U]


def test_a_backend_that_is_checked_serves_only_when_nobody_else_of_its_tier_can() -> None:
    assert used([C, C, C]) == [C, C, C]
    assert used([C, U]) == [U]
    assert used([X, X], [C, U]) == [U]
    assert used([X, X], [C, X]) == [C]


def test_at_the_start_primaries_that_are_checked_serve_although_backups_are_usable() -> None:
    assert used([C, C], [U]) == [C, C]


def test_backends_that_are_not_up_yet_take_nothing_from_a_pool() -> None:
    """One healthy backend, and two more are added that hang: neither gets a request, and nobody panics."""
    for newcomers in ([W, W], [W, N], [N, N], [N] * 9):
        assert used([U, *newcomers]) == [U]
        assert not ruling([U, *newcomers]).panic
        assert used(newcomers, [U]) == [U]


def test_who_is_new_serves_where_nobody_is_known_to_be_well() -> None:
    assert used([W, W, X]) == [W, W]
    assert used([N, E], [W]) == [W]


def test_a_panic_does_not_bring_in_who_was_never_up() -> None:
    assert ruling([U, X, X, N, W]).panic
    assert used([U, X, X, N, W]) == [U, X, X]


def test_who_was_never_healthy_is_not_proven() -> None:
    assert use_of(weight=1, drained=False, health=Health.UNHEALTHY, ejected=False, proven=False) is N
    assert use_of(weight=1, drained=False, health=Health.UNHEALTHY, ejected=True, proven=False) is N


def test_one_new_primary_among_dead_ones_does_not_take_the_traffic_from_the_backups() -> None:
    assert used([C, X, X, X], [U, U]) == [U, U]
    assert not ruling([C, X, X, X], [U, U]).panic


def test_below_the_threshold_all_primaries_are_used_but_those_that_an_operator_took_out() -> None:
    assert used([U, X, E, B, C]) == [U, C], "the checked one makes it half"
    assert used([U, X, E, B]) == [U, X, E]
    assert ruling([U, X, E, B]).panic
    assert used([C, X, X]) == [C, X, X]


def test_half_of_them_is_not_below_a_threshold_of_a_half() -> None:
    assert used([U, X]) == [U]
    assert not ruling([U, X]).panic


def test_a_threshold_of_zero_never_panics() -> None:
    assert used([U, X, X, X, X, E], threshold=0.0) == [U]
    assert ruling([E, E], threshold=0.0) == Ruling(Tier.NONE, down=True)


def test_pools_that_are_being_checked_do_not_panic() -> None:
    assert used([U, C, C, C, C]) == [U, C, C, C, C]
    assert not ruling([U, C, C, C, C]).panic


def test_there_is_no_panic_while_backups_can_serve_for_primaries_that_cannot() -> None:
    assert ruling([X, X, X], [U]) == Ruling(Tier.BACKUP, frozenset({U}))


def test_a_pool_whose_backends_all_fail_their_checks_is_down() -> None:
    assert ruling([X, X]) == Ruling(Tier.NONE, down=True)
    assert ruling([X, B], [X]).down
    assert ruling([], [X]).down


def test_a_pool_of_which_nothing_is_wanted_is_empty_and_not_down() -> None:
    assert ruling([]) == Ruling(Tier.NONE)
    assert ruling([B, B], [B]) == Ruling(Tier.NONE)


def test_who_is_only_ejected_serves_rather_than_nobody() -> None:
    assert used([E, E]) == [E, E]
    assert used([E, X]) == [E]
    assert used([X], [E, X]) == [E]
    assert ruling([E, X]).panic


def test_laws_hold_for_every_small_pool() -> None:
    pools = [list(pool) for size in range(5) for pool in combinations_with_replacement(Use, size)]
    for threshold in (0.0, 0.3, 0.5, 1.0):
        for primaries in pools:
            for backups in pools[:60]:
                made, who = ruling(primaries, backups, threshold), used(primaries, backups, threshold)
                both = primaries + backups
                assert B not in who
                assert N not in who
                assert made.panic or not {E, X} & set(who), "known to be bad, outside panic"
                assert W not in who or set(who) == {W}, "beside somebody who is known to be well"
                assert not (made.panic and threshold == 0)
                if {U, C, W} & set(both):
                    assert who, "somebody who may be good is always used"
                if U in primaries:
                    assert U in who
                    assert made.tier is Tier.PRIMARY
                assert made.down == (not who and bool(set(both) - {B}))
