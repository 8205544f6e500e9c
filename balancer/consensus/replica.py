"""One member without its I/O: the Raft core, the state machine, and everybody who waits for either.

Law: what is sent, written and applied keeps the order of raft/ready.py; an answer is given only for what is applied
here. Nothing blocks and nothing knows a socket, a file or a clock: an `Outlet` does what is to be done, `now` (seconds)
comes with every call. So the same code runs under the driver and in the simulator.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from balancer.consensus.numbered_proposals import NumberedProposals
from balancer.consensus.peer_frames import Change, ChangeReply, Forward, ForwardReply, Frame, KeepAlive, KeepAliveReply
from balancer.consensus.proposals import Done, Proposals, no_leader, timed_out
from balancer.consensus.read_rounds import ReadRounds, Turn
from balancer.coordination.command import Command, RegisterSessionResponse, Request, Ticket, encode
from balancer.coordination.errors import CoordinationError
from balancer.coordination.lessor import Lessor, Renewal
from balancer.coordination.requests import LeaseRevokeRequest
from balancer.coordination.responses import LeaseGrantResponse
from balancer.coordination.revision_log import Changes
from balancer.coordination.sessions import CLIENTS_FROM
from balancer.coordination.state_machine import Applied, StateMachine
from balancer.raft.log_entry import Entry, EntryKind, Membership, NodeId, SnapshotMark
from balancer.raft.message import Message
from balancer.raft.node import Node
from balancer.raft.ready import Ready, SoftState
from balancer.raft.refusals import RefusedError

KeptAlive = Callable[[int | CoordinationError], None]
"""Hears the new time to live in seconds, 0 = there is no such lease."""


class Outlet(Protocol):
    """What a replica has done for it. None of these may call it back before it has returned."""

    def send(self, to: NodeId, frame: Frame) -> None:
        """To a member, if it can be reached; may be lost."""

    def write(self, ready: Ready) -> None:
        """Make durable, in order, and call `persisted`. Several may be under way."""

    def install(self, mark: SnapshotMark) -> StateMachine:
        """The state that the received snapshot with this mark holds. It is durable by now."""

    def changed(self, changes: Changes, revision: int) -> None:
        """The state machine came to a revision with these changes."""

    def replaced(self, machine: StateMachine) -> None:
        """A snapshot took the place of the state machine."""

    def membership(self, membership: Membership) -> None:
        """Another membership is in use."""

    def led_by(self, leader: NodeId) -> None:
        """Another leader, 0 = nobody."""


class Replica:
    """See the module. `pump` is to be called after any other call, before the loop goes on: inputs share its work.

    `token` is a number that no other start of a member has; `grace` (seconds): what a lease gets on top of its TTL when
    a new leader takes over, an election timeout at least.
    """

    def __init__(self, node: Node, machine: StateMachine, outlet: Outlet, *, token: int, grace: float) -> None:
        self.machine = machine
        self._node = node
        self._outlet = outlet
        self._grace = grace
        self._proposals = Proposals(self._carry, token)
        self._numbered = NumberedProposals(self._carry)
        self._reads = ReadRounds(self._begin_round)
        self._lessor = Lessor()
        self._now = 0.0
        self._leader: NodeId = 0
        self._is_leader = False
        self._lessor_term = 0  # the term in which the lessor decides, 0 = it does not
        self._writing: deque[tuple[int, tuple[Message, ...]]] = deque()  # Readys that are not durable yet
        self._installing: tuple[int, SnapshotMark] | None = None  # with the number of its Ready
        self._held: list[Entry] = []  # committed, to be applied when the snapshot is installed
        self._kept_alive: dict[int, tuple[KeptAlive, float]] = {}  # by request, with its deadline
        self._requests = 0

    # ---- what others ask

    @property
    def node(self) -> Node:
        """For its status, and for changes of the membership."""
        return self._node

    @property
    def leader(self) -> NodeId:
        """Who leads as far as is known here, 0 = nobody."""
        return self._leader

    @property
    def leads(self) -> bool:
        """This member leads, as far as it knows."""
        return self._is_leader

    @property
    def lessor(self) -> Lessor:
        """When leases end: of meaning on the leader only."""
        return self._lessor

    def submit(
        self, request: Request, now: float, deadline: float, done: Done, *, ticket: Ticket | None = None
    ) -> None:
        """Have a request applied by all. `done` hears the answer or the CoordinationError, exactly once.

        With the `ticket` of a client it is applied once however often and wherever it is submitted.
        """
        self._now = now
        if ticket is None:
            self._proposals.submit(request, now, deadline, done)
        else:
            self._numbered.submit(request, ticket, now, deadline=deadline, done=done)

    def read(self, now: float, deadline: float, turn: Turn) -> None:
        """`turn` is called when `machine` holds everything that was answered anywhere before this call."""
        self._now = now
        self._reads.join(turn, deadline)

    def keep_alive(self, lease: int, now: float, deadline: float, done: KeptAlive, *, renew: bool = True) -> None:
        """Give a lease its whole time to live again; or ask only how much it has (`renew` False)."""
        self._now = now
        if self._is_leader:
            self._keep_alive_here(lease, deadline, renew, done)
        elif self._leader:
            self._requests += 1
            self._kept_alive[self._requests] = (done, deadline)
            self._outlet.send(self._leader, KeepAlive(self._requests, lease, renew))
        else:
            done(no_leader())

    # ---- what happens

    def receive(self, sender: NodeId, frame: Frame, now: float) -> None:
        """A frame from another member; `sender` is who it was proved to be."""
        self._now = now
        match frame:
            case Forward():
                self._forwarded(sender, frame)
            case ForwardReply():
                if not frame.accepted:
                    self._proposals.refused(frame.request_id)
                    self._numbered.refused(frame.request_id)
            case KeepAlive():
                self._keep_alive_for(sender, frame)
            case KeepAliveReply():
                waiting = self._kept_alive.pop(frame.request_id, None)
                if waiting is not None:
                    waiting[0](no_leader() if frame.error else frame.ttl)
            case Change() | ChangeReply():
                pass  # the driver's
            case _:
                if frame.sender == sender:
                    self._node.step(frame)

    def tick(self, now: float) -> None:
        """A tick of the core's clock has passed."""
        self._now = now
        self._node.tick()
        self._proposals.tick(now)
        self._numbered.tick(now)
        self._reads.tick(now)
        for number in [each for each, (_, deadline) in self._kept_alive.items() if deadline <= now]:
            self._kept_alive.pop(number)[0](timed_out())
        if self._lessor_term:
            for lease in self._lessor.due(now):
                self._expire(lease)

    def persisted(self, number: int, now: float) -> None:
        """Everything up to the Ready of this number is durable."""
        self._now = now
        while self._writing and self._writing[0][0] <= number:
            for message in self._writing.popleft()[1]:
                self._outlet.send(message.to, message)
        self._node.persisted(number)
        if self._installing is not None and self._installing[0] <= number:
            self._install(self._installing[1])

    def pump(self, now: float) -> None:
        """Do what the inputs since the last call brought about."""
        self._now = now
        self._reads.pump(now)
        while (ready := self._node.ready()) is not None:
            self._take(ready)

    def close(self) -> None:
        """The member ends: everybody who waits is told."""
        self._proposals.close()
        self._numbered.close()
        self._reads.close(no_leader())
        kept_alive, self._kept_alive = self._kept_alive, {}
        for done, _ in kept_alive.values():
            done(no_leader())

    # ---- the core's wishes

    def _take(self, ready: Ready) -> None:
        for message in ready.messages:
            self._outlet.send(message.to, message)
        if ready.soft_state is not None:
            self._another_leader(ready.soft_state)
        if ready.snapshot is not None:
            self._installing = (ready.number, ready.snapshot)
            self._held.clear()  # what waited for an earlier snapshot is part of this one
        waits = self._writing and ready.messages_after_sync
        if ready.hard_state is not None or ready.entries or ready.snapshot is not None or waits:
            self._writing.append((ready.number, ready.messages_after_sync))
            self._outlet.write(ready)
        else:
            for message in ready.messages_after_sync:
                self._outlet.send(message.to, message)
        self._apply(ready.committed)
        for read in ready.reads:
            self._reads.confirmed(read.read_id, read.index)
        for number in ready.refused_reads:
            self._reads.refused(number)
        self._reads.applied(self.machine.applied_index)

    def _apply(self, entries: Sequence[Entry]) -> None:
        if self._installing is not None:
            self._held.extend(entries)
            return
        if not entries:
            return
        members = False
        for entry in entries:
            if entry.kind is EntryKind.MEMBERSHIP:
                members = True
                self.machine.apply(entry.index, entry.term, b"")
            else:
                self._applied(self.machine.apply(entry.index, entry.term, entry.data))
        self._node.applied(entries[-1].index)
        if members:
            self._outlet.membership(self._node.status().membership)
        if self._is_leader and not self._lessor_term and entries[-1].term == self._node.status().term:
            self._lessor_term = entries[-1].term
            self._lessor.promote(self.machine.leases, self._now, self._grace)

    def _applied(self, applied: Applied) -> None:
        if applied.changes:
            self._outlet.changed(applied.changes, applied.revision)
        command = applied.command
        if command is None:
            return
        answer = applied.result
        if self._lessor_term and applied.done:
            if isinstance(answer, LeaseGrantResponse):
                self._lessor.granted(answer.ID, answer.TTL, self._now)
            elif isinstance(command.request, LeaseRevokeRequest):
                self._lessor.revoked(command.request.ID)
        if command.session >= CLIENTS_FROM:
            self._numbered.applied(command.session, command.seq, answer)
        elif command.session:
            self._proposals.applied(command.session, command.seq, answer)
        elif isinstance(answer, RegisterSessionResponse):
            self._proposals.registered(command.seq, answer.session, self._now)

    def _install(self, mark: SnapshotMark) -> None:
        self._installing = None
        self.machine = self._outlet.install(mark)
        self._outlet.replaced(self.machine)
        self._outlet.membership(mark.membership)
        held, self._held = self._held, []
        self._apply(held)
        self._reads.applied(self.machine.applied_index)

    def _another_leader(self, soft: SoftState) -> None:
        self._leader, self._is_leader = soft.leader, soft.is_leader
        self._lessor_term = 0
        self._lessor.demote()
        self._outlet.led_by(soft.leader)
        kept_alive, self._kept_alive = self._kept_alive, {}
        for done, _ in kept_alive.values():
            done(no_leader())
        self._proposals.leader_changed(self._now)
        self._numbered.leader_changed(self._now)
        self._reads.leader_changed()
        self._reads.pump(self._now)

    # ---- commands and reads on their way

    def _carry(self, data: bytes, number: int) -> bool:
        if self._is_leader:
            try:
                self._node.propose(data)
            except RefusedError:
                return False
            return True
        if self._leader:
            self._outlet.send(self._leader, Forward(number, data))
        return bool(self._leader)

    def _forwarded(self, sender: NodeId, frame: Forward) -> None:
        try:
            self._node.propose(frame.command)
        except RefusedError as why:
            self._outlet.send(sender, ForwardReply(frame.request_id, False, why.leader, str(why)))

    def _begin_round(self) -> int:
        return self._node.read_index() if self._leader else 0

    # ---- leases

    def _keep_alive_here(self, lease: int, deadline: float, renew: bool, done: KeptAlive) -> None:
        """Only who still leads may promise time, and only for a lease that is in the state that it leads to."""

        def turn(refused: CoordinationError | None) -> None:
            if refused is not None or not self._lessor_term:
                done(refused or no_leader())
            elif not renew:
                done(self._lessor.remaining(lease, self._now) or 0)
            elif self._lessor.renew(lease, self._now) is Renewal.RENEWED:
                done(self.machine.leases.ttl(lease) or 0)
            else:
                done(0)  # gone, or about to be: nobody may count on it

        self._reads.join(turn, deadline)

    def _keep_alive_for(self, sender: NodeId, frame: KeepAlive) -> None:
        def done(kept: int | CoordinationError) -> None:
            if isinstance(kept, CoordinationError):
                self._outlet.send(sender, KeepAliveReply(frame.request_id, 0, kept.message))
            else:
                self._outlet.send(sender, KeepAliveReply(frame.request_id, kept))

        if self._is_leader:
            self._keep_alive_here(frame.lease, self._now + self._grace, frame.renew, done)
        else:
            done(no_leader())

    def _expire(self, lease: int) -> None:
        """The decision is this term's alone: in an entry of another one it is void (etcd-io/etcd#15247)."""
        command = Command(0, 0, 0, LeaseRevokeRequest(lease), decided_term=self._lessor_term)
        with suppress(RefusedError):  # the lessor names it again
            self._node.propose(encode(command))
