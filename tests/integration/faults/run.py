"""Runs one scenario before one proxy: `run_row(scenario, "balancer", DEFAULT, folder)`."""

import asyncio
import gc
from pathlib import Path

import uvloop

from tests.integration.faults.bounds import nothing_twice
from tests.integration.faults.load import Load, Size
from tests.integration.faults.proxies import RunningProxy, running_proxy
from tests.integration.faults.rows import Row
from tests.integration.faults.scenarios import Scenario, Stage
from tests.support.faulty_origin import FaultyOrigin, journal_of, running_faulty_origins

BACKENDS = 4
FULL = Size(gets=20_000, posts=5_000, seconds=25.0)
DEFAULT = Size(gets=2_000, posts=500, seconds=4.0)
ROUND = Size(gets=4_000, posts=1_000, seconds=5.0)  # of a comparison: five rounds are as much as FULL, and interleaved
_WARM_UP_ANSWERS, _WARM_UP_SECONDS = 24, 20.0


def run_row(scenario: Scenario, proxy: str, size: Size, folder: Path, seed: int = 3) -> Row | None:
    """Fresh origins, a fresh proxy, the load, the fault. None when the fault makes no sense for this proxy."""
    folder.mkdir(parents=True, exist_ok=True)
    row = Row(scenario.name, proxy, size)
    with running_faulty_origins(BACKENDS, folder) as origins:
        with running_proxy(proxy, [origin.port for origin in origins], scenario.strategy, folder) as running:
            if scenario.workers_die and not running.workers():
                return None
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_play(scenario, row, origins, running, seed=seed))
        row.journal = journal_of(origins)
    return row


async def _play(scenario: Scenario, row: Row, origins: list[FaultyOrigin], proxy: RunningProxy, *, seed: int) -> None:
    load = Load(proxy.address, row.size, seed=seed, reset_share=scenario.reset_share)
    await load.warm_up(_WARM_UP_ANSWERS, _WARM_UP_SECONDS)
    gc.collect()
    gc.disable()  # a collection in the client would be measured as the proxy's latency
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(scenario.fault(Stage(origins, proxy, load, row)))
            row.results = await load.run()
    finally:
        gc.enable()


def problems(scenario: Scenario, row: Row) -> list[str]:
    """What the row shows that it must not; and that the fault was there at all."""
    wrong = nothing_twice(row) + scenario.bound(row)
    if scenario.evidence and not row.journal.kinds[scenario.evidence]:
        wrong.append(f"the fault was never felt: no {scenario.evidence} in the journals")
    if scenario.workers_die and not row.cut_ports:
        wrong.append("the killed workers had no connection")
    return wrong
