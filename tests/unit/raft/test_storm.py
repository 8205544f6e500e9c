"""Whatever happens to the members, the laws of Raft hold, and once all is well they are of one mind again."""

from collections import Counter

import pytest

from tests.unit.raft.storm import run

SEEDS, FULL_SEEDS, CHUNK = 200, 4_000, 50
DEEDS = ("delivered", "proposed", "reads", "cuts", "crashes", "snapshots", "installs", "transfers", "changes")


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_laws_hold_in_every_storm(first: int) -> None:
    weather(first)


@pytest.mark.full
@pytest.mark.parametrize("first", range(SEEDS, FULL_SEEDS, CHUNK))
def test_the_laws_hold_in_many_more_storms(first: int) -> None:
    weather(first)


def weather(first: int) -> None:
    """Fifty storms from this seed on."""
    done: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        try:
            done.update(run(seed))
        except Exception as error:
            error.add_note(f"again: python -m tests.unit.raft.storm {seed}")
            raise
    missing = [deed for deed in DEEDS if not done[deed]]
    assert not missing, "the storms were too mild"


def test_a_seed_is_one_history() -> None:
    assert run(7) == run(7)
