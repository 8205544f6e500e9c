"""Where clients reach each member. Each tells it, the context of the membership keeps it, and so all members know.

It stands behind what `Member` has: whoever reads the context as `Member`s (bootstrap.py, and so the links) leaves it
out, and no link begins anew when it changes. A member that goes takes its address with it.
"""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from balancer.config.addresses import split_port
from balancer.consensus.peer_frames import Address, Member

URL_MAX = 300
"""Characters, as many as a Change may carry."""


class PublishedMember(Member, frozen=True, array_like=True):
    """A member, and the URL at which clients reach it; "" = not told, or there is none for others."""

    client: str = ""


_decode = msgspec.msgpack.Decoder(tuple[PublishedMember, ...]).decode


def decode_published(context: bytes) -> tuple[PublishedMember, ...]:
    """What `bootstrap.encode_members` made, with or without addresses. Raises msgspec.MsgspecError."""
    return _decode(context) if context else ()


def with_client(members: Sequence[PublishedMember], node_id: int, url: str) -> list[PublishedMember]:
    """The same members, one of them with this URL."""
    return [msgspec.structs.replace(member, client=url) if member.node_id == node_id else member for member in members]


def advertised(url: str, peer_address: Address) -> str:
    """What to tell others of a client address that is listened on: "" where they cannot use it.

    One of all interfaces has the host of the peers' address, which others are known to reach. A loopback one is of use
    only where the peers' address is one, too: then all members are on one machine.
    """
    parts = urlsplit(url)
    peer_host = _host_of(peer_address)
    ip = _ip_of(parts.hostname or "")
    if ip is not None and ip.is_unspecified:
        return f"{parts.scheme}://{peer_host}:{parts.port}" if peer_host else ""
    if _is_loopback(parts.hostname or "") and not _is_loopback(peer_host.strip("[]")):
        return ""
    return url if len(url) <= URL_MAX else ""


def _host_of(address: Address) -> str:
    """The host of `host:port`, in brackets where it is an IPv6 address."""
    try:
        host, _ = split_port(address, "10.0.0.1:7001", zero=False)
    except ValueError:
        return ""
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    ip = _ip_of(host)
    return host.lower() == "localhost" if ip is None else ip.is_loopback


def _ip_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
