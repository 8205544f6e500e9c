"""Tunnels carry every byte both ways, with back-pressure, and end when either side does."""

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from tests.support.scripted import Message, Origin, Scene, Talk, eventually, ok, request

SWITCH = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
LARGE = 50 * 1024 * 1024
BOUNDED = 12 * 1024 * 1024


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def scene(origin: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scene = Scene(
        {
            "listeners": {
                "plain": {"bind": "127.0.0.1:0"},
                "brief": {"bind": "127.0.0.1:0", "timeouts": {"send": "700ms"}},
            },
            "routes": [
                {"name": "idle", "match": {"path_prefix": "/idle"}, "pool": "idle"},
                {"name": "all", "pool": "web"},
            ],
            "pools": {
                "web": {"backends": [f"127.0.0.1:{origin.port}"], "keepalive": {"idle": "300ms"}},
                "idle": {"backends": [f"127.0.0.1:{origin.port}"], "tunnel_idle": "700ms"},
            },
        },
        tmp_path_factory.mktemp("tunnels"),
    )
    yield scene
    try:
        scene.assert_at_rest()
    finally:
        scene.close()


class Ends:
    """Both ends of a tunnel: the client's and the backend's."""

    def __init__(
        self, scene: Scene, origin: Origin, path: str, *, listener: str = "plain", small: bool = False
    ) -> None:
        self._there = threading.Event()
        self._over = threading.Event()
        self.backend: Talk

        def script(talk: Talk, _: Message) -> None:
            talk.send(SWITCH)
            self.backend = talk
            self._there.set()
            self._over.wait(30)

        origin.on(path, script)
        self.client = scene.connect(listener, small=small).send(request(path, *UPGRADE))
        head = self.client.head()
        assert head.status == 101
        assert head.field("upgrade") == "websocket"
        assert self._there.wait(8)

    def __enter__(self) -> "Ends":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._over.set()


def in_flight(scene: Scene) -> float:
    return scene.metric("balancer_backend_in_flight", pool="web")


def resident(scene: Scene) -> int:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in scene.daemon.workers().values())
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_tunnel_counts_in_flight_until_it_ends(scene: Scene, origin: Origin) -> None:
    with Ends(scene, origin, "/counted") as ends:
        assert eventually(lambda: in_flight(scene) == 1)
        ends.client.send("ping")
        assert ends.backend.exactly(4) == b"ping"
        ends.backend.send("pong!")
        assert ends.client.exactly(5) == b"pong!"
    assert eventually(lambda: in_flight(scene) == 0)
    line = scene.logged(target="/counted")
    assert (line["status"], line["reason"], line["phase"]) == (101, "tunnel_closed", "tunnel")
    assert line["bytes_in"] > 4
    assert line["bytes_out"] > 5


def test_what_a_client_sends_ahead_arrives_after_the_101(scene: Scene, origin: Origin) -> None:
    got: list[bytes] = []
    done = threading.Event()

    def script(talk: Talk, _: Message) -> None:
        talk.send(SWITCH + "backend first")
        got.append(talk.exactly(9))
        done.set()
        talk.rest()

    origin.on("/ahead", script)
    with scene.connect("plain") as client:
        client.send(request("/ahead", *UPGRADE) + b"client 1\n")
        assert client.head().status == 101
        assert client.exactly(13) == b"backend first"
        assert done.wait(8)
    assert got == [b"client 1\n"]


def test_much_that_a_client_sends_ahead_arrives_whole(scene: Scene, origin: Origin) -> None:
    """More than is read ahead of an answer, with what looks like the end of a head in it."""
    ahead = Random(3).randbytes(500_000) + b"\r\n\r\n" + Random(4).randbytes(500_000)
    got: list[bytes] = []
    done = threading.Event()

    def script(talk: Talk, _: Message) -> None:
        talk.send(SWITCH)
        got.append(talk.exactly(len(ahead)))
        done.set()

    origin.on("/much-ahead", script)
    with scene.connect("plain") as client:
        client.send(request("/much-ahead", *UPGRADE) + ahead)
        assert client.head().status == 101
        assert done.wait(8)
    assert got == [ahead]


def test_a_refused_upgrade_is_an_ordinary_response(scene: Scene, origin: Origin) -> None:
    origin.on("/refused", lambda talk, _: bool(talk.send(ok(b"no", status="426 Upgrade Required"))))
    with scene.connect("plain") as client:
        client.send(request("/refused", *UPGRADE) + request("/next"))
        assert client.response().status == 426
        assert client.response().status == 200, "what came behind it is the next request"


@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        (SWITCH, ()),
        (SWITCH, ("Connection: upgrade", "Upgrade: h2c")),
        (SWITCH.replace("websocket", "h2c"), UPGRADE),
        (SWITCH.replace("Upgrade: websocket\r\n", ""), UPGRADE),
    ],
    ids=["nothing asked", "something else asked", "something else agreed", "nothing agreed"],
)
def test_a_101_that_was_not_asked_for_is_502(
    scene: Scene, origin: Origin, answer: str, fields: tuple[str, ...]
) -> None:
    origin.on("/unasked", lambda talk, _: talk.send(answer) and talk.rest() and None)
    assert scene.ask("plain", "/unasked", *fields).status == 502
    assert scene.logged(target="/unasked", status=502)["reason"] == "bad_response"


def test_an_old_client_gets_no_tunnel(scene: Scene, origin: Origin) -> None:
    with scene.connect("plain") as client:
        client.send("GET /old HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert client.response().status == 200
    assert origin.seen("/old")[0].all("upgrade") == []


@pytest.mark.parametrize("closer", ["client", "backend"])
def test_all_bytes_arrive_before_the_close_of_either_side(scene: Scene, origin: Origin, closer: str) -> None:
    data = Random(5).randbytes(4 << 20)
    with Ends(scene, origin, f"/close-{closer}") as ends:
        speaker, hearer = (ends.client, ends.backend) if closer == "client" else (ends.backend, ends.client)
        heard: list[tuple[bytes, str]] = []
        thread = threading.Thread(target=lambda: heard.append(hearer.rest()))
        thread.start()
        speaker.send(data).finish()
        thread.join(10)
        assert heard
        assert len(heard[0][0]) == len(data)
        assert hashlib.sha256(heard[0][0]).digest() == hashlib.sha256(data).digest()
    assert eventually(lambda: in_flight(scene) == 0)


@pytest.mark.parametrize("closer", ["client", "backend"])
def test_a_reset_of_either_side_reaches_the_other(scene: Scene, origin: Origin, closer: str) -> None:
    with Ends(scene, origin, f"/reset-{closer}") as ends:
        speaker, hearer = (ends.client, ends.backend) if closer == "client" else (ends.backend, ends.client)
        speaker.reset()
        assert hearer.rest()[0] == b""
    assert eventually(lambda: in_flight(scene) == 0)


@pytest.mark.parametrize("slow", ["client", "backend"])
def test_a_side_that_does_not_read_costs_bounded_memory(scene: Scene, origin: Origin, slow: str) -> None:
    """50 MB towards a side that reads nothing for a while, then everything."""
    before = resident(scene)
    with Ends(scene, origin, f"/slow-{slow}") as ends:
        speaker, hearer = (ends.backend, ends.client) if slow == "client" else (ends.client, ends.backend)
        speaker.sock.settimeout(30)
        block = Random(6).randbytes(1 << 20)
        sent = [0]

        def pour() -> None:
            for _ in range(LARGE // len(block)):
                speaker.send(block)
                sent[0] += len(block)

        thread = threading.Thread(target=pour)
        thread.start()
        most, until = 0, time.monotonic() + 0.8
        while time.monotonic() < until:
            most = max(most, resident(scene) - before)
        assert most < BOUNDED, f"grew by {most >> 20} MiB"
        assert sent[0] < LARGE, "it was not stopped"
        digest = hashlib.sha256()
        for _ in range(LARGE // len(block)):
            digest.update(hearer.exactly(len(block)))
        thread.join(10)
        assert digest.digest() == hashlib.sha256(block * (LARGE // len(block))).digest()


def test_both_sides_can_send_before_they_read(scene: Scene, origin: Origin) -> None:
    """One direction's back-pressure does not stop the other: else this would never end."""
    data = Random(8).randbytes(8 << 20)
    with Ends(scene, origin, "/both") as ends:
        threads = [threading.Thread(target=talk.send, args=(data,)) for talk in (ends.client, ends.backend)]
        for thread in threads:
            thread.start()
        assert ends.client.exactly(len(data)) == data
        assert ends.backend.exactly(len(data)) == data
        for thread in threads:
            thread.join(8)


def test_a_client_of_a_tunnel_that_stops_reading_is_cut_within_the_bound(scene: Scene, origin: Origin) -> None:
    with Ends(scene, origin, "/stalled", listener="brief", small=True) as ends:
        thread = threading.Thread(target=lambda: _pour(ends.backend))
        thread.start()
        line = scene.logged(target="/stalled")
        assert line["reason"] == "client_stalled"
        thread.join(8)
    assert eventually(lambda: in_flight(scene) == 0)


def _pour(talk: Talk) -> None:
    try:
        for _ in range(100):
            talk.send(b"p" * (1 << 20))
    except OSError:
        return


def test_what_a_backend_never_reads_does_not_hold_its_connection_for_ever(scene: Scene, origin: Origin) -> None:
    """At the end of a tunnel what lies in our buffer is flushed for as long as some of it goes."""
    with Ends(scene, origin, "/idle/left") as ends:
        ends.client.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            for _ in range(100):
                ends.client.send(b"l" * (1 << 20))
        assert scene.logged(target="/idle/left")["reason"] == "tunnel_idle"
        assert eventually(lambda: not scene.left_over(), 14), scene.left_over()


def test_a_backend_that_reads_late_gets_what_a_gone_client_sent(scene: Scene, origin: Origin) -> None:
    data = Random(10).randbytes(12 << 20)
    with Ends(scene, origin, "/late") as ends:
        thread = threading.Thread(target=lambda: ends.client.send(data).finish())
        thread.start()
        got = b""
        while len(got) < len(data) - (5 << 20):
            got += ends.backend.exactly(1 << 20)
        thread.join(8)
        time.sleep(0.3)  # the client's end is seen, its last bytes lie with us
        assert got + ends.backend.rest()[0] == data


def test_websockets_on_both_sides_exchange_messages_through_a_slow_reader(scene: Scene, tmp_path: Path) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def scenario() -> None:
        async with serve(echo, "127.0.0.1", 0, max_size=1 << 22) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            configuration = {
                "listeners": {"plain": {"bind": "127.0.0.1:0"}},
                "routes": [{"name": "all", "pool": "web"}],
                "pools": {"web": {"backends": [f"127.0.0.1:{port}"], "keepalive": {"idle": "300ms"}}},
            }
            own = await asyncio.to_thread(Scene, configuration, tmp_path)
            try:
                host, port = own.daemon.address("plain")
                async with connect(f"ws://{host}:{port}/", proxy=None, max_size=1 << 22) as client:
                    rng = Random(9)
                    messages = [rng.randbytes(rng.choice((0, 1, 125, 126, 65535, 65536, 1 << 20))) for _ in range(40)]
                    sending = asyncio.create_task(_send_all(client, messages))
                    for message in messages:
                        async with asyncio.timeout(20):
                            assert await client.recv() == message
                    await sending
                await asyncio.to_thread(own.assert_at_rest)
            finally:
                own.close()

    asyncio.run(scenario())


async def _send_all(client: ClientConnection, messages: list[bytes]) -> None:
    for message in messages:
        await client.send(message)
