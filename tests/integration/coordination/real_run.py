"""A run: a real cluster, clients, faults one round after the other, a calm at the end, and the judgement.

By hand: `python -m tests.integration.coordination.real_run --seconds 60 [--seed N]`.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom
from time import monotonic

from balancer.consensus.client import Coordination
from balancer.consensus.client_kv import prefix_range
from balancer.consensus.storage_errors import EXIT_TRANSIENT
from balancer.coordination.errors import CoordinationError
from balancer.coordination.requests import RangeRequest
from balancer.coordination.responses import RangeResponse
from tests.integration.coordination.real_clients import PREFIX, History, Writer
from tests.integration.coordination.real_faults import Faults, kinds_in, plan
from tests.integration.coordination.real_history import Finding, Tellers, check
from tests.integration.coordination.real_lockers import ApiLocker, LockBook, Locker
from tests.integration.coordination.real_members import (
    PATIENCE,
    MemberFailedError,
    RealMembers,
    running_members,
)

SINGLE_WRITERS, ROAMING_WRITERS, LOCKERS, API_LOCKERS = 3, 2, 2, 1  # eight clients
PACE = 0.03
"""Mean seconds between two operations of a client: about 200 a second in all."""
CALM = 1.0
"""Seconds for which clients go on after the last fault, at least; and until each of SERVED was done once more."""
SERVED = ("get", "put", "transaction", "locks", "writes under a lock")
_KEPT = 300  # revisions that are not compacted although all members have told them
_COMPACT_EVERY = 2.0


@dataclass(slots=True)
class Run:
    """What is known of one. `lines`: what happened, with seconds since the start."""

    seed: int
    seconds: float
    history: History = field(default_factory=History)
    book: LockBook = field(default_factory=LockBook)
    lines: list[str] = field(default_factory=list)
    faults: Faults | None = None
    kinds: tuple[str, ...] = ()
    finding: Finding | None = None
    terms: int = 0
    failures: int = 0  # processes that ended by themselves

    def told(self, line: str) -> None:
        """One more line."""
        self.lines.append(f"{monotonic() - self.history.began:8.2f} {line}")

    def __str__(self) -> str:
        kinds = {} if self.faults is None else self.faults.recoveries
        rows = [f"seed {self.seed}, {self.seconds:g} s", *self.lines, str(dict(sorted(self.history.counts.items())))]
        rows += [f"{kind}: {len(times)}, served again within {max(times):.2f} s" for kind, times in kinds.items()]
        return "\n".join([*rows, f"terms: {self.terms}; ended by themselves: {self.failures}", str(self.finding)])


async def play(run: Run, folder: Path) -> None:
    """Raises BrokenLawError and MemberFailedError, in groups."""
    async with running_members(folder) as members:
        run.told(f"all serve after {await members.serve():.2f} s")
        tellers = Tellers(members)
        watching = [Coordination([member.url], timeout=1.0, exactly_once=False) for member in members.values()]
        try:
            async with asyncio.TaskGroup() as background:
                tasks = [
                    background.create_task(tellers.listen(name, client))
                    for name, client in zip(members, watching, strict=True)
                ]
                tasks.append(background.create_task(_compact(members, tellers)))
                await _load(run, members)
                finals, ended = await _finals(members, tellers)
                for task in tasks:
                    task.cancel()
        finally:
            for client in watching:
                await client.close(0.0)
        run.terms = max(member.terms for member in members.values())
        run.failures = sum(member.codes.count(EXIT_TRANSIENT) for member in members.values())
        if members.problems:
            raise MemberFailedError("\n".join(members.problems))
    run.finding = await asyncio.to_thread(check, run.history, tellers.revisions, finals, ended)


async def _load(run: Run, members: RealMembers) -> None:
    """Clients, and the faults meanwhile; returns when all clients have ended."""
    rng = Random(run.seed)
    single = [Coordination([url], timeout=1.0, exactly_once=False) for url in members.urls]
    roaming = [Coordination(members.urls, timeout=4.0) for _ in range(ROAMING_WRITERS + LOCKERS)]
    history, numbers = run.history, iter(range(100))
    clients: list[Writer | Locker | ApiLocker] = [
        *(Writer(next(numbers), single, history, Random(rng.random())) for _ in range(SINGLE_WRITERS)),
        *(Writer(next(numbers), [each], history, Random(rng.random())) for each in roaming[:ROAMING_WRITERS]),
        *(Locker(each, history, run.book, Random(rng.random())) for each in roaming[ROAMING_WRITERS:]),
        *(ApiLocker(members.urls, history, run.book, Random(rng.random())) for _ in range(API_LOCKERS)),
    ]
    try:
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run(PACE))
            try:
                await _rounds(run, members, rng)
            finally:
                history.stopping = True
    finally:
        for each in (*single, *roaming):
            await each.close(1.0)


async def _rounds(run: Run, members: RealMembers, rng: Random) -> None:
    """Faults until the time is over, each kind at least once; then the calm."""
    run.faults = faults = Faults(members, run.told)
    until = run.history.began + run.seconds
    run.kinds = kinds_in(members.network)
    for round_ in plan(rng, run.kinds, short=run.seconds < 60):
        if monotonic() > until - CALM and faults.recoveries.keys() >= set(run.kinds):
            break
        await faults.round(round_)
        if members.problems:
            return
    before = Counter(run.history.counts)
    began = monotonic()
    while min((run.history.counts - before)[kind] for kind in SERVED) < 1 or monotonic() < max(began + CALM, until):
        if monotonic() > max(began, until) + PATIENCE:
            raise MemberFailedError(f"after the last fault clients got nothing but {run.history.counts - before}")
        await asyncio.sleep(0.1)
    run.told(f"calm since {monotonic() - began:.2f} s: {dict(run.history.counts - before)}")


async def _compact(members: RealMembers, tellers: Tellers) -> None:
    """For ever: give up what every member has told long ago, so that snapshots stay small, as duties do."""
    async with Coordination(members.urls, timeout=2.0) as client:
        while True:
            await asyncio.sleep(_COMPACT_EVERY)
            if tellers.least > _KEPT:
                try:
                    await client.compact(tellers.least - _KEPT)
                except CoordinationError:
                    continue  # next time


async def _finals(members: RealMembers, tellers: Tellers) -> tuple[dict[str, RangeResponse], tuple[float, float]]:
    """What each member holds when nobody writes any more, and when that was read."""
    last = await members[next(iter(members))].put("end", PATIENCE)
    if last is None:
        raise MemberFailedError("no write in the calm at the end")
    until = monotonic() + PATIENCE
    while tellers.least < last.header.revision:
        if monotonic() > until:
            raise MemberFailedError(f"revision {last.header.revision} is not told by all: {tellers.told}")
        await asyncio.sleep(0.02)
    began = monotonic()
    finals = {}
    for name, member in members.items():
        async with Coordination([member.url], timeout=PATIENCE) as client:
            finals[name] = await client.range(RangeRequest(*prefix_range(PREFIX)))
    return finals, (began, monotonic())


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.coordination.real_run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1_000_000))
    given = parser.parse_args()
    run = Run(given.seed, given.seconds)
    try:
        with tempfile.TemporaryDirectory(prefix="balancer-real-") as folder:
            asyncio.run(play(run, Path(folder)))
    finally:
        print(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
