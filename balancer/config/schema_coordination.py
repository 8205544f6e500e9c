"""The schema of the coordination section: an embedded member of a cluster."""

from typing import Annotated

from balancer.config import addresses
from balancer.config.fields import Boolean, FilePath, Name, duration, of
from balancer.config.scalars import shown
from balancer.config.schema_base import Base, key


def _member_address(text: str) -> str:
    """host:port as other members reach it."""
    if text.startswith("unix:"):
        raise ValueError(f"{shown(text)} cannot be reached from other machines; write host:port")
    _, port = addresses.backend_address(text)
    if not port:
        raise ValueError(f"{shown(text)} has no port; write such as 10.0.0.1:7001")
    return text


def _bind(text: str) -> str:
    addresses.bind_address(text)
    return text


def _etcd_address(text: str) -> str:
    if text.startswith("https://"):
        raise ValueError(f"{shown(text)}: TLS towards an etcd is not supported; write http://")
    if not text.startswith("http://"):
        raise ValueError(f"{shown(text)} is no address of an etcd; write such as http://10.0.0.9:2379")
    addresses.backend_address(text.removeprefix("http://").removesuffix("/"))
    return text.removesuffix("/")


EtcdAddress = Annotated[str, of("http://host:port", _etcd_address)]
MemberAddress = Annotated[str, of("host:port", _member_address)]
BindAddress = Annotated[str, of("host:port", _bind)]


class Embedded(Base):
    """A member of a small cluster of balancers, in a process of its own."""

    name: Name = key(description="Name of this member, one of `members`.", example="n1")
    members: dict[Name, MemberAddress] = key(
        description="Every member's address for the others, by name; the same in all files. It is used at the first "
        "start only, at which all of them must have been there once; afterwards the replicated list rules.",
        example='{n1: "10.0.0.1:7001", n2: "10.0.0.2:7001", n3: "10.0.0.3:7001"}',
    )
    client: BindAddress = key(
        "127.0.0.1:2379",
        description="Address of etcd's v3 JSON API. 127.0.0.1:2379: where etcd's clients look, and on loopback, since "
        "there is no authentication: whoever reaches it may read and change everything.",
    )
    bind: BindAddress | None = key(
        None, description="Address to listen on for the other members. Unset: the address of `name` in `members`."
    )
    data_dir: FilePath = key(
        description="Folder of the log and the snapshots; it is made. It must not be restored from a backup, and never "
        "be another member's.",
        example="/var/lib/balancer",
    )
    peer_secret_file: FilePath | None = key(
        None,
        description="File with the secret that all members share, 16 bytes at least: with it they prove who they are "
        "and sign what they send. Unset: for members on loopback only.",
    )
    join: Boolean = key(
        False,
        description="Wait to be added to a cluster that runs already (`balancer cluster members add`). false: the "
        "members in the file found one together.",
    )
    heartbeat: Annotated[float, duration("10ms", "5s")] = key(
        "50ms", description="How often a leader shows that it is there. 50ms: many times in an election timeout."
    )
    election: Annotated[float, duration("50ms", "60s")] = key(
        "300ms",
        description="The shortest election timeout; each is drawn from it to its double. 300ms: ten times what a write "
        "to a good disk and a round trip in a local network take. Where loop or disk are slower, it is stretched.",
    )


class Etcd(Base):
    """An etcd, 3.4 or newer, in place of an embedded cluster. It is spoken to by its v3 JSON API."""

    endpoints: list[EtcdAddress] = key(
        description="Addresses of its members; further ones are asked where one does not answer.",
        example='["http://10.0.0.9:2379"]',
    )
    name: Name | None = key(
        None,
        description="Name of this balancer among those that share the etcd. Unset: the name of this machine.",
        example="lb1",
    )


class Coordination(Base):
    """Locks, leader election, leases and a replicated key-value store."""

    embedded: Embedded | None = key(None, description="A member of an embedded cluster runs beside the workers.")
    etcd: Etcd | None = key(None, description="An etcd that runs anyway does what the embedded cluster would.")
    share_checks: Boolean = key(
        False,
        description="Each backend is probed by one of the balancers that have its pool, which tells the others. false: "
        "every balancer probes for itself, since what one of them reaches another may not.",
    )
