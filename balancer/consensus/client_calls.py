"""Calls of the v3 API: a request in, an answer out, and each change done at most once.

Our own cluster does better than etcd: a change that carries a session and a number is applied once however often it is
sent (Ongaro's thesis, section 6.3), so that it may be sent again after a lost connection or a change of leader. Whether
the server can do that is asked once, before the first change that needs it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import msgspec

from balancer.consensus.client_endpoints import Endpoints
from balancer.consensus.client_errors import OutcomeUnknownError, RefusedError, UnsupportedError
from balancer.consensus.client_http import Lines, Server
from balancer.consensus.client_json import decoded, encoded, fields
from balancer.coordination.errors import Code
from balancer.coordination.refusals import ALREADY_ANSWERED, ANSWER_TOO_LARGE, TOO_MANY_REQUESTS, UNKNOWN_SESSION

T = TypeVar("T")

_SESSION_PATH = "/v3/balancer/session"
# Refusals of an attempt that say nothing of the attempts before it.
_IN_DOUBT = (UNKNOWN_SESSION.message, TOO_MANY_REQUESTS.message)


class _Session(msgspec.Struct):
    session: int


class _Ticket(NamedTuple):
    """The name of one change."""

    session: int
    seq: int


class Calls:
    """The calls of one client. `exactly_once`: have changes numbered where the server can do that."""

    def __init__(self, endpoints: Endpoints, *, exactly_once: bool = True) -> None:
        self.endpoints = endpoints
        self._sessions = exactly_once  # until the server says that it has none
        self._opening = asyncio.Lock()
        self._session = 0
        self._seq = 0
        self._open: set[_Ticket] = set()

    async def read(
        self, path: str, request: msgspec.Struct | None, answer: type[T], *, timeout: float | None = None
    ) -> T:
        """A call that changes nothing. Raises RefusedError, NotReachedError."""
        body = {} if request is None else fields(request)
        return decoded(await self.endpoints.ask(path, encoded(body), repeatable=True, timeout=timeout), answer)

    async def repeat(self, path: str, request: msgspec.Struct, answer: type[T], *, timeout: float | None = None) -> T:
        """A change that is the same when done twice. Raises RefusedError, NotReachedError, OutcomeUnknownError."""
        body = encoded(fields(request))
        return decoded(await self.endpoints.ask(path, body, repeatable=True, change=True, timeout=timeout), answer)

    async def change(self, path: str, request: msgspec.Struct, answer: type[T]) -> T:
        """A change that is to be done once. Raises RefusedError, NotReachedError, OutcomeUnknownError."""
        while True:
            ticket = await self._ticket()
            try:
                return decoded(await self._ask(path, fields(request), ticket), answer)
            except RefusedError as error:
                if error.message == UNKNOWN_SESSION.message and ticket is not None and self._session == ticket.session:
                    self._session = 0  # long unused and given up
                _check_outcome(error)
                if error.message != UNKNOWN_SESSION.message or ticket is None:
                    raise
                # Sent once, and refused: begin anew with a session that was just opened.
            finally:
                if ticket is not None:
                    self._open.discard(ticket)

    async def administer(self, path: str, body: dict[str, Any], answer: type[T]) -> T:
        """A change of the cluster itself, outside the key space. Raises as `change`, UnsupportedError."""
        try:
            return decoded(await self.endpoints.ask(path, encoded(body), repeatable=False, change=True), answer)
        except RefusedError as error:
            if error.code is Code.UNIMPLEMENTED:
                raise UnsupportedError(f"the server does not support this call ({path})") from None
            raise

    @asynccontextmanager
    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[tuple[Server, Lines]]:
        """A stream of lines, and who gives it. Raises as Endpoints.stream."""
        async with self.endpoints.stream(path, encoded(body)) as opened:
            yield opened

    async def _ask(self, path: str, body: dict[str, Any], ticket: _Ticket | None) -> bytes:
        if ticket is None:
            return await self.endpoints.ask(path, encoded(body), repeatable=False, change=True)
        below = min(other.seq for other in self._open if other.session == ticket.session)
        body |= {"session": ticket.session, "seq": ticket.seq, "answered_below": below}
        return await self.endpoints.ask(path, encoded(body), repeatable=True, change=True)

    async def _ticket(self) -> _Ticket | None:
        """The name of a new change; None where the server does not know of such."""
        if self._sessions and not self._session:
            async with self._opening:
                if self._sessions and not self._session:
                    await self._open_session()
        if not self._sessions:
            return None
        self._seq += 1
        ticket = _Ticket(self._session, self._seq)
        self._open.add(ticket)
        return ticket

    async def _open_session(self) -> None:
        try:
            opened = await self.read(_SESSION_PATH, None, _Session)
        except RefusedError as error:
            if error.code is not Code.UNIMPLEMENTED:
                raise
            self._sessions = False
            return
        self._session, self._seq = opened.session, 0


def _check_outcome(error: RefusedError) -> None:
    """Raises OutcomeUnknownError where a refusal leaves open what an earlier attempt of the change did."""
    if error.message == ANSWER_TOO_LARGE.message:
        raise OutcomeUnknownError(f"this change was done, but its answer is lost ({error})")
    if error.message == ALREADY_ANSWERED.message or (error.doubtful and error.message in _IN_DOUBT):
        raise OutcomeUnknownError(f"this change may have been done, or not: {error}")
