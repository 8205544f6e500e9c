"""`balancer cluster`: coordination from a shell, against the embedded cluster or an etcd."""

import click

from balancer.cli.cluster_client import endpoints_option
from balancer.cli.cluster_kv import kv
from balancer.cli.cluster_lock import elect, lock
from balancer.cli.cluster_members import members
from balancer.cli.cluster_status import status


@click.group("cluster")
@endpoints_option
def command(endpoints: str | None) -> None:
    """Locks, elections, keys and members of the cluster: our own or an etcd.

    Where the cluster is: --endpoints, else $BALANCER_ENDPOINTS, else http://127.0.0.1:2379. Exit status, where a
    command does not say otherwise: 0 done, 1 refused, 2 not reached, 3 it is not known whether the change was done.
    """


for one in (status, members, lock, elect, kv):
    command.add_command(one)
