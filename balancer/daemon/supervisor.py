"""The supervisor: binds, starts the workers, keeps them up, answers the admin address, and stops in order.

It never carries traffic. `run` is the whole life of the daemon; the rest of this package is what it is made of.
"""

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, TextIO

import structlog
import uvloop

from balancer import __version__
from balancer.admin.api import AdminApi
from balancer.admin.changes import ReloadResult
from balancer.clock import monotonic
from balancer.config.model import Config, Listener
from balancer.daemon import privileges, runtime_dir
from balancer.daemon.account_change import change_user
from balancer.daemon.bindings import Bindings
from balancer.daemon.children import RefusedError, WorkerError
from balancer.daemon.cluster.joining import join
from balancer.daemon.cluster_member import ClusterMember
from balancer.daemon.columns import Columns, room_for
from balancer.daemon.files import FilesError, read_files
from balancer.daemon.health_watch import HealthWatch
from balancer.daemon.loader import Loader
from balancer.daemon.messages import LogLevel, Prepare, ReopenLogs, Start
from balancer.daemon.operator import Operator
from balancer.daemon.privileges import PrivilegeError
from balancer.daemon.process_setup import settle_memory
from balancer.daemon.reload import Reloader
from balancer.daemon.runtime_dir import RuntimeDir, RuntimeDirError
from balancer.daemon.shared_memory import CONNECTION_COLUMNS, ROWS_MIN, SharedMemory, SlotsExhaustedError
from balancer.daemon.shutdown import shut_down
from balancer.daemon.states import States
from balancer.daemon.view import View
from balancer.daemon.watch import Watch
from balancer.daemon.workers import Workers
from balancer.telemetry import events, logs
from balancer.telemetry.registry import Sample
from balancer.transport import handover
from balancer.transport.http_server import HttpServer
from balancer.transport.sockets import BindError

log = structlog.get_logger()

OK, BAD_CONFIGURATION, CANNOT_BIND, CRASHED = range(4)
# After a kill -9 the old workers may hold the addresses until they notice and close them.
PATIENCE_AFTER_CRASH = 6.0
_KILLED_WITHIN = 5.0
RELOAD_TRIES = 3  # of one that a signal or a changed file asked for, where only a worker was at fault
BEFORE_ANOTHER_TRY = 1.0  # seconds: what a worker's successor takes to come up


class Supervisor:
    """The daemon once everything is bound. Made inside the running loop."""

    def __init__(
        self,
        config: Config,
        config_path: str,
        *,
        bindings: Bindings,
        runtime: RuntimeDir,
        files: Mapping[str, bytes],
        token: str | None,
        out: TextIO,
    ) -> None:
        self._config = config
        self._bindings = bindings
        self._runtime = runtime
        self._files = dict(files)
        self._out = out
        self._memory = SharedMemory.create(rows=max(config.workers, ROWS_MIN), backends=room_for(config))
        self._inboxes = [handover.pair() for _ in range(self._memory.rows)]
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()
        self._hung_up_early = False
        self._workers = Workers(
            config.workers,
            bindings=bindings,
            memory=self._memory,
            inboxes=self._inboxes,
            plan=lambda: self._reloader.plan,
            orders=self._orders,
            counters=self._counted,
            outcomes=lambda slot, message: self._states.outcomes(slot, message),
            welcome=lambda slot: self._states.welcome(slot),
            gone=self._worker_gone,
        )
        self._view = View(self._workers, self._memory, config)
        rng = Random()
        self._states = States(
            tell=self._workers.tell,
            workers=lambda: [child.slot for child in self._workers.ready()],
            counted=self._view.counted,
            rng=rng,
            now=monotonic,
        )
        self._health = HealthWatch(self._states, rng)
        self._watching: asyncio.Task[None] | None = None
        self._columns = Columns(self._memory, self._view.counted, self._view.pull)
        embedded = config.coordination and config.coordination.embedded
        self._member = ClusterMember(embedded, config.log, self._view.counted) if embedded else None
        self._member_task: asyncio.Task[None] | None = None
        parts = self._parts = join(config.coordination, self._member, self._view.counted, runtime.path)
        if parts and config.coordination and config.coordination.share_checks:
            parts.share_checks(self._health, self._view.counted)
        found, wide = (parts.discovery, parts.changes) if parts else (None, None)
        self._operator = Operator(runtime.path, self._states, lambda: self._reloader, registered=found, everywhere=wide)
        self._view.show(self._states, self._operator)
        self._reloader = Reloader(
            loader=Loader(config_path),
            workers=self._workers,
            bindings=bindings,
            columns=self._columns,
            in_use=self._in_use,
            ended=self._reloaded,
            alter=self._operator.alter,
            make_ready=self._health.make_ready,
        )
        self._watch = Watch(config_path, self._reload_later, lambda: self._config.watch)
        self._reloads: set[asyncio.Task[Any]] = set()
        self._admin = HttpServer(AdminApi(self._view, token, frozenset(config.admin.hosts), self._operator))

    async def serve(self, admin: socket.socket, admin_url: str) -> int:
        """Live. Returns the exit code."""
        self._install_signals()
        began = monotonic()
        try:
            await self._admin.start(admin)
            self._runtime.write(runtime_dir.ADMIN_URL, f"{admin_url}\n")
            return await self._live(admin_url)
        finally:
            if self._watching is not None:
                self._watching.cancel()
            self._reloader.close()
            self._workers.kill()
            await self._workers.end(_KILLED_WITHIN)
            await self._end_member()
            await self._admin.close()
            log.info(events.DAEMON_STOPPED, duration_ms=round((monotonic() - began) * 1000))

    async def _live(self, admin_url: str) -> int:
        stop = asyncio.ensure_future(self._stop.wait())
        start = asyncio.ensure_future(self._start())
        first: set[asyncio.Future[Any]] = {stop, start}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not start.done():
            start.cancel()
            return OK  # asked to stop before it began to serve
        try:
            start.result()
        except RefusedError as error:
            return _refuse("\n".join(error.problems), BAD_CONFIGURATION)
        except SlotsExhaustedError as error:
            return _refuse(error, BAD_CONFIGURATION)
        except WorkerError as error:
            return _refuse(error, CRASHED)
        self._announce(admin_url)
        settle_memory()
        assert self._watching is not None  # _start is done
        over: set[asyncio.Future[Any]] = {stop, self._workers.failed, self._watching}
        await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
        if self._workers.failed.done():
            self._workers.failed.result()  # raises: ours is the fault, and the log shall say where
        if self._watching.done():
            self._watching.result()  # the same
        await self._end_in_order()
        return OK

    async def _start(self) -> None:
        await self._reloader.start(self._config, self._files, self._workers.slots)
        self._operator.taken_into_use(self._reloader.file)
        self._watching = asyncio.create_task(self._attend())
        if self._member is not None:
            self._member_task = asyncio.create_task(self._member.run())
        await self._workers.start()

    async def _attend(self) -> None:
        """What goes on as long as the daemon lives."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._health.run())
            tasks.create_task(self._watch.run())
            if self._parts is not None:
                tasks.create_task(self._parts.run())
            tasks.create_task(self._columns.tidy(self._current, self._workers.oldest_in_use))

    async def _end_member(self) -> None:
        """After the workers: whoever drained may still have needed it."""
        if self._parts:
            await self._parts.close()
        if self._member is None:
            return
        await self._member.stop()
        self._member.close()
        if self._member_task is not None:
            self._member_task.cancel()

    # ---- the configuration

    def _in_use(self, plan: Prepare) -> Iterator[None]:
        """Every worker has this generation ready and is about to use it; what is told to them here arrives first.

        In slices: the loop may go on between any two.
        """
        log_before, self._config = self._config.log, plan.config
        self._view.serve_generation(plan.generation, plan.config, plan.backends)
        yield
        yield from self._states.configure_in_slices(plan.config, plan.backends, starting=plan.generation == 1)
        yield
        self._health.configure(plan.config, plan.backends, plan.files)
        if self._parts is not None:
            yield from self._parts.configure(plan.config, plan.backends)
        level = plan.config.log.level
        if level != log_before.level:
            logs.set_level(level)
            for child in self._workers.living():
                child.tell(LogLevel(level))
            if self._member is not None:
                self._member.set_level(level)

    def _reloaded(self, result: ReloadResult, discard_live: bool) -> None:
        self._view.reload_ended(result)
        if result.ok:
            self._operator.taken_into_use(self._reloader.file, discard=discard_live)

    def _reload_later(self) -> None:
        """Somebody who waits for no answer asks for a reload."""
        if self._stop.is_set():
            return
        task = asyncio.ensure_future(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reload_ended)

    async def _reload(self) -> ReloadResult:
        """Nobody waits who could try again when a worker dies in it: so we do."""
        for _ in range(RELOAD_TRIES - 1):
            result = await self._reloader.reload()
            if result.ok or not self._reloader.worth_another_try:
                return result
            await asyncio.sleep(BEFORE_ANOTHER_TRY)
        return await self._reloader.reload()

    def _reload_ended(self, task: "asyncio.Task[ReloadResult]") -> None:
        self._reloads.discard(task)
        if not task.cancelled() and task.exception() is not None and not self._workers.failed.done():
            self._workers.failed.set_exception(task.exception() or RuntimeError("unknown"))

    def _current(self) -> tuple[int, Config]:
        return self._reloader.plan.generation, self._reloader.plan.config

    def _announce(self, admin_url: str) -> None:
        """The lines that tell people and scripts that we are ready, and where."""
        self._view.ready = True
        if self._hung_up_early:
            self._reload_later()
        log.info(events.DAEMON_STARTED, version=__version__, workers=self._config.workers, generation=1)
        lines = [f"listening {listener} {url}" for listener, url in self._bindings.announced]
        if self._member is not None:
            lines.append(f"coordination {self._member.url}")
        try:
            self._out.write("\n".join([*lines, f"admin {admin_url}", ""]))
            self._out.flush()
        except OSError:
            log.warning(events.LIBRARY_LOGGED, logger="stdout", message="nobody reads the lines that say where we are")

    async def _end_in_order(self) -> None:
        self._view.draining = True
        self._reloader.close()
        now = asyncio.ensure_future(self._stop_now.wait())
        orderly = asyncio.ensure_future(shut_down(self._config, self._workers, self._bindings))
        await asyncio.wait({now, orderly}, return_when=asyncio.FIRST_COMPLETED)
        if orderly.done():
            orderly.result()
        else:
            orderly.cancel()

    # ---- signals

    def _install_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_requested, number)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # held back since the program began

    def _stop_requested(self, number: signal.Signals) -> None:
        again = self._stop.is_set()
        log.info(events.DAEMON_STOPPING, signal=number.name, phase="at once" if again else "begin")
        (self._stop_now if again else self._stop).set()

    def _hung_up(self) -> None:
        if self._view.ready:
            self._reload_later()
        else:
            self._hung_up_early = True  # the file was read already, and may be another now

    def _reopen_logs(self) -> None:
        for child in self._workers.living():
            child.tell(ReopenLogs())

    # ---- what the workers need and tell

    def _orders(self, slot: int, channel: int) -> Start:
        return Start(
            worker=slot,
            rows=self._memory.rows,
            backend_columns=self._memory.backend_columns,
            channel=channel,
            memory=self._memory.fd,
            inbox=self._inboxes[slot][0].fileno(),
            outlets=tuple(outlet.fileno() for _, outlet in self._inboxes),
            log=self._config.log,
        )

    def _counted(self, slot: int, samples: list[Sample]) -> None:
        self._view.counted.add(slot, samples)

    def _worker_gone(self, slot: int) -> None:
        self._view.counted.worker_gone(slot)
        self._states.worker_gone(slot)
        if slot not in self._workers.slots:
            self._view.forget_worker(slot)


def run(config: Config, config_path: str, out: TextIO | None = None) -> int:
    """The whole life of the daemon, in the foreground. Lines for people go to `out` (standard output).

    Returns the exit code: 0 asked to stop, 1 the configuration cannot be used, 2 an address cannot be bound or
    another daemon runs here, 3 crashed.
    """
    logs.configure(config.log.level, config.log.format, sys.stderr, process="supervisor")
    privileges.raise_descriptor_limit()
    if len(config.listeners) >= CONNECTION_COLUMNS:
        return _refuse(f"listeners: at most {CONNECTION_COLUMNS - 1} can be counted", BAD_CONFIGURATION)
    try:
        files = read_files(config)
        token = Path(config.admin.token_file).read_text("utf-8").strip() if config.admin.token_file else None
        account = privileges.find_account(config.user, config.group)
    except (FilesError, PrivilegeError, OSError, UnicodeDecodeError) as error:
        return _refuse(error, BAD_CONFIGURATION)
    place = config.runtime_dir or runtime_dir.default_path(config_path, os.environ, os.geteuid())
    try:
        runtime = RuntimeDir.take(Path(place), () if account is None else (account.uid,))
    except RuntimeDirError as error:
        return _refuse(error, CANNOT_BIND)
    try:
        with contextlib.ExitStack() as opened:
            opened.callback(runtime.close)
            patience = PATIENCE_AFTER_CRASH if runtime.after_crash else 0.0
            bindings = Bindings.open(config, patience=patience)
            opened.callback(bindings.remove_files)
            opened.callback(bindings.close)
            admin = Bindings.open(_only_admin(config), patience=patience)
            opened.callback(admin.remove_files)
            change_user(config, account, runtime, (bindings, admin))
            new = functools.partial(
                Supervisor,
                config,
                config_path,
                bindings=bindings,
                runtime=runtime,
                files=files,
                token=token,
                out=out or sys.stdout,
            )
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_serve(new, admin))
    except BindError as error:
        return _refuse(error, CANNOT_BIND)
    except PrivilegeError as error:
        return _refuse(error, BAD_CONFIGURATION)


async def _serve(new: Callable[[], Supervisor], admin: Bindings) -> int:
    (_, url), (listening, *_) = admin.announced[0], admin.of_slot(0)
    return await new().serve(listening.sock, url)


def _refuse(error: Exception | str, code: int) -> int:
    for line in str(error).splitlines():
        sys.stderr.write(f"balancer: {line}\n")
    return code


def _only_admin(config: Config) -> Config:
    """The admin address as a configuration of one listener, so that it is bound like every other."""
    admin = Listener(name="admin", bind=(config.admin.bind,))
    return Config(listeners=(admin,), routes=(), pools=())
