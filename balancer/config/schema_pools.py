"""The schema of pools and their backends."""

from typing import Annotated, ClassVar

from balancer.config import addresses
from balancer.config.fields import (
    Boolean,
    FilePath,
    Kind,
    Name,
    did_you_mean,
    duration,
    duration_or_off,
    integer,
    integer_or_off,
    of,
    share_or_off,
)
from balancer.config.scalars import shown
from balancer.config.schema_base import Base, OrOff, key
from balancer.config.schema_resilience import HealthCheck, OutlierDetection, Retry

STRATEGIES = ("round_robin", "random", "weighted", "weighted_random", "least_connections")
LATER_STRATEGIES = ("power_of_two", "peak_ewma", "consistent_hash", "adaptive")
PREFIX_MAX = 256
IGNORE_WEIGHTS = ("round_robin", "random")


def _strategy(text: str) -> str:
    if text in STRATEGIES:
        return str(text)
    if text in LATER_STRATEGIES:
        raise ValueError(f"the strategy {text} is not supported yet; possible here: {', '.join(STRATEGIES)}")
    raise ValueError(f"{shown(text)} is not a strategy; {did_you_mean(text, STRATEGIES)}")


def _host(text: str) -> str:
    return text if text in ("keep", "backend") else addresses.authority(text)


def _backend_address(text: str) -> str:
    if not text.startswith("unix:"):
        addresses.backend_address(text)
    return text


def _prefix(text: str) -> str:
    if not text.startswith("/") or not text.endswith("/") or len(text) < 2:
        raise ValueError(f"{shown(text)} must begin and end with a slash; write such as /services/api/")
    if text.startswith("/balancer/"):
        raise ValueError(f"{shown(text)} is where balancers keep what is theirs; write such as /services/api/")
    if len(text) > PREFIX_MAX:
        raise ValueError(f"has more than {PREFIX_MAX} characters; shorten it")
    return text


class PoolTls(Base):
    """TLS towards backends."""

    ca: FilePath | None = key(
        None, description="PEM file of the authorities to trust. Unset: those of the system, as every client does."
    )
    server_name: Annotated[str, of("host", addresses.server_name)] | None = key(
        None, description="Name sent as SNI and checked in the certificate. Unset: the backend's host as written."
    )
    verify: Boolean = key(
        True, description="Check the backend's certificate and name. true: without it anyone in between can pose as it."
    )
    cert: FilePath | None = key(
        None, description="PEM chain to show to backends that ask for one. Unset: they are shown none."
    )
    key: FilePath | None = key(None, description="Key of `cert`. Unset, like `cert`: both are given or neither.")


class PoolTimeouts(Base):
    """How long a backend may take."""

    connect: Annotated[float, duration("1ms", "10m")] = key(
        "3.5s",
        description="TCP connect; with TLS the handshake may take 5 s more. 3.5s: room for one lost SYN "
        "(sent again after 1 s) and a second one (after 3 s); waiting longer only delays the error.",
    )
    first_byte: Annotated[float | None, duration_or_off("1ms", "24h")] = key(
        "60s",
        description="From the end of the request to the first byte of the response, or off. 60s: the number that "
        "users of other proxies live with already.",
    )
    body_idle: Annotated[float | None, duration_or_off("1ms", "24h")] = key(
        "60s",
        description="Silence inside a response body, or off. 60s: a stream may last for ever, a dead backend not.",
    )
    attempt: Annotated[float | None, duration_or_off("1ms", "24h")] = key(
        "off",
        description="From the pick of a backend, or from the end of the request if that is later, to the head of the "
        "response. off: connect and first_byte bound it already; a time here leaves some for another attempt.",
    )


class Keepalive(Base):
    """Idle connections to backends, kept per backend and worker."""

    idle: Annotated[float, duration("1ms", "24h")] = key(
        "4s",
        description="An idle connection is closed after this time. 4s: below the 5 s after which common application "
        "servers close theirs, so that a request seldom meets a closing connection.",
    )
    max_idle: Annotated[int, integer_or_off(1, 100_000, off=0)] = key(
        32,
        description="Idle connections kept, or off for none. 32: enough to avoid connecting anew under load, few "
        "enough for a small backend.",
    )
    max_requests: Annotated[int, integer(1, 1_000_000_000)] = key(
        1000, description="Requests on one connection before it is replaced. 1000: lets changes behind the name show."
    )
    max_age: Annotated[float, duration("1ms", "720h")] = key(
        "1h", description="Age at which a connection is replaced once idle. 1h: the same, for quiet backends."
    )


class Backend(Base):
    """One server. A bare string is its address."""

    short: ClassVar[str] = "address"

    name: Name | None = key(
        None,
        description="Name in metrics, logs and the admin API, unique in its pool. Unset: the address as written, "
        "which is unique already in most files.",
    )
    address: Annotated[str, of("address", _backend_address)] = key(
        description="host:port, [v6]:port or unix:/path. A name is resolved at start and at reload; all its addresses "
        "are used.",
        example='"127.0.0.1:9001"',
    )
    weight: Annotated[int, integer(0, 65535)] = key(
        1, description="Share of the traffic beside the pool's other weights; 0 = no new traffic. 1: all alike."
    )
    max_connections: Annotated[int | None, integer_or_off(1, 10_000_000)] = key(
        "off",
        description="Exchanges and tunnels in flight from this machine, all workers together. off: only the operator "
        "knows what a backend bears.",
    )
    backup: Boolean = key(
        False,
        description="Used only while no other backend of the pool is usable. false: a server that serves earns its "
        "keep, and one that never does is never known to work.",
    )


class BackendsFrom(Base):
    """Backends that programs register in the cluster: each key below the prefix is one, as long as its lease lives."""

    prefix: Annotated[str, of("prefix of keys", _prefix)] | None = key(
        None,
        description="Keys that begin with it are backends: what follows is the name, the value is the address, or a "
        "mapping of address and weight as JSON. Unset: an error, since every pool needs its own.",
        example="/services/api/",
    )


class Pool(Base):
    """A named group of backends and how one of them is picked."""

    strategy: Annotated[str, Kind(" or ".join(STRATEGIES), _strategy, {"enum": list(STRATEGIES)})] = key(
        "round_robin", description="How a backend is picked. round_robin: strict turns, the least surprising."
    )
    host: Annotated[str, of("keep, backend or a host", _host)] = key(
        "keep",
        description="The Host field sent upstream: keep the client's, the backend's address as written, or a name. "
        "keep: applications build links and choose sites from it.",
    )
    tls: PoolTls | None = key(
        None, description="Speak TLS to the backends; {} for all defaults. Unset: plain TCP, as inside most networks."
    )
    backends: list[Backend] = key(
        list,
        description="The servers: addresses, or mappings. Empty: the pool answers 503 until it gets one.",
    )
    backends_from: BackendsFrom | None = key(
        None, description="Where further backends register themselves. Unset: `backends` alone are the pool."
    )
    timeouts: PoolTimeouts = key(PoolTimeouts, description="How long a backend may take.")
    keepalive: Keepalive = key(Keepalive, description="Idle connections to backends.")
    tunnel_idle: Annotated[float | None, duration_or_off("1ms", "720h")] = key(
        "1h",
        description="Silence after which a tunnel (WebSocket) is closed, or off. 1h: shorter times cut quiet but "
        "living sessions, which is a frequent complaint about 60 s.",
    )
    health_check: Annotated[HealthCheck | None, OrOff()] = key(
        "off",
        description="Ask every backend regularly whether it works: a section, or only the path. off: which path "
        "says so, only the application knows; {} asks for / and takes all defaults.",
    )
    outlier_detection: Annotated[OutlierDetection | None, OrOff()] = key(
        OutlierDetection, description="Judge backends by real traffic, or off. On: it needs nothing from them."
    )
    retry: Annotated[Retry | None, OrOff()] = key(
        Retry,
        description="Try a request again when a backend fails it, or off. On, within a budget: most single failures "
        "need not reach a client.",
    )
    slow_start: Annotated[float | None, duration_or_off("1ms", "24h")] = key(
        "30s",
        description="Time in which a new or recovered backend comes to its whole share, or off; never at the start of "
        "the balancer. 30s: caches fill and code warms up in less.",
    )
    panic_threshold: Annotated[float, share_or_off("1%", "100%", off=0.0)] = key(
        "50%",
        description="Share of usable backends below which all are used, healthy or not, or off. 50%: the few that "
        "are left would fall under the load of all, and checks that fail everywhere are often wrong.",
    )
    queue_timeout: Annotated[float | None, duration_or_off("1ms", "1h")] = key(
        "5s",
        description="Time that an exchange waits when every backend has reached its `max_connections`, then 503; off: "
        "503 at once. 5s: short bursts pass; whoever waits longer has mostly left.",
    )
    queue_max: Annotated[int, integer(1, 1_000_000)] = key(
        1000,
        description="Exchanges that wait at a time, per worker; one more gets 503. 1000: bounds memory, and a longer "
        "queue would not be served in time.",
    )
