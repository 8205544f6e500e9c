"""Duties: what one balancer does for all of them. Whoever leads the election of a duty does it; the others wait.

Law: a duty is cancelled before another balancer can begin it, by the clock of the one that has it. No clock helps a
process that stands still between looking at it and acting, so what a duty writes to the cluster it writes in
transactions with its guard: those of a balancer that does not lead any more do nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import structlog

from balancer.consensus.client_election import Leadership
from balancer.consensus.client_errors import LockLostError
from balancer.coordination.errors import CoordinationError
from balancer.coordination.requests import Compare
from balancer.daemon.cluster.link import ClusterLink, Reached
from balancer.telemetry import events, metrics
from balancer.telemetry.aggregate import Aggregate

log = structlog.get_logger()

PREFIX = "/balancer/duties/"
TTL = 2.0
"""Seconds after which another balancer may have the duty of one that died: as for a balancer's life."""

REST = 1.0
"""Seconds before a balancer stands again for what it had: the others come first, and nothing fails in circles."""

Work = Callable[[Compare], Awaitable[None]]
"""What is to be done, given its guard: until cancelled, or done for now. May raise CoordinationError."""


class Duties:
    """Duties by name. They are added before `run`; their number is the program's, not the configuration's."""

    def __init__(self, link: ClusterLink, counted: Aggregate) -> None:
        self._link = link
        self._counted = counted
        self._works: dict[str, Work] = {}

    def add(self, duty: str, work: Work) -> None:
        """Have `work` done by one balancer at a time."""
        self._works[duty] = work
        self._show(duty, here=False)

    async def run(self) -> None:
        """Until cancelled; then the duties that are done here are given up as far as that is quick."""
        async with asyncio.TaskGroup() as tasks:
            for duty, work in self._works.items():
                tasks.create_task(self._link.keep(f"duty {duty}", partial(self._stand, duty, work)))

    async def _stand(self, duty: str, work: Work, reached: Reached) -> None:
        """Wait for one's turn, and take it."""
        election = self._link.client.election(PREFIX + duty)
        await election.leader()  # the wait itself tells nobody that the cluster answers
        reached()
        failure: CoordinationError | None = None
        with suppress(LockLostError):  # said by then
            async with election.campaign(self._link.name, ttl=TTL) as leadership:
                failure = await self._serve(duty, work, leadership)
        await asyncio.sleep(REST)
        if failure is not None:
            raise failure

    async def _serve(self, duty: str, work: Work, leadership: Leadership) -> CoordinationError | None:
        """Lead. What the work failed of, if it did not because the leadership was lost."""
        reason = "it failed"
        self._show(duty, here=True)
        log.info(events.DUTY_BEGAN, duty=duty, token=leadership.token)
        try:
            async with leadership.while_held():
                await work(leadership.guard)
            reason = "it is done"
        except LockLostError as lost:
            reason = leadership.why or str(lost)
        except CoordinationError as error:
            reason = str(error)
            return error
        except asyncio.CancelledError:
            reason = "this balancer stops"
            raise
        finally:
            self._show(duty, here=False)
            log.info(events.DUTY_ENDED, duty=duty, reason=reason)
        return None

    def _show(self, duty: str, *, here: bool) -> None:
        self._counted.set(metrics.CLUSTER_DUTY, (duty,), float(here))
