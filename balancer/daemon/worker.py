"""A worker process: the data path, and the worker's end of the control channel.

Started by the supervisor: `python -m balancer.daemon.worker ORDERS`, where ORDERS is a `Start` in JSON. It decides
nothing about its own life: signals of a terminal are ignored, the supervisor says what happens, and when the
channel ends (the supervisor is dead) it finishes what it has within 5 seconds and exits.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import structlog
import uvloop

from balancer.clock import monotonic
from balancer.config.model import Config
from balancer.daemon.messages import (
    PROTOCOL_VERSION,
    Abort,
    BackendStates,
    Commit,
    Counters,
    Done,
    Drain,
    Failure,
    Hello,
    Listen,
    LogLevel,
    Message,
    Outcomes,
    Ping,
    Pong,
    Prepare,
    Prepared,
    PullCounters,
    Ready,
    Refused,
    ReopenLogs,
    Start,
    Successes,
    Unlisten,
)
from balancer.daemon.privileges import connection_budget
from balancer.daemon.process_setup import Settling, ignore_signals, settle_memory
from balancer.daemon.shared_memory import Area, SharedMemory
from balancer.errors import ConfigError
from balancer.proxy.outcomes import FailureReport, SuccessReport
from balancer.proxy.server import ProxyServer
from balancer.proxy.snapshot import Snapshot
from balancer.telemetry import events, logs, metrics
from balancer.telemetry.access_log import AccessLog
from balancer.telemetry.registry import Known, Registry
from balancer.transport.framed import Channel, ChannelError, Received
from balancer.transport.handover import Handover, Loads

log = structlog.get_logger()

PUSH_EVERY = 1.0  # so a kill loses at most a second of counts
LAG_EVERY = 0.1
ORPHAN_SECONDS = 4.5  # to finish after the supervisor is gone; with closing the log it is below 5
ORPHAN_ALARM = 7  # the kernel ends an orphan whose loop hangs
CRASHED = 3


class Worker:
    """What one worker process is made of."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._loop = asyncio.get_running_loop()
        self._memory = SharedMemory(start.memory, rows=start.rows, backend_columns=start.backend_columns)
        self._tokens = self._memory.table(Area.RETRY_TOKENS, start.worker, ())
        self._registry = Registry()
        self._access_log: AccessLog | None = None
        self._server: ProxyServer | None = None
        self._handover: Handover | None = None
        self._prepared: tuple[Prepare, Snapshot] | None = None
        self._rows: tuple[int, ...] = ()
        self._generation = 0
        self._oldest = 0
        self._building = asyncio.Lock()  # what is built, and what is tidied up, begins from what is known then
        self._settling = Settling()
        self._series_due = False  # there may be series that nothing has any more
        self._keys: dict[int, int] = {}  # the supervisor's key of a socket -> the server's
        self._commands: asyncio.Queue[Received[Message]] = asyncio.Queue()
        self._lag = 0.0
        self._settled = False
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        sock = socket.socket(fileno=start.channel)
        self._channel: Channel[Message] = Channel(sock, Message, received=self._received, lost=self._lost)

    async def run(self) -> int:
        """Serve until told to end. Returns the exit code."""
        self._channel.send(Hello(PROTOCOL_VERSION, self._start.worker, os.getpid()))
        self._begin(self._obey())
        self._begin(self._push_counters())
        self._begin(self._measure_lag())
        try:
            return await self._ended
        finally:
            for task in self._tasks:
                task.cancel()
            if self._access_log is not None:
                self._access_log.close(0.4)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._ended.done():
            self._ended.set_exception(error)

    def _end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)

    # ---- orders

    def _received(self, received: Received[Message]) -> None:
        """Questions are answered at once; orders are carried out one after the other."""
        match received.message:
            case Ping():
                in_flight = self._server.in_flight() if self._server is not None else 0
                last_accept = self._server.last_accept if self._server is not None else 0.0
                received.reply(Pong(self._lag, last_accept, in_flight))
                self._lag = 0.0
            case PullCounters():
                self._begin(self._answer_pull(received))
            case LogLevel(level):
                logs.set_level(level)
            case ReopenLogs():
                if self._access_log is not None:
                    self._access_log.reopen()
            case BackendStates(_, changes, down):
                if self._server is not None:  # else Prepare is on its way, and the states come again behind it
                    self._server.live.told(changes, down)
            case _:
                self._commands.put_nowait(received)

    async def _obey(self) -> None:
        while True:
            received = await self._commands.get()
            reply = await self._carry_out(received)
            received.close_descriptors()
            if reply is not None:
                received.reply(reply)
            if isinstance(received.message, Drain) and received.message.phase == "finish":
                await self._channel.flushed(1.0)
                self._end(0)

    async def _carry_out(self, received: Received[Message]) -> Message | None:
        match received.message:
            case Prepare() as message:
                return await self._prepare(message)
            case Commit(generation):
                return self._commit(generation)
            case Abort():
                self._discard()
            case Listen() as message:
                return await self._listen(message, received.descriptors)
            case Unlisten(keys):
                server = self._serving()
                for key in keys:
                    await server.doors.unlisten(self._keys.pop(key))
                return Done()
            case Drain() as message:
                await self._drain(message)
                return Done()
            case other:
                raise ChannelError(f"a worker does not understand {type(other).__name__}")
        return None

    async def _prepare(self, message: Prepare) -> Message:
        async with self._building:
            self._settling.begin()
            try:
                snapshot = await self._build(message)
            except ConfigError as error:
                self._discard()
                return Refused(tuple(str(problem) for problem in error.problems))
            except (ValueError, OSError) as error:
                self._discard()
                return Refused((str(error),))
            self._prepared = (message, snapshot)
        return Prepared(message.generation)

    async def _build(self, message: Prepare) -> Snapshot:
        config, backends, files = message.config, message.backends, message.files
        generation, columns = message.generation, message.columns
        server = self._server
        if server is None:  # nobody is served yet: in one go
            server = self._server = self._new_server(config)
            return server.prepare(config, backends, files, generation=generation, columns=columns)
        return await server.prepare_in_slices(config, backends, files, generation=generation, columns=columns)

    def _new_server(self, config: Config) -> ProxyServer:
        if config.log.access != "off":
            self._access_log = AccessLog(config.log.access, self._lines_dropped)
        server = ProxyServer(
            worker=self._start.worker,
            loads=self._memory.table(Area.IN_FLIGHT, self._start.worker, ()),
            connections=self._memory.table(Area.CONNECTIONS, self._start.worker, ()),
            registry=self._registry,
            access_log=self._access_log,
            connection_budget=connection_budget(),
            retry_tokens=self._tokens,
        )
        server.reports.tell = self._tell_outcomes
        self._begin(server.silences.run())
        if self._start.rows > 1:
            server.handover = self._handover = self._new_handover(server)
        return server

    def _new_handover(self, server: ProxyServer) -> Handover:
        memory, start = self._memory, self._start
        loads = Loads(
            memory.every_row(Area.CONNECTIONS),
            memory.every_row(Area.GIVEN),
            memory.every_row(Area.TAKEN),
            memory.every_row(Area.ACCEPTING),
        )
        return Handover(
            start.worker,
            loads,
            inbox=socket.socket(fileno=start.inbox),
            outlets=[socket.socket(fileno=outlet) for outlet in start.outlets],
            take=server.doors.adopt,
        )

    def _discard(self) -> None:
        self._prepared = None
        self._series_due = True
        if self._server is not None:
            self._server.discard()

    def _commit(self, generation: int) -> Message:
        if self._prepared is None or self._prepared[0].generation != generation:
            return Refused((f"generation {generation} was not prepared",))
        (message, snapshot), self._prepared = self._prepared, None
        server = self._serving()
        self._use_rows(server, message.rows)
        server.commit(snapshot)
        self._generation = generation
        self._tell_oldest(server.leftovers.oldest)
        return Done()

    def _use_rows(self, server: ProxyServer, rows: tuple[int, ...]) -> None:
        """These workers' loads count from now on."""
        if rows == self._rows:
            return
        self._rows = rows
        own = self._start.worker
        server.loads.others = self._memory.others(Area.IN_FLIGHT, own, rows)
        server.connections.others = self._memory.others(Area.CONNECTIONS, own, rows)
        self._tokens.others = self._memory.others(Area.RETRY_TOKENS, own, rows)
        if self._handover is not None:
            self._handover.giving = len(rows) > 1 and not server.closing
        server.rebuild_pools()

    def _tell_oldest(self, generation: int) -> None:
        self._memory.row(Area.OLDEST, self._start.worker)[0] = generation

    async def _listen(self, message: Listen, descriptors: list[int]) -> Message:
        server = self._serving()
        for each in message.sockets:
            sock = socket.socket(fileno=descriptors.pop(0))
            self._keys[each.key] = await server.listen(each.listener, each.bind, sock)
        if not self._settled:
            self._settled = True
            settle_memory()
            if self._handover is not None:
                self._handover.start()
        return Ready(self._generation)

    def _serving(self) -> ProxyServer:
        if self._server is None:
            raise ChannelError("the first order must be Prepare")
        return self._server

    async def _drain(self, message: Drain) -> None:
        server = self._server
        if server is None:
            return
        if self._handover is not None:
            self._handover.giving = False
        if message.phase == "announce":
            server.announce_close()
        elif message.phase == "stop_listening":
            await server.stop_listening()
        else:
            await server.finish(message.grace, message.tunnel_grace)
            await self._send_counters()

    # ---- what the supervisor is told

    def _tell_outcomes(self, failures: list[FailureReport], successes: list[SuccessReport]) -> None:
        if not self._channel.closed:
            self._channel.send(
                Outcomes(
                    tuple(Failure(slot, reason, succeeded) for slot, reason, succeeded in failures),
                    tuple(Successes(slot, count, seconds) for slot, count, seconds in successes),
                )
            )

    def _lines_dropped(self, count: int) -> None:
        self._registry.cells(metrics.ACCESS_LOG_DROPPED)[0] += count

    async def _send_counters(self) -> None:
        if self._server is not None:
            for _ in self._server.refresh_gauges():
                await asyncio.sleep(0)
        for samples in self._registry.changes_in_slices():
            if self._channel.closed:
                return
            if samples:
                self._channel.send(Counters(samples))
            await asyncio.sleep(0)

    async def _answer_pull(self, received: Received[Message]) -> None:
        await self._send_counters()
        received.reply(Counters([]))

    async def _push_counters(self) -> None:
        while True:
            await asyncio.sleep(PUSH_EVERY)
            if self._server is not None and self._generation:
                self._server.each_second()
                await self._tidy(self._server)
            await self._send_counters()
            if self._server is not None and self._generation and not self._series_due:
                self._tell_oldest(self._oldest)  # as of before the counters: the supervisor has those by then

    async def _tidy(self, server: ProxyServer) -> None:
        """Let go of what replaced generations left, as far as nothing uses it."""
        if self._prepared is None and not self._building.locked():
            self._settling.settle()
        while server.leftovers.sweep(monotonic()):
            self._series_due = True
            await asyncio.sleep(0)
        self._oldest = server.leftovers.oldest
        if self._series_due and self._prepared is None and not self._building.locked():
            async with self._building:
                self._series_due = False
                draining = server.leftovers.backends().values()
                known = Known(server.snapshot.config, [(backend.pool, backend.name) for backend in draining])
                for _ in self._registry.forget(known):
                    await asyncio.sleep(0)

    async def _measure_lag(self) -> None:
        while True:
            due = self._loop.time() + LAG_EVERY
            await asyncio.sleep(LAG_EVERY)
            self._lag = max(self._lag, self._loop.time() - due)

    # ---- the supervisor is gone

    def _lost(self, reason: str) -> None:
        log.warning(events.WORKER_ORPHANED, reason=reason or "its end of the control channel closed")
        signal.alarm(ORPHAN_ALARM)
        self._begin(self._finish_alone())

    async def _finish_alone(self) -> None:
        until = monotonic() + ORPHAN_SECONDS
        if self._handover is not None:
            self._handover.giving = False
        if self._server is not None:
            await self._server.stop_listening()
            left = max(until - monotonic(), 0.0)
            await self._server.finish(left, left)
        self._end(0)


async def _run(start: Start) -> int:
    return await Worker(start).run()


def main(arguments: list[str], new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop) -> int:
    """Run a worker with the orders in `arguments`. Returns the exit code."""
    ignore_signals()
    start = msgspec.json.decode(arguments[0], type=Start)
    logs.configure(start.log.level, start.log.format, sys.stderr, process="worker", worker=start.worker)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_run(start))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
