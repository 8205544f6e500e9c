"""Linearizable reads: waiters share a round of heartbeats, and never one that began before they came (thesis 6.4).

Law: a waiter is told to read only when a round that was begun after its arrival was confirmed, and the state machine
has applied what that round said. A round that is lost or refused is followed by another one with another number.
"""

from collections import deque
from collections.abc import Callable

from balancer.consensus.proposals import timed_out
from balancer.coordination.errors import CoordinationError

Turn = Callable[[CoordinationError | None], None]
"""Told that the state machine may be read now, or why not."""

AGAIN = 0.5
"""Seconds after which a round is given up and another one begun: its messages may be lost."""


class _Waiter:
    __slots__ = ("deadline", "turn")

    def __init__(self, turn: Turn, deadline: float) -> None:
        self.turn = turn
        self.deadline = deadline


class ReadRounds:
    """`begin()` asks the core for a round and returns its number, 0 = there is no leader to ask now."""

    def __init__(self, begin: Callable[[], int]) -> None:
        self._begin = begin
        self._arrived: list[_Waiter] = []  # since the last round began
        self._rounds: dict[int, tuple[list[_Waiter], float]] = {}  # number -> who waits, and since when
        self._confirmed: deque[tuple[int, list[_Waiter]]] = deque()  # to be applied first, in order of the index

    def __len__(self) -> int:
        return sum(map(len, self._groups()))

    def join(self, turn: Turn, deadline: float) -> None:
        """Read in the next round."""
        self._arrived.append(_Waiter(turn, deadline))

    def pump(self, now: float) -> None:
        """Begin a round for those who came. To be called once per turn of the loop."""
        if self._arrived:
            number = self._begin()
            if number:
                self._rounds[number] = (self._arrived, now)
                self._arrived = []

    def confirmed(self, number: int, index: int) -> None:
        """The core says: whoever waits for `number` may read what `index` made."""
        waiters, _ = self._rounds.pop(number, ([], 0.0))
        if waiters:
            self._confirmed.append((index, waiters))

    def refused(self, number: int) -> None:
        """Ask again."""
        waiters, _ = self._rounds.pop(number, ([], 0.0))
        self._arrived = waiters + self._arrived

    def applied(self, index: int) -> None:
        """The state machine has come this far."""
        if not self._confirmed:
            return
        due = [entry for entry in self._confirmed if entry[0] <= index]
        if due:
            self._confirmed = deque(entry for entry in self._confirmed if entry[0] > index)
            for _, waiters in due:
                for waiter in waiters:
                    waiter.turn(None)

    def leader_changed(self) -> None:
        """Rounds under way are nobody's any more."""
        for number in list(self._rounds):
            self.refused(number)

    def tick(self, now: float) -> None:
        """Time has passed: rounds begin anew, and nobody waits beyond his deadline, wherever he waits. O(waiters)."""
        for number in [each for each, (_, since) in self._rounds.items() if now - since >= AGAIN]:
            self.refused(number)
        late: list[_Waiter] = []
        for group in self._groups():
            if any(waiter.deadline <= now for waiter in group):
                late += [waiter for waiter in group if waiter.deadline <= now]
                group[:] = [waiter for waiter in group if waiter.deadline > now]
        for waiter in late:
            waiter.turn(timed_out())

    def close(self, why: CoordinationError) -> None:
        """The member ends."""
        waiters = [waiter for group in self._groups() for waiter in group]
        self._arrived, self._rounds, self._confirmed = [], {}, deque()
        for waiter in waiters:
            waiter.turn(why)

    def _groups(self) -> list[list[_Waiter]]:
        """Everybody who waits."""
        groups = [self._arrived, *(waiters for waiters, _ in self._rounds.values())]
        return groups + [waiters for _, waiters in self._confirmed]
