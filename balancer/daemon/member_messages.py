"""What supervisor and member process tell each other: orders in JSON at the start, reports over the channel."""

import msgspec

from balancer.config.model import EmbeddedCluster, Log


class MemberStart(msgspec.Struct, frozen=True):
    """The member's orders. `channel`, `peer`, `client` are descriptors; `hosts`: further names in Host."""

    cluster: EmbeddedCluster
    channel: int
    peer: int
    client: int
    log: Log
    hosts: tuple[str, ...] = ()


class MemberReady(msgspec.Struct, frozen=True, tag="ready"):
    """The HTTP face answers."""


class MemberReport(msgspec.Struct, frozen=True, tag="report"):
    """How the member fares; every second. `proposals`: applied, refused, unknown, since the start."""

    leads: bool
    leader_known: bool
    term: int
    commit: int
    applied: int
    proposals: tuple[int, int, int]
    sync_p99: float  # seconds


class MemberStop(msgspec.Struct, frozen=True, tag="stop"):
    """End in order."""


class MemberLogLevel(msgspec.Struct, frozen=True, tag="level"):
    """Log from this level on."""

    level: str


MemberMessage = MemberReady | MemberReport | MemberStop | MemberLogLevel
