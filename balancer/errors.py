"""How things end: one closed table of outcomes, and the root of our exceptions.

Law: every way in which an exchange, an attempt or a connection can end is a row of OUTCOMES. Code names
a row; status, retry rule, blame and log words are looked up, never decided twice. Input from a network
or a file raises one of the exceptions below; it never reaches an assert.
"""

from dataclasses import dataclass
from enum import StrEnum


class Source(StrEnum):
    """Whose doing an ending is: the access log's `ended_by`."""

    NONE = "-"
    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    INTERNAL = "internal"


class Phase(StrEnum):
    """What was going on when it ended: the access log's `phase`."""

    DONE = "done"
    CONNECTION = "connection"
    REQUEST_HEAD = "request_head"
    ROUTE = "route"
    PICK = "pick"
    CONNECT = "connect"
    REQUEST_BODY = "request_body"
    RESPONSE_HEAD = "response_head"
    RESPONSE_BODY = "response_body"
    TUNNEL = "tunnel"


class Retryable(StrEnum):
    """When another attempt may follow (RFC 9110 section 9.2.2)."""

    NEVER = "never"
    ALWAYS = "always"  # nothing of the request was sent
    IDEMPOTENT = "idempotent"  # it may have been processed


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row of the table. `status` is what the client is told while nothing was sent to it; 0 = nothing can be."""

    reason: str
    source: Source
    phase: Phase
    status: int
    retryable: Retryable = Retryable.NEVER
    counts_against_backend: bool = False
    proxy_status: str = ""  # RFC 9209 error token


OUTCOMES: dict[str, Outcome] = {}


def _row(
    reason: str,
    source: Source,
    phase: Phase,
    status: int,
    retryable: Retryable = Retryable.NEVER,
    *,
    counts: bool = False,
    proxy_status: str = "",
) -> Outcome:
    outcome = Outcome(reason, source, phase, status, retryable, counts, proxy_status)
    OUTCOMES[reason] = outcome
    return outcome


_D, _U, _I = Source.DOWNSTREAM, Source.UPSTREAM, Source.INTERNAL

COMPLETED = _row("ok", Source.NONE, Phase.DONE, 0)

# The client's side.
BAD_REQUEST = _row("bad_request", _D, Phase.REQUEST_HEAD, 400)
BAD_BODY = _row("bad_body", _D, Phase.REQUEST_BODY, 400)
METHOD_REFUSED = _row("method_refused", _D, Phase.REQUEST_HEAD, 405)
HEAD_TIMEOUT = _row("head_timeout", _D, Phase.REQUEST_HEAD, 408)
BODY_TIMEOUT = _row("body_timeout", _D, Phase.REQUEST_BODY, 408)
BODY_TOO_LARGE = _row("body_too_large", _D, Phase.REQUEST_BODY, 413)
URI_TOO_LONG = _row("uri_too_long", _D, Phase.REQUEST_HEAD, 414)
EXPECTATION_FAILED = _row("expectation_failed", _D, Phase.REQUEST_HEAD, 417)
HEAD_TOO_LARGE = _row("head_too_large", _D, Phase.REQUEST_HEAD, 431)
METHOD_UNKNOWN = _row("method_unknown", _D, Phase.REQUEST_HEAD, 501)
CODING_UNKNOWN = _row("coding_unknown", _D, Phase.REQUEST_HEAD, 501)
VERSION_UNSUPPORTED = _row("version_unsupported", _D, Phase.REQUEST_HEAD, 505)
CLIENT_CONNECTIONS = _row("client_connections", _D, Phase.CONNECTION, 429)
CLIENT_GONE = _row("client_gone", _D, Phase.RESPONSE_HEAD, 499)
CLIENT_GONE_IN_QUEUE = _row("client_gone_in_queue", _D, Phase.PICK, 499)
CLIENT_GONE_IN_REQUEST = _row("client_gone_in_request", _D, Phase.REQUEST_BODY, 499)
CLIENT_GONE_IN_RESPONSE = _row("client_gone_in_response", _D, Phase.RESPONSE_BODY, 499)
CLIENT_STALLED = _row("client_stalled", _D, Phase.RESPONSE_BODY, 0)

# Our own.
NO_ROUTE = _row("no_route", _I, Phase.ROUTE, 404)
METHOD_NOT_ROUTED = _row("method_not_routed", _I, Phase.ROUTE, 405)
LOOP = _row("loop", _I, Phase.ROUTE, 508, proxy_status="proxy_loop_detected")
POOL_EMPTY = _row("pool_empty", _I, Phase.PICK, 503, proxy_status="destination_unavailable")
POOL_DOWN = _row("pool_down", _I, Phase.PICK, 503, proxy_status="destination_unavailable")
QUEUE_TIMEOUT = _row("queue_timeout", _I, Phase.PICK, 503, proxy_status="connection_limit_reached")
POOL_FULL = _row("pool_full", _I, Phase.PICK, 503, proxy_status="connection_limit_reached")
CONNECTIONS = _row("connections", _I, Phase.CONNECTION, 503)
EXCHANGE_TIMEOUT = _row("exchange_timeout", _I, Phase.RESPONSE_HEAD, 504, proxy_status="http_response_timeout")
SHUTDOWN = _row("shutdown", _I, Phase.RESPONSE_BODY, 503)
INTERNAL_ERROR = _row("internal_error", _I, Phase.ROUTE, 500, proxy_status="proxy_internal_error")

# The backend's side.
ATTEMPT_TIMEOUT = _row(
    "attempt_timeout",
    _U,
    Phase.RESPONSE_HEAD,
    504,
    Retryable.IDEMPOTENT,
    counts=True,
    proxy_status="http_response_timeout",
)
CONNECT_FAILED = _row(
    "connect_failed", _U, Phase.CONNECT, 502, Retryable.ALWAYS, counts=True, proxy_status="connection_refused"
)
CONNECT_TIMEOUT = _row(
    "connect_timeout", _U, Phase.CONNECT, 504, Retryable.ALWAYS, counts=True, proxy_status="connection_timeout"
)
TLS_FAILED = _row(
    "tls_failed", _U, Phase.CONNECT, 502, Retryable.ALWAYS, counts=True, proxy_status="tls_protocol_error"
)
STALE_CONNECTION = _row(
    "stale_connection", _U, Phase.RESPONSE_HEAD, 502, Retryable.IDEMPOTENT, proxy_status="connection_terminated"
)
UPSTREAM_RESET = _row(
    "upstream_reset",
    _U,
    Phase.RESPONSE_HEAD,
    502,
    Retryable.IDEMPOTENT,
    counts=True,
    proxy_status="connection_terminated",
)
FIRST_BYTE_TIMEOUT = _row(
    "first_byte_timeout",
    _U,
    Phase.RESPONSE_HEAD,
    504,
    Retryable.IDEMPOTENT,
    counts=True,
    proxy_status="http_response_timeout",
)
BAD_RESPONSE = _row(
    "bad_response",
    _U,
    Phase.RESPONSE_HEAD,
    502,
    Retryable.IDEMPOTENT,
    counts=True,
    proxy_status="http_protocol_error",
)
RESPONSE_HEAD_TOO_LARGE = _row(
    "response_head_too_large",
    _U,
    Phase.RESPONSE_HEAD,
    502,
    counts=True,
    proxy_status="http_response_header_section_size",
)
UPSTREAM_TRUNCATED = _row("upstream_truncated", _U, Phase.RESPONSE_BODY, 0, counts=True)
BAD_RESPONSE_BODY = _row("bad_response_body", _U, Phase.RESPONSE_BODY, 0, counts=True)
BODY_IDLE_TIMEOUT = _row("body_idle_timeout", _U, Phase.RESPONSE_BODY, 0, counts=True)
TUNNEL_CLOSED = _row("tunnel_closed", Source.NONE, Phase.TUNNEL, 0)
TUNNEL_IDLE = _row("tunnel_idle", _I, Phase.TUNNEL, 0)


class BalancerError(Exception):
    """Root of every exception of ours."""


class ProtocolError(BalancerError):
    """A peer broke HTTP, or a limit. `outcome` says which row of the table, `detail` what for the log."""

    def __init__(self, outcome: Outcome, detail: str = "") -> None:
        super().__init__(detail or outcome.reason)
        self.outcome = outcome
        self.detail = detail


class ConfigError(BalancerError):
    """The configuration cannot be used. Carries every problem found, not the first."""

    def __init__(self, problems: "list[Problem]") -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a configuration file. `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    path: str
    message: str
    warning: bool = False

    def __str__(self) -> str:
        kind = "warning: " if self.warning else ""
        return f"{self.file}:{self.line}:{self.column}: {self.path}: {kind}{self.message}"
