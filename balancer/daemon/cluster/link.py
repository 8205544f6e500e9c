"""The supervisor's way to its cluster, embedded or an etcd: one client, and the retries of what lives on it.

Traffic never waits for any of this: what the cluster cannot be asked stays as it was last known.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import structlog

from balancer.config.model import Coordination as Settings
from balancer.consensus.client import Coordination
from balancer.coordination.errors import CoordinationError
from balancer.telemetry import events

log = structlog.get_logger()

RETRY_FIRST, RETRY_MAX = 0.1, 2.0
"""Seconds before a part tries again: at once enough for a member that starts anew, seldom enough for a lost quorum."""


class ClusterLink:
    """`client` speaks to the cluster; `name` is this balancer's there. Made inside the running loop."""

    def __init__(self, settings: Settings, member_url: str | None) -> None:
        if settings.embedded is not None:
            assert member_url is not None, "an embedded member has an address"
            endpoints, name = [member_url], settings.embedded.name
        else:
            assert settings.etcd is not None, "validation: one of the two"
            endpoints, name = list(settings.etcd.endpoints), settings.etcd.name or socket.gethostname()
        self.name = name
        self.client = Coordination(endpoints)

    async def keep(self, part: str, life: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
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

        while True:
            try:
                await life(reached)
            except CoordinationError as error:
                if not cut_off:
                    cut_off = True
                    log.warning(events.CLUSTER_CUT_OFF, part=part, error=str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, RETRY_MAX)

    async def close(self) -> None:
        """Give back what is held, as far as the cluster answers."""
        await self.client.close()
