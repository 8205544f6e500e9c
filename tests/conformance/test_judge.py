"""The judge finds what it is there to find: each change of a right observation is a problem."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.conformance.build import DATE, OK, case, refused, relayed, request, sent_on
from tests.conformance.judge import Verdict, filled
from tests.conformance.model import Case, Cut, Forwarded, Relayed
from tests.conformance.runner import Arrived, Observation
from tests.support.raw_client import Pulse, Wire, unread_at_peer
from tests.support.raw_messages import Message, read_request, read_response

VALUES = {b"<port>": b"80", b"<proto>": b"http", b"<client>": b"127.0.0.1", b"<backend>": b"127.0.0.1:1"}
CHUNKED = case(
    "chunked",
    "4.1/9112-7.1.3-rechunk",
    b"",
    sent_on("POST / HTTP/1.1", body=b"hello", framing="chunked"),
    relayed("HTTP/1.1 200 OK", DATE, "Transfer-Encoding: chunked", framing="chunked"),
)
REFUSED = refused("refused", "4.1/9112-3.2-host", b"")
REFUSAL = f"HTTP/1.1 400 Bad Request\r\n{DATE}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno".encode()
CUT = case(
    "cut",
    "4.1/9112-6.3-incomplete-body",
    b"",
    sent_on(),
    Cut(relayed("HTTP/1.1 200 OK", DATE, "Transfer-Encoding: chunked").head, b"hello"),
    "broken",
)


def _request(data: bytes) -> Message:
    message = read_request(data, 0)
    assert message is not None
    return message


def _response(data: bytes, *, ended: bool = False) -> Message:
    message = read_response(data, 0, "GET", ended)
    assert message is not None
    return message


def _seen(*responses: bytes, requests: tuple[bytes, ...] = (), end: str = "", connections: int = 0) -> Observation:
    probed = not end
    shown = [*responses, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nprobe"] if probed else responses
    return Observation(
        responses=[_response(data, ended=bool(end)) for data in shown],
        leftover=b"",
        received=b"".join(shown),
        client_end=end,
        arrived=[Arrived(0, _request(data)) for data in requests],
        fragments={},
        connections=connections,
        ended_upstream=[False],
        probe_connection=0,
        probe_answered=True,
        probed_on_client=probed,
        probes=1,
        lingering=False,
        values=VALUES,
    )


def _head(case_: Case) -> bytes:
    expected = case_.forwarded[0]
    assert isinstance(expected, Forwarded)
    return filled(expected.head, VALUES).replace(b"<id>", b"abc")


def _answer(case_: Case) -> bytes:
    expected = case_.answers[0]
    assert isinstance(expected, Relayed)
    return expected.head


SENT = _head(CHUNKED) + b"5\r\nhello\r\n0\r\n\r\n"
GOT = _answer(CHUNKED) + b"2\r\nok\r\n0\r\n\r\n"


def _problems(case_: Case, seen: Observation) -> list[str]:
    return Verdict(case_, seen, strict=True).judge()


def test_a_right_observation_has_no_problem() -> None:
    assert _problems(CHUNKED, _seen(GOT, requests=(SENT,))) == []
    assert _problems(CHUNKED, _seen(GOT, requests=(SENT.replace(b"5\r\nhello", b"2\r\nhe\r\n3\r\nllo"),))) == []
    assert _problems(REFUSED, _seen(REFUSAL, end="clean")) == []
    assert _problems(CUT, _seen(_cut(b"5\r\nhello\r\n"), requests=(_head(CUT),), end="reset")) == []


def _cut(body: bytes) -> bytes:
    expected = CUT.answers[0]
    assert isinstance(expected, Cut)
    return expected.head + body


@pytest.mark.parametrize(
    "sent",
    [
        SENT.replace(b"Via: 1.1 edge", b"Via: 1.1 Edge"),
        SENT.replace(b"\r\nVia", b"\r\nX: 1\r\nVia"),
        SENT.replace(b"X-Forwarded-Port: 80", b"X-Forwarded-Port: 81"),
        SENT.replace(b"X-Request-Id: abc", b"X-Request-Id: a c"),
        SENT.replace(b"hello", b"hellO"),
        SENT.replace(b"5\r\nhello", b"5;a\r\nhello"),
        SENT.replace(b"0\r\n\r\n", b"0\r\nX: 1\r\n\r\n"),
        SENT.replace(b"0\r\n\r\n", b""),
        SENT.replace(b"Transfer-Encoding: chunked", b"Content-Length: 5").replace(b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        b"\n" + SENT,
    ],
)
def test_every_other_byte_at_the_origin_is_a_problem(sent: bytes) -> None:
    assert sent != SENT
    assert _problems(CHUNKED, _seen(GOT, requests=(sent,)))


@pytest.mark.parametrize(
    "got",
    [
        GOT.replace(b"200", b"201"),
        GOT.replace(b" OK", b""),
        GOT.replace(b"ok", b"no"),
        GOT.replace(b"\r\nTransfer", b"\r\nX: 1\r\nTransfer"),
        GOT.replace(b"0\r\n\r\n", b"0\r\nX: 1\r\n\r\n"),
        GOT.replace(b"2\r\nok", b"2;x\r\nok"),
        GOT[:-2],
    ],
)
def test_every_other_answer_is_a_problem(got: bytes) -> None:
    assert _problems(CHUNKED, _seen(got, requests=(SENT,)))


CHANGES: list[Callable[[Observation], Observation]] = [
    lambda seen: replace(seen, arrived=[]),
    lambda seen: replace(seen, arrived=[*seen.arrived, *seen.arrived]),
    lambda seen: replace(seen, fragments={0: b"GET"}),
    lambda seen: replace(seen, leftover=b"x"),
    lambda seen: replace(seen, probed_on_client=False, client_end="clean"),
    lambda seen: replace(seen, probe_connection=1),
    lambda seen: replace(seen, probe_answered=False),
    lambda seen: replace(seen, probes=2),
    lambda seen: replace(seen, responses=[]),
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_other_course_of_events_is_a_problem(change: Callable[[Observation], Observation]) -> None:
    assert _problems(CHUNKED, change(_seen(GOT, requests=(SENT,))))


def test_a_refusal_that_forwards_or_stays_or_talks_is_a_problem() -> None:
    assert _problems(REFUSED, _seen(REFUSAL, end="clean", requests=(_head(CUT),)))
    assert _problems(REFUSED, _seen(REFUSAL, end="clean", connections=1))
    assert _problems(REFUSED, _seen(REFUSAL))
    assert _problems(REFUSED, _seen(REFUSAL, end="reset"))
    assert _problems(REFUSED, _seen(REFUSAL.replace(b"400", b"500"), end="clean"))
    assert _problems(REFUSED, _seen(REFUSAL.replace(b"Connection: close\r\n", b""), end="clean"))
    assert _problems(REFUSED, _seen(REFUSAL.replace(b"Date", b"Server: nginx\r\nDate"), end="clean"))


def test_a_broken_answer_that_ends_well_is_a_problem() -> None:
    assert _problems(CUT, _seen(_cut(b"5\r\nhello\r\n0\r\n\r\n"), requests=(_head(CUT),), end="clean"))
    assert _problems(CUT, _seen(_cut(b"4\r\nhell\r\n1\r\nX\r\n"), requests=(_head(CUT),), end="reset"))
    until_end = Cut(relayed("HTTP/1.1 200 OK", DATE).head, b"hello", "close")
    seen = _seen(until_end.head + b"hello", requests=(_head(CUT),), end="clean")
    assert _problems(replace(CUT, answers=(until_end,)), seen)
    assert not _problems(replace(CUT, answers=(until_end,)), replace(seen, client_end="reset"))


def test_pieces_are_read_one_by_one() -> None:
    async def pieces() -> list[int]:
        loop = asyncio.get_running_loop()
        listener = socket.create_server(("127.0.0.1", 0))
        wire = await Wire.connect(listener.getsockname(), Pulse())
        peer, _ = listener.accept()
        peer.setblocking(False)
        sizes: list[int] = []

        async def read() -> None:
            while data := await loop.sock_recv(peer, 65536):
                sizes.append(len(data))

        reader = asyncio.create_task(read())
        assert await wire.send(b"0123456789", (1, 2, 5, 9))
        assert await wire.consumed()
        assert unread_at_peer(wire.sock) == 0
        wire.close()
        await reader
        peer.close()
        listener.close()
        return sizes

    assert asyncio.run(pieces()) == [1, 1, 3, 4, 1]


def test_what_nobody_reads_is_not_consumed() -> None:
    async def unread() -> tuple[bool, int]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            wire = await Wire.connect(listener.getsockname(), Pulse())
            peer, _ = listener.accept()
            with peer:
                assert await wire.send(b"abc")
                result = await wire.consumed(patience=0.05), unread_at_peer(wire.sock)
                wire.close()
                return result

    assert asyncio.run(unread()) == (False, 3)


def test_the_plain_answer_is_what_cases_expect_of_the_origins_reply() -> None:
    assert _response(OK.head + OK.body).complete
    assert _request(request()).complete
