"""Whether a fault that was planted is found."""

import pytest

from tests.simulation.standings import BrokenLawError, run

SHOWING = (6, 4, 1, 2)  # in these the most is to be found
SCHEDULES = (*SHOWING, *(seed for seed in range(20) if seed not in SHOWING))  # as the default test run plays them


def found(*words: str) -> None:
    """Some schedule of the default test run breaks a law whose text has one of these words, and none before another."""
    with pytest.raises(BrokenLawError, match="|".join(words)) as caught:
        for seed in SCHEDULES:
            run(seed)
    assert "replay: python -m tests.simulation.standings" in str(caught.value)
