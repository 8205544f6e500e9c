"""Elections: one leader at a time, known to everybody who asks."""

from contextlib import suppress
from types import TracebackType
from typing import Self

from balancer.consensus.client_acquire import Acquisition
from balancer.consensus.client_claim import Grant, oldest
from balancer.consensus.client_errors import CompactedError, NotReachedError
from balancer.consensus.client_kv import RANGE, Text, get_prefix, put, to_bytes
from balancer.consensus.client_lease import Context, Lease
from balancer.consensus.client_watch import Watch, create_request
from balancer.coordination.responses import Event, EventType, KeyValue, RangeResponse


class Leadership(Grant):
    """A leadership that is held: a grant, and a value that the leader is known by."""

    async def proclaim(self, value: Text) -> None:
        """Be known by another value. Raises LockLostError when it is lost, NotReachedError, OutcomeUnknownError."""
        await self.write(put(self.key, value, lease=self.lease))

    async def resign(self) -> None:
        """Let the next candidate lead, before the block ends."""
        await self.give_up()


class Campaign(Acquisition[Leadership]):
    """A leadership to be waited for: `async with election.campaign("node-1") as leadership: ...`."""

    def __init__(
        self, context: Context, name: Text, lease: Lease, value: Text, *, timeout: float | None = None
    ) -> None:
        super().__init__(context, name, lease, timeout=timeout)
        self._known_by = to_bytes(value)

    def _value(self) -> bytes:
        return self._known_by

    def _granted(self, key: bytes, token: int) -> Leadership:
        return Leadership(self._context, self._lease, key, token)


class Election:
    """An election of a name."""

    def __init__(self, context: Context, name: Text) -> None:
        self._context = context
        self._name = to_bytes(name)

    def campaign(
        self, value: Text, *, ttl: float = 10.0, timeout: float | None = None, margin: float | None = None
    ) -> Campaign:
        """Stand for it with a value to be known by: entered when it is won. `timeout`: how long to wait, in seconds.

        `ttl` and `margin` as of `Lease`.
        """
        lease = Lease(self._context, ttl, margin)
        return Campaign(self._context, self._name, lease, value, timeout=timeout)

    async def leader(self) -> KeyValue | None:
        """Who leads: its value, its key, and its token as create_revision; None: nobody does.

        Raises NotReachedError, RefusedError.
        """
        answer = await self._context.calls.read(RANGE, oldest(self._name + b"/"), RangeResponse)
        return answer.kvs[0] if answer.kvs else None

    def observe(self) -> "Observation":
        """Who leads, now and after each change: `async with election.observe() as leaders: async for kv in leaders`."""
        return Observation(self._context, self._name + b"/")


class Observation:
    """The leaders of an election as they come; a proclaimed value counts as a change.

    A leader that was gone again before it was heard of may be missing. Without a reachable member it waits for one;
    entering raises NotReachedError, both raise RefusedError. O(candidates) of memory.
    """

    def __init__(self, context: Context, prefix: bytes) -> None:
        self._context = context
        self._prefix = prefix
        self._keys: dict[bytes, KeyValue] = {}
        self._watch: Watch | None = None
        self._last = (b"", 0)

    async def __aenter__(self) -> Self:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> KeyValue:
        while True:
            leader = min(self._keys.values(), key=lambda kv: kv.create_revision, default=None)
            if leader is not None and (leader.key, leader.mod_revision) != self._last:
                self._last = (leader.key, leader.mod_revision)
                return leader
            if self._watch is None:
                with suppress(NotReachedError):
                    await self._begin()
                continue
            try:
                self._take(await anext(self._watch))
            except CompactedError:
                await self._end()

    def _take(self, event: Event) -> None:
        if event.type is EventType.DELETE:
            self._keys.pop(event.kv.key, None)
        else:
            self._keys[event.kv.key] = event.kv

    async def _begin(self) -> None:
        """Read all candidates, then watch from there."""
        request = get_prefix(self._prefix)
        answer = await self._context.calls.read(RANGE, request, RangeResponse)
        self._keys = {kv.key: kv for kv in answer.kvs}
        watch = Watch(
            self._context.calls,
            create_request(request.key, request.range_end, start_revision=answer.header.revision + 1),
        )
        self._watch = await watch.__aenter__()

    async def _end(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.__aexit__(None, None, None)
