"""The servers that may be asked, and what to do when one does not answer.

Law: a request that may have been done is sent again only if doing it twice is the same as doing it once
(`repeatable`). A change that is not gets OutcomeUnknownError then. etcd's own client has the same rule ("write at
most once": learning/api_guarantees.md, client/v3/retry.go).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Protocol

from balancer.consensus.client_errors import NotReachedError, OutcomeUnknownError, RefusedError
from balancer.consensus.client_http import ExchangeError, Lines, Server
from balancer.consensus.client_json import refusal
from balancer.coordination.errors import Code
from balancer.coordination.refusals import ALREADY_ANSWERED, ANSWER_TOO_LARGE, UNKNOWN_SESSION
from balancer.transport.http_client import HttpClientError

_BACK_OFF = 0.02  # seconds after a whole round without an answer, then twice as long each time
_BACK_OFF_MOST = 1.0
_ATTEMPT_LEAST = 0.25

LEARNED_MAX = 16
"""Servers beside those that were given: a cluster has 3 to 7 members."""

# The member cannot do it now; another may. It may have been done all the same.
_ELSEWHERE = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELED})
# What every member would say again.
_FINAL = frozenset(refusal.message for refusal in (UNKNOWN_SESSION, ALREADY_ANSWERED, ANSWER_TOO_LARGE))


class Random(Protocol):
    """What is needed of random.Random."""

    def uniform(self, a: float, b: float) -> float: ...

    def getrandbits(self, k: int, /) -> int: ...


class Endpoints:
    """Servers of one cluster. The one that answered last is asked first. `timeout`: seconds for a whole call.

    Raises NotReachedError when there is none, or one is no address.
    """

    def __init__(self, urls: Sequence[str], *, timeout: float, clock: Callable[[], float], rng: Random) -> None:
        self.timeout = timeout
        self._clock = clock
        self._rng = rng
        try:
            self.servers = [Server(url.strip().rstrip("/")) for url in urls]
        except HttpClientError as error:
            raise NotReachedError(str(error)) from None
        if not self.servers:
            raise NotReachedError("no endpoints; give at least one, as http://HOST:PORT")
        self._given = len(self.servers)
        self._retired: list[Server] = []  # with exchanges that go on
        self._current = 0

    @property
    def current(self) -> Server:
        """The server that is asked first."""
        return self.servers[self._current]

    def avoid(self, server: Server) -> None:
        """Ask another one first, if it is this one's turn."""
        if self.current is server:
            self._current = (self._current + 1) % len(self.servers)

    def learn(self, urls: Iterable[str]) -> None:
        """Ask these as well, after those that were given; what was learned before and is not among them, no longer.

        The first LEARNED_MAX of them; what is no address that can be asked from elsewhere is left out.
        """
        given = self.servers[: self._given]
        known = {server.url: server for server in self.servers}
        learned: dict[str, Server] = {}
        for url in (each.strip().rstrip("/") for each in urls):
            if url.startswith("unix:") or url in learned or any(server.url == url for server in given):
                continue
            if len(learned) < LEARNED_MAX:
                with suppress(HttpClientError):
                    learned[url] = known.get(url) or Server(url)
        current = self.current
        self._retired = [server for server in self._retired if server.connections]
        for server in self.servers[self._given :]:
            if server.url not in learned:
                server.retire()
                self._retired.append(server)
        self.servers = [*given, *learned.values()]
        self._current = self.servers.index(current) if current in self.servers else 0

    async def ask(
        self, path: str, body: bytes, *, repeatable: bool, change: bool = False, timeout: float | None = None
    ) -> bytes:
        """The body of the answer to one call.

        Raises RefusedError; NotReachedError when nobody answered within the time; OutcomeUnknownError where a
        `change` was sent and may have been done.
        """
        until = self._clock() + (self.timeout if timeout is None else timeout)
        doubtful = False
        failures: dict[str, str] = {}
        for attempt in count(1):
            server = self.current
            try:
                answer = await server.exchange(path, body, timeout=self._share(until, repeatable=repeatable))
                if answer.status == 200:
                    return answer.body
                error = refusal(answer.status, answer.body)
                failures[server.url] = f"{server.url} says: {error.message}"
                if change and error.code is Code.UNKNOWN:  # whatever failed there, it may have been after the change
                    doubtful = True
                    break
                if error.code not in _ELSEWHERE or error.message in _FINAL:
                    error.doubtful = doubtful
                    raise error
                doubtful = True
            except ExchangeError as failure:
                failures[server.url] = str(failure)
                doubtful = doubtful or failure.sent
            self.avoid(server)
            if (doubtful and not repeatable) or not await self._wait(attempt, until):
                break
        told = "; ".join(failures.values())
        if change and doubtful:
            raise OutcomeUnknownError(f"this change may have been done, or not: {told}")
        raise NotReachedError(f"the cluster was not reached: {told}")

    @asynccontextmanager
    async def stream(self, path: str, body: bytes) -> AsyncIterator[tuple[Server, Lines]]:
        """A stream from the first server that gives one. Raises as `ask`; ExchangeError inside when it breaks off."""
        until = self._clock() + self.timeout
        failures: dict[str, str] = {}
        for attempt in count(1):
            server = self.current
            opened = server.stream(path, body, timeout=self._share(until, repeatable=True))
            try:
                status, lines = await opened.__aenter__()
            except ExchangeError as failure:
                failures[server.url] = str(failure)
            else:
                try:
                    if status == 200:
                        yield server, lines
                        return
                    error = await _refusal(status, lines)
                finally:
                    await opened.__aexit__(None, None, None)
                if error.code not in _ELSEWHERE:
                    raise error
                failures[server.url] = f"{server.url} says: {error.message}"
            self.avoid(server)
            if not await self._wait(attempt, until):
                break
        raise NotReachedError("the cluster was not reached: " + "; ".join(failures.values()))

    async def pause(self, attempt: int, most: float = _BACK_OFF_MOST) -> None:
        """The wait after so many failures in a row: none until each server was tried, then longer and longer."""
        rounds, more = divmod(attempt, len(self.servers))
        if not more:
            wait = self._rng.uniform(0.5, 1) * min(_BACK_OFF_MOST, _BACK_OFF * 2 ** min(rounds, 10))
            await asyncio.sleep(max(0.0, min(wait, most)))

    def close(self) -> None:
        """End every connection."""
        for server in (*self.servers, *self._retired):
            server.close()

    def _share(self, until: float, *, repeatable: bool) -> float:
        """Seconds for one attempt: where another can follow, it leaves that some time."""
        left = until - self._clock()
        return max(left / 2 if repeatable and len(self.servers) > 1 else left, _ATTEMPT_LEAST)

    async def _wait(self, attempt: int, until: float) -> bool:
        """False when there is no time for another attempt."""
        await self.pause(attempt, until - self._clock())
        return self._clock() < until


async def _refusal(status: int, lines: Lines) -> RefusedError:
    try:
        return refusal(status, await lines.next() or b"")
    except ExchangeError:
        return refusal(status, b"")
