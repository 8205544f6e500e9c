"""A member of the cluster, whole: its data directory, its peers, its replica and its HTTP face, from start to end.

Order at a start: whose directory is it; who else belongs to the cluster (first_start.py, once in a member's life); the
log; then votes. At the end: leadership is handed over, so that the others need no election timeout.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import Any, TypeVar

import structlog

from balancer.consensus.bootstrap import Begin, Origin, Own, answer_of, decode_members
from balancer.consensus.disk import Disk, OsDisk
from balancer.consensus.driver import Driver
from balancer.consensus.first_start import FirstStart, StartRefusedError, load_origin, new_origin, save_origin
from balancer.consensus.gateway import Gateway
from balancer.consensus.member_service import MemberService
from balancer.consensus.membership_changes import MembershipChanges
from balancer.consensus.peer_frames import Ask, Listed, Member
from balancer.consensus.peer_hello import PeerIdentity
from balancer.consensus.peers import Peers, Security
from balancer.consensus.replica import Replica
from balancer.consensus.storage import Storage
from balancer.consensus.storage_errors import EXIT_SUSPECT, EXIT_TRANSIENT, IdentityError, StorageError
from balancer.consensus.tick_pace import TickPace
from balancer.consensus.wal_record import Identity
from balancer.consensus.wal_replay import Recovered
from balancer.coordination.snapshot import Reader, View
from balancer.coordination.state_machine import StateMachine
from balancer.raft.log_entry import Membership, SnapshotMark
from balancer.raft.node import Node
from balancer.raft.refusals import RefusedError, RestoreError, SafetyBrokenError
from balancer.telemetry import events

log = structlog.get_logger()

T = TypeVar("T")

TICK = 0.01
"""Seconds: fine enough that the election timeouts of three members seldom meet."""
HAND_OVER = 1.0
"""Seconds for handing leadership over at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSettings:
    """How a member is to run. Times in seconds; `members`: name to "host:port", itself included."""

    name: str
    members: Mapping[str, str]
    data_dir: str
    join: bool = False
    heartbeat: float = 0.05
    election: float = 0.3
    secret: bytes = b""
    hosts: frozenset[str] = frozenset()


class _Snapshots:
    """The state in files, for the driver."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def load(self, mark: SnapshotMark) -> StateMachine:
        return load_state(self._storage, mark)

    def begin_save(self, mark: SnapshotMark, machine: StateMachine) -> Callable[[], None]:
        view = View(machine)
        return lambda: self._storage.snapshots.save(mark, view.slices())

    def marked(self, mark: SnapshotMark) -> None:
        self._storage.marked(mark)


def load_state(storage: Storage, mark: SnapshotMark) -> StateMachine:
    """The state at `mark`: of its snapshot, or before the first entry. O(bytes)."""
    if not mark.index:
        return StateMachine()
    reader = Reader()
    for piece in storage.snapshots.pieces(mark):
        reader.feed(piece)
    return reader.finish()


class RunningMember:
    """One member. `peer` and `client` are listening sockets, its own from then on. Made inside the loop."""

    def __init__(self, settings: MemberSettings, peer: socket.socket, client: socket.socket) -> None:
        self._settings = settings
        self._client = client
        self._disk: Disk = OsDisk(settings.data_dir)
        self._rng: Random = SystemRandom()
        self._peer_socket = peer
        self._peers: Peers | None = None
        self.service: MemberService | None = None
        self.driver: Driver | None = None

    async def run(self, stop: asyncio.Event, ready: Callable[[], None] = lambda: None) -> int:
        """Live until `stop` or a failure. Returns the exit code: 0, 75 (start it again), 78 (its data is suspect).

        `ready` is called once the HTTP face answers.
        """
        try:
            self._disk.lock()
            origin = load_origin(self._disk)
            if origin is None:
                origin = new_origin(self._settings.name)
                save_origin(self._disk, origin)
            if origin.name != self._settings.name:
                raise IdentityError(f"the data directory is that of member {origin.name}, not of {self._settings.name}")
            return await self._run(origin, stop, ready)
        except (StorageError, StartRefusedError) as error:
            return _failed(error, error.exit_code)
        except OSError as error:
            return _failed(error, EXIT_TRANSIENT)
        except (SafetyBrokenError, RestoreError) as error:
            return _failed(error, EXIT_SUSPECT)

    async def _run(self, origin: Origin, stop: asyncio.Event, ready: Callable[[], None]) -> int:
        settings = self._settings
        peers = self._peers = Peers(
            PeerIdentity(origin.cluster_id if origin.begun else 0, origin.node_id, origin.uuid, origin.name),
            on_frame=lambda _sender, _frame: None,
            on_ask=lambda _: answer_of(Own(origin, self._listed(), settings.join)),
            security=Security(settings.secret),
        )
        peers.start(self._peer_socket)
        try:
            if not origin.begun:
                begun = await self._first_start(peers, origin, stop)
                if begun is None:
                    return 0
                origin, storage, recovered = begun
            else:
                opened = Storage.open(self._disk)
                if opened is None:
                    raise IdentityError("the data directory says that this member has voted, but its log is gone")
                storage, recovered = opened
            return await self._live(origin, storage, recovered, stop, ready)
        finally:
            await peers.close()
            self._client.close()

    def _listed(self) -> tuple[Listed, ...]:
        return tuple(sorted(Listed(name, address) for name, address in self._settings.members.items()))

    async def _first_start(
        self, peers: Peers, origin: Origin, stop: asyncio.Event
    ) -> tuple[Origin, Storage, Recovered] | None:
        first = FirstStart(self._disk, Own(origin, self._listed(), self._settings.join), peers.ask)
        peers.on_ask = first.answer
        begin = await _unless(stop, asyncio.ensure_future(first.run()))
        if begin is None:
            return None
        storage, recovered = self._make_log(begin)
        await first.begin(begin)
        return begin.origin, storage, recovered

    def _make_log(self, begin: Begin) -> tuple[Storage, Recovered]:
        """Or the one that was made before a crash kept us from writing that we have begun."""
        origin = begin.origin
        identity = Identity(origin.cluster_id, origin.node_id, origin.uuid)
        opened = Storage.open(self._disk)
        if opened is None:
            Storage.create(self._disk, identity, SnapshotMark(0, 0, begin.membership())).close()
            self._disk.lock()
            opened = Storage.open(self._disk)
            assert opened is not None
        return opened

    async def _live(
        self, origin: Origin, storage: Storage, recovered: Recovered, stop: asyncio.Event, ready: Callable[[], None]
    ) -> int:
        settings, peers = self._settings, self._peers
        assert peers is not None
        machine = load_state(storage, recovered.mark)
        host, port = self._client.getsockname()[:2]
        service = self.service = MemberService(
            machine,
            self._rng,
            least_ttl=max(1, round(settings.election * 2 + 0.5)),
            cluster_id=origin.cluster_id,
            node_id=origin.node_id,
            client=f"http://{f'[{host}]' if ':' in host else host}:{port}",
        )
        node = Node(
            origin.node_id,
            rng=self._rng,
            snapshots=storage.snapshots,
            mark=recovered.mark,
            hard_state=recovered.hard_state,
            entries=recovered.entries,
            election_ticks=max(3, round(settings.election / TICK)),
            heartbeat_ticks=max(1, round(settings.heartbeat / TICK)),
        )
        driver = self.driver = Driver(
            links=peers,
            storage=storage,
            snapshots=_Snapshots(storage),
            watchers=service,
            pace=TickPace(TICK, settings.election),
        )
        replica = Replica(node, machine, driver, token=self._rng.randrange(1, 1 << 62), grace=settings.election * 2)
        service.drive(driver)
        changes = MembershipChanges(driver, origin.cluster_id, Ask(origin.name, origin.uuid), peers.ask)
        service.change_members_by(changes)
        driver.on_change = changes.received
        driver.on_membership = lambda membership: self._use(origin, membership)
        peers.on_frame = driver.received
        peers.on_link = lambda node_id, up: None if up else driver.lost_link(node_id, self._rng)
        peers.on_ask = lambda _: answer_of(Own(origin, self._listed(), settings.join), service.members())
        peers.become(PeerIdentity(origin.cluster_id, origin.node_id, origin.uuid, origin.name))
        server = Gateway(service, hosts=settings.hosts).server()
        try:
            driver.start(replica)
            self._use(origin, node.status().membership)
            await server.start(self._client)
            ready()
            await _unless(stop, driver.failed)
            await self._hand_over(driver)
            return 0
        finally:
            changes.close()
            await server.close(grace=0)
            driver.close()
            storage.close()

    def _use(self, origin: Origin, membership: Membership) -> None:
        """Talk to these members from now on."""
        assert self._peers is not None
        known: dict[int, Member] = {}
        if membership.context:
            known = {member.node_id: member for member in decode_members(membership.context)}
        elif origin.members:
            known = {member.node_id: member for member in origin.members}
        self._peers.set_members(known)

    async def _hand_over(self, driver: Driver) -> None:
        """To the voter that is furthest, so that nobody has to notice that we are gone."""
        node = driver.replica.node
        status = node.status()
        voters = [peer for peer in status.peers if peer.voter and peer.active and peer.id != status.id]
        if not driver.replica.leads or not voters:
            return
        with contextlib.suppress(RefusedError, TimeoutError):
            node.transfer_leadership(max(voters, key=lambda peer: peer.match).id)
            driver.poke()
            async with asyncio.timeout(HAND_OVER):
                while driver.replica.leads:
                    await asyncio.sleep(0.005)


def _failed(error: Exception, code: int) -> int:
    """What it exits with, and why."""
    log.error(events.MEMBER_FAILED, error=str(error))
    return code


async def _unless(stop: asyncio.Event, work: "asyncio.Future[T]") -> T | None:
    """What `work` comes to, raising what it raises; None when `stop` came first, and then it is cancelled."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        both: set[asyncio.Future[Any]] = {stopped, work}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        stopped.cancel()
        if not work.done():
            work.cancel()
