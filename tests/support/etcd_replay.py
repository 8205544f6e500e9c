"""Puts a server through a sequence: answers in the order of the steps, and what streams and waiting calls told."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.support.etcd_answers import Normal, Outcome
from tests.support.etcd_http import Answer, EtcdHttp, EtcdStream
from tests.support.etcd_steps import Await, Call, Leave, Observe, Observed, Page, Step, Wait, Watch, rendered
from tests.support.etcd_streams import controls, observed, watched

PATIENCE = 20.0  # seconds for what must come

NOTHING = b64encode(b"\0").decode()
EVERYTHING = {"key": NOTHING, "range_end": NOTHING}
PENDING = Outcome(0, "", "still under way")


@dataclass
class Replay:
    """One server during one sequence."""

    http: EtcdHttp
    outcomes: list[tuple[Step, Outcome]] = field(default_factory=list)
    _watches: dict[str, EtcdStream] = field(default_factory=dict)
    _observers: dict[str, EtcdStream] = field(default_factory=dict)
    _calls: dict[str, tuple[asyncio.Task[Answer], bytes]] = field(default_factory=dict)  # and the prefix of its queue
    _keys: list[str] = field(default_factory=list)  # where the ranges of watches begin

    async def run(self, steps: Iterable[Step]) -> list[tuple[Step, Outcome]]:
        """Empty the store, then go through the steps. Streams stay open: see `streams`, then `close`."""
        self._normal = await self._begin()
        for step in steps:
            outcome = await self._do(step)
            if outcome is not None:
                self.outcomes.append((step, outcome))
        await self._mark()
        return self.outcomes

    def streams(self) -> dict[str, Any]:
        """What every stream has told by now."""
        told: dict[str, Any] = {name: watched(stream.messages, self._normal) for name, stream in self._watches.items()}
        return told | {name: observed(stream.messages, self._normal) for name, stream in self._observers.items()}

    async def close(self) -> None:
        """Leave: whatever is under way is given up."""
        calls = [call for call, _ in self._calls.values()]
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls)
        await self.http.close()

    # ---- steps

    async def _do(self, step: Step) -> Outcome | None:
        match step:
            case Call(path, body):
                return self._normal.answer(await self.http.call(path, rendered(body, self._normal.base)))
            case Page(method, path, fields):
                return self._normal.answer(await self.http.call(path, method=method, fields=fields))
            case Watch():
                await self._watch(step)
            case Wait():
                await self._wait(step)
            case Await(name):
                call, _ = self._calls.pop(name)
                done, _ = await asyncio.wait([call], timeout=PATIENCE)
                return self._normal.answer(call.result()) if done else PENDING
            case Leave(name):
                await self._leave(name)
            case Observe(name, body):
                self._observers[name] = await self.http.stream(
                    "/v3/election/observe", rendered(body, self._normal.base)
                )
            case Observed(name, value):
                await _until(lambda: _saw(self._observers[name], value))
        return None

    async def _watch(self, step: Watch) -> None:
        requests = rendered(list(step.requests), self._normal.base)
        stream = self._watches[step.name] = await self.http.stream("/v3/watch", *requests)
        for request in requests:
            created = request.get("create_request") or request.get("createRequest")
            if created is not None:
                self._keys.append(created.get("key", NOTHING))
        await _until(lambda: controls(stream.messages) >= step.answers or stream.ended)

    async def _wait(self, step: Wait) -> None:
        before = await self._queued(step.queue)
        call = asyncio.create_task(self.http.call_apart(step.path, rendered(step.body, self._normal.base)))
        self._calls[step.name] = call, step.queue

        async def settled() -> bool:
            return call.done() or await self._queued(step.queue) > before

        await _until_so(settled)

    async def _leave(self, name: str) -> None:
        call, queue = self._calls.pop(name)
        before = await self._queued(queue)
        call.cancel()
        await asyncio.wait([call])

        async def gone() -> bool:
            return await self._queued(queue) < before

        await _until_so(gone)

    async def _queued(self, prefix: bytes) -> int:
        """How many keys there are under a prefix."""
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        asked = {"key": b64encode(prefix).decode(), "range_end": b64encode(end).decode(), "count_only": True}
        return int((await self.http.call("/v3/kv/range", asked)).json.get("count", 0))

    # ---- before and after

    async def _begin(self) -> Normal:
        call = self.http.call
        for lease in ((await call("/v3/lease/leases")).json or {}).get("leases", []):
            await call("/v3/lease/revoke", {"ID": lease["ID"]})
        await call("/v3/kv/deleterange", EVERYTHING)
        header = (await call("/v3/kv/range", EVERYTHING)).json["header"]
        await call("/v3/kv/compaction", {"revision": header["revision"], "physical": True})
        return Normal(int(header["revision"]), header)

    async def _mark(self) -> None:
        """Let every watch see one more put and one more deletion: all that comes before them has come, then."""
        for key in dict.fromkeys(self._keys):
            await self.http.call("/v3/kv/put", {"key": key})
            await self.http.call("/v3/kv/deleterange", {"key": key})


def _saw(stream: EtcdStream, value: bytes) -> bool:
    return any(b64decode(message["result"]["kv"].get("value", "")) == value for message in stream.messages)


async def _until(condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
    """Whether it became true in time."""

    async def so() -> bool:
        return condition()

    return await _until_so(so, patience)


async def _until_so(condition: Callable[[], Awaitable[bool]], patience: float = PATIENCE) -> bool:
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while not await condition():
        if loop.time() > end:
            return False
        await asyncio.sleep(0.002)
    return True
