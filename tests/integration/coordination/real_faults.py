"""Faults of real members: drawn from a seed, brought about, shown to be real, and ended again.

Which member is hit is drawn as a role or a number; who leads at that moment is not in anybody's hand, so a seed gives
the same plan and not the same history.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from time import monotonic

from tests.integration.coordination.real_members import PATIENCE, MemberFailedError, RealMember, RealMembers
from tests.integration.coordination.real_network import DESK, Link, Network, links_of
from tests.simulation.cluster.laws import BrokenLawError

KINDS = ("kill", "stop", "cut off", "deaf", "mute", "one way", "one link", "fill", "away")
"""cut off, deaf (hears nobody), mute (nobody hears it): some members; one way, one link: between two of them; away: the
clients reach nobody."""
SILENT = ("kill", "stop", "cut off", "deaf", "mute", "away")
"""Whom these befall acknowledges nothing meanwhile."""
_BALLAST = 4096  # bytes of a write that is to fill the segments of the log
_PROOF = 0.7  # seconds in which a member that cannot acknowledge anything is seen not to


@dataclass(frozen=True, slots=True)
class Fault:
    """`victims`: "leader", "follower", or places among the members; `from_clients`: cut off from these, too."""

    kind: str
    victims: tuple[str | int, ...]
    seconds: float
    from_clients: bool = False

    def __str__(self) -> str:
        from_clients = ", from clients too" if self.from_clients else ""
        return f"{self.kind} {' and '.join(map(str, self.victims))} for {self.seconds:.1f} s{from_clients}"


def kinds_in(network: Network) -> tuple[str, ...]:
    """Those that this network can have."""
    return KINDS if network.cuts_clients else tuple(kind for kind in KINDS if kind != "away")


def plan(rng: Random, kinds: Sequence[str], *, short: bool) -> Iterator[tuple[Fault, ...]]:
    """Rounds of faults that are there at the same time, without end; short: each kind alone, first of all."""
    kinds = list(kinds)
    rng.shuffle(kinds)
    while True:
        for kind in kinds:
            fault = _drawn(rng, kind, 0.3 if short else 2.0, from_clients="away" in kinds)
            if short or rng.random() < 0.7:
                yield (fault,)
                continue
            other = rng.choice([each for each in kinds if each != kind])
            yield fault, _drawn(rng, other, 2.0, from_clients="away" in kinds)
        rng.shuffle(kinds)


def _drawn(rng: Random, kind: str, mean: float, *, from_clients: bool) -> Fault:
    seconds = min(rng.expovariate(1 / mean), 4 * mean)
    if kind in ("one way", "one link"):
        return Fault(kind, tuple(rng.sample(range(3), 2)), seconds)
    if kind == "away":
        return Fault(kind, (0, 1, 2), seconds)
    victims: tuple[str | int, ...] = (rng.choice(("leader", "leader", "follower")),)
    if rng.random() < 0.3:
        victims = (0, 1, 2) if kind == "kill" and rng.random() < 0.4 else tuple(rng.sample(range(3), 2))
    cut = kind in ("cut off", "deaf", "mute")
    return Fault(kind, victims, seconds, from_clients=cut and from_clients and rng.random() < 0.5)


class Faults:
    """Those of one run. `told` gets a line for everything that happens."""

    def __init__(self, members: RealMembers, told: Callable[[str], None]) -> None:
        self._members = members
        self._names = list(members)
        self._told = told
        self.recoveries: dict[str, list[float]] = defaultdict(list)  # seconds until all served, by kind

    async def round(self, faults: tuple[Fault, ...]) -> None:
        """Bring them about, end them, and see everybody serve again. Raises MemberFailedError, BrokenLawError."""
        names = [(fault, await self._resolve(fault)) for fault in faults]
        for fault, victims in names:
            self._told(f"{fault}: {', '.join(victims)}")
        ends = [await self._begin(fault, victims) for fault, victims in names]
        try:
            proofs = [self._silent(victims) for fault, victims in names if fault.kind in SILENT]
            if faults[0].kind == "fill" and len(faults) == 1:  # else nobody may be left who takes writes
                proofs.append(self._full(names[0][1]))
            await asyncio.gather(*proofs, asyncio.sleep(max(fault.seconds for fault in faults)))
        finally:
            for end in ends:
                await end()
        seconds = await self._members.serve(PATIENCE)
        for fault in faults:
            self.recoveries[fault.kind].append(seconds)
        self._told(f"  all serve again after {seconds:.2f} s")

    async def _resolve(self, fault: Fault) -> list[str]:
        leader = await self._members.leader() or self._names[0]
        victims = []
        for victim in fault.victims:
            if isinstance(victim, int):
                victims.append(self._names[victim])
            elif victim == "leader":
                victims.append(leader)
            else:
                victims.append(next(name for name in self._names if name != leader))
        return victims

    async def _begin(self, fault: Fault, victims: list[str]) -> Callable[[], Coroutine[None, None, None]]:
        """Brings it about; what is returned ends it."""
        chosen = [self._members[name] for name in victims]
        if fault.kind == "kill":
            await asyncio.gather(*(member.kill() for member in chosen))
            return lambda: _all(member.start() for member in chosen)
        if fault.kind == "stop":
            for member in chosen:
                member.stop()
            return lambda: _done(RealMember.go_on, chosen)
        if fault.kind == "fill":
            for member in chosen:
                member.fill_disk()
            return lambda: _done(RealMember.free_disk, chosen)
        links = self._links(fault, victims)
        await self._members.network.cut(links)
        return lambda: self._members.network.mend(links)

    def _links(self, fault: Fault, victims: list[str]) -> frozenset[Link]:
        if fault.kind == "one way":
            return frozenset({(victims[0], victims[1])})
        if fault.kind == "one link":
            return frozenset({(victims[0], victims[1]), (victims[1], victims[0])})
        others = [DESK] if fault.kind == "away" else self._names
        if fault.from_clients:
            others = [*others, DESK]
        links = [links_of(name, others, hears=fault.kind == "mute", is_heard=fault.kind == "deaf") for name in victims]
        return frozenset().union(*links)

    async def _silent(self, victims: list[str]) -> None:
        """The fault is real: nothing that is written there now is acknowledged. Raises BrokenLawError."""
        answers = await asyncio.gather(*(self._members[name].put(f"proof/{name}", _PROOF) for name in victims))
        if any(answers):
            raise BrokenLawError(f"{', '.join(victims)}: a write was acknowledged that cannot have been: {answers}")

    async def _full(self, victims: list[str]) -> None:
        """Write through whoever takes it until those whose disks are full have stopped. Raises MemberFailedError."""
        before = {name: len(self._members[name].codes) for name in victims}
        until = monotonic() + PATIENCE
        while any(len(self._members[name].codes) == count for name, count in before.items()):
            if monotonic() > until:
                raise MemberFailedError(f"the disks of {', '.join(victims)} are full, and they go on")
            await asyncio.gather(*(each.put("ballast", 0.5, _BALLAST) for each in self._members.values()))


async def _all(works: Iterator[Coroutine[None, None, None]]) -> None:
    await asyncio.gather(*works)


async def _done(act: Callable[[RealMember], None], members: list[RealMember]) -> None:
    for member in members:
        act(member)
