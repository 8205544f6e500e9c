"""Plays seeds until one fails, in a process of its own and in the tree that it is started in. For `tree.py`.

python -m tests.mutation.seeds storms|histories SEED...     says each seed as it begins, and ends with what it raises
"""

import sys
from collections.abc import Callable


def main(kind: str, seeds: list[int]) -> None:
    """The command."""
    play = _player(kind)
    for seed in seeds:
        print(seed, flush=True)
        play(seed)


def _player(kind: str) -> Callable[[int], object]:
    if kind == "storms":
        from tests.unit.raft.storm import run

        return run
    from tests.simulation.cluster.world import play

    return play


if __name__ == "__main__":
    main(sys.argv[1], [int(seed) for seed in sys.argv[2:]])
