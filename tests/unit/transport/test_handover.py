"""Hand-over of connections: loads stay close, nothing is lost on the way, accounts hold across deaths."""

import asyncio
import os
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import uvloop

from balancer.transport.handover import SLACK_MIN, Handover, Loads, SocketServer, forward, pair

DEADLINE = 10.0


def run(test: Callable[[], Awaitable[Any]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def make_loads(opened: list[list[int]], accepting: list[list[int]]) -> Loads:
    """The loads of as many workers as there are rows."""
    workers = len(opened)
    given = [[0] * workers for _ in range(workers)]
    taken = [[0] * workers for _ in range(workers)]
    return Loads(opened, given, taken, accepting)


class Fleet:
    """Workers in one loop. A connection that is served answers with its worker's number."""

    def __init__(self, workers: int) -> None:
        self.open = [[0] for _ in range(workers)]
        self.accepting = [[1] for _ in range(workers)]
        self.loads = make_loads(self.open, self.accepting)
        self.boxes = [pair() for _ in range(workers)]
        self.served: list[list[str]] = [[] for _ in range(workers)]  # the listener's name of each connection
        self.handovers = [self.handover(worker) for worker in range(workers)]
        self.connections: list[socket.socket] = []

    def handover(self, worker: int) -> Handover:
        async def take(listener: str, connection: socket.socket) -> None:
            self.keep(worker, listener, connection)

        outlets = [outlet for _, outlet in self.boxes]
        return Handover(worker, self.loads, inbox=self.boxes[worker][0], outlets=outlets, take=take)

    def keep(self, worker: int, listener: str, connection: socket.socket) -> None:
        self.open[worker][0] += 1
        self.served[worker].append(listener)
        self.connections.append(connection)
        connection.sendall(b"%d" % worker)

    def arrive(self, worker: int) -> socket.socket:
        """A connection that the kernel gave to `worker`; returns the client's end."""
        client, accepted = socket.socketpair()
        client.settimeout(DEADLINE)
        handover = self.handovers[worker]
        better = handover.better()
        if better is not None and handover.give(better, "web", accepted.fileno()):
            accepted.close()
        else:
            self.keep(worker, "web", accepted)
        return client

    def close(self) -> None:
        for each in (*self.connections, *(sock for box in self.boxes for sock in box)):
            each.close()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("workers", "count"), [(2, 16), (4, 64), (8, 400)])
def test_no_worker_is_left_far_behind_however_the_kernel_spreads(workers: int, count: int, seed: int) -> None:
    async def test() -> None:
        rng = random.Random(seed)
        fleet = Fleet(workers)
        for handover in fleet.handovers:
            handover.start()
        favoured = [rng.random() for _ in range(workers)]  # worse than any hash
        clients = []
        for _ in range(count):
            clients.append(fleet.arrive(rng.choices(range(workers), favoured)[0]))
            if rng.random() < 0.2:
                await settle()
        await settle()
        numbers = [int(client.recv(1)) for client in clients]
        counts = [numbers.count(worker) for worker in range(workers)]
        mean = count / workers
        assert sum(counts) == count
        assert max(counts) - min(counts) <= max(SLACK_MIN, mean / 2) + 1
        assert min(counts) >= mean / 2
        fleet.close()

    run(test)


def test_one_worker_that_accepts_everything_at_once_spreads_it() -> None:
    async def test() -> None:
        fleet = Fleet(4)
        for handover in fleet.handovers:
            handover.start()
        clients = [fleet.arrive(0) for _ in range(64)]  # the others get no turn meanwhile
        await settle()
        numbers = [int(client.recv(1)) for client in clients]
        assert min(numbers.count(worker) for worker in range(4)) >= 8
        fleet.close()

    run(test)


def test_an_even_spread_is_left_as_it_is() -> None:
    async def test() -> None:
        fleet = Fleet(4)
        for number in range(400):
            fleet.arrive(number % 4)
        assert fleet.loads.given == [[0] * 4 for _ in range(4)]
        fleet.close()

    run(test)


def test_nothing_is_given_to_a_worker_that_does_not_accept_nor_after_giving_ended() -> None:
    async def test() -> None:
        fleet = Fleet(3)
        fleet.accepting[1][0] = 0
        for _ in range(30):
            fleet.arrive(0)
        assert fleet.loads.given[0][1] == 0
        assert fleet.loads.given[0][2] > 0
        fleet.open[2][0] = 0
        before = list(fleet.loads.given[0])
        fleet.handovers[0].giving = False
        for _ in range(30):
            fleet.arrive(0)
        assert fleet.loads.given[0] == before
        fleet.close()

    run(test)


def test_a_full_inbox_makes_the_giver_keep_its_connection() -> None:
    async def test() -> None:
        fleet = Fleet(2)
        fleet.boxes[1][1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        clients = [fleet.arrive(0) for _ in range(200)]
        assert 0 < fleet.loads.given[0][1] < 100
        assert len(fleet.served[0]) == 200 - fleet.loads.given[0][1]
        fleet.handovers[1].start()
        await settle()
        assert len({client.recv(1) for client in clients}) == 2, "every client is answered"
        fleet.close()

    run(test)


def test_what_a_dead_worker_had_not_taken_goes_to_its_successor_and_the_accounts_are_right() -> None:
    async def test() -> None:
        fleet = Fleet(2)
        for _ in range(12):
            fleet.arrive(0)
        waiting = fleet.loads.given[0][1]
        assert waiting > 1
        # The first process of the slot took one and was killed before it counted that.
        fleet.boxes[1][0].recvmsg(100, 100)
        assert fleet.loads.of(1) == waiting
        successor = fleet.handover(1)
        successor.start()
        await settle()
        assert len(fleet.served[1]) == waiting - 1
        assert fleet.loads.of(1) == fleet.open[1][0] == waiting - 1
        fleet.close()

    run(test)


def test_what_waits_for_a_slot_without_worker_is_forwarded() -> None:
    async def test() -> None:
        fleet = Fleet(3)
        fleet.accepting[2][0] = 0
        clients = [fleet.arrive(0) for _ in range(12)]
        waiting = fleet.loads.given[0][1]
        assert forward(fleet.boxes[1][0], fleet.boxes[2][1]) == waiting
        assert forward(fleet.boxes[1][0], fleet.boxes[2][1]) == 0
        fleet.handovers[2].start()
        await settle()
        assert len(fleet.served[2]) == waiting
        assert [int(client.recv(1)) for client in clients].count(2) == waiting
        assert fleet.loads.of(2) == waiting, "not counted as taken: nobody gave it to this worker"
        fleet.close()

    run(test)


def test_a_connection_goes_through_the_door_before_a_byte_of_it_is_read() -> None:
    """The giver's real transport lets go of the connection, and the taker serves it from its first byte on."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        opened = [[100], [0]]
        loads = make_loads(opened, [[1], [1]])
        boxes = [pair(), pair()]
        seen: list[bytes] = []

        class Echo(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = cast("asyncio.Transport", transport)

            def data_received(self, data: bytes) -> None:
                seen.append(data)
                self.transport.write(data)

        async def take(listener: str, connection: socket.socket) -> None:
            assert listener == "web"
            await loop.connect_accepted_socket(Echo, connection)

        outlets = [outlet for _, outlet in boxes]
        giver, taker = (Handover(own, loads, inbox=boxes[own][0], outlets=outlets, take=take) for own in range(2))
        taker.start()

        def refused() -> asyncio.Protocol:
            raise AssertionError("this worker has too many")

        server = await loop.create_server(giver.door("web", refused), "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        for _ in range(20):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.close()
        assert loads.given[0][1] == loads.taken[1][0] == 20
        assert seen == [b"hello"] * 20
        opened[0][0] = 0
        kept = await loop.create_server(giver.door("web", Echo), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*kept.sockets[0].getsockname())
        writer.write(b"kept")
        assert await reader.readexactly(4) == b"kept"
        assert loads.given[0][1] == 20
        writer.close()

    run(test)


def test_connections_in_their_handshake_count() -> None:
    """A handshake takes time: without counting those under way a burst would all look like the first one."""

    async def test() -> None:
        loads = make_loads([[0], [0]], [[1], [1]])
        boxes = [pair(), pair()]
        handshake = asyncio.Event()

        async def take(listener: str, connection: socket.socket) -> None:
            await handshake.wait()
            connection.close()
            raise OSError("the handshake failed")

        handover = Handover(0, loads, inbox=boxes[0][0], outlets=[outlet for _, outlet in boxes], take=take)
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        server = handover.accept("secure", listening, lambda error: None)
        clients = [socket.create_connection(listening.getsockname()) for _ in range(20)]
        async with asyncio.timeout(DEADLINE):
            while loads.given[0][0] + loads.given[0][1] < 20:
                await asyncio.sleep(0)
        assert loads.given[0][0] <= 10 + SLACK_MIN
        handshake.set()
        await settle()
        assert loads.of(0) == 0, "failed ones are no load any more"
        server.close()
        for client in clients:
            client.close()

    run(test)


def test_accepting_goes_on_after_the_descriptors_ran_out() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        accepted: list[socket.socket] = []
        failures: list[OSError] = []

        class Failing(socket.socket):
            fail = True

            def accept(self) -> Any:
                if self.fail:
                    raise OSError(24, "Too many open files")
                return super().accept()

        listening = Failing()
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        server = SocketServer(listening, accepted.append, failures.append)
        client = socket.create_connection(listening.getsockname())
        async with asyncio.timeout(DEADLINE):
            while len(failures) < 2:
                await asyncio.sleep(0.01)
        assert loop.time() > 0
        listening.fail = False
        async with asyncio.timeout(DEADLINE):
            while not accepted:
                await asyncio.sleep(0.01)
        assert len(failures) <= 4, "it pauses between two tries"
        server.close()
        client.close()
        accepted[0].close()

    run(test)


def test_an_inbox_is_neither_blocking_nor_inherited() -> None:
    inbox, outlet = pair()
    assert not inbox.getblocking()
    assert not os.get_inheritable(outlet.fileno())
    inbox.close()
    outlet.close()
