"""Sessions: a command that comes twice is done once, and answered twice (Raft thesis section 6.3).

What is kept per session: the answers that the client has not confirmed yet. It confirms with `answered_below` in its
later commands. Which session is given up follows from the log alone, so every member gives up the same one; a command
of a session that was given up is refused, never done: it may have been done before.
"""

from collections.abc import Iterator

from balancer.coordination.command import Command, Result
from balancer.coordination.errors import CoordinationError
from balancer.coordination.refusals import ALREADY_ANSWERED, ANSWER_TOO_LARGE, TOO_MANY_REQUESTS, UNKNOWN_SESSION
from balancer.coordination.responses import DeleteRangeResponse, KeyValue, PutResponse, RangeResponse, TxnResponse

SESSIONS_MAX = 1000
"""A member has one for each of its starts, a client one: the least recently used goes."""

ANSWERS_MAX = 4096
"""Unconfirmed answers per session; more than a member has commands under way. Further commands are refused."""

ANSWER_SIZE_MAX = 256 * 1024
"""Bytes of keys and values in an answer that is kept. A larger one is given once, and its repetition refused."""

Answer = Result | CoordinationError


class Session:
    """One client's place in its own sequence."""

    __slots__ = ("answered_below", "answers")

    def __init__(self, answered_below: int = 0) -> None:
        self.answered_below = answered_below
        self.answers: dict[int, Answer] = {}


class Sessions:
    """All sessions, the least recently used first."""

    def __init__(self) -> None:
        self._sessions: dict[int, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[tuple[int, Session]]:
        """From the least recently used on."""
        return iter(self._sessions.items())

    def register(self, index: int) -> None:
        """A new session whose number is the index of the entry that asked for it."""
        if len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[index] = Session()

    def restore(self, number: int, session: Session) -> None:
        """Put back what `__iter__` gave, in that order."""
        self._sessions[number] = session

    def recall(self, command: Command) -> Answer | None:
        """The answer to a command that was done before; None = it is new and is to be done now, then `keep` it.

        Raises CoordinationError where it must not be done.
        """
        session = self._sessions.pop(command.session, None)
        if session is None:
            raise UNKNOWN_SESSION.error()
        self._sessions[command.session] = session  # the most recently used now
        if command.answered_below > session.answered_below:
            _confirm(session, command.answered_below)
        if command.seq < session.answered_below:
            raise ALREADY_ANSWERED.error()
        answer = session.answers.get(command.seq)
        if answer is None and len(session.answers) >= ANSWERS_MAX:
            raise TOO_MANY_REQUESTS.error()
        return answer

    def keep(self, command: Command, answer: Answer) -> None:
        """Remember what a command was answered."""
        small = isinstance(answer, CoordinationError) or size(answer) <= ANSWER_SIZE_MAX
        self._sessions[command.session].answers[command.seq] = answer if small else ANSWER_TOO_LARGE.error()


def _confirm(session: Session, answered_below: int) -> None:
    """The client has the answers below this number. O(newly confirmed), or O(kept) after a leap."""
    answers = session.answers
    if answered_below - session.answered_below > len(answers):
        session.answers = {seq: answer for seq, answer in answers.items() if seq >= answered_below}
    else:
        for seq in range(session.answered_below, answered_below):
            answers.pop(seq, None)
    session.answered_below = answered_below


def size(answer: object) -> int:
    """The bytes of the keys and values in an answer."""
    if isinstance(answer, PutResponse):
        return 0 if answer.prev_kv is None else _size(answer.prev_kv)
    if isinstance(answer, RangeResponse):
        return sum(map(_size, answer.kvs))
    if isinstance(answer, DeleteRangeResponse):
        return sum(map(_size, answer.prev_kvs))
    if isinstance(answer, TxnResponse):
        return sum(
            size(part)
            for response in answer.responses
            for part in (
                response.response_range,
                response.response_put,
                response.response_delete_range,
                response.response_txn,
            )
        )
    return 0


def _size(kv: KeyValue) -> int:
    return len(kv.key) + len(kv.value) + 64  # and its numbers
