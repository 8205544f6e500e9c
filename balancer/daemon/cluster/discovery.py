"""Backends that register themselves: what is below the prefixes of the pools is read, watched, and put to use.

What is known stays in use while the cluster cannot be asked, and over a restart until it answers: a file keeps it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import structlog

from balancer.admin.changes import ReloadResult
from balancer.config.model import Backend, Config, Pool, ResolvedBackend
from balancer.coordination.responses import Event, EventType, RangeResponse
from balancer.daemon.cluster.link import ClusterLink, Reached
from balancer.daemon.cluster.registrations import (
    BACKENDS_MAX,
    KEYS_MAX,
    DamagedRegistrationsError,
    Registrations,
    from_bytes,
    to_bytes,
)
from balancer.telemetry import events, metrics
from balancer.telemetry.aggregate import Aggregate

log = structlog.get_logger()

FILE = "registered-backends.json"

READ_AGAIN = 1.0  # seconds before keys are read anew for which there was no room
REST = 2.0  # times what putting to use took is rested afterwards: a storm costs the supervisor a third of its time
REST_MAX = 5.0
AGAIN_FIRST, AGAIN_MAX = 0.2, 5.0  # seconds until a refused change is tried again: a worker's successor has come up
LACKING_AGAIN = 10.0  # seconds until backends without an address, or without a slot, are tried again
TELL_EVERY = 1.0  # seconds between two looks at what is wrong with keys
NAMES_TOLD = 20


class _RoomError(Exception):
    """There is room for keys that there was none for."""


class Discovery:
    """The registered backends of all pools. `extend` and `configure` may be called before `run`.

    `tell` comes before `run`. `folder` is where what is known lasts over a restart.
    """

    def __init__(self, link: ClusterLink, counted: Aggregate, folder: Path) -> None:
        self._link = link
        self._path = folder / FILE
        self._reapply: Callable[[], Awaitable[ReloadResult]] | None = None
        self._counted = counted
        self._prefixes: dict[str, str] = {}  # by pool
        self._known: dict[str, Registrations] = {}  # by pool; until another prefix is read the one before
        self._followed: dict[tuple[str, str], asyncio.Task[None]] = {}  # by pool and prefix
        self._saved = b""
        self._config: Config | None = None  # in use
        self._resolved: frozenset[tuple[str, str]] = frozenset()  # pool and backend that have an address there
        self._changed = False
        self._stirred, self._news, self._pools_changed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._lacking: asyncio.TimerHandle | None = None
        self._full: set[str] = set()  # pools that have less than what registered, as the log was told
        self._clashes: set[tuple[str, str]] = set()
        self._load()

    def tell(self, reapply: Callable[[], Awaitable[ReloadResult]]) -> None:
        """`reapply()` puts to use what `extend` makes of the file now."""
        self._reapply = reapply

    # ---- what a change of generations asks

    def extend(self, file: Config) -> Config:
        """`file` with what is registered, after the backends of the file in each pool; its own win. O(backends)."""
        if not self._known:
            return file
        return msgspec.structs.replace(file, pools=tuple(self._extended(pool) for pool in file.pools))

    def configure(self, config: Config, backends: Sequence[ResolvedBackend]) -> None:
        """A generation comes into use, with these addresses. O(backends)."""
        self._config = config
        prefixes = {pool.name: pool.backends_from.prefix for pool in config.pools if pool.backends_from is not None}
        if prefixes != self._prefixes or prefixes.keys() != self._known.keys():
            self._prefixes = prefixes
            known = self._known
            self._known = {pool: known[pool] if pool in known else Registrations(prefixes[pool]) for pool in prefixes}
            for gone in self._followed.keys() - prefixes.items():
                self._followed.pop(gone).cancel()
            self._pools_changed.set()
        self._resolved = frozenset((one.pool, one.name) for one in backends if one.pool in prefixes)
        self._stirred.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._put_to_use())
            tasks.create_task(self._tell_what_is_wrong())
            while True:
                for pool, prefix in self._prefixes.items() - self._followed.keys():
                    life = partial(self._follow, pool, prefix)
                    part = f"backends of pool {pool}"
                    self._followed[pool, prefix] = tasks.create_task(self._link.keep(part, life))
                await self._pools_changed.wait()
                self._pools_changed.clear()

    # ---- from the cluster

    async def _follow(self, pool: str, prefix: str, reached: Reached) -> None:
        """Read what is below a prefix and hear of every change, for ever. Raises CoordinationError."""
        while True:
            with suppress(_RoomError):
                await self._link.follow(
                    prefix, read=partial(self._read, pool, prefix), heard=partial(self._heard, pool), reached=reached
                )
            await asyncio.sleep(READ_AGAIN)

    def _read(self, pool: str, prefix: str, answer: RangeResponse) -> None:
        """These are all keys below a prefix."""
        known = self._known[pool]
        another = known.prefix != prefix
        if another:
            known = self._known[pool] = Registrations(prefix)
        self._stir(changed=known.replace(answer.kvs) or another)

    def _heard(self, pool: str, event: Event) -> None:
        """A key was written, or is there no more."""
        known = self._known[pool]
        changed = known.delete(event.kv.key) if event.type is EventType.DELETE else known.put(event.kv)
        if changed or known.has_problems:
            self._stir(changed=changed)
        if known.more and len(known) < KEYS_MAX:
            raise _RoomError

    def _stir(self, *, changed: bool) -> None:
        self._changed = self._changed or changed
        self._stirred.set()
        self._news.set()

    # ---- into use

    async def _put_to_use(self) -> None:
        """Whatever changed, as soon as that is possible and as seldom as its cost demands."""
        now, reapply = asyncio.get_running_loop().time, self._reapply
        assert reapply is not None, "tell comes before run"
        again = AGAIN_FIRST
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            began = now()
            pause = 0.0
            if self._changed:
                self._changed = False
                if (await reapply()).ok:
                    again = AGAIN_FIRST
                    self._save()
                else:
                    self._stir(changed=True)
                    pause, again = again, min(again * 2, AGAIN_MAX)
            if not self._changed:
                self._settle()
            await asyncio.sleep(max(pause, min(REST * (now() - began), REST_MAX)))

    def _extended(self, pool: Pool) -> Pool:
        known = self._known.get(pool.name)
        if pool.backends_from is None or known is None or not known.backends:
            return pool
        names = {backend.name for backend in pool.backends}
        further = tuple(backend for backend in known.backends if backend.name not in names)
        return msgspec.structs.replace(pool, backends=pool.backends + further)

    def _settle(self) -> None:
        """What is in use stands beside what is registered: count it, and tell what is not used."""
        if self._config is None:
            return
        lacking = False
        clashes: set[tuple[str, str]] = set()
        pools = {pool.name: pool for pool in self._config.pools}
        for name, known in self._known.items():
            entries = {backend.name: backend for backend in pools[name].backends}
            used = [backend for backend in known.backends if entries.get(backend.name) == backend]
            homeless = [backend for backend in known.backends if backend.name not in entries]
            clashes |= {(name, one.name) for one in known.backends if entries.get(one.name, one) != one}
            lacking = lacking or bool(homeless) or any((name, one.name) not in self._resolved for one in used)
            left_out = known.left_out + len(homeless)
            self._tell_left_out(name, homeless, left_out)
            for state, count in (("in_use", len(used)), ("left_out", left_out), ("wrong", known.wrong)):
                self._counted.set(metrics.REGISTERED_BACKENDS, (name, state), float(count))
        for pool, backend in sorted(clashes - self._clashes)[:NAMES_TOLD]:
            reason = "the file has a backend of this name"
            log.warning(events.REGISTRATION_LEFT_OUT, pool=pool, backends=[backend], reason=reason)
        self._clashes = clashes
        if self._lacking is not None:
            self._lacking.cancel()
        self._lacking = None
        if lacking:
            self._lacking = asyncio.get_running_loop().call_later(LACKING_AGAIN, partial(self._stir, changed=True))

    def _tell_left_out(self, pool: str, homeless: Sequence[Backend], left_out: int) -> None:
        """Once, until all of them are in use."""
        if left_out and pool not in self._full:
            names = [backend.name for backend in homeless[:NAMES_TOLD]]
            reason = "there are no slots left" if homeless else f"a pool takes {BACKENDS_MAX:,} that register"
            log.error(events.REGISTRATION_LEFT_OUT, pool=pool, backends=names, count=left_out, reason=reason)
            self._full.add(pool)
        elif not left_out:
            self._full.discard(pool)

    async def _tell_what_is_wrong(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            for pool, known in self._known.items():
                told, untold = known.take_problems()
                for key, problem in told:
                    log.warning(events.REGISTRATION_REFUSED, pool=pool, key=key, problem=problem)
                if untold:
                    log.warning(events.REGISTRATION_REFUSED, pool=pool, key="", problem=f"and {untold:,} more keys")
            await asyncio.sleep(TELL_EVERY)

    # ---- over a restart

    def _save(self) -> None:
        data = to_bytes(self._known)
        if data == self._saved:
            return
        try:
            if any(known.backends for known in self._known.values()):
                written = self._path.with_suffix(".new")
                written.write_bytes(data)
                written.replace(self._path)
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:  # they are used, and read from the cluster at the next start
            log.warning(events.REGISTRATIONS_NOT_SAVED, path=str(self._path), error=error.strerror or str(error))
        self._saved = data

    def _load(self) -> None:
        try:
            self._saved = self._path.read_bytes()
            self._known = from_bytes(self._saved)
        except FileNotFoundError:
            pass
        except (OSError, DamagedRegistrationsError) as error:
            log.warning(events.REGISTRATIONS_UNREADABLE, path=str(self._path), error=str(error))
