"""Whose data directory it is: one small file, written once, the last thing when a directory is made.

Law: a directory with this file has a log; one without it never voted. A log without it, or it without a log, means
that something was taken away: the directory is neither used nor taken for a new one.
"""

import re

import google_crc32c
import msgspec

from balancer.consensus.disk import Disk
from balancer.consensus.storage_errors import REJOIN, IdentityError
from balancer.consensus.wal_record import Identity, decode_header, segment_name, sequence_of

FORMAT = 1
FILE = "identity"
_TEMPORARY = "identity.tmp"


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    cluster_id: int
    node_id: int
    node_uuid: str


_LINES = re.compile(rb"(\{[^\n]*\})\ncrc32c ([0-9a-f]{8})\n")


def encode_identity(identity: Identity) -> bytes:
    """A line of JSON for people, and one with its checksum: a flipped bit would be another member."""
    text = msgspec.json.encode(_Content(FORMAT, identity.cluster_id, identity.node_id, identity.node_uuid.hex()))
    return text + b"\ncrc32c %08x\n" % google_crc32c.value(text)


def decode_identity(data: bytes) -> Identity:
    """Raises IdentityError for anything but what `encode_identity` makes."""
    lines = _LINES.fullmatch(data)
    if lines is None or int(lines[2], 16) != google_crc32c.value(lines[1]):
        raise IdentityError(f"{FILE}: damaged. {REJOIN}")
    try:
        content = msgspec.json.decode(lines[1], type=_Content)
        uuid = bytes.fromhex(content.node_uuid)
    except ValueError as error:
        raise IdentityError(f"{FILE}: {error}. {REJOIN}") from error
    if content.format != FORMAT:
        raise IdentityError(f"{FILE}: the directory has format {content.format}, this program reads format {FORMAT}")
    return Identity(content.cluster_id, content.node_id, uuid)


def read_identity(disk: Disk) -> Identity | None:
    """Whose directory it is, None: nobody's yet. Raises IdentityError, OSError."""
    names = disk.names()
    if FILE in names:
        if not any(sequence_of(name) is not None for name in names):
            raise IdentityError(f"the log is gone. {REJOIN}")
        return decode_identity(disk.read(FILE))
    if any(name.startswith("snap-") for name in names) or not _only_begun(disk, names):
        raise IdentityError(f"{FILE}: this file is missing beside a log. {REJOIN}")
    return None


def write_identity(disk: Disk, identity: Identity) -> None:
    """Make the directory this member's, durably. The log is there already. Raises OSError."""
    if _TEMPORARY in disk.names():
        disk.unlink(_TEMPORARY)
    file = disk.create(_TEMPORARY)
    file.write(encode_identity(identity), 0)
    file.sync()
    file.close()
    disk.rename(_TEMPORARY, FILE)
    disk.sync_directory()


def clear_begun(disk: Disk) -> None:
    """Remove what is left of a directory whose making was interrupted, durably. Raises OSError."""
    for name in disk.names():
        if sequence_of(name) is not None or name == _TEMPORARY:
            disk.unlink(name)
    disk.sync_directory()


def _only_begun(disk: Disk, names: list[str]) -> bool:
    """Whether the segments are none, or the first one and nothing in it."""
    found = [name for name in names if sequence_of(name) is not None]
    if not found:
        return True
    if found != [segment_name(0)]:
        return False
    data = disk.read(found[0])
    return len(data.rstrip(b"\0")) <= decode_header(found[0], data, len(data)).body
