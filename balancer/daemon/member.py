"""The member process: consensus, and the API of coordination. It never touches traffic.

Started by the supervisor: `python -m balancer.daemon.member ORDERS`, where ORDERS is a `MemberStart` in JSON. It stops
at once when the channel ends, for then nobody would start it again. Exit codes: 0 asked, 75 start it again, 78 its
data is suspect and starting it again would not help.
"""

import asyncio
import contextlib
import socket
import sys
from pathlib import Path

import msgspec
import structlog
import uvloop

from balancer.consensus.member import MemberSettings, RunningMember
from balancer.consensus.peer_hello import check_secret
from balancer.consensus.storage_errors import EXIT_SUSPECT, EXIT_TRANSIENT
from balancer.daemon.member_messages import (
    MemberLogLevel,
    MemberMessage,
    MemberReady,
    MemberReport,
    MemberStart,
    MemberStop,
)
from balancer.daemon.process_setup import ignore_signals, settle_memory
from balancer.telemetry import events, logs
from balancer.transport.framed import Channel, ChannelError, Received

log = structlog.get_logger()

REPORT_EVERY = 1.0


class MemberProcess:
    """The member and its end of the channel."""

    def __init__(self, orders: MemberStart, secret: bytes) -> None:
        self._stop = asyncio.Event()
        self._channel: Channel[MemberMessage] = Channel(
            socket.socket(fileno=orders.channel),
            MemberMessage,
            received=self._received,
            lost=lambda _: self._stop.set(),
        )
        cluster = orders.cluster
        settings = MemberSettings(
            name=cluster.name,
            members=cluster.members,
            data_dir=cluster.data_dir,
            join=cluster.join,
            heartbeat=cluster.heartbeat,
            election=cluster.election,
            secret=secret,
            hosts=frozenset(orders.hosts),
        )
        self._member = RunningMember(settings, _listening(orders.peer), _listening(orders.client))

    async def run(self) -> int:
        """Until it is asked to stop, or fails."""
        reporting = asyncio.ensure_future(self._report())
        try:
            return await self._member.run(self._stop, self._ready)
        finally:
            reporting.cancel()
            self._channel.close()

    def _received(self, received: Received[MemberMessage]) -> None:
        received.close_descriptors()
        match received.message:
            case MemberStop():
                self._stop.set()
            case MemberLogLevel(level):
                logs.set_level(level)

    def _ready(self) -> None:
        settle_memory()
        self._tell(MemberReady())

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            driver, service = self._member.driver, self._member.service
            if driver is None or service is None:
                continue
            status = driver.replica.node.status()
            self._tell(
                MemberReport(
                    leads=driver.replica.leads,
                    leader_known=bool(status.leader),
                    term=status.term,
                    commit=status.commit,
                    applied=status.applied,
                    proposals=service.proposals,
                    sync_p99=driver.sync_p99,
                )
            )

    def _tell(self, message: MemberMessage) -> None:
        with contextlib.suppress(ChannelError):  # the supervisor is gone, and `lost` says so
            self._channel.send(message)


def _listening(descriptor: int) -> socket.socket:
    sock = socket.socket(fileno=descriptor)
    sock.setblocking(False)
    return sock


def _secret_of(path: str | None) -> bytes:
    """Raises OSError, and ValueError for a secret that is too short."""
    return b"" if path is None else check_secret(Path(path).read_bytes())


async def _main(orders: MemberStart, secret: bytes) -> int:
    return await MemberProcess(orders, secret).run()


def main() -> None:
    """The process."""
    ignore_signals()
    orders = msgspec.json.decode(sys.argv[1], type=MemberStart)
    logs.configure(orders.log.level, orders.log.format, sys.stderr, process="member")
    try:
        secret = _secret_of(orders.cluster.peer_secret_file)
    except (OSError, ValueError) as error:
        log.error(events.MEMBER_FAILED, error=f"peer_secret_file: {error}")  # noqa: TRY400 - the text says all
        sys.exit(EXIT_SUSPECT)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_main(orders, secret))
    except Exception:
        log.exception(events.MEMBER_FAILED, error="an error of its own")
        code = EXIT_TRANSIENT
    sys.exit(code)


if __name__ == "__main__":
    main()
