"""WebSocket messages pass through a tunnel unchanged, both ways."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import uvloop
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tests.support.daemon import Daemon, wait_until
from tests.support.load_client import scrape

FULL = (pytest.mark.full, pytest.mark.timeout(1800))
CONNECTIONS = 4
LARGEST = 1 << 20
PATIENCE = 60.0
Message = str | bytes


def draw_message(rng: Random) -> Message:
    """Text or bytes, empty to 1 MiB, most of them small."""
    size = 0 if rng.random() < 0.05 else min(LARGEST, int(2 ** rng.triangular(0, 20.01, 6)))
    if rng.random() < 0.5:
        return rng.randbytes(size)
    return "".join(rng.choices("aä€😀\r\n\0", k=min(size, 20_000)))


def digest_of(message: Message) -> str:
    """The SHA-256 of a message with its kind."""
    kind, content = ("t", message.encode()) if isinstance(message, str) else ("b", message)
    return kind + hashlib.sha256(content).hexdigest()


class Echo:
    """A WebSocket server that sends each message back and keeps the digests of what it got, by path."""

    def __init__(self) -> None:
        self.received: dict[str, list[str]] = {}
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with serve(self._handle, "127.0.0.1", 0, max_size=2 * LARGEST) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            yield

    async def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        received = self.received.setdefault(connection.request.path, [])
        async for message in connection:
            received.append(digest_of(message))
            await connection.send(message)


async def talk(port: int, path: str, count: int, seed: int, compression: str | None) -> list[str]:
    """Send `count` messages, check each echo, and give the digests in the order sent."""
    rng, sent = Random(seed), []
    url = f"ws://127.0.0.1:{port}{path}"
    async with connect(url, proxy=None, max_size=2 * LARGEST, compression=compression) as connection:
        for _ in range(count):
            message = draw_message(rng)
            sent.append(digest_of(message))
            async with asyncio.timeout(PATIENCE):
                await connection.send(message)
                assert await connection.recv() == message
    return sent


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=FULL)])
def test_messages_arrive_unchanged_both_ways(count: int, tmp_path: Path) -> None:
    async def scenario() -> None:
        echo = Echo()
        async with echo.serving():
            configuration = {
                "workers": 2,
                "listeners": {"web": {"bind": "127.0.0.1:0"}},
                "routes": [{"name": "all", "pool": "web"}],
                "pools": {"web": {"backends": [f"127.0.0.1:{echo.port}"]}},
            }
            with await asyncio.to_thread(Daemon, configuration, tmp_path) as daemon:
                port, each = daemon.address("web")[1], count // CONNECTIONS
                async with asyncio.TaskGroup() as group:
                    talks = [
                        group.create_task(talk(port, f"/{n}", each, n, "deflate" if n % 2 else None))
                        for n in range(CONNECTIONS)
                    ]
                for number, one in enumerate(talks):
                    assert echo.received[f"/{number}"] == one.result()
                    assert len(one.result()) == each

                def quiet() -> bool:
                    return scrape(daemon.admin, "balancer_backend_in_flight") == 0

                assert await asyncio.to_thread(wait_until, quiet, 10), "a closed tunnel is no longer in flight"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
