"""The thread that writes for a member, in virtual time: batches as they come, snapshots between them.

What is done to the disk is done when the time of a job is over; a crash that was planned for one of its operations
happens in the middle of it.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from balancer.consensus.replica import Replica
from balancer.consensus.storage import Storage
from balancer.coordination.snapshot import View
from balancer.raft.log_entry import SnapshotMark
from balancer.raft.ready import Ready
from tests.simulation.cluster.laws import BrokenLawError

if TYPE_CHECKING:
    from tests.simulation.cluster.member import Member

IDLE_AFTER = 0.5

Save = tuple[SnapshotMark, int, Iterator[bytes]]


class Writer:
    """One for each life of a member."""

    def __init__(self, member: "Member", storage: Storage, saved_index: int) -> None:
        self.storage = storage
        self.saved_index = saved_index
        self._member = member
        self._jobs: deque[Ready | Save | None] = deque()  # None: the storage is told that there is nothing to write
        self._doing: list[Ready] | Save | None = None
        self._busy = False
        self._saving = False
        self._done_at = 0.0

    @property
    def unfinished(self) -> list[Ready]:
        """What is not certain to be on the disk."""
        doing = self._doing if isinstance(self._doing, list) else ()
        return [each for each in (*doing, *self._jobs) if isinstance(each, Ready)]

    def put(self, ready: Ready) -> None:
        """To be written after all that came before it."""
        self._jobs.append(ready)
        self._work()

    def save_if_due(self, replica: Replica) -> None:
        """As the driver: the view is of now, its slices are made later, while entries are applied."""
        index = replica.machine.applied_index
        if self._saving or index - self.saved_index < self._member.world.dials.snapshot_every:
            return
        self._saving = True
        mark = replica.node.applied_mark()
        slices = View(replica.machine).slices()
        self._jobs.append((mark, index, itertools.chain([next(slices)], slices)))
        self._work()

    def _work(self) -> None:
        jobs, member = self._jobs, self._member
        if self._busy or not jobs:
            return
        self._busy = True
        first = jobs.popleft()
        if isinstance(first, Ready):
            batch = [first]
            while jobs and isinstance(jobs[0], Ready):
                batch.append(jobs.popleft())  # type: ignore[arg-type]
            self._doing = batch
        else:
            self._doing = first
        world = member.world
        seconds = world.rng.expovariate(1 / world.dials.disk_mean)
        if world.timeline.now < member.slow_until:
            seconds = seconds * 20 + world.rng.random() * 0.2
        world.timeline.after(seconds, member.happen, member.life, "disk", self._write, member)

    def _write(self, member: "Member") -> None:
        job, replica = self._doing, member.replica
        assert replica is not None
        if isinstance(job, list):
            self.storage.write(job)
            member.durable.written(job)
            self._doing = None
            replica.persisted(job[-1].number, member.local())
        elif job is None:
            self.storage.idle()
        else:
            self._save(replica, *job)
        self._doing = None
        self._busy = False
        timeline = member.world.timeline
        if self._jobs:
            self._work()
        elif job is not None:
            self._done_at = timeline.now
            timeline.after(IDLE_AFTER, self._idle, member.life, timeline.now)

    def _save(self, replica: Replica, mark: SnapshotMark, index: int, pieces: Iterator[bytes]) -> None:
        member = self._member
        if self.storage.save(mark, pieces):
            if mark.index != index:
                raise BrokenLawError(f"member {member.id}: the state after {index} is saved as that after {mark.index}")
            member.world.counts["snapshots saved"] += 1
        self._saving = False
        self.saved_index = max(self.saved_index, mark.index)
        replica.node.compact(mark)

    def _idle(self, life: int, done_at: float) -> None:
        if life == self._member.life and not self._busy and self._done_at == done_at:
            self._jobs.append(None)
            self._work()

    def close(self) -> list[Ready]:
        """Write what there is, and let go of the disk. What was written."""
        readys = self.unfinished
        if readys:
            self.storage.write(readys)
        self.storage.close()
        self._jobs.clear()
        self._doing = None
        return readys
