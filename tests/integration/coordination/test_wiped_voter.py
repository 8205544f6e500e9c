"""A voter that lost its data directory is kept out, whoever of the others it can reach: real processes.

It must never vote, never begin a second cluster with whoever is empty as well, and say what to do; and what it says
must work, word by word. What keeps it out is explained in balancer/consensus/bootstrap.py.
"""

import asyncio
import enum
import os
import re
import shutil
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

import msgspec
import pytest

from balancer.consensus.bootstrap import node_id_of
from balancer.consensus.disk import OsDisk
from balancer.consensus.first_start import load_origin
from balancer.consensus.peer_connection import PeerError
from balancer.consensus.peer_frames import Answer, Ask, Member
from balancer.consensus.peer_hello import PeerIdentity
from balancer.consensus.peers import Peers, Security
from balancer.consensus.storage_errors import EXIT_SUSPECT
from tests.integration.coordination.real_members import PATIENCE, SECRET, RealMember, RealMembers, running_members
from tests.integration.coordination.real_network import links_of

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="cuts networks as Linux has them"),
    pytest.mark.timeout(400),
]

WATCHED = 1.5
"""Seconds for which a wiped member is seen to do nothing: several election timeouts."""


class State(enum.Enum):
    """Of another member, as the wiped one finds it."""

    UP = "up"
    STOPPED = "stopped"
    CUT = "cut off"
    DEAD = "dead"
    WIPED = "wiped"


def case(role: str, *states: State, rejoins: bool = False, full: bool = False) -> object:
    name = f"{role}, the others {' and '.join(state.value for state in states)}"
    marks = pytest.mark.full if full else ()
    return pytest.param(role, states, rejoins, id=f"{name}, full" if full else name, marks=marks)


SMALL = [
    case("leader", State.UP, State.UP, rejoins=True),
    case("follower", State.CUT, State.STOPPED),
]
# Should all be wiped at once, then no memory of the cluster is left anywhere: that is a first start.
FULL = [
    case(role, *states, rejoins=True, full=True)
    for role in ("leader", "follower")
    for states in product(State, repeat=2)
    if states != (State.WIPED, State.WIPED)
]


@pytest.mark.parametrize(("role", "states", "rejoins"), [*SMALL, *FULL])
def test_a_wiped_voter_is_kept_out(role: str, states: tuple[State, State], rejoins: bool, tmp_path: Path) -> None:
    asyncio.run(scenario(role, states, tmp_path, rejoins=rejoins))


async def scenario(role: str, states: tuple[State, State], folder: Path, *, rejoins: bool) -> None:
    async with running_members(folder) as members:
        try:
            await members.serve()
            await Case(members, await victim_of(members, role), states).play(rejoins=rejoins)
        except BaseException:
            for member in members.values():
                print(f"---- {member.name}, ended with {member.codes}\n{member.tail(40)}")
            raise


async def victim_of(members: RealMembers, role: str) -> RealMember:
    leader = await members.leader()
    assert leader is not None
    return members[leader if role == "leader" else next(name for name in members if name != leader)]


class Case:
    """One wiped voter among others in some states. `wiped`: all that are empty, it included."""

    def __init__(self, members: RealMembers, victim: RealMember, states: Sequence[State]) -> None:
        others = [member for member in members.values() if member is not victim]
        self.members = members
        self.victim = victim
        self.states = dict(zip(others, states, strict=True))
        self.wiped = [victim, *(each for each, state in self.states.items() if state is State.WIPED)]
        self.remember = [each for each in others if each not in self.wiped]
        self.reachable = [each for each, state in self.states.items() if state is State.UP]

    async def play(self, *, rejoins: bool) -> None:
        before = {name: await asked(member) for name, member in self.members.items()}
        assert await self.victim.put("kept", PATIENCE, size=3)
        for member in self.wiped:
            await wipe(member)
        await self.hide()
        for member in self.wiped:
            await member.start()
        if not self.reachable:
            await asked(self.victim)
        async with Candidate(self.victim, before[self.victim.name], before[self.remember[0].name]) as candidate:
            await self.watch(before)
            assert not candidate.ever_up
            if not self.reachable:  # else it has ended, perhaps before it could refuse anybody
                assert candidate.refused
        await self.show()
        for member in self.wiped:
            await refused(member, self.remember)
        await self.judge(before)
        if rejoins and len(self.remember) == 2:
            await self.rejoin(before)
        assert self.members.problems == []

    async def hide(self) -> None:
        for member, state in self.states.items():
            if state is State.STOPPED:
                member.stop()
            elif state is State.DEAD:
                await member.kill()
            elif state is State.CUT:
                await self.members.network.cut(links_of(member.name, self.members, hears=False, is_heard=False))

    async def show(self) -> None:
        for member, state in self.states.items():
            if state is State.STOPPED:
                member.go_on()
            elif state is State.DEAD:
                await member.start()
            elif state is State.CUT:
                await self.members.network.mend(links_of(member.name, self.members, hears=False, is_heard=False))

    async def watch(self, before: dict[str, Answer]) -> None:
        """Nothing comes of it: no vote, so no majority where there was none, and no cluster."""
        for member in self.wiped if self.reachable else ():
            await refused(member, self.reachable)
        until = monotonic() + WATCHED
        while monotonic() < until:
            for member in self.wiped:
                await self.is_nobody(member)
            for member in self.reachable:
                put = await member.put("meanwhile", 0.5)
                assert put is None or len(self.reachable) == 2, "a wiped member helped to make a majority"
                answer = await asked(member)
                assert answer.cluster_id == before[member.name].cluster_id
            await asyncio.sleep(0.05)
        if not self.reachable:
            await says_what_it_waits_for(self.victim, self.remember)

    async def is_nobody(self, member: RealMember) -> None:
        """It belongs to no cluster, and has nothing on its disk that it could vote with."""
        if not self.reachable:
            answer = await asked(member)
            assert (answer.cluster_id, answer.begun) == (0, False)
        assert member.runs == (not self.reachable)
        has_nothing(member)

    async def judge(self, before: dict[str, Answer]) -> None:
        """The cluster is the one that it was, with all that it had; without a majority it waits."""
        if len(self.remember) < 2:
            assert await self.remember[0].put("too few", 1.5) is None
        for member in self.remember:
            if len(self.remember) == 2:
                await member.serves()
            answer = await asked(member)
            assert answer.cluster_id == before[member.name].cluster_id
            assert answer.members == before[member.name].members
            assert answer.begun

    async def rejoin(self, before: dict[str, Answer]) -> None:
        """Do what it said: every command, in that order, as printed."""
        told = next(line for line in reversed(self.victim.said) if "must not vote again" in line)
        remove, join, add = re.findall(r"`([^`]+)`", told)
        assert (remove.split()[:4], add.split()[:4]) == (
            ["balancer", "cluster", "members", "remove"],
            ["balancer", "cluster", "members", "add"],
        )
        assert join == "join: true"
        await command(remove, self.remember)
        await wipe(self.victim)
        self.victim.orders = msgspec.structs.replace(self.victim.orders, join=True)
        await self.victim.start()
        said = await command(add, self.remember)
        promote = next(line for line in said.splitlines() if "promote" in line).partition(": ")[2]
        await command(promote, self.remember)
        await self.members.serve()
        after = await asked(self.victim)
        assert after.cluster_id == before[self.victim.name].cluster_id
        assert after.uuid != before[self.victim.name].uuid
        assert await self.members[self.victim.name].value("kept") == b"---"


async def wipe(member: RealMember) -> None:
    """It ends, and its data directory is gone."""
    await member.kill()
    shutil.rmtree(member.data)
    member.may_fail = lambda code: code == EXIT_SUSPECT


async def refused(member: RealMember, others: Sequence[RealMember]) -> None:
    """It has refused to start, and said why, and what to do."""
    until = monotonic() + PATIENCE
    while member.runs:
        assert monotonic() < until, f"{member.name} runs, though it can reach {[each.name for each in others]}"
        await asyncio.sleep(0.05)
    assert member.codes[-1] == EXIT_SUSPECT
    told = next(line for line in reversed(member.said) if "member.failed" in line)
    assert f"{member.name} no longer knows how it voted, and must not vote again" in told
    assert any(f"{each.name} belongs to cluster" in told for each in others)
    has_nothing(member)


async def says_what_it_waits_for(member: RealMember, others: Sequence[RealMember]) -> None:
    """The others, by name, none of whom it can know to be of its own former cluster."""
    until = monotonic() + PATIENCE
    while not any("member.start_delayed" in line and others[0].name in line for line in member.said):
        assert monotonic() < until, f"{member.name} waits, and does not say for whom"
        await asyncio.sleep(0.05)


def has_nothing(member: RealMember) -> None:
    """No log, no snapshot: only who it is, if it came to write that."""
    if not member.data.exists():
        return
    disk = OsDisk(str(member.data))
    assert set(disk.names()) <= {"origin", "origin.new"}
    origin = load_origin(disk)
    assert origin is None or (origin.cluster_id, origin.begun) == (0, False)


def peers_as(identity: PeerIdentity) -> Peers:
    """Somebody who knows the secret."""
    return Peers(
        identity, on_frame=lambda *_: None, on_ask=lambda _: Answer("asker", bytes(16)), security=Security(SECRET)
    )


async def asked(member: RealMember) -> Answer:
    """What it tells another member of itself. Raises PeerError after PATIENCE."""
    bind = member.network.peer(member.name)
    peers = peers_as(PeerIdentity(0, 0, os.urandom(16), "asker"))
    until = monotonic() + PATIENCE
    try:
        while True:
            try:
                return await peers.ask(bind.text, Ask("asker", peers.identity.uuid))
            except PeerError:
                if monotonic() > until:
                    raise
                await asyncio.sleep(0.05)
    finally:
        await peers.close()


class Candidate:
    """Claims to be a member of the old cluster, and would ask the wiped one for its vote, under its old and its new id.

    A vote is asked for over a link. None may come to be.
    """

    def __init__(self, victim: RealMember, old: Answer, candidate: Answer) -> None:
        number = next(each.node_id for each in old.members if each.uuid == candidate.uuid)
        self._peers = peers_as(PeerIdentity(old.cluster_id, number, candidate.uuid, candidate.name))
        self._victim = victim
        self._old = old
        self._number = next(each.node_id for each in old.members if each.uuid == old.uuid)
        self.ever_up = False
        self._peers.on_link = self._changed

    @property
    def refused(self) -> int:
        """How often."""
        return sum(counters.refused for counters in self._peers.counters.values())

    async def __aenter__(self) -> Self:
        bind = self._victim.network.peer(self._victim.name)
        claimed = [Member(self._number, self._victim.name, bind.text, self._old.uuid)]
        origin = load_origin(OsDisk(str(self._victim.data))) if self._victim.data.exists() else None
        if origin is not None:
            number = node_id_of(self._old.cluster_id, origin.uuid)
            claimed.append(Member(number, self._victim.name, bind.text, origin.uuid))
        self._peers.set_members({each.node_id: each for each in claimed})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._peers.close()

    def _changed(self, node_id: int, up: bool) -> None:
        self.ever_up = self.ever_up or up


async def command(line: str, at: Sequence[RealMember]) -> str:
    """Run a command of `balancer` at a running member until it succeeds; what it printed."""
    first, *rest = line.split()
    assert first == "balancer"
    urls = ",".join(member.url for member in at)
    until = monotonic() + PATIENCE
    while True:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "balancer", *rest),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "BALANCER_ENDPOINTS": urls},
        )
        said = (await process.communicate())[0].decode()
        if process.returncode == 0:
            return said
        assert monotonic() < until, f"{line}: {said}"
