"""The commands of this member that are on their way through the log, and who waits for their answers.

Law: a command is applied at most once, however often it is sent, and its waiter hears exactly once: the answer, a
refusal, or that the outcome is not known. The first follows from sessions (thesis 6.3): all commands of one start of a
member carry its session and a number, and the state machine answers a number that it knows from memory. So a command
may be sent again whenever the leader changes.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from balancer.coordination.command import Command, RegisterSession, Request, encode
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.refusals import UNKNOWN_SESSION

Done = Callable[[object], None]
"""Hears the answer, or the CoordinationError that stands for it."""

MOST = 10_000
"""Commands under way; each holds its bytes. Above it a request is refused at once, as etcd does when it lags."""
AGAIN = 0.5
"""Seconds after which a command is sent again: what carried it may have been lost."""


def no_leader() -> CoordinationError:
    """Nobody to send it to."""
    return CoordinationError(Code.UNAVAILABLE, "etcdserver: no leader")


def timed_out() -> CoordinationError:
    """Nobody knows whether it was done."""
    return CoordinationError(Code.UNAVAILABLE, "etcdserver: request timed out")


def too_many() -> CoordinationError:
    """It was not even tried."""
    return CoordinationError(Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")


class Carrier(Protocol):
    """Brings the command of this number to the leader's log, or drops it: True when it is on its way."""

    def __call__(self, data: bytes, number: int) -> bool: ...


class _Pending:
    __slots__ = ("data", "deadline", "done", "sent")

    def __init__(self, data: bytes, deadline: float, done: Done, sent: float) -> None:
        self.data = data
        self.deadline = deadline
        self.done = done
        self.sent = sent  # when it was last on its way; -inf = never


class Proposals:
    """Not thread-safe; `now` is in seconds and never goes back. `token` is a number that no other start has."""

    def __init__(self, carry: Carrier, token: int) -> None:
        self._carry = carry
        self._token = token
        self._session = 0
        self._registered_at = float("-inf")
        self._next = 1
        self._pending: dict[int, _Pending] = {}  # by number, in order
        self._unsent: deque[tuple[Request, float, Done]] = deque()  # until there is a session

    def __len__(self) -> int:
        return len(self._pending) + len(self._unsent)

    @property
    def session(self) -> int:
        """0 = not registered yet."""
        return self._session

    def submit(self, request: Request, now: float, deadline: float, done: Done) -> None:
        """Have `request` applied. O(1) beside its bytes."""
        if len(self) >= MOST:
            done(too_many())
        elif self._session:
            self._send(request, now, deadline, done)
        else:
            self._unsent.append((request, deadline, done))
            self._register(now)

    def _send(self, request: Request, now: float, deadline: float, done: Done) -> None:
        number = self._next
        self._next += 1
        answered_below = next(iter(self._pending), number)
        data = encode(Command(self._session, number, answered_below, request))
        sent = now if self._carry(data, number) else float("-inf")
        self._pending[number] = _Pending(data, deadline, done, sent)

    def _register(self, now: float) -> None:
        if now - self._registered_at >= AGAIN:
            data = encode(Command(0, self._token, 0, RegisterSession()))
            self._registered_at = now if self._carry(data, 0) else float("-inf")

    # ---- what comes back

    def registered(self, token: int, session: int, now: float) -> None:
        """A registration was applied. The first of ours gives the session; further ones are repeats."""
        if token != self._token or self._session:
            return
        self._session = session
        while self._unsent:
            request, deadline, done = self._unsent.popleft()
            self._send(request, now, deadline, done)

    def applied(self, session: int, number: int, answer: object) -> None:
        """A command was applied, here and for the first time or not. Others' commands are passed over."""
        if session != self._session:
            return
        if isinstance(answer, CoordinationError) and answer.message == UNKNOWN_SESSION.message:
            self._forget_session()
            return
        pending = self._pending.pop(number, None)
        if pending is not None:
            pending.done(answer)

    def refused(self, number: int) -> None:
        """It came to nobody who leads: the next tick sends it again. 0 = the registration."""
        pending = self._pending.get(number)
        if pending is not None:
            pending.sent = float("-inf")
        elif not number:
            self._registered_at = float("-inf")

    def leader_changed(self, now: float) -> None:
        """Whoever had our commands may have lost them."""
        self._registered_at = float("-inf")
        for pending in self._pending.values():
            pending.sent = float("-inf")
        self.tick(now)

    def tick(self, now: float) -> None:
        """Time has passed: send again what may be lost, give up what took too long. O(commands under way)."""
        for number in [each for each, pending in self._pending.items() if pending.deadline <= now]:
            self._pending.pop(number).done(timed_out())
        for _ in range(len(self._unsent)):
            request, deadline, done = self._unsent.popleft()
            if deadline <= now:
                done(timed_out())
            else:
                self._unsent.append((request, deadline, done))
        if self._unsent:
            self._register(now)
        for number, pending in self._pending.items():
            if now - pending.sent >= AGAIN and self._carry(pending.data, number):
                pending.sent = now

    def _forget_session(self) -> None:
        """The cluster gave ours up: what of it is under way has an unknown outcome. The next request registers anew."""
        self._session = 0
        self._registered_at = float("-inf")
        pending, self._pending = self._pending, {}
        for each in pending.values():
            each.done(timed_out())

    def close(self) -> None:
        """The member ends."""
        pending, self._pending = self._pending, {}
        for each in pending.values():
            each.done(timed_out())
        while self._unsent:
            self._unsent.popleft()[2](no_leader())
