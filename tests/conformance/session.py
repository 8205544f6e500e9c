"""Keeps one target running and sends cases through its lanes, several at a time."""

import asyncio
import random
import ssl
import tempfile
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

from tests.conformance.judge import Verdict
from tests.conformance.model import Case, Mode, every_mode
from tests.conformance.runner import Lane, Observation, Run
from tests.support.peers import Target
from tests.support.raw_origin import RawOrigin

LANES = 12
"""Cases at a time; each lane has an origin and listeners of its own."""

QUICK_SPLITS = 2
"""Cuts per case and side in the quick tier, drawn with the case's name as seed."""

Result = TypeVar("Result")


def quick_modes(case: Case) -> list[Mode]:
    """The bounded part of every_mode: whole and byte by byte over TCP, whole over TLS, and a few cuts."""
    modes = [Mode()]
    if case.tls:
        modes.append(Mode(tls=True))
    if case.splits:
        modes.append(Mode("bytes"))
        draw = random.Random(case.name)
        requests = range(1, case.request_bytes)
        replies = range(1, case.reply_bytes)
        modes += [Mode("request", offset) for offset in draw.sample(requests, min(QUICK_SPLITS, len(requests)))]
        modes += [Mode("reply", offset) for offset in draw.sample(replies, min(QUICK_SPLITS, len(replies)))]
    return modes


class Session:
    """A started target. Use as a context manager; everything runs in one event loop of its own."""

    def __init__(self, target: Target, lanes: int = LANES) -> None:
        self.target = target
        self.strict = target.name == "balancer"
        self._count = lanes
        self._loop = asyncio.new_event_loop()
        self._folder = tempfile.TemporaryDirectory(prefix="conformance-")
        self._lanes: list[Lane] = []
        self._ahead: dict[str, asyncio.Task[list[str]]] = {}
        self._free: asyncio.Queue[Lane] = asyncio.Queue()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        self._tls.set_alpn_protocols(["http/1.1"])

    def __enter__(self) -> "Session":
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.close()
        self._folder.cleanup()

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run_until_complete(coroutine)

    async def _start(self) -> None:
        origins = [RawOrigin() for _ in range(self._count)]
        addresses = self.target.start([origin.port for origin in origins], Path(self._folder.name))
        for origin, lane in zip(origins, addresses, strict=True):
            origin.start()
            self._lanes.append(Lane(origin, lane))
            self._free.put_nowait(self._lanes[-1])

    async def _stop(self) -> None:
        for task in self._ahead.values():
            task.cancel()
        await asyncio.gather(*self._ahead.values(), return_exceptions=True)
        for lane in self._lanes:
            await lane.origin.stop()
        self.target.stop()

    async def _one(self, case: Case, mode: Mode) -> tuple[Observation | None, list[str]]:
        lane = await self._free.get()
        try:
            seen = await Run(lane, case, mode, self._tls).observe()
        except OSError as error:
            return None, [f"no connection: {error}"]
        finally:
            self._free.put_nowait(lane)
        return seen, Verdict(case, seen, strict=self.strict).judge()

    def problems(self, case: Case, modes: Iterable[Mode]) -> list[str]:
        """Run `case` in all `modes`, as many at a time as there are lanes; every problem, with its mode."""
        task = self._ahead.pop(case.name, None)
        return self._run(self._wait(task) if task else self._case(case, list(modes)))

    @staticmethod
    async def _wait(task: "asyncio.Task[list[str]]") -> list[str]:
        return await task

    def run_ahead(self, cases: Iterable[Case], modes: Callable[[Case], list[Mode]]) -> None:
        """Let these cases run, in order, while `problems` waits for one of them: no lane is idle meanwhile."""
        for case in cases:
            self._ahead[case.name] = self._loop.create_task(self._case(case, modes(case)))

    async def _case(self, case: Case, modes: list[Mode]) -> list[str]:
        results = await asyncio.gather(*(self._one(case, mode) for mode in modes))
        return [f"[{mode}] {text}" for mode, (_, texts) in zip(modes, results, strict=True) for text in texts]

    def observations(
        self, cases: Iterable[Case], done: Callable[[Case], None]
    ) -> list[tuple[Case, Observation | None, list[str]]]:
        """Every case whole over TCP, as many at a time as there are lanes."""

        async def one(case: Case) -> tuple[Case, Observation | None, list[str]]:
            seen, problems = await self._one(case, Mode())
            done(case)
            return case, seen, problems

        async def run() -> list[tuple[Case, Observation | None, list[str]]]:
            return await asyncio.gather(*(one(case) for case in cases))

        return self._run(run())


def all_modes(case: Case) -> list[Mode]:
    """Every way to run `case`."""
    return list(every_mode(case))
