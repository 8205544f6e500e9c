"""Changes of the membership that are asked of a member: its leader decides, and the answer comes when it is in use.

A member is added as a learner, after it was asked who it is at the address where it is to be reached; it is promoted
once it has nearly all of the log. Everything else is the core's to refuse.
"""

import asyncio
from collections.abc import Awaitable, Callable

from balancer.clock import monotonic
from balancer.consensus.bootstrap import NotAdmittedError, admitted, decode_members, encode_members
from balancer.consensus.driver import Driver
from balancer.consensus.peer_connection import PeerError
from balancer.consensus.peer_frames import Answer, Ask, Change, ChangeKind, ChangeReply, Member
from balancer.coordination.errors import Code, CoordinationError
from balancer.raft.log_entry import Membership, NodeId
from balancer.raft.refusals import RefusedError

TIMEOUT = 7.0
"""Seconds until the outcome of a change counts as not known, as for any other request."""
POLL = 0.01


class MembershipChanges:
    """Of one member. `ask(address, question)` asks a stranger who it is; raises PeerError."""

    def __init__(self, driver: Driver, cluster_id: int, me: Ask, ask: Callable[[str, Ask], Awaitable[Answer]]) -> None:
        self._driver = driver
        self._cluster_id = cluster_id
        self._me = me
        self._ask = ask
        self._requests = 0
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def change(self, kind: ChangeKind, *, member: NodeId = 0, address: str = "") -> None:
        """Done when it is in use where the leader is. Raises CoordinationError."""
        replica = self._driver.replica
        if replica.leads:
            await self._change_here(kind, member, address)
            return
        if not replica.leader:
            raise CoordinationError(Code.UNAVAILABLE, "etcdserver: no leader")
        self._requests += 1
        number = self._requests
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answered
        try:
            self._driver.send(replica.leader, Change(number, kind, member, address))
            async with asyncio.timeout(TIMEOUT):
                refused = await answered
        except TimeoutError:
            raise CoordinationError(Code.UNAVAILABLE, "etcdserver: request timed out") from None
        finally:
            del self._waiting[number]
        if refused:
            raise CoordinationError(Code.FAILED_PRECONDITION, refused)

    def received(self, sender: NodeId, frame: Change | ChangeReply) -> None:
        """From another member: a change that it was asked for, or how one that we sent on ended."""
        if isinstance(frame, ChangeReply):
            waiting = self._waiting.get(frame.request_id)
            if waiting is not None and not waiting.done():
                waiting.set_result(frame.error)
            return
        task = asyncio.ensure_future(self._for_another(sender, frame))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """The member ends."""
        for task in self._tasks:
            task.cancel()

    async def _for_another(self, sender: NodeId, frame: Change) -> None:
        error = ""
        try:
            await self._change_here(frame.kind, frame.member, frame.address)
        except CoordinationError as refused:
            error = refused.message
        self._driver.send(sender, ChangeReply(frame.request_id, error))

    async def _change_here(self, kind: ChangeKind, member: NodeId, address: str) -> None:
        node = self._driver.replica.node
        newcomer = await self._newcomer(address) if kind == "add" else None
        try:
            if kind == "transfer":
                node.transfer_leadership(member)
                self._driver.poke()
                await self._until(lambda: not self._driver.replica.leads)
                return
            proposed = node.propose_membership(_changed(node.status().membership, kind, member, newcomer))
        except RefusedError as refused:
            raise CoordinationError(Code.FAILED_PRECONDITION, f"etcdserver: {refused}") from refused
        self._driver.poke()
        await self._until(lambda: node.status().applied >= proposed.index)

    async def _newcomer(self, address: str) -> Member:
        try:
            answer = await self._ask(address, self._me)
            return admitted(answer, answer.name, address, self._cluster_id)
        except PeerError as error:
            raise CoordinationError(
                Code.FAILED_PRECONDITION, f"nobody answers at {address} ({error}); start the new member first"
            ) from error
        except NotAdmittedError as error:
            raise CoordinationError(Code.FAILED_PRECONDITION, str(error)) from error

    async def _until(self, done: Callable[[], bool]) -> None:
        deadline = monotonic() + TIMEOUT
        while not done():
            if monotonic() > deadline:
                raise CoordinationError(Code.UNAVAILABLE, "etcdserver: request timed out")
            await asyncio.sleep(POLL)


def _changed(old: Membership, kind: ChangeKind, member: NodeId, newcomer: Member | None) -> Membership:
    """The membership after the change. Raises CoordinationError where it names nobody, or somebody twice."""
    members = list(decode_members(old.context))
    voters, learners = set(old.voters), set(old.learners)
    if newcomer is not None:
        taken = [one.name for one in members if one.name == newcomer.name or one.address == newcomer.address]
        if taken:
            raise CoordinationError(
                Code.FAILED_PRECONDITION, f"{taken[0]} has that name or address; remove it first, or use others"
            )
        members.append(newcomer)
        learners.add(newcomer.node_id)
    elif member not in voters | learners:
        raise CoordinationError(Code.NOT_FOUND, "etcdserver: member not found")
    elif kind == "promote":
        if member in voters:
            raise CoordinationError(Code.FAILED_PRECONDITION, "etcdserver: can only promote a learner member")
        learners.discard(member)
        voters.add(member)
    else:
        members = [one for one in members if one.node_id != member]
        voters.discard(member)
        learners.discard(member)
    return Membership(tuple(sorted(voters)), tuple(sorted(learners)), encode_members(members))
