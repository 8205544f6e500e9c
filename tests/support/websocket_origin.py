"""Backends that send every WebSocket message back; each a process of its own on a free port."""

import asyncio
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

_PATIENCE = 20.0
_ROOT = Path(__file__).resolve().parents[2]


async def _echo(connection: ServerConnection) -> None:
    with suppress(ConnectionClosed):  # a test may end clients, or who is between, in any way
        async for message in connection:
            await connection.send(message)


async def _serve() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with serve(_echo, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        sys.stdout.write(f"{next(iter(server.sockets)).getsockname()[1]}\n")
        sys.stdout.flush()
        await ended.wait()


@contextmanager
def _running_origin() -> Iterator[int]:
    argv = [sys.executable, "-m", "tests.support.websocket_origin"]
    process = subprocess.Popen(argv, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], _PATIENCE)
        line = process.stdout.readline() if ready else b""
        if not line:
            raise TimeoutError(f"the WebSocket origin did not start within {_PATIENCE:.0f} s")
        yield int(line)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def running_websocket_origins(count: int) -> Iterator[list[int]]:
    """The ports of `count` origins on 127.0.0.1; ended on leaving."""
    with ExitStack() as stack:
        yield [stack.enter_context(_running_origin()) for _ in range(count)]


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve())
