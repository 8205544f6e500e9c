"""Responses: feed the bytes of a backend to the data path, and compare what the client got with the model."""

import asyncio
from typing import NamedTuple

import h11

from balancer.proxy.downstream import BUSY, Downstream
from balancer.proxy.upstream import Upstream
from tests.fuzz.findings import FindingError, Judged, check, read_own_answer
from tests.fuzz.in_memory import Proxy, awaits_request, end_wire, wire_of
from tests.fuzz.model import Pairs
from tests.fuzz.response_model import DATE, Asked, Expected, Head, read_responses

_HOST = b" HTTP/1.1\r\nHost: a.example\r\n"
REQUESTS: tuple[tuple[Asked, bytes], ...] = (
    (Asked(), b"GET /" + _HOST + b"\r\n"),
    (Asked(), b"GET /" + _HOST + b"\r\n"),
    (Asked(b"HEAD"), b"HEAD /" + _HOST + b"\r\n"),
    (Asked(b"POST"), b"POST /" + _HOST + b"Content-Length: 5\r\n\r\nhello"),
    (Asked(close=True), b"GET /" + _HOST + b"Connection: close\r\n\r\n"),
    (Asked(trailers=True), b"GET /" + _HOST + b"TE: trailers\r\nConnection: TE\r\n\r\n"),
    (Asked(minor=0), b"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n"),
    (Asked(b"HEAD", minor=0), b"HEAD / HTTP/1.0\r\nHost: a.example\r\n\r\n"),
    (Asked(b"POST", minor=0), b"POST / HTTP/1.0\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello"),
    (Asked(upgrade=True), b"GET /" + _HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
    (Asked(b"POST", uploading=True), b"POST /" + _HOST + b"Content-Length: 5\r\n\r\nhel"),
)
IDEMPOTENT = (b"GET", b"HEAD")
AGAIN = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\nContent-Length: 5\r\n\r\n"


class ResponseInput(NamedTuple):
    """What a backend sends, in `pieces`, to the request with this number, and whether it then closes.

    `keep`: the client's connection may serve the next input.
    """

    data: bytes
    pieces: list[bytes]
    request: int = 0
    ended: bool = False
    keep: bool = False


class ResponseRun:
    """One request in one client connection, and what a backend says to it."""

    def __init__(self, proxy: Proxy, client: Downstream, request: int) -> None:
        self.asked, data = REQUESTS[request]
        self.client = client
        self.wire = wire_of(client)
        self.start = len(self.wire.written)
        self.upstream: Upstream = proxy.idle_upstream()
        client.data_received(data)
        exchange = client.exchange
        check(exchange is not None and exchange.attempt.upstream is self.upstream, "the request was not forwarded")

    def feed(self, pieces: list[bytes], *, ended: bool) -> None:
        """Give the pieces to the backend's side, then perhaps its end."""
        for piece in pieces:
            if wire_of(self.upstream).closed:
                break
            self.upstream.data_received(piece)
        if ended and not wire_of(self.upstream).closed:
            self.upstream.eof_received()
            end_wire(self.upstream)

    @property
    def told(self) -> bytes:
        """What the client got since the request."""
        return bytes(self.wire.written[self.start :])


async def fuzz_response(proxy: Proxy, given: ResponseInput, kept: Downstream | None) -> Judged:
    """Run one input and judge it. Raises FindingError. `kept` is a connection of an earlier input that still serves."""
    run = ResponseRun(proxy, kept if kept is not None else proxy.connect("plain"), given.request)
    expected = read_responses(given.data, run.asked, ended=given.ended)
    run.feed(given.pieces, ended=given.ended)
    idle = run.upstream in proxy.connections.idle and not run.upstream.closed
    if expected.ending == "lost" and await _sent_again(run, expected):
        _judge_second(run)
    else:
        _judge(run, expected)
        wanted = expected.reusable and not given.ended
        check(idle == wanted, f"the backend's connection is {'kept' if idle else 'closed'}")
    stays = given.keep and expected.reusable and awaits_request(run.client)
    if not stays:
        proxy.gone(run.client)
        if run.upstream.closed:
            end_wire(run.upstream)
        leaks = proxy.leaks()
        check(not leaks, f"left behind: {', '.join(leaks)}")
    return Judged(expected.ending in ("relayed", "tunnel"), expected.ending, run.client if stays else None)


async def _sent_again(run: ResponseRun, expected: Expected) -> bool:
    """Whether the request went once more to a fresh connection, which is due if the old one ended without a byte."""
    due = run.asked.method in IDEMPOTENT and not expected.said and not expected.interims
    exchange = run.client.exchange
    again = exchange is not None and exchange.attempt.number == 2 and run.client.state == BUSY
    check(again == due, f"the request was {'' if again else 'not '}sent again after {expected.said} bytes of an answer")
    if not again:
        return False
    assert exchange is not None
    for _ in range(5):
        await asyncio.sleep(0)
        if exchange.attempt.upstream is not None:
            break
    second = exchange.attempt.upstream
    check(second is not None and second is not run.upstream, "no fresh connection was opened")
    assert second is not None
    run.upstream = second
    second.data_received(AGAIN + (b"" if run.asked.method == b"HEAD" else b"again"))
    return True


def _judge_second(run: ResponseRun) -> None:
    body = b"" if run.asked.method == b"HEAD" else b"again"
    told = run.told
    check(told.startswith(AGAIN[:-2]) and told.endswith(b"\r\n\r\n" + body), f"the second answer is {told!r:.200}")


def _judge(run: ResponseRun, expected: Expected) -> None:
    told = run.told
    ending = expected.ending
    interims = expected.interims if run.asked.minor else []
    at = _interim_bytes(told, interims)
    if ending in ("bad", "lost") or (ending == "waiting" and expected.doomed and len(told) > at):
        _compare_refusal(run, at)
        if not interims:
            return
    reader = _reader(run.asked)
    reader.receive_data(told)
    for interim in interims:
        _compare_head(_next(reader, h11.InformationalResponse), interim)
    if ending in ("bad", "lost"):
        return
    if ending == "waiting":
        check(len(told) == at or expected.doomed, f"told the client {told!r:.300}, but no response is there")
        return
    assert expected.final is not None
    if ending == "tunnel":
        _compare_tunnel(run, reader, expected)
        return
    _compare_head(_next(reader, h11.Response), expected.final)
    if ending == "relayed":
        _compare_whole(run, reader, expected)
        return
    content, complete = _part(reader)
    check(not complete, f"a response that is not whole was ended as if it were: {told!r:.300}")
    check(expected.body.content.startswith(content), f"the body begins {content!r:.200}")
    closed = run.wire.closed
    check((ending == "cut") == closed, f"the client's connection is {'closed' if closed else 'open'}")
    if ending == "cut":
        check(run.wire.reset, "a response that was cut short ended like a whole one")


def _compare_refusal(run: ResponseRun, at: int) -> None:
    told = run.told
    check(len(told) > at, "no answer to a response that cannot be passed on")
    status, _, end = read_own_answer(told, at, bodiless=run.asked.method == b"HEAD")
    check(status == 502, f"answered {status}, not 502: {told[at:]!r:.200}")
    check(end == len(told), f"told more behind an answer of ours: {told[end:]!r:.200}")
    check(run.upstream.closed, "the backend's connection stays although its response is bad")


def _compare_whole(run: ResponseRun, reader: h11.Connection, expected: Expected) -> None:
    wire = run.wire
    check(not wire.aborted, "the client's connection was reset although its response is whole")
    check(
        expected.close == (wire.ended or wire.closed), f"the client's connection is {'ended' if wire.ended else 'open'}"
    )
    if expected.close:
        reader.receive_data(b"")
    content = bytearray()
    while True:
        event = _event(reader)
        if isinstance(event, h11.Data):
            content += event.data
        elif isinstance(event, h11.EndOfMessage):
            trailers = list(event.headers)
            break
        else:
            raise FindingError(f"the client waits for more of {run.told!r:.400}")
    check(content == expected.body.content, f"the body is {bytes(content)!r:.200}, not {expected.body.content!r:.200}")
    wanted = [(name.lower(), value) for name, value in expected.body.trailers]
    check(trailers == wanted, f"the trailers are {trailers}, not {wanted}")
    behind = reader.trailing_data[0]
    check(not behind, f"the client got bytes behind the response: {behind!r:.200}")


def _part(reader: h11.Connection) -> tuple[bytes, bool]:
    content = bytearray()
    while True:
        event = _event(reader)
        if not isinstance(event, h11.Data):
            return bytes(content), isinstance(event, h11.EndOfMessage)
        content += event.data


def _compare_tunnel(run: ResponseRun, reader: h11.Connection, expected: Expected) -> None:
    assert expected.final is not None
    _compare_head(_next(reader, h11.InformationalResponse), expected.final)
    behind = reader.trailing_data[0]
    check(behind == expected.body.content, f"the tunnel carried {behind!r:.200}, not {expected.body.content!r:.200}")


def _interim_bytes(told: bytes, interims: list[Head]) -> int:
    at = 0
    for _ in interims:
        at = told.find(b"\r\n\r\n", at) + 4
    return at


def _reader(asked: Asked) -> h11.Connection:
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=200_000)
    fields: Pairs = [(b"Host", b"a.example")]
    if asked.upgrade:
        fields += [(b"Connection", b"upgrade"), (b"Upgrade", b"websocket")]
    if asked.uploading:
        fields.append((b"Content-Length", b"5"))
    reader.send(h11.Request(method=asked.method, target=b"/", headers=fields))
    if not asked.uploading:
        reader.send(h11.EndOfMessage())
    return reader


def _event(reader: h11.Connection) -> object:
    try:
        return reader.next_event()
    except h11.RemoteProtocolError as error:
        raise FindingError(f"h11 refuses what the client was told: {error}") from error


def _next(reader: h11.Connection, kind: type) -> h11.Response | h11.InformationalResponse:
    event = _event(reader)
    check(isinstance(event, kind), f"the client sees {event!r:.300}, not {kind.__name__}")
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    return event


def _compare_head(seen: h11.Response | h11.InformationalResponse, wanted: Head) -> None:
    check(seen.http_version == b"1.1", f"answered as HTTP/{seen.http_version.decode()}")
    check(seen.status_code == wanted.status, f"the status is {seen.status_code}, not {wanted.status}")
    check(seen.reason == wanted.reason, f"the reason is {seen.reason!r}, not {wanted.reason!r}")
    fields = list(seen.headers.raw_items())
    if fields == wanted.fields:
        return
    names = [name for name, _ in fields]
    check(names == [name for name, _ in wanted.fields], f"the fields are\n  {fields}, not\n  {wanted.fields}")
    for (name, value), (_, expected) in zip(fields, wanted.fields, strict=True):
        if expected is DATE:
            check(value.endswith(b" GMT") and len(value) == 29, f"made the date {value!r}")
        else:
            check(value == expected, f"{name.decode()} is {value!r}, not {expected!r}")
