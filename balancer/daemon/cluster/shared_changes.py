"""Weights and drains that hold at every balancer of a cluster: followed, written, put to use, and kept over restarts.

Without the cluster they stay as last known, also over a restart; nothing else can be said then, and that is told in
words. A file in `runtime_dir` keeps them, and counts until the cluster answers.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from balancer.admin.changes import LiveWeight, OutOfReachError, RefusedChangeError, UncertainChangeError
from balancer.clock import wall
from balancer.config import model
from balancer.consensus.client_errors import NotReachedError, OutcomeUnknownError, RefusedError
from balancer.consensus.client_kv import delete, modified_at, put
from balancer.coordination.errors import CoordinationError
from balancer.coordination.requests import RangeRequest
from balancer.coordination.responses import Event, EventType, RangeResponse
from balancer.daemon.cluster.changes import (
    ENTRIES_MAX,
    PREFIX,
    Change,
    KnownChanges,
    Place,
    Taken,
    UnreadableChangeError,
    change_of,
    changed,
    key_of,
    said_by,
)
from balancer.daemon.cluster.link import ClusterLink, Reached
from balancer.telemetry import events

log = structlog.get_logger()

FILE = "cluster-changes.json"

ANSWER_WITHIN = 8.0
"""Seconds for a change: more than one call takes that nobody answers, less than the commands wait."""

BEFORE_ANOTHER_LOOK = 0.1  # seconds, after a write whose outcome is not known
SAVE_AFTER = 0.2  # seconds, in which further news comes into the same file
IN_ONE_TURN = 100  # backends that are put to use before the loop gets a turn


class _NoRoomAnyMoreError(Exception):
    """Keys were left out for which there is room now."""


class SharedChanges:
    """What the cluster says of backends. Made inside the running loop; `run` until cancelled, then `close`."""

    def __init__(self, link: ClusterLink, folder: Path) -> None:
        self._link = link
        self._path = folder / FILE
        self._known = self._saved()
        self._changed: Callable[[str, str], None] = lambda pool, name: None
        self._to_use: dict[Place, None] = {}
        self._stirred, self._unsaved = asyncio.Event(), asyncio.Event()

    def tell(self, changed: Callable[[str, str], None]) -> None:
        """From now on call `changed(pool, name)` when something else is said of a backend."""
        self._changed = changed

    def configure(self) -> Iterator[None]:
        """A generation comes into use: whatever is said of its backends holds for them. O(entries), in slices."""
        for number, place in enumerate(self._known.places(), start=1):
            self._changed(*place)
            if number % IN_ONE_TURN == 0:
                yield

    # ---- what is said

    def weight(self, pool: str, name: str) -> int | None:
        """The weight of a backend; None = nothing is said of it."""
        change = self._known.of(pool, name)
        return None if change is None else change.weight

    def drained(self, pool: str, name: str) -> bool:
        """It is drained."""
        change = self._known.of(pool, name)
        return change is not None and change.drained

    def said_of(self, pool: str, name: str) -> str:
        """Who said it, and when, for a sentence; "" = nothing is said of this backend."""
        change = self._known.of(pool, name)
        return "" if change is None else said_by(change)

    def words(self, backends: dict[str, dict[str, model.Backend]]) -> Iterable[str]:
        """All of it, one line for each backend; `backends` are those here, by pool and name."""
        return self._known.words(backends)

    # ---- hearing of it

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._link.keep("changes", self._follow))
            tasks.create_task(self._put_to_use())
            tasks.create_task(self._save_now_and_then())

    def close(self) -> None:
        """Save what is not saved yet."""
        if self._unsaved.is_set():
            self._save()

    async def _follow(self, reached: Reached) -> None:
        with suppress(_NoRoomAnyMoreError):
            await self._link.follow(PREFIX, read=self._read, heard=self._heard, reached=reached)

    def _read(self, answer: RangeResponse) -> None:
        keys = ((kv.key, kv.value, kv.mod_revision) for kv in answer.kvs)
        self._take(self._known.read(keys, answer.header.revision, answer.header.cluster_id))
        self._unsaved.set()

    def _heard(self, event: Event) -> None:
        value = None if event.type is EventType.DELETE else event.kv.value
        taken = self._known.heard(event.kv.key, value, event.kv.mod_revision)
        self._take(taken)
        if taken.anew:
            raise _NoRoomAnyMoreError

    def _take(self, taken: Taken) -> None:
        for key, reason in taken.ignored:
            log.warning(events.KEY_IGNORED, part="changes", key=key, reason=reason)
        for place in taken.changed:
            self._to_use[place] = None
        if taken.changed:
            self._stirred.set()
            self._unsaved.set()

    async def _put_to_use(self) -> None:
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            while self._to_use:
                for place in [*self._to_use][:IN_ONE_TURN]:
                    self._use(place)
                await asyncio.sleep(0)

    def _use(self, place: Place) -> None:
        self._to_use.pop(place, None)
        pool, name = place
        change = self._known.of(pool, name) or Change()
        log.info(
            events.CHANGE_TAKEN, pool=pool, backend=name, weight=change.weight, drained=change.drained, by=change.by
        )
        self._changed(pool, name)

    # ---- saying it

    async def change(self, pool: str, name: str, *, weight: LiveWeight | None, drained: bool | None) -> None:
        """Have it said; the answer comes when the cluster has it and it is in use here. What is None stays as it is.

        Raises OutOfReachError and RefusedChangeError: nothing was changed. UncertainChangeError: perhaps it was.
        """
        doubts: list[str] = []
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await self._write((pool, name), weight, drained, doubts)
        except (TimeoutError, CoordinationError) as error:
            why = str(error) or f"no answer within {ANSWER_WITHIN:g} s"
            if doubts:
                raise UncertainChangeError(
                    f"whether the cluster has this change is not known ({why}): `balancer status` shows what holds, "
                    "once the cluster answers again. To repeat the command does no harm"
                ) from None
            if isinstance(error, RefusedError):
                raise RefusedChangeError(f"the cluster refused it, and nothing was changed: {why}") from None
            raise OutOfReachError(
                f"the cluster cannot be asked, so nothing was changed ({why}). Traffic goes on as before; without "
                "--cluster the command changes this balancer alone"
            ) from None
        self._save()

    async def _write(self, place: Place, weight: LiveWeight | None, drained: bool | None, doubts: list[str]) -> None:
        """Until the key says it. Others may write it meanwhile: what they say of the other half stays.

        `doubts` is not empty while a write may have been done, or may still be.
        """
        key = key_of(*place)
        while True:
            answer = await self._link.client.range(RangeRequest(key.encode()))
            found = answer.kvs[0] if answer.kvs else None
            try:
                before = None if found is None else change_of(found.value)
            except UnreadableChangeError as error:
                raise RefusedChangeError(
                    f"what the cluster has at {key} cannot be read ({error}); nothing was changed. Look at it with "
                    f"`balancer cluster kv get {key}`; `kv del` takes it away"
                ) from None
            by, at = self._link.name, datetime.fromtimestamp(wall(), UTC).isoformat(timespec="seconds")
            after = changed(before, weight=weight, drained=drained, by=by, at=at.replace("+00:00", "Z"))
            if after is before:  # it says so already; perhaps because a write of ours was done after all
                self._wrote(place, before, found.mod_revision if found else answer.header.revision)
                return
            if after is not None and not self._known.has_room_for(place):
                raise RefusedChangeError(f"the cluster has {ENTRIES_MAX:,} such changes; end some of them first")
            revision = await self._try(key, after, found.mod_revision if found else 0, doubts)
            if revision:
                self._wrote(place, after, revision)
                return

    async def _try(self, key: str, change: Change | None, known: int, doubts: list[str]) -> int:
        """Write it, if the key's last revision is still `known`; the new one's revision, 0 = look at it again."""
        before = len(doubts)
        doubts.append("it is under way")
        then = delete(key) if change is None else put(key, change.to_bytes())
        try:
            done = await self._link.client.txn([modified_at(key, known)], then=[then])
        except OutcomeUnknownError:
            await asyncio.sleep(BEFORE_ANOTHER_LOOK)
            return 0
        except NotReachedError:
            del doubts[before:]
            raise
        except RefusedError as error:
            if not error.doubtful:
                del doubts[before:]
            raise
        del doubts[before:]  # of an earlier one stay: it may be what changed the key meanwhile
        return done.header.revision if done.succeeded else 0

    def _wrote(self, place: Place, change: Change | None, revision: int) -> None:
        self._take(self._known.wrote(place, change, revision))
        if place in self._to_use:
            self._use(place)

    # ---- over a restart

    async def _save_now_and_then(self) -> None:
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(SAVE_AFTER)
            self._save()

    def _save(self) -> None:
        self._unsaved.clear()
        try:
            if len(self._known):
                written = self._path.with_suffix(".new")
                written.write_bytes(self._known.to_bytes())
                written.replace(self._path)
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:  # they hold until the daemon ends, and then until the cluster answers the next one
            log.warning(events.LIVE_CHANGES_NOT_SAVED, path=str(self._path), error=error.strerror or str(error))

    def _saved(self) -> KnownChanges:
        try:
            return KnownChanges.from_bytes(self._path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, UnreadableChangeError) as error:
            log.warning(events.LIVE_CHANGES_UNREADABLE, path=str(self._path), error=str(error))
        return KnownChanges()
