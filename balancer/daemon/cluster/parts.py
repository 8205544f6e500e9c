"""All that a balancer does in its cluster, as the supervisor starts, configures and ends it."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from balancer.config.model import Config, ResolvedBackend
from balancer.daemon.cluster.compaction import Compaction
from balancer.daemon.cluster.discovery import Discovery
from balancer.daemon.cluster.duties import Duties
from balancer.daemon.cluster.link import ClusterLink
from balancer.daemon.cluster.nodes import Nodes
from balancer.daemon.cluster.shared_changes import SharedChanges
from balancer.daemon.cluster.shared_checks import SharedChecks
from balancer.daemon.health_watch import HealthWatch
from balancer.telemetry.aggregate import Aggregate


class ClusterParts:
    """Made inside the running loop; `run` until cancelled, then `close`.

    `configure` hears each generation that comes into use. Nothing here waits for the cluster but `run` and `close`.
    """

    def __init__(self, link: ClusterLink, counted: Aggregate, folder: Path) -> None:
        self._link = link
        self.nodes = Nodes(link)
        self.duties = Duties(link, counted)
        self.changes = SharedChanges(link, folder)
        self.discovery = Discovery(link, counted, folder)
        self._checks: SharedChecks | None = None
        if link.embedded:
            self.duties.add("compaction", Compaction(link.client).work)

    def share_checks(self, health: HealthWatch, counted: Aggregate) -> None:
        """Divide the health checks among all balancers. Before the first `configure`."""
        self._checks = SharedChecks(self._link, self.nodes, health, counted)
        health.share_with(self._checks)

    def configure(self, config: Config, backends: Sequence[ResolvedBackend]) -> Iterator[None]:
        """This generation is in use from now on. In slices: the loop may go on between any two."""
        yield from self.changes.configure()
        self.discovery.configure(config, backends)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.nodes.run())
            tasks.create_task(self.duties.run())
            if self._checks is not None:
                tasks.create_task(self._checks.run())
            tasks.create_task(self.changes.run())
            tasks.create_task(self.discovery.run())

    async def close(self) -> None:
        """Leave the cluster in order."""
        self.changes.close()
        await self._link.close()
