"""One run of the differential test: sequences through our gateway and through real etcds, outcomes side by side.

Run one sequence alone, with what was asked: `python -m tests.integration.etcd.differential KIND SEED [member]`.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.coordination_etcd import Etcd
from tests.support.etcd_differences import Differences
from tests.support.etcd_http import EtcdHttp
from tests.support.etcd_member import MemberEtcd
from tests.support.etcd_memory_service import MemoryEtcd
from tests.support.etcd_planned import PLANNED
from tests.support.etcd_replay import Replay
from tests.support.etcd_sequences import Sequence
from tests.support.etcd_steps import Step, shown
from tests.support.etcd_versions import VERSIONS, require_etcd
from tests.support.etcd_waiting import LockSequence, WatchSequence

KINDS: dict[str, Callable[[int], Sequence]] = {
    "keys": Sequence,
    "watches": WatchSequence,
    "locks": LockSequence,
    "elections": lambda seed: LockSequence(seed, election=True),
}
STREAM_SECONDS = 15.0  # for streams to tell the same
FAULTS_MAX = 5


def steps_of(kind: str, seed: int) -> list[Step]:
    """The sequence of that name; of the planned ones the seed does not matter."""
    return PLANNED[kind] if kind in PLANNED else KINDS[kind](seed).steps()


class Comparison:
    """Our gateway and etcds by version, each used for many sequences. `faults`: what no entry of the table permits."""

    def __init__(self, ours: str, theirs: Mapping[str, str]) -> None:
        self._urls = {"ours": ours, **theirs}
        self.differences = Differences()
        self.faults: list[str] = []

    async def compare(self, kind: str, seed: int) -> None:
        """Put all of them through one sequence."""
        steps = steps_of(kind, seed)
        replays = {name: Replay(EtcdHttp(url)) for name, url in self._urls.items()}
        try:
            await asyncio.gather(*(replay.run(steps) for replay in replays.values()))
            streams = await self._settled(replays)
        finally:
            await asyncio.gather(*(replay.close() for replay in replays.values()))
        for version in self._urls.keys() - {"ours"}:
            fault = self._fault(version, replays["ours"], replays[version], streams["ours"], streams[version])
            if fault:
                self.faults.append(f"{kind} {seed}, etcd {version}: {fault}")

    async def _settled(self, replays: Mapping[str, Replay]) -> dict[str, dict[str, Any]]:
        """What the streams told, as soon as it agrees, or when it is clear that it will not."""
        loop = asyncio.get_running_loop()
        end = loop.time() + STREAM_SECONDS
        while True:
            told = {name: replay.streams() for name, replay in replays.items()}
            if self._agree(told) or loop.time() > end:
                return told
            await asyncio.sleep(0.01)

    def _agree(self, told: Mapping[str, dict[str, Any]]) -> bool:
        return all(
            self.differences.streams_permitted(version, streams, told[version][name], count=False)
            for version in told.keys() - {"ours"}
            for name, streams in told["ours"].items()
        )

    def _fault(self, version: str, ours: Replay, theirs: Replay, *streams: dict[str, Any]) -> str:
        """The first difference that is not permitted; later ones may only follow from it."""
        for number, ((step, mine), (_, other)) in enumerate(zip(ours.outcomes, theirs.outcomes, strict=True)):
            if not self.differences.permitted(version, step, mine, other):
                return f"answer {number}, to {shown(step)}\n  ours:   {mine}\n  theirs: {other}"
        for name in streams[0]:
            if not self.differences.streams_permitted(version, streams[0][name], streams[1][name]):
                told = [json.dumps(one[name]) for one in streams]
                return f"{name}\n  ours:   {told[0]}\n  theirs: {told[1]}"
        return ""


async def _run(
    ours: MemoryEtcd | MemberEtcd, theirs: Mapping[str, str], sequences: Iterable[tuple[str, int]]
) -> Comparison:
    async with ours:
        comparison = Comparison(ours.url, theirs)
        for kind, seed in sequences:
            await comparison.compare(kind, seed)
            if len(comparison.faults) >= FAULTS_MAX:
                break
        return comparison


def run(folder: Path, sequences: Iterable[tuple[str, int]], *, member: bool = False) -> Comparison:
    """Start an etcd of each version in `folder` and go through the sequences.

    Ours is the gateway over a state machine, or over a whole `member` with its log.
    """
    with ExitStack() as stack:
        theirs = {}
        for version in VERSIONS:
            place = folder / version
            place.mkdir()
            theirs[version] = stack.enter_context(Etcd(place, program=require_etcd(version))).urls[0]
        ours = MemberEtcd(folder) if member else MemoryEtcd()
        return asyncio.run(_run(ours, theirs, sequences))


def main() -> int:
    """Run one sequence and print it."""
    kind, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for step in steps_of(kind, seed):
        print(shown(step))
    with tempfile.TemporaryDirectory() as folder:
        comparison = run(Path(folder), [(kind, seed)], member="member" in sys.argv)
    print(*comparison.faults, sep="\n")
    return bool(comparison.faults)


if __name__ == "__main__":
    sys.exit(main())
