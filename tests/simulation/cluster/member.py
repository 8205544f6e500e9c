"""One member over its lives: the real replica over the real storage, with a driver's duties done in virtual time."""

import errno
from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from balancer.consensus.peer_frames import Frame
from balancer.consensus.replica import Replica
from balancer.consensus.storage import Storage
from balancer.consensus.storage_errors import CorruptError, StorageFailedError
from balancer.consensus.wal_record import Identity
from balancer.coordination.key_space import KeySpace
from balancer.coordination.locks import Claim, Standing
from balancer.coordination.revision_log import Changes
from balancer.coordination.snapshot import Reader
from balancer.coordination.state_machine import StateMachine
from balancer.coordination.waiters import Verdict, Waiters
from balancer.raft.core import Core
from balancer.raft.log_entry import Membership, NodeId, SnapshotMark
from balancer.raft.node import Node
from balancer.raft.ready import Ready
from tests.simulation.cluster.dials import MAX_RATE, TICK
from tests.simulation.cluster.durable import DurableLog
from tests.simulation.cluster.laws import BrokenLawError
from tests.simulation.cluster.wiped import CLUSTER
from tests.simulation.cluster.writer import Writer
from tests.support.simulated_disk import Operation, PowerLoss, SimulatedDisk

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World


class Member:
    """See the module. It is the replica's `Outlet`. `state`: up, down, lost (its disk is gone), removed."""

    def __init__(self, world: "World", id: NodeId, membership: Membership) -> None:
        self.world = world
        self.id = id
        self.state = "down"
        self.life = 0  # what was planned in an earlier one does not happen
        self.durable = DurableLog()
        self.commit_seen = 0
        self.voters_seen: tuple[NodeId, ...] = ()
        self.left = False  # it is not among those that heal
        self.rate = world.rng.uniform(1 / MAX_RATE, MAX_RATE) if world.dials.drift else 1.0
        self.slow_until = 0.0
        self.origin = 0.0
        self.given = (0, 0, 0)  # term, vote and last index, as the disk was told
        self.unfinished: list[Ready] = []  # what an earlier life had not written yet
        self.lost_power = False
        self.noisy = False  # the last loss of power left noise: the storage may refuse what it finds
        self.disk = SimulatedDisk()
        self.disk.seed(world.rng.getrandbits(32))
        identity = Identity(CLUSTER, id, id.to_bytes(16, "little"))
        mark = SnapshotMark(membership=membership)
        Storage.create(self.disk, identity, mark, segment_bytes=world.dials.segment_bytes).close()
        self._clear()

    def _clear(self) -> None:
        """What ends with a life."""
        self.replica: Replica | None = None
        self.writer: Writer | None = None
        self.paused = False
        self.postponed: list[tuple[str, Callable[..., None], tuple[Any, ...]]] = []
        self.pump_planned = False
        self.asked: dict[int, Callable[[object], None]] = {}  # who waits for an answer of this life
        self.waiters = Waiters()
        self.claims: dict[Claim, Callable[[object], None]] = {}

    # ---- its life

    @property
    def up(self) -> bool:
        return self.replica is not None

    @property
    def core(self) -> Core:
        assert self.replica is not None
        return self.replica.node._core

    @property
    def machine(self) -> StateMachine:
        """Its state."""
        assert self.replica is not None
        return self.replica.machine

    @property
    def leads(self) -> bool:
        return self.replica is not None and self.replica.leads

    def local(self) -> float:
        """Its monotonic clock; every life has another origin."""
        return self.origin + self.world.timeline.now * self.rate

    def start(self) -> None:
        """Begin a life with what the disk has."""
        world, rng = self.world, self.world.rng
        try:
            if not world.healing and rng.random() < 0.05:
                self.disk.crash_at(self.disk.operations + rng.randrange(4))
            opened = Storage.open(self.disk, segment_bytes=world.dials.segment_bytes)
        except PowerLoss:
            self._lose_power()
            world.counts["crashes while starting"] += 1
            world.timeline.after(0.1, self.restart)
            return
        except StorageFailedError:
            self.disk.heal()
            self.disk.kill()
            world.counts["disk failures while starting"] += 1
            world.timeline.after(0.1, self.restart)
            return
        except CorruptError:
            if not self.noisy:
                raise
            self.state = "lost"
            world.counts["refused after noise"] += 1
            return
        self.disk.heal()
        self.noisy = False
        if opened is None:
            raise BrokenLawError(f"member {self.id} finds its disk empty")
        storage, recovered = opened
        self.writer = Writer(self, storage, recovered.mark.index)
        if missing := self.durable.after_crash(recovered, self.unfinished):
            raise BrokenLawError(f"member {self.id} lost what was durable: {'; '.join(missing)}")
        state = recovered.hard_state
        found = (state.term, state.vote, recovered.mark.index + len(recovered.entries))
        world.counts["crashes that lost unsynced data"] += self.lost_power and self.given != found
        self.given = found
        self.lost_power = False
        self.unfinished = []
        self.state = "up"
        self.life += 1
        self.origin = rng.uniform(0.0, 1e5)
        self.commit_seen = 0
        machine = self._load(recovered.mark) if recovered.mark.index else self._hooked(StateMachine())
        dials = world.dials
        node = Node(
            self.id,
            rng=Random(rng.getrandbits(64)),
            snapshots=storage.snapshots,
            mark=recovered.mark,
            hard_state=recovered.hard_state,
            entries=recovered.entries,
            election_ticks=dials.election_ticks,
            heartbeat_ticks=dials.heartbeat_ticks,
            limits=dials.limits,
        )
        grace = 2 * dials.election_ticks * TICK
        self.replica = Replica(node, machine, self, token=rng.getrandbits(62), grace=grace)
        self.voters_seen = self.core.membership.voters
        world.timeline.after(rng.random() * TICK, self.happen, self.life, "tick", self._tick)

    def restart(self) -> None:
        """Begin a life by itself, if that is wanted."""
        if self.state == "down" and not (self.left and self.world.healing):
            self.start()

    def end(self) -> None:
        """The process is gone, and with it everything that was not on the disk."""
        self.unfinished = [] if self.writer is None else self.writer.unfinished
        asked = list(self.asked.values())
        self._clear()
        self.life += 1
        if self.state == "up":
            self.state = "down"
        for answer in asked:
            self.world.timeline.after(0.001, answer, None)

    def _lose_power(self) -> None:
        """What was not synced stays, goes, or is noise where the cluster can bear the loss of this disk."""
        world = self.world
        garble = world.dials.garble if self.noisy or world.may_lose_disk(self) else 0.0
        self.noisy = garble > 0
        self.lost_power = True
        self.disk.crash(world.rng, garble=garble)

    def crash(self) -> None:
        """The machine loses power."""
        world = self.world
        self.end()
        self._lose_power()
        if world.rng.random() < 0.5:
            world.network.lose_sent_by(self.id)
        world.counts["crashes"] += 1
        world.tell("crash", self.id)
        world.restart_later(self)

    def kill(self) -> None:
        """The process ends, the machine goes on."""
        self.end()
        self.disk.kill()
        self.world.counts["kills"] += 1
        self.world.tell("kill", self.id)
        self.world.restart_later(self)

    def stop(self) -> None:
        """The process is ended in good order."""
        assert self.replica is not None
        assert self.writer is not None
        self.replica.close()
        try:
            self.durable.written(self.writer.close())
        except (StorageFailedError, PowerLoss):
            self.crash()
            return
        self.end()
        self.disk.kill()
        self.world.counts["restarts"] += 1
        self.world.tell("stop", self.id)
        self.world.restart_later(self)

    def _failed(self) -> None:
        """The disk refused: the member ends, and reads everything again when it comes back."""
        world = self.world
        world.counts["disk failures"] += 1
        world.tell("disk failed", self.id)
        self.end()
        self.disk.kill()
        if world.rng.random() < 0.3:
            self._lose_power()
        self.disk.heal()
        world.restart_later(self)

    def plan_failure(self, rng: Random) -> None:
        """Some operation of the disk will fail."""
        code = rng.choice((errno.EIO, errno.ENOSPC))
        operations: tuple[Operation, ...] = ("write", "sync", "any")
        self.disk.fail(rng.choice(operations), after=rng.randrange(6), code=code, times=rng.choice((1, 1_000_000)))

    def pause(self, seconds: float) -> None:
        """The process stands still; what comes meanwhile waits."""
        self.paused = True
        self.world.timeline.after(seconds, self.resume, self.life)

    def resume(self, life: int) -> None:
        """It goes on, unless it ended since."""
        if life != self.life or not self.paused:
            return
        self.paused = False
        postponed, self.postponed = self.postponed, []
        if self.world.rng.random() < 0.5:  # clients' connections are looked at before the peers'
            postponed.sort(key=lambda each: each[0] != "ask")
        for what, call, args in postponed:
            self.happen(life, what, call, *args)

    # ---- what happens to it

    def happen(self, life: int, what: str, call: Callable[..., None], *args: Any) -> None:
        """One step, in that life of the member, and the pump that follows it."""
        if life != self.life:
            return
        if self.paused:
            self.postponed.append((what, call, args))
            return
        world = self.world
        world.step(what, self.id, args)
        replica = self.replica
        assert replica is not None
        try:
            call(*args)
            if world.dials.lag and what != "tick":
                if not self.pump_planned:
                    self.pump_planned = True
                    world.timeline.after(world.dials.lag, self._pump_later, life)
            else:
                self._pump(replica)
        except PowerLoss:
            self.crash()
            return
        except StorageFailedError:
            self._failed()
            return
        world.laws.look(self)

    def _pump_later(self, life: int) -> None:
        if life != self.life:
            return
        if self.paused:
            self.postponed.append(("pump", lambda: None, ()))
            self.pump_planned = False
            return
        self.pump_planned = False
        assert self.replica is not None
        try:
            self._pump(self.replica)
        except PowerLoss:
            self.crash()
        except StorageFailedError:
            self._failed()
        else:
            self.world.laws.look(self)

    def _pump(self, replica: Replica) -> None:
        replica.pump(self.local())
        assert self.writer is not None
        self.writer.save_if_due(replica)

    def _tick(self) -> None:
        assert self.replica is not None
        self.world.timeline.after(TICK / self.rate, self.happen, self.life, "tick", self._tick)
        self.replica.tick(self.local())

    def receive(self, sender: NodeId, frame: Frame) -> None:
        assert self.replica is not None
        self.replica.receive(sender, frame, self.local())

    # ---- its state

    def _load(self, mark: SnapshotMark) -> StateMachine:
        assert self.writer is not None
        reader = Reader()
        for piece in self.writer.storage.snapshots.pieces(mark):
            reader.feed(piece)
        machine = reader.finish()
        self.world.laws.installed(self, machine, mark)
        return self._hooked(machine)

    def _hooked(self, machine: StateMachine) -> StateMachine:
        machine.apply = partial(self.world.laws.applies, self, machine)  # type: ignore[method-assign]
        return machine

    # ---- Outlet

    def send(self, to: NodeId, frame: Frame) -> None:
        world = self.world
        world.laws.sends(self, frame)
        if to in world.members:
            world.network.send(self.id, to, frame)

    def write(self, ready: Ready) -> None:
        self.world.laws.writes(self, ready)
        term, vote, last = self.given
        if ready.hard_state is not None:
            term, vote = ready.hard_state.term, ready.hard_state.vote
        if ready.snapshot is not None:
            last = ready.snapshot.index
        if ready.entries:
            last = ready.entries[-1].index
        self.given = (term, vote, last)
        assert self.writer is not None
        self.writer.put(ready)

    def install(self, mark: SnapshotMark) -> StateMachine:
        self.world.counts["snapshot installs"] += 1
        assert self.writer is not None
        self.writer.saved_index = mark.index
        return self._load(mark)

    def changed(self, changes: Changes, revision: int) -> None:
        self._decide(self.waiters.applied(self.machine.space, changes), self.machine.space)

    def replaced(self, machine: StateMachine) -> None:
        self._decide(self.waiters.restored(machine.space), machine.space)

    def _decide(self, verdicts: list[Verdict], space: KeySpace) -> None:
        for verdict in verdicts:
            done = self.claims.pop(verdict.claim, None)
            if verdict.standing is Standing.HELD:
                self.world.lock_laws.given(space, verdict.claim)
            if done is not None:
                done(verdict.standing)

    def membership(self, membership: Membership) -> None:
        self.world.saw_membership(self.core.applied, membership)

    def led_by(self, leader: NodeId) -> None:
        pass
