"""Bounds of the Raft core, each with its reason."""

from dataclasses import dataclass

ENTRY_OVERHEAD = 32
"""Bytes that an entry costs beside its data, on the wire and in memory, roughly: empty entries are not free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one member holds or sends at most. Sizes are bytes of entries, ENTRY_OVERHEAD included."""

    append_bytes_max: int = 1 << 20  # of one Append, as in etcd: a longer one would hold up the heartbeats behind it
    in_flight_max: int = 256  # Appends to one peer without an answer: more than a round trip of them in a LAN
    in_flight_bytes_max: int = 8 << 20  # the same in bytes: what a slow peer's connection may have to queue
    proposal_bytes_max: int = 2 << 20  # etcd takes requests of 1.5 MiB; an entry must fit a frame between members
    uncommitted_bytes_max: int = 32 << 20  # a leader without a quorum must refuse, not fill its memory
    backlog_max: int = 10_000  # entries that are not applied here: twice where etcd says "too many requests"
    committed_bytes_max: int = 4 << 20  # of one Ready: applying more in one go would hold up ticks
    reads_max: int = 10_000  # reads that wait: without a quorum nothing else would end their growth
    chunk_bytes: int = 256 << 10  # of a snapshot: small beside a heartbeat interval on any link worth having
    kept_entries_max: int = 4_096  # that a snapshot made superfluous: a peer a little behind needs no snapshot
    kept_bytes_max: int = 8 << 20  # the same in bytes
    promote_lag_max: int = 256  # entries that a learner may lack when it becomes a voter: less than a round trip's
