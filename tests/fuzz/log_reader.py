"""`python -m tests.fuzz.log_reader`: write-ahead logs with any damage, against what was written to them.

Each input has a number, and its number and the seed make it again. What must hold:
- nothing but WalCorruptError comes out of the reader;
- what is read is the log as it stood after some record: no damaged record is ever accepted;
- it is never one from before the last sync, unless the damage is what a device leaves of a write that it did not
  finish, sectors of zeros, and no seal behind it can be read;
- of an undamaged log everything is read;
- whole records of any content are refused, or make a log that keeps the laws of one.
"""

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from random import Random

from balancer.consensus.storage_errors import WalCorruptError
from balancer.consensus.wal_replay import Recovered, Replayed, recovered_from, replay
from tests.fuzz.damaged_logs import Damaged, make_input
from tests.support.storage_workload import Expected


class FindingError(AssertionError):
    """Something that must hold does not."""


def check(holds: object, words: str) -> None:
    """Raise FindingError unless it holds."""
    if not holds:
        raise FindingError(words)


def judge_input(given: Damaged) -> str:
    """Read it; a label for the statistics.."""
    try:
        replayed, tail = replay(given.files, given.sample.identity)
    except WalCorruptError as error:
        check(given.kinds or given.files != given.sample.files, f"an undamaged log is refused: {error}")
        return "refused"
    check(tail.header.body <= tail.offset <= tail.end <= tail.header.size, f"it goes on at {tail.offset}")
    if given.forged:
        _check_laws(replayed)
        return "read, forged"
    recovered = recovered_from(replayed, replayed.marks[-1], tail.end - tail.offset)
    expected = given.sample.expected
    if given.strict:
        expected.check(recovered)
        return "read, all" if given.files == given.sample.files else "read, all that was durable"
    _check_once_written(expected, recovered)
    return "read, some"


def _check_once_written(expected: Expected, recovered: Recovered) -> None:
    """It is the log after some record."""
    Expected(expected.states, 0, expected.commit, 0).check(recovered)


def _check_laws(replayed: Replayed) -> None:
    """What holds of any log."""
    indexes = [entry.index for entry in replayed.entries]
    check(indexes == list(range(replayed.first_index, replayed.last_index + 1)), "there is a gap")
    terms = [entry.term for entry in replayed.entries]
    check(terms == sorted(terms), "terms go back")
    check(not terms or terms[-1] <= replayed.hard_state.term, "an entry of a term that was not heard of")
    check(replayed.hard_state.commit <= replayed.last_index, "more is committed than is there")
    check(replayed.first_index - 1 <= replayed.marks[-1].index, "the log does not go on from its snapshot")


def judge(seed: int, number: int) -> str:
    """Make and read the input with this number; its label. FindingError, LostError or whatever else went wrong."""
    given = make_input(Random((seed << 64) + number))
    how = "sealed" if given.sample.sealed else "open"
    kinds = "+".join(sorted(set(given.kinds))) if len(set(given.kinds)) < 2 else "several"
    return f"{how}, {kinds or 'undamaged'}: {judge_input(given)}"


def run_range(seed: int, first: int, count: int) -> Counter[str]:
    """So many inputs; how they ended. FindingError at the first finding, with the command that makes it again."""
    labels: Counter[str] = Counter()
    for number in range(first, first + count):
        try:
            labels[judge(seed, number)] += 1
        except Exception as error:
            replay_it = f"python -m tests.fuzz.log_reader --replay {seed}:{number}"
            raise FindingError(f"{replay_it}\n{type(error).__name__}: {error}") from error
    return labels


def run(seed: int, count: int, jobs: int = 1) -> Counter[str]:
    """The same, in so many processes."""
    if jobs == 1:
        return run_range(seed, 0, count)
    step = -(-count // (jobs * 8))
    starts = range(0, count, step)
    labels: Counter[str] = Counter()
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        sizes = [min(step, count - start) for start in starts]
        for part in pool.map(run_range, [seed] * len(starts), starts, sizes):
            labels += part
    return labels


def main() -> int:
    """Run what the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.log_reader", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="inputs (20000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--replay", metavar="SEED:NUMBER", help="run one input again")
    arguments = parser.parse_args()
    if arguments.replay:
        seed, _, number = arguments.replay.partition(":")
        print(judge(int(seed), int(number)))
        return 0
    start = time.monotonic()
    try:
        labels = run(arguments.seed, arguments.count, arguments.jobs)
    except FindingError as error:
        print(error)
        return 1
    print(f"{arguments.count} inputs of seed {arguments.seed}, no finding, {time.monotonic() - start:.1f} s")
    for label, number in sorted(labels.items()):
        print(f"  {label}: {number}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
