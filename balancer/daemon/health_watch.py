"""Brings to the states what they decide on: the results of health checks, and the passing of time."""

import asyncio
from collections.abc import Mapping, Sequence
from random import Random

import structlog

from balancer.config.model import Config, Pool, ResolvedBackend
from balancer.daemon.health_schedule import Check, HealthSchedule
from balancer.daemon.states import States
from balancer.telemetry import events
from balancer.transport.probe import Target, Tls
from balancer.transport.tls import client_context

log = structlog.get_logger()

TICK = 0.1  # seconds between looks at what ends by time: ejections, windows, slow starts


class HealthWatch:
    """Probes the backends of the configuration in use and moves its states' clock, once `run`."""

    def __init__(self, states: States, rng: Random) -> None:
        self._states = states
        self._schedule = HealthSchedule(result=states.checked, unable=self._unable, rng=rng)
        self._unable_told = False

    def configure(self, config: Config, backends: Sequence[ResolvedBackend], files: Mapping[str, bytes]) -> None:
        """Probe these backends from now on. The states must know them already.

        Raises ValueError naming a TLS file that cannot be used.
        """
        trackers = self._states.checks()
        pools = {pool.name: pool for pool in config.pools if pool.health_check is not None}
        contexts = {name: client_context(pool.tls, files) for name, pool in pools.items() if pool.tls is not None}
        checks: dict[int, Check] = {}
        for backend in backends:
            pool = pools.get(backend.pool)
            if pool is None or pool.health_check is None or backend.slot not in trackers:
                continue
            context = contexts.get(pool.name)
            tls: Tls | None = None if context is None else (context, _server_name(pool, backend))
            target = Target(backend.address, backend.host)
            checks[backend.slot] = Check(backend.slot, target, pool.health_check, tls, trackers[backend.slot])
        self._schedule.configure(checks)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._schedule.run())
            tasks.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._states.tick()

    def _unable(self, slot: int, evidence: str) -> None:
        if not self._unable_told:  # once: it would be said for every probe until it is mended
            self._unable_told = True
            log.error(events.LIBRARY_LOGGED, logger="health_check", message=f"no probe can be made: {evidence}")


def _server_name(pool: Pool, backend: ResolvedBackend) -> str:
    name = pool.tls.server_name if pool.tls is not None else None
    return name or backend.host or "localhost"
