"""Digests of parts of the state. The state's hash is their sum, so that a change costs what it changes.

A sum modulo 2**128 does not depend on the order in which parts come and go, and a part is taken out by subtraction. It
finds members that differ by a fault; it is no protection against somebody who picks the keys. The bytes that are
hashed are laid out here, not by a library's encoding: members of different versions must agree.
"""

from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct

from balancer.coordination.responses import KeyValue

MODULUS = 1 << 128
_FIXED = Struct("<qqqqII").pack
_NUMBERS = Struct("<qq").pack


def of_version(kv: KeyValue) -> int:
    """Of one version of a key, for as long as it is kept."""
    return _number(_laid_out(kv) + kv.key + kv.value, b"version")


def of_order(changes: Sequence[KeyValue]) -> int:
    """Of the order of a revision's changes, for as long as the log has them."""
    return _number(b"".join(_laid_out(kv) + kv.key for kv in changes), b"order")


def of_lease(lease: int, ttl: int) -> int:
    """Of a lease; what hangs on it follows from the keys."""
    return _number(_NUMBERS(lease, ttl), b"lease")


def _laid_out(kv: KeyValue) -> bytes:
    return _FIXED(kv.create_revision, kv.mod_revision, kv.version, kv.lease, len(kv.key), len(kv.value))


def _number(data: bytes, kind: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=16, person=kind).digest(), "little")
