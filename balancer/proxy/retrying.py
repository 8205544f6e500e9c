"""Further attempts of an exchange, and the fallback pool. Off the common path.

Nothing here decides on its own: whether an attempt may follow is `resilience.retry`'s rule, whether it is paid for the
budget's, and where it goes the pool's.
"""

from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState
from balancer.errors import (
    ATTEMPT_TIMEOUT,
    COMPLETED,
    EXCHANGE_TIMEOUT,
    POOL_DOWN,
    POOL_EMPTY,
    STALE_CONNECTION,
    Outcome,
)
from balancer.http1.forwarding import request_head
from balancer.http1.message import ResponseHead
from balancer.proxy.upstream import Upstream
from balancer.resilience.retry import RetryRule

if TYPE_CHECKING:
    from balancer.proxy.exchange import Exchange


def fall_back(exchange: "Exchange", nobody: Outcome, now: float) -> bool:
    """Nobody serves in the route's pool: try the pool that it names for that case."""
    route = exchange.route
    if route is None or route.fallback is None or nobody not in (POOL_EMPTY, POOL_DOWN):
        return False
    exchange.destination = route.fallback
    pool = route.fallback.pool
    head = exchange.head
    target = head.target if route.rewrite is None else route.rewrite(head)
    _, _, body = exchange.attempt.payload.partition(b"\r\n\r\n")
    payload = request_head(head, target, pool.host, exchange.extra, route.edit_request) + body
    return exchange.attempt.first(pool, payload, now) is None


def blamed(exchange: "Exchange", outcome: Outcome, now: float) -> Outcome:
    """What the attempt under way is judged by: our patience may have ended because of its backend's silence."""
    attempt, route = exchange.attempt, exchange.route
    if outcome is not EXCHANGE_TIMEOUT or route is None or route.timeout is None or attempt.upstream is None:
        return outcome
    silent = exchange.status == 0 and not exchange.uploading and now - attempt.started > route.timeout / 2
    return ATTEMPT_TIMEOUT if silent else outcome


def try_again(exchange: "Exchange", outcome: Outcome, detail: str, now: float) -> bool:
    """After a failure of which the client saw nothing: whether another attempt was made."""
    attempt = exchange.attempt
    backend = attempt.backend
    if outcome is STALE_CONNECTION and backend is not None:
        backend.connections.stale[0] += 1
        if attempt.send_again():
            exchange.server.count_retry(backend.pool, outcome.reason)
            return True
        return False
    rule = _rule(exchange)
    if rule is None or not rule.after_failure(outcome, repeatable=exchange.repeatable):
        return False
    another = _another(exchange, now)
    if another is None:
        return False
    exchange.server.log_failure(exchange, outcome, detail)
    _retry(exchange, another, outcome.reason, now)
    return True


def replace(exchange: "Exchange", upstream: Upstream, head: ResponseHead, behind: int, now: float) -> bool:
    """Throw a response away for another attempt, where `retry.when` lists its status.

    `behind`: bytes that came behind its head. If that is all of it, the connection stays in use.
    """
    rule = _rule(exchange)
    if rule is None or not rule.after_status(head.status, repeatable=exchange.repeatable):
        return False
    another = _another(exchange, now)
    if another is None:
        return False
    attempt = exchange.attempt
    attempt.first_byte_s = now - attempt.started
    attempt.upstream = None
    if head.length == behind and head.keep_alive and not exchange.uploading:
        upstream.connections.give_back(upstream, now)
    else:
        upstream.discard()
    attempt.end(COMPLETED, head.status, now)
    _retry(exchange, another, f"status_{head.status}", now)
    return True


def _rule(exchange: "Exchange") -> RetryRule | None:
    """The rule for another attempt; None where none can be made."""
    attempt = exchange.attempt
    if exchange.destination is None or not attempt.payload or exchange.downstream.closed:
        return None
    rule = exchange.destination.pool.retry
    return None if rule is None or attempt.number - attempt.resent >= rule.attempts else rule


def _another(exchange: "Exchange", now: float) -> BackendState | None:
    """The backend for one more attempt, paid for from the budget; None = there is no token, or no backend."""
    assert exchange.destination is not None
    budget = exchange.destination.pool.budget
    if budget is not None and not budget.take(now):
        return None
    return exchange.attempt.next_backend(now)


def _retry(exchange: "Exchange", backend: BackendState, reason: str, now: float) -> None:
    exchange.server.count_retry(backend.pool, reason)
    exchange.attempt.go_on(backend, now)
