"""Hot reload: from "the file may have changed" to another generation in use everywhere, or to nothing changed at all.

Law: one reload at a time, and those who ask while one is under way share the next one. Whatever can fail comes before
the first Commit: reading and checking the file (in a process of its own), what needs a restart, names, room in shared
memory, TLS files, new addresses, and what every worker says of it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import structlog

from balancer.admin.changes import ReloadResult
from balancer.clock import monotonic
from balancer.config.diff import Difference, difference
from balancer.config.model import Backend, Config
from balancer.daemon import two_phases
from balancer.daemon.bindings import Bindings, Rebinding
from balancer.daemon.columns import Columns
from balancer.daemon.files import FilesError, named_files, read_files
from balancer.daemon.known_names import KnownNames
from balancer.daemon.loader import BadConfig, Loader
from balancer.daemon.messages import Prepare
from balancer.daemon.process_setup import Settling
from balancer.daemon.resolve import Address, Resolution, is_name, resolve
from balancer.daemon.shared_memory import SlotsExhaustedError
from balancer.daemon.workers import Workers
from balancer.telemetry import events
from balancer.transport.sockets import BindError, url

log = structlog.get_logger()

STOPPING = "the daemon is stopping"
TOLD_MAX = 20  # changes or problems in one log event
NEW_NAME_TIMEOUT = 1.0  # seconds for names in a change that others wait for; they are asked for again later


class NotUsableError(Exception):
    """The configuration is refused; one text per problem. `passing`: the next try may go well."""

    def __init__(self, *problems: str, passing: bool = False) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)
        self.passing = passing


@dataclass(frozen=True, slots=True)
class Altered:
    """What the operator makes of a file's configuration; `ended` tells in words which live changes it ends.

    `optional`: backends by pool and name that are left out where there is no room for them.
    """

    config: Config
    ended: list[str] = field(default_factory=list)
    optional: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A configuration that may come into use, with the files that it names, what differs, and what it ends."""

    config: Config
    files: dict[str, bytes]
    changes: list[str]
    ended: list[str]
    slots: list[int]
    optional: frozenset[tuple[str, str]]


def _unaltered(file: Config, discard: bool) -> Altered:
    return Altered(file)


async def _nothing(config: Config, files: dict[str, bytes]) -> None:
    pass


class Reloader:
    """Changes the generation in use. `start` comes first.

    `in_use(plan)` is called when all workers are ready for a generation, just before they begin to use it; what it says
    to them in its slices arrives first. `alter` makes of the file's configuration the one to use. `ended(result,
    discard)` hears how each reload that was no dry run ended. Both are told whether live changes are to be discarded.
    `make_ready(config, files)` is awaited before anything is changed; its ValueError is a refusal.
    """

    def __init__(
        self,
        *,
        loader: Loader,
        workers: Workers,
        bindings: Bindings,
        columns: Columns,
        in_use: Callable[[Prepare], Iterable[None]],
        ended: Callable[[ReloadResult, bool], None],
        alter: Callable[[Config, bool], Altered] = _unaltered,
        make_ready: Callable[[Config, dict[str, bytes]], Awaitable[None]] = _nothing,
    ) -> None:
        self._loader = loader
        self._workers = workers
        self._bindings = bindings
        self._columns = columns
        self._in_use = in_use
        self._ended = ended
        self._alter = alter
        self._make_ready = make_ready
        self._plan: Prepare | None = None
        self._file: Config | None = None
        self._serial = asyncio.Lock()
        self._settling = Settling()
        self._names = KnownNames()
        self._asked: dict[tuple[bool, bool], asyncio.Task[ReloadResult]] = {}  # by dry run and discard
        self._tasks: set[asyncio.Task[ReloadResult]] = set()
        self._closed = False
        self.worth_another_try = False
        """The last change was refused only because a worker died or was silent."""

    @property
    def plan(self) -> Prepare:
        """The generation in use, as a new worker prepares it."""
        assert self._plan is not None, "start comes first"
        return self._plan

    @property
    def file(self) -> Config:
        """The configuration that the file had when it was last taken into use."""
        assert self._file is not None, "start comes first"
        return self._file

    async def start(self, config: Config, files: dict[str, bytes], slots: Sequence[int]) -> None:
        """The first generation; workers find it in `plan`. Raises SlotsExhaustedError."""
        self._file = config
        altered = self._alter(config, False)
        resolution = await resolve(altered.config)
        self._names.tell_failed(altered.config, resolution.failures, monotonic())
        config = self._columns.fitting(altered.config, resolution, altered.optional)
        await self._make_ready(config, files)
        backends, columns = self._columns.take(1, config, resolution)
        self._plan = Prepare(1, config, backends, files, columns, self._workers.rows(slots))
        for _ in self._in_use(self._plan):
            pass

    # ---- asking

    async def reload(self, *, dry_run: bool = False, discard_live: bool = False) -> ReloadResult:
        """Read the file and put it to use, or tell what would change. Nothing is changed by a file that is refused.

        Who asks for the same before it has begun shares it.
        """
        kind = (dry_run, discard_live)
        asked = self._asked.get(kind)
        if asked is None:
            asked = self._asked[kind] = asyncio.ensure_future(self._reload(dry_run, discard_live))
            self._tasks.add(asked)
            asked.add_done_callback(self._tasks.discard)
        return await asyncio.shield(asked)

    async def reapply(self) -> ReloadResult:
        """Put the file as it was last read to use once more: `alter` makes something else of it now.

        Files that it names are not read again, and names that are in use not looked up. `ended` does not hear of it.
        """
        async with self._serial:
            if self._closed:
                return self._refuse([STOPPING], quiet=True)
            return await self._change(self.file, [], reread=False)

    async def _reload(self, dry_run: bool, discard: bool) -> ReloadResult:
        async with self._serial:
            del self._asked[dry_run, discard]  # who asks from now on may know of a later change
            if self._closed:
                return self._refuse([STOPPING], quiet=True)
            answer = await self._loader.load()
            if isinstance(answer, BadConfig):
                return self._refuse(list(answer.problems), quiet=dry_run)
            if not dry_run:
                return await self._change(answer.config, list(answer.warnings), discard)
            try:
                wanted = await self._wanted(answer.config, discard)
            except NotUsableError as error:
                return self._refuse(error.problems, quiet=True)
            return ReloadResult(True, self.plan.generation, wanted.changes + wanted.ended, list(answer.warnings))

    def close(self) -> None:
        """The daemon stops: end what is under way, and refuse what is asked from now on."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        self._loader.close()

    # ---- changing

    async def _change(
        self, file: Config, warnings: list[str], discard: bool = False, *, reread: bool = True
    ) -> ReloadResult:
        began = monotonic()
        self.worth_another_try = False
        self._settling.begin()
        try:
            wanted = await self._wanted(file, discard, None if reread else self.plan.files)
            resolution = await self._resolution(wanted.config, anew=reread)
            await asyncio.sleep(0)  # a large configuration takes tens of milliseconds in each of these steps
            wanted = self._fitting(wanted, resolution)
            changes = wanted.changes + list(_other_addresses(self.plan, wanted.config, resolution))
            await asyncio.sleep(0)
            if changes:
                await self._prepare_here(wanted)
                await self._put_to_use(wanted, resolution)
        except NotUsableError as error:
            self.worth_another_try = error.passing
            return self._refuse(error.problems, reread=reread)
        self._file = file
        changes += wanted.ended
        if changes:
            log.info(
                events.RELOADED,
                generation=self.plan.generation,
                changes=_told(changes),
                duration_ms=round((monotonic() - began) * 1000),
            )
        elif reread:
            log.info(events.RELOAD_UNNEEDED, generation=self.plan.generation)
        self._settling.settle()
        result = ReloadResult(True, self.plan.generation, changes, warnings)
        if reread:
            self._ended(result, discard)
        return result

    def _refuse(self, problems: list[str], *, quiet: bool = False, reread: bool = True) -> ReloadResult:
        result = ReloadResult(False, self.plan.generation, [], problems)
        if not quiet:
            log.error(events.RELOAD_REFUSED, generation=self.plan.generation, problems=_told(problems))
            if reread:
                self._ended(result, False)
        return result

    async def _wanted(self, file: Config, discard: bool, files: dict[str, bytes] | None = None) -> _Wanted:
        """What is to come into use, as far as it can be told without touching anything. Raises NotUsableError.

        `files`: what is in the files that it names; None = read them.
        """
        altered = self._alter(file, discard)
        config = altered.config
        old = self.plan
        found = difference(old.config, config)
        if found.needs_restart:
            raise NotUsableError(*(word for word in found.changes if word.partition(": ")[0] in found.needs_restart))
        slots = self._workers.slots_for(config.workers)
        if slots is None:
            raise NotUsableError(f"workers: there is no room for {config.workers} now; restart, or give a lower number")
        try:
            files = await asyncio.to_thread(read_files, config) if files is None else files
        except FilesError as error:
            raise NotUsableError(*str(error).splitlines()) from error
        changes = list(_changes(old, found, config, files))
        return _Wanted(config, files, changes, altered.ended, slots, altered.optional)

    def _fitting(self, wanted: _Wanted, resolution: Resolution) -> _Wanted:
        """The same without optional backends for which there is no room."""
        config = self._columns.fitting(wanted.config, resolution, wanted.optional)
        if config is wanted.config:
            return wanted
        changes = list(_changes(self.plan, difference(self.plan.config, config), config, wanted.files))
        return replace(wanted, config=config, changes=changes)

    async def _resolution(self, config: Config, *, anew: bool) -> Resolution:
        """A name that cannot be resolved now means what it meant: a silent name server must not empty a pool.

        Unless `anew`, names that are in use mean what they mean there.
        """
        if anew:
            self._names.forget()
            resolution = await resolve(config)
        else:
            lookup = self._names.lookup(self.plan.backends, monotonic())
            resolution = await resolve(config, lookup, timeout=NEW_NAME_TIMEOUT)
        self._names.tell_failed(config, resolution.failures, monotonic())
        if not resolution.failures:
            return resolution
        before: dict[tuple[str, int], dict[Address, None]] = {}
        for one in self.plan.backends:
            before.setdefault((one.host, one.address[1]), {})[one.address] = None
        addresses = dict(resolution.addresses)
        for pool in config.pools:
            for backend in pool.backends:
                if backend.host in resolution.failures:
                    addresses[pool.name, backend.name] = tuple(before.get((backend.host, backend.port), ()))
        return Resolution(addresses, resolution.failures)

    async def _prepare_here(self, wanted: _Wanted) -> None:
        try:
            await self._make_ready(wanted.config, wanted.files)
        except ValueError as error:
            raise NotUsableError(str(error)) from error

    async def _put_to_use(self, wanted: _Wanted, resolution: Resolution) -> None:
        """Both phases. Raises NotUsableError, and then nothing has changed."""
        generation = self.plan.generation + 1
        try:
            backends, columns = self._columns.take(generation, wanted.config, resolution)
        except SlotsExhaustedError as error:
            raise NotUsableError(str(error)) from error
        await asyncio.sleep(0)
        change: Rebinding | None = None
        done = False
        try:
            change = self._bindings.rebind(wanted.config, wanted.slots)
            rows = self._workers.rows(wanted.slots)
            plan = Prepare(generation, wanted.config, backends, wanted.files, columns, rows)
            async with self._workers.gate.alone():
                workers = self._workers.ready()
                problems, passing = await two_phases.prepare(workers, plan)
                if problems:
                    raise NotUsableError(*problems, passing=passing)
                self._plan = plan
                done = True
                for _ in self._in_use(plan):
                    await asyncio.sleep(0)
                await two_phases.commit(workers, plan)
                await self._workers.lending.switch(change)
                await self._workers.resize(wanted.slots)
        except BindError as error:
            raise NotUsableError(str(error)) from error
        finally:
            if not done:
                self._columns.release(generation)
                if change is not None:
                    self._bindings.undo(change)
        _log_listeners(change, wanted.config)


# ---- words


def _changes(old: Prepare, found: Difference, config: Config, files: dict[str, bytes]) -> Iterator[str]:
    """What differs, in words; files that have other contents under the same names among it."""
    yield from found.changes
    same = [path for path in dict.fromkeys(named_files(config)) if path in old.files]
    other = {path for path in same if old.files[path] != files[path]}
    for listener in config.listeners:
        if listener.tls is not None and other & set(named_files(_only(config, listener=listener.name))):
            yield f"listener {listener.name}: its TLS files have changed"
    for pool in config.pools:
        if pool.tls is not None and other & set(named_files(_only(config, pool=pool.name))):
            yield f"pool {pool.name}: its TLS files have changed"


def _only(config: Config, *, listener: str = "", pool: str = "") -> Config:
    return Config(
        listeners=tuple(one for one in config.listeners if one.name == listener),
        routes=(),
        pools=tuple(one for one in config.pools if one.name == pool),
    )


def _other_addresses(old: Prepare, config: Config, resolution: Resolution) -> Iterator[str]:
    """Backends whose entry stays but whose name means other addresses now."""
    named = [(pool, backend) for pool in config.pools for backend in pool.backends if is_name(backend)]
    if not named:
        return
    before: dict[tuple[str, str], set[Address]] = {}
    for one in old.backends:
        before.setdefault((one.pool, one.name), set()).add(one.address)
    entries: dict[tuple[str, str], Backend] = {
        (pool.name, backend.name): backend for pool in old.config.pools for backend in pool.backends
    }
    for pool, backend in named:
        if entries.get((pool.name, backend.name)) == backend:
            now = resolution.addresses[pool.name, backend.name]
            if set(now) != before.get((pool.name, backend.name), set()):
                hosts = ", ".join(host for host, _, _ in now) or "nothing"
                yield f"pool {pool.name}: {backend.name} now means {hosts}"


def _told(words: list[str]) -> list[str]:
    """The same for a log, where a line must not be of any length."""
    return words if len(words) <= TOLD_MAX else [*words[:TOLD_MAX], f"and {len(words) - TOLD_MAX:,} more"]


def _log_listeners(change: Rebinding, config: Config) -> None:
    tls = {listener.name for listener in config.listeners if listener.tls is not None}
    for event, sockets in ((events.LISTENER_OPENED, change.added), (events.LISTENER_CLOSED, change.closing)):
        named = {(each.listener, url(each.bind, tls=each.listener in tls)) for each in sockets}
        for listener, address in sorted(named):
            if event == events.LISTENER_OPENED:
                log.info(events.LISTENER_OPENED, listener=listener, address=address)
            else:
                log.info(events.LISTENER_CLOSED, listener=listener, address=address)
