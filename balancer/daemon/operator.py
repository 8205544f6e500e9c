"""What the operator does to the running daemon: reload, drain, weight, further backends. `admin.changes` in earnest.

Law: a change that was answered with success is in use on every worker, and in the file in `runtime_dir` from which the
next start takes it; one that was refused has changed nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import structlog

from balancer.admin.changes import LiveWeight, NewBackend, RefusedChangeError, ReloadResult, UnknownBackendError
from balancer.admin.status import Condition
from balancer.clock import monotonic, wall
from balancer.config.model import Backend, Config
from balancer.config.scalars import shown
from balancer.daemon.live_changes import DamagedChangesError, Everywhere, Layers, LiveChanges
from balancer.daemon.reload import Altered, Reloader
from balancer.daemon.states import States
from balancer.telemetry import events

log = structlog.get_logger()

FILE = "live-changes.json"
ON_ITS_OWN = (
    "this balancer belongs to no cluster: its file has no `coordination`. Without --cluster the command changes this "
    "balancer alone"
)

Backends = dict[str, dict[str, Backend]]
"""The entries of all backends, by pool and name."""


class ChangesEverywhere(Everywhere, Protocol):
    """What operators set at all balancers that share a coordination."""

    def tell(self, changed: Callable[[str, str], None]) -> None:
        """From now on call `changed(pool, name)` when something else is said of a backend."""

    def said_of(self, pool: str, name: str) -> str:
        """Who said it, and when, for a sentence; "" = nothing is said of this backend."""

    def words(self, backends: Backends) -> Iterable[str]:
        """All of it, one line for each backend; `backends` are those here."""

    async def change(self, pool: str, name: str, *, weight: LiveWeight | None, drained: bool | None) -> None:
        """Have it said everywhere; it is in use here then. Raises as `SupervisorChanges.change`."""


class Registered(Protocol):
    """The backends that register themselves."""

    def extend(self, file: Config) -> Config:
        """`file` with them, after its own backends in each pool."""

    def tell(self, reapply: Callable[[], Awaitable[ReloadResult]]) -> None:
        """From now on call `reapply()` when `extend` makes something else of the file in use."""


def _as_it_is(file: Config) -> Config:
    """The file alone: no backend registers itself."""
    return file


class Operator:
    """The `SupervisorChanges` of the admin API. `alter` and `taken_into_use` are for whoever changes generations.
    A file of changes that cannot be read is told in the log and stays where it is until the next change.
    `registered` and `everywhere`: None where this balancer is on its own.
    """

    def __init__(
        self,
        folder: Path,
        states: States,
        reloader: Callable[[], Reloader],
        *,
        registered: Registered | None = None,
        everywhere: ChangesEverywhere | None = None,
    ) -> None:
        self._path = folder / FILE
        self._states = states
        self._reloader = reloader
        self._extend = _as_it_is if registered is None else registered.extend
        self._registered: frozenset[tuple[str, str]] = frozenset()
        self._everywhere = everywhere
        self._serial = asyncio.Lock()
        self._known: tuple[Config | None, Backends] = None, {}
        self.live = self._read()
        if everywhere is not None:
            everywhere.tell(self._settle)
        if registered is not None:
            registered.tell(self.reapply)

    # ---- what a change of generations asks

    def alter(self, file: Config, discard: bool) -> Altered:
        """The configuration to use where the file says `file`: with the backends that were added, unless `discard`."""
        extended = self._extend(file)
        further = _further(file, extended)
        if discard:
            return Altered(extended, [f"{words}: discarded" for words in self.live.words()], further)
        kept, ended = self.live.carried_to(extended)
        return Altered(kept.apply(extended), ended, further)

    def taken_into_use(self, file: Config, *, discard: bool = False) -> None:
        """`file` is in use: what it overrules ends, and what goes on holds for its backends, which the states know."""
        extended = self._extend(file)
        self._registered = _further(file, extended)
        file = extended
        if discard:
            self._end_all(file)
            return
        kept, ended = self.live.carried_to(file)
        for words in ended:
            log.info(events.LIVE_CHANGE_ENDED, change=words)
        self._keep(kept)
        for place in kept.changed():
            self._settle(*place)

    # ---- what the admin API asks

    async def change(
        self, pool: str, name: str, *, weight: LiveWeight | None, drained: bool | None, everywhere: bool = False
    ) -> list[str]:
        """Set the live weight, begin or end a drain, here or everywhere; None = leave it. Gives notes in words.

        Raises UnknownBackendError and RefusedChangeError; `everywhere` also OutOfReachError, UncertainChangeError.
        """
        if everywhere:
            await self._change_everywhere(pool, name, weight, drained)
            return self._notes(pool, name, weight, drained)
        async with self._serial:
            live = self.live.with_change(self._file(), pool, name, weight=weight, drained=drained)
            self._refuse_overruled(pool, name, weight, drained)
            self._put(pool, self._entry(pool, name), live)
            self._keep(live)
        return []

    async def add(self, pool: str, spec: NewBackend) -> None:
        """Add a backend. Raises UnknownBackendError for the pool and RefusedChangeError."""
        async with self._serial:
            await self._put_to_use(self.live.with_backend(self._file(), pool, spec.entry()))

    async def delete(self, pool: str, name: str) -> None:
        """Take a backend away that was added. Raises UnknownBackendError and RefusedChangeError."""
        async with self._serial:
            self._refuse_registered(pool, name)
            await self._put_to_use(self.live.without_backend(self._file(), pool, name))

    async def reapply(self) -> ReloadResult:
        """What registered itself has changed: put it to use."""
        async with self._serial:
            result = await self._reloader().reapply()
            if result.ok:
                self.taken_into_use(self._reloader().file)
            return result

    async def reload(self, *, dry_run: bool, discard_live: bool) -> ReloadResult:
        """Read the file and put it to use, or tell what would change. `discard_live`: live changes end."""
        async with self._serial:
            return await self._reloader().reload(dry_run=dry_run, discard_live=discard_live)

    async def differs(self) -> list[str]:
        """How what is in use differs from the file, in words; empty = not at all."""
        result = await self._reloader().reload(dry_run=True)
        wide = [] if self._everywhere is None else self._everywhere.words(self._backends())
        return [*result.changes, *(result.problems if not result.ok else []), *self.live.words(), *wide]

    # ---- what the admin API shows

    @property
    def values(self) -> Layers:
        """What operators set, here and everywhere."""
        return Layers(self.live, self._everywhere, self._registered)

    def conditions(self, pool: str, name: str, in_flight: Callable[[int], int]) -> dict[int, Condition]:
        """How each address of a backend fares, by slot; `in_flight(slot)` tells a drained one from a draining one."""
        try:
            facts = self._states.facts(pool, name, in_flight)
        except UnknownBackendError:
            return {}  # it left while the answer was made
        to_unix = wall() - monotonic()
        return {
            each.slot: Condition(
                state=each.state.value, share=each.share, since=each.since + to_unix, evidence=each.evidence
            )
            for each in facts
        }

    # ---- here and everywhere

    async def _change_everywhere(self, pool: str, name: str, weight: LiveWeight | None, drained: bool | None) -> None:
        if self._everywhere is None:
            raise RefusedChangeError(ON_ITS_OWN)
        only_ends = weight in (None, "file") and not drained
        if not (only_ends and self._everywhere.said_of(pool, name)):  # what is said of one that left can be ended
            self._entry(pool, name)
        await self._everywhere.change(pool, name, weight=weight, drained=drained)

    def _refuse_overruled(self, pool: str, name: str, weight: LiveWeight | None, drained: bool | None) -> None:
        """A change here that would change nothing, because of what is said everywhere."""
        if self._everywhere is None:
            return
        named = f"backend {shown(name)} of pool {shown(pool)}"
        said = self._everywhere.said_of(pool, name)
        wide = self._everywhere.weight(pool, name)
        if weight is not None and wide is not None:
            raise RefusedChangeError(
                f"{named} has weight {wide} in the whole cluster, {said}; change that with --cluster, or end it with "
                "`balancer weight POOL BACKEND file --cluster`"
            )
        if drained is False and self._everywhere.drained(pool, name):
            raise RefusedChangeError(
                f"{named} is drained in the whole cluster, {said}; `balancer undrain POOL BACKEND --cluster` ends that"
            )

    def _notes(self, pool: str, name: str, weight: LiveWeight | None, drained: bool | None) -> list[str]:
        """What of a change everywhere is otherwise here, because of what was set here."""
        notes = []
        live = self.live.weight(pool, name)
        if weight == "file" and live is not None:
            notes.append(f"here it has weight {live}, which was set at this balancer alone")
        if drained is False and self.live.drained(pool, name):
            notes.append("here it stays drained: that was begun at this balancer alone, and ends without --cluster")
        return notes

    def _settle(self, pool: str, name: str) -> None:
        """Something else is said of a backend, or another generation comes into use, which the states know."""
        entry = self._backends().get(pool, {}).get(name)
        if entry is not None:
            with suppress(UnknownBackendError):  # its pool is just coming into use, and then we are called again
                self._put(pool, entry, self.live)

    def _put(self, pool: str, entry: Backend, live: LiveChanges) -> None:
        """Have the states use what holds for a backend, with these live changes."""
        weight, drained = Layers(live, self._everywhere).in_use(pool, entry)
        self._states.set_live(pool, entry.name, weight=weight, drained=drained)

    def _entry(self, pool: str, name: str) -> Backend:
        """What is in use of a backend. Raises UnknownBackendError."""
        backends = self._backends()
        if pool not in backends:
            raise UnknownBackendError(pool, None, backends)
        if name not in backends[pool]:
            raise UnknownBackendError(pool, name, backends[pool])
        return backends[pool][name]

    def _backends(self) -> Backends:
        """Those of the generation in use. O(backends) once for each generation."""
        config = self._reloader().plan.config
        if self._known[0] is not config:
            by_pool = {pool.name: {backend.name: backend for backend in pool.backends} for pool in config.pools}
            self._known = config, by_pool
        return self._known[1]

    # ---- inside

    def _file(self) -> Config:
        return self._extend(self._reloader().file)

    async def _put_to_use(self, live: LiveChanges) -> None:
        before, self.live = self.live, live
        result = await self._reloader().reapply()
        if not result.ok:
            # Another reload may have come first, and have ended some of them.
            self._keep(before.carried_to(self._file())[0])
            raise RefusedChangeError("; ".join(result.problems))
        self.taken_into_use(self._reloader().file)

    def _refuse_registered(self, pool: str, name: str) -> None:
        """A backend is nobody's to delete who did not bring it in."""
        sources = {one.name: one.backends_from for one in self._reloader().file.pools}
        source = sources.get(pool)
        if source is not None and (pool, name) in self._registered:
            key = shown(f"{source.prefix}{name}")
            raise RefusedChangeError(
                f"{shown(name)} registered itself in the cluster: it goes when its key {key} is deleted (`balancer "
                "cluster kv del`) or its lease ends; until then, drain it"
            )

    def _end_all(self, file: Config) -> None:
        """The file alone holds: every live weight, drain and added backend ends."""
        live = self.live
        for words in live.words():
            log.info(events.LIVE_CHANGE_ENDED, change=f"{words}: discarded")
        for pool in file.pools:
            for backend in pool.backends:
                if live.weight(pool.name, backend.name) is not None or live.drained(pool.name, backend.name):
                    self._put(pool.name, backend, LiveChanges())
        self._keep(LiveChanges())

    def _keep(self, live: LiveChanges) -> None:
        self.live = live
        try:
            if len(live):
                written = self._path.with_suffix(".new")
                written.write_bytes(live.to_bytes())
                written.replace(self._path)
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:  # they hold until the daemon ends
            log.warning(events.LIVE_CHANGES_NOT_SAVED, path=str(self._path), error=error.strerror or str(error))

    def _read(self) -> LiveChanges:
        try:
            return LiveChanges.from_bytes(self._path.read_bytes())
        except FileNotFoundError:
            return LiveChanges()
        except (OSError, DamagedChangesError) as error:
            log.warning(events.LIVE_CHANGES_UNREADABLE, path=str(self._path), error=str(error))
            return LiveChanges()


def _further(file: Config, extended: Config) -> frozenset[tuple[str, str]]:
    """Pool and name of the backends that only `extended` has. O(backends)."""
    if extended is file:
        return frozenset()
    own = {(pool.name, backend.name) for pool in file.pools for backend in pool.backends}
    return frozenset((pool.name, backend.name) for pool in extended.pools for backend in pool.backends) - own
