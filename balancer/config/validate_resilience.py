"""What must fit together in health checks, outlier detection and retries."""

from collections.abc import Iterator

from balancer.config.schema_pools import Pool
from balancer.config.schema_resilience import HealthCheck, OutlierDetection, Retry
from balancer.config.source import KEY, Path, Source
from balancer.config.validate_headers import own_field, same_name
from balancer.errors import Problem

_HTTP_ONLY = ("path", "method", "host", "headers", "expect_status", "expect_text")


def check_resilience(pool: Pool, place: Path, source: Source) -> Iterator[Problem]:
    """Every problem of the sections that keep `pool` serving. O(backends)."""
    if pool.health_check is not None:
        yield from _health_check(pool.health_check, (*place, "health_check"), source)
        yield from _unix_backends(pool, pool.health_check, (*place, "health_check"), source)
    if pool.outlier_detection is not None:
        yield from _outliers(pool.outlier_detection, (*place, "outlier_detection"), source)
    if pool.retry is not None:
        yield from _retry(pool.retry, (*place, "retry"), source)


def written(seconds: float) -> str:
    """A duration as a file may hold it."""
    for unit, length in (("h", 3600.0), ("m", 60.0), ("s", 1.0)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.10g}{unit}"
    return f"{seconds:.10g}s" if seconds > 1 else f"{seconds * 1000:.10g}ms"


def _right(source: Source, *places: Path) -> bool:
    """Whether no value at `places` was left out as wrong: its default, which stands in, proves nothing."""
    return not any(source.damaged(place) for place in places)


def _health_check(check: HealthCheck, place: Path, source: Source) -> Iterator[Problem]:
    if check.type == "tcp":
        for key in _HTTP_ONLY:
            if source.given((*place, key)):
                yield source.problem(
                    (*place, key, KEY),
                    f"a check of type tcp only connects, so {key} says nothing; remove one of the two",
                )
    if check.expect_text is not None and check.method == "HEAD":
        yield source.problem(
            (*place, "expect_text"), "an answer to HEAD has no content (RFC 9110 section 9.3.2); use the method GET"
        )
    for name in check.headers:
        spot = (*place, "headers", name, KEY)
        if name.lower() == "host":
            yield source.problem(spot, "a request has exactly one Host; write host: in health_check instead")
        else:
            yield from own_field(name, spot, source)
    yield from same_name(list(check.headers), (*place, "headers"), source)
    yield from _intervals(check, place, source)


def _intervals(check: HealthCheck, place: Path, source: Source) -> Iterator[Problem]:
    if check.timeout > check.interval and _right(source, (*place, "timeout"), (*place, "interval")):
        key = "timeout" if source.given((*place, "timeout")) else "interval"
        yield source.problem(
            (*place, key),
            f"the timeout ({written(check.timeout)}) is above the interval ({written(check.interval)}), so checks of a "
            "silent backend come later than it says; make the timeout shorter",
            warning=True,
        )
    given = source.given((*place, "fast_interval"))
    if given and check.fast_interval > check.interval and _right(source, (*place, "fast_interval")):
        yield source.problem(
            (*place, "fast_interval"),
            f"is above interval ({written(check.interval)}), which is used instead; make it shorter, or remove it",
            warning=True,
        )


def _unix_backends(pool: Pool, check: HealthCheck, place: Path, source: Source) -> Iterator[Problem]:
    """What a check lacks, or cannot use, where a backend is a Unix socket."""
    if not any(backend.address.startswith("unix:") for backend in pool.backends):
        return
    unnamed = check.type == "http" and check.host is None and pool.host == "keep"  # `backend` has been refused
    if unnamed and _right(source, (*place, "host"), (*place, "type"), (*place[:-1], "host")):
        yield source.problem(place, "a backend on a Unix socket has no host to send; set host in health_check")
    if check.port is not None:
        yield source.problem(
            (*place, "port"), "has no effect on backends on Unix sockets; they are checked there", warning=True
        )


def _outliers(outliers: OutlierDetection, place: Path, source: Source) -> Iterator[Problem]:
    spots = (*place, "base_ejection"), (*place, "max_ejection")
    if outliers.base_ejection > outliers.max_ejection and _right(source, *spots):
        key = "max_ejection" if source.given((*place, "max_ejection")) else "base_ejection"
        yield source.problem(
            (*place, key),
            f"base_ejection ({written(outliers.base_ejection)}) is above max_ejection "
            f"({written(outliers.max_ejection)}); make base_ejection shorter, or max_ejection longer",
        )
    if outliers.consecutive_failures is None and not outliers.failure_rate and not outliers.latency:
        yield source.problem(place, "everything in it is switched off; write outlier_detection: off", warning=True)


def _retry(retry: Retry, place: Path, source: Source) -> Iterator[Problem]:
    if not retry.when and not source.damaged((*place, "when")):
        yield source.problem((*place, "when"), "is empty, so nothing is tried again; write retry: off")
    if retry.budget is None and source.given((*place, "budget_min")):
        yield source.problem(
            (*place, "budget_min"), "has no effect while budget is off; remove one of the two", warning=True
        )
