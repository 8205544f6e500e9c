"""Replays seeds: `--seed N` prints every step of one, `--seeds A B` counts what happens in A to B - 1."""

import argparse
import sys
import time
from collections import Counter

from tests.simulation.cluster.world import HistoryFailedError, play


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.cluster", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 100))
    given = parser.parse_args()
    if given.seed is not None:
        world = play(given.seed, print)
        print(dict(world.counts), world.trace)
        return 0
    counts: Counter[str] = Counter()
    failed = []
    began = time.process_time()
    for seed in range(*given.seeds):
        try:
            counts += play(seed).counts
        except HistoryFailedError as error:
            failed.append(seed)
            print(error, flush=True)
    seconds = time.process_time() - began
    for name, count in sorted(counts.items()):
        print(f"{count:10} {name}")
    print(f"{(given.seeds[1] - given.seeds[0]) / seconds:.2f} seeds per second of CPU; failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
