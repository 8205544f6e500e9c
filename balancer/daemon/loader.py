"""Reads and validates the configuration in a process of its own, so that the supervisor never waits for it.

The process (`daemon.load_config`) is started when it is needed and kept for a while: starting it costs more than
reading a file. What goes wrong with it, too, is a refusal in words, never an exception.
"""

import asyncio
import contextlib
import sys
from collections.abc import Sequence

import msgspec

from balancer.config.model import Config
from balancer.daemon.children import describe_end

DEADLINE = 30.0  # seconds for one file; the largest that is accepted, 10 MiB, takes a few
IDLE = 30.0  # seconds after its last use until the process ends
LENGTH = 4  # bytes of a message's length, little-endian, before it
_TAIL = 2000  # characters of what a dying process said


class GoodConfig(msgspec.Struct, frozen=True, tag=True):
    """The file is right; what is doubtful about it, one text per problem."""

    config: Config
    warnings: tuple[str, ...] = ()


class BadConfig(msgspec.Struct, frozen=True, tag=True):
    """The file cannot be used, and why, one text per problem."""

    problems: tuple[str, ...]


Answer = GoodConfig | BadConfig
_DECODER: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


class Loader:
    """The configuration at `path`, again and again. One `load` at a time."""

    def __init__(self, path: str, *, deadline: float = DEADLINE, idle: float = IDLE) -> None:
        self._command: Sequence[str] = (sys.executable, "-m", "balancer.daemon.load_config", path)
        self._deadline = deadline
        self._idle = idle
        self._process: asyncio.subprocess.Process | None = None
        self._end: asyncio.TimerHandle | None = None
        self._reaping: set[asyncio.Task[int]] = set()

    async def load(self) -> Answer:
        """What the file says now. Takes at most `deadline` seconds."""
        if self._end is not None:
            self._end.cancel()
        kept = self._process is not None
        try:
            async with asyncio.timeout(self._deadline):
                answer = await self._ask()
                if answer is None and kept:  # it ended while nobody needed it
                    await self._last_words()
                    answer = await self._ask()
        except TimeoutError:
            await self._discard()
            return BadConfig((f"the configuration could not be read within {self._deadline:g} s",))
        except OSError as error:
            return BadConfig((f"the process that reads the configuration cannot be started: {error.strerror}",))
        if answer is None:
            return BadConfig((await self._last_words(),))
        self._end = asyncio.get_running_loop().call_later(self._idle, self.close)
        return answer

    def close(self) -> None:
        """Let the process end."""
        if self._end is not None:
            self._end.cancel()
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            task = asyncio.ensure_future(process.wait())
            self._reaping.add(task)
            task.add_done_callback(self._reaping.discard)

    async def _ask(self) -> Answer | None:
        """One question and its answer; None when the process ended instead."""
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(b"\n")
            await process.stdin.drain()
            length = int.from_bytes(await process.stdout.readexactly(LENGTH), "little")
            message = await process.stdout.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return _DECODER.decode(message)

    async def _last_words(self) -> str:
        """Why it ended, in words."""
        process, self._process = self._process, None
        if process is None:
            return "the process that reads the configuration ended"
        said = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                if process.stderr is not None:
                    said = await process.stderr.read()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        code = await process.wait()
        last = said.decode("utf-8", "replace")[-_TAIL:].strip().rpartition("\n")[2]
        return f"the process that reads the configuration ended with {describe_end(code)}" + (
            f": {last}" if last else ""
        )

    async def _discard(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
