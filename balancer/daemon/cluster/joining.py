"""Whether this balancer belongs to a cluster. One that does not loads nothing of all that."""

from pathlib import Path
from typing import TYPE_CHECKING

from balancer.config.model import Coordination
from balancer.daemon.cluster_member import ClusterMember
from balancer.telemetry.aggregate import Aggregate

if TYPE_CHECKING:
    from balancer.daemon.cluster.parts import ClusterParts


def join(
    settings: Coordination | None, member: ClusterMember | None, counted: Aggregate, folder: Path
) -> "ClusterParts | None":
    """What the configuration asks for; None = this balancer is on its own. `folder` keeps what is known of others."""
    if settings is None:
        return None
    from balancer.daemon.cluster.link import ClusterLink  # here: these load the whole client of the cluster
    from balancer.daemon.cluster.parts import ClusterParts

    return ClusterParts(ClusterLink(settings, None if member is None else member.url), counted, folder)
