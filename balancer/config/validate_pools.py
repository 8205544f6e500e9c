"""What must fit together in a pool: its backends, their names and weights, TLS, times."""

from collections.abc import Iterator

from balancer.config import addresses
from balancer.config.convert import located
from balancer.config.scalars import shown
from balancer.config.schema_pools import IGNORE_WEIGHTS, Backend, Pool, PoolTls
from balancer.config.source import Path, Source
from balancer.config.validate_resilience import check_resilience, written
from balancer.errors import Problem


def check_pool(name: str, pool: Pool, source: Source, base: str) -> Iterator[Problem]:
    """Every problem of one pool; `base` is the folder from which relative paths start. O(backends)."""
    place: Path = ("pools", name)
    if not pool.backends and pool.backends_from is None and not source.damaged((*place, "backends")):
        yield source.problem(
            (*place, "backends"), "the pool has no backends, so its requests get 503; add some", warning=True
        )
    first: dict[str, int] = {}
    for index, backend in enumerate(pool.backends):
        spot = (*place, "backends", index)
        identity = backend.name or backend.address
        other = first.setdefault(identity, index)
        if other != index:
            line = source.line((*place, "backends", other))
            yield source.problem(
                spot, f"there is a backend {shown(identity)} in line {line}; give one of the two another name"
            )
        yield from _backend_path(backend, spot, pool, source, base)
    yield from _weights(pool, place, source)
    if pool.backends and all(backend.backup for backend in pool.backends) and not source.damaged((*place, "backends")):
        yield source.problem((*place, "backends"), "all are backups, but of nothing; make at least one no backup")
    yield from _waiting(pool, place, source)
    yield from check_resilience(pool, place, source)
    if pool.tls is not None:
        yield from _pool_tls(pool.tls, (*place, "tls"), source)


def _backend_path(backend: Backend, spot: Path, pool: Pool, source: Source, base: str) -> Iterator[Problem]:
    if not backend.address.startswith("unix:"):
        return
    try:
        path = backend.address.removeprefix("unix:")
        addresses.unix_path(located(path, base) if path else "")
    except ValueError as error:
        yield source.problem((*spot, "address"), str(error))
    if pool.host == "backend":
        yield source.problem(
            (*spot, "address"), "a Unix socket has no host to send; set the pool's host to keep or to a name"
        )
    if pool.tls is not None and pool.tls.verify and pool.tls.server_name is None:
        yield source.problem(
            (*spot, "address"), "a Unix socket has no name to verify; set server_name in the pool's tls"
        )


def _weights(pool: Pool, place: Path, source: Source) -> Iterator[Problem]:
    weights = [backend.weight for backend in pool.backends]
    if weights and not any(weights):
        yield source.problem(
            (*place, "backends"), "every weight is 0, so its requests get 503; give one a weight above 0", warning=True
        )
    if pool.strategy in IGNORE_WEIGHTS:
        unused = next((index for index, weight in enumerate(weights) if weight > 1), None)
        if unused is not None:
            heeding = "weighted" if pool.strategy == "round_robin" else "weighted_random"
            yield source.problem(
                (*place, "backends", unused, "weight"),
                f"the strategy {pool.strategy} ignores weights (but for 0); write strategy: {heeding}, or remove them",
                warning=True,
            )


def _pool_tls(tls: PoolTls, place: Path, source: Source) -> Iterator[Problem]:
    for one, other in (("cert", "key"), ("key", "cert")):
        if source.given((*place, one)) and not source.given((*place, other)):
            yield source.problem((*place, one), f"{one} is of no use without {other}; add {other}, or remove {one}")
    if tls.ca is not None and not tls.verify:
        yield source.problem((*place, "ca"), "has no effect while verify is false; remove one of the two", warning=True)


def _waiting(pool: Pool, place: Path, source: Source) -> Iterator[Problem]:
    """Times and bounds of which one makes the other pointless."""
    timeouts = pool.timeouts
    spot = (*place, "timeouts", "attempt")
    right = not source.damaged(spot) and not source.damaged((*place, "timeouts", "connect"))
    if right and timeouts.attempt is not None and timeouts.attempt < timeouts.connect:
        yield source.problem(
            spot,
            f"ends an attempt before connect ({written(timeouts.connect)}) could; make it longer, or connect shorter",
            warning=True,
        )
    if pool.queue_timeout is None and source.given((*place, "queue_max")):
        yield source.problem(
            (*place, "queue_max"), "has no effect while queue_timeout is off; remove one of the two", warning=True
        )
