"""Watches: every change of some keys, in order, each once, without a gap, over lost connections.

A watch goes on from the revision after the last one that it was told of; the cluster keeps the changes until they are
compacted away. A member that says nothing is asked for a read now and then: if it cannot give one, it may be stopped
or cut off, and the watch goes on at another.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from balancer.consensus.client_calls import Calls
from balancer.consensus.client_errors import CompactedError, NotReachedError, RefusedError
from balancer.consensus.client_http import ExchangeError, Lines, Server
from balancer.consensus.client_json import (
    StreamItem,
    WatchMessage,
    decoded,
    encoded,
    events_of,
    fields,
    refusal_in_stream,
)
from balancer.consensus.client_kv import RANGE
from balancer.coordination.errors import Code
from balancer.coordination.requests import RangeRequest, WatchCreateRequest, WatchFilter
from balancer.coordination.responses import Event

IDLE = 10.0
"""Seconds of silence after which the member is asked whether it still serves."""

_PATH = "/v3/watch"
# In a stream these are about the member, not about the watch.
_ELSEWHERE = frozenset({Code.UNAVAILABLE, Code.CANCELED, Code.DEADLINE_EXCEEDED, Code.UNKNOWN})


class _BrokenError(Exception):
    """The stream ended; another may go on."""


class Watch:
    """Events of a key range: `async with client.watch(...) as watch: async for event in watch: ...`.

    Once begun it does not end by itself: without a reachable member it waits for one. Entering raises NotReachedError
    and RefusedError; iterating raises CompactedError, and RefusedError when the watch is refused. An iteration that is
    cancelled has taken no event.
    """

    def __init__(self, calls: Calls, request: WatchCreateRequest, *, idle: float = IDLE) -> None:
        self._calls = calls
        self._request = request
        self._idle = idle
        self._next = request.start_revision  # 0 = from now on, until the server says which revision that is
        self._told = max(0, request.start_revision - 1)
        self._cluster_id = 0
        self._events: deque[Event] = deque()
        self._batch = 0  # the revision of the last of them
        self._stream: AsyncExitStack | None = None
        self._server: Server | None = None
        self._lines: Lines | None = None

    @property
    def revision(self) -> int:
        """Every change up to this revision was handed out: a later watch may start at the next."""
        return self._told

    async def __aenter__(self) -> Self:
        attempt = 0
        while self._lines is None:
            try:
                await self._open()
            except _BrokenError as error:
                attempt += 1
                if attempt > 2 * len(self._calls.endpoints.servers):
                    raise NotReachedError(f"no member begins the watch: {error}") from None
                await self._calls.endpoints.pause(attempt)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        attempt = 0
        while not self._events:
            try:
                if self._lines is None:
                    await self._open()
                else:
                    await self._receive()
                    attempt = 0
            except (_BrokenError, NotReachedError):
                await self._close()
                attempt += 1
                await self._calls.endpoints.pause(attempt)
        event = self._events.popleft()
        if not self._events:
            self._told = self._batch
        return event

    async def _open(self) -> None:
        """A stream, and its first word. Raises _BrokenError, NotReachedError, RefusedError."""
        request = fields(self._request) | {"progress_notify": True, "start_revision": self._next}
        stack = AsyncExitStack()
        try:
            server, lines = await stack.enter_async_context(self._calls.stream(_PATH, {"create_request": request}))
            self._server, self._lines, self._stream = server, lines, stack
            message = await self._message()
            if not message.created:
                raise _BrokenError("a watch that begins otherwise")  # noqa: TRY301
            self._check_cluster(message)
            if message.canceled:
                self._canceled(message)
            if not self._next:
                self._next = message.header.revision + 1
                self._told = message.header.revision
        except BaseException:
            self._stream = stack
            await self._close()
            raise

    async def _close(self) -> None:
        stack, self._stream = self._stream, None
        self._lines = self._server = None
        if stack is not None:
            await stack.aclose()

    async def _receive(self) -> None:
        """One message of the stream. Raises _BrokenError, CompactedError, RefusedError."""
        message = await self._message()
        if message.canceled:
            self._canceled(message)
        if message.events:
            self._events.extend(events_of(message))
            self._batch = message.events[-1].kv.mod_revision  # the events of a revision come in one message
            self._next = self._batch + 1
        elif message.header.revision >= self._next:  # a bookmark: nothing happened up to there
            self._next = message.header.revision + 1
            self._told = message.header.revision

    async def _message(self) -> WatchMessage:
        assert self._lines is not None
        while True:
            try:
                async with asyncio.timeout(self._idle):
                    line = await self._lines.next()
            except TimeoutError:
                await self._probe()
                continue
            except ExchangeError as error:
                raise _BrokenError(str(error)) from None
            if line is None:
                raise _BrokenError("the stream ended")
            item = decoded(line, StreamItem)
            if item.error is not None:
                refused = refusal_in_stream(item.error)
                if refused.code in _ELSEWHERE:
                    self._avoid()
                    raise _BrokenError(str(refused))
                raise refused
            return decoded(item.result, WatchMessage)

    async def _probe(self) -> None:
        """Can the member still read with the cluster's consent? Raises _BrokenError."""
        assert self._server is not None
        body = encoded(fields(RangeRequest(b"\0", limit=1, keys_only=True)))
        try:
            answer = await self._server.exchange(RANGE, body, timeout=self._calls.endpoints.timeout)
        except ExchangeError as error:
            self._avoid()
            raise _BrokenError(str(error)) from None
        if answer.status >= 500:
            self._avoid()
            raise _BrokenError(f"the member answers {answer.status}")

    def _avoid(self) -> None:
        if self._server is not None:
            self._calls.endpoints.avoid(self._server)

    def _check_cluster(self, message: WatchMessage) -> None:
        """Revisions of another cluster mean nothing here."""
        found = message.header.cluster_id
        if self._cluster_id and found != self._cluster_id:
            url = self._server.url if self._server else ""
            raise RefusedError(Code.FAILED_PRECONDITION, f"{url} belongs to another cluster than the watch began with")
        self._cluster_id = found

    def _canceled(self, message: WatchMessage) -> None:
        if message.compact_revision or "compacted" in message.cancel_reason:
            raise CompactedError(message.compact_revision)
        raise _BrokenError(message.cancel_reason or "the member ended the watch")


def create_request(
    key: bytes,
    range_end: bytes = b"",
    *,
    start_revision: int = 0,
    prev_kv: bool = False,
    filters: Iterable[WatchFilter] = (),
) -> WatchCreateRequest:
    """The request of a watch."""
    return WatchCreateRequest(key, range_end, start_revision, True, tuple(filters), prev_kv)
