"""How the gateway tells errors: in the shape of etcd 3.5 (grpc-gateway v1) with the `details` of 3.6 (v2).

Clients look at `error` (etcd3gw), at `message` and `code` (Patroni), or at the HTTP status only.
"""

from typing import Any, Final

import msgspec

from balancer.coordination.errors import Code, CoordinationError
from balancer.transport.http_server import Response

JSON: Final = "application/json"

HTTP_STATUSES: Final[dict[int, tuple[int, str]]] = {
    1: (408, "Request Timeout"),  # CANCELED
    2: (500, "Internal Server Error"),  # UNKNOWN
    3: (400, "Bad Request"),  # INVALID_ARGUMENT
    4: (504, "Gateway Timeout"),  # DEADLINE_EXCEEDED
    5: (404, "Not Found"),  # NOT_FOUND
    6: (409, "Conflict"),  # ALREADY_EXISTS
    7: (403, "Forbidden"),  # PERMISSION_DENIED
    8: (429, "Too Many Requests"),  # RESOURCE_EXHAUSTED
    9: (400, "Bad Request"),  # FAILED_PRECONDITION
    10: (409, "Conflict"),  # ABORTED
    11: (400, "Bad Request"),  # OUT_OF_RANGE
    12: (501, "Not Implemented"),  # UNIMPLEMENTED
    13: (500, "Internal Server Error"),  # INTERNAL
    14: (503, "Service Unavailable"),  # UNAVAILABLE
    15: (500, "Internal Server Error"),  # DATA_LOSS
    16: (401, "Unauthorized"),  # UNAUTHENTICATED
}
"""gRPC code -> HTTP status, as grpc-gateway 1.16 has it."""

TOO_LARGE: Final = "etcdserver: request is too large"
PERMISSION_DENIED: Final = 7
INTERNAL: Final = 13

# Codes that say whether to try again. The others become UNKNOWN in answers of the lock and election services, which
# in etcd are clients of the rest and pass its errors on as texts.
_KEPT: Final = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.UNIMPLEMENTED)

_CODES_OF_STATUSES: Final = {408: 4, 413: 3, 431: 8, 500: INTERNAL, 503: 14}


def error_answer(code: int, message: str) -> Response:
    """An error as the whole answer."""
    body = {"error": message, "code": int(code), "message": message, "details": []}
    return Response(HTTP_STATUSES[code][0], msgspec.json.encode(body), JSON)


def error_piece(error: CoordinationError) -> bytes:
    """An error inside a stream, whose status was sent already; its last piece."""
    return msgspec.json.encode(_in_stream(error.code, error.message))


def stream_error_answer(error: CoordinationError) -> Response:
    """An error of a stream from which nothing was sent yet."""
    body = msgspec.json.encode(_in_stream(error.code, error.message))
    return Response(HTTP_STATUSES[error.code][0], body, JSON)


def _in_stream(code: int, message: str) -> dict[str, Any]:
    status, reason = HTTP_STATUSES[code]
    return {"error": {"grpc_code": int(code), "http_code": status, "message": message, "http_status": reason}}


def refusal(status: int, message: str) -> Response:
    """What the HTTP server answers by itself, in the API's shape. 413 is etcd's error for too large a request."""
    code = _CODES_OF_STATUSES.get(status, Code.INVALID_ARGUMENT)
    if status == 413:
        return error_answer(code, TOO_LARGE)
    body = {"error": message, "code": int(code), "message": message, "details": []}
    return Response(status, msgspec.json.encode(body), JSON)


def opaque(error: CoordinationError) -> CoordinationError:
    """An error of the lock and election services."""
    return error if error.code in _KEPT else CoordinationError(Code.UNKNOWN, error.message)
