"""A client of the coordination service: our embedded cluster or an etcd (3.4 or newer), over etcd's v3 JSON API.

    async with Coordination(["http://127.0.0.1:2379"]) as client:
        await client.put("color", "green")
        async with client.lock("deploy", ttl=10) as grant:
            await client.txn([grant.guard], then=[put("deployed", "v7")])

What holds whatever happens (docs/coordination-client.md has it in more words):

- Reads are linearizable, unless asked otherwise; they are repeated at other endpoints.
- A change is done at most once. Where the answer is lost and the server is an etcd, OutcomeUnknownError says so; our
  own cluster recognises a repeated change, so it is repeated.
- Locks exclude each other as long as clocks run about equally fast and the holder looks at them; the token of a grant
  makes up for both.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from balancer import clock as machine
from balancer.consensus.client_background import Background
from balancer.consensus.client_calls import Calls
from balancer.consensus.client_election import Election
from balancer.consensus.client_endpoints import Endpoints, Random
from balancer.consensus.client_kv import Keys, Text, prefix_range, to_bytes
from balancer.consensus.client_lease import Context, Lease
from balancer.consensus.client_lock import Lock
from balancer.consensus.client_members import Members
from balancer.consensus.client_watch import IDLE, Watch, create_request
from balancer.coordination.requests import WatchFilter

TIMEOUT = 5.0


class Coordination(Keys, Members):
    """The client. Addresses are `http://HOST:PORT` or `unix:/PATH`; several of one cluster make it outlive members.

    `timeout`: seconds for a whole call, attempts at other endpoints included. `exactly_once`: number changes where the
    server can recognise a repeated one. `clock` (seconds, monotonic) and `rng` are there for tests.

    Raises NotReachedError when an address is none. Everything ends with the `async with` block: connections, renewals;
    what is still to be given back has `timeout` for it.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout: float = TIMEOUT,
        exactly_once: bool = True,
        clock: Callable[[], float] = machine.monotonic,
        rng: Random | None = None,
    ) -> None:
        drawn = rng or random.Random()
        self._endpoints = Endpoints(endpoints, timeout=timeout, clock=clock, rng=drawn)
        self._calls = Calls(self._endpoints, exactly_once=exactly_once)
        self._background = Background()
        self._context = Context(self._calls, self._background, clock, drawn)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """End everything. Leases that are not revoked within `grace` seconds (`timeout`) end by themselves."""
        try:
            await self._background.close(self._endpoints.timeout if grace is None else grace)
        finally:
            self._endpoints.close()

    def lease(self, ttl: float, *, margin: float | None = None) -> Lease:
        """A lease of `ttl` seconds that is kept alive: `async with client.lease(10) as lease`.

        It counts as lost `margin` seconds before its TTL is over; without one: 10 %, and at least 0.5 s.
        """
        return Lease(self._context, ttl, margin)

    def lock(
        self,
        name: Text,
        *,
        ttl: float = 10.0,
        timeout: float | None = None,
        margin: float | None = None,
        delay: float = 0.0,
    ) -> Lock:
        """A lock: `async with client.lock("deploy", ttl=10) as grant`.

        `ttl`: after so many seconds without a word of the holder, somebody else gets it. `timeout`: how long to wait
        for it, in seconds. `margin` as of `lease`. `delay` as of `Lock`.
        """
        return Lock(self._context, name, Lease(self._context, ttl, margin), timeout=timeout, delay=delay)

    def election(self, name: Text) -> Election:
        """An election: campaign, leader, observe."""
        return Election(self._context, name)

    def watch(
        self,
        key: Text,
        *,
        prefix: bool = False,
        start_revision: int = 0,
        prev_kv: bool = False,
        filters: Iterable[WatchFilter] = (),
        idle: float = IDLE,
    ) -> Watch:
        """Every change of a key, or of all that begin with it, from a revision on (0: from now on).

        `prev_kv`: with what was there before. After `idle` seconds of silence the member is asked whether it serves.
        """
        first, end = prefix_range(key) if prefix else (to_bytes(key), b"")
        request = create_request(first, end, start_revision=start_revision, prev_kv=prev_kv, filters=filters)
        return Watch(self._calls, request, idle=idle)
