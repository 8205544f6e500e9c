"""The member process as the supervisor holds it: started, watched, started again, ended. Traffic never waits for it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys

import msgspec
import structlog

from balancer.clock import monotonic
from balancer.config.model import EmbeddedCluster, Log
from balancer.consensus.storage_errors import EXIT_SUSPECT
from balancer.daemon.children import describe_end
from balancer.daemon.member_messages import (
    MemberLogLevel,
    MemberMessage,
    MemberReady,
    MemberReport,
    MemberStart,
    MemberStop,
)
from balancer.daemon.restarts import Restarts
from balancer.telemetry import events, metrics
from balancer.telemetry.aggregate import Aggregate
from balancer.transport.framed import Channel, ChannelError, Received, pair
from balancer.transport.sockets import bind_sockets, bound, url

log = structlog.get_logger()

_HELD_BACK = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
PROPOSAL_RESULTS = ("applied", "refused", "unknown")
STOP_WITHIN = 5.0
"""Seconds to hand leadership over and close the log; then it is killed, which loses nothing."""


class ClusterMember:
    """One member process after the other. `suspect`: the last one said that its data cannot be trusted.

    Raises BindError where one of its addresses cannot be bound.
    """

    def __init__(
        self, cluster: EmbeddedCluster, log_settings: Log, counted: Aggregate, *, hosts: tuple[str, ...] = ()
    ) -> None:
        self._cluster = cluster
        self._log = log_settings
        self._hosts = hosts
        self._counted = counted
        (self._peer,) = bind_sockets(cluster.peer, 1)
        try:
            (self._client,) = bind_sockets(cluster.client, 1)
        except BaseException:
            self._peer.close()
            raise
        self._restarts = Restarts()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel[MemberMessage] | None = None
        self._proposals = (0, 0, 0)
        self._stopping = False
        self.suspect = False
        self.url = url(bound(cluster.client, self._client))

    async def run(self) -> None:
        """Keep a member running until `stop`, or until its data is suspect."""
        while not self._stopping:
            try:
                code = await self._life()
            except OSError as error:  # no room for another process
                log.error(events.MEMBER_FAILED, error=str(error))  # noqa: TRY400 - the text says all
                code = 1
            if self._stopping:
                return
            if code == EXIT_SUSPECT:
                self.suspect = True
                self._counted.set(metrics.CLUSTER_SUSPECT, (), 1.0)
                log.error(events.MEMBER_SUSPECT, data_dir=self._cluster.data_dir)
                return
            delay = self._restarts.died(monotonic())
            log.warning(events.MEMBER_ENDED, ends=describe_end(code), delay_ms=round(delay * 1000))
            await asyncio.sleep(max(delay, 0.1))

    async def _life(self) -> int:
        ours, theirs = pair()
        try:
            self._process = process = self._spawn(theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = Channel(ours, MemberMessage, received=self._received, lost=lambda _: None)
        self._proposals = (0, 0, 0)
        if self._stopping:
            self._tell(MemberStop())
        try:
            return await _ended(process)
        finally:
            self._channel.close()
            self._process = None
            self._counted.set(metrics.CLUSTER_IS_LEADER, (), 0.0)

    def _spawn(self, channel: socket.socket) -> "subprocess.Popen[bytes]":
        orders = MemberStart(
            self._cluster, channel.fileno(), self._peer.fileno(), self._client.fileno(), self._log, self._hosts
        )
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "balancer.daemon.member", msgspec.json.encode(orders).decode()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(orders.channel, orders.peer, orders.client),
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    async def stop(self) -> None:
        """End it in order, and if that takes too long, at once."""
        self._stopping = True
        process = self._process
        if process is not None:
            self._tell(MemberStop())
            try:
                async with asyncio.timeout(STOP_WITHIN):
                    await _ended(process)
            except TimeoutError:
                process.kill()
                await _ended(process)

    def close(self) -> None:
        """Kill what is left, and let go of the addresses."""
        self._stopping = True
        if self._process is not None:
            self._process.kill()
        self._peer.close()
        self._client.close()

    def set_level(self, level: str) -> None:
        """Log from another level on."""
        self._log = msgspec.structs.replace(self._log, level=level)
        self._tell(MemberLogLevel(level))

    def _tell(self, message: MemberMessage) -> None:
        if self._channel is not None and not self._channel.closed:
            try:
                self._channel.send(message)
            except ChannelError as error:
                log.warning(events.MEMBER_FAILED, error=str(error))

    def _received(self, received: Received[MemberMessage]) -> None:
        received.close_descriptors()
        match received.message:
            case MemberReady():
                self._restarts.ready(monotonic())
                log.info(events.MEMBER_READY, name=self._cluster.name, address=self.url)
            case MemberReport() as report:
                self._count(report)

    def _count(self, report: MemberReport) -> None:
        counted = self._counted
        counted.set(metrics.CLUSTER_IS_LEADER, (), float(report.leads))
        counted.set(metrics.CLUSTER_TERM, (), float(report.term))
        counted.set(metrics.CLUSTER_COMMIT_INDEX, (), float(report.commit))
        counted.set(metrics.CLUSTER_APPLIED_INDEX, (), float(report.applied))
        counted.set(metrics.CLUSTER_FSYNC, (), report.sync_p99)
        for result, now, before in zip(PROPOSAL_RESULTS, report.proposals, self._proposals, strict=True):
            total = counted.values(metrics.CLUSTER_PROPOSALS, (result,))[0]
            counted.set(metrics.CLUSTER_PROPOSALS, (result,), total + now - before)
        self._proposals = report.proposals


async def _ended(process: "subprocess.Popen[bytes]") -> int:
    """Its return code, once it is reaped; may be awaited by several."""
    loop = asyncio.get_running_loop()
    if process.poll() is None:
        gone: asyncio.Future[None] = loop.create_future()
        descriptor = os.pidfd_open(process.pid)
        try:
            loop.add_reader(descriptor, _done, gone)
            await gone
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    return process.wait()


def _done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
