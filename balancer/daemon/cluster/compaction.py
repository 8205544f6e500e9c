"""The duty that bounds the history of the embedded cluster: whoever has it gives up old revisions for all members.

Every change of a key stays readable, and counts against the store's quota, until the history before it is compacted
away. It is kept for those who lag: a watch that was cut off goes on where it was, for as long as the revisions that it
has missed are there. What was given up, and the mark up to which comes next, stand at a key:

    /balancer/compaction  {"version": 1, "mark": 1204, "compacted": 870}

A successor goes on from there after a whole interval of its own, since nobody's clock tells it how old the mark is. So
where the duty changes hands all the time the history grows longer, up to the other two bounds.

An etcd has its own way (`--auto-compaction-retention`), which is for its operator to choose.
"""

import asyncio
from typing import NamedTuple

import msgspec
import structlog

from balancer.consensus.client import Coordination
from balancer.consensus.client_errors import LockLostError, RefusedError
from balancer.consensus.client_kv import get, put
from balancer.coordination.errors import Code
from balancer.coordination.requests import Compare
from balancer.coordination.state_machine import QUOTA
from balancer.telemetry import events

log = structlog.get_logger()

KEY = "/balancer/compaction"
VERSION = 1


class Bounds(NamedTuple):
    """When the past is given up.

    `interval` (seconds): each time, what is older than the time before, so that five to ten minutes can be read again:
    far more than a lost connection or an election takes. As etcd's own periodic compaction when it is asked for 5 min.

    `revisions` since the last compaction: at once. A busy cluster makes so many in less than a minute; each counts for
    256 bytes and its keys and values, so that small ones take less than a third of the quota.

    `growth` (bytes) of the store since the last compaction: at once. Large values would fill the quota, at which every
    write is refused, long before there are many of them.

    `look` (seconds): how often revision and size of the own member are looked at, which costs no consensus. A small
    share of the time in which a busy cluster makes so many revisions.
    """

    interval: float = 300.0
    revisions: int = 100_000
    growth: int = QUOTA // 4
    look: float = 2.0


KEPT_SHARE = 10
"""At once means: the newest tenth of the revisions stays. A watch that is a moment behind still needs them."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """`mark`: the revision to compact to next. `compacted`: the one compacted to last."""

    mark: int = 0
    compacted: int = 0
    version: int = VERSION


class Compaction:
    """`work` is the duty."""

    def __init__(self, client: Coordination, bounds: Bounds | None = None) -> None:
        self._client = client
        self._bounds = bounds or Bounds()
        self._progress = Progress()
        self._least = 0  # bytes, the least since the last compaction

    async def work(self, guard: Compare) -> None:
        """Compact again and again. Raises LockLostError when the guard does not hold, and CoordinationError."""
        bounds, now = self._bounds, asyncio.get_running_loop().time
        self._progress = await self._left_behind()
        self._least = 0  # it is not known how much of the store is history: all of it, at worst
        due = now() + bounds.interval
        while True:
            await asyncio.sleep(bounds.look)
            (standing,) = await self._client.status()
            if standing.status is None:  # it starts anew; whether we still lead is not for this to find out
                continue
            revision, size = standing.status.header.revision, standing.status.dbSize
            self._least = min(self._least, size)
            progress = self._progress
            if now() >= due:
                due = now() + bounds.interval
                await self._advance(guard, progress.mark, mark=revision, size=size)
            elif revision - progress.compacted > bounds.revisions or size - self._least > bounds.growth:
                to = revision - (revision - progress.compacted) // KEPT_SHARE
                await self._advance(guard, to, mark=to, size=size)

    async def _left_behind(self) -> Progress:
        """How far the one before came."""
        answer = await self._client.range(get(KEY))
        if not answer.kvs:
            return Progress()
        try:
            left = msgspec.json.decode(answer.kvs[0].value, type=Progress)
            reason = "" if left.version == VERSION else f"version {left.version}; this balancer knows version {VERSION}"
        except msgspec.MsgspecError as error:
            left, reason = Progress(), str(error)
        if reason:
            log.warning(events.KEY_IGNORED, part="duty compaction", key=KEY, reason=reason)
            return Progress()
        newest = answer.header.revision  # whoever else writes there shall not stop us for ever
        return Progress(mark=min(left.mark, newest), compacted=min(left.compacted, newest))

    async def _advance(self, guard: Compare, to: int, *, mark: int, size: int) -> None:
        """Give up what is before `to`. Raises LockLostError: somebody else leads, and nothing was done."""
        before = self._progress
        after = Progress(mark=max(mark, before.mark), compacted=max(to, before.compacted))
        if not await self._record(guard, after):
            raise LockLostError(f"{KEY} is written by another balancer now")
        self._progress = after
        if after.compacted > before.compacted:
            try:
                await self._client.compact(after.compacted)
            except RefusedError as error:
                if error.code is not Code.OUT_OF_RANGE:  # an operator's compaction went further
                    raise
            self._least = size  # less in a moment: it is swept little by little

    async def _record(self, guard: Compare, progress: Progress) -> bool:
        """Whether we lead, and if so, the next one knows how far we are."""
        try:
            answer = await self._client.txn([guard], then=[put(KEY, msgspec.json.encode(progress))])
        except RefusedError as error:
            if error.code is not Code.RESOURCE_EXHAUSTED:
                raise
            answer = await self._client.txn([guard])  # the store is full, so it is all the more urgent
        return answer.succeeded
