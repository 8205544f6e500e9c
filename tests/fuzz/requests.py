"""Requests: feed the bytes of a client to the data path, and compare what the backend got with the model."""

from typing import NamedTuple

import h11

from balancer.proxy.downstream import BUSY, LINGERING, Downstream
from tests.fuzz.findings import FindingError, Judged, check, read_own_answer
from tests.fuzz.forwarding_model import MADE_ID
from tests.fuzz.in_memory import LISTENERS, Proxy, awaits_request, end_wire, wire_of
from tests.fuzz.model import CHUNKED, Pairs
from tests.fuzz.request_model import Answered, Forwarded, Rejected, Unfinished, Verdict, read_requests

RESPONSE = b"HTTP/1.1 204 No Content\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\n\r\n"
RELAYED = RESPONSE
RELAYED_CLOSE = RESPONSE[:-2] + b"Connection: close\r\n\r\n"
MADE_ID_DIGITS = 28


class RequestInput(NamedTuple):
    """What a client sends: `data` in `pieces`, to one of the LISTENERS.

    `eager`: the backend answers each request at once, not only when the client can send no more. `keep`: the
    connection may serve the next input.
    """

    data: bytes
    pieces: list[bytes]
    listener: str = "plain"
    eager: bool = False
    keep: bool = False


class RequestRun:
    """One input in one client connection."""

    def __init__(self, proxy: Proxy, client: Downstream) -> None:
        self.client = client
        self.wire = wire_of(client)
        self.upstream = proxy.idle_upstream()
        self.upstream_wire = wire_of(self.upstream)
        self._seen_up = len(self.upstream_wire.written)
        self._seen_down = len(self.wire.written)
        self.sent: list[bytes] = []  # what the backend got for each request that was complete
        self.told: list[bytes] = []  # what the client got, answer by answer as they became known

    def feed(self, pieces: list[bytes], *, eager: bool) -> None:
        """Give the pieces to the client's side, answering complete requests as they come or only when we must."""
        for piece in pieces:
            while self.wire.paused:
                check(self._answer(), "reading is paused, but no request is complete")
            if self.wire.closed:
                break
            self.client.data_received(piece)
            while eager and self._answer():
                pass
        while self._answer():
            pass

    def _answer(self) -> bool:
        """Answer the request that the backend got whole, if there is one."""
        exchange = self.client.exchange
        if self.client.state != BUSY or exchange is None:
            return False
        check(exchange.attempt.upstream is self.upstream, "a request waits, but not at the backend")
        self._note_own_answers()
        self.sent.append(self._new_up())
        self.upstream.data_received(RESPONSE)
        return True

    def _new_up(self) -> bytes:
        written = bytes(self.upstream_wire.written[self._seen_up :])
        self._seen_up = len(self.upstream_wire.written)
        return written

    def _note_own_answers(self) -> None:
        if len(self.wire.written) > self._seen_down:
            self.told.append(bytes(self.wire.written[self._seen_down :]))
            self._seen_down = len(self.wire.written)

    def finish(self) -> tuple[bytes, bytes]:
        """What the backend got of a request that never became whole, and all that the client got."""
        self._note_own_answers()
        return self._new_up(), b"".join(self.told)


def fuzz_request(proxy: Proxy, given: RequestInput, kept: Downstream | None) -> Judged:
    """Run one input and judge it. Raises FindingError. `kept` is a connection of an earlier input that still serves."""
    client = kept if kept is not None else proxy.connect(given.listener)
    verdicts = read_requests(given.data, LISTENERS[client.listener.name])
    run = RequestRun(proxy, client)
    run.feed(given.pieces, eager=given.eager)
    rest, told = run.finish()
    _judge(run, verdicts, rest, told, whole=len(given.pieces) == 1)
    stays = given.keep and awaits_request(client) and bool(verdicts) and isinstance(verdicts[-1], Forwarded)
    if not stays:
        proxy.gone(client)
        leaks = proxy.leaks()
        check(not leaks, f"left behind: {', '.join(leaks)}")
    if run.upstream.closed:
        end_wire(run.upstream)
    first = verdicts[0] if verdicts else None
    valid = isinstance(first, Forwarded) and first.body.state == "complete"
    return Judged(valid, _label(first, told), client if stays else None)


def _label(first: Verdict | None, told: bytes) -> str:
    if first is None or not told:
        return "waits"
    return "forwarded" if told.startswith(RELAYED[:-2]) else f"answered {told[9:12].decode()}"


def _judge(run: RequestRun, verdicts: list[Verdict], rest: bytes, told: bytes, *, whole: bool) -> None:
    """Walk through what was told to the client, verdict by verdict."""
    at = 0
    forwarded = 0
    ended = False
    for verdict in verdicts:
        if isinstance(verdict, Forwarded) and verdict.body.state == "complete":
            expected = RELAYED_CLOSE if verdict.close else RELAYED
            if told.startswith(expected, at):
                check(forwarded < len(run.sent), "answered without a request at the backend")
                compare_request(run.sent[forwarded], verdict)
                forwarded += 1
                at += len(expected)
                ended = verdict.close
                continue
            at = _refused(
                told,
                at,
                verdict.may_refuse,
                f"{verdict.method!r} {verdict.target!r} should have been forwarded",
                head=verdict.method == b"HEAD",
            )
            ended = True
        elif isinstance(verdict, Forwarded):
            at, ended = _judge_open(run, verdict, rest, (told, at), whole=whole)
            rest = b""
        elif isinstance(verdict, Rejected):
            why = f"should be refused with {sorted(verdict.statuses)}"
            at, ended = _refused(told, at, verdict.statuses, why, head=verdict.head), True
        elif isinstance(verdict, Answered):
            at, ended = _judge_answer(told, at, verdict)
        else:
            at, ended = _judge_unfinished(told, at, verdict)
        if ended:
            break
    check(
        len(run.sent) == forwarded,
        f"forwarded {len(run.sent)} requests, not {forwarded}: {run.sent[forwarded:]!r:.300}",
    )
    check(not rest, f"the backend got bytes that belong to no request: {rest!r:.300}")
    check(at == len(told), f"the client was told more: {told[at:]!r:.300}")
    check(
        ended == (run.client.state == LINGERING), f"the connection is {'open' if ended else 'ended'}, against the model"
    )
    check(not ended or run.wire.ended or run.wire.closed, "the client's connection was not ended")


def _judge_open(
    run: RequestRun, verdict: Forwarded, rest: bytes, answers: tuple[bytes, int], *, whole: bool
) -> tuple[int, bool]:
    """A body that is not whole: what the backend got may be its beginning, never its end."""
    told, at = answers
    if verdict.body.state == "bad" or (verdict.may_refuse and len(told) > at):
        if verdict.body.state == "bad" and whole:
            check(not rest, f"forwarded {rest!r:.300} of a request whose body is bad")
        if rest:
            compare_beginning(rest, verdict)
        check(run.upstream.closed or not rest, "the backend's connection stays although its request is broken")
        head = verdict.method == b"HEAD"
        return _refused(told, at, verdict.statuses | verdict.may_refuse, "the body is bad", head=head), True
    compare_beginning(rest, verdict)
    check(len(rest) > 0, "nothing was forwarded of a request whose body is still to come")
    return at, False


def _judge_answer(told: bytes, at: int, verdict: Answered) -> tuple[int, bool]:
    status, close, end = read_own_answer(told, at, bodiless=verdict.head)
    if status == 400 and 400 in verdict.statuses:
        return _refused(told, at, frozenset((400,)), "", head=verdict.head), True
    check(status in verdict.statuses, f"answered {status}, not {sorted(verdict.statuses)}")
    check(verdict.close in (close, None), f"the answer {status} says close: {close}")
    return end, close


def _judge_unfinished(told: bytes, at: int, verdict: Unfinished) -> tuple[int, bool]:
    statuses = verdict.must | verdict.may
    if at == len(told):
        check(not verdict.must, f"waits, but should have refused with {sorted(statuses)} already")
        return at, False
    return _refused(told, at, statuses, "the beginning of a good request"), True


def _refused(told: bytes, at: int, statuses: frozenset[int], why: str, *, head: bool = False) -> int:
    """An answer of ours that ends the connection; the offset behind it. `head`: to HEAD, so it may lack its content."""
    check(at < len(told), f"no answer: {why}")
    status, close, end = read_own_answer(told, at, bodiless=head and told.endswith(b"\r\n\r\n"))
    check(status in statuses, f"answered {told[at : at + 60]!r}: {why}")
    check(close, f"refused with {status}, but without Connection: close")
    return end


def compare_request(sent: bytes, expected: Forwarded) -> None:
    """What the backend got is exactly the expected request, as h11 reads it."""
    connection = _reader(sent)
    content, trailers, complete = _read(connection, expected)
    check(complete, f"the backend waits for more of {sent!r:.500}")
    behind = connection.trailing_data[0]
    check(not behind, f"the backend got bytes behind the request: {behind!r:.200}")
    check(content == expected.body.content, f"the body is {content!r:.200}, not {expected.body.content!r:.200}")
    check(trailers == _lowered(expected.body.trailers), f"the trailers are {trailers}, not {expected.body.trailers}")


def compare_beginning(sent: bytes, expected: Forwarded) -> None:
    """What the backend got is the expected head and perhaps a part of the body, and h11 waits for more."""
    content, _, complete = _read(_reader(sent), expected)
    check(not complete, f"the backend got a whole request, although it is not: {sent!r:.500}")
    check(
        expected.body.content.startswith(content),
        f"the body begins {content!r:.200}, not {expected.body.content!r:.200}",
    )


def _reader(sent: bytes) -> h11.Connection:
    head = sent[: sent.find(b"\r\n\r\n") + 4]
    check(b"\n" not in head.replace(b"\r\n", b""), f"a bare LF was forwarded: {head!r}")
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(sent)
    return connection


def _read(connection: h11.Connection, expected: Forwarded) -> tuple[bytes, Pairs, bool]:
    content = bytearray()
    try:
        request = connection.next_event()
        check(isinstance(request, h11.Request), f"h11 sees no request: {request!r}")
        assert isinstance(request, h11.Request)
        _compare_head(request, expected)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                return bytes(content), list(event.headers), True
            else:
                return bytes(content), [], False
    except h11.RemoteProtocolError as error:
        raise FindingError(f"h11 refuses what was forwarded: {error}") from error


def _compare_head(request: h11.Request, expected: Forwarded) -> None:
    check(request.http_version == b"1.1", f"forwarded as HTTP/{request.http_version.decode()}")
    check(request.method == expected.method, f"the method is {request.method!r}, not {expected.method!r}")
    check(request.target == expected.target, f"the target is {request.target!r}, not {expected.target!r}")
    seen = list(request.headers.raw_items())
    wanted = expected.fields
    if wanted[-1][1] is MADE_ID and seen and seen[-1][0] == b"X-Request-Id":
        made = seen.pop()[1]
        wanted = wanted[:-1]
        check(len(made) == MADE_ID_DIGITS and made.isalnum(), f"made the request id {made!r}")
    if seen != wanted:
        _compare_fields(seen, wanted)
    said = {name.lower(): value for name, value in seen}
    framing = said.get(b"transfer-encoding"), said.get(b"content-length")
    if expected.framing is None:
        right = framing == (None, None)
    elif expected.framing == CHUNKED:
        right = framing == (b"chunked", None)
    else:
        right = framing == (None, str(expected.framing).encode())
    check(right, f"the framing is {framing}, not {expected.framing}")


def _compare_fields(seen: Pairs, wanted: Pairs) -> None:
    check([name for name, _ in seen] == [name for name, _ in wanted], f"the fields are\n  {seen}, not\n  {wanted}")
    for (name, value), (_, expected) in zip(seen, wanted, strict=True):
        if name == b"Via":
            check(_entries(value) == _entries(expected), f"Via is {value!r}, not {expected!r}")
        else:
            check(value == expected, f"{name.decode()} is {value!r}, not {expected!r}")


def _entries(value: bytes) -> list[bytes]:
    return [entry for entry in (part.strip(b" \t") for part in value.split(b",")) if entry]


def _lowered(pairs: Pairs) -> Pairs:
    return [(name.lower(), value) for name, value in pairs]
