"""The links between members: every member has one connection to each other one, for what it sends there.

Replies travel on the other member's own connection, so nothing on either waits for anything else. A frame that comes
is handed on within the same turn of the loop; frames that are sent in one turn leave in one write per peer.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from balancer.consensus.peer_connection import End, Ending, PeerConnection, PeerError, PeerLimits
from balancer.consensus.peer_frames import (
    RAFT_MESSAGES,
    Answer,
    Ask,
    Frame,
    FrameError,
    Member,
    decode_frame,
    decoder,
    encode,
)
from balancer.consensus.peer_hello import NONCE_SIZE, Handshake, PeerIdentity, Purpose, check_secret
from balancer.consensus.peer_link import Dialing, PeerCounters, PeerLink, dial
from balancer.consensus.peer_listener import PeerListener
from balancer.raft.log_entry import NodeId

_decode_answer = decoder(Answer)


@dataclass(frozen=True, slots=True)
class Security:
    """How members trust each other: a shared secret, TLS with certificates on both sides, both, or (loopback) none.

    Raises ValueError for a secret that is too short, or a server's context that asks nobody for a certificate.
    """

    secret: bytes = b""
    server: ssl.SSLContext | None = None
    client: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        if self.secret:
            check_secret(self.secret)
        if (self.server is None) != (self.client is None):
            raise ValueError("TLS between members needs a context for each side")
        if self.server is not None and self.server.verify_mode is not ssl.CERT_REQUIRED:
            raise ValueError("TLS between members needs their certificates: set the context to CERT_REQUIRED")


class Peers:
    """All links of one member. Callbacks run in the loop and must not block.

    `on_frame(sender, frame)`: a frame of a member of this cluster, who is who it says it is. `on_ask(ask)`: the
    answer to somebody who asks who we are. `on_link(node_id, up)`: frames to that member leave, or no longer.
    All three may be replaced at any time.
    """

    def __init__(
        self,
        identity: PeerIdentity,
        *,
        on_frame: Callable[[NodeId, Frame], None],
        on_ask: Callable[[Ask], Answer],
        on_link: Callable[[NodeId, bool], None] | None = None,
        security: Security | None = None,
        limits: PeerLimits | None = None,
        rng: Random | None = None,
    ) -> None:
        self.identity = identity
        self.on_frame = on_frame
        self.on_ask = on_ask
        self.on_link = on_link
        self.members: dict[NodeId, Member] = {}
        self.counters: dict[NodeId, PeerCounters] = {}
        self.others = PeerCounters()  # of all who are not, or not yet, members
        self._security = security or Security()
        self._limits = limits or PeerLimits()
        self._links: dict[NodeId, PeerLink] = {}
        self._unsent: list[PeerLink] = []
        self._flush: asyncio.Handle | None = None
        self._listener: PeerListener | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._dialing = Dialing(
            handshake=lambda member: self._handshake("link", member),
            limits=self._limits,
            rng=rng or Random(),
            tls=self._security.client,
            unsent=self._has_unsent,
            changed=self._link_changed,
        )

    # ---- the owner's calls

    def start(self, sock: socket.socket) -> None:
        """Take connections on a listening socket, which is ours from now on; within the loop, once."""
        self._listener = PeerListener(
            sock,
            self._limits,
            self._security.server,
            handshake=lambda: self._handshake("link", initiator=False),
            on_link=self._seen,
            on_payload=self._received,
            on_ask=lambda ask: self.on_ask(ask),
        )

    def become(self, identity: PeerIdentity) -> None:
        """Belong to a cluster from now on: after a first start, before `set_members`."""
        self.identity = identity

    def set_members(self, members: Mapping[NodeId, Member]) -> None:
        """Who belongs to the cluster, at any time: links to who is new or moved are made, to who is gone end."""
        self.members.clear()  # handshakes under way look at this very mapping
        self.members.update(members)
        for node_id, link in list(self._links.items()):
            if members.get(node_id) != link.member:
                self._end_link(self._links.pop(node_id))
                if node_id not in members:
                    self.counters.pop(node_id, None)
        for node_id, member in members.items():
            if node_id != self.identity.node_id and node_id not in self._links:
                counters = self.counters.setdefault(node_id, PeerCounters())
                self._links[node_id] = PeerLink(member, self._dialing, counters)
                self._links[node_id].start()

    def send(self, to: NodeId, frame: Frame) -> None:
        """Let a frame leave at the end of this turn of the loop. Never waits, never raises: it may be dropped."""
        link = self._links.get(to)
        if link is None or not link.up:
            self.counters.get(to, self.others).dropped += 1
            return
        link.send(encode(frame))

    def flush(self) -> None:
        """Hand over now what was sent in this turn."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        links, self._unsent = self._unsent, []
        for link in links:
            link.flush()

    def up(self, to: NodeId) -> bool:
        """Whether a frame that is sent there now will leave."""
        link = self._links.get(to)
        return link is not None and link.up

    def queued(self, to: NodeId) -> int:
        """Bytes that wait for this member."""
        link = self._links.get(to)
        return link.queued if link is not None else 0

    @property
    def strangers(self) -> int:
        """Connections refused, or ended before they proved who they are, since the start."""
        return self._listener.refused if self._listener is not None else 0

    async def ask(self, address: str, ask: Ask) -> Answer:
        """Who is at `host:port`? PeerError."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def received(connection: PeerConnection, payload: bytes) -> None:
            answer = _decode_answer(payload)
            if not answered.done():
                answered.set_result(answer)
            connection.end(End.CLOSED, "answered")

        def ended(_: PeerConnection, ending: Ending) -> None:
            if not answered.done():
                answered.set_exception(PeerError(ending))
                answered.exception()  # seen, should nobody wait any more

        def make() -> PeerConnection:
            return PeerConnection(
                self._handshake("ask"),
                self._limits,
                opened=lambda connection: connection.send(encode(ask)),
                received=received,
                ended=ended,
            )

        connection: PeerConnection | None = None
        try:
            async with asyncio.timeout(self._limits.ask):
                connection = await dial(address, make, self._limits, self._security.client)
                return await answered
        except TimeoutError:
            raise PeerError(Ending(End.LOST, f"no answer within {self._limits.ask:g} s")) from None
        finally:
            if connection is not None:
                connection.end(End.CLOSED, "closed")

    async def close(self) -> None:
        """End every connection and stop listening; afterwards nothing is called any more."""
        if self._closed:
            return
        self._closed = True
        if self._flush is not None:
            self._flush.cancel()
        for link in self._links.values():
            self._end_link(link)
        self._links.clear()
        if self._listener is not None:
            await self._listener.close()
        if self._closing:
            await asyncio.wait(self._closing)

    # ---- the links' calls

    def _handshake(self, purpose: Purpose, expected: Member | None = None, *, initiator: bool = True) -> Handshake:
        return Handshake(
            self.identity,
            os.urandom(NONCE_SIZE),
            self._security.secret,
            known=self.members,
            expected=expected,
            purpose=purpose,
            initiator=initiator,
        )

    def _has_unsent(self, link: PeerLink) -> None:
        self._unsent.append(link)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_soon(self.flush)

    def _link_changed(self, member: Member, up: bool) -> None:
        if self.on_link is not None and not self._closed:
            self.on_link(member.node_id, up)

    def _end_link(self, link: PeerLink) -> None:
        task = link.close()
        if task is not None and not task.done():
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    # ---- the listener's calls

    def _seen(self, node_id: NodeId) -> None:
        link = self._links.get(node_id)
        if link is not None:
            link.hurry()

    def _received(self, sender: NodeId, payload: bytes) -> None:
        frame = decode_frame(payload)
        if type(frame) in RAFT_MESSAGES and (
            frame.sender != sender or frame.to != self.identity.node_id  # type: ignore[union-attr]
        ):
            raise FrameError(f"a message from {frame.sender:x} to {frame.to:x}")  # type: ignore[union-attr]
        counters = self.counters.get(sender, self.others)
        counters.received += 1
        counters.received_bytes += len(payload)
        self.on_frame(sender, frame)
