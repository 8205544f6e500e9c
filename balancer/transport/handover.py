"""Evens out connections among workers: one that has too many hands a fresh connection to one that has few.

The kernel spreads connections over SO_REUSEPORT sockets by a hash: fair in the long run, but of 64 connections on
4 workers one gets fewer than 8 in about 2 % of the cases, and long-lived connections keep such a split for hours.
So a worker that accepts a connection while it holds clearly more than the emptiest one passes the descriptor on,
before a byte is read. Law: load = connections open + connections handed over and not yet taken; nobody keeps a new
connection that puts it more than `slack` above the lowest load. With n workers and c connections opened one after
the other none then has fewer than c/n - slack.

A hand-over costs about 50 us; slack keeps it rare: where there are many connections it is three standard deviations
of what the hash does by itself. What was handed over waits in a socket that the supervisor keeps, so it
survives the death of the one it was meant for.
"""

import array
import asyncio
import math
import socket
from collections.abc import Awaitable, Callable, MutableSequence, Sequence
from dataclasses import dataclass
from typing import cast

SLACK_MIN = 4  # below this nobody notices, and every burst would be passed round
SLACK_SHARE = 0.5  # of the mean load ...
SLACK_SPREADS = 3.0  # ... but at most so many standard deviations of what the hash does by itself
_NAME_MAX = 1024  # bytes of a message: the giver's number and the listener's name
_AT_ONCE = 64  # connections taken or accepted in one turn of the loop
_PAUSE = 0.1  # after accept failed, e.g. for want of descriptors: clients wait in the queue
_FDS = socket.CMSG_SPACE(array.array("i").itemsize)
_GIVER = 2  # bytes of a message that say who gave, before the listener's name
_FORWARDED = 0xFFFF  # stands for the giver in a message that the supervisor passes on; such are not counted

Take = Callable[[str, socket.socket], Awaitable[None]]


class Loads:
    """The numbers that all workers see, as rows of shared memory (lists in tests). Index = worker slot.

    `connections[w][0]`: open at w. `given[w][v]`: handed by w to v so far. `taken[w][v]`: taken by w from v.
    `accepting[w][0]`: 1 while w serves. A worker writes its own rows only. `given` and `taken` go on counting when
    another process takes a worker's place, as its inbox does.
    """

    __slots__ = ("accepting", "connections", "given", "taken")

    def __init__(
        self,
        connections: Sequence[Sequence[int]],
        given: Sequence[MutableSequence[int]],
        taken: Sequence[MutableSequence[int]],
        accepting: Sequence[Sequence[int]],
    ) -> None:
        self.connections = connections
        self.given = given
        self.taken = taken
        self.accepting = accepting

    def of(self, worker: int) -> int:
        """Open at `worker`, and on the way to it. O(workers)."""
        under_way = sum(row[worker] for row in self.given) - sum(self.taken[worker])
        return self.connections[worker][0] + max(under_way, 0)  # below 0: a giver was killed before it counted


def pair() -> tuple[socket.socket, socket.socket]:
    """The inbox of one worker slot: (its end to read, the end that all others write to). Non-blocking."""
    inbox, outlet = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    inbox.setblocking(False)
    outlet.setblocking(False)
    return inbox, outlet


class Handover:
    """One worker's part in it. `outlets[v]` writes to the inbox of worker v; `take` makes a connection ours."""

    def __init__(
        self, own: int, loads: Loads, *, inbox: socket.socket, outlets: Sequence[socket.socket], take: Take
    ) -> None:
        self._own = own
        self._loads = loads
        self._inbox = inbox
        self._outlets = outlets
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._others = [worker for worker in range(len(outlets)) if worker != own]
        self._tasks: set[asyncio.Task[None]] = set()
        self.giving = True  # False from the first phase of a stop on: then nothing may be under way

    def start(self) -> None:
        """Take what others hand over from now on, and what was meant for a process that had this slot before us.

        Called while `accepting` is still 0, so that nobody gives: then what is in the inbox is all that is under way.
        """
        waiting = []
        while (message := _receive(self._inbox)) is not None:
            waiting.append(message)
        for giver in range(len(self._outlets)):
            left = sum(message.giver == giver for message in waiting)
            self._loads.taken[self._own][giver] = self._loads.given[giver][self._own] - left
        for message in waiting:
            self._accept(message)
        self._loop.add_reader(self._inbox.fileno(), self._readable)

    def stop(self) -> None:
        """Take nothing any more; what is in the inbox waits for the next worker of this slot."""
        self._loop.remove_reader(self._inbox.fileno())

    def better(self) -> int | None:
        """The worker that should have a connection that just arrived here instead of us; None = we keep it.

        Our count does not hold it yet. O(workers), O(workers^2) where we seem to have too many.
        """
        if not self.giving or not self._others:
            return None
        connections, accepting = self._loads.connections, self._loads.accepting
        in_handshake = self._loads.given[self._own][self._own] - self._loads.taken[self._own][self._own]
        own = lowest = total = connections[self._own][0] + in_handshake + 1
        candidates = [worker for worker in self._others if accepting[worker][0]]
        for worker in candidates:
            count = connections[worker][0]
            total += count
            lowest = min(lowest, count)
        workers = len(candidates) + 1
        if own <= lowest + _slack(total, workers):
            return None
        loads = {worker: self._loads.of(worker) for worker in candidates}
        own = self._loads.of(self._own) + 1
        best = min(candidates, key=loads.__getitem__)
        return best if own > loads[best] + _slack(own + sum(loads.values()), workers) else None

    def give(self, worker: int, listener: str, descriptor: int) -> bool:
        """Hand a connection to `worker`; True when it is on its way, and our descriptor is to be closed.

        False (its inbox is full, the kernel has no room): keep it.
        """
        if not _send(self._outlets[worker], self._own, listener, descriptor):
            return False
        self._loads.given[self._own][worker] += 1
        return True

    def door(self, listener: str, factory: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """A protocol factory for `create_server` that hands over what others should have and serves the rest."""
        return lambda: _Door(self, listener, factory)

    def accept(self, listener: str, sock: socket.socket, failed: Callable[[OSError], None]) -> "SocketServer":
        """Accept on a listening socket whose connections begin with TLS: hand over, or make ours by `take`."""
        return SocketServer(sock, lambda connection: self._arrived(listener, connection), failed)

    def _arrived(self, listener: str, connection: socket.socket) -> None:
        better = self.better()
        if better is not None and self.give(better, listener, connection.fileno()):
            connection.close()
            return
        self._loads.given[self._own][self._own] += 1  # until its handshake is done
        self._accept(_Message(self._own, listener, connection))

    # ---- what others hand to us

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            message = _receive(self._inbox)
            if message is None:
                return
            self._accept(message)

    def _accept(self, message: "_Message") -> None:
        if message.connection is None:
            self._count(message.giver)
            return
        task = asyncio.ensure_future(self._make_ours(message.giver, message.listener, message.connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _make_ours(self, giver: int, listener: str, connection: socket.socket) -> None:
        try:
            await self._take(listener, connection)
        except OSError:
            connection.close()  # the client went away meanwhile, or its handshake failed
        finally:
            self._count(giver)

    def _count(self, giver: int) -> None:
        if giver != _FORWARDED:
            self._loads.taken[self._own][giver] += 1


@dataclass(frozen=True, slots=True)
class _Message:
    """What lay in an inbox. No connection: there was no descriptor free for it, and the kernel closed it."""

    giver: int
    listener: str
    connection: socket.socket | None


def _receive(inbox: socket.socket) -> _Message | None:
    """The next message of an inbox; None when there is none."""
    try:
        data, ancillary, _, _ = inbox.recvmsg(_NAME_MAX, _FDS, socket.MSG_CMSG_CLOEXEC)
    except (BlockingIOError, InterruptedError):
        return None
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload)
    if not data:
        return None
    connection = None
    if descriptors:
        connection = socket.socket(fileno=descriptors[0])
        connection.setblocking(False)
    return _Message(int.from_bytes(data[:_GIVER], "little"), data[_GIVER:].decode(), connection)


def _send(outlet: socket.socket, giver: int, listener: str, descriptor: int) -> bool:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
    try:
        outlet.sendmsg([giver.to_bytes(_GIVER, "little") + listener.encode()], rights)
    except OSError:
        return False
    return True


def forward(inbox: socket.socket, outlet: socket.socket) -> int:
    """Pass on what waits in the inbox of a slot that has no worker. Returns how many connections that were."""
    count = 0
    while (message := _receive(inbox)) is not None:
        if message.connection is not None:
            count += _send(outlet, _FORWARDED, message.listener, message.connection.fileno())
            message.connection.close()
    return count


def _slack(total: int, workers: int) -> float:
    mean = total / workers
    return max(SLACK_MIN, min(SLACK_SHARE * mean, SLACK_SPREADS * math.sqrt(mean)))


class _Door(asyncio.Protocol):
    """The first protocol of an accepted connection: sends it on or lets it in."""

    def __init__(self, handover: Handover, listener: str, factory: Callable[[], asyncio.Protocol]) -> None:
        self._handover = handover
        self._listener = listener
        self._factory = factory

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing was read yet: the other worker gets the connection as the client made it."""
        connection = cast("asyncio.Transport", transport)  # uvloop's own classes do not derive from it
        better = self._handover.better()
        if better is not None:
            sock = connection.get_extra_info("socket")
            if self._handover.give(better, self._listener, sock.fileno()):
                connection.abort()
                return
        protocol = self._factory()
        connection.set_protocol(protocol)
        protocol.connection_made(connection)


class SocketServer:
    """Accepts sockets, not transports: for TLS, where a hand-over must come before the handshake begins.

    It costs a connection about 50 us more than `create_server`, and a handshake about 1,000.
    """

    def __init__(
        self, sock: socket.socket, accepted: Callable[[socket.socket], None], failed: Callable[[OSError], None]
    ) -> None:
        """`failed` is told when accept fails, at most every 100 ms: no descriptor is left, for example."""
        self._sock = sock
        self._accepted = accepted
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._fd = sock.fileno()
        self._loop.add_reader(self._fd, self._readable)

    def close(self) -> None:
        """Stop accepting and close our descriptor of the listening socket."""
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._fd)
        self._sock.close()

    def _readable(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._failed(error)
                self._loop.remove_reader(self._fd)
                self._resume = self._loop.call_later(_PAUSE, self._loop.add_reader, self._fd, self._readable)
                return
            connection.setblocking(False)
            self._accepted(connection)
