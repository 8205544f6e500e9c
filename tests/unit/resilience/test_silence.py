"""A backend is silent when several wait at it and none is answered for long; nothing else makes it so."""

import pytest

from balancer.resilience.silence import USUAL_HALVES, WAITING_MIN, Silence

AFTER, EVERY = 0.1, 0.025


class Backend:
    """One that is sent and answers what a test says, looked at as a worker does."""

    def __init__(self) -> None:
        self.silence = Silence()
        self.begun = self.answered = self.ended = 0

    def begin(self, count: int = WAITING_MIN) -> None:
        self.begun += count

    def answer(self) -> None:
        self.answered += 1

    def end(self, count: int) -> None:
        self.ended += count

    def look(self, seconds: float = EVERY) -> bool:
        """Whether it is silent, looked at for so long."""
        for _ in range(round(seconds / EVERY)):
            if self.begun == self.ended:
                self.silence.idle(self.answered)
            else:
                self.silence.look(
                    begun=self.begun,
                    answered=self.answered,
                    in_flight=self.begun - self.ended,
                    elapsed=EVERY,
                    after=AFTER,
                )
        return self.silence.silent


@pytest.fixture
def backend() -> Backend:
    made = Backend()
    made.begin(1)
    made.answer()
    made.end(1)
    made.look()
    return made


def test_one_at_which_several_wait_is_silent_after_the_time_and_not_before(backend: Backend) -> None:
    backend.begin()
    assert not backend.look(AFTER)
    assert backend.look()


def test_any_answer_ends_it(backend: Backend) -> None:
    backend.begin()
    assert backend.look(2 * AFTER)
    backend.answer()
    assert not backend.look()


def test_few_may_wait_as_long_as_they_like(backend: Backend) -> None:
    backend.begin(WAITING_MIN - 1)
    assert not backend.look(100 * AFTER)


def test_one_that_answers_all_the_time_is_not_silent_however_many_wait(backend: Backend) -> None:
    for _ in range(20):
        backend.begin()
        backend.answer()
        assert not backend.look(AFTER - EVERY)


def test_long_answers_that_have_begun_are_not_waited_for(backend: Backend) -> None:
    backend.begin(10)
    for _ in range(10):
        backend.answer()
    backend.look()
    assert not backend.look(100 * AFTER), "ten downloads are under way, and nobody waits"
    backend.begin(WAITING_MIN - 1)
    assert not backend.look(100 * AFTER)


def test_what_ended_without_an_answer_still_counts_as_long_as_somebody_waits(backend: Backend) -> None:
    backend.begin(10)
    backend.look(AFTER)
    backend.end(9)
    assert backend.look()


def test_when_all_have_ended_the_next_few_find_out(backend: Backend) -> None:
    backend.begin(10)
    assert backend.look(2 * AFTER)
    backend.end(10)
    assert not backend.look()
    backend.begin(1)
    assert not backend.look(10 * AFTER)
    backend.begin(WAITING_MIN)
    assert backend.look(), "the first of them waits for long"


def test_one_that_answers_in_bursts_is_given_three_times_as_long_and_that_is_forgotten(backend: Backend) -> None:
    backend.begin()
    backend.look(1.0)
    backend.answer()
    backend.look()
    backend.begin()
    assert not backend.look(2.5)
    assert backend.look(1.0)
    backend.answer()
    backend.end(2 * WAITING_MIN)
    backend.look()
    for _ in range(8):  # a time without silences
        backend.begin(1)
        backend.answer()
        backend.look(USUAL_HALVES)
        backend.end(1)
        backend.look()
    backend.begin()
    assert backend.look(4 * AFTER)


def test_one_that_never_answered_is_judged_as_well() -> None:
    backend = Backend()
    backend.begin()
    assert not backend.look()
    assert backend.look(2 * AFTER)
