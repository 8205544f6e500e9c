"""Whatever happens to a cluster, its promises hold, and it serves again once a majority is well.

python -m tests.simulation.cluster --seed N     # one history again, every step in words
"""

import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.simulation.cluster.world import HistoryFailedError, World, play

SEEDS, CHUNK = 36, 12  # the machine that runs them may be a busy one
FULL_SEEDS, FULL_CHUNK = 20_000, 250

LEAST = {  # in 1,000 histories
    "elections": 5_000,
    "snapshot installs": 500,
    "membership changes": 500,
    "crashes that lost unsynced data": 2_000,
    "partitions longer than an election": 200,
    "acknowledged writes": 50_000,
    "reads checked": 50_000,
}


def check_seeds(first: int, last: int) -> None:
    """All laws hold in these histories, and enough happens in them for that to mean something."""
    counts: Counter[str] = Counter()
    for seed in range(first, last):
        counts += play(seed).counts
    print(dict(sorted(counts.items())))
    meagre = {name: counts[name] for name, least in LEAST.items() if counts[name] * 1_000 < least * (last - first)}
    assert not meagre, "too little happened"
    assert counts["keys undecided"] * 50 <= counts["keys found linearizable"]


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_promises_hold_in_every_history(first: int) -> None:
    check_seeds(first, first + CHUNK)


@pytest.mark.full
@pytest.mark.timeout(0)
@pytest.mark.parametrize("first", range(0, FULL_SEEDS, FULL_CHUNK))
def test_the_promises_hold_in_twenty_thousand_histories(first: int) -> None:
    check_seeds(first, first + FULL_CHUNK)


def test_a_seed_is_one_history() -> None:
    worlds = [play(7), play(7), play(8)]
    assert worlds[0].trace == worlds[1].trace
    assert worlds[0].trace != worlds[2].trace


def test_a_replay_is_the_same_history_in_another_process_and_prints_its_steps() -> None:
    """The order of sets and of hashing must not matter."""
    command = [sys.executable, "-m", "tests.simulation.cluster", "--seed", "5"]
    told = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": hashing}, capture_output=True, check=True).stdout
        for hashing in ("1", "2")
    ]
    assert told[0] == told[1]
    assert play(5).trace in told[0].decode().splitlines()[-1]
    assert told[0].count(b"\n") > 1_000


def test_what_breaks_a_promise_says_how_to_play_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "_judge", lambda world: world.laws.truth[-1_000_000])
    with pytest.raises(HistoryFailedError, match="IndexError") as caught:
        play(3)
    assert str(caught.value).endswith("python -m tests.simulation.cluster --seed 3")
