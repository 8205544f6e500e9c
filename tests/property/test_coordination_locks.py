"""Locks under any order of asking, ending and giving up: one holder at most, and nobody is overlooked."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from balancer.coordination.locks import Claim, Standing, acquire, claimed, release, standing
from balancer.coordination.requests import RequestOp
from balancer.coordination.waiters import Verdict, Waiters
from tests.unit.coordination.machine import Machine, op_delete, op_put

LEASE = st.integers(1, 5)
NAME = st.sampled_from([b"l", b"l", b"l/m", b"k"])


def naively(machine: Machine, claim: Claim) -> Standing:
    """What a claim is worth, by all keys there are."""
    own = machine.get(claim.key)
    if own is None or own.create_revision != claim.revision:
        return Standing.LOST
    others = [kv.create_revision for kv in machine.range().kvs if kv.key.startswith(claim.prefix)]
    return Standing.HELD if min(others) == claim.revision else Standing.WAITING


class Locking(RuleBasedStateMachine):
    """Five clients with a lease each, on two locks of which one lies under the other, and one apart."""

    @initialize()
    def begin(self) -> None:
        self.machine = Machine()
        self.waiters = Waiters()
        self.claims: dict[Claim, Standing] = {}  # as the clients believe
        self.tokens: dict[bytes, int] = {}
        for lease in range(1, 6):
            self.machine.grant(lease)

    def told(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            assert self.claims[verdict.claim] is Standing.WAITING, "told twice"
            assert verdict.revision == self.machine.state.revision
            assert verdict.standing is naively(self.machine, verdict.claim)
            self.believe(verdict.claim, verdict.standing)

    def believe(self, claim: Claim, now: Standing) -> None:
        if now is Standing.HELD:
            assert claim.revision >= self.tokens.get(claim.prefix, 0), "a token that falls"
            self.tokens[claim.prefix] = claim.revision
        self.claims[claim] = now

    def change(self, *operations: RequestOp) -> None:
        before = self.machine.state.revision
        self.machine.txn(*operations)
        if self.machine.state.revision > before:
            changes = self.machine.state.space.log.at(before + 1)
            self.told(self.waiters.applied(self.machine.state.space, changes))

    @rule(lease=LEASE, name=NAME, at_once=st.booleans())
    def lock(self, lease: int, name: bytes, at_once: bool) -> None:
        claim, held = claimed(name, lease, self.machine.do(acquire(name, lease)))
        if self.claims.get(claim) is Standing.WAITING:
            return
        assert held == (naively(self.machine, claim) is Standing.HELD)
        if at_once:
            self.believe(claim, self.waiters.wait(self.machine.state.space, claim))
        else:
            self.claims.setdefault(claim, Standing.LOST)  # it asked, and went away without a word

    @rule(which=st.integers(0, 9))
    def wait_late(self, which: int) -> None:
        silent = [claim for claim, now in self.claims.items() if now is Standing.LOST]
        if silent:
            claim = silent[which % len(silent)]
            self.believe(claim, self.waiters.wait(self.machine.state.space, claim))

    @rule(which=st.integers(0, 9), silently=st.booleans())
    def unlock(self, which: int, silently: bool) -> None:
        """A client gives up what it has or waits for; or its key is deleted by somebody else."""
        mine = [claim for claim, now in self.claims.items() if now is not Standing.LOST]
        if mine:
            claim = mine[which % len(mine)]
            if not silently:
                self.waiters.give_up(claim)
                self.claims[claim] = Standing.LOST
            self.change(*release(claim).success)

    @rule(lease=LEASE)
    def end_of_a_lease(self, lease: int) -> None:
        keys = self.machine.state.leases.keys(lease)
        self.change(*(op_delete(key) for key in keys))

    @rule(name=NAME, lease=LEASE)
    def meddle(self, name: bytes, lease: int) -> None:
        """Somebody puts and deletes keys of the lock by hand."""
        self.change(op_delete(name + b"/2", b"\0"), op_put(name + b"/3", b"by hand", lease))

    @invariant()
    def nobody_is_overlooked_and_nobody_holds_beside_another(self) -> None:
        if not hasattr(self, "claims"):
            return
        holding: dict[bytes, set[Claim]] = {}
        for claim, believed in self.claims.items():
            now = naively(self.machine, claim)
            assert standing(self.machine.state.space, claim) is now
            if believed is Standing.WAITING:
                assert now is Standing.WAITING
            if now is Standing.HELD:
                holding.setdefault(claim.prefix, set()).add(claim)
        assert all(len(claims) == 1 for claims in holding.values())
        waiting = sum(believed is Standing.WAITING for believed in self.claims.values())
        assert len(self.waiters) == waiting


Locking.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLocking = Locking.TestCase
