"""The configuration as plain frozen structures: what validation produces and what crosses to the workers.

Units: durations are seconds (float), sizes bytes (int); `None` = off. Names are those of the YAML file.
Nothing here validates: `schema` and `validate` do; a `Config` is right by construction.
"""

from typing import Literal

import msgspec


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base: immutable and keyword-only; subclasses say so again, because type checkers do not inherit it."""


class Bind(Struct, frozen=True, kw_only=True):
    """One address to listen on: a TCP host and port, or a Unix socket path with its file mode."""

    host: str = ""
    port: int = 0
    path: str = ""
    mode: int = 0o666

    @property
    def text(self) -> str:
        """As written in the file: `host:port`, `[v6]:port` or `unix:/path`."""
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Certificate(Struct, frozen=True, kw_only=True):
    """Paths of a PEM chain and its key."""

    cert: str
    key: str


class ListenerTls(Struct, frozen=True, kw_only=True):
    """TLS towards clients. The first certificate is the one for unknown names."""

    certificates: tuple[Certificate, ...]
    min_version: Literal["1.2", "1.3"] = "1.2"
    client_ca: str | None = None
    client_auth: Literal["required", "optional"] = "required"


class ListenerLimits(Struct, frozen=True, kw_only=True):
    """Bounds on what a client may send or hold."""

    head_bytes: int = 64 * 1024
    header_count: int = 100
    uri_bytes: int = 8 * 1024
    max_body: int | None = None
    max_connections: int | None = None
    max_connections_per_client: int | None = None
    max_requests_per_connection: int = 10_000


class ListenerTimeouts(Struct, frozen=True, kw_only=True):
    """`head` is absolute (slowloris); the others are idle times."""

    head: float = 10.0
    body_idle: float = 30.0
    keepalive_idle: float = 75.0
    send: float = 30.0


class Listener(Struct, frozen=True, kw_only=True):
    """A bound address, or several, and what is served there."""

    name: str
    bind: tuple[Bind, ...]
    tls: ListenerTls | None = None
    trusted_proxies: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()  # names, in the order of the file's `routes`; always filled in
    half_close: Literal["cancel", "allow"] = "cancel"
    http10_keepalive: bool = False
    forwarded: bool = False  # also send RFC 7239 Forwarded
    limits: ListenerLimits = ListenerLimits()
    timeouts: ListenerTimeouts = ListenerTimeouts()


class Match(Struct, frozen=True, kw_only=True):
    """Every condition that is present must hold."""

    hosts: tuple[str, ...] = ()  # lower case, no port, no trailing dot; "*.example.com" for any depth below
    path: str | None = None
    path_prefix: str | None = None  # on segment boundaries
    path_regex: str | None = None  # matched whole (fullmatch) against the normalised path
    methods: tuple[str, ...] = ()
    headers: dict[str, str] = {}  # lower-case name -> exact value, "*" = present
    query: dict[str, str] = {}  # name -> exact value, "*" = present
    client: tuple[str, ...] = ()  # CIDRs


class PoolAction(Struct, frozen=True, kw_only=True, tag="pool"):
    """Send to one pool."""

    pool: str


class SplitAction(Struct, frozen=True, kw_only=True, tag="split"):
    """Safe methods (GET, HEAD, OPTIONS) to `read`, every other to `write`."""

    read: str
    write: str


class RedirectAction(Struct, frozen=True, kw_only=True, tag="redirect"):
    """Answer with a Location. `to` may hold {host}, {path} and {query}."""

    to: str
    status: int = 308


class RespondAction(Struct, frozen=True, kw_only=True, tag="respond"):
    """Answer with fixed content."""

    status: int = 200
    body: str = ""
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = {}


Action = PoolAction | SplitAction | RedirectAction | RespondAction


UNEDITABLE_FIELDS = (
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
)
"""Fields that decide where a message ends or belong to one connection (RFC 9110 section 7.6.1): no edit of these."""
SET_ONLY_FIELDS = ("host",)
"""Fields of which a request has exactly one (RFC 9112 section 3.2): they are set, never added or removed."""


class HeaderEdits(Struct, frozen=True, kw_only=True):
    """Applied in the order remove, set, add. Names as written."""

    set: dict[str, str] = {}
    add: dict[str, str] = {}
    remove: tuple[str, ...] = ()


class RouteHeaders(Struct, frozen=True, kw_only=True):
    """Edits of the request sent upstream and of the response sent downstream."""

    request: HeaderEdits = HeaderEdits()
    response: HeaderEdits = HeaderEdits()


class Rewrite(Struct, frozen=True, kw_only=True):
    """`strip_prefix` is cut on a segment boundary; with `replace_prefix` its text stands there instead."""

    strip_prefix: str
    replace_prefix: str = ""


class Route(Struct, frozen=True, kw_only=True):
    """match -> action."""

    name: str
    match: Match = Match()
    action: Action
    timeout: float | None = None
    max_body: int | None = None
    fallback: str | None = None  # a pool that serves when the action's own pool has nobody
    retry_non_idempotent: bool = False  # RFC 9110 9.2.2: the operator knows that these requests may be repeated
    headers: RouteHeaders = RouteHeaders()
    rewrite: Rewrite | None = None


class PoolTls(Struct, frozen=True, kw_only=True):
    """TLS towards backends. `ca` None = the system's. `server_name` None = the backend's host as written."""

    ca: str | None = None
    server_name: str | None = None
    verify: bool = True
    cert: str | None = None
    key: str | None = None


class PoolTimeouts(Struct, frozen=True, kw_only=True):
    """Seconds; None = off."""

    connect: float = 3.5
    first_byte: float | None = 60.0
    body_idle: float | None = 60.0
    attempt: float | None = None  # from the pick to the response's head


class Keepalive(Struct, frozen=True, kw_only=True):
    """Idle upstream connections, per backend and worker."""

    idle: float = 4.0
    max_idle: int = 32
    max_requests: int = 1000
    max_age: float = 3600.0


class Backend(Struct, frozen=True, kw_only=True):
    """One server as the file names it: host and port (an address or a name to resolve) or a Unix path."""

    name: str
    host: str = ""
    port: int = 0
    path: str = ""
    weight: int = 1
    max_connections: int | None = None
    backup: bool = False  # used only when no other backend of the pool is usable


class HealthCheck(Struct, frozen=True, kw_only=True):
    """Active probes. Seconds; `expect_status` holds ranges, both ends included."""

    type: Literal["http", "tcp"] = "http"
    path: str = "/"
    method: str = "GET"
    host: str | None = None  # the Host field; None = the backend's host as written
    headers: dict[str, str] = {}
    expect_status: tuple[tuple[int, int], ...] = ((200, 399),)
    expect_text: str | None = None  # within the first 64 KiB of the content
    port: int | None = None  # None = the backend's own
    interval: float = 5.0
    fast_interval: float = 1.0  # while `checking`, and between the first result that differs and the change
    timeout: float = 2.0
    healthy_after: int = 2
    unhealthy_after: int = 3


class OutlierDetection(Struct, frozen=True, kw_only=True):
    """Passive detection and ejection. Seconds; `max_ejected` is a share of the pool's backends."""

    mode: Literal["observe", "enforce"] = "enforce"
    consecutive_failures: int | None = 5  # None = off
    failure_rate: bool = True  # judged against the pool's over `window`
    latency: bool = True  # a slow outlier's weight is lowered
    silent_after: float | None = 0.1  # seconds with several requests waiting and no answer; None = off
    window: float = 10.0
    base_ejection: float = 10.0
    max_ejection: float = 300.0
    max_ejected: float = 0.5


class Retry(Struct, frozen=True, kw_only=True):
    """Further attempts. `attempts` counts the first, too; `when` holds words (connect_failure) and statuses (503)."""

    attempts: int = 2
    when: tuple[str, ...] = ("connect_failure", "reset", "timeout", "502", "503", "504")
    budget: float | None = 0.2  # retries per request of the pool, all workers together; None = no limit
    budget_min: float = 3.0  # retries per second that are allowed however few requests there are


StrategyName = Literal["round_robin", "random", "weighted", "weighted_random", "least_connections"]


class BackendsFrom(Struct, frozen=True, kw_only=True):
    """Further backends of a pool: those registered in the cluster, one per key below `prefix`."""

    prefix: str


class Pool(Struct, frozen=True, kw_only=True):
    """A named group of backends."""

    name: str
    strategy: StrategyName = "round_robin"
    host: str = "keep"  # keep | backend | a name
    tls: PoolTls | None = None
    backends: tuple[Backend, ...] = ()
    backends_from: BackendsFrom | None = None
    timeouts: PoolTimeouts = PoolTimeouts()
    keepalive: Keepalive = Keepalive()
    tunnel_idle: float | None = 3600.0
    health_check: HealthCheck | None = None  # None = off
    outlier_detection: OutlierDetection | None = OutlierDetection()  # None = off
    retry: Retry | None = Retry()  # None = off
    slow_start: float | None = 30.0  # seconds; None = off
    panic_threshold: float = 0.5  # share of usable backends below which all are used; 0 = never
    queue_timeout: float | None = 5.0  # seconds that an exchange waits for a full pool; None = it does not
    queue_max: int = 1000  # exchanges that wait, per worker


class Log(Struct, frozen=True, kw_only=True):
    """`access`: "stdout", "off" or a file's path."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console", "auto"] = "auto"
    access: str = "stdout"


class Admin(Struct, frozen=True, kw_only=True):
    """Where the admin API listens. `token_file` is required off loopback."""

    bind: Bind = Bind(host="127.0.0.1", port=9901)
    token_file: str | None = None
    hosts: tuple[str, ...] = ()  # further Host values to accept


class EmbeddedCluster(Struct, frozen=True, kw_only=True):
    """A member of an embedded cluster. `members`: name to host:port; `client` and `peer`: what it listens on."""

    name: str
    members: dict[str, str]
    client: Bind
    peer: Bind
    data_dir: str
    peer_secret_file: str | None = None
    join: bool = False
    heartbeat: float = 0.05
    election: float = 0.3


class Etcd(Struct, frozen=True, kw_only=True):
    """An etcd that stands in for the embedded cluster. `endpoints`: http://host:port; `name` None = this machine's."""

    endpoints: tuple[str, ...]
    name: str | None = None


class Coordination(Struct, frozen=True, kw_only=True):
    """How this balancer agrees with others: by one of the two. `share_checks`: probe only a share of the backends."""

    embedded: EmbeddedCluster | None = None
    etcd: Etcd | None = None
    share_checks: bool = False


class Config(Struct, frozen=True, kw_only=True):
    """The whole file."""

    workers: int = 1  # `auto` is resolved to a number by validation
    user: str | None = None
    group: str | None = None
    runtime_dir: str | None = None
    via: str | None = "auto"  # pseudonym in Via; "auto" = derived from this machine; None = no Via
    max_connections: int | None = None  # client connections of all workers; None = from the descriptor limit
    log: Log = Log()
    admin: Admin = Admin()
    watch: bool = False  # reload when the file changes
    coordination: Coordination | None = None
    shutdown_delay: float = 5.0
    shutdown_grace: float = 30.0
    tunnel_grace: float = 60.0
    listeners: tuple[Listener, ...]
    routes: tuple[Route, ...]
    pools: tuple[Pool, ...]


class ResolvedBackend(Struct, frozen=True, kw_only=True):
    """One address of one backend, with the slot that the supervisor gave it; what workers build from.

    `host` is the name or address as written; `address` is (ip, port, "") or ("", 0, unix path).
    """

    pool: str
    name: str
    host: str
    address: tuple[str, int, str]
    slot: int
    weight: int = 1
    max_connections: int | None = None
