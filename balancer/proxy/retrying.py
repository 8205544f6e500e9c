"""Further attempts of an exchange, and the fallback pool. Off the common path.

Nothing here decides on its own: whether an attempt may follow is `resilience.retry`'s rule, whether it is paid for the
budget's, and where it goes the pool's.
"""

from typing import TYPE_CHECKING

from balancer.balancing.backend import BackendState
from balancer.errors import (
    ATTEMPT_TIMEOUT,
    COMPLETED,
    CONNECT_TIMEOUT,
    EXCHANGE_TIMEOUT,
    POOL_DOWN,
    POOL_EMPTY,
    STALE_CONNECTION,
    Outcome,
    Retryable,
)
from balancer.http1.forwarding import request_head
from balancer.http1.message import ResponseHead
from balancer.proxy.upstream import Upstream
from balancer.resilience.retry import RetryRule

if TYPE_CHECKING:
    from balancer.proxy.exchange import Exchange

# Further attempts that cost nothing, because nothing was sent. One that is refused multiplies no work, but takes time
# and a connection of ours; who has met six dead backends in a row has hardly met an accident. nginx asks every server,
# HAProxy four times.
UNSENT_MAX = 5


def fall_back(exchange: "Exchange", nobody: Outcome, now: float) -> bool:
    """Nobody serves in the route's pool: try the pool that it names for that case."""
    route, attempt = exchange.route, exchange.attempt
    if route is None or route.fallback is None or nobody not in (POOL_EMPTY, POOL_DOWN):
        return False
    pool = route.fallback.pool
    if exchange.destination is not None and exchange.destination.pool.state is pool.state:
        return False  # it has been there, or a split has led it there
    exchange.destination = route.fallback
    head = exchange.head
    target = head.target if route.rewrite is None else route.rewrite(head)
    _, _, body = attempt.payload.partition(b"\r\n\r\n")
    payload = request_head(head, target, pool.host, exchange.extra, route.edit_request) + body
    return attempt.first(pool, attempt.numbered(payload) if attempt.number else payload, now) is None


def turned_away(exchange: "Exchange", nobody: Outcome, now: float) -> None:
    """It has left the line without its turn, for the reason `nobody`: the fallback, or else an answer."""
    exchange.attempt.give_up()
    exchange.downstream.resume_reading()
    if not fall_back(exchange, nobody, now):
        exchange.fail(nobody)


def blamed(exchange: "Exchange", outcome: Outcome, now: float) -> Outcome:
    """What the attempt under way is judged by: our patience may have ended because of its backend's silence.

    It is to blame if it was silent, or connecting to it went on, for at least half of the route's timeout.
    """
    attempt, route = exchange.attempt, exchange.route
    if outcome is not EXCHANGE_TIMEOUT or route is None or route.timeout is None or exchange.status:
        return outcome
    fair = route.timeout / 2
    if attempt.connecting:
        return CONNECT_TIMEOUT if now - attempt.started >= fair else outcome
    return ATTEMPT_TIMEOUT if attempt.upstream is not None and now - attempt.asked >= fair else outcome


def try_again(exchange: "Exchange", outcome: Outcome, detail: str, now: float) -> bool:
    """After a failure of which the client saw nothing: whether another attempt was made, or waits for a backend."""
    again = _try_again(exchange, outcome, detail, now)
    exchange.attempt.let_others(now)
    return again


def _try_again(exchange: "Exchange", outcome: Outcome, detail: str, now: float) -> bool:
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
    another = _another(exchange, rule, outcome.reason, now, unsent=outcome.retryable is Retryable.ALWAYS)
    if another is None and attempt.line is None:
        return False
    exchange.server.log_failure(exchange, outcome, detail)
    if another is not None:
        _retry(exchange, another, outcome.reason, now)
    return True


def replace(exchange: "Exchange", upstream: Upstream, head: ResponseHead, behind: int, now: float) -> bool:
    """Throw a response away for another attempt, where `retry.when` lists its status.

    `behind`: bytes that came behind its head. If that is all of it, the connection stays in use.
    """
    rule = _rule(exchange)
    if rule is None or not rule.after_status(head.status, repeatable=exchange.repeatable):
        return False
    attempt = exchange.attempt
    reason = f"status_{head.status}"
    another = _another(exchange, rule, reason, now)
    if another is None and attempt.line is None:
        return False
    attempt.answered(now)
    attempt.upstream = None
    if head.length == behind and head.keep_alive and not exchange.uploading:
        upstream.connections.give_back(upstream, now)
    else:
        upstream.discard()
    attempt.end(COMPLETED, head.status, now, hold=True)
    if another is not None:
        _retry(exchange, another, reason, now)
    attempt.let_others(now)
    return True


def _rule(exchange: "Exchange") -> RetryRule | None:
    """The rule for another attempt; None where none can be made."""
    if exchange.destination is None or not exchange.attempt.payload or exchange.downstream.closed:
        return None
    return exchange.destination.pool.retry


def _another(
    exchange: "Exchange", rule: RetryRule, reason: str, now: float, *, unsent: bool = False
) -> BackendState | None:
    """The backend for one more attempt. None = there is none, or the exchange now waits for it in the line.

    `unsent`: nothing was sent. Then it is free as long as somebody untried is there: it counts neither as one of
    `attempts` nor against the budget. Otherwise somebody that was tried already will do, if there is no other.
    """
    attempt = exchange.attempt
    backend = attempt.untried(now)
    waits = backend is None and attempt.may_wait()
    if unsent and (backend is not None or waits) and attempt.unsent < UNSENT_MAX and rule.attempts > 1:
        attempt.unsent += 1
    else:
        if attempt.number - attempt.resent - attempt.unsent >= rule.attempts:
            return None
        if backend is None and not waits:
            backend = attempt.anybody(now)
            if backend is None:
                return None
        assert exchange.destination is not None
        budget = exchange.destination.pool.budget
        if budget is not None and not budget.take(now):
            return None
    if waits:
        attempt.wait(now, reason)
    return backend


def _retry(exchange: "Exchange", backend: BackendState, reason: str, now: float) -> None:
    exchange.server.count_retry(backend.pool, reason)
    exchange.attempt.go_on(backend, now)
