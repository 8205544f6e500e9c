"""Commands on their way through the log that clients numbered: their session, their number, not this member's.

Law: as in proposals.py, a command is applied at most once and each waiter hears exactly once. A client that hears
nothing sends its change again, perhaps to another member. So the same command may be under way from several members,
and come twice to this one; every waiter hears what the first copy that the log holds was answered.
"""

from balancer.consensus.proposals import AGAIN, MOST, Carrier, Done, timed_out, too_many
from balancer.coordination.command import Command, Request, Ticket, encode
from balancer.coordination.errors import CoordinationError
from balancer.coordination.refusals import UNKNOWN_SESSION

FIRST = 1 << 62
"""What a carrier is given for a number: from here on, since those below are the member's own commands."""

WAITERS_MAX = 16
"""Of one command. A client sends it again after it gave the last attempt up, which then waits in vain for a while."""

_Name = tuple[int, int]


class _Pending:
    __slots__ = ("copies", "data", "number", "sent", "waiters")

    def __init__(self, number: int, data: bytes) -> None:
        self.number = number
        self.data = data
        self.sent = float("-inf")  # when it was last on its way
        self.copies = 0  # how often it was sent on its way
        self.waiters: list[tuple[float, Done]] = []  # each with its deadline


class NumberedProposals:
    """Not thread-safe; `now` is in seconds and never goes back."""

    def __init__(self, carry: Carrier) -> None:
        self._carry = carry
        self._pending: dict[_Name, _Pending] = {}
        self._names: dict[int, _Name] = {}  # by the number that the carrier knows
        self._next = FIRST

    def __len__(self) -> int:
        return len(self._pending)

    def submit(self, request: Request, ticket: Ticket, now: float, *, deadline: float, done: Done) -> None:
        """Have `request` applied under the client's number. O(1) beside its bytes."""
        name = (ticket.session, ticket.seq)
        pending = self._pending.get(name)
        if len(self) >= MOST if pending is None else len(pending.waiters) >= WAITERS_MAX:
            done(too_many())
            return
        if pending is None:
            data = encode(Command(ticket.session, ticket.seq, ticket.answered_below, request))
            pending = self._pending[name] = _Pending(self._next, data)
            self._names[self._next] = name
            self._next += 1
            self._send(pending, now)
        pending.waiters.append((deadline, done))

    def applied(self, session: int, seq: int, answer: object) -> None:
        """A client's command was applied, or refused by its session, whoever brought it into the log."""
        pending = self._forget((session, seq))
        if pending is None:
            return
        unknown = isinstance(answer, CoordinationError) and answer.message == UNKNOWN_SESSION.message
        for _, done in pending.waiters:
            # Another copy may have been done before the session was given up, in entries that a snapshot skipped here.
            done(timed_out() if unknown and pending.copies > 1 else answer)

    def refused(self, number: int) -> None:
        """It came to nobody who leads: the next tick sends it again."""
        name = self._names.get(number)
        if name is not None:
            self._pending[name].sent = float("-inf")

    def leader_changed(self, now: float) -> None:
        """Whoever had them may have lost them."""
        for pending in self._pending.values():
            pending.sent = float("-inf")
        self.tick(now)

    def tick(self, now: float) -> None:
        """Time has passed: send again what may be lost, give up what took too long. O(commands under way)."""
        late: list[Done] = []
        for name, pending in list(self._pending.items()):
            if any(deadline <= now for deadline, _ in pending.waiters):
                late += [done for deadline, done in pending.waiters if deadline <= now]
                pending.waiters = [waiter for waiter in pending.waiters if waiter[0] > now]
                if not pending.waiters:
                    self._forget(name)
                    continue
            if now - pending.sent >= AGAIN:
                self._send(pending, now)
        for done in late:
            done(timed_out())

    def close(self) -> None:
        """The member ends."""
        waiters = [done for pending in self._pending.values() for _, done in pending.waiters]
        self._pending.clear()
        self._names.clear()
        for done in waiters:
            done(timed_out())

    def _send(self, pending: _Pending, now: float) -> None:
        if self._carry(pending.data, pending.number):
            pending.sent = now
            pending.copies += 1

    def _forget(self, name: _Name) -> _Pending | None:
        pending = self._pending.pop(name, None)
        if pending is not None:
            del self._names[pending.number]
        return pending
