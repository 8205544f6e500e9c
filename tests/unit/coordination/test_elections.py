"""Elections: campaign, proclaim, resign, and observers that see every leader and every value."""

import pytest

from balancer.coordination.elections import (
    Observer,
    campaign,
    campaigned,
    check_proclaimed,
    leader_key,
    leader_of,
    proclaim,
    resign,
)
from balancer.coordination.errors import Code
from balancer.coordination.locks import Claim, first_of
from balancer.coordination.requests import LeaderKey, WatchCreateRequest
from tests.unit.coordination.machine import op_delete, op_put, refusal
from tests.unit.coordination.watching import Watched


@pytest.fixture
def machine() -> Watched:
    machine = Watched()
    for lease in (1, 2, 3):
        machine.grant(lease)
    return machine


def stand(machine: Watched, lease: int, value: bytes) -> tuple[Claim, bool]:
    return campaigned(b"office", lease, value, machine.do(campaign(b"office", lease, value)))


def leader(machine: Watched, lease: int, value: bytes = b"v") -> LeaderKey:
    return leader_key(b"office", lease, stand(machine, lease, value)[0])


def test_the_first_to_stand_leads_with_its_value(machine: Watched) -> None:
    claim, other_value = stand(machine, 0x1, b"v1")
    assert (claim, other_value) == (Claim(b"office/", b"office/1", 2), False)
    stand(machine, 2, b"v2")
    kv = leader_of(machine.state.range(first_of(b"office")))
    assert (kv.key, kv.value, kv.lease) == (b"office/1", b"v1", 1)


def test_what_a_winner_is_given(machine: Watched) -> None:
    assert leader(machine, 3) == LeaderKey(b"office", b"office/3", 2, 3)


def test_standing_again_is_the_same_claim_and_tells_of_another_value(machine: Watched) -> None:
    claim, _ = stand(machine, 1, b"v1")
    assert stand(machine, 1, b"v1") == (claim, False)
    assert stand(machine, 1, b"v2") == (claim, True)


def test_nobody_leads_before_the_first(machine: Watched) -> None:
    with refusal(Code.UNKNOWN, "election: no leader"):
        leader_of(machine.state.range(first_of(b"office")))


def test_a_proclamation_changes_the_value_and_not_the_claim(machine: Watched) -> None:
    key = leader(machine, 1)
    check_proclaimed(machine.do(proclaim(key, b"new")))
    kv = leader_of(machine.state.range(first_of(b"office")))
    assert (kv.value, kv.create_revision, kv.lease) == (b"new", key.rev, 1)


def test_a_proclamation_after_the_loss_is_refused_and_does_nothing(machine: Watched) -> None:
    key = leader(machine, 1)
    machine.revoke(1)
    machine.grant(1)
    leader(machine, 1, b"second term")
    with refusal(Code.UNKNOWN, "election: not leader"):
        check_proclaimed(machine.do(proclaim(key, b"stale")))
    assert leader_of(machine.state.range(first_of(b"office"))).value == b"second term"


def test_a_resignation_makes_way_and_one_of_a_lost_office_does_nothing(machine: Watched) -> None:
    first, second = leader(machine, 1), leader(machine, 2)
    machine.do(resign(first))
    assert leader_of(machine.state.range(first_of(b"office"))).key == second.key
    again = leader(machine, 1)
    assert not machine.do(resign(first)).succeeded
    assert machine.get(again.key) is not None


# ---- observing


class Observing:
    """An observer with its watch."""

    def __init__(self, machine: Watched) -> None:
        self.machine = machine
        self.observer = Observer(b"office")
        self.news: list[tuple[int, bytes, bytes]] = []
        self.begin()

    def begin(self) -> None:
        watch, news = self.observer.begin(self.machine.state.range(self.observer.everybody()))
        self.stream = self.machine.hub.open()
        self.stream.create(watch)
        self._note(news)

    def seen(self) -> list[tuple[int, bytes, bytes]]:
        """(revision, key, value) of all news since the last call."""
        for response in self.machine.taken(self.stream):
            self._note(self.observer.follow(response.events))
        seen, self.news = self.news, []
        return seen

    def _note(self, news: list) -> None:
        self.news += [(item.revision, item.leader.key, item.leader.value) for item in news]


def test_an_observer_sees_who_leads_now_first(machine: Watched) -> None:
    leader(machine, 1, b"v1")
    leader(machine, 2, b"v2")
    assert Observing(machine).seen() == [(3, b"office/1", b"v1")]


def test_an_observer_sees_every_leader_and_every_value(machine: Watched) -> None:
    observing = Observing(machine)
    assert observing.seen() == []
    first = leader(machine, 1, b"v1")  # 2
    leader(machine, 2, b"v2")  # 3
    machine.do(proclaim(first, b"v1b"))  # 4
    machine.put(b"office/2", b"v2b", 2)  # 5: does not lead, so it is no news
    machine.revoke(1)  # 6
    machine.revoke(2)  # 7: nobody leads
    leader(machine, 3, b"v3")  # 8
    assert observing.seen() == [
        (2, b"office/1", b"v1"),
        (4, b"office/1", b"v1b"),
        (6, b"office/2", b"v2b"),
        (8, b"office/3", b"v3"),
    ]


def test_a_change_within_one_revision_is_judged_at_its_end(machine: Watched) -> None:
    leader(machine, 1, b"v1")
    leader(machine, 2, b"v2")
    observing = Observing(machine)
    observing.seen()
    machine.txn(op_delete(b"office/", b"office0"))
    machine.txn(op_put(b"office/3", b"v3", 3), op_put(b"office/1", b"v1", 1))
    assert observing.seen() == [(5, b"office/1", b"v1")], "created at once: the lower key, as the range answers it"


def test_an_observer_that_begins_again_does_not_repeat_itself(machine: Watched) -> None:
    leader(machine, 1, b"v1")
    observing = Observing(machine)
    assert len(observing.seen()) == 1
    observing.begin()
    assert observing.seen() == []
    machine.revoke(1)
    leader(machine, 2, b"v2")
    observing.begin()
    assert observing.seen() == [(4, b"office/2", b"v2")]


def test_what_an_observer_asks_and_watches(machine: Watched) -> None:
    machine.put(b"x")
    observer = Observer(b"office")
    assert observer.everybody().key == b"office/"
    watch, _ = observer.begin(machine.state.range(observer.everybody()))
    assert watch == WatchCreateRequest(b"office/", b"office0", 3)
