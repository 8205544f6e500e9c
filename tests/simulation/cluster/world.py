"""One history of one cluster: everything is drawn from the seed, and everything that happens is a step of it.

python -m tests.simulation.cluster --seed N
"""

import itertools
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from random import Random
from typing import Any

from balancer.raft.log_entry import Membership, NodeId
from tests.simulation.cluster.calm import heal
from tests.simulation.cluster.clients import KEYS, LOCKS, Clients
from tests.simulation.cluster.dials import drawn
from tests.simulation.cluster.faults import Faults
from tests.simulation.cluster.history import Truth, check_replay
from tests.simulation.cluster.laws import BrokenLawError, Laws
from tests.simulation.cluster.linearizable import UndecidedError, check_key
from tests.simulation.cluster.lock_laws import LockLaws, check_fencing
from tests.simulation.cluster.member import Member
from tests.simulation.cluster.network import Network
from tests.simulation.cluster.operator import Operator
from tests.simulation.cluster.timeline import Timeline

Tell = Callable[[str], None]


class World:
    """See the module. `tell` hears every step; without it none is put into words."""

    def __init__(self, seed: int, tell: Tell | None = None) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.dials = drawn(self.rng)
        self.timeline = Timeline()
        self.counts: Counter[str] = Counter()
        self.numbers = itertools.count(1)
        self.healing = False
        self._tell = tell
        self._trace = blake2b(digest_size=16)
        self.laws = Laws(lambda: self.timeline.now, self.counts)
        self.lock_laws = LockLaws(self.laws)
        self.network = Network(self)
        self.membership = Membership(tuple(range(1, self.dials.size + 1)))
        self.membership_before = self.membership
        self.membership_index = 0
        self.members: dict[NodeId, Member] = {}
        for id in self.membership.voters:
            self.add(id, self.membership)

    def add(self, id: NodeId, membership: Membership) -> Member:
        """Another member, not started yet."""
        member = self.members[id] = Member(self, id, membership)
        return member

    # ---- what happens

    def run(self) -> Counter[str]:
        """The whole history, and the judgement of it. What happened, by its name."""
        if self._tell:
            self._tell(repr(self.dials))
        for member in list(self.members.values()):
            member.start()
        self.clients = Clients(self)
        self.faults = Faults(self)
        Operator(self)
        self.timeline.run(self.dials.span)
        heal(self)
        self._judge()
        return self.counts

    def step(self, what: str, id: NodeId, args: tuple[Any, ...]) -> None:
        """Something is about to happen to a member."""
        self.counts["steps"] += 1
        self._trace.update(b"%a %d %a" % (what, id, self.timeline.now))
        if self._tell:
            told = " ".join(str(arg) for arg in args if not callable(arg) and not isinstance(arg, Member))
            self._tell(f"{self.timeline.now:9.4f}  {id}  {what} {told}")

    def tell(self, what: str, id: NodeId) -> None:
        """Something has happened to a member."""
        if self._tell:
            self._tell(f"{self.timeline.now:9.4f}  {id}  -- {what}")

    def restart_later(self, member: Member) -> None:
        """It comes back, by itself, after a while."""
        self.timeline.after(0.1 if self.healing else self.rng.choice((0.05, 0.3, 1.0)), member.restart)

    def may_lose_disk(self, member: Member) -> bool:
        """Whether the others could decide without this one for ever."""
        voters = self.membership.voters
        if self.healing or not self.dials.weights["wipe"] or member.id not in voters or len(voters) < 3:
            return False
        return not any(self.members[id].state == "lost" or self.members[id].noisy for id in voters)

    def saw_membership(self, index: int, membership: Membership) -> None:
        """A member uses this one from `index` on."""
        if index > self.membership_index:
            self.membership_index = index
            if membership != self.membership:
                self.membership_before, self.membership = self.membership, membership
                self.counts["membership changes"] += 1

    # ---- the judgement

    def _judge(self) -> None:
        truth = Truth(self.laws.truth)
        operations = self.clients.operations
        self.counts["reads checked"] += check_replay(operations, truth)
        self.counts["acknowledged writes"] += self.clients.done["write"]
        self.counts["locks held"] += self.clients.done["lock"]
        self.counts["writes under a lock"] += check_fencing(truth, LOCKS)
        self.counts["histories"] += 1
        for key in KEYS:
            # A write that is nowhere to be seen was never done: it would only make the search longer.
            seen = [each for each in operations if each.key == key and (each.revision or each.value is None)]
            try:
                if not check_key(seen):
                    raise BrokenLawError(f"the history of key {key!r} is not linearizable")
                self.counts["keys found linearizable"] += 1
            except UndecidedError:
                self.counts["keys undecided"] += 1
        hashes = {each.core.applied: each.replica.machine.hash() for each in self.members.values() if each.replica}
        self._trace.update(repr((sorted(hashes.items()), len(operations), sorted(self.counts.items()))).encode())

    @property
    def trace(self) -> str:
        """A digest of every step."""
        return self._trace.hexdigest()


class HistoryFailedError(Exception):
    """A law was broken, or a part of a member raised what it must not. The text says how to play it again."""


def play(seed: int, tell: Tell | None = None) -> World:
    """One history. Raises HistoryFailedError."""
    world = World(seed, tell)
    try:
        world.run()
    except Exception as error:
        replay = f"replay: python -m tests.simulation.cluster --seed {seed}"
        raise HistoryFailedError(f"{type(error).__name__}: {error}; {replay}") from error
    return world
