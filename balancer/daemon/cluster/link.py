"""The supervisor's way to its cluster, embedded or an etcd: one client, and the retries of what lives on it.

Traffic never waits for any of this: what the cluster cannot be asked stays as it was last known.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from balancer.config.model import Coordination as Settings
from balancer.consensus.client import Coordination
from balancer.consensus.client_errors import CompactedError
from balancer.coordination.errors import CoordinationError
from balancer.coordination.responses import Event, RangeResponse
from balancer.telemetry import events

log = structlog.get_logger()

RETRY_FIRST, RETRY_MAX = 0.1, 2.0
"""Seconds before a part tries again: at once enough for a member that starts anew, seldom enough for a lost quorum."""

IDLE = 2.0
"""Seconds of silence after which a watched member is asked whether it can still read: as long as nodes have to be
heard of. A read per second and balancer is nothing to a cluster, and a member that hangs says nothing by itself.
"""

CLOSE_WITHIN = 0.8
"""Seconds to give back leases and duties: round trips for a cluster that answers. For one that does not, their TTLs
do the same a moment later, and whoever stops a daemon is not held up.
"""

Read = Callable[[RangeResponse], None]
Heard = Callable[[Event], None]
Reached = Callable[[], None]


class ClusterLink:
    """`client` speaks to the cluster; `name` is this balancer's there. Made inside the running loop.

    `embedded`: the cluster is the balancers' own, and not an etcd.
    """

    def __init__(self, settings: Settings, member_url: str | None) -> None:
        if settings.embedded is not None:
            assert member_url is not None, "an embedded member has an address"
            endpoints, name = [member_url], settings.embedded.name
        else:
            assert settings.etcd is not None, "validation: one of the two"
            endpoints, name = list(settings.etcd.endpoints), settings.etcd.name or socket.gethostname()
        self.name = name
        self.embedded = settings.embedded is not None
        self.client = Coordination(endpoints)
        self._lives = 0  # that `keep` runs
        self._over = asyncio.Event()  # there is none
        self._over.set()

    async def keep(self, part: str, life: Callable[[Reached], Awaitable[None]]) -> None:
        """Run `life(reached)` again and again until cancelled; where the cluster fails it, after a pause that grows.

        `life` calls `reached` once it has what it needs, and again after it went without. The log tells when a part is
        cut off, once, and when it is back.
        """
        pause = RETRY_FIRST
        cut_off = False

        def reached() -> None:
            nonlocal pause, cut_off
            pause = RETRY_FIRST
            if cut_off:
                cut_off = False
                log.info(events.CLUSTER_REACHED, part=part)

        self._lives += 1
        self._over.clear()
        try:
            while True:
                try:
                    await life(reached)
                except CoordinationError as error:
                    if not cut_off:
                        cut_off = True
                        log.warning(events.CLUSTER_CUT_OFF, part=part, error=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, RETRY_MAX)
        finally:
            self._lives -= 1
            if not self._lives:
                self._over.set()

    async def follow(self, prefix: str, *, read: Read, heard: Heard, reached: Reached) -> None:
        """All keys that begin with `prefix`, and then every change of them, in order, until the cluster fails.

        `read` gets what is there: at the beginning, and again when changes were compacted away before they were heard
        of; it must drop what is there no more. `heard` gets each change after that. None of them may wait. For use
        inside a `life` of `keep`. Raises CoordinationError; without a reachable member it may also just wait.
        """
        while True:
            answer = await self.client.get_prefix(prefix)
            read(answer)
            watch = self.client.watch(prefix, prefix=True, start_revision=answer.header.revision + 1, idle=IDLE)
            with suppress(CompactedError):
                async with watch:
                    reached()
                    async for event in watch:
                        heard(event)

    async def close(self) -> None:
        """Give back what is held, as far as the cluster answers within CLOSE_WITHIN. To be called once.

        Every `keep` is cancelled by then, and may still be about to give back what it had.
        """
        now = asyncio.get_running_loop().time
        until = now() + CLOSE_WITHIN
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._over.wait()
        await self.client.close(max(0.0, until - now()))
