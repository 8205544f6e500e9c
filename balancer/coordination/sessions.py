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
"""Of members, which have one for each of their starts, and as many of clients: the least recently used of them goes."""

CLIENTS_FROM = 1 << 62
"""Sessions of clients have numbers from here on, those of members lower ones: who is outside cannot name a member's."""

ANSWERS_MAX = 4096
"""Unconfirmed answers per session; more than a member has commands under way. Further commands are refused."""

ANSWER_SIZE_MAX = 256 * 1024
"""Bytes of keys and values in an answer that is kept. A larger one is given once, and its repetition refused."""

SESSION_SIZE_MAX = 4 * 1024 * 1024
"""Bytes of a session's unconfirmed answers. One that would be more counts as too large."""

SIZE_MAX = 64 * 1024 * 1024
"""Bytes of all unconfirmed answers: above it, the least recently used sessions go."""

ANSWER_COST = 256
"""Bytes counted for an answer beside its keys and values."""

Answer = Result | CoordinationError


class Session:
    """One client's place in its own sequence. `size`: bytes that its answers count for."""

    __slots__ = ("answered_below", "answers", "size")

    def __init__(self, answered_below: int = 0) -> None:
        self.answered_below = answered_below
        self.answers: dict[int, Answer] = {}
        self.size = 0


class Sessions:
    """All sessions. `size`: bytes that all answers count for.

    Those of members apart from those of clients, so that no number of clients makes a member lose its own.
    """

    def __init__(self) -> None:
        self.size = 0
        self._of_members: dict[int, Session] = {}  # the least recently used first
        self._of_clients: dict[int, Session] = {}

    def __len__(self) -> int:
        return len(self._of_members) + len(self._of_clients)

    def __iter__(self) -> Iterator[tuple[int, Session]]:
        """Those of members, then those of clients, each from the least recently used on."""
        yield from self._of_members.items()
        yield from self._of_clients.items()

    def _like(self, number: int) -> dict[int, Session]:
        return self._of_clients if number >= CLIENTS_FROM else self._of_members

    def register(self, number: int) -> None:
        """A new session."""
        sessions = self._like(number)
        if len(sessions) >= SESSIONS_MAX:
            self._give_up_one(sessions)
        sessions[number] = Session()

    def restore(self, number: int, session: Session) -> None:
        """Put back what `__iter__` gave, in that order."""
        self._like(number)[number] = session

    def restore_answer(self, number: int, seq: int, answer: Answer) -> None:
        """Put back an answer of a session that was restored. Raises ValueError for what no session can hold."""
        session = self._like(number).get(number)
        if session is None or seq in session.answers:
            raise ValueError(f"an answer of session {number} out of place")
        self._add(session, seq, answer)

    def recall(self, command: Command) -> Answer | None:
        """The answer to a command that was done before; None = it is new and is to be done now, then `keep` it.

        Raises CoordinationError where it must not be done.
        """
        sessions = self._like(command.session)
        session = sessions.pop(command.session, None)
        if session is None:
            raise UNKNOWN_SESSION.error()
        sessions[command.session] = session  # the most recently used now
        if command.answered_below > session.answered_below:
            self._confirm(session, command.answered_below)
        if command.seq < session.answered_below:
            raise ALREADY_ANSWERED.error()
        answer = session.answers.get(command.seq)
        if answer is None and len(session.answers) >= ANSWERS_MAX:
            raise TOO_MANY_REQUESTS.error()
        return answer

    def keep(self, command: Command, answer: Answer) -> None:
        """Remember what a command was answered. It was recalled just now, so its session is the last to be given up."""
        session = self._like(command.session)[command.session]
        added = size(answer)
        if added > ANSWER_SIZE_MAX or session.size + added > SESSION_SIZE_MAX:
            answer = ANSWER_TOO_LARGE.error()
        self._add(session, command.seq, answer)
        for sessions in (self._of_clients, self._of_members):
            while self.size > SIZE_MAX and sessions and next(iter(sessions.values())) is not session:
                self._give_up_one(sessions)

    def _give_up_one(self, sessions: dict[int, Session]) -> None:
        self.size -= sessions.pop(next(iter(sessions))).size

    def _add(self, session: Session, seq: int, answer: Answer) -> None:
        cost = ANSWER_COST + size(answer)
        session.answers[seq] = answer
        session.size += cost
        self.size += cost

    def _confirm(self, session: Session, answered_below: int) -> None:
        """The client has the answers below this number. O(newly confirmed), or O(kept) after a leap."""
        answers = session.answers
        if answered_below - session.answered_below > len(answers):
            confirmed = [seq for seq in answers if seq < answered_below]
        else:
            confirmed = [seq for seq in range(session.answered_below, answered_below) if seq in answers]
        for seq in confirmed:
            cost = ANSWER_COST + size(answers.pop(seq))
            session.size -= cost
            self.size -= cost
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
            64 + size(part)
            for response in answer.responses
            for part in (
                response.response_range,
                response.response_put,
                response.response_delete_range,
                response.response_txn,
            )
            if part is not None
        )
    return 0


def _size(kv: KeyValue) -> int:
    return len(kv.key) + len(kv.value) + 64  # and its numbers
