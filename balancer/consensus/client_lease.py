"""Leases: keys that live as long as their holder is heard of.

Law: the holder counts a lease as lost before the cluster can let it end. Its time is counted from before the request
that the cluster answered was sent, on the holder's own monotonic clock, and ends `margin` seconds before the TTL. So it
holds as long as the holder's clock runs at most margin / TTL (10 % by default) slower than the cluster's; no two clocks
need to agree. No clock helps a process that is stopped between asking whether it holds and acting: see the tokens of
`client_claim`.

A lease that was counted as lost stays lost, whatever the cluster answers later.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from math import ceil
from types import TracebackType
from typing import NamedTuple, Self

from balancer.consensus.client_background import Background
from balancer.consensus.client_calls import Calls
from balancer.consensus.client_endpoints import Random
from balancer.consensus.client_errors import LeaseLostError, NotReachedError, OutcomeUnknownError, RefusedError
from balancer.consensus.client_json import StreamItem, decoded
from balancer.coordination.errors import Code, CoordinationError
from balancer.coordination.requests import LeaseGrantRequest, LeaseRevokeRequest
from balancer.coordination.responses import LeaseGrantResponse, LeaseKeepAliveResponse, LeaseRevokeResponse

MARGIN_LEAST = 0.5
MARGIN_SHARE = 0.1
"""The margin is this share of the TTL, and at least MARGIN_LEAST seconds."""

_RENEWALS = 3  # per TTL
_LAST_TRY = 1.0  # seconds to revoke a lease that is lost anyway
_RETRY_SHARE = 20  # of the TTL, between renewals that failed


class Context(NamedTuple):
    """What everything that a client makes needs of it."""

    calls: Calls
    background: Background
    clock: Callable[[], float]
    rng: Random


class Lease:
    """A lease that is kept alive: `async with client.lease(10) as lease: ...`, or `start` and `revoke`.

    `lost` is set when it ended or may have, unless it was revoked by `revoke`; `why` tells the reason. Code that does
    not let the event loop run asks `held`, which reads the clock.
    """

    def __init__(self, context: Context, ttl: float, margin: float | None = None) -> None:
        if ttl <= 0:
            raise ValueError(f"a TTL is more than 0 seconds, not {ttl:g}")
        if margin is not None and not 0 < margin < ttl:
            raise ValueError(f"the margin of a TTL of {ttl:g} s is more than 0 and less than that, not {margin:g}")
        self.ttl = ceil(ttl)
        self.id = 0
        self.lost = asyncio.Event()
        self.why = ""
        self._margin_asked = margin
        self._context = context
        self._deadline = 0.0
        self._ended = False
        self._watchers: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None

    @property
    def margin(self) -> float:
        """Seconds by which it counts as lost before its TTL is over."""
        if self._margin_asked is not None:
            return self._margin_asked
        return max(MARGIN_LEAST, self.ttl * MARGIN_SHARE)

    @property
    def held(self) -> bool:
        """It was granted and is neither lost nor revoked, by the clock of this moment."""
        if self._ended or not self.id:
            return False
        if self._context.clock() >= self._deadline:
            self.lose("it was not renewed in time")
            return False
        return True

    @property
    def remaining(self) -> float:
        """Seconds until it counts as lost if it is not renewed; 0 when it is not held."""
        return max(0.0, self._deadline - self._context.clock()) if self.held else 0.0

    async def start(self) -> Self:
        """Have it granted and keep it alive from now on.

        The cluster may give more than was asked for: `ttl` is what it gave. Raises NotReachedError, RefusedError,
        LeaseLostError when the answer came too late. Cancelled, it leaves no lease behind.
        """
        self.id = self._context.rng.getrandbits(62) + 1
        granting = self._context.background.last_word(self._grant(), f"grant {self.id:x}")
        try:
            await asyncio.shield(granting)
            if not self.held:
                raise self.loss()  # noqa: TRY301
        except BaseException as error:
            self.retire()
            if not (isinstance(error, RefusedError) and not error.doubtful):  # else there is nothing of ours
                self._context.background.last_word(self._take_back(granting), f"revoke {self.id:x}")
            raise
        self._renewing = self._context.background.task(self._renew(), f"lease {self.id:x}")
        return self

    async def revoke(self) -> None:
        """End it, and delete its keys. Raises NotReachedError, OutcomeUnknownError: then it ends by itself."""
        self.retire()
        await asyncio.shield(self._context.background.last_word(self._revoke(quiet=False), f"revoke {self.id:x}"))

    def lose(self, why: str) -> None:
        """Count it as lost; the first reason stays."""
        if self._ended:
            return
        self.why = why
        self.retire()
        self.lost.set()
        for tell in [*self._watchers]:
            tell()

    @asynccontextmanager
    async def while_held(self) -> AsyncIterator[None]:
        """The code inside is cancelled when the lease is lost. Raises LeaseLostError then."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as scope:
                tell = lambda: scope.reschedule(loop.time())  # noqa: E731
                self._watchers.append(tell)
                try:
                    if not self.held:
                        raise self.loss()
                    yield
                finally:
                    self._watchers.remove(tell)
        except TimeoutError:
            if scope.expired():
                raise self.loss() from None
            raise

    def loss(self) -> LeaseLostError:
        """The error that says that it was lost."""
        return LeaseLostError(f"the lease was lost: {self.why or 'it is not held'}")

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.give_up()

    async def give_up(self) -> None:
        """End it as far as that can be done now; without an answer it ends when its TTL is over. Never raises."""
        if self.lost.is_set():  # the cluster may be out of reach: nobody waits for it, nor long at the end
            self._context.background.last_word(self._revoke(timeout=_LAST_TRY), f"revoke {self.id:x}")
            return
        with suppress(CoordinationError):
            await self.revoke()

    async def _grant(self) -> None:
        began = self._context.clock()
        request = LeaseGrantRequest(self.ttl, self.id)
        try:
            answer = await self._context.calls.repeat("/v3/lease/grant", request, LeaseGrantResponse)
            self.ttl = answer.TTL or self.ttl
        except OutcomeUnknownError as error:  # if it is there, nothing is bound to it
            raise NotReachedError(str(error)) from None
        except RefusedError as error:
            # An earlier attempt was done: nobody else draws this number. Its time runs since `began` at the earliest.
            if error.code is not Code.FAILED_PRECONDITION or not error.doubtful:
                raise
        self._extend(began)

    def _extend(self, began: float) -> None:
        """The cluster gave it the whole TTL, some time after `began`."""
        self._deadline = max(self._deadline, began + self.ttl - self.margin)
        if self._timer is None:
            self._arm()  # nothing, when it is retired by now

    def _arm(self) -> None:
        """One timer, set anew when it ends: the deadline moves more often than it is reached."""
        if self._ended:
            return
        left = self._deadline - self._context.clock()
        if left <= 0:
            self.lose("it was not renewed in time")
            return
        self._timer = asyncio.get_running_loop().call_later(left, self._arm)

    async def _renew(self) -> None:
        wait = self.ttl / _RENEWALS
        while self.held:
            await asyncio.sleep(min(wait, self.remaining))
            if not self.held:
                return
            began = self._context.clock()
            try:
                ttl = await self._keep_alive()
            except CoordinationError:
                # A pause each time, also where the refusal comes at once.
                wait = self.ttl / _RETRY_SHARE * self._context.rng.uniform(0.5, 1)
                continue
            if ttl <= 0:
                self.lose("the cluster does not know it any more")
                return
            if self.held:  # an answer after the deadline does not bring it back
                self.ttl = ttl
                self._extend(began)
            wait = self.ttl / _RENEWALS

    async def _keep_alive(self) -> int:
        """The TTL that it has again; 0: it is gone. Raises CoordinationError."""
        calls = self._context.calls
        item = await calls.read("/v3/lease/keepalive", LeaseRevokeRequest(self.id), StreamItem, timeout=self.remaining)
        if item.error is not None:
            raise RefusedError(Code.UNAVAILABLE, item.error.message)
        return decoded(item.result, LeaseKeepAliveResponse).TTL

    async def _take_back(self, granting: "asyncio.Task[None]") -> None:
        """Revoke what is being granted: a revocation must not overtake its grant."""
        await asyncio.wait([granting])
        await self._revoke()

    async def _revoke(self, *, quiet: bool = True, timeout: float | None = None) -> None:
        try:
            request = LeaseRevokeRequest(self.id)
            await self._context.calls.repeat("/v3/lease/revoke", request, LeaseRevokeResponse, timeout=timeout)
        except RefusedError as error:
            if error.code is not Code.NOT_FOUND and not quiet:
                raise
        except CoordinationError:
            if not quiet:
                raise

    def retire(self) -> None:
        """Renew it no more and count it as not held: it is about to be given up."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None and self._renewing is not asyncio.current_task():
            self._renewing.cancel()
