"""Callers with the same claim: a grant that one was told of stays, and one that nobody was told of is given up."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from balancer.consensus.service_turns import Turns
from balancer.coordination.locks import Claim, Standing, acquire, claimed
from balancer.coordination.requests import TxnRequest
from balancer.coordination.waiters import Verdict
from tests.unit.coordination.machine import Machine

DEADLINE = 10.0


class Queue:
    """A lock `n` that lease 1 holds and lease 2 waits for. Rounds among the members end when the test lets them."""

    def __init__(self) -> None:
        self.machine = Machine()
        for lease in (1, 2):
            self.machine.grant(lease)
        self.claims: list[Claim] = []
        for lease in (1, 2):
            claim, held = claimed(b"n", lease, self.machine.do(acquire(b"n", lease)))
            assert held is (lease == 1)
            self.claims.append(claim)
        self.rounds: list[asyncio.Future[None]] = []
        self.released: list[TxnRequest] = []
        self.turns = Turns(lambda: self.machine.state.space, self.round, self.release)

    async def round(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.rounds.append(future)
        await future

    async def release(self, request: TxnRequest) -> object:
        self.released.append(request)
        return None

    def revoke(self, lease: int) -> None:
        """Its key goes, and who waits is judged."""
        self.machine.revoke(lease)
        state = self.machine.state
        (changes,) = state.space.log.between(state.revision, state.revision + 1)
        self.turns.changed(changes)

    def asks(self) -> "asyncio.Task[Verdict]":
        return asyncio.create_task(self.turns.of(self.claims[1], held=False))


def run(scenario: Callable[[Queue], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE):
            await scenario(Queue())

    asyncio.run(bounded())


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def gone(task: "asyncio.Task[Verdict]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turns()


def test_nobody_is_told_before_the_round_is_over() -> None:
    async def scenario(queue: Queue) -> None:
        asking = queue.asks()
        await turns()
        assert not queue.rounds
        queue.revoke(1)
        await turns()
        assert (len(queue.rounds), asking.done()) == (1, False)
        queue.rounds[0].set_result(None)
        assert (await asking).standing is Standing.HELD
        assert not queue.released

    run(scenario)


def test_what_is_lost_while_the_round_goes_on_is_not_told_as_held() -> None:
    async def scenario(queue: Queue) -> None:
        asking = queue.asks()
        await turns()
        queue.revoke(1)
        await turns()
        queue.revoke(2)
        queue.rounds[0].set_result(None)
        assert (await asking).standing is Standing.LOST

    run(scenario)


def test_a_loss_needs_no_round() -> None:
    async def scenario(queue: Queue) -> None:
        asking = queue.asks()
        await turns()
        queue.revoke(2)
        assert (await asking).standing is Standing.LOST
        assert (await queue.asks()).standing is Standing.LOST
        assert not queue.rounds

    run(scenario)


def test_who_asks_when_it_has_become_free_meanwhile_waits_for_a_round_too() -> None:
    async def scenario(queue: Queue) -> None:
        queue.revoke(1)
        asking = queue.asks()
        await turns()
        assert (len(queue.rounds), asking.done()) == (1, False)
        queue.rounds[0].set_result(None)
        assert (await asking).standing is Standing.HELD

    run(scenario)


def test_who_had_it_at_once_needs_no_round_but_that_it_is_not_known_to_be_lost() -> None:
    async def scenario(queue: Queue) -> None:
        assert (await queue.turns.of(queue.claims[0], held=True)).standing is Standing.HELD
        queue.revoke(1)
        assert (await queue.turns.of(queue.claims[0], held=True)).standing is Standing.LOST
        assert not queue.rounds

    run(scenario)


def test_of_two_callers_the_one_that_was_told_keeps_it_when_the_other_leaves() -> None:
    async def scenario(queue: Queue) -> None:
        told, leaving = queue.asks(), queue.asks()
        await turns()
        queue.revoke(1)
        await turns()
        queue.rounds[0].set_result(None)
        assert (await told).standing is Standing.HELD
        await gone(leaving)
        assert not queue.released

    run(scenario)


def test_of_two_callers_the_one_that_stays_keeps_the_place() -> None:
    async def scenario(queue: Queue) -> None:
        staying, leaving = queue.asks(), queue.asks()
        await turns()
        await gone(leaving)
        queue.revoke(1)
        await turns()
        queue.rounds[0].set_result(None)
        assert (await staying).standing is Standing.HELD
        assert not queue.released

    run(scenario)


def test_a_later_call_that_has_it_at_once_keeps_it_when_the_earlier_one_leaves() -> None:
    """A client whose connection broke asks again before the end of the first is noticed."""

    async def scenario(queue: Queue) -> None:
        first = queue.asks()
        await turns()
        queue.revoke(1)
        await turns()
        assert (await queue.turns.of(queue.claims[1], held=True)).standing is Standing.HELD
        await gone(first)
        assert not queue.released

    run(scenario)


@pytest.mark.parametrize("when", ["while it waits", "while the round goes on"])
def test_what_nobody_was_told_of_is_given_up_once_all_have_left(when: str) -> None:
    async def scenario(queue: Queue) -> None:
        callers = [queue.asks(), queue.asks()]
        await turns()
        if when == "while the round goes on":
            queue.revoke(1)
            await turns()
        for left, caller in enumerate(callers):
            assert len(queue.released) == 0, left
            await gone(caller)
        (release,) = queue.released
        queue.machine.do(release)
        assert queue.machine.get(queue.claims[1].key) is None
        assert queue.turns._callers == {}

    run(scenario)
