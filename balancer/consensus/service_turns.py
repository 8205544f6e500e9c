"""Who waits for a lock or an election at this member, from the asking to the answer.

Who holds follows from the replicated state, as this member has applied it. It may have been stopped or cut off: in
entries that it has not seen yet the owner's lease may have ended, and another one got the lock. So nobody who waited
is told of a grant before a round among the members says that this one has seen everything (etcd-io/etcd#11408).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from balancer.coordination.errors import CoordinationError
from balancer.coordination.key_space import KeySpace
from balancer.coordination.locks import Claim, Standing, release, standing
from balancer.coordination.requests import TxnRequest
from balancer.coordination.revision_log import Changes
from balancer.coordination.waiters import Verdict, Waiters

CONFIRM_AGAIN: Final = 0.1
"""Seconds between two tries to make sure of a grant that could not be: there was no majority."""


class _Callers:
    """Those that wait with the same claim. `told`: one of them was told that it holds."""

    __slots__ = ("told", "turns")

    def __init__(self) -> None:
        self.turns: list[asyncio.Future[Verdict]] = []
        self.told = False


class Turns:
    """`space()` is the state now, `catch_up` and `apply` are those of the service."""

    def __init__(
        self,
        space: Callable[[], KeySpace],
        catch_up: Callable[[], Awaitable[None]],
        apply: Callable[[TxnRequest], Awaitable[object]],
    ) -> None:
        self._space = space
        self._catch_up = catch_up
        self._apply = apply
        self._waiters = Waiters()
        self._callers: dict[Claim, _Callers] = {}
        self._releases: set[asyncio.Future[object]] = set()

    def changed(self, changes: Changes) -> None:
        """An entry was applied. To be called before the next one is: who waits is judged on this state."""
        self._decide(self._waiters.applied(self._space(), changes))

    def replaced(self) -> None:
        """A snapshot took the place of the state."""
        self._decide(self._waiters.restored(self._space()))

    async def of(self, claim: Claim, *, held: bool) -> Verdict:
        """Wait until it is HELD or LOST. Who is cancelled gives the claim up, in the log as well.

        `held`: it was so when it was entered, after the caller came; then that is the answer, unless it is known to be
        lost by now. Without a majority the wait goes on.
        """
        space = self._space()
        now = Verdict(claim, self._waiters.wait(space, claim), space.revision)
        if now.standing is Standing.LOST:
            return now
        if held and now.standing is Standing.HELD:
            if claim in self._callers:
                self._callers[claim].told = True
            return now
        turn: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        callers = self._callers.setdefault(claim, _Callers())
        callers.turns.append(turn)
        if now.standing is Standing.HELD:
            turn.set_result(now)
        try:
            verdict = await self._confirmed(await turn)
            callers.told = callers.told or verdict.standing is Standing.HELD
            return verdict
        except asyncio.CancelledError:
            # Also when its turn has come: nobody is there to take it.
            if callers.turns == [turn] and not callers.told:
                self._give_up(claim)
            raise
        finally:
            callers.turns.remove(turn)
            if not callers.turns:
                del self._callers[claim]

    def _decide(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            callers = self._callers.get(verdict.claim)
            for turn in callers.turns if callers is not None else ():
                if not turn.done():
                    turn.set_result(verdict)

    async def _confirmed(self, verdict: Verdict) -> Verdict:
        """A verdict by all that was done anywhere before it came. A loss is final."""
        while verdict.standing is Standing.HELD:
            try:
                await self._catch_up()
            except CoordinationError:
                await asyncio.sleep(CONFIRM_AGAIN)
                continue
            space = self._space()
            return Verdict(verdict.claim, standing(space, verdict.claim), space.revision)
        return verdict

    def _give_up(self, claim: Claim) -> None:
        self._waiters.give_up(claim)
        releasing = asyncio.ensure_future(self._apply(release(claim)))
        self._releases.add(releasing)
        releasing.add_done_callback(self._released)

    def _released(self, releasing: "asyncio.Future[object]") -> None:
        self._releases.discard(releasing)
        if not releasing.cancelled():
            releasing.exception()  # where it could not be given up, its lease ends it
