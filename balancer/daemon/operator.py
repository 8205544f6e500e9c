"""What the operator does to the running daemon: reload, drain, weight, further backends. `admin.changes` in earnest.

Law: a change that was answered with success is in use on every worker, and in the file in `runtime_dir` from which the
next start takes it; one that was refused has changed nothing.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from balancer.admin.changes import NewBackend, RefusedChangeError, ReloadResult, UnknownBackendError
from balancer.admin.status import Condition
from balancer.clock import monotonic, wall
from balancer.config.model import Config
from balancer.daemon.live_changes import DamagedChangesError, LiveChanges
from balancer.daemon.reload import Altered, Reloader
from balancer.daemon.states import States
from balancer.telemetry import events

log = structlog.get_logger()

FILE = "live-changes.json"


def as_it_is(file: Config) -> Config:
    """The file alone: no backend registers itself."""
    return file


class Operator:
    """The `SupervisorChanges` of the admin API. `alter` and `taken_into_use` are for whoever changes generations.
    A file of changes that cannot be read is told in the log and stays where it is until the next change.
    `extend` adds to the file's configuration the backends that registered themselves.
    """

    def __init__(
        self,
        folder: Path,
        states: States,
        reloader: Callable[[], Reloader],
        *,
        extend: Callable[[Config], Config] = as_it_is,
    ) -> None:
        self._path = folder / FILE
        self._states = states
        self._reloader = reloader
        self._extend = extend
        self._serial = asyncio.Lock()
        self.live = self._read()

    # ---- what a change of generations asks

    def alter(self, file: Config, discard: bool) -> Altered:
        """The configuration to use where the file says `file`: with the backends that were added, unless `discard`."""
        file = self._extend(file)
        if discard:
            return Altered(file, [f"{words}: discarded" for words in self.live.words()])
        kept, ended = self.live.carried_to(file)
        return Altered(kept.apply(file), ended)

    def taken_into_use(self, file: Config, *, starting: bool = False, discard: bool = False) -> None:
        """`file` is in use: what it overrules ends. The states know its backends; at the start they are told."""
        file = self._extend(file)
        if discard:
            self._end_all(file)
            return
        kept, ended = self.live.carried_to(file)
        for words in ended:
            log.info(events.LIVE_CHANGE_ENDED, change=words)
        if starting:
            for pool in kept.apply(file).pools:
                for backend in pool.backends:
                    weight, drained = kept.weight(pool.name, backend.name), kept.drained(pool.name, backend.name)
                    if weight is not None or drained:
                        self._states.set_live(pool.name, backend.name, weight=weight, drained=drained)
        self._keep(kept)

    # ---- what the admin API asks

    async def change(self, pool: str, name: str, *, weight: int | None, drained: bool | None) -> None:
        """Set the live weight, begin or end a drain; None = leave it. Raises UnknownBackendError."""
        async with self._serial:
            live = self.live.with_change(self._file(), pool, name, weight=weight, drained=drained)
            self._states.set_live(pool, name, weight=weight, drained=drained)
            self._keep(live)

    async def add(self, pool: str, spec: NewBackend) -> None:
        """Add a backend. Raises UnknownBackendError for the pool and RefusedChangeError."""
        async with self._serial:
            await self._put_to_use(self.live.with_backend(self._file(), pool, spec.entry()))

    async def delete(self, pool: str, name: str) -> None:
        """Take a backend away that was added. Raises UnknownBackendError and RefusedChangeError."""
        async with self._serial:
            await self._put_to_use(self.live.without_backend(self._file(), pool, name))

    async def reload(self, *, dry_run: bool, discard_live: bool) -> ReloadResult:
        """Read the file and put it to use, or tell what would change. `discard_live`: live changes end."""
        async with self._serial:
            return await self._reloader().reload(dry_run=dry_run, discard_live=discard_live)

    async def differs(self) -> list[str]:
        """How what is in use differs from the file, in words; empty = not at all."""
        result = await self._reloader().reload(dry_run=True)
        return [*result.changes, *(result.problems if not result.ok else []), *self.live.words()]

    # ---- what the admin API shows

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
        self._keep(self.live)

    def _end_all(self, file: Config) -> None:
        """The file alone holds: every live weight, drain and added backend ends."""
        live = self.live
        for words in live.words():
            log.info(events.LIVE_CHANGE_ENDED, change=f"{words}: discarded")
        for pool in file.pools:
            for backend in pool.backends:
                if live.weight(pool.name, backend.name) is not None or live.drained(pool.name, backend.name):
                    self._states.set_live(pool.name, backend.name, weight=backend.weight, drained=False)
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
