"""Whether a fault that was planted is found."""

import pytest

from tests.simulation.standings import BrokenLawError, run

SHOWING = (2, 1, 5, 10)  # in these many wait, many fail, and much is reloaded
SCHEDULES = (*SHOWING, *(seed for seed in range(24) if seed not in SHOWING))  # as the default test run plays them


def found(*words: str) -> None:
    """Some schedule breaks a law whose text has one of these words, and no schedule before it another."""
    with pytest.raises(BrokenLawError, match="|".join(words)) as caught:
        for seed in SCHEDULES:
            run(seed)
    assert "replay: python -m tests.simulation.standings" in str(caught.value)
