"""Which node probes which backend: rendezvous hashing, by highest random weight (Thaler and Ravishankar 1998).

Every node gives each backend a weight, a hash of both; the heaviest owns the backend. Laws: whoever sees the same nodes
names the same owner, in whatever order they came; a node that goes gives up what it owned and moves nothing else; one
that comes takes about the same share from each of the others.
"""

from collections.abc import Iterable
from hashlib import blake2b

_APART = b"\0"  # stands in no name: they come from YAML or JSON of printable text
_WEIGHT_BYTES = 8


def identity(pool: str, backend: str, address: str) -> bytes:
    """What tells a backend from all others, the same on every node."""
    return _APART.join((pool.encode(), backend.encode(), address.encode()))


def weight(node: str, backend: bytes) -> bytes:
    """The weight of a node for a backend's identity: bytes, which compare as numbers do.

    Not Python's `hash`, which every process salts differently.
    """
    return blake2b(node.encode() + _APART + backend, digest_size=_WEIGHT_BYTES).digest()


def owner(nodes: Iterable[str], backend: bytes) -> str | None:
    """The node that owns this backend; None where there are no nodes. O(nodes)."""
    return max(nodes, key=lambda node: (weight(node, backend), node), default=None)
