"""To get a lock or a leadership and to give it up again, whatever happens in between."""

import asyncio
from types import TracebackType
from typing import Generic, TypeVar

from balancer.consensus.client_claim import Grant, claim
from balancer.consensus.client_errors import NotAcquiredError
from balancer.consensus.client_kv import Text, to_bytes
from balancer.consensus.client_lease import Context, Lease

G = TypeVar("G", bound=Grant)


class Acquisition(Generic[G]):
    """Waits on entering, gives up on leaving. To be used once.

    Entering raises NotAcquiredError when `timeout` seconds were not enough; LeaseLostError when the own lease ended
    meanwhile; NotReachedError, RefusedError. Whenever entering fails or is cancelled, nothing is left in the queue.
    Leaving raises LockLostError when the grant was lost inside and nothing else was raised: then the block ended
    without it.
    """

    def __init__(self, context: Context, name: Text, lease: Lease, *, timeout: float | None) -> None:
        self._context = context
        self._name = to_bytes(name)
        self._lease = lease
        self._timeout = timeout
        self._grant: G | None = None

    async def __aenter__(self) -> G:
        try:
            async with asyncio.timeout(self._timeout) as scope:
                return await self._acquire()
        except TimeoutError:
            if not scope.expired():
                raise
            name = self._name.decode("utf-8", "replace")
            raise NotAcquiredError(f"{name} was not got within {self._timeout:g} s") from None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        grant, self._grant = self._grant, None
        assert grant is not None
        given_up = grant.given_up
        still = grant.held
        await grant.give_up(*self._bound_keys())
        if not still and not given_up and error is None:
            raise grant.loss()

    # ---- what a lock and a campaign do differently

    def _value(self) -> bytes:
        """The value of the key in the queue."""
        return b""

    def _granted(self, key: bytes, token: int) -> G:
        raise NotImplementedError

    async def _prepare(self, grant: G) -> None:
        """What is to be done between getting it and using it; cancelled when it is lost."""

    def _bound_keys(self) -> tuple[bytes, ...]:
        """Keys that are deleted with an orderly release."""
        return ()

    async def _acquire(self) -> G:
        await self._lease.start()
        grant = None
        try:
            key, token = await claim(self._context, self._lease, self._name, self._value())
            grant = self._granted(key, token)
            async with grant.while_held():
                await self._prepare(grant)
        except BaseException:
            # Who is cancelled does not wait for an answer; the lease takes the key with it.
            self._lease.retire()
            rest = self._lease.give_up() if grant is None else grant.give_up()
            self._context.background.last_word(rest, f"give up {self._name!r}")
            raise
        self._grant = grant
        return grant
