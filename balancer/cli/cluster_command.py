"""A command that runs under a lock or a leadership, and is stopped when that is lost.

It runs in a process group of its own, so that what it starts is stopped with it, and dies with us should we be killed
(Linux). At a terminal it is the foreground job, as if there were nobody between; only Ctrl-Z does nothing: to stand
still with a lock in the hand is the very thing that locks cannot bear.
"""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from balancer.consensus.client_claim import Grant

TOKEN_VARIABLE = "BALANCER_FENCING_TOKEN"
KEY_VARIABLE = "BALANCER_LOCK_KEY"

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

_POLL = 0.02
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Command:
    """A program and its arguments, to be run once. `grace`: seconds between SIGTERM and SIGKILL."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str], grace: float) -> None:
        self._words = words
        self._environ = environ
        self._grace = grace
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        """It was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    def signal(self, number: int) -> None:
        """Pass a signal on to it and to what it started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def run(self, grant: Grant) -> int | None:
        """Its exit status, 128 + N where signal N ended it; None when the grant was lost and it was stopped.

        Raises OSError when it cannot be started. Cancelled, it is stopped, too.
        """
        environ = {**self._environ, TOKEN_VARIABLE: str(grant.token), KEY_VARIABLE: os.fsdecode(grant.key)}
        with _terminal() as terminal:
            self._process = await asyncio.create_subprocess_exec(
                *self._words,
                env=environ,
                process_group=0,
                # The only other thread that there may be has looked up a name and is idle.
                preexec_fn=_prepare(os.getpid(), terminal),
            )
            try:
                return await self._end_or_loss(self._process, grant)
            except BaseException:
                await asyncio.shield(self._stop(self._process))
                raise

    async def _end_or_loss(self, process: asyncio.subprocess.Process, grant: Grant) -> int | None:
        ended = asyncio.ensure_future(process.wait())
        lost = asyncio.ensure_future(grant.lost.wait())
        try:
            await asyncio.wait([ended, lost], return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
        if not ended.done():
            await self._stop(process)
            return None
        status = ended.result()
        return status if status >= 0 else 128 - status

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        """SIGTERM to the whole group, SIGKILL to whoever is left after the grace."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # whoever stands still would not hear it
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                while _exists(process.pid):
                    await asyncio.sleep(_POLL)
        self.signal(signal.SIGKILL)
        await process.wait()


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True


def _prepare(parent: int, terminal: int | None) -> Callable[[], None]:
    """What the child does before it becomes the command."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != parent:  # killed between fork and prctl
                os._exit(1)
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        if terminal is not None:
            os.tcsetpgrp(terminal, os.getpid())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)

    return prepare


@contextmanager
def _terminal() -> Iterator[int | None]:
    """The terminal, when it is ours to give to the command; afterwards it is ours again."""
    terminal = 0
    try:
        ours = os.isatty(terminal) and os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        ours = False
    if not ours:
        yield None
        return
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # else who is in the background may not take it back
    try:
        yield terminal
    finally:
        with suppress(OSError):
            os.tcsetpgrp(terminal, os.getpgrp())
        signal.signal(signal.SIGTTOU, before)
