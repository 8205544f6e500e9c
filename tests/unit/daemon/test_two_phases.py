"""A change on all workers: all of them take it, or none does."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from balancer.config.model import Config
from balancer.daemon import two_phases
from balancer.daemon.children import RefusedError, WorkerError
from balancer.daemon.messages import Abort, Commit, Done, Message, Prepare, Prepared

PLAN = Prepare(7, Config(listeners=(), routes=(), pools=()), ())


class FakeWorker:
    """Answers Prepare as `prepares` does and Commit as `commits` does; keeps what it was told."""

    def __init__(
        self,
        slot: int,
        *,
        prepares: Exception | None = None,
        commits: Exception | None = None,
        silent: bool = False,
        dies: bool = False,
    ) -> None:
        self.slot = slot
        self.alive = True
        self.killed = False
        self.got: list[str] = []
        self._prepares = prepares
        self._commits = commits
        self._silent = silent
        self._dies = dies

    async def request(self, message: Message, *, timeout: float) -> Message:
        self.got.append(type(message).__name__)
        failure = self._prepares if isinstance(message, Prepare) else self._commits
        if isinstance(message, Prepare) and self._silent:
            await asyncio.sleep(timeout)
            raise WorkerError(f"worker {self.slot}: no answer to Prepare within {timeout:g} s")
        await asyncio.sleep(0)
        if self._dies:
            self.alive = False
        if failure is not None:
            raise failure
        return Prepared(message.generation) if isinstance(message, Prepare) else Done()

    def tell(self, message: Message) -> None:
        self.got.append(type(message).__name__)
        assert isinstance(message, Abort)
        assert message.generation == 7

    def kill(self) -> None:
        self.killed = True


def prepare(workers: Sequence[FakeWorker], timeout: float = 5.0) -> list[str]:
    return asyncio.run(two_phases.prepare(workers, PLAN, timeout=timeout))[0]


def test_when_all_can_nobody_is_told_to_forget_it() -> None:
    workers = [FakeWorker(slot) for slot in range(3)]
    assert prepare(workers) == []
    assert [worker.got for worker in workers] == [["Prepare"]] * 3


def test_without_workers_there_is_nobody_to_refuse() -> None:
    assert prepare([]) == []


FAILURES: list[tuple[str, Callable[[], FakeWorker], list[str]]] = [
    (
        "a refusal",
        lambda: FakeWorker(1, prepares=RefusedError("c.pem: rubbish", "k.pem: rubbish")),
        ["c.pem: rubbish", "k.pem: rubbish"],
    ),
    (
        "a death that closes the channel",
        lambda: FakeWorker(1, prepares=WorkerError("worker 1: the channel closed")),
        ["worker 1: the channel closed; try again"],
    ),
    ("a death after its answer", lambda: FakeWorker(1, dies=True), ["worker 1 ended; try again"]),
    ("silence", lambda: FakeWorker(1, silent=True), ["worker 1: no answer to Prepare within 0.05 s; try again"]),
]


@pytest.mark.parametrize(("make", "problems"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
def test_one_that_cannot_stops_all(make: Callable[[], FakeWorker], problems: list[str]) -> None:
    workers = [FakeWorker(0), make(), FakeWorker(2)]
    assert prepare(workers, timeout=0.05) == problems
    assert [worker.got for worker in workers if worker.alive] == [["Prepare", "Abort"]] * (
        sum(worker.alive for worker in workers)
    )
    assert not any(worker.killed for worker in workers)


def test_a_refusal_is_told_once_and_at_once() -> None:
    workers = [FakeWorker(slot, prepares=RefusedError("bad")) for slot in range(3)]
    assert prepare([*workers, FakeWorker(3, silent=True)], timeout=60.0) == ["bad"]


def test_what_is_no_failure_of_a_worker_is_ours() -> None:
    with pytest.raises(ZeroDivisionError):
        prepare([FakeWorker(0, prepares=ZeroDivisionError())])


def test_who_does_not_commit_is_killed_and_the_others_commit() -> None:
    workers = [FakeWorker(0), FakeWorker(1, commits=WorkerError("worker 1: gone")), FakeWorker(2)]
    asyncio.run(two_phases.commit(workers, PLAN))
    assert [worker.got for worker in workers] == [["Commit"]] * 3
    assert [worker.killed for worker in workers] == [False, True, False]
    assert Commit(7).generation == PLAN.generation


def test_only_a_workers_own_fault_is_worth_another_try() -> None:
    def passing(*workers: FakeWorker) -> bool:
        return asyncio.run(two_phases.prepare(workers, PLAN, timeout=0.05))[1]

    assert not passing(FakeWorker(0))
    assert passing(FakeWorker(0), FakeWorker(1, silent=True))
    assert not passing(FakeWorker(0, prepares=RefusedError("bad")), FakeWorker(1, silent=True))
