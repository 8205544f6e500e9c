"""Whether another attempt may follow a failed one (RFC 9110 section 9.2.2)."""

from balancer.config import model
from balancer.errors import Outcome, Retryable

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
"""Methods that may be sent again although the first may have been carried out (RFC 9110 section 9.2.2)."""

WORDS = {
    "connect_failed": "connect_failure",
    "connect_timeout": "connect_failure",
    "tls_failed": "connect_failure",
    "upstream_reset": "reset",
    "bad_response": "reset",
    "first_byte_timeout": "timeout",
    "attempt_timeout": "timeout",
}
"""By Outcome.reason: the word of `retry.when` that covers it."""


class RetryRule:
    """The `retry` section of a pool, compiled."""

    __slots__ = ("_reasons", "attempts", "statuses")

    def __init__(self, retry: model.Retry) -> None:
        self.attempts = retry.attempts
        self.statuses = frozenset(int(word) for word in retry.when if word.isdigit())
        self._reasons = frozenset(reason for reason, word in WORDS.items() if word in retry.when)

    def after_failure(self, outcome: Outcome, *, repeatable: bool) -> bool:
        """Whether a failure before any byte of a response may be tried again.

        `repeatable`: the method is idempotent, or the route says that its requests may be repeated. Where nothing was
        sent, any method may follow.
        """
        if outcome.reason not in self._reasons:
            return False
        return outcome.retryable is Retryable.ALWAYS or (repeatable and outcome.retryable is Retryable.IDEMPOTENT)

    def after_status(self, status: int, *, repeatable: bool) -> bool:
        """Whether a response with `status` may be thrown away for another attempt."""
        return repeatable and status in self.statuses
