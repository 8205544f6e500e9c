"""One member set under random faults: messages lost, repeated, reordered and late, links cut, members that crash and
lose what was not synced, slow disks and slow state machines, snapshots, transfers, changes of the membership. One seed
is one history; `Laws` look on after every step. Then all heals, and what is proposed must be committed everywhere.
"""

import sys
from collections import Counter
from random import Random

from balancer.raft.limits import Limits
from balancer.raft.log_entry import Membership
from balancer.raft.refusals import RefusedError
from tests.unit.raft.memory import BrokenLawError
from tests.unit.raft.network import Member, Network

LIMITS = Limits(
    append_bytes_max=200,
    in_flight_max=3,
    kept_entries_max=1,
    chunk_bytes=40,
    uncommitted_bytes_max=2_000,
    committed_bytes_max=150,
)
CALM = 400  # ticks in which a healed set must be of one mind


class Storm:
    """One history. `done` counts what happened in it."""

    def __init__(self, seed: int, size: int) -> None:
        self.rng = rng = Random(seed)
        self.done: Counter[str] = Counter()
        self.network = Network(range(1, size + 1), election_ticks=4, heartbeat_ticks=1, limits=LIMITS)
        self.network.rng.seed(seed)
        self.ids = list(self.network.members)
        self.loss = rng.choice((0.0, 0.05, 0.2))
        self.repeats = rng.choice((0.0, 0.1))
        self.disorder = rng.choice((0.0, 0.3, 1.0))
        self.slowness = [rng.choice((0.0, 0.5, 0.9)) for _ in range(size + 1)]  # of disks, by member
        self.wildness = rng.choice((0.01, 0.04, 0.08))
        self.reads: dict[tuple[int, int], int] = {}  # what each read that was asked for must see at least

    def run(self, steps: int) -> None:
        """The storm, then the calm."""
        rng = self.rng
        deeds = (self.crash, self.cut, self.heal, self.snapshot, self.transfer, self.change, self.campaign)
        weights = [rng.choice((0, 1, 3)) for _ in deeds]
        weights[-1] += 1
        for _ in range(steps):
            dice = rng.random()
            if dice < 0.75 and self.network.in_flight:
                self.work(self.deliver())
                continue
            member = self.member()
            if dice < 0.85:
                member.node.tick()
            elif dice < 1.0 - self.wildness:
                self.propose_or_read()
            else:
                rng.choices(deeds, weights)[0]()
            self.work(member)
        self.calm()

    def member(self) -> Member:
        return self.network.members[self.rng.choice(self.ids)]

    def work(self, member: Member) -> None:
        """Some of what there is to do."""
        member.take()
        if self.rng.random() >= self.slowness[member.id]:
            member.sync(self.rng.choice((1, 2, None)))
        member.apply(self.rng.choice((1, None)))
        self.check_reads(member)

    def deliver(self) -> Member:
        """A message, the oldest or any, to the member that is given back."""
        in_flight, rng = self.network.in_flight, self.rng
        at = rng.randrange(len(in_flight)) if rng.random() < self.disorder else 0
        message = in_flight[at]
        if rng.random() >= self.repeats:
            del in_flight[at]
        if rng.random() >= self.loss and (message.sender, message.to) not in self.network.cut:
            self.network.node(message.to).step(message)
            self.done["delivered"] += 1
        if len(in_flight) > 100:
            del in_flight[:50]
        return self.network.members[message.to]

    def propose_or_read(self) -> None:
        leader = self.network.leader()
        member = self.member() if leader is None or self.rng.random() < 0.3 else leader
        if self.rng.random() < 0.3:
            self.ask(member)
            return
        try:
            member.node.propose(b"%d" % self.rng.randrange(10_000))
            self.done["proposed"] += 1
        except RefusedError:
            self.done["refused"] += 1

    def ask(self, member: Member) -> None:
        """A read must see everything that was committed anywhere when it was asked for."""
        seen = max(self.network.laws.committed, default=0)
        self.reads[member.id, member.node.read_index()] = seen

    def check_reads(self, member: Member) -> None:
        for read in member.reads:
            if read.index < self.reads[member.id, read.read_id]:
                raise BrokenLawError(f"a stale read of {member.id}: {read}, {self.reads[member.id, read.read_id]} due")
            self.done["reads"] += 1
        member.reads.clear()
        member.refused_reads.clear()

    def crash(self) -> None:
        leader = self.network.leader()
        member = self.member() if leader is None or self.rng.random() < 0.5 else leader
        member.crash(self.rng.choice((0, 0, 1, 2, 5)))
        self.done["crashes"] += 1

    def cut(self) -> None:
        rng = self.rng
        if rng.random() < 0.5:
            self.network.isolate(*rng.sample(self.ids, rng.randrange(1, len(self.ids))))
        else:
            self.network.cut.add((rng.choice(self.ids), rng.choice(self.ids)))
        self.done["cuts"] += 1

    def heal(self) -> None:
        self.network.heal()

    def snapshot(self) -> None:
        leader = self.network.leader()
        (leader or self.member()).snapshot()
        self.done["snapshots"] += 1

    def campaign(self) -> None:
        """Somebody wants to lead, and a few have forgotten who does."""
        for member in self.network.members.values():
            if self.rng.random() < 0.7:
                member.node.forget_leader()
        self.member().node.campaign()

    def transfer(self) -> None:
        try:
            self.member().node.transfer_leadership(self.rng.choice(self.ids))
            self.done["transfers"] += 1
        except RefusedError:
            pass

    def change(self) -> None:
        """A voter becomes a learner, or a learner a voter."""
        leader = self.network.leader()
        if leader is None:
            return
        now = leader.node.status().membership
        one = self.rng.choice(self.ids)
        voters, learners = set(now.voters), set(now.learners)
        if one in voters:
            voters.remove(one)
            learners.add(one)
        else:
            voters.add(one)
            learners.discard(one)
        try:
            leader.node.propose_membership(Membership(tuple(sorted(voters)), tuple(sorted(learners))))
            self.done["changes"] += 1
        except RefusedError:
            pass

    def calm(self) -> None:
        """Nothing fails any more: soon all hold the same, and something new among it."""
        network = self.network
        network.heal()
        wanted = None
        for _ in range(CALM):
            network.tick()
            for member in network.members.values():
                self.check_reads(member)
            leader = network.leader()
            if leader is None:
                continue
            status = leader.node.status()
            if status.transfer_to:
                continue
            if wanted is None or status.term != wanted.term:
                wanted = leader.node.propose(b"calm")
                network.settle()
            states = [member.state for member in network.members.values()]
            if states[0].index >= wanted.index and all(state == states[0] for state in states):
                break
        else:
            raise BrokenLawError(f"not of one mind: {[member.node.status() for member in network.members.values()]}")
        self.done["elections"] += len(network.laws.leaders)
        self.done["installs"] += sum(member.snapshots.begun for member in network.members.values())


def run(seed: int, steps: int = 500) -> Counter[str]:
    """Plays one seed; an odd one has five members, an even one three."""
    storm = Storm(seed, 5 if seed % 2 else 3)
    storm.run(steps)
    return storm.done


if __name__ == "__main__":
    print(run(int(sys.argv[1])))
