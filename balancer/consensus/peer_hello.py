"""How two members make sure of each other when a connection begins. No I/O; the nonces are given.

    who connected -> Hello                        version, purpose, cluster, node, uuid, name, nonce
                  <- Hello, Proof                 Proof: HMAC-SHA256(secret, role and both Hellos as they were sent)
                  -> Proof
                  <- Accepted                     from here on every frame is sealed with a key of this connection

Both Hellos hold a fresh nonce and everything that a member says of itself, so a proof holds for this connection, this
pair and this role only: one that is recorded, or sent back to its maker, does not verify. The secret is never sent; a
stranger who connects can try guesses against one proof at home, therefore a secret has at least `SECRET_MIN` bytes.
Without a secret the same steps only compare identities: on loopback, or inside TLS with certificates of both sides.

Whoever finds the other wrong says `Refused` with the reason before it hangs up, so that both can log it.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from balancer.consensus.peer_frames import (
    FrameError,
    Member,
    Name,
    Number,
    Seal,
    Uuid,
    Words,
    decoder,
    encode,
    frame_bytes,
)
from balancer.errors import BalancerError
from balancer.raft.log_entry import NodeId

VERSION = 1
OLDEST = 1  # the oldest version that this one still understands
SECRET_MIN = 16
NONCE_SIZE = 32
HELLO_MAX = 4096  # of all that a peer may send before it is accepted

REJOIN = (
    "at a running member: `balancer cluster members remove {name}`; then start {name} with an empty data directory and "
    "`join: true`; then, at a running member: `balancer cluster members add http://{address}`"
)

Purpose = Literal["link", "ask"]
"""link: frames of one member to another, in this direction only. ask: one Ask and its Answer, for anybody."""

_Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_SIZE, max_length=NONCE_SIZE)]
_Mac = Annotated[bytes, msgspec.Meta(max_length=32)]


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """What a member says of itself. Later versions may append fields."""

    version: Number
    oldest: Number
    purpose: Purpose
    cluster_id: Number
    node_id: Number
    uuid: Uuid
    name: Name
    nonce: _Nonce
    secured: bool


class Proof(msgspec.Struct, frozen=True, array_like=True, tag="proof"):
    """That its sender knows the secret; empty where there is none."""

    mac: _Mac


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag="accepted"):
    """The one who was connected to is content."""


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The sender hangs up, and why."""

    reason: Words


_decode = decoder(Hello | Proof | Accepted | Refused)


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who a member is. Both ids are 0 as long as it belongs to no cluster; then it can only ask and be asked."""

    cluster_id: int
    node_id: NodeId
    uuid: bytes
    name: str


class HelloError(BalancerError):
    """The connection must end. `by_peer`: the other side said so, and need not be told."""

    def __init__(self, reason: str, *, by_peer: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.by_peer = by_peer


def check_secret(secret: bytes) -> bytes:
    """The secret of a file's content, without the newline at its end. ValueError when it is too short."""
    secret = secret.rstrip(b"\r\n")
    if len(secret) < SECRET_MIN:
        raise ValueError(
            f"the peer secret has {len(secret)} bytes; it needs at least {SECRET_MIN}, such as `openssl rand -hex 32`"
        )
    return secret


@dataclass(slots=True)
class Handshake:
    """One connection's. `take` each payload in turn, send what it returns; done once `accepted`.

    `known`: members by node id, as far as known. `expected`: whom one connected to; None for who was connected to,
    and for asking. Afterwards `peer` and `purpose` say who is there and what for, and the seals what to sign with.
    """

    own: PeerIdentity
    nonce: bytes
    secret: bytes = b""
    known: Mapping[NodeId, Member] = field(default_factory=dict)
    expected: Member | None = None
    purpose: Purpose = "link"
    initiator: bool = False
    peer: PeerIdentity | None = None
    accepted: bool = False
    outgoing: Seal | None = None
    incoming: Seal | None = None
    _hello: bytes = b""
    _hellos: bytes = b""
    _proven: bool = False

    def begin(self) -> bytes:
        """What the one who connected sends first."""
        self.initiator = True
        return self._own_hello()

    def take(self, payload: bytes) -> bytes:
        """What to send back to this payload. HelloError; `refusal` makes what the peer is told then."""
        try:
            said = _decode(payload)
        except FrameError as error:
            raise HelloError(str(error)) from None
        if isinstance(said, Refused):
            raise HelloError(printable(said.reason), by_peer=True)
        if isinstance(said, Hello) and self.peer is None:
            return self._take_hello(said, payload)
        if isinstance(said, Proof) and self.peer is not None and not self._proven:
            return self._take_proof(said, self.peer)
        if isinstance(said, Accepted) and self.initiator and self._proven:
            self.accepted = True
            return b""
        raise HelloError(f"{type(said).__name__} out of turn")

    def _own_hello(self) -> bytes:
        own = self.own
        self._hello = encode(
            Hello(
                version=VERSION,
                oldest=OLDEST,
                purpose=self.purpose,
                cluster_id=own.cluster_id,
                node_id=own.node_id,
                uuid=own.uuid,
                name=own.name,
                nonce=self.nonce,
                secured=bool(self.secret),
            )
        )
        return frame_bytes(self._hello, None)

    def _take_hello(self, said: Hello, payload: bytes) -> bytes:
        self.peer = PeerIdentity(said.cluster_id, said.node_id, said.uuid, printable(said.name))
        if said.version < OLDEST or said.oldest > VERSION:
            raise HelloError(
                f"{self.peer.name} speaks version {said.oldest} to {said.version} of the members' protocol, "
                f"{self.own.name} version {OLDEST} to {VERSION}: install the same release on both"
            )
        if said.secured != bool(self.secret):
            with_secret, without = (self.peer.name, self.own.name) if said.secured else (self.own.name, self.peer.name)
            raise HelloError(f"{with_secret} has a peer_secret_file and {without} has none")
        if said.uuid == self.own.uuid:
            raise HelloError(f"{self.peer.name} is this member itself, or runs on a copy of its data directory")
        if self.initiator:
            if said.purpose != self.purpose:
                raise HelloError("an answer for another purpose")
            self._bind(self._hello, payload)
            return b""
        self.purpose = said.purpose
        sent = self._own_hello()
        self._bind(payload, self._hello)
        return sent + self._own_proof()

    def _take_proof(self, said: Proof, peer: PeerIdentity) -> bytes:
        if not hmac.compare_digest(said.mac, self._mac(b"connects" if not self.initiator else b"accepts")):
            raise HelloError(f"the peer secrets of {self.own.name} and {peer.name} differ")
        self._proven = True
        if self.purpose == "link":
            reason = objection(self.own, peer, self.known, self.expected)
            if reason:
                raise HelloError(reason)
        if self.secret:
            key = hmac.digest(self.secret, b"balancer peers 1 key" + self._hellos, hashlib.sha256)
            ways = (b"there", b"back") if self.initiator else (b"back", b"there")
            self.outgoing, self.incoming = (Seal(key, way) for way in ways)
        if self.initiator:
            return self._own_proof()
        self.accepted = True
        return frame_bytes(encode(Accepted()), None)

    def _own_proof(self) -> bytes:
        return frame_bytes(encode(Proof(self._mac(b"connects" if self.initiator else b"accepts"))), None)

    def _bind(self, first: bytes, second: bytes) -> None:
        """Both Hellos as they travelled; lengths keep one from flowing into the other."""
        self._hellos = b"".join(len(part).to_bytes(4, "little") + part for part in (first, second))

    def _mac(self, role: bytes) -> bytes:
        if not self.secret:
            return b""
        return hmac.digest(self.secret, b"balancer peers 1 " + role + self._hellos, hashlib.sha256)


def objection(own: PeerIdentity, peer: PeerIdentity, known: Mapping[NodeId, Member], expected: Member | None) -> str:
    """Why these two must not talk as members of one cluster; "" = they may. Authentic by now.

    An unknown node id is no objection: a member that lags behind hears of a new leader from that leader (thesis 4.1).
    """
    if not own.cluster_id:
        return f"{own.name} belongs to no cluster: its data directory is empty"
    if not peer.cluster_id:
        return f"{peer.name} belongs to no cluster: its data directory is empty"
    if own.cluster_id != peer.cluster_id:
        return f"{peer.name} belongs to cluster {peer.cluster_id:x} and {own.name} to {own.cluster_id:x}"
    if own.node_id == peer.node_id:
        return f"{peer.name} has the node id of {own.name} ({own.node_id:x}) and another data directory"
    if expected is not None and expected.node_id != peer.node_id:
        return f"{expected.address} answers as {peer.name} ({peer.node_id:x}), not as {_shown(expected)}"
    member = known.get(peer.node_id)
    if member is not None and member.uuid != peer.uuid:
        return (
            f"{_shown(member)} is known with another data directory; one that lost its own must not vote under its "
            f"old id: {REJOIN.format(name=member.name, address=member.address)}"
        )
    return ""


def refusal(reason: str) -> bytes:
    """What the peer is told before this side hangs up."""
    return frame_bytes(encode(Refused(reason[:1000])), None)


def printable(text: str) -> str:
    """A stranger's words, fit for a log: one line, no control characters, at most 1,000 characters."""
    return "".join(character if character.isprintable() else "?" for character in text[:1000])


def _shown(member: Member) -> str:
    return f"{member.name} ({member.node_id:x})"
