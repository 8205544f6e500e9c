"""The faults: what happens to the backends while the load runs, and what a row may show."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from tests.integration.faults import bounds
from tests.integration.faults.load import Load
from tests.integration.faults.proxies import RunningProxy
from tests.integration.faults.rows import Bound, Row
from tests.support.faulty_origin import NORMAL, Behaviour, FaultyOrigin
from tests.support.queries import client_ports_of

BEGIN, END = 0.12, 0.7  # shares of the load before the fault, and before it is over
_RETURN = 0.6  # of all at once: what is left shows how long that goes unseen
_REFUSED_SECONDS = 2.0
_IDLE_SECONDS = 0.02  # mean, of the same size as the time between two requests on an upstream connection
_SLOWNESS = 30.0
RESET_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Stage:
    """What a fault may touch."""

    origins: list[FaultyOrigin]
    proxy: RunningProxy
    load: Load
    row: Row

    async def reach(self, share: float) -> None:
        """Wait until this share of the load's time is over."""
        await self.load.started.wait()
        await asyncio.sleep(self.load.began + share * self.load.size.seconds - time.monotonic())

    async def behave(self, behaviour: Behaviour, *origins: FaultyOrigin) -> None:
        """Tell origins, beside the load. Returns when all obey."""
        await asyncio.gather(*(asyncio.to_thread(origin.behave, behaviour) for origin in origins))

    def mark(self, name: str) -> None:
        """It is now that this happens."""
        self.row.marks[name] = time.monotonic()


Fault = Callable[[Stage], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A row. `must` is the bound in words.

    `evidence`: the kind of journal line that shows that the fault was felt; "" = the fault cannot miss.
    `judged_by`: the figures of a `Summary` that compare two proxies; the first that differs decides.
    """

    name: str
    what: str
    fault: Fault
    bound: Bound
    must: str
    strategy: str = "round_robin"
    evidence: str = ""
    reset_share: float = 0.0
    workers_die: bool = False
    judged_by: tuple[str, ...] = ("failed", "duplicates", "p99")


async def _kill(stage: Stage) -> None:
    victim = stage.origins[0]
    await stage.reach(BEGIN)
    await asyncio.to_thread(victim.kill)
    await stage.reach(END)
    await asyncio.to_thread(victim.restart)


async def _kill_all_but_one(stage: Stage) -> None:
    victims = stage.origins[1:]
    await stage.reach(BEGIN)
    await asyncio.gather(*(asyncio.to_thread(victim.kill) for victim in victims))
    await stage.reach(END)
    await asyncio.gather(*(asyncio.to_thread(victim.restart) for victim in victims))


async def _refuse(stage: Stage) -> None:
    await stage.reach(BEGIN)
    await stage.behave(replace(NORMAL, listening=False), stage.origins[0])
    await asyncio.sleep(_REFUSED_SECONDS)
    await stage.behave(NORMAL, stage.origins[0])


async def _stop(stage: Stage) -> None:
    victim = stage.origins[0]
    await stage.reach(BEGIN)
    await asyncio.to_thread(victim.pause)
    await stage.reach(END)
    await asyncio.to_thread(victim.resume)


def _one(behaviour: Behaviour) -> Fault:
    """The first backend behaves so for a while."""

    async def fault(stage: Stage) -> None:
        await stage.reach(BEGIN)
        await stage.behave(behaviour, stage.origins[0])
        await stage.reach(END)
        await stage.behave(NORMAL, stage.origins[0])

    return fault


def _all(behaviour: Behaviour) -> Fault:
    """Every backend behaves so from the first request to the last."""

    async def fault(stage: Stage) -> None:
        await stage.behave(behaviour, *stage.origins)

    return fault


async def _nothing(stage: Stage) -> None:
    """The requests themselves carry the fault."""


async def _kill_workers(stage: Stage) -> None:
    """One worker, later another. It is stopped first, so that the connections which it has do not change."""
    port = stage.proxy.address[1]
    for share, which in ((BEGIN, 0), (0.5, -1)):
        await stage.reach(share)
        pid = sorted(stage.proxy.workers())[which]
        os.kill(pid, signal.SIGSTOP)
        stage.row.cut_ports |= await asyncio.to_thread(client_ports_of, pid, port)
        os.kill(pid, signal.SIGKILL)


async def _all_down(stage: Stage) -> None:
    await stage.reach(BEGIN)
    await stage.behave(replace(NORMAL, listening=False), *stage.origins)
    stage.mark("down")
    await stage.reach(_RETURN)
    stage.mark("returning")
    await stage.behave(NORMAL, *stage.origins)
    stage.mark("returned")


_NO_GET = "no GET fails"

SCENARIOS = (
    Scenario("killed", "a backend dies by SIGKILL, and is started again later", _kill, bounds.no_get_fails, _NO_GET),
    Scenario(
        "three_killed",
        "three of the four backends die by SIGKILL at once, and are started again later",
        _kill_all_but_one,
        bounds.no_get_fails,
        _NO_GET,
    ),
    Scenario("refused", "a backend refuses connections for 2 s", _refuse, bounds.no_get_fails, _NO_GET),
    Scenario(
        "silence",
        "a backend accepts and reads, and never answers; its health check neither",
        _one(replace(NORMAL, silent=True)),
        bounds.no_get_fails,
        _NO_GET,
        evidence="silent",
    ),
    Scenario("stopped", "a backend gets SIGSTOP, later SIGCONT", _stop, bounds.no_get_fails, _NO_GET),
    Scenario(
        "idle_closed",
        "all backends close idle connections at random moments (after 20 ms on average)",
        _all(replace(NORMAL, close_idle=_IDLE_SECONDS)),
        bounds.no_get_fails,
        _NO_GET,
        evidence="idle_closed",
    ),
    Scenario(
        "black_hole",
        "a backend answers 500 at once, while its health check passes; least connections",
        _one(replace(NORMAL, fail=1.0, at_once=True)),
        bounds.no_get_fails,
        _NO_GET,
        strategy="least_connections",
        evidence="500",
    ),
    Scenario(
        "half_500",
        "half of one backend's answers are 500, while its health check passes",
        _one(replace(NORMAL, fail=0.5)),
        bounds.no_get_fails,
        _NO_GET,
        evidence="500",
    ),
    Scenario(
        "all_half_500",
        "half of all backends' answers are 500",
        _all(replace(NORMAL, fail=0.5)),
        bounds.errors_and_attempts,
        "the share of errors is at most the backends'; at most 1.25 attempts per request",
        evidence="500",
        # More attempts buy fewer errors here, and the backends pay: who exceeds the bound is not the better for it.
        judged_by=("attempts_beyond", "failed", "duplicates", "p99"),
    ),
    Scenario(
        "reset",
        f"{RESET_SHARE:.0%} of the requests have their answer reset in the middle",
        _nothing,
        bounds.only_marked_fail,
        "exactly these fail",
        evidence="reset",
        reset_share=RESET_SHARE,
    ),
    Scenario(
        "worker_killed",
        "a worker of the proxy dies by SIGKILL, later another",
        _kill_workers,
        bounds.only_cut_fail,
        "exactly what it had in flight fails",
        workers_die=True,
    ),
    Scenario(
        "all_down",
        "all backends refuse, and return together",
        _all_down,
        bounds.down_is_told_and_return_is_seen,
        "503 within 5 ms; the first 200 within a check interval (1 s) after the return",
    ),
    Scenario(
        "slow",
        "one backend answers 30 times slower; least connections",
        _one(replace(NORMAL, slowness=_SLOWNESS)),
        bounds.no_get_fails,
        "no GET fails; p99 is stated",
        strategy="least_connections",
    ),
)
