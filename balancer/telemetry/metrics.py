"""Every metric family: name, kind, HELP text and labels. docs/metrics.md is checked against this table."""

from dataclasses import dataclass
from enum import StrEnum

# Seconds. Twelve buckets from 500 us to 10 s: finer than a client notices below, coarser than a timeout above.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0)


class Kind(StrEnum):
    """How a family's cells are laid out and rendered."""

    COUNTER = "counter"
    GAUGE = "gauge"
    CODES = "codes"  # a counter with the label `code`
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric family. `labels` leaves out the label `code` of CODES."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {}


def _family(name: str, kind: Kind, help_text: str, *labels: str) -> str:
    FAMILIES[name] = Family(name, kind, help_text, labels)
    return name


REQUESTS = _family(
    "balancer_requests_total",
    Kind.CODES,
    "Exchanges that ended, by class of the status sent; none = the client got no status.",
    "listener",
    "route",
    "pool",
)
REQUEST_DURATION = _family(
    "balancer_request_duration_seconds",
    Kind.HISTOGRAM,
    "From the end of the request head to the end of the response.",
    "route",
)
TERMINATIONS = _family(
    "balancer_terminations_total",
    Kind.COUNTER,
    "Exchanges and connections that ended other than well, by who ended them, when and why.",
    "listener",
    "ended_by",
    "phase",
    "reason",
)
BACKEND_REQUESTS = _family(
    "balancer_backend_requests_total",
    Kind.CODES,
    "Attempts that ended, by class of the backend's status; none = no response head came.",
    "pool",
    "backend",
)
BACKEND_DURATION = _family(
    "balancer_backend_duration_seconds",
    Kind.HISTOGRAM,
    "From the start of an attempt to its end.",
    "pool",
    "backend",
)
RETRIES = _family("balancer_retries_total", Kind.COUNTER, "Attempts after the first, by reason.", "pool", "reason")
UPSTREAM_CONNECTIONS = _family(
    "balancer_upstream_connections",
    Kind.GAUGE,
    "Connections to backends, by state: active or idle.",
    "pool",
    "backend",
    "state",
)
UPSTREAM_CONNECTS = _family(
    "balancer_upstream_connects_total",
    Kind.COUNTER,
    "Connections opened to backends, by result: ok, failed or timeout.",
    "pool",
    "backend",
    "result",
)
STALE_CONNECTIONS = _family(
    "balancer_stale_connections_total",
    Kind.COUNTER,
    "Reused connections that the backend had closed before it answered.",
    "pool",
)
BACKEND_SILENCES = _family(
    "balancer_backend_silences_total",
    Kind.COUNTER,
    "How often a worker gave a backend nothing more, because it had stopped to answer.",
    "pool",
    "backend",
)
DOWNSTREAM_CONNECTIONS = _family(
    "balancer_downstream_connections", Kind.GAUGE, "Client connections that are open.", "listener"
)
BYTES = _family(
    "balancer_bytes_total",
    Kind.COUNTER,
    "Bytes from (in) and to (out) clients, heads included, TLS not.",
    "listener",
    "direction",
)
LIMIT_REJECTIONS = _family(
    "balancer_limit_rejections_total", Kind.COUNTER, "Requests and connections refused by a limit.", "limit"
)
ACCESS_LOG_DROPPED = _family(
    "balancer_access_log_dropped_total", Kind.COUNTER, "Access log lines dropped because their writer was behind."
)

# Set by the supervisor, which knows what no worker knows.
BACKEND_IN_FLIGHT = _family(
    "balancer_backend_in_flight",
    Kind.GAUGE,
    "Exchanges and tunnels in flight at a backend, all workers together.",
    "pool",
    "backend",
)
BACKEND_WEIGHT = _family(
    "balancer_backend_weight", Kind.GAUGE, "A backend's weight as it is in use; 0 = no new traffic.", "pool", "backend"
)
BACKEND_UP = _family(
    "balancer_backend_up",
    Kind.GAUGE,
    "1 while a backend's health checks pass, or there are none, and it is not ejected; else 0.",
    "pool",
    "backend",
)
BACKEND_EJECTIONS = _family(
    "balancer_backend_ejections_total",
    Kind.COUNTER,
    "Ejections of a backend for failures in traffic.",
    "pool",
    "backend",
)
EJECTIONS_DETECTED = _family(
    "balancer_ejections_detected_total",
    Kind.COUNTER,
    "Ejections, and those that mode observe or max_ejected prevented.",
    "pool",
    "backend",
)
HEALTH_CHECKS = _family(
    "balancer_health_checks_total",
    Kind.COUNTER,
    "Results of active health checks, by result: passed or failed; also those that another balancer told.",
    "pool",
    "backend",
    "result",
)
PANIC = _family(
    "balancer_panic", Kind.GAUGE, "1 while a pool ignores health because too few backends are usable, else 0.", "pool"
)
CLUSTER_IS_LEADER = _family(
    "balancer_cluster_is_leader", Kind.GAUGE, "1 while this node's member leads the cluster, else 0."
)
CLUSTER_TERM = _family("balancer_cluster_term", Kind.GAUGE, "The member's term: it grows with every election.")
CLUSTER_COMMIT_INDEX = _family(
    "balancer_cluster_commit_index", Kind.GAUGE, "The last log entry that the member knows to be committed."
)
CLUSTER_APPLIED_INDEX = _family(
    "balancer_cluster_applied_index", Kind.GAUGE, "The last log entry that the member has applied."
)
CLUSTER_PROPOSALS = _family(
    "balancer_cluster_proposals_total", Kind.COUNTER, "Commands that this member was asked for, by outcome.", "result"
)
CLUSTER_FSYNC = _family(
    "balancer_cluster_fsync_seconds", Kind.GAUGE, "99th percentile of the member's last 512 writes to its log."
)
CLUSTER_CHECKS = _family(
    "balancer_cluster_checks",
    Kind.GAUGE,
    "Backends with health checks, by how they are known: own = this balancer probes them, others = it is told.",
    "how",
)
CLUSTER_SUSPECT = _family(
    "balancer_cluster_data_suspect", Kind.GAUGE, "1 when the member's data cannot be trusted and it stays down."
)
CLUSTER_DUTY = _family(
    "balancer_cluster_duty", Kind.GAUGE, "1 while this balancer does a duty for all of them, else 0.", "duty"
)
REGISTERED_BACKENDS = _family(
    "balancer_registered_backends",
    Kind.GAUGE,
    "Backends that registered in the cluster, by state: in_use, left_out or wrong (a value that cannot be used).",
    "pool",
    "state",
)
WORKER_UP = _family("balancer_worker_up", Kind.GAUGE, "1 while a worker is ready, else 0.", "worker")
WORKER_RESTARTS = _family(
    "balancer_worker_restarts_total", Kind.COUNTER, "Workers started in the place of one that ended unasked."
)
LOOP_LAG = _family(
    "balancer_loop_lag_seconds",
    Kind.GAUGE,
    "How late a worker's event loop ran a timer, the worst since the last report.",
    "worker",
)
CONFIG_GENERATION = _family(
    "balancer_config_generation", Kind.GAUGE, "Number of the configuration in use; every reload raises it."
)
CONFIG_RELOADS = _family(
    "balancer_config_reloads_total",
    Kind.COUNTER,
    "Times that the configuration was read again, by result: ok or refused.",
    "result",
)
CONFIG_LAST_RELOAD_SUCCESS = _family(
    "balancer_config_last_reload_success",
    Kind.GAUGE,
    "1 when the configuration that was read last is in use, 0 when it was refused.",
)
BUILD_INFO = _family(
    "balancer_build_info", Kind.GAUGE, "Always 1; the labels say what is running.", "version", "python"
)

# The supervisor's own process, under the names that every Prometheus client uses.
PROCESS_START_TIME = _family(
    "process_start_time_seconds", Kind.GAUGE, "When the supervisor started, in seconds since 1970 UTC."
)
PROCESS_CPU = _family(
    "process_cpu_seconds_total", Kind.COUNTER, "User and system CPU time of the supervisor, in seconds."
)
PROCESS_RESIDENT = _family("process_resident_memory_bytes", Kind.GAUGE, "Resident memory of the supervisor.")
PROCESS_VIRTUAL = _family("process_virtual_memory_bytes", Kind.GAUGE, "Virtual memory of the supervisor.")
PROCESS_OPEN_FDS = _family("process_open_fds", Kind.GAUGE, "Descriptors that the supervisor has open.")
PROCESS_MAX_FDS = _family("process_max_fds", Kind.GAUGE, "Descriptors that the supervisor may have open.")
