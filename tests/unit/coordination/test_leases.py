"""Leases in the log: granted, revoked with their keys, and attached to what was put last."""

import pytest

from balancer.coordination.errors import Code
from balancer.coordination.leases import TTL_MAX, to_propose
from balancer.coordination.requests import LeaseGrantRequest, LeaseTimeToLiveRequest
from balancer.coordination.responses import LeaseStatus
from tests.unit.coordination.machine import Machine, op_put, refusal

NOT_FOUND = (Code.NOT_FOUND, "etcdserver: requested lease not found")


@pytest.fixture
def machine() -> Machine:
    machine = Machine()
    machine.grant(7, 30)
    return machine


def test_a_grant_answers_id_and_ttl_and_adds_no_revision(machine: Machine) -> None:
    answer = machine.grant(8, 60)
    assert (answer.ID, answer.TTL, answer.error, answer.header.revision) == (8, 60, "", 1)


def test_an_id_that_exists_is_refused(machine: Machine) -> None:
    with refusal(Code.FAILED_PRECONDITION, "etcdserver: lease already exists"):
        machine.grant(7)


def test_a_ttl_above_the_bound_is_refused(machine: Machine) -> None:
    machine.grant(8, TTL_MAX)
    with refusal(Code.OUT_OF_RANGE, "etcdserver: too large lease TTL"):
        machine.grant(9, TTL_MAX + 1)


@pytest.mark.parametrize("lease", [0, 2**63, -(2**63)])
def test_a_number_that_is_no_lease_is_refused(machine: Machine, lease: int) -> None:
    with refusal(*NOT_FOUND):
        machine.grant(lease)


def test_what_enters_the_log_has_an_id_and_the_ttl_that_it_will_have() -> None:
    assert to_propose(LeaseGrantRequest(TTL=1), least_ttl=2, chosen_id=5) == LeaseGrantRequest(TTL=2, ID=5)
    assert to_propose(LeaseGrantRequest(TTL=9, ID=4), least_ttl=2, chosen_id=5) == LeaseGrantRequest(TTL=9, ID=4)
    assert to_propose(LeaseGrantRequest(TTL=-9), least_ttl=0, chosen_id=5).TTL == 1


def test_a_revocation_deletes_the_keys_in_ascending_order_in_one_revision(machine: Machine) -> None:
    keys = [b"%d" % number for number in range(60)]
    for key in reversed(keys):
        machine.put(key, lease=7)
    machine.put(b"other")
    revision = machine.state.revision
    answer = machine.revoke(7)
    assert answer.header.revision == machine.state.revision == revision + 1
    assert [kv.key for kv in machine.state.space.log.at(revision + 1)] == sorted(keys)
    assert machine.keys() == [b"other"]


def test_a_revocation_without_keys_adds_no_revision(machine: Machine) -> None:
    assert machine.revoke(7).header.revision == 1


def test_an_unknown_lease_is_refused(machine: Machine) -> None:
    machine.revoke(7)
    for ask in (
        lambda: machine.revoke(7),
        lambda: machine.put(b"a", lease=7),
        lambda: machine.txn(op_put(b"a", lease=7)),
    ):
        with refusal(*NOT_FOUND):
            ask()


def test_a_key_hangs_on_the_lease_of_its_last_put(machine: Machine) -> None:
    machine.grant(8)
    machine.put(b"a", lease=7)
    machine.put(b"b", lease=7)
    machine.put(b"c", lease=7)
    machine.put(b"a", lease=8)
    machine.put(b"b")  # no lease any more
    machine.delete(b"c")
    assert machine.state.leases.keys(7) == []
    machine.revoke(7)
    assert machine.keys() == [b"a", b"b"]
    machine.revoke(8)
    assert machine.keys() == [b"b"]


def test_time_to_live(machine: Machine) -> None:
    machine.put(b"b", lease=7)
    machine.put(b"a", lease=7)
    answer = machine.state.time_to_live(LeaseTimeToLiveRequest(7, keys=True), 12)
    assert (answer.ID, answer.TTL, answer.grantedTTL, answer.keys) == (7, 12, 30, (b"a", b"b"))
    assert answer.header.revision == 3
    assert machine.state.time_to_live(LeaseTimeToLiveRequest(7), 12).keys == ()
    gone = machine.state.time_to_live(LeaseTimeToLiveRequest(8, keys=True), 0)
    assert (gone.ID, gone.TTL, gone.grantedTTL, gone.keys) == (8, -1, 0, ())


def test_every_lease_is_listed(machine: Machine) -> None:
    machine.grant(3)
    assert machine.state.list_leases().leases == (LeaseStatus(7), LeaseStatus(3))
