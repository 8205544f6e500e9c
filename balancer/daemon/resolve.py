"""Backends' host names to addresses, in threads, never fatal: a name that does not resolve has no addresses."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from balancer.config.model import Backend, Config, ResolvedBackend
from balancer.daemon.shared_memory import Identity, SlotAllocator

RESOLVE_TIMEOUT = 5.0  # libc's own default is 5 s a server; the start must not hang on a dead name server longer
PER_TURN = 1000  # backends before the loop gets a turn
AT_ONCE = 16  # names looked up at the same time: each holds a thread

Address = tuple[str, int, str]  # ip, port, "" or "", 0, path: ResolvedBackend.address
Lookup = Callable[[str], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Resolution:
    """Every backend's addresses by (pool, backend name), and why a host name has none."""

    addresses: dict[tuple[str, str], tuple[Address, ...]]
    failures: dict[str, str]


async def look_up(host: str) -> Sequence[str]:
    """All IP addresses of a name by the system's resolver. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


async def resolve(config: Config, lookup: Lookup = look_up, *, timeout: float = RESOLVE_TIMEOUT) -> Resolution:
    """Addresses of every backend of `config`; each name is looked up once. Takes at most about `timeout` seconds."""
    names = dict.fromkeys(backend.host for pool in config.pools for backend in pool.backends if is_name(backend))
    found: dict[str, tuple[str, ...]] = {}
    failures: dict[str, str] = {}
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> None:
        async with gate:
            try:
                found[name] = tuple(dict.fromkeys(await lookup(name)))
            except OSError as error:
                failures[name] = error.strerror or str(error)

    tasks = {name: asyncio.ensure_future(one(name)) for name in names}
    if tasks:
        _, late = await asyncio.wait(tasks.values(), timeout=timeout)
        for name, task in tasks.items():
            if task in late:
                task.cancel()
                failures[name] = f"no answer within {timeout:g} s"
            else:
                task.result()
    addresses: dict[tuple[str, str], tuple[Address, ...]] = {}
    backends = ((pool.name, backend) for pool in config.pools for backend in pool.backends)
    for number, (pool_name, backend) in enumerate(backends, start=1):
        addresses[pool_name, backend.name] = _addresses(backend, found)
        if number % PER_TURN == 0:
            await asyncio.sleep(0)
    return Resolution(addresses, failures)


def with_slots(
    config: Config, resolution: Resolution, slots: SlotAllocator, generation: int
) -> tuple[ResolvedBackend, ...]:
    """The backends as the workers get them, one per address, each with its column. Raises SlotsExhaustedError."""
    rows: list[tuple[str, Backend, Address]] = [
        (pool.name, backend, address)
        for pool in config.pools
        for backend in pool.backends
        for address in resolution.addresses[pool.name, backend.name]
    ]
    identities: list[Identity] = [(pool, backend.name, address) for pool, backend, address in rows]
    return tuple(
        ResolvedBackend(
            pool=pool,
            name=backend.name,
            host=backend.host,
            address=address,
            slot=slot,
            weight=backend.weight,
            max_connections=backend.max_connections,
        )
        for (pool, backend, address), slot in zip(rows, slots.take(generation, identities), strict=True)
    )


def is_name(backend: Backend) -> bool:
    """The backend's host is a name that must be looked up."""
    host = backend.host
    if backend.path or ":" in host:
        return False
    if not host[-1:].isdigit():
        return True
    try:
        socket.inet_pton(socket.AF_INET, host)  # a tenth of what ipaddress takes, and there may be 10,000 to look at
    except OSError:
        return True
    return False


def _addresses(backend: Backend, found: dict[str, tuple[str, ...]]) -> tuple[Address, ...]:
    if backend.path:
        return (("", 0, backend.path),)
    hosts = found.get(backend.host, ()) if is_name(backend) else (backend.host,)
    return tuple((host, backend.port, "") for host in hosts)
