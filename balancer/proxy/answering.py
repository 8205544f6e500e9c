"""Answers of our own: by a route's action, or because an exchange cannot go on. Off the common path."""

from typing import TYPE_CHECKING

from balancer.clock import monotonic
from balancer.errors import (
    COMPLETED,
    METHOD_NOT_ROUTED,
    METHOD_REFUSED,
    NO_ROUTE,
    Outcome,
)
from balancer.http1.answers import answer, prefers_json
from balancer.http1.message import ALLOW, RequestHead

if TYPE_CHECKING:
    from balancer.proxy.exchange import Exchange
    from balancer.proxy.snapshot import RoutePlan

RETRY_AFTER = b"Retry-After: 1\r\n"


def fields_for(reason: Outcome, status: int) -> bytes:
    """The fields, each ended by CRLF, that belong to an answer for `reason`."""
    fields = b""
    if reason.proxy_status:
        fields += b"Proxy-Status: balancer; error=" + reason.proxy_status.encode("ascii") + b"\r\n"
    if status == 503:
        fields += RETRY_AFTER
    if reason is METHOD_REFUSED:
        fields += b"Allow: " + ALLOW + b"\r\n"
    return fields


def wants_json(head: RequestHead) -> bool:
    """Whether the client prefers JSON to text."""
    return prefers_json(head.field(b"accept"))


def outcome(exchange: "Exchange", reason: Outcome, fields: bytes = b"") -> None:
    """Answer with the status of `reason`; whatever is left of the request is not read."""
    unread = exchange.uploading
    if unread:
        exchange.close = True
    status = reason.status
    head = exchange.head
    _write(
        exchange,
        answer(
            status,
            json=wants_json(head),
            close=exchange.close,
            head=head.method == b"HEAD",
            date=exchange.server.date.refresh(),
            fields=fields_for(reason, status) + fields,
        ),
        reason,
        status,
    )
    exchange.downstream.exchange_ended(exchange.close, unread, monotonic())


def no_route(exchange: "Exchange", data: bytes, offset: int) -> int:
    """404; 405 where a route would match but for the method. Returns the offset behind the request."""
    end = _drain(exchange, data, offset)
    downstream = exchange.downstream
    allowed = downstream.listener.table.allowed_methods(exchange.head, downstream.client(exchange.head))
    if allowed:
        outcome(exchange, METHOD_NOT_ROUTED, b"Allow: " + b", ".join(allowed) + b"\r\n")
    else:
        outcome(exchange, NO_ROUTE)
    return end


def by_route(exchange: "Exchange", route: "RoutePlan", data: bytes, offset: int) -> int:
    """The answer that a redirect or respond action gives, or OPTIONS with Max-Forwards 0 (RFC 9110 7.6.2)."""
    end = _drain(exchange, data, offset)
    unread = exchange.uploading
    if unread:
        exchange.close = True
    head = exchange.head
    is_head = head.method == b"HEAD"
    date = exchange.server.date.refresh()
    if route.answer is None:
        status = 200
        out = answer(200, close=exchange.close, date=date, fields=b"Allow: " + ALLOW + b"\r\n", body=b"")
    else:
        status = route.answer.status
        fields, body = route.answer.content(head, exchange.downstream.listener.scheme)
        if route.edit_response is not None:
            # An editor's lines have their CRLF in front, these behind; either may be none.
            fields = (route.edit_response((b"\r\n" + fields)[:-2]) + b"\r\n")[2:]
        out = answer(
            status,
            close=exchange.close,
            head=is_head,
            date=date,
            fields=fields,
            body=body,
            content_type=route.answer.content_type,
        )
    _write(exchange, out, COMPLETED, status)
    exchange.downstream.exchange_ended(exchange.close, unread, monotonic())
    return end


def _drain(exchange: "Exchange", data: bytes, offset: int) -> int:
    """Skip what came of a body that nobody will read; the connection persists only if that is all of it."""
    body = exchange.body
    if body is None or body.done:
        return offset
    _, end = body.feed(data, offset)
    exchange.uploading = not body.done
    return end


def _write(exchange: "Exchange", out: bytes, reason: Outcome, status: int) -> None:
    downstream = exchange.downstream
    if not downstream.closed:
        downstream.transport.write(out)
    exchange.answered(reason, status, len(out))
