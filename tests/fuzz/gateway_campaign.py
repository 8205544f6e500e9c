"""`python -m tests.fuzz.gateway_campaign`: requests to the coordination API, good ones and damaged ones, many of them.

Each input has a number, and its number and the seed make it again. Inputs come in batches that begin with a state
machine of their own, so that a finding is made again by its batch up to it. What must hold, see `gateway_judge`:
- nothing is raised, not into the loop either, and everything comes to rest;
- what the gateway asks the state for is what another reader makes of the body; what that one refuses never gets there;
- each answer has a status of etcd's, and a body by the .proto: integers of 64 bits as strings, nothing that is zero;
  an error has its four fields and the status of its code; of a stream each piece is one object in a line;
- a request that is refused, and one that only reads, leaves the state as it was; an accepted one does what it says;
- what a follower hands to its leader is a frame that the leader takes;
- of a client that has gone nothing is left: no watch, no claim, no task, no timer; and memory does not grow.
"""

import argparse
import asyncio
import gc
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.findings import FindingError, check
from tests.fuzz.gateway_judge import judge
from tests.fuzz.gateway_messages import METHODS, STREAMS
from tests.fuzz.gateway_requests import Given, make_input
from tests.fuzz.gateway_world import World
from tests.support.virtual_loop import VirtualLoop

BATCH = 256
ACCEPTED_SHARE = 0.2
WARM = 2  # batches until nothing is new: caches are filled
MEMORY_EVERY = 2  # batches
BLOCKS_MAX = 4000  # of the allocator's that may come on top: the statistics grow, too
_SALT = 3


@dataclass(slots=True)
class Tally:
    """What became of the inputs of a range. `accepted`: requests of the API that got a 200."""

    inputs: int = 0
    accepted: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    damages: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Count another range's, too."""
        self.inputs += other.inputs
        self.accepted += other.accepted
        self.labels += other.labels
        self.damages += other.damages

    @property
    def accepted_share(self) -> float:
        """Accepted requests of all inputs."""
        return self.accepted / max(self.inputs, 1)


def input_of(seed: int, number: int) -> Given:
    """The input with this number."""
    return make_input(Random((seed << 64) + (_SALT << 60) + number))


def run_batch(seed: int, first: int, count: int, tally: Tally) -> None:
    """Inputs in one world, in which the first begins. Raises FindingError at the first finding."""

    async def run() -> None:
        world = World()
        await world.prepare()
        number = first
        given: Given | None = None
        try:
            for number in range(first, first + count):
                given = input_of(seed, number)
                label = await judge(world, given)
                tally.inputs += 1
                tally.labels[label] += 1
                tally.damages[given.damage] += 1
                tally.accepted += label.startswith("200") and given.path in (METHODS.keys() | STREAMS.keys())
            await world.end()
        except Exception as error:
            command = f"python -m tests.fuzz.gateway_campaign --replay {seed}:{number}"
            raise FindingError(f"{command}\n{type(error).__name__}: {error}\n{given!r:.3000}") from error

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(run())


def run_range(seed: int, first: int, count: int) -> Tally:
    """So many inputs, from a batch's first one on. Raises FindingError at the first finding."""
    tally = Tally()
    memory = _Memory()
    try:
        for start in range(first, first + count, BATCH):
            run_batch(seed, start, min(BATCH, first + count - start), tally)
            memory.look()
    finally:
        memory.end()
    return tally


class _Memory:
    """Whether worlds that are gone leave something behind. What was there before does not count, nor is it searched."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        self._batches = 0
        self._blocks = 0

    def look(self) -> None:
        """A batch is over."""
        self._batches += 1
        if self._batches < WARM or self._batches % MEMORY_EVERY:
            return
        gc.collect()
        blocks = sys.getallocatedblocks()
        if not self._blocks:
            self._blocks = blocks
        grown = blocks - self._blocks
        check(grown < BLOCKS_MAX, f"{grown} blocks of memory more than {self._batches - WARM} batches ago")

    def end(self) -> None:
        """No more."""
        gc.unfreeze()


def run(seed: int, count: int, jobs: int = 1) -> Tally:
    """The same, in so many processes."""
    if jobs == 1:
        return run_range(seed, 0, count)
    step = -(-count // BATCH // (jobs * 8)) * BATCH
    starts = range(0, count, step)
    tally = Tally()
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        sizes = [min(step, count - start) for start in starts]
        for part in pool.map(run_range, [seed] * len(starts), starts, sizes):
            tally.add(part)
    return tally


def replay(seed: int, number: int) -> Given:
    """Run an input's batch up to it; the input. Raises FindingError where the finding still stands."""
    first = number - number % BATCH
    run_batch(seed, first, number - first + 1, Tally())
    return input_of(seed, number)


def report(seed: int, count: int, jobs: int = 1) -> bool:
    """Run, and print what became of the inputs; whether enough of them were accepted. Raises FindingError."""
    start = time.monotonic()
    tally = run(seed, count, jobs)
    seconds = time.monotonic() - start
    print(
        f"gateway: {tally.inputs} inputs of seed {seed}, no finding, {tally.accepted_share:.1%} accepted, "
        f"{seconds:.1f} s, {seconds / max(tally.inputs, 1) * 1e6:.0f} us each, {_resident() / 2**20:.0f} MiB resident"
    )
    for name, labels in (("damage", tally.damages), ("became", tally.labels)):
        for label, number in labels.most_common():
            print(f"  {name} {label}: {number}")
    if tally.accepted_share < ACCEPTED_SHARE:
        print(f"  fewer than {ACCEPTED_SHARE:.0%} are accepted: the grammar makes too much rubbish")
    return tally.accepted_share >= ACCEPTED_SHARE


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def main() -> int:
    """Run what the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.gateway_campaign", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="inputs (20000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--replay", metavar="SEED:NUMBER", help="run one input again")
    arguments = parser.parse_args()
    try:
        if arguments.replay:
            seed, _, number = arguments.replay.partition(":")
            print(f"{replay(int(seed), int(number))!r:.3000}\nno finding")
            return 0
        return 0 if report(arguments.seed, arguments.count, arguments.jobs) else 1
    except FindingError as error:
        print(error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
