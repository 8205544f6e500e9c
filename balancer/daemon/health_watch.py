"""Brings to the states what they decide on: the results of health checks, and the passing of time."""

import asyncio
import hashlib
import ssl
from collections.abc import Collection, Iterable, Mapping, Sequence
from random import Random
from typing import NamedTuple, Protocol

import msgspec
import structlog

from balancer.config.model import Config, HealthCheck, Pool, PoolTls, ResolvedBackend
from balancer.daemon.health_schedule import Check, HealthSchedule
from balancer.daemon.states import States
from balancer.telemetry import events
from balancer.transport.probe import Target, Tls
from balancer.transport.tls import client_context

log = structlog.get_logger()

_Key = tuple[PoolTls, tuple[bytes, ...]]

TICK = 0.1  # seconds between looks at what ends by time: ejections, windows, slow starts


class CheckedPool(NamedTuple):
    """A pool whose backends are probed. `digest`: of everything in its settings and files that decides a probe."""

    check: HealthCheck
    digest: str


class Share(Protocol):
    """Divides the checks among several balancers."""

    def configure(self, pools: Mapping[str, CheckedPool], backends: Sequence[ResolvedBackend]) -> Collection[int]:
        """These are checked from now on. Returns the slots that need no probes of ours."""

    def result(self, slot: int, passed: bool, evidence: str) -> None:
        """A probe of ours ended."""


class HealthWatch:
    """Probes the backends of the configuration in use and moves its states' clock, once `run`."""

    def __init__(self, states: States, rng: Random) -> None:
        self._states = states
        self._schedule = HealthSchedule(result=self._result, unable=self._unable, rng=rng)
        self._checks: dict[int, Check] = {}
        self._share: Share | None = None
        self._contexts: dict[_Key, ssl.SSLContext] = {}
        self._unable_told = False

    async def make_ready(self, config: Config, files: Mapping[str, bytes]) -> None:
        """What `configure` will need for these: contexts of TLS, which take 100 ms each, made aside and kept.

        Raises ValueError naming a TLS file that cannot be used.
        """
        digests: dict[str, bytes] = {}
        for pool in config.pools:
            if pool.health_check is not None and pool.tls is not None:
                key = _key(pool.tls, files, digests)
                if key not in self._contexts:
                    self._contexts[key] = await asyncio.to_thread(client_context, key[0], files)

    def configure(self, config: Config, backends: Sequence[ResolvedBackend], files: Mapping[str, bytes]) -> None:
        """Probe these backends from now on. The states must know them already, and `make_ready` have had them."""
        trackers = self._states.checks()
        pools = {pool.name: pool for pool in config.pools if pool.health_check is not None}
        digests: dict[str, bytes] = {}
        keys = {name: _key(pool.tls, files, digests) for name, pool in pools.items() if pool.tls is not None}
        contexts = {name: self._contexts[key] for name, key in keys.items()}
        self._contexts = {key: self._contexts[key] for key in keys.values()}
        checks: dict[int, Check] = {}
        checked: list[ResolvedBackend] = []
        for backend in backends:
            pool = pools.get(backend.pool)
            if pool is None or pool.health_check is None or backend.slot not in trackers:
                continue
            checked.append(backend)
            context = contexts.get(pool.name)
            tls: Tls | None = None if context is None else (context, _server_name(pool, backend))
            target = Target(backend.address, backend.host)
            checks[backend.slot] = Check(backend.slot, target, pool.health_check, tls, trackers[backend.slot])
        self._checks = checks
        if self._share is not None:
            told = self._share.configure(
                {
                    name: CheckedPool(pool.health_check, _digest(pool, files, digests))
                    for name, pool in pools.items()
                    if pool.health_check is not None
                },
                checked,
            )
            checks = {slot: check for slot, check in checks.items() if slot not in told}
        self._schedule.configure(checks)

    # ---- where several balancers divide the checks

    def share_with(self, share: Share) -> None:
        """Ask it who is to be probed, from the next configuration on, and tell it the results."""
        self._share = share

    def probe(self, slots: Iterable[int]) -> None:
        """Probe these as well, at once; those that are not checked are passed over."""
        self._schedule.add(self._checks[slot] for slot in slots if slot in self._checks)

    def rest(self, slots: Iterable[int]) -> None:
        """Probe these no more."""
        self._schedule.drop(slots)

    def take_in(self, slot: int, passed: bool, evidence: str) -> None:
        """A result that another balancer had."""
        self._states.checked(slot, passed, evidence, own=False)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._schedule.run())
            tasks.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._states.tick()

    def _result(self, slot: int, passed: bool, evidence: str) -> None:
        self._states.checked(slot, passed, evidence)
        if self._share is not None:
            self._share.result(slot, passed, evidence)

    def _unable(self, slot: int, evidence: str) -> None:
        if not self._unable_told:  # once: it would be said for every probe until it is mended
            self._unable_told = True
            log.error(events.LIBRARY_LOGGED, logger="health_check", message=f"no probe can be made: {evidence}")


def _key(tls: PoolTls, files: Mapping[str, bytes], digests: dict[str, bytes]) -> _Key:
    """Settings and contents that make the same context; the name to verify is given per connection."""
    for path in (tls.ca, tls.cert, tls.key):
        if path is not None and path not in digests:
            digests[path] = hashlib.sha256(files.get(path, b"")).digest()
    contents = tuple(digests[path] for path in (tls.ca, tls.cert, tls.key) if path is not None)
    return msgspec.structs.replace(tls, server_name=None), contents


def _digest(pool: Pool, files: Mapping[str, bytes], digests: dict[str, bytes]) -> str:
    """The same for all balancers whose probes of this pool are the same, wherever their files lie."""
    said: list[object] = [pool.health_check]
    if pool.tls is not None:
        settings, contents = _key(pool.tls, files, digests)
        present = [path is not None for path in (settings.ca, settings.cert, settings.key)]
        said += [pool.tls.verify, pool.tls.server_name, present, [content.hex() for content in contents]]
    return hashlib.blake2b(msgspec.json.encode(said, order="sorted"), digest_size=8).hexdigest()


def _server_name(pool: Pool, backend: ResolvedBackend) -> str:
    name = pool.tls.server_name if pool.tls is not None else None
    return name or backend.host or "localhost"
