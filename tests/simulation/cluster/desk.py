"""Where clients come to a member: what the service of a member does with a request, without its I/O."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from balancer.coordination import locks
from balancer.coordination.errors import CoordinationError
from balancer.coordination.responses import TxnResponse
from tests.simulation.cluster.laws import BrokenLawError
from tests.simulation.cluster.processes import Process, Wait

if TYPE_CHECKING:
    from tests.simulation.cluster.member import Member

REFUSED = object()
"""Nobody listens there: nothing was done."""

Answer = Callable[[object], None]


def ask(member: "Member", kind: str, argument: Any, seconds: float) -> Wait:
    """Waits for the answer to a request: REFUSED, None when it is not known (time-out, reset), else the service's.

    `kind`: submit (a change), read (a range), keep (a lease), lock (name, lease), give_up (name, lease).
    """

    def wait(process: Process, turn: int) -> None:
        world = member.world
        if not member.up:
            world.timeline.after(0.001, process.answer, turn, REFUSED)
            return
        number = next(world.numbers)
        life = member.life

        def answered(value: object) -> None:
            world.timeline.after(0.0005, process.answer, turn, value)

        def done(value: object) -> None:
            if member.asked.pop(number, None) is None:
                raise BrokenLawError(f"member {member.id} answers a request ({kind}) twice")
            answered(value)

        member.asked[number] = answered
        world.timeline.after(0.0005, member.happen, life, "ask", _SERVED[kind], member, argument, seconds, done)
        world.timeline.after(seconds / process.rate, process.answer, turn, None)

    return wait


def _submit(member: "Member", request: Any, seconds: float, done: Answer) -> None:
    now = member.local()
    assert member.replica is not None
    member.replica.submit(request, now, now + seconds, done)


def _read(member: "Member", request: Any, seconds: float, done: Answer) -> None:
    replica, now = member.replica, member.local()
    assert replica is not None

    def turn(refused: CoordinationError | None) -> None:
        done(refused or replica.machine.range(request))

    replica.read(now, now + seconds, turn)


def _keep(member: "Member", lease: int, seconds: float, done: Answer) -> None:
    now = member.local()
    assert member.replica is not None
    member.replica.keep_alive(lease, now, now + seconds, done)


def _lock(member: "Member", argument: tuple[bytes, int], seconds: float, done: Answer) -> None:
    """As `CoordinationService.lock`: answers with the claim and its standing."""
    name, lease = argument
    replica = member.replica
    assert replica is not None

    def acquired(answer: object) -> None:
        if not isinstance(answer, TxnResponse):
            done(answer)
            return
        claim, held = locks.claimed(name, lease, answer)
        standing = locks.Standing.HELD
        if not held:
            standing = member.waiters.wait(replica.machine.space, claim)
        if standing is locks.Standing.WAITING:
            member.claims[claim] = lambda verdict: done((claim, verdict))
        else:
            done((claim, standing))

    _submit(member, locks.acquire(name, lease), seconds, acquired)


def _give_up(member: "Member", argument: tuple[bytes, int], seconds: float, done: Answer) -> None:
    """As the service does for a waiter that was cancelled."""
    key = locks.owner_key(*argument)
    for claim in [each for each in member.claims if each.key == key]:
        del member.claims[claim]
        member.waiters.give_up(claim)
        _submit(member, locks.release(claim), seconds, lambda _: None)
    done(None)


_SERVED: dict[str, Callable[..., None]] = {
    "submit": _submit,
    "read": _read,
    "keep": _keep,
    "lock": _lock,
    "give_up": _give_up,
}
