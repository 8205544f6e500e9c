"""What replaced generations leave behind in this worker, until nothing uses it.

An exchange under way keeps its route, and its backend even if that was removed; a connection of a listener that is gone
ends in order; what a cell of shared memory means stays so until the last exchange that began before the replacement
ended. Connections between two exchanges go on with their listener as it is now.
"""

import ssl
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState
from balancer.clock import monotonic
from balancer.http1.forwarding import Forwarder
from balancer.proxy.downstream import AWAITING_HEAD, BUSY, IN_BODY, Downstream
from balancer.proxy.snapshot import BackendKey, ListenerPlan, PoolPlan, Snapshot

if TYPE_CHECKING:
    from balancer.proxy.server import ProxyServer

GOODBYE_SECONDS = 2.0  # that a connection of a listener that is gone may be idle: its next request may be on its way
STEPS = 1000  # connections or backends looked at before the loop gets a turn: a millisecond or two
HANDSHAKES_DONE = 60.0  # seconds after which no handshake is under way that began with a context of before
STILL_COMING = 5.0  # seconds in which another worker may hand over a connection of a listener that is gone


class _Replaced:
    """A generation that was replaced: exchanges that began before that, with their number on their connection.

    `pools` are those that the next generation does not have.
    """

    __slots__ = ("busy", "generation", "looked_through", "pools")

    def __init__(self, generation: int, pools: list[PoolPlan]) -> None:
        self.generation = generation
        self.pools = pools
        self.busy: list[tuple[Downstream, int]] = []
        self.looked_through = False


class _Draining:
    """A removed backend. `generation`: the last that had it."""

    __slots__ = ("generation", "state")

    def __init__(self, state: BackendState, generation: int) -> None:
        self.state = state
        self.generation = generation


class Leftovers:
    """All of it, for one worker."""

    def __init__(self, server: "ProxyServer") -> None:
        self._server = server
        self._replaced: list[_Replaced] = []
        self._draining: dict[BackendKey, _Draining] = {}
        self._plans: dict[tuple[str, bool], tuple[ListenerPlan, float]] = {}
        self._contexts: list[tuple[ssl.SSLContext, float]] = []
        self.held = False  # a generation is prepared that may take removed backends back: none is let go

    # ---- what others ask

    @property
    def oldest(self) -> int:
        """The oldest generation of which something is in use, or not yet let go of, here.

        A removed backend with a tunnel does not count: its cell says that it is in use. O(removed backends).
        """
        own = self._server.loads.own
        idle = (each.generation for each in self._draining.values() if not own[each.state.slot])
        return min([self._oldest_exchange, *idle])

    @property
    def _oldest_exchange(self) -> int:
        return self._replaced[0].generation if self._replaced else self._server.snapshot.generation

    def backends(self) -> dict[BackendKey, BackendState]:
        """Removed backends that still have work under way. O(their number)."""
        return {key: draining.state for key, draining in self._draining.items()}

    def plan(self, listener: str, *, tls: bool) -> ListenerPlan | None:
        """A listener that is gone, or that spoke TLS then and does not now, or the other way round."""
        found = self._plans.get((listener, tls))
        return None if found is None else found[0]

    # ---- a generation is replaced

    def replaced(self, old: Snapshot, new: Snapshot, now: float) -> None:
        """`new` serves from now on. O(backends + listeners); the rest follows in steps."""
        for key in self._draining.keys() & new.backends.keys():
            del self._draining[key]
        removed = [(key, old.backends[key]) for key in old.backends.keys() - new.backends.keys()]
        for key, state in removed:
            state.connections.max_idle = 0  # those in use are closed when they come back
            self._draining[key] = _Draining(state, old.generation)
        kept = set(new.contexts.values())
        self._contexts += [(context, now) for context in old.contexts.values() if context not in kept]
        outdated = [plan for name, plan in old.listeners.items() if new.listeners.get(name) is not plan]
        for plan in outdated:
            plan.outdated = True
            successor = new.listeners.get(plan.name)
            if successor is None or successor.scheme != plan.scheme:
                self._plans[plan.name, plan.tls is not None] = (plan, now)
        pools = [plan for name, plan in old.pools.items() if name not in new.pools]
        if removed or outdated or pools:
            record = _Replaced(old.generation, pools)
            self._replaced.append(record)
            self._step(self._look_through(record, [state for _, state in removed]))

    def _step(self, work: Iterator[None]) -> None:
        for _ in work:
            self._server.loop.call_soon(self._step, work)
            return

    def _look_through(self, record: _Replaced, removed: list[BackendState]) -> Iterator[None]:
        for place, downstream in enumerate(list(self._server.downstreams), start=1):
            if downstream.listener.outdated:
                self.take_over(downstream)
            if downstream.state in (BUSY, IN_BODY):
                record.busy.append((downstream, downstream.requests))
            if place % STEPS == 0:
                yield
        for place, backend in enumerate(removed, start=1):
            backend.connections.close_idle()
            if place % STEPS == 0:
                yield
        record.looked_through = True

    def take_over(self, downstream: Downstream) -> ListenerPlan:
        """Go on with the listener as it is now, unless an exchange is under way; returns the plan that then holds.

        A connection of a listener that is gone ends with its next answer, or when it was idle for a while.
        """
        plan = downstream.listener
        new = self._server.snapshot.listeners.get(plan.name)
        if new is None or new.scheme != plan.scheme:
            if not downstream.must_close:
                self._end_in_order(downstream)
            return plan
        if downstream.state not in (BUSY, IN_BODY) and not downstream.closed:
            self._server.move(downstream, new)
            if downstream.state == AWAITING_HEAD:
                let_go(downstream)  # what the last exchange used goes with it
                downstream.forwarder = Forwarder(
                    peer=downstream.peer,
                    proto=new.scheme,
                    port=new.port_of(downstream.transport),
                    via=self._server.via,
                    networks=new.networks,
                    forwarded=new.forwarded,
                )
                downstream.trusted = downstream.forwarder.trusted
            return new
        return plan

    def _end_in_order(self, downstream: Downstream) -> None:
        downstream.must_close = True
        exchange = downstream.exchange
        if downstream.state in (BUSY, IN_BODY):
            if exchange is not None and exchange.status == 0:
                exchange.close = True
        elif downstream.state == AWAITING_HEAD and not downstream.closed:
            downstream.deadline = min(downstream.deadline, monotonic() + GOODBYE_SECONDS)
            if downstream.deadline < downstream.slot_at:
                self._server.wheel.watch(downstream)

    # ---- until nothing uses it

    def sweep(self, now: float) -> bool:
        """Let go of what is not used any more; True when there was something. Call it every second or so.

        O(exchanges that began before a replacement + removed backends), of which it frees at most STEPS.
        """
        for record in self._replaced:
            if record.looked_through:
                record.busy = [(one, number) for one, number in record.busy if not self._ended(one, number)]
        count = len(self._replaced)
        while self._replaced and self._replaced[0].looked_through and not self._replaced[0].busy:
            for plan in self._replaced.pop(0).pools:  # what refers back would keep them alive
                plan.line = None
                plan.state.backends = ()
                plan.state.rebuild()
        gone = (
            []
            if self.held
            else list(islice((key for key, each in self._draining.items() if self._is_done(each)), STEPS))
        )
        for key in gone:
            state = self._draining.pop(key).state
            state.connections = None  # it refers back: without this neither would ever be freed
        listening = self._server.doors.listening()
        for (name, tls), (_, since) in list(self._plans.items()):
            if (name, tls) not in listening and now - since > STILL_COMING:
                del self._plans[name, tls]
        while self._contexts and now - self._contexts[0][1] > HANDSHAKES_DONE:
            context, _ = self._contexts.pop(0)
            context.sni_callback = None  # it may refer back to the context
        return bool(gone) or len(self._replaced) < count

    def _ended(self, downstream: Downstream, number: int) -> bool:
        """Whether an exchange is over; its connection, if idle, then takes over the listener as it is now."""
        if not downstream.closed:
            if downstream.requests == number and downstream.state in (BUSY, IN_BODY):
                return False
            if downstream.listener.outdated:
                self.take_over(downstream)
        return True

    def _is_done(self, draining: _Draining) -> bool:
        state = draining.state
        return (
            self._oldest_exchange > draining.generation
            and self._server.loads.own[state.slot] == 0
            and state.connections.active == 0
        )


def let_go(downstream: Downstream) -> None:
    """Free the exchange of a connection on which none is under way.

    It and its attempt refer to each other, and hold the route and the backend that they had last: without this they
    would stay until a full collection, which a worker makes rarely.
    """
    exchange, downstream.exchange = downstream.exchange, None
    if exchange is not None:
        del exchange.attempt
