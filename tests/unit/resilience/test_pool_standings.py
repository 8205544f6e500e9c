"""One pool: what checks, traffic and operators say becomes standings, and each change of them is told once."""

from random import Random

import msgspec
import pytest

from balancer.config.model import Backend, HealthCheck, OutlierDetection, Pool, ResolvedBackend
from balancer.resilience.known_backend import Happening, State, What
from balancer.resilience.pool_standings import PoolStandings
from balancer.resilience.standing import Standing

CHECK = HealthCheck(healthy_after=2, unhealthy_after=3)
EJECT = OutlierDetection(consecutive_failures=3, failure_rate=False, latency=False, base_ejection=10.0)


def pool_of(names: str = "abc", **settings: object) -> Pool:
    """Backends of one letter; a capital is a backup."""
    backends = tuple(Backend(name=name, host="10.0.0.1", port=ord(name), backup=name.isupper()) for name in names)
    defaults: dict[str, object] = {"outlier_detection": None, "slow_start": None}
    return Pool(name="p", backends=backends, **{**defaults, **settings})  # type: ignore[arg-type]


def resolved(pool: Pool) -> list[ResolvedBackend]:
    """One address per backend; the slot is the letter's number, so that it stays over reloads."""
    return [
        ResolvedBackend(
            pool=pool.name,
            name=one.name,
            host=one.host,
            address=(one.host, one.port, ""),
            slot=one.port,
            weight=one.weight,
        )
        for one in pool.backends
    ]


def standings_of(pool: Pool, now: float = 0.0, *, starting: bool = True) -> PoolStandings:
    """The standings of a pool that has just been taken into use."""
    standings = PoolStandings("p", Random(1))
    assert standings.configure(pool, resolved(pool), now, starting=starting) == []
    return standings


def eligible(standings: PoolStandings) -> str:
    """The letters of who is eligible."""
    return "".join(chr(one.slot) for one in standings.standings() if one.eligible)


def shares(standings: PoolStandings) -> dict[str, float]:
    return {chr(one.slot): one.share for one in standings.standings()}


def changed(standings: PoolStandings) -> str:
    """The letters of whose standing changed since last asked."""
    return "".join(sorted(chr(one.slot) for one in standings.take_changes()))


def state(standings: PoolStandings, name: str) -> State:
    return standings.facts(name)[0].state


def check(standings: PoolStandings, name: str, *results: bool, now: float = 1.0) -> list[What]:
    """The backend's next checks end so."""
    return [each.what for passed in results for each in standings.checked(ord(name), passed, "said so", now)]


def fail(standings: PoolStandings, name: str, times: int = 3, now: float = 1.0) -> list[What]:
    """So many attempts fail in a row."""
    return [each.what for _ in range(times) for each in standings.failed(ord(name), "upstream_reset", 0, now)]


# ---- beginning


def test_without_checks_everyone_is_up_at_once() -> None:
    standings = standings_of(pool_of())
    assert standings.standings() == tuple(Standing(ord(name), True, 1) for name in "abc")
    assert changed(standings) == "abc"
    assert changed(standings) == "", "told once"
    assert state(standings, "a") is State.UP


def test_with_checks_everyone_serves_until_it_is_known_who_is_healthy() -> None:
    standings = standings_of(pool_of(health_check=CHECK))
    assert eligible(standings) == "abc"
    assert state(standings, "a") is State.CHECKING
    assert check(standings, "a", True) == [What.BECAME_HEALTHY]
    assert eligible(standings) == "abc", "one of three is too few to serve alone"
    assert not standings.panic
    assert check(standings, "b", True) == [What.BECAME_HEALTHY]
    assert eligible(standings) == "ab"
    assert state(standings, "c") is State.CHECKING


def test_at_the_start_of_the_process_nobody_starts_slowly() -> None:
    plain = standings_of(pool_of(slow_start=30.0))
    assert set(shares(plain).values()) == {1.0}
    checked = standings_of(pool_of(slow_start=30.0, health_check=CHECK))
    check(checked, "a", True)
    assert shares(checked)["a"] == 1.0


# ---- checks


def test_a_backend_that_fails_its_checks_is_left_out_and_the_evidence_is_kept() -> None:
    standings = standings_of(pool_of(health_check=CHECK))
    for name in "abc":
        check(standings, name, True)
    changed(standings)
    assert standings.checked(ord("b"), False, "503", 2.0) == []
    assert standings.checked(ord("b"), False, "503", 3.0) == []
    assert standings.checked(ord("b"), False, "refused", 4.0) == [
        Happening(What.BECAME_UNHEALTHY, ord("b"), evidence="refused")
    ]
    assert eligible(standings) == "ac"
    assert changed(standings) == "b"
    facts = standings.facts("b")[0]
    assert (facts.state, facts.since, facts.evidence, facts.eligible) == (State.UNHEALTHY, 4.0, "refused", False)


def test_a_backend_that_recovers_starts_slowly() -> None:
    standings = standings_of(pool_of(health_check=CHECK, slow_start=30.0))
    for name in "abc":
        check(standings, name, True)
    check(standings, "b", False, False, False)
    assert check(standings, "b", True, True, now=100.0) == [What.BECAME_HEALTHY]
    assert shares(standings) == {"a": 1.0, "b": 0.1, "c": 1.0}
    changed(standings)
    standings.tick(115.0)
    assert shares(standings)["b"] == 0.5
    assert changed(standings) == "b"
    standings.tick(130.0)
    assert shares(standings)["b"] == 1.0
    assert not standings.awake(130.0)


def test_a_slow_start_is_told_in_twenty_steps_at_most() -> None:
    standings = standings_of(pool_of(slow_start=30.0), starting=False)
    assert set(shares(standings).values()) == {0.1}
    changed(standings)
    told = 0
    for tick in range(1, 400):
        standings.tick(tick / 10)
        told += bool(changed(standings))
    assert told <= 20
    assert set(shares(standings).values()) == {1.0}


def test_a_pool_whose_backends_all_fail_goes_down_and_comes_back_with_the_first() -> None:
    standings = standings_of(pool_of("ab", health_check=CHECK))
    assert check(standings, "a", False) == [What.BECAME_UNHEALTHY]
    assert eligible(standings) == "b", "it may be well"
    assert standings.checked(ord("b"), False, "refused", 1.0) == [
        Happening(What.BECAME_UNHEALTHY, ord("b"), evidence="refused"),
        Happening(What.WENT_DOWN, evidence="0 of 2 usable, 2 never healthy"),
    ]
    assert standings.down
    assert eligible(standings) == ""
    assert check(standings, "b", True, True) == [What.BECAME_HEALTHY, What.CAME_BACK]
    assert not standings.down
    assert eligible(standings) == "b"


def test_backups_take_over_and_give_back() -> None:
    standings = standings_of(pool_of("abC", health_check=CHECK))
    for name in "abC":
        check(standings, name, True)
    assert eligible(standings) == "ab"
    check(standings, "a", False, False, False)
    check(standings, "b", False, False, False)
    assert eligible(standings) == "C"
    check(standings, "a", True, True)
    assert eligible(standings) == "a"
    check(standings, "b", True, True)
    assert eligible(standings) == "ab"


# ---- panic


def test_below_the_threshold_everybody_is_used_and_above_it_no_longer() -> None:
    standings = standings_of(pool_of("abcd", health_check=CHECK))
    for name in "abcd":
        check(standings, name, True)
    check(standings, "a", *[False] * 3)
    check(standings, "b", *[False] * 3)
    assert not standings.panic
    changed(standings)
    assert check(standings, "c", *[False] * 3) == [What.BECAME_UNHEALTHY, What.PANIC_BEGAN]
    assert standings.panic
    assert eligible(standings) == "abcd"
    assert changed(standings) == "abc", "c is eligible still, but doubtful now"
    assert [standing.doubtful for standing in standings.standings()] == [True, True, True, False]
    assert check(standings, "c", True, True) == [What.BECAME_HEALTHY, What.PANIC_ENDED]
    assert eligible(standings) == "cd"


def test_panic_does_not_use_what_an_operator_took_out() -> None:
    standings = standings_of(pool_of("abcd", health_check=CHECK))
    for name in "abcd":
        check(standings, name, True)
    standings.set_drained("a", True, 1.0)
    standings.set_weight("b", 0, 1.0)
    assert check(standings, "c", *[False] * 3) == [What.BECAME_UNHEALTHY], "half of those that are wanted"
    standings = standings_of(pool_of("abcde", health_check=CHECK))
    for name in "abcde":
        check(standings, name, True)
    standings.set_drained("a", True, 1.0)
    for name in "bcd":
        check(standings, name, *[False] * 3)
    assert standings.panic
    assert eligible(standings) == "bcde"


# ---- ejection


def test_an_ejection_takes_a_backend_out_in_the_call_that_decides_it() -> None:
    standings = standings_of(pool_of(outlier_detection=EJECT))
    changed(standings)
    assert fail(standings, "a", 2) == []
    happening = standings.failed(ord("a"), "upstream_reset", 0, 2.0)[0]
    assert (happening.what, happening.slot, happening.cause) == (What.EJECTED, ord("a"), "consecutive_failures")
    assert happening.seconds >= 9.0
    assert eligible(standings) == "bc"
    assert changed(standings) == "a"
    assert state(standings, "a") is State.EJECTED
    assert standings.awake(2.0)


def test_an_ejected_backend_waits_for_one_request_and_then_returns_slowly() -> None:
    standings = standings_of(pool_of(outlier_detection=EJECT, slow_start=30.0))
    fail(standings, "a")
    assert standings.trials == set()
    assert [each.what for each in standings.tick(20.0)] == [What.HALF_OPEN]
    assert standings.trials == {ord("a")}
    assert state(standings, "a") is State.HALF_OPEN
    assert eligible(standings) == "bc"
    assert [each.what for each in standings.succeeded(ord("a"), 1, 0.01, 21.0)] == [What.RETURNED]
    assert standings.trials == set()
    assert eligible(standings) == "abc"
    assert shares(standings)["a"] == 0.1


def test_a_trial_that_fails_ejects_again() -> None:
    standings = standings_of(pool_of(outlier_detection=EJECT))
    fail(standings, "a")
    standings.tick(20.0)
    assert fail(standings, "a", 1, now=21.0) == [What.EJECTED]
    assert standings.trials == set()
    assert state(standings, "a") is State.EJECTED


def test_a_passing_check_ends_a_trial() -> None:
    standings = standings_of(pool_of(outlier_detection=EJECT, health_check=CHECK))
    for name in "abc":
        check(standings, name, True)
    fail(standings, "a")
    assert check(standings, "a", True, now=5.0) == []
    standings.tick(20.0)
    assert check(standings, "a", True, now=21.0) == [What.RETURNED]
    assert eligible(standings) == "abc"


def test_a_check_that_another_balancer_made_ends_no_trial() -> None:
    standings = standings_of(pool_of(outlier_detection=EJECT, health_check=CHECK))
    for name in "abc":
        check(standings, name, True)
    fail(standings, "a")
    standings.tick(20.0)
    assert standings.checked(ord("a"), True, "by n2: status 200", 21.0, own=False) == []
    assert state(standings, "a") is State.HALF_OPEN
    assert check(standings, "a", True, now=21.0) == [What.RETURNED]


def test_a_half_open_backend_that_is_unhealthy_or_drained_gets_no_trial() -> None:
    standings = standings_of(pool_of(outlier_detection=EJECT, health_check=CHECK))
    for name in "abc":
        check(standings, name, True)
    fail(standings, "a")
    standings.tick(20.0)
    check(standings, "a", *[False] * 3, now=21.0)
    assert standings.trials == set()
    assert state(standings, "a") is State.UNHEALTHY
    standings = standings_of(pool_of(outlier_detection=EJECT))
    fail(standings, "a")
    standings.set_drained("a", True, 2.0)
    standings.tick(20.0)
    assert standings.trials == set()
    standings.set_drained("a", False, 21.0)
    assert standings.trials == {ord("a")}


def test_observing_changes_nobodys_standing() -> None:
    standings = standings_of(pool_of(outlier_detection=msgspec.structs.replace(EJECT, mode="observe")))
    changed(standings)
    assert fail(standings, "a") == [What.OBSERVED]
    assert changed(standings) == ""
    assert eligible(standings) == "abc"
    assert state(standings, "a") is State.UP


def test_a_backend_that_is_spared_stays_in_use() -> None:
    standings = standings_of(pool_of("ab", outlier_detection=EJECT))
    assert fail(standings, "a") == [What.EJECTED]
    assert fail(standings, "b") == [What.SPARED]
    assert eligible(standings) == "b"


def test_a_slow_backend_gets_less() -> None:
    settings = OutlierDetection(consecutive_failures=None, failure_rate=False, window=10.0)
    standings = standings_of(pool_of(outlier_detection=settings))
    happened = []
    for second in range(1, 20):
        for name in "abc":
            standings.succeeded(ord(name), 20, 20 * (1.0 if name == "a" else 0.01), float(second))
        happened += [each.what for each in standings.tick(second + 0.5)]
    assert What.SLOWED in happened
    assert shares(standings)["a"] < 0.1
    assert shares(standings)["b"] == 1.0
    assert eligible(standings) == "abc"


def test_a_pool_sleeps_when_time_can_change_nothing() -> None:
    standings = standings_of(pool_of(outlier_detection=EJECT))
    assert not standings.awake(0.0)
    standings.succeeded(ord("a"), 1, 0.1, 5.0)
    assert standings.awake(5.0)
    assert standings.awake(5.0 + EJECT.window)
    assert not standings.awake(5.0 + 3 * EJECT.window)
    fail(standings, "a", now=100.0)
    assert standings.awake(1000.0), "somebody is ejected"


def test_reports_of_slots_that_are_not_ours_change_nothing() -> None:
    standings = standings_of(pool_of(outlier_detection=EJECT, health_check=CHECK))
    changed(standings)
    assert standings.failed(999, "upstream_reset", 0, 1.0) == []
    assert standings.succeeded(999, 1, 0.1, 1.0) == []
    assert standings.checked(999, False, "", 1.0) == []
    assert changed(standings) == ""


# ---- operators


def test_a_weight_set_live_is_the_standings_weight_and_zero_takes_no_traffic() -> None:
    standings = standings_of(pool_of())
    changed(standings)
    standings.set_weight("a", 7, 1.0)
    assert standings.standings()[0] == Standing(ord("a"), True, 7)
    assert changed(standings) == "a"
    standings.set_weight("a", 0, 2.0)
    assert eligible(standings) == "bc"
    assert standings.wanted("a").in_use == 0
    facts = standings.facts("a")[0]
    assert (facts.state, facts.weight, facts.file_weight, facts.since) == (State.DISABLED, 0, 1, 2.0)


def test_a_drained_backend_keeps_its_weight_and_is_drained_when_nothing_is_in_flight() -> None:
    standings = standings_of(pool_of())
    standings.set_drained("a", True, 3.0)
    assert standings.standings()[0] == Standing(ord("a"), False, 1)
    assert standings.wanted("a").in_use == 0
    assert standings.wanted("b").in_use == 1
    assert standings.facts("a", lambda slot: 4)[0].state is State.DRAINING
    assert standings.facts("a", lambda slot: 0)[0].state is State.DRAINED
    standings.set_drained("a", False, 4.0)
    assert eligible(standings) == "abc"
    assert shares(standings)["a"] == 1.0, "it is warm"


def test_a_pool_that_is_drained_whole_is_empty_and_not_down() -> None:
    standings = standings_of(pool_of("a"))
    standings.set_drained("a", True, 1.0)
    assert eligible(standings) == ""
    assert not standings.down


def test_what_is_up_does_not_depend_on_what_operators_want() -> None:
    standings = standings_of(pool_of(outlier_detection=EJECT, health_check=CHECK))
    assert not standings.is_up("a"), "nobody knows yet"
    check(standings, "a", True)
    standings.set_drained("a", True, 1.0)
    assert standings.is_up("a")
    fail(standings, "a")
    assert not standings.is_up("a")


def test_a_name_that_there_is_not_is_refused() -> None:
    standings = standings_of(pool_of())
    with pytest.raises(KeyError):
        standings.set_weight("x", 1, 0.0)
    with pytest.raises(KeyError):
        standings.facts("x")
    assert list(standings.names) == ["a", "b", "c"]


def test_a_name_with_several_addresses_is_drained_and_told_of_as_one() -> None:
    pool = pool_of("a")
    standings = PoolStandings("p", Random(1))
    two = [*resolved(pool), msgspec.structs.replace(resolved(pool)[0], address=("10.0.0.2", 80, ""), slot=5)]
    standings.configure(pool, two, 0.0, starting=True)
    standings.set_drained("a", True, 1.0)
    assert not any(one.eligible for one in standings.standings())
    assert [(facts.slot, facts.address[0]) for facts in standings.facts("a")] == [(97, "10.0.0.1"), (5, "10.0.0.2")]


def test_a_name_without_an_address_can_be_asked_for() -> None:
    standings = PoolStandings("p", Random(1))
    standings.configure(pool_of("a"), [], 0.0, starting=True)
    assert standings.facts("a") == ()
    standings.set_weight("a", 3, 1.0)
    assert standings.wanted("a").in_use == 3
    assert not standings.is_up("a")
    assert not standings.down


# ---- a reload


def reload(standings: PoolStandings, pool: Pool, now: float = 50.0) -> list[What]:
    return [each.what for each in standings.configure(pool, resolved(pool), now, starting=False)]


def test_unchanged_backends_keep_health_ejection_and_slow_start() -> None:
    settings = {"health_check": CHECK, "outlier_detection": EJECT, "slow_start": 30.0}
    standings = standings_of(pool_of("abcdef", **settings))
    for name in "abcdef":
        check(standings, name, True)
    check(standings, "a", *[False] * 3)
    check(standings, "b", *[False] * 3)
    check(standings, "b", True, True, now=40.0)
    fail(standings, "c", now=41.0)
    changed(standings)
    before = standings.standings()
    assert reload(standings, pool_of("abcdef", **settings), now=42.0) == []
    assert changed(standings) == "", "nothing to tell"
    assert standings.standings() == before
    assert standings.facts("a")[0].since == 1.0
    assert [state(standings, name) for name in "abc"] == [State.UNHEALTHY, State.UP, State.EJECTED]
    standings.tick(55.0)
    assert shares(standings)["b"] == 0.5


def test_backends_that_are_added_later_start_slowly_once_they_are_healthy() -> None:
    plain = standings_of(pool_of("a", slow_start=30.0))
    reload(plain, pool_of("ab", slow_start=30.0))
    assert shares(plain) == {"a": 1.0, "b": 0.1}
    checked = standings_of(pool_of("a", slow_start=30.0, health_check=CHECK))
    check(checked, "a", True)
    reload(checked, pool_of("ab", slow_start=30.0, health_check=CHECK))
    assert eligible(checked) == "a"
    check(checked, "b", True, now=90.0)
    assert shares(checked) == {"a": 1.0, "b": 0.1}
    checked.tick(105.0)
    assert shares(checked)["b"] == 0.5


def test_removed_backends_are_forgotten_and_begin_anew_when_they_come_again() -> None:
    standings = standings_of(pool_of("abc", outlier_detection=EJECT))
    fail(standings, "a")
    reload(standings, pool_of("bc", outlier_detection=EJECT))
    assert [chr(one.slot) for one in standings.standings()] == ["b", "c"]
    assert not standings.awake(500.0)
    reload(standings, pool_of("abc", outlier_detection=EJECT))
    assert eligible(standings) == "abc"


def test_a_slot_that_is_another_backends_now_inherits_nothing() -> None:
    pool = pool_of("abc", outlier_detection=EJECT)
    standings = standings_of(pool)
    fail(standings, "a")
    changed(standings)
    moved = [msgspec.structs.replace(resolved(pool)[0], address=("10.9.9.9", 80, "")), *resolved(pool)[1:]]
    standings.configure(pool, moved, 2.0, starting=False)
    assert eligible(standings) == "abc"
    assert changed(standings) == "a"
    assert fail(standings, "a", 2) == [], "its failures count from the first"


def test_what_operators_set_holds_while_the_files_entry_is_the_same() -> None:
    pool = pool_of()
    standings = standings_of(pool)
    standings.set_weight("a", 9, 1.0)
    standings.set_drained("b", True, 1.0)
    reload(standings, pool_of(panic_threshold=0.3))
    assert standings.standings()[:2] == (Standing(97, True, 9), Standing(98, False, 1))
    entries = tuple(msgspec.structs.replace(one, weight=4) for one in pool.backends)
    reload(standings, msgspec.structs.replace(pool, backends=entries))
    assert standings.standings() == tuple(Standing(ord(name), True, 4) for name in "abc")


def test_a_new_address_of_a_drained_name_is_drained() -> None:
    pool = pool_of()
    standings = standings_of(pool)
    standings.set_drained("a", True, 1.0)
    moved = [msgspec.structs.replace(resolved(pool)[0], address=("10.9.9.9", 80, ""), slot=7), *resolved(pool)[1:]]
    standings.configure(pool, moved, 2.0, starting=False)
    assert eligible(standings) == "bc"


def test_checks_that_are_switched_on_and_off() -> None:
    standings = standings_of(pool_of())
    reload(standings, pool_of(health_check=CHECK))
    assert eligible(standings) == "abc"
    assert state(standings, "a") is State.CHECKING
    assert set(standings.trackers()) == {97, 98, 99}
    check(standings, "a", False)
    check(standings, "b", True)
    check(standings, "c", True)
    assert eligible(standings) == "bc"
    reload(standings, pool_of())
    assert eligible(standings) == "abc"
    assert standings.trackers() == {}
    assert check(standings, "a", False) == [], "a check that was under way"


def test_detection_that_is_switched_off_frees_who_was_ejected() -> None:
    standings = standings_of(pool_of(outlier_detection=EJECT))
    fail(standings, "a")
    reload(standings, pool_of(), now=2.0)
    assert eligible(standings) == "abc"
    assert fail(standings, "b", 10) == []


def test_a_mode_that_becomes_observe_returns_who_was_ejected() -> None:
    standings = standings_of(pool_of(outlier_detection=EJECT))
    fail(standings, "a")
    observe = msgspec.structs.replace(EJECT, mode="observe")
    assert reload(standings, pool_of(outlier_detection=observe), now=2.0) == [What.RETURNED]
    assert eligible(standings) == "abc"


def test_a_reload_may_end_a_panic_or_an_outage() -> None:
    standings = standings_of(pool_of("abcd", health_check=CHECK))
    for name in "abcd":
        check(standings, name, True)
    for name in "abc":
        check(standings, name, False, False, False)
    assert standings.panic
    assert reload(standings, pool_of("abcd", health_check=CHECK, panic_threshold=0.2)) == [What.PANIC_ENDED]
    assert eligible(standings) == "d"
    assert reload(standings, pool_of("abc", health_check=CHECK, panic_threshold=0.2)) == [What.WENT_DOWN]
    assert reload(standings, pool_of("")) == [What.CAME_BACK]


def test_a_backend_becomes_a_backup() -> None:
    pool = pool_of("ab")
    standings = standings_of(pool)
    entries = (pool.backends[0], msgspec.structs.replace(pool.backends[1], backup=True))
    reload(standings, msgspec.structs.replace(pool, backends=entries))
    assert eligible(standings) == "a"


# ---- the last one that can serve


def test_the_last_backend_that_can_serve_is_not_ejected() -> None:
    for leave in ("drained", "weight 0", "unhealthy"):
        standings = standings_of(pool_of("ab", outlier_detection=EJECT, panic_threshold=0.0, health_check=CHECK))
        check(standings, "a", True)
        check(standings, "b", True)
        if leave == "drained":
            standings.set_drained("b", True, 1.0)
        elif leave == "weight 0":
            standings.set_weight("b", 0, 1.0)
        else:
            check(standings, "b", False, False, False)
        assert set(fail(standings, "a", 10)) == {What.SPARED}
        assert eligible(standings) == "a"
        assert not standings.down


def test_of_two_that_are_found_bad_at_once_one_stays() -> None:
    settings = msgspec.structs.replace(EJECT, max_ejected=1.0)
    standings = standings_of(pool_of("abc", outlier_detection=settings, panic_threshold=0.0))
    standings.set_drained("c", True, 1.0)
    assert fail(standings, "a") == [What.EJECTED]
    assert fail(standings, "b") == [What.SPARED]
    assert eligible(standings) == "b"


def test_a_backup_that_can_serve_lets_the_last_primary_be_ejected() -> None:
    pool = pool_of("ab", outlier_detection=EJECT)
    entries = (pool.backends[0], msgspec.structs.replace(pool.backends[1], backup=True))
    standings = standings_of(msgspec.structs.replace(pool, backends=entries))
    assert fail(standings, "a") == [What.EJECTED]
    assert eligible(standings) == "b"
