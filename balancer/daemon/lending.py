"""Who accepts from which socket. A slot's own worker does; while there is none, another one has adopted its sockets.

Law: the queue of a socket that serves is never without somebody who empties it, for longer than it takes to notice; and
a socket that is to close is closed here first, so that the worker that empties it last is the last to hold it.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence

import structlog

from balancer.daemon.bindings import Bindings, ListeningSocket, Rebinding
from balancer.daemon.children import Child, WorkerError
from balancer.daemon.messages import Listen, ListenOn, Unlisten
from balancer.telemetry import events
from balancer.transport.framed import FDS_MAX
from balancer.transport.handover import forward
from balancer.transport.sockets import refuse_new

log = structlog.get_logger()

COMMAND_TIMEOUT = 5.0
HANDSHAKE = 0.25  # a client far away has sent its SYN: its ACK comes a round trip later and finds an open door


class Lending:
    """`accepting` gives the workers that may adopt sockets. Outside: one change of one slot at a time."""

    def __init__(
        self,
        bindings: Bindings,
        inboxes: Sequence[tuple[socket.socket, socket.socket]],
        accepting: Callable[[], list[Child]],
    ) -> None:
        self._bindings = bindings
        self._inboxes = inboxes
        self._accepting = accepting
        self._owners: dict[int, Child] = {}  # slots whose own worker listens, or is about to
        self._adopters: dict[int, Child] = {}  # slot without a worker -> who accepts for it
        self._empty: set[int] = set()  # slots that wait for an adopter

    async def own(self, child: Child) -> None:
        """The slot's own worker begins to accept; whoever did so for it stops. Raises WorkerError."""
        slot = child.slot
        self._owners[slot] = child
        self._empty.discard(slot)
        adopter = self._adopters.pop(slot, None)
        if adopter is not None and adopter.alive:
            await self._unlisten(adopter, self._bindings.own_of_slot(slot))
        await self._listen(child, self._bindings.of_slot(slot))

    def lost(self, child: Child) -> list[int]:
        """A worker is gone. Returns the slots that it had adopted."""
        if self._owners.get(child.slot) is child:
            del self._owners[child.slot]
        adopted = [slot for slot, adopter in self._adopters.items() if adopter is child]
        for slot in adopted:
            del self._adopters[slot]
        return adopted

    async def lend(self, slot: int) -> None:
        """Let the living worker with the fewest adopted slots accept for an empty one. Without any, later."""
        if slot in self._owners or slot in self._adopters:
            return
        self._empty.add(slot)
        lenders = self._accepting()
        sockets = self._bindings.own_of_slot(slot)
        if not lenders or not sockets:  # no sockets: they are closed, the daemon is stopping
            return
        adopted = list(self._adopters.values())
        adopter = min(lenders, key=adopted.count)
        self._adopters[slot] = adopter
        self.forward(slot)
        try:
            await self._listen(adopter, sockets)
        except WorkerError as error:
            # It is ending or hangs: then it is seen off, and the slot lent to another.
            log.warning(events.WORKER_FAILED, worker=adopter.slot, error=str(error))

    async def lend_all(self) -> None:
        """There is a worker more: slots that wait for an adopter may get one."""
        for slot in list(self._empty):
            await self.lend(slot)

    def forward(self, slot: int) -> None:
        """Connections that were handed to the worker of a slot that has none go to who accepts for it."""
        adopter = self._adopters.get(slot)
        if adopter is not None:
            forward(self._inboxes[slot][0], self._inboxes[adopter.slot][1])

    async def hand_over(self, child: Child) -> None:
        """A worker is to end: others accept in its place before it stops. It must not be among those accepting."""
        slots = [child.slot, *self.lost(child)]
        for slot in slots:
            await self.lend(slot)
        sockets = [each for slot in slots for each in self._bindings.own_of_slot(slot) if slot in self._adopters]
        await self._unlisten(child, [*sockets, *(each for each in self._bindings.of_slot(child.slot) if each.shared)])

    async def switch(self, change: Rebinding) -> None:
        """Listen on what `change` says, and no more on what it removes."""
        self._bindings.apply(change)
        closing = {each.key for each in change.closing}
        moved = self._by_holder([each for each in change.removed if each.key not in closing])
        added = self._by_holder(change.added)
        last = self._by_holder(change.closing)
        await asyncio.gather(
            *(self._switch(child, moved.get(child, []), added.get(child, [])) for child in {*moved, *added})
        )
        if not change.closing:
            return
        refused = [refuse_new(each.sock) for each in change.closing]
        if any(refused):
            await asyncio.sleep(HANDSHAKE)
        self._bindings.close_removed(change)
        await asyncio.gather(*(self._unlisten(child, sockets) for child, sockets in last.items()))

    def _by_holder(self, sockets: Iterable[ListeningSocket]) -> dict[Child, list[ListeningSocket]]:
        """The sockets by the worker that accepts from them."""
        found: dict[Child, list[ListeningSocket]] = {}
        for each in sockets:
            holder = self._owners.get(each.slot) or (None if each.shared else self._adopters.get(each.slot))
            if holder is not None:
                found.setdefault(holder, []).append(each)
        return found

    async def _switch(self, child: Child, removed: Sequence[ListeningSocket], added: Sequence[ListeningSocket]) -> None:
        await self._unlisten(child, removed)
        if not added:
            return
        try:
            await self._listen(child, added)
        except WorkerError as error:
            log.warning(events.WORKER_FAILED, worker=child.slot, error=str(error))
            child.kill()  # its successor listens on all of them

    async def _listen(self, child: Child, sockets: Sequence[ListeningSocket]) -> None:
        for first in range(0, max(len(sockets), 1), FDS_MAX):
            part = sockets[first : first + FDS_MAX]
            message = Listen(tuple(ListenOn(each.key, each.listener, each.bind) for each in part))
            await child.request(message, timeout=COMMAND_TIMEOUT, descriptors=[each.sock.fileno() for each in part])

    async def _unlisten(self, child: Child, sockets: Iterable[ListeningSocket]) -> None:
        keys = tuple(each.key for each in sockets)
        if keys:
            try:
                await child.request(Unlisten(keys), timeout=COMMAND_TIMEOUT)
            except WorkerError as error:
                log.warning(events.WORKER_FAILED, worker=child.slot, error=str(error))
