"""Changes of the membership that are asked of a member: its leader decides, and the answer comes when it is in use.

A member is added as a learner, after it was asked who it is at the address where it is to be reached; it is promoted
once it has nearly all of the log. A leader that is to go hands over first. Everything else is the core's to refuse.
Each member also has the client address published that it listens on, in the same way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from balancer.clock import monotonic
from balancer.consensus.bootstrap import NotAdmittedError, admitted, encode_members
from balancer.consensus.driver import Driver
from balancer.consensus.member_addresses import PublishedMember, advertised, decode_published, with_client
from balancer.consensus.peer_connection import PeerError
from balancer.consensus.peer_frames import Answer, Ask, Change, ChangeKind, ChangeReply, Member
from balancer.consensus.proposals import no_leader, timed_out
from balancer.coordination.errors import Code, CoordinationError
from balancer.raft.log_entry import Membership, NodeId
from balancer.raft.refusals import NotLeaderError, RefusedError

TIMEOUT = 7.0
"""Seconds until the outcome of a change counts as not known, as for any other request."""
POLL = 0.01
ASK_AGAIN = 0.2
"""Seconds between two looks at whether a member that has itself removed is gone: the answer cannot reach it."""
PUBLISH_TIMEOUT = 1.0
PUBLISH_AGAIN = 0.25
LOOK = 1.0
"""Seconds between two looks at whether the own address is published as it is."""

_NOT_FOUND = "etcdserver: member not found"
_MOVED = "etcdserver: not leader"
_CODES = {_NOT_FOUND: Code.NOT_FOUND, no_leader().message: Code.UNAVAILABLE, timed_out().message: Code.UNAVAILABLE}


class _MovedError(CoordinationError):
    """Another member leads: ask that one. Nothing was done."""

    def __init__(self) -> None:
        super().__init__(Code.FAILED_PRECONDITION, _MOVED)


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
        self._turn = asyncio.Lock()  # of the changes that are made here: the core takes one at a time

    async def change(
        self, kind: ChangeKind, *, member: NodeId = 0, address: str = "", timeout: float = TIMEOUT
    ) -> None:
        """Done when it is in use where the leader is. Raises CoordinationError."""
        replica = self._driver.replica
        deadline = monotonic() + timeout
        moved = False
        while True:
            try:
                if replica.leads:
                    await self._change_here(kind, member, address)
                    return
                if replica.leader:
                    await self._change_there(replica.leader, Change(0, kind, member, address), deadline)
                    return
                if not moved:
                    raise no_leader()
            except _MovedError:
                moved = True
            if monotonic() >= deadline:
                raise no_leader()
            await asyncio.sleep(POLL)

    def publish(self, node_id: NodeId, client: str) -> None:
        """Keep all members told that clients reach this one at the URL `client`, until `close`."""
        self._run(self._keep_published(node_id, client))

    def received(self, sender: NodeId, frame: Change | ChangeReply) -> None:
        """From another member: a change that it was asked for, or how one that we sent on ended."""
        if isinstance(frame, ChangeReply):
            waiting = self._waiting.get(frame.request_id)
            if waiting is not None and not waiting.done():
                waiting.set_result(frame.error)
            return
        self._run(self._for_another(sender, frame))

    def close(self) -> None:
        """The member ends."""
        for task in self._tasks:
            task.cancel()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- the leader is another one

    async def _change_there(self, leader: NodeId, change: Change, deadline: float) -> None:
        self._requests += 1
        number = self._requests
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answered
        try:
            self._driver.send(leader, Change(number, change.kind, change.member, change.address))
            async with asyncio.timeout(max(deadline - monotonic(), 0)):
                if change.kind == "remove" and change.member == self._driver.replica.node.status().id:
                    await self._until_gone(leader, answered)
                refused = await answered
        except TimeoutError:
            raise timed_out() from None
        finally:
            del self._waiting[number]
        if refused == _MOVED:
            raise _MovedError
        if refused:
            raise CoordinationError(_CODES.get(refused, Code.FAILED_PRECONDITION), refused)

    async def _until_gone(self, leader: NodeId, answered: "asyncio.Future[str]") -> None:
        """This member has itself removed: when that is in use, the leader has no link to it any more to say so."""
        known = {member.node_id: member for member in self._members()}
        own = self._driver.replica.node.status().id
        while not answered.done() and leader in known:
            await asyncio.wait([answered], timeout=ASK_AGAIN)
            with suppress(PeerError):
                told = await self._ask(known[leader].address, self._me)
                if told.members and own not in {member.node_id for member in told.members} and not answered.done():
                    answered.set_result("")

    async def _for_another(self, sender: NodeId, frame: Change) -> None:
        error = ""
        try:
            if frame.kind == "publish" and frame.member != sender:
                error = "a member publishes its own address only"
            else:
                await self._change_here(frame.kind, frame.member, frame.address)
        except CoordinationError as refused:
            error = refused.message
        self._driver.send(sender, ChangeReply(frame.request_id, error))

    # ---- this member leads

    async def _change_here(self, kind: ChangeKind, member: NodeId, address: str) -> None:
        newcomer = await self._newcomer(address) if kind == "add" else None
        deadline = monotonic() + TIMEOUT
        async with self._turn:
            # A leader that answers a read has committed an entry of its term, and applied what it was handed down.
            await self._caught_up(deadline)
            node = self._driver.replica.node
            status = node.status()
            if kind == "transfer":
                if member != status.id and await self._hand_over(member, deadline) != member:
                    raise CoordinationError(Code.FAILED_PRECONDITION, "etcdserver: leader transfer took too long")
                return
            new = _changed(status.membership, kind, member, newcomer or address)
            if new == status.membership:
                return
            if kind == "remove" and member == status.id and await self._another_leads(deadline):
                raise _MovedError
            try:
                proposed = node.propose_membership(new)
            except NotLeaderError:
                raise _MovedError from None
            except RefusedError as refused:
                raise CoordinationError(Code.FAILED_PRECONDITION, f"etcdserver: {refused}") from refused
            self._driver.poke()
            await self._until(lambda: node.status().applied >= proposed.index, deadline)

    async def _another_leads(self, deadline: float) -> bool:
        """Hand over to the voter that is furthest, so that nobody has to notice that we are gone.

        Where nobody can take it, the leader is removed as it is: it leads until that is committed (thesis 4.2.2), and
        the others then wait for an election timeout.
        """
        status = self._driver.replica.node.status()
        voters = [peer for peer in status.peers if peer.voter and peer.active]
        if not voters:
            return False
        return await self._hand_over(max(voters, key=lambda peer: peer.match).id, deadline) != status.id

    async def _hand_over(self, to: NodeId, deadline: float) -> NodeId:
        """Who leads after it was tried; the core gives up after an election timeout."""
        node = self._driver.replica.node
        try:
            node.transfer_leadership(to)
        except NotLeaderError:
            raise _MovedError from None
        except RefusedError as refused:
            raise CoordinationError(Code.FAILED_PRECONDITION, f"etcdserver: {refused}") from refused
        self._driver.poke()
        while (status := node.status()).leader == status.id and status.transfer_to == to:
            await asyncio.sleep(POLL)
        await self._until(lambda: bool(node.status().leader), deadline)
        return node.status().leader

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

    async def _caught_up(self, deadline: float) -> None:
        caught_up: asyncio.Future[CoordinationError | None] = asyncio.get_running_loop().create_future()

        def turn(refused: CoordinationError | None) -> None:
            if not caught_up.done():
                caught_up.set_result(refused)

        self._driver.replica.read(monotonic(), deadline, turn)
        self._driver.poke()
        refused = await caught_up
        if refused is not None:
            raise refused
        if not self._driver.replica.leads:
            raise _MovedError

    async def _until(self, done: Callable[[], bool], deadline: float) -> None:
        while not done():
            if monotonic() > deadline:
                raise timed_out()
            await asyncio.sleep(POLL)

    # ---- where clients reach this member

    async def _keep_published(self, node_id: NodeId, client: str) -> None:
        while True:
            own = next((member for member in self._members() if member.node_id == node_id), None)
            if own is None or own.client == (url := advertised(client, own.address)):
                await asyncio.sleep(LOOK)
                continue
            with suppress(CoordinationError):
                await self.change("publish", member=node_id, address=url, timeout=PUBLISH_TIMEOUT)
            await asyncio.sleep(PUBLISH_AGAIN)

    def _members(self) -> tuple[PublishedMember, ...]:
        return decode_published(self._driver.replica.node.status().membership.context)


def _changed(old: Membership, kind: ChangeKind, member: NodeId, given: Member | str) -> Membership:
    """The membership after the change. `given`: the newcomer, or a URL. Raises CoordinationError where it names nobody,
    or somebody twice.
    """
    members: list[Member] = [*decode_published(old.context)]
    voters, learners = set(old.voters), set(old.learners)
    if isinstance(given, Member):
        taken = [one.name for one in members if one.name == given.name or one.address == given.address]
        if taken:
            raise CoordinationError(
                Code.FAILED_PRECONDITION, f"{taken[0]} has that name or address; remove it first, or use others"
            )
        members.append(given)
        learners.add(given.node_id)
    elif member not in voters | learners:
        raise CoordinationError(Code.NOT_FOUND, _NOT_FOUND)
    elif kind == "publish":
        members = [*with_client(decode_published(old.context), member, given)]
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
