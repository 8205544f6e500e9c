"""Changes of the membership among three members in memory: who leads decides, one after the other, and is told so."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast
from unittest.mock import patch

import pytest

from balancer.consensus import membership_changes
from balancer.consensus.bootstrap import encode_members
from balancer.consensus.driver import Driver
from balancer.consensus.member_addresses import decode_published
from balancer.consensus.membership_changes import MembershipChanges
from balancer.consensus.peer_connection import End, Ending, PeerError
from balancer.consensus.peer_frames import Answer, Ask, Change, ChangeReply, Frame, Member
from balancer.coordination.errors import Code, CoordinationError
from balancer.raft.log_entry import Membership, NodeId
from tests.unit.consensus.trio import Trio

DEADLINE = 20.0
IDS = (1, 2, 3)

T = TypeVar("T")


def address(id: NodeId) -> str:
    return f"10.0.0.{id}:7001"


def url(id: NodeId) -> str:
    return f"http://10.0.0.{id}:2379"


class Undriven:
    """In place of a driver: the test lets everything happen itself. Who is no member any more is sent nothing."""

    def __init__(self, trio: Trio, id: NodeId) -> None:
        self.trio = trio
        self.id = id
        self.replica = trio[id].replica

    def poke(self) -> None:
        return

    def send(self, to: NodeId, frame: Frame) -> None:
        membership = self.trio[self.id].node.status().membership
        if to in (*membership.voters, *membership.learners):
            self.trio.in_flight.append((self.id, to, frame))


class Three:
    """Three members and their changes; 1 leads."""

    def __init__(self) -> None:
        self.trio = Trio()
        self.changes = {id: self._changes(id) for id in IDS}
        self.trio.elect(1)
        members = [Member(id, f"n{id}", address(id), bytes([id]) * 16) for id in IDS]
        self.trio[1].node.propose_membership(Membership(IDS, (), encode_members(members)))
        self.trio.pass_time(1.0)

    def _changes(self, id: NodeId) -> MembershipChanges:
        replica = self.trio[id].replica
        driver = Undriven(self.trio, id)
        changes = MembershipChanges(cast("Driver", driver), 5, Ask(f"n{id}", bytes([id]) * 16), self._ask)
        receive = replica.receive

        def received(sender: NodeId, frame: Frame, now: float) -> None:
            if isinstance(frame, Change | ChangeReply):
                changes.received(sender, frame)
            else:
                receive(sender, frame, now)

        replica.receive = received  # type: ignore[method-assign]
        self.trio[id].send = driver.send  # type: ignore[method-assign]
        return changes

    async def _ask(self, at: str, _: Ask) -> Answer:
        for id in IDS:
            if at == address(id) and id not in self.trio.cut:
                known = decode_published(self.trio[id].node.status().membership.context)
                return Answer(f"n{id}", bytes([id]) * 16, 5, True, tuple(known))
        raise PeerError(Ending(End.LOST, "nobody there"))

    async def turns(self) -> None:
        """Let everything run and arrive that can, without the time to go on."""
        for _ in range(20):
            self.trio.settle()
            await asyncio.sleep(0)

    async def had(self, work: Awaitable[T], *, seconds: float = 0.0) -> T:
        """What it comes to within so many seconds of theirs."""
        task = asyncio.ensure_future(work)
        for left in reversed(range(round(seconds * 10) + 1)):
            await self.turns()
            for _ in range(0 if left else 50):  # what waits by the clock of this process
                if not task.done():
                    await asyncio.sleep(0.002)
                    await self.turns()
            if task.done():
                break
            if left:
                self.trio.pass_time(0.1)
        if not task.done():
            task.cancel()
            raise AssertionError("there is no answer")
        return task.result()

    def clients(self) -> list[list[str]]:
        """The addresses that each member knows of all."""
        contexts = [self.trio[id].node.status().membership.context for id in IDS]
        return [[member.client for member in decode_published(context)] for context in contexts]

    def leaders(self) -> list[NodeId]:
        return [id for id in IDS if self.trio[id].replica.leads]

    def voters(self, id: NodeId) -> tuple[NodeId, ...]:
        return self.trio[id].node.status().membership.voters


def run(scenario: Callable[[Three], Awaitable[None]]) -> None:
    async def bounded() -> None:
        three = Three()
        with (
            patch.object(membership_changes, "monotonic", lambda: three.trio.now),
            patch.multiple(
                membership_changes, POLL=0.0, ASK_AGAIN=0.001, PUBLISH_AGAIN=0.0, LOOK=0.0, PUBLISH_TIMEOUT=0.01
            ),
        ):
            async with asyncio.timeout(DEADLINE):
                try:
                    await scenario(three)
                finally:
                    for changes in three.changes.values():
                        changes.close()

    asyncio.run(bounded())


# ---- where clients reach them


async def published(three: Three, wanted: list[str]) -> None:
    for _ in range(50):
        await three.turns()
        if three.clients() == [wanted] * 3:
            return
        three.trio.pass_time(0.1)
    raise AssertionError(three.clients())


def test_what_each_member_publishes_is_known_to_all() -> None:
    async def scenario(three: Three) -> None:
        assert three.clients() == [["", "", ""]] * 3
        for id in IDS:
            three.changes[id].publish(id, url(id))
        await published(three, [url(id) for id in IDS])
        assert [three.voters(id) for id in IDS] == [IDS] * 3

    run(scenario)


def test_a_member_with_another_address_publishes_that() -> None:
    async def scenario(three: Three) -> None:
        three.changes[2].publish(2, url(2))
        await published(three, ["", url(2), ""])
        three.changes[2].close()
        three.changes[2].publish(2, "http://10.0.0.2:9999")
        await published(three, ["", "http://10.0.0.2:9999", ""])

    run(scenario)


def test_a_published_address_is_not_written_again_and_again() -> None:
    async def scenario(three: Three) -> None:
        for id in IDS:
            three.changes[id].publish(id, url(id))
        await published(three, [url(id) for id in IDS])
        written = three.trio[1].node.status().last_index
        for _ in range(20):
            await three.turns()
            three.trio.pass_time(0.1)
        assert three.trio[1].node.status().last_index == written

    run(scenario)


def test_an_address_is_published_once_there_is_a_leader() -> None:
    async def scenario(three: Three) -> None:
        three.trio.cut.add(1)
        three.trio.pass_time(1.0)
        three.changes[2].publish(2, url(2))
        for _ in range(60):
            await three.turns()
            three.trio.pass_time(0.1)
        three.trio.cut.clear()
        await published(three, ["", url(2), ""])

    run(scenario)


def test_nobody_publishes_for_another() -> None:
    async def scenario(three: Three) -> None:
        with pytest.raises(CoordinationError, match="its own address only"):
            await three.had(three.changes[2].change("publish", member=3, address=url(3)), seconds=3)
        assert three.clients() == [["", "", ""]] * 3

    run(scenario)


def test_changes_that_come_together_are_done_one_after_the_other() -> None:
    async def scenario(three: Three) -> None:
        asked = [three.changes[id].change("publish", member=id, address=url(id)) for id in IDS]
        await three.had(asyncio.gather(*asked), seconds=3)
        three.trio.pass_time(0.5)
        assert three.clients() == [[url(id) for id in IDS]] * 3

    run(scenario)


# ---- removals


@pytest.mark.parametrize("at", IDS)
def test_a_leader_that_is_removed_hands_over_first_so_that_nobody_waits_for_an_election(at: NodeId) -> None:
    """Asked of any member; no clock ticks meanwhile."""

    async def scenario(three: Three) -> None:
        term = three.trio[1].node.status().term
        await three.had(three.changes[at].change("remove", member=1))
        await three.turns()
        (leader,) = three.leaders()
        assert leader in (2, 3)
        assert [three.voters(id) for id in (2, 3)] == [(2, 3)] * 2
        assert [three.trio[id].node.status().leader for id in (2, 3)] == [leader] * 2
        assert three.trio[leader].node.status().term == term + 1
        assert not isinstance(three.trio.put(leader, "a")[0], CoordinationError)

    run(scenario)


@pytest.mark.parametrize("at", IDS)
def test_a_follower_is_removed_and_the_leader_stays(at: NodeId) -> None:
    async def scenario(three: Three) -> None:
        await three.had(three.changes[at].change("remove", member=3), seconds=1)
        assert three.leaders() == [1]
        assert three.voters(1) == (1, 2)

    run(scenario)


def test_a_leader_that_can_hand_over_to_nobody_is_removed_all_the_same() -> None:
    async def scenario(three: Three) -> None:
        three.trio[3].held = True  # its log does not get longer, and 2 is not heard of: nobody can take over
        three.trio.put(1, "a")
        removing = asyncio.ensure_future(three.changes[1].change("remove", member=1))
        three.trio.cut.add(2)
        await three.turns()
        for _ in range(5):
            three.trio.pass_time(0.1)
            await three.turns()
        three.trio.cut.clear()
        three.trio[3].held = False
        await three.had(removing, seconds=5)
        for _ in range(40):
            three.trio.pass_time(0.1)
            await three.turns()
        (leader,) = three.leaders()
        assert leader in (2, 3)
        assert three.voters(leader) == (2, 3)

    run(scenario)


def test_the_only_voter_cannot_be_removed() -> None:
    async def scenario(three: Three) -> None:
        for id in (3, 2):
            await three.had(three.changes[1].change("remove", member=id), seconds=1)
        with pytest.raises(CoordinationError, match="a cluster needs a voter"):
            await three.had(three.changes[1].change("remove", member=1), seconds=1)
        assert three.leaders() == [1]

    run(scenario)


# ---- handing over, and refusals


@pytest.mark.parametrize("at", IDS)
@pytest.mark.parametrize("to", IDS)
def test_leadership_goes_where_it_was_asked_to(at: NodeId, to: NodeId) -> None:
    async def scenario(three: Three) -> None:
        await three.had(three.changes[at].change("transfer", member=to))
        assert three.leaders() == [to]

    run(scenario)


def test_leadership_that_nobody_takes_stays_and_that_is_said() -> None:
    async def scenario(three: Three) -> None:
        three.trio.cut.add(3)
        with pytest.raises(CoordinationError, match="took too long") as caught:
            await three.had(three.changes[1].change("transfer", member=3), seconds=5)
        assert caught.value.code is Code.FAILED_PRECONDITION
        assert three.leaders() == [1]

    run(scenario)


@pytest.mark.parametrize("at", IDS)
@pytest.mark.parametrize("kind", ["remove", "promote"])
def test_who_is_no_member_is_not_found_wherever_that_is_asked(at: NodeId, kind: str) -> None:
    async def scenario(three: Three) -> None:
        with pytest.raises(CoordinationError, match="member not found") as caught:
            await three.had(three.changes[at].change(kind, member=9), seconds=1)  # type: ignore[arg-type]
        assert caught.value.code is Code.NOT_FOUND

    run(scenario)


@pytest.mark.parametrize("at", [1, 2])
def test_an_outcome_that_the_leader_does_not_know_is_not_a_refusal(at: NodeId) -> None:
    async def scenario(three: Three) -> None:
        three.trio[2].held = three.trio[3].held = True  # nothing is committed any more
        with pytest.raises(CoordinationError, match="timed out") as caught:
            await three.had(three.changes[at].change("remove", member=3), seconds=20)
        assert caught.value.code is Code.UNAVAILABLE

    run(scenario)


def test_without_a_leader_nothing_is_changed() -> None:
    async def scenario(three: Three) -> None:
        three.trio.cut |= {1, 3}
        three.trio.pass_time(5.0)
        with pytest.raises(CoordinationError, match="no leader"):
            await three.had(three.changes[2].change("remove", member=3))

    run(scenario)


def test_a_leader_that_is_new_changes_nothing_before_it_has_committed_and_does_not_refuse_either() -> None:
    async def scenario(three: Three) -> None:
        trio = three.trio
        for member in trio.members.values():
            member.node.forget_leader()
        trio[2].node.campaign()
        while not trio[2].replica.leads:
            for member in trio.members.values():
                while member.work():
                    pass
            if trio.in_flight and not trio[2].replica.leads:
                sender, to, frame = trio.in_flight.popleft()
                trio[to].replica.receive(sender, frame, trio.now)
        trio[1].held = trio[3].held = True
        removing = asyncio.ensure_future(three.changes[2].change("remove", member=3))
        await three.turns()
        assert not removing.done()
        trio[1].held = trio[3].held = False
        await three.had(removing, seconds=1)
        assert three.voters(2) == (1, 2)

    run(scenario)
