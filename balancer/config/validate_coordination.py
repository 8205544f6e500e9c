"""What must fit together in the coordination section."""

import ipaddress
from collections.abc import Iterator

from balancer.config import addresses
from balancer.config.fields import did_you_mean
from balancer.config.schema import File
from balancer.config.schema_coordination import Coordination, Embedded
from balancer.config.source import Path, Source
from balancer.errors import Problem

_PLACE: Path = ("coordination",)
HEARTBEATS = 3
"""Heartbeats that must fit in the shortest election timeout: one or two may be late."""


def check_coordination(section: Coordination | None, source: Source) -> Iterator[Problem]:
    """Every problem of the section."""
    if section is None:
        return
    if section.embedded is None and section.etcd is None and not source.damaged(_PLACE):
        yield source.problem(_PLACE, "is empty; write embedded: {...} or etcd: {...}, or remove it")
    if section.etcd is not None:
        if section.embedded is not None:
            yield source.problem((*_PLACE, "etcd"), "there is an embedded cluster, too; keep one of the two")
        if not section.etcd.endpoints and not source.damaged((*_PLACE, "etcd", "endpoints")):
            yield source.problem((*_PLACE, "etcd", "endpoints"), "is empty; write at least one address")
    if section.embedded is not None:
        yield from _embedded(section.embedded, (*_PLACE, "embedded"), source)


def check_registered(file: File, source: Source) -> Iterator[Problem]:
    """What pools that take registered backends need. O(pools)."""
    first: dict[str, str] = {}
    for name, pool in file.pools.items():
        if pool.backends_from is None:
            continue
        place: Path = ("pools", name, "backends_from")
        if source.damaged(place):
            continue
        if pool.backends_from.prefix is None:
            yield source.problem(place, "has no prefix; write such as {prefix: /services/api/}")
            continue
        if file.coordination is None and not source.damaged(_PLACE):
            yield source.problem(
                place, "there is no cluster in which backends could register; add coordination, or remove it"
            )
        for prefix, other in first.items():
            if prefix.startswith(pool.backends_from.prefix) or pool.backends_from.prefix.startswith(prefix):
                yield source.problem(
                    (*place, "prefix"), f"pool {other} has {prefix}, and one holds the other; give each its own"
                )
        first.setdefault(pool.backends_from.prefix, name)


def _embedded(embedded: Embedded, place: Path, source: Source) -> Iterator[Problem]:
    members = embedded.members
    if embedded.name not in members and not source.damaged((*place, "members")):
        hint = did_you_mean(embedded.name, list(members))
        yield source.problem((*place, "name"), f"there is no member {embedded.name} in members; {hint}")
    first: dict[str, str] = {}
    for name, address in members.items():
        other = first.setdefault(address, name)
        if other != name:
            yield source.problem(
                (*place, "members", name), f"{other} has the address {address}, too; give each its own"
            )
    if not source.damaged((*place, "members")):
        yield from _number(members, (*place, "members"), source)
    far = sorted(name for name, address in members.items() if not _is_loopback(address))
    if far and not source.given((*place, "peer_secret_file")):
        yield source.problem(
            (*place, "members"),
            f"{', '.join(far)} can be reached from other machines, so peer_secret_file is required; add it",
        )
    if embedded.heartbeat * HEARTBEATS > embedded.election:
        yield source.problem(
            (*place, "election"),
            f"an election timeout must have room for {HEARTBEATS} heartbeats; raise it, or lower heartbeat",
        )
    if not ipaddress.ip_address(addresses.bind_address(embedded.client)[0]).is_loopback:
        yield source.problem(
            (*place, "client"),
            "there is no authentication: whoever reaches this address may read and change everything; bind it to "
            "127.0.0.1, or keep strangers away from it",
            warning=True,
        )


def _number(members: dict[str, str], place: Path, source: Source) -> Iterator[Problem]:
    if not members:
        yield source.problem(place, 'is empty; write at least one, such as n1: "10.0.0.1:7001"')
    elif len(members) == 2:
        yield source.problem(
            place, "two members stand still as soon as one of them is gone; have three, or one", warning=True
        )
    elif len(members) % 2 == 0:
        fewer = len(members) - 1
        yield source.problem(
            place, f"{len(members)} members bear the loss of no more than {fewer} do; have {fewer}", warning=True
        )


def _is_loopback(address: str) -> bool:
    host, _ = addresses.backend_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
