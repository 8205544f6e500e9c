"""Refusals of the coordination service: gRPC's status codes by number, and etcd's words (rpctypes/error.go)."""

import enum

from balancer.errors import BalancerError


class Code(enum.IntEnum):
    """gRPC's status codes, as far as they occur."""

    CANCELED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    UNAVAILABLE = 14


class CoordinationError(BalancerError):
    """A request is refused; nothing of it was done, unless the code is UNAVAILABLE or DEADLINE_EXCEEDED."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
