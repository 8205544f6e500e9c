"""Runs a member as the supervisor would, where its namespace is: binds its addresses, then is the member process.

`python -m tests.integration.coordination.real_member ORDERS SEGMENT SNAPSHOT`: ORDERS as `balancer.daemon.member` takes
them, with descriptors of its addresses that mean nothing; bytes of a segment of the log and entries between snapshots,
smaller than usual, so that minutes are enough for many of both.
"""

import ctypes
import signal
import sys

import msgspec

from balancer.consensus import wal_segment

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """The process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also while it is stopped
    wal_segment.SEGMENT_BYTES = int(sys.argv[2])  # before anybody has read it

    from balancer.consensus import driver
    from balancer.daemon import member
    from balancer.daemon.member_messages import MemberStart
    from balancer.transport.sockets import bind_sockets

    driver.SNAPSHOT_EVERY = int(sys.argv[3])
    orders = msgspec.json.decode(sys.argv[1], type=MemberStart)
    (peer,) = bind_sockets(orders.cluster.peer, 1)
    (client,) = bind_sockets(orders.cluster.client, 1)
    orders = msgspec.structs.replace(orders, peer=peer.detach(), client=client.detach())
    sys.argv[1] = msgspec.json.encode(orders).decode()
    member.main()


if __name__ == "__main__":
    main()
