"""Locks: `async with client.lock("deploy", ttl=10) as grant: ...`."""

import asyncio

from balancer.consensus.client_acquire import Acquisition
from balancer.consensus.client_claim import Grant
from balancer.consensus.client_kv import RANGE, Text, put
from balancer.consensus.client_lease import Context, Lease
from balancer.coordination.requests import RangeRequest
from balancer.coordination.responses import RangeResponse

DELAY_PREFIX = b"balancer/lock-delay/"
"""Under it stands, for each lock with a delay, the token of the holder that has not released it."""


class Lock(Acquisition[Grant]):
    """A lock to be waited for.

    `delay`: after a holder that did not release it, the next one waits so many seconds longer. That is for what cannot
    check tokens, such as an address on a network; everybody who uses the lock must give a delay.
    """

    def __init__(
        self, context: Context, name: Text, lease: Lease, *, timeout: float | None = None, delay: float = 0.0
    ) -> None:
        super().__init__(context, name, lease, timeout=timeout)
        self._delay = delay

    def _granted(self, key: bytes, token: int) -> Grant:
        return Grant(self._context, self._lease, key, token)

    async def _prepare(self, grant: Grant) -> None:
        """The holder before left its token if it did not release the lock: then wait, from now on."""
        for key in self._bound_keys():
            left = await self._context.calls.read(RANGE, RangeRequest(key), RangeResponse)
            if left.kvs:
                await asyncio.sleep(self._delay)
            await grant.write(put(key, b"%d" % grant.token))

    def _bound_keys(self) -> tuple[bytes, ...]:
        return (DELAY_PREFIX + self._name,) if self._delay else ()
