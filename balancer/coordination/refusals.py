"""Why a request is refused, in etcd's words (rpctypes/error.go): clients match on the code and the text."""

from typing import NamedTuple

from balancer.coordination.errors import Code, CoordinationError


class Refusal(NamedTuple):
    """A row of the table below. An exception remembers where it was raised, so each refusal makes a new one."""

    code: Code
    message: str

    def error(self) -> CoordinationError:
        """What to raise or to answer."""
        return CoordinationError(self.code, self.message)


EMPTY_KEY = Refusal(Code.INVALID_ARGUMENT, "etcdserver: key is not provided")
KEY_NOT_FOUND = Refusal(Code.INVALID_ARGUMENT, "etcdserver: key not found")
VALUE_PROVIDED = Refusal(Code.INVALID_ARGUMENT, "etcdserver: value is provided")
LEASE_PROVIDED = Refusal(Code.INVALID_ARGUMENT, "etcdserver: lease is provided")
TOO_MANY_OPERATIONS = Refusal(Code.INVALID_ARGUMENT, "etcdserver: too many operations in txn request")
DUPLICATE_KEY = Refusal(Code.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")
COMPACTED = Refusal(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
FUTURE_REVISION = Refusal(Code.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
NO_SPACE = Refusal(Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
LEASE_NOT_FOUND = Refusal(Code.NOT_FOUND, "etcdserver: requested lease not found")
LEASE_EXISTS = Refusal(Code.FAILED_PRECONDITION, "etcdserver: lease already exists")
LEASE_TTL_TOO_LARGE = Refusal(Code.OUT_OF_RANGE, "etcdserver: too large lease TTL")
LEADER_CHANGED = Refusal(Code.UNAVAILABLE, "etcdserver: leader changed")
TOO_MANY_REQUESTS = Refusal(Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests")

# The lock and election services of etcd give these no code of their own, which makes it 2.
LOCK_SESSION_EXPIRED = Refusal(Code.UNKNOWN, "mutex: session is expired")
ELECTION_NOT_LEADER = Refusal(Code.UNKNOWN, "election: not leader")
ELECTION_NO_LEADER = Refusal(Code.UNKNOWN, "election: no leader")
ELECTION_SESSION_EXPIRED = Refusal(Code.UNKNOWN, "election: session expired")
LEADER_NOT_GIVEN = Refusal(Code.UNKNOWN, '"leader" field must be provided')

# Ours; etcd has no such case.
DAMAGED_COMMAND = Refusal(Code.UNKNOWN, "coordination: the log holds a command that cannot be read")
UNKNOWN_SESSION = Refusal(Code.UNAVAILABLE, "coordination: the session is unknown or was given up")
ALREADY_ANSWERED = Refusal(Code.UNAVAILABLE, "coordination: this command was answered before")
ANSWER_TOO_LARGE = Refusal(Code.UNAVAILABLE, "coordination: the command was done; its answer was too large to keep")
NUMBER_USED = Refusal(Code.INVALID_ARGUMENT, "coordination: this number of the session was given to another change")
NO_TICKET = Refusal(
    Code.INVALID_ARGUMENT,
    "coordination: a numbered change has a session that was opened, a seq from 1 on, and answered_below up to that",
)
