"""Runs a replica: the loop's clock ticks it, peers bring it messages, a thread writes for it, and who asks is woken.

Order is the replica's affair. Here it is decided only when: inputs of one turn of the loop share one `pump`, what a
pump wants written goes to the thread at once, and what it wants sent leaves in that turn.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Protocol

import structlog

from balancer.clock import monotonic
from balancer.consensus.peer_frames import Change, ChangeReply, Frame
from balancer.consensus.replica import Outlet, Replica
from balancer.consensus.tick_pace import TickPace
from balancer.consensus.writer import Storage, Writer
from balancer.coordination.revision_log import Changes
from balancer.coordination.state_machine import StateMachine
from balancer.raft.log_entry import Membership, NodeId, SnapshotMark
from balancer.raft.ready import Ready
from balancer.telemetry import events

log = structlog.get_logger()

SNAPSHOT_EVERY = 10_000
"""Entries between two snapshots: replaying so many at a start takes about a second."""
BEFORE_CAMPAIGN = (0.01, 0.15)
"""Seconds: a few round trips and writes between the first who campaigns and the next."""


class Links(Protocol):
    """The connections to the other members."""

    def send(self, to: NodeId, frame: Frame) -> None: ...


class Snapshots(Protocol):
    """Snapshots in files."""

    def load(self, mark: SnapshotMark) -> StateMachine:
        """The state in a snapshot that is here whole. For the loop."""

    def begin_save(self, mark: SnapshotMark, machine: StateMachine) -> Callable[[], None]:
        """Take hold of the state as it is now; calling the result, in any thread, writes it durably."""

    def marked(self, mark: SnapshotMark) -> None:
        """It is written: let the log say so. For the writer's thread."""


class Watchers(Protocol):
    """Who wants to hear of changes of the state."""

    def changed(self, changes: Changes, revision: int) -> None: ...

    def replaced(self, machine: StateMachine) -> None: ...


class Driver(Outlet):
    """See the module. `replica` is given after construction, since it wants its outlet first.

    `failed` is a future whose exception says why this member cannot go on.
    """

    def __init__(
        self, *, links: Links, storage: Storage, snapshots: Snapshots, watchers: Watchers, pace: TickPace
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._links = links
        self._snapshots = snapshots
        self._watchers = watchers
        self._pace = pace
        self._writer = Writer(self._loop, storage, persisted=self._persisted, failed=self._fail)
        self._replica: Replica | None = None
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._saving = False
        self._saved_index = 0
        self._closed = False
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self.on_membership: Callable[[Membership], None] = lambda _: None
        self.on_leader: Callable[[NodeId], None] = lambda _: None
        self.on_change: Callable[[NodeId, Change | ChangeReply], None] = lambda _sender, _frame: None

    @property
    def replica(self) -> Replica:
        """What it drives."""
        assert self._replica is not None, "start comes first"
        return self._replica

    @property
    def sync_p99(self) -> float:
        """Seconds that a write to the log takes, but for the slowest of a hundred."""
        return self._pace.sync_p99

    def start(self, replica: Replica) -> None:
        """Begin to tick."""
        self._replica = replica
        self._saved_index = replica.machine.applied_index
        self._due = monotonic() + self._pace.seconds
        self._timer = self._loop.call_later(self._pace.seconds, self._tick)

    def close(self) -> None:
        """End, when what was decided is written. Blocks for that long."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._replica is not None:
            self._replica.close()
        self._writer.close()

    def poke(self) -> None:
        """The replica was given something to do: see to it at the end of this turn of the loop."""
        if not self._pumping and not self._closed:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def received(self, sender: NodeId, frame: Frame) -> None:
        """A frame came from another member."""
        if self._closed:
            return
        if isinstance(frame, Change | ChangeReply):
            self.on_change(sender, frame)
            return
        self.replica.receive(sender, frame, monotonic())
        self.poke()

    def lost_link(self, to: NodeId, rng: Random) -> None:
        """Frames to this member leave no longer. Where it leads, it is probably dead: see whether others think so, too.

        Safe, since pre-votes are granted only by those who do not hear the leader either (thesis 9.6, 4.2.3); the
        pause, as in elections, lets one be first.
        """
        if self._closed or self.replica.leads or to != self.replica.leader:
            return
        self.replica.node.forget_leader()
        self.poke()
        self._loop.call_later(rng.uniform(*BEFORE_CAMPAIGN), self._campaign)

    def _campaign(self) -> None:
        if not self._closed and not self.replica.leader:
            self.replica.node.campaign()
            self.poke()

    # ---- the clock

    def _tick(self) -> None:
        now = monotonic()
        self._pace.ticked(late=now - self._due)
        self.replica.tick(now)
        self._pump()
        self._due = now + self._pace.seconds
        self._timer = self._loop.call_later(self._pace.seconds, self._tick)

    def _pump(self) -> None:
        self._pumping = False
        if self._closed:
            return
        try:
            self.replica.pump(monotonic())
        except Exception as error:  # noqa: BLE001 - whatever it is, this member is not to be trusted now
            self._fail(error)
            return
        self._save_if_due()

    def _persisted(self, number: int, seconds: float) -> None:
        self._pace.synced(seconds)
        if not self._closed:
            self.replica.persisted(number, monotonic())
            self.poke()

    def _fail(self, error: BaseException) -> None:
        if not self.failed.done():
            log.error(events.MEMBER_FAILED, error=str(error))
            self.failed.set_exception(error)
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    # ---- snapshots of our own

    def _save_if_due(self) -> None:
        replica = self.replica
        if self._saving or replica.machine.applied_index - self._saved_index < SNAPSHOT_EVERY:
            return
        self._saving = True
        mark = replica.node.applied_mark()
        # In a thread of its own: the log must not wait for it.
        save = self._loop.run_in_executor(None, self._snapshots.begin_save(mark, replica.machine))
        save.add_done_callback(lambda done: self._written(done, mark))

    def _written(self, done: "asyncio.Future[None]", mark: SnapshotMark) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._fail(error)
        elif not self._closed:
            self._writer.call(lambda: self._mark(mark))

    def _mark(self, mark: SnapshotMark) -> None:
        self._snapshots.marked(mark)
        self._loop.call_soon_threadsafe(self._saved, mark)

    def _saved(self, mark: SnapshotMark) -> None:
        self._saving = False
        self._saved_index = max(self._saved_index, mark.index)
        if not self._closed:
            self.replica.node.compact(mark)

    # ---- Outlet

    def send(self, to: NodeId, frame: Frame) -> None:
        self._links.send(to, frame)

    def write(self, ready: Ready) -> None:
        self._writer.put(ready)

    def install(self, mark: SnapshotMark) -> StateMachine:
        self._saved_index = mark.index
        return self._snapshots.load(mark)

    def changed(self, changes: Changes, revision: int) -> None:
        self._watchers.changed(changes, revision)

    def replaced(self, machine: StateMachine) -> None:
        self._watchers.replaced(machine)

    def membership(self, membership: Membership) -> None:
        self.on_membership(membership)

    def led_by(self, leader: NodeId) -> None:
        self.on_leader(leader)
