"""What an exchange leaves behind: counters and its line in the access log. Hot path."""

from bisect import bisect_left
from typing import TYPE_CHECKING

from balancer.clock import monotonic, wall
from balancer.errors import COMPLETED, Outcome
from balancer.telemetry import metrics
from balancer.telemetry.access_log import ENDINGS, format_line
from balancer.telemetry.metrics import BOUNDS
from balancer.telemetry.registry import Cells, Registry

if TYPE_CHECKING:
    from balancer.proxy.downstream import Downstream
    from balancer.proxy.exchange import Exchange


class BackendCounters:
    """The counters of one backend: attempts by class of the backend's status (none = no head came), durations.

    `first_byte` is the sum of times to the first byte, `spoiled` the failures among attempts with a good status.
    """

    __slots__ = ("_told", "_told_first_byte", "codes", "duration", "first_byte", "spoiled")

    def __init__(self, registry: Registry, pool: str, backend: str) -> None:
        self.codes: Cells = registry.cells(metrics.BACKEND_REQUESTS, pool, backend)
        self.duration: Cells = registry.cells(metrics.BACKEND_DURATION, pool, backend)
        self.first_byte = 0.0
        self.spoiled = 0
        self._told = self._good()
        self._told_first_byte = 0.0

    def ended(self) -> int:
        """Attempts that are over."""
        return int(sum(self.codes))

    def take_successes(self) -> tuple[int, float]:
        """Attempts that went well since this was last asked, and the sum of their times to the first byte."""
        good, first_byte = self._good(), self.first_byte
        count, seconds = good - self._told, first_byte - self._told_first_byte
        if count <= 0:
            return 0, 0.0
        self._told, self._told_first_byte = good, first_byte
        return count, seconds

    def _good(self) -> int:
        codes = self.codes
        return int(codes[1] + codes[2] + codes[3] + codes[4]) - self.spoiled


def report(exchange: "Exchange", seconds: float) -> None:
    """Count an exchange that ended, and log it."""
    downstream = exchange.downstream
    listener = downstream.listener
    status = exchange.status
    destination = exchange.destination
    route = exchange.route
    requests = listener.unrouted if route is None else route.requests if destination is None else destination.requests
    requests[status // 100 if status < 600 else 5] += 1
    if route is not None:
        duration = route.duration
        duration[bisect_left(BOUNDS, seconds)] += 1
        duration[-1] += seconds
    listener.bytes_out[0] += exchange.bytes_out
    if exchange.outcome is not COMPLETED:
        count_termination(downstream, exchange.outcome)
    if downstream.server.access_log is not None:
        _log(exchange, seconds)


def count_termination(downstream: "Downstream", outcome: Outcome) -> None:
    """Count an ending other than well."""
    downstream.server.registry.cells(
        metrics.TERMINATIONS, downstream.listener.name, outcome.source, outcome.phase, outcome.reason
    )[0] += 1


def report_refusal(downstream: "Downstream", outcome: Outcome, bytes_out: int) -> None:
    """Count and log what never became an exchange: bytes that are no request we serve, or a client over a limit."""
    listener = downstream.listener
    listener.unrouted[outcome.status // 100] += 1
    listener.bytes_out[0] += bytes_out
    count_termination(downstream, outcome)
    access_log = downstream.server.access_log
    if access_log is not None:
        seconds = monotonic() - downstream.head_from
        access_log.append(
            format_line(
                wall(),
                b"-",
                downstream.peer_bytes,
                listener.log_head,
                b"-",
                0,
                b"-",
                b"-",
                outcome.status,
                ENDINGS[outcome.reason],
                0,
                bytes_out,
                -1.0,
                -1.0,
                seconds,
            )
        )


def _log(exchange: "Exchange", seconds: float) -> None:
    downstream = exchange.downstream
    server = downstream.server
    access_log = server.access_log
    assert access_log is not None
    head = exchange.head
    attempt = exchange.attempt
    outcome = exchange.outcome
    plan = exchange.destination or exchange.route or downstream.listener
    access_log.append(
        format_line(
            wall(),
            exchange.request_id,
            downstream.client_bytes(head),
            plan.log_head,
            attempt.backend.log_name if attempt.number and attempt.backend is not None else b"-",
            attempt.number,
            head.method,
            head.target,
            exchange.status or (499 if outcome.status == 499 else 0),
            ENDINGS[outcome.reason],
            exchange.bytes_in,
            exchange.bytes_out,
            attempt.connect_s,
            attempt.first_byte_s,
            seconds,
        )
    )
