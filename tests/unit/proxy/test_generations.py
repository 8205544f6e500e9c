"""One generation of the configuration after the other in one worker.

What stays the same, what ends, and that nothing of a replaced generation is left once nobody uses it.
"""

import asyncio
import gc
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import uvloop

from balancer.balancing.backend import BackendState, LoadTable
from balancer.config import model
from balancer.proxy import building, leftovers
from balancer.proxy.connections import BackendConnections
from balancer.proxy.server import ProxyServer
from balancer.proxy.snapshot import Destination, ListenerPlan, PoolPlan, RoutePlan, Snapshot
from balancer.telemetry import metrics
from balancer.telemetry.registry import Known, Registry
from balancer.transport.sockets import bind_sockets
from tests.support.certificates import issued

BIND = model.Bind(host="127.0.0.1", port=0)
PATIENCE = 10.0
PARTS = (Snapshot, ListenerPlan, RoutePlan, PoolPlan, Destination, BackendState, BackendConnections)


class Origin:
    """Answers every request with its name once `go` is set; `/tunnel` becomes an echo."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.go = asyncio.Event()
        self.go.set()
        self.requests = 0
        self.connections = 0
        self.open = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                if head.startswith(b"GET /tunnel "):
                    writer.write(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
                    while data := await reader.read(1000):
                        writer.write(data)
                    return
                await self.go.wait()
                body = self.name.encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


class Client:
    """A keep-alive client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, target: str = "/", fields: str = "") -> None:
        self.writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Status, head and body."""
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            body = await self.reader.readexactly(int(length or 0))
        return int(head.split(b" ")[1]), head, body

    async def get(self, target: str = "/") -> tuple[int, bytes]:
        await self.ask(target)
        status, _, body = await self.answer()
        return status, body

    async def ended(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()


class Scene:
    """A data path with origins `a`, `b` and `c`."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.loads = LoadTable([0] * 100)
        self.server = ProxyServer(
            worker=0,
            loads=self.loads,
            connections=LoadTable([0] * 16),
            registry=self.registry,
            access_log=None,
            connection_budget=1000,
            rng=random.Random(1),
        )
        self.origins = {name: Origin(name) for name in "abc"}
        self.generation = 0
        self.keys: dict[str, int] = {}
        self.ports: dict[str, int] = {}
        self.clients: list[Client] = []

    def config(self, members: str = "ab", **more: Any) -> model.Config:
        """One listener, one route and one pool of these members, unless `more` says otherwise."""
        backends = tuple(model.Backend(name=name, host="127.0.0.1", port=self.origins[name].port) for name in members)
        fields = {
            "listeners": (model.Listener(name="web", bind=(BIND,), routes=("all",)),),
            "routes": (model.Route(name="all", action=model.PoolAction(pool="p")),),
            "pools": (model.Pool(name="p", backends=backends, keepalive=model.Keepalive(idle=60.0)),),
            **more,
        }
        return model.Config(**fields)

    def prepared(self, config: model.Config, files: Mapping[str, bytes] | None = None) -> Snapshot:
        self.generation += 1
        resolved = [
            model.ResolvedBackend(
                pool=pool.name,
                name=backend.name,
                host=backend.host,
                address=(backend.host, backend.port, ""),
                slot=ord(backend.name[0]) - 97 + 10 * place,
                weight=backend.weight,
                max_connections=backend.max_connections,
            )
            for place, pool in enumerate(sorted(config.pools, key=lambda pool: pool.name))
            for backend in pool.backends
        ]
        columns = {listener.name: ord(listener.name[0]) % 16 for listener in config.listeners}
        return self.server.prepare(config, resolved, files or {}, generation=self.generation, columns=columns)

    def use(self, config: model.Config, files: Mapping[str, bytes] | None = None) -> Snapshot:
        snapshot = self.prepared(config, files)
        self.server.commit(snapshot)
        return snapshot

    async def listen(self, *listeners: str) -> None:
        for listener in listeners or ("web",):
            [sock] = bind_sockets(BIND, 1)
            self.ports[listener] = sock.getsockname()[1]
            self.keys[listener] = await self.server.listen(listener, BIND, sock)

    async def client(self, listener: str = "web") -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.ports[listener]))
        self.clients.append(client)
        return client

    async def until(self, holds: Callable[[], object]) -> None:
        """Sweep as a worker does, only more often, until something holds."""
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self.server.leftovers.sweep(asyncio.get_running_loop().time())
                await asyncio.sleep(0.005)

    def quiet(self) -> bool:
        """Nothing of older generations is in use."""
        kept = self.server.leftovers
        return kept.oldest == self.server.snapshot.generation and not kept.backends()


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    servers = []
    for origin in made.origins.values():
        server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
        origin.port = server.sockets[0].getsockname()[1]
        servers.append(server)
    try:
        yield made
    finally:
        for client in made.clients:
            client.writer.close()
        await made.server.stop_listening()
        await made.server.finish(0, 0)
        for server in servers:
            server.close()


def run(work: Callable[[Scene], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with scene() as made:
            await work(made)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_of_it())


def backend(snapshot: Snapshot, name: str, pool: str = "p") -> BackendState:
    return next(state for key, state in snapshot.backends.items() if key[:2] == (pool, name))


# ---- what stays


def test_what_is_equal_is_the_same_object_in_both_generations() -> None:
    async def work(it: Scene) -> None:
        first = it.use(it.config())
        second = it.use(it.config())
        assert second is not first
        assert second.listeners["web"] is first.listeners["web"]
        assert second.pools["p"] is first.pools["p"]
        assert second.backends == first.backends
        assert it.server.leftovers.oldest == second.generation, "nothing was left behind"

    run(work)


def test_another_backend_alone_changes_no_plan() -> None:
    async def work(it: Scene) -> None:
        first = it.use(it.config("ab"))
        second = it.use(it.config("abc"))
        assert second.listeners["web"] is first.listeners["web"]
        assert [state.name for state in second.pools["p"].state.backends] == ["a", "b", "c"]

    run(work)


def test_another_setting_of_a_pool_changes_what_leads_to_it_and_nothing_else() -> None:
    async def work(it: Scene) -> None:
        base = it.config()
        routes = (*base.routes, model.Route(name="other", action=model.PoolAction(pool="q")))
        listeners = (model.Listener(name="web", bind=(BIND,), routes=("all", "other")),)
        pools = (*base.pools, model.Pool(name="q", backends=base.pools[0].backends))
        first = it.use(it.config(listeners=listeners, routes=routes, pools=pools))
        changed = msgspec.structs.replace(pools[1], tunnel_idle=5.0)
        second = it.use(it.config(listeners=listeners, routes=routes, pools=(pools[0], changed)))
        assert second.pools["p"] is first.pools["p"]
        assert second.pools["q"] is not first.pools["q"]
        assert second.pools["q"].state is first.pools["q"].state
        assert second.routes["web", "all"] is first.routes["web", "all"]
        assert second.routes["web", "other"] is not first.routes["web", "other"]
        assert first.listeners["web"].outdated
        assert not second.listeners["web"].outdated

    run(work)


def test_unchanged_backends_keep_their_connections_and_counts() -> None:
    async def work(it: Scene) -> None:
        first = it.use(it.config("ab"))
        await it.listen()
        client = await it.client()
        for _ in range(4):
            assert (await client.get())[0] == 200
        it.origins["a"].go.clear()
        it.origins["b"].go.clear()
        await client.ask()
        await it.until(lambda: sum(it.loads.own) == 1)
        second = it.use(it.config("abc", pools=(msgspec.structs.replace(it.config("abc").pools[0], tunnel_idle=1.0),)))
        assert backend(second, "a") is backend(first, "a")
        assert sum(it.loads.own) == 1
        assert it.server.in_flight() == 1
        it.origins["a"].go.set()
        it.origins["b"].go.set()
        assert (await client.answer())[0] == 200
        for _ in range(6):
            assert (await client.get())[0] == 200
        assert [origin.connections for origin in it.origins.values()] == [1, 1, 1], "idle ones served on"
        assert sum(it.loads.own) == 0

    run(work)


@pytest.mark.parametrize("strategy", ["round_robin", "weighted", "least_connections"])
def test_a_strategy_goes_on_where_it_was(strategy: model.StrategyName) -> None:
    async def work(it: Scene) -> None:
        config = it.config("abc")
        config = msgspec.structs.replace(config, pools=(msgspec.structs.replace(config.pools[0], strategy=strategy),))
        picks = []
        rng = random.Random(1)
        for _ in range(12):
            it.use(config)
            picked = it.server.snapshot.pools["p"].state.pick(now=0.0, key=None, exclude=(), rng=rng)
            assert picked is not None
            picks.append(picked.name)
        assert picks == picks[:3] * 4, "in turn, as without reloads"
        assert sorted(picks[:3]) == ["a", "b", "c"]

    run(work)


def test_another_strategy_takes_the_place_of_the_old_one() -> None:
    async def work(it: Scene) -> None:
        first = it.use(it.config())
        pool = msgspec.structs.replace(it.config().pools[0], strategy="least_connections")
        second = it.use(it.config(pools=(pool,)))
        assert second.pools["p"].state is first.pools["p"].state
        assert second.pools["p"].strategy is second.pools["p"].state.strategy
        assert second.pools["p"].counts_attempts
        assert second.pools["p"].state.counts_attempts

    run(work)


def test_limits_of_kept_connections_change_in_place_and_tls_closes_the_idle_ones() -> None:
    async def work(it: Scene) -> None:
        it.use(it.config("a"))
        await it.listen()
        client = await it.client()
        await client.get()
        connections = backend(it.server.snapshot, "a").connections
        assert len(connections.idle) == 1
        pool = msgspec.structs.replace(
            it.config("a").pools[0],
            keepalive=model.Keepalive(max_idle=7, idle=50.0, max_requests=3, max_age=9.0),
            timeouts=model.PoolTimeouts(connect=1.0),
        )
        it.use(it.config(pools=(pool,)))
        assert backend(it.server.snapshot, "a").connections is connections
        assert (connections.max_idle, connections.idle_seconds, connections.max_requests) == (7, 50.0, 3)
        assert (connections.max_age, connections.timeouts.connect) == (9.0, 1.0)
        assert len(connections.idle) == 1
        it.use(it.config(pools=(msgspec.structs.replace(pool, tls=model.PoolTls(verify=False)),)))
        other = backend(it.server.snapshot, "a").connections
        assert other is not connections
        assert other.tls is not None
        assert not connections.idle
        await it.until(lambda: it.origins["a"].open == 0)

    run(work)


# ---- what is prepared changes nothing


def test_a_generation_that_is_only_prepared_changes_nothing_that_serves() -> None:
    async def work(it: Scene) -> None:
        first = it.use(it.config("ab"))
        await it.listen()
        client = await it.client()
        pool = it.config("bc").pools[0]
        heavier = tuple(msgspec.structs.replace(one, weight=9, max_connections=1) for one in pool.backends)
        prepared = it.prepared(
            it.config(
                pools=(msgspec.structs.replace(pool, backends=heavier, strategy="weighted", host="other"),),
                listeners=(model.Listener(name="web", bind=(BIND,), routes=(), http10_keepalive=True),),
            )
        )
        assert prepared.updates
        state = first.pools["p"].state
        assert [one.name for one in state.backends] == ["a", "b"]
        assert [(one.weight, one.max_connections) for one in state.backends] == [(1, None), (1, None)]
        assert not first.listeners["web"].outdated
        assert {(await client.get())[1] for _ in range(4)} == {b"a", b"b"}
        it.server.commit(prepared)
        assert [(one.name, one.weight) for one in state.backends] == [("b", 9), ("c", 9)]

    run(work)


def test_a_file_that_cannot_be_used_is_named_and_nothing_changes() -> None:
    async def work(it: Scene) -> None:
        first = it.use(it.config())
        tls = model.ListenerTls(certificates=(model.Certificate(cert="c.pem", key="k.pem"),))
        listeners = (model.Listener(name="web", bind=(BIND,), routes=("all",), tls=tls),)
        with pytest.raises(ValueError, match=r"c\.pem: holds no PEM CERTIFICATE"):
            it.prepared(it.config(listeners=listeners), {"c.pem": b"rubbish", "k.pem": b"rubbish"})
        assert it.server.snapshot is first

    run(work)


def test_building_pauses_at_least_once_for_every_backend_and_route() -> None:
    async def work(it: Scene) -> None:
        names = [f"r{number}" for number in range(50)]
        config = it.config(
            "abc",
            routes=tuple(model.Route(name=name, action=model.PoolAction(pool="p")) for name in names),
            listeners=(model.Listener(name="web", bind=(BIND,), routes=tuple(names)),),
        )
        steps = it.server._building(config, [], {}, 1, {})
        assert sum(1 for step in steps if step is None) >= 50

    run(work)


def test_in_slices_the_loop_has_turns_and_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "SLICE", 0.0)

    async def work(it: Scene) -> None:
        pair = issued("test.example")
        tls = model.ListenerTls(certificates=(model.Certificate(cert="c", key="k"),))
        config = it.config("abc", listeners=(model.Listener(name="web", bind=(BIND,), routes=("all",), tls=tls),))
        resolved = [
            model.ResolvedBackend(pool="p", name=name, host="h", address=("127.0.0.1", 1, ""), slot=slot)
            for slot, name in enumerate("abc")
        ]
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        files = {"c": pair.cert, "k": pair.key}
        snapshot = await it.server.prepare_in_slices(config, resolved, files, generation=5, columns={"web": 3})
        counting.cancel()
        assert turns >= 4
        assert (snapshot.generation, snapshot.listeners["web"].column) == (5, 3)
        assert snapshot.listeners["web"].tls is not None
        assert [state.name for state in snapshot.pools["p"].state.backends] == ["a", "b", "c"]

    run(work)


# ---- removed backends


def test_a_removed_backend_gets_nothing_new_and_finishes_what_it_has() -> None:
    async def work(it: Scene) -> None:
        it.use(it.config("a"))
        await it.listen()
        client, other = await it.client(), await it.client()
        assert await other.get() == (200, b"a")
        it.origins["a"].go.clear()
        await client.ask()
        await it.until(lambda: it.origins["a"].requests == 2)
        removed = backend(it.server.snapshot, "a")
        it.use(it.config("b"))
        for _ in range(5):
            assert await other.get() == (200, b"b")
        assert it.origins["a"].requests == 2
        assert removed in it.server.leftovers.backends().values()
        assert it.server.leftovers.oldest == 1
        assert it.server.in_flight() == 1
        it.origins["a"].go.set()
        assert (await client.answer())[2] == b"a"
        assert await client.get() == (200, b"b")
        await it.until(it.quiet)
        await it.until(lambda: it.origins["a"].open == 0)
        assert removed.connections is None
        assert it.server.leftovers.oldest == 2

    run(work)


def test_idle_connections_to_a_removed_backend_are_closed_at_once() -> None:
    async def work(it: Scene) -> None:
        it.use(it.config("ab"))
        await it.listen()
        client = await it.client()
        for _ in range(2):
            await client.get()
        assert [it.origins[name].open for name in "ab"] == [1, 1]
        it.use(it.config("b"))
        async with asyncio.timeout(PATIENCE):
            while it.origins["a"].open:
                await asyncio.sleep(0.005)
        assert it.origins["b"].open == 1

    run(work)


def test_a_backend_that_comes_back_while_it_drains_goes_on() -> None:
    async def work(it: Scene) -> None:
        first = it.use(it.config("a"))
        await it.listen()
        client, other = await it.client(), await it.client()
        it.origins["a"].go.clear()
        await client.ask()
        await it.until(lambda: it.origins["a"].requests == 1)
        it.use(it.config("b"))
        third = it.use(it.config("a"))
        assert backend(third, "a") is backend(first, "a")
        it.origins["a"].go.set()
        assert (await client.answer())[2] == b"a"
        assert await other.get() == (200, b"a")
        await it.until(it.quiet)
        assert await other.get() == (200, b"a")
        assert it.origins["a"].connections == 1, "and keeps connections again"

    run(work)


def test_a_removed_backend_that_is_about_to_come_back_is_not_let_go_meanwhile() -> None:
    async def work(it: Scene) -> None:
        it.use(it.config("a"))
        it.use(it.config("b"))
        assert [state.name for state in it.server.leftovers.backends().values()] == ["a"]
        for way_on in ("discard", "commit"):
            prepared = it.prepared(it.config("a"))
            for _ in range(3):
                it.server.leftovers.sweep(asyncio.get_running_loop().time())
            assert it.server.leftovers.backends()
            if way_on == "discard":
                it.server.discard()
            else:
                it.server.commit(prepared)
        await it.listen()
        assert await (await it.client()).get() == (200, b"a")
        prepared = it.prepared(it.config("b"))
        it.server.discard()
        it.use(it.config("b"))
        await it.until(it.quiet)

    run(work)


def test_tunnels_to_a_removed_backend_live_on_and_hold_only_that_backend() -> None:
    async def work(it: Scene) -> None:
        it.use(it.config("a"))
        await it.listen()
        client = await it.client()
        await client.ask("/tunnel", "Connection: upgrade\r\nUpgrade: websocket\r\n")
        assert (await client.answer())[0] == 101
        it.use(it.config("b", listeners=(model.Listener(name="web", bind=(BIND,), routes=("all",), forwarded=True),)))
        await it.until(lambda: it.server.leftovers.oldest == 2)
        assert [state.name for state in it.server.leftovers.backends().values()] == ["a"]
        for word in (b"one", b"two"):
            client.writer.write(word)
            async with asyncio.timeout(PATIENCE):
                assert await client.reader.readexactly(3) == word
        client.writer.close()
        await it.until(it.quiet)
        assert it.origins["a"].open == 0

    run(work)


def test_series_of_a_removed_backend_go_when_nothing_is_in_flight_there() -> None:
    async def work(it: Scene) -> None:
        def series() -> set[str]:
            return {labels[1] for family, labels in it.registry._cells if family == metrics.BACKEND_REQUESTS}

        it.use(it.config("a"))
        await it.listen()
        client = await it.client()
        it.origins["a"].go.clear()
        await client.ask()
        await it.until(lambda: it.origins["a"].requests == 1)
        config = it.config("b")
        it.use(config)

        def forget() -> None:
            draining = [(state.pool, state.name) for state in it.server.leftovers.backends().values()]
            for _ in it.registry.forget(Known(config, draining)):
                pass
            it.registry.changes()

        forget()
        assert series() == {"a", "b"}
        it.origins["a"].go.set()
        await client.answer()
        await it.until(it.quiet)
        forget()
        assert series() == {"b"}

    run(work)


# ---- client connections


def listener(**more: Any) -> tuple[model.Listener, ...]:
    return (model.Listener(name="web", bind=(BIND,), routes=("all",), **more),)


def test_idle_connections_go_on_with_the_new_plan_at_once_and_busy_ones_with_their_next_request() -> None:
    async def work(it: Scene) -> None:
        first = it.use(it.config("a"))
        await it.listen()
        idle, busy = await it.client(), await it.client()
        assert await idle.get() == (200, b"a")
        it.origins["a"].go.clear()
        await busy.ask()
        await it.until(lambda: it.origins["a"].requests == 2)
        respond = (model.Route(name="all", action=model.RespondAction(status=418)),)
        second = it.use(it.config("a", routes=respond))
        plans = Counter(downstream.listener for downstream in it.server.downstreams)
        assert plans == {first.listeners["web"]: 1, second.listeners["web"]: 1}
        assert (await idle.get())[0] == 418
        it.origins["a"].go.set()
        assert (await busy.answer())[2] == b"a", "its exchange keeps what it began with"
        assert (await busy.get())[0] == 418
        await it.until(it.quiet)
        assert {downstream.listener for downstream in it.server.downstreams} == {second.listeners["web"]}

    run(work)


def test_requests_sent_ahead_take_the_new_plan_too() -> None:
    async def work(it: Scene) -> None:
        it.use(it.config("a"))
        await it.listen()
        client = await it.client()
        it.origins["a"].go.clear()
        await client.ask()
        await it.until(lambda: it.origins["a"].requests == 1)
        await client.ask()
        await it.until(lambda: any(downstream._ahead for downstream in it.server.downstreams))
        it.use(it.config("a", routes=(model.Route(name="all", action=model.RespondAction(status=418)),)))
        it.origins["a"].go.set()
        assert [(await client.answer())[0] for _ in range(2)] == [200, 418]

    run(work)


def test_a_connection_that_was_busy_takes_over_when_it_is_idle_even_if_it_asks_nothing_more() -> None:
    async def work(it: Scene) -> None:
        it.use(it.config("a"))
        await it.listen()
        client = await it.client()
        it.origins["a"].go.clear()
        await client.ask()
        await it.until(lambda: it.origins["a"].requests == 1)
        second = it.use(it.config("a", listeners=listener(forwarded=True)))
        it.origins["a"].go.set()
        await client.answer()
        await it.until(lambda: [one.listener for one in it.server.downstreams] == [second.listeners["web"]])
        assert it.quiet()

    run(work)


def test_counts_of_connections_follow_a_changed_limit() -> None:
    async def work(it: Scene) -> None:
        it.use(it.config("a"))
        await it.listen()
        clients = [await it.client() for _ in range(3)]
        for client in clients:
            await client.get()
        limits = model.ListenerLimits(max_connections_per_client=3)
        it.use(it.config("a", listeners=listener(limits=limits)))
        late = await it.client()
        assert (await late.answer())[0] == 429
        clients[0].writer.close()
        await it.until(lambda: sum(it.server._per_client.values()) == 2)
        assert (await (await it.client()).get())[0] == 200
        it.use(it.config("a"))
        assert it.server._per_client == {}
        for client in it.clients:
            client.writer.close()
        await it.until(lambda: not it.server.downstreams)
        assert list(it.server.connections.own) == [0] * 16

    run(work)


def two_listeners(it: Scene, **more: Any) -> model.Config:
    return it.config("a", listeners=(*listener(), model.Listener(name="old", bind=(BIND,), routes=("all",))), **more)


def test_connections_of_a_removed_listener_end_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "GOODBYE_SECONDS", 0.2)

    async def work(it: Scene) -> None:
        it.use(two_listeners(it))
        await it.listen("web", "old")
        idle, quick, busy, late = [await it.client("old") for _ in range(4)]
        for client in (idle, quick):
            assert (await client.get())[0] == 200
        it.origins["a"].go.clear()
        await busy.ask()
        await it.until(lambda: it.origins["a"].requests == 3)
        it.use(it.config("a"))
        it.origins["a"].go.set()
        for client in (quick, busy):
            if client is quick:
                await client.ask()
            status, head, _ = await client.answer()
            assert status == 200
            assert b"\r\nconnection: close\r\n" in head.lower()
            assert await client.ended() == b""
        assert await idle.ended() == b"", "a FIN, no reset"
        await late.ask()
        another = await it.client("old")
        await another.ask()
        assert (await another.answer())[0] == 200, "still accepted, as its socket is open"
        assert await another.ended() == b""
        await it.server.doors.unlisten(it.keys["old"])
        with pytest.raises(ConnectionRefusedError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    await it.client("old")
        assert (await (await it.client()).get())[0] == 200
        await it.until(it.quiet)

    run(work)


def test_what_waits_in_the_queue_of_a_socket_is_served_when_it_closes() -> None:
    async def work(it: Scene) -> None:
        it.use(two_listeners(it))
        await it.listen("web", "old")
        it.use(it.config("a"))
        waiting = []
        for _ in range(20):  # connected by the kernel; this loop has had no turn to accept
            sock = socket.create_connection(("127.0.0.1", it.ports["old"]))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            waiting.append(sock)
        await it.server.doors.unlisten(it.keys["old"])
        for sock in waiting:
            client = Client(*await asyncio.open_connection(sock=sock))
            status, head, _ = await client.answer()
            assert status == 200
            assert b"\r\nconnection: close\r\n" in head.lower()
            client.writer.close()

    run(work)


# ---- certificates


def test_a_changed_certificate_is_another_context_and_an_unchanged_one_the_same() -> None:
    async def work(it: Scene) -> None:
        first_pair, second_pair = issued("one.example"), issued("two.example")
        tls = model.ListenerTls(certificates=(model.Certificate(cert="c", key="k"),))
        config = it.config("a", listeners=listener(tls=tls))
        files = {"c": first_pair.cert, "k": first_pair.key}
        first = it.use(config, files).listeners["web"]
        assert it.use(config, files).listeners["web"] is first
        second = it.use(config, {"c": second_pair.cert, "k": second_pair.key}).listeners["web"]
        assert second.tls is not first.tls
        assert first.outdated

    run(work)


def test_pools_with_equal_tls_share_one_context() -> None:
    async def work(it: Scene) -> None:
        pools: Sequence[model.Pool] = [
            model.Pool(name=name, tls=model.PoolTls(server_name=name), backends=it.config("a").pools[0].backends)
            for name in "pq"
        ]
        snapshot = it.use(it.config(pools=tuple(pools)))
        a, b = (state.connections for state in snapshot.backends.values())
        assert a.tls is b.tls is not None
        assert (a.server_hostname, b.server_hostname) == ("p", "q")

    run(work)


# ---- nothing is left


def test_no_object_of_old_generations_is_left_once_exchanges_end() -> None:
    async def work(it: Scene) -> None:
        def alive() -> dict[str, int]:
            return dict(Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, PARTS)))

        def variant(number: int) -> model.Config:
            base = it.config("ab" if number % 2 else "bc")
            pool = msgspec.structs.replace(base.pools[0], tunnel_idle=10.0 + number, queue_timeout=1.0)
            limited = tuple(msgspec.structs.replace(one, max_connections=50) for one in pool.backends)
            extra = model.Pool(name=f"x{number}", backends=limited, strategy="least_connections")
            return it.config(
                listeners=(
                    model.Listener(name="web", bind=(BIND,), routes=("all", "extra"), forwarded=number % 3 == 0),
                ),
                routes=(
                    *base.routes,
                    model.Route(
                        name="extra",
                        match=model.Match(path=f"/{number}"),
                        action=model.SplitAction(read=extra.name, write="p"),
                        rewrite=model.Rewrite(strip_prefix=f"/{number}"),
                    ),
                ),
                pools=(msgspec.structs.replace(pool, backends=limited), extra),
            )

        gc.collect()
        gc.disable()  # what goes, goes by reference counting: a worker's collector runs rarely
        try:
            it.use(variant(0))
            await it.listen()
            client, tunnel = await it.client(), await it.client()
            await tunnel.ask("/tunnel", "Connection: upgrade\r\nUpgrade: websocket\r\n")
            assert (await tunnel.answer())[0] == 101
            for number in range(1, 9):
                assert (await client.get(f"/{number - 1}"))[0] == 200
                it.use(variant(number))
                assert (await client.get())[0] == 200
            tunnel.writer.close()
            await it.until(it.quiet)
            await it.until(lambda: len(it.server.downstreams) == 1)
            found = alive()
        finally:
            gc.enable()
        snapshot = it.server.snapshot
        assert found == {
            "Snapshot": 1,
            "ListenerPlan": 1,
            "RoutePlan": 2,
            "Destination": 3,
            "PoolPlan": 2,
            "BackendState": len(snapshot.backends),
            "BackendConnections": len(snapshot.backends),
        }

    run(work)
