"""What the supervisor and a worker say to each other. One union, so that a channel needs no sense of direction.

Requests and their answers: Prepare -> Prepared | Refused; Listen -> Ready; Commit, Unlisten, Drain -> Done;
PullCounters -> Counters; Ping -> Pong. Hello and pushed Counters are told without being asked.
"""

from typing import Literal

import msgspec

from balancer.config.model import Bind, Config, Log, ResolvedBackend
from balancer.resilience.standing import Standing
from balancer.telemetry.registry import Sample

PROTOCOL_VERSION = 1


class Struct(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Base: immutable, told apart by the class's name."""


class Start(msgspec.Struct, frozen=True):
    """What a worker is told by its command line, as JSON: who it is, and the numbers of its descriptors."""

    worker: int
    rows: int
    backend_columns: int
    channel: int
    memory: int
    inbox: int
    outlets: tuple[int, ...]  # by worker slot; the way to its inbox
    log: Log


class Hello(Struct, frozen=True, tag=True):
    """Worker: I am here and speak this version."""

    version: int
    worker: int
    pid: int


class Ready(Struct, frozen=True, tag=True):
    """Worker: I listen on all of these, and hold this generation."""

    generation: int


class Prepare(Struct, frozen=True, tag=True):
    """Build this generation beside the one in use. `files` holds the TLS files by their path in the config.

    `columns`: each listener's in the table of connections. `rows`: the worker slots that are in use.
    """

    generation: int
    config: Config
    backends: tuple[ResolvedBackend, ...]
    files: dict[str, bytes] = {}
    columns: dict[str, int] = {}
    rows: tuple[int, ...] = ()


class Prepared(Struct, frozen=True, tag=True):
    """Worker: built; Commit would take it into use."""

    generation: int


class Refused(Struct, frozen=True, tag=True):
    """Worker: it cannot be done, and why, one text per problem."""

    errors: tuple[str, ...]


class Commit(Struct, frozen=True, tag=True):
    """Take the prepared generation into use."""

    generation: int


class Abort(Struct, frozen=True, tag=True):
    """Forget the prepared generation."""

    generation: int


class Done(Struct, frozen=True, tag=True):
    """Worker: what was asked is done."""


class BackendStates(Struct, frozen=True, tag=True):
    """Standings that changed, for Ready all of them. `epoch` rises by one per message to all workers.

    `down` names the pools in which nobody is usable although they have backends (their answer is POOL_DOWN).
    """

    epoch: int
    changes: tuple[Standing, ...]
    down: tuple[str, ...] = ()


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """One attempt that failed, and by how much this worker's successes at that backend rose before it."""

    slot: int
    reason: str  # Outcome.reason, or "status_5xx" where a response's status counts as a failure
    succeeded: int  # attempts that went well since this worker's last report of that slot


class Successes(msgspec.Struct, frozen=True, array_like=True):
    """Attempts at one backend that went well since the last report, and what they took in all (seconds)."""

    slot: int
    count: int
    first_byte_sum: float


class Outcomes(Struct, frozen=True, tag=True):
    """Worker: failures at once (batched per loop turn, at most every 5 ms), successes with them or every second.

    The supervisor takes failures in the order of arrival.
    """

    failures: tuple[Failure, ...] = ()
    successes: tuple[Successes, ...] = ()


class PullCounters(Struct, frozen=True, tag=True):
    """Tell what changed since you last told."""


class Counters(Struct, frozen=True, tag=True):
    """Worker: differences of counters, values of gauges."""

    samples: list[Sample]


class ListenOn(msgspec.Struct, frozen=True):
    """One socket; `key` is its name from now on."""

    key: int
    listener: str
    bind: Bind


class Listen(Struct, frozen=True, tag=True):
    """Serve on the sockets whose descriptors come along, position for position."""

    sockets: tuple[ListenOn, ...]


class Unlisten(Struct, frozen=True, tag=True):
    """Stop accepting on these sockets and close your descriptors; what was accepted, or is in the queues, stays."""

    keys: tuple[int, ...]


class ReopenLogs(Struct, frozen=True, tag=True):
    """Open log files anew (they were rotated)."""


class LogLevel(Struct, frozen=True, tag=True):
    """Log from this level on."""

    level: Literal["debug", "info", "warning", "error"]


class Drain(Struct, frozen=True, tag=True):
    """One phase of the shutdown: say goodbye in every answer; stop listening; finish and exit."""

    phase: Literal["announce", "stop_listening", "finish"]
    grace: float = 0.0
    tunnel_grace: float = 0.0


class Ping(Struct, frozen=True, tag=True):
    """Are you alive?"""


class Pong(Struct, frozen=True, tag=True):
    """Worker: alive. Seconds: `loop_lag` is the worst since the last Pong, `last_accept` on the monotonic clock."""

    loop_lag: float
    last_accept: float
    in_flight: int


Message = (
    Hello
    | Ready
    | Prepare
    | Prepared
    | Refused
    | Commit
    | Abort
    | Done
    | BackendStates
    | Outcomes
    | PullCounters
    | Counters
    | Listen
    | Unlisten
    | ReopenLogs
    | LogLevel
    | Drain
    | Ping
    | Pong
)
