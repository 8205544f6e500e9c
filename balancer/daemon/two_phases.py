"""The two phases of a change on all workers: everyone prepares, and only if everyone could, everyone commits.

Law: until the first Commit is sent a worker's refusal, death or silence leaves every worker with what it had. After it
there is no way back: a worker that fails then is killed, and its successor begins with the new configuration.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

import structlog

from balancer.daemon.children import RefusedError, WorkerError
from balancer.daemon.messages import Abort, Commit, Message, Prepare
from balancer.telemetry import events

log = structlog.get_logger()

PREPARE_TIMEOUT = 10.0  # seconds: a worker that has not built a configuration by then is stuck
COMMIT_TIMEOUT = 5.0


class Participant(Protocol):
    """What is needed of a worker (`children.Child`)."""

    slot: int

    @property
    def alive(self) -> bool: ...

    async def request(self, message: Message, *, timeout: float) -> Message: ...

    def tell(self, message: Message) -> None: ...

    def kill(self) -> None: ...


async def prepare(
    workers: Sequence[Participant], plan: Prepare, *, timeout: float = PREPARE_TIMEOUT
) -> tuple[list[str], bool]:
    """Let all build `plan`. Returns why it cannot be used, after the first who says so; [] = all have it ready.

    Then nobody goes on with it. And whether only a worker was at fault: with its successor it may be usable.
    """
    asking = await _staggered([worker.request(plan, timeout=timeout) for worker in workers])
    problems: list[str] = []
    refused = False
    if asking:
        done, late = await asyncio.wait(asking, return_when=asyncio.FIRST_EXCEPTION)
        for task in late:
            task.cancel()
        for error in [task.exception() for task in asking if task in done]:
            if isinstance(error, RefusedError):
                refused = True
                problems += [problem for problem in error.problems if problem not in problems]
            elif isinstance(error, WorkerError):
                problems.append(f"{error}; try again")
            elif error is not None:
                raise error
    if not problems:
        problems = [f"worker {worker.slot} ended; try again" for worker in workers if not worker.alive]
    if problems:
        abort(workers, plan)
    return problems, bool(problems) and not refused


def abort(workers: Sequence[Participant], plan: Prepare) -> None:
    """Nobody goes on with what was prepared."""
    for worker in workers:
        if worker.alive:
            worker.tell(Abort(plan.generation))


async def commit(workers: Sequence[Participant], plan: Prepare, *, timeout: float = COMMIT_TIMEOUT) -> None:
    """All take into use what they have ready. Who does not is killed: it would serve what is no longer true."""

    async def one(worker: Participant) -> None:
        try:
            await worker.request(Commit(plan.generation), timeout=timeout)
        except WorkerError as error:
            log.warning(events.WORKER_FAILED, worker=worker.slot, error=str(error))
            worker.kill()

    await asyncio.gather(*(one(worker) for worker in workers))


async def _staggered(requests: Sequence[Coroutine[Any, Any, Message]]) -> list["asyncio.Task[Message]"]:
    """Begin all, one in each turn of the loop: what a large configuration costs to encode must not add up."""
    tasks = []
    for request in requests:
        tasks.append(asyncio.ensure_future(request))
        await asyncio.sleep(0)
    return tasks
