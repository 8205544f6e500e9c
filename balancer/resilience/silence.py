"""Whether a backend has fallen silent: several requests wait at it, and none of them is answered.

Timeouts find this out too, but only after `first_byte`, and meanwhile every further request joins those that wait. So a
silent backend gets no further ones until it answers any of them, or until all have ended: the next few then find out
how it is. Nothing is judged by this: whether the backend has failed, its timeouts say.

Some backends answer in bursts. The longest silence after which a backend did answer, with as many waiting, is
remembered for some minutes, and only three times as long a one counts.
"""

WAITING_MIN = 5
"""Requests begun since the last answer. Fewer may all happen to be slow ones."""
USUAL_RATIO = 3.0
USUAL_HALVES = 60.0
"""Seconds in which what is remembered of earlier silences halves."""


class Silence:
    """One backend, as one worker sees it. `silent`: give it nothing now. All methods are O(1)."""

    __slots__ = ("_answered", "_begun", "_usual", "seconds", "silent", "waiting")

    def __init__(self) -> None:
        self._answered = 0
        self._begun = -1  # requests before those that wait; -1 = to be found out
        self._usual = 0.0
        self.seconds = 0.0  # since something waits without an answer
        self.waiting = 0  # requests begun since the last answer
        self.silent = False

    def idle(self, answered: int) -> None:
        """Nothing is in flight there; so many response heads have come, ever."""
        self._answered = answered
        self._begun = -1
        self.waiting = 0
        self.seconds = 0.0
        self.silent = False

    def look(self, *, begun: int, answered: int, in_flight: int, elapsed: float, after: float) -> None:
        """Judge it, with something in flight there.

        `begun`, `answered`: requests that it got and response heads that came, ever. `elapsed`: seconds since the last
        look, but not more than looks are apart: a worker that stood still learns nothing from that. `after`: seconds.
        """
        self._usual *= 0.5 ** (elapsed / USUAL_HALVES)
        if answered != self._answered:
            if self.waiting >= WAITING_MIN:
                self._usual = max(self._usual, self.seconds)
            self.idle(answered)
            self._begun = begun
            return
        if self._begun < 0:
            self._begun = begun - in_flight
        elif self.waiting:
            self.seconds += elapsed
        self.waiting = begun - self._begun
        self.silent = self.waiting >= WAITING_MIN and self.seconds >= max(after, USUAL_RATIO * self._usual)
