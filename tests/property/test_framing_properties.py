"""Chunked bodies under every cut of the input, and beside two other readers (llhttp and h11).

Where the readers differ, by design: both others take chunk sizes above 2**53 and unbounded extensions; h11
takes whitespace behind a size, any bytes in an extension, trailers folded over lines and line ends of a bare
LF; llhttp takes `;a=` without a value and `;;`; we take trailers named Content-Length and Transfer-Encoding
(and drop them when forwarding), which llhttp refuses.
"""

import h11
import httptools
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.errors import ProtocolError
from balancer.http1.framing import LAST_CHUNK, ChunkedDecoder, encode_chunk, forwardable_trailers, last_chunk

Verdict = tuple[str, bytes, bytes, int]
"""end | more | refused, payload, trailers, offset behind the end (or number of bytes before the refused one)."""

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def ours(pieces: list[bytes]) -> Verdict:
    """Our verdict on the input cut into `pieces`."""
    decoder = ChunkedDecoder()
    out: list[bytes] = []
    passed = 0
    for piece in pieces:
        try:
            end = decoder.feed(piece, 0, out)
        except ProtocolError as error:
            return "refused", b"", error.detail.encode(), 0
        if end >= 0:
            return "end", b"".join(out), decoder.trailers, passed + end
        passed += len(piece)
    return "more", b"".join(out), b"", passed


class _Collector:
    def __init__(self) -> None:
        self.body = b""
        self.messages = 0

    def on_body(self, body: bytes) -> None:
        if not self.messages:
            self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1


def llhttp(wire: bytes) -> tuple[str, bytes]:
    """The same by httptools' parser, which also reads what follows the message."""
    collector = _Collector()
    try:
        httptools.HttpRequestParser(collector).feed_data(HEAD + wire)
    except httptools.HttpParserError:
        return ("end", collector.body) if collector.messages else ("refused", b"")
    return ("end" if collector.messages else "more"), collector.body


def by_h11(wire: bytes) -> tuple[str, bytes]:
    """The same by h11."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(HEAD + wire)
    body = b""
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                return "more", body
            if isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return "end", body
    except h11.RemoteProtocolError:
        return "refused", b""


tokens = st.text("abcXYZ09-_!", min_size=1, max_size=6).map(str.encode)
quoted = st.sampled_from([b'""', b'"a"', b'"a;b=c"', b'"\\"\\\\"', b'"\t \xe9"'])
extensions = st.lists(
    st.one_of(tokens, st.tuples(tokens, st.one_of(tokens, quoted)).map(b"=".join)).map(lambda text: b";" + text),
    max_size=2,
).map(b"".join)
payloads = st.one_of(st.binary(min_size=1, max_size=40), st.just(b"\r\n0\r\n\r\n"), st.just(b"x" * 300))
sizes = st.sampled_from([b"%x", b"%X", b"%03x", b"%016X"])
trailer_lines = st.tuples(
    tokens, st.sampled_from([b":", b": ", b":\t"]), st.sampled_from([b"", b"v", b"a b \xff"])
).map(lambda parts: b"".join(parts) + b"\r\n")


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """Wire, payload and trailers of a well-formed body."""
    wire = payload = b""
    for chunk in draw(st.lists(payloads, max_size=5)):
        wire += draw(sizes) % len(chunk) + draw(extensions) + b"\r\n" + chunk + b"\r\n"
        payload += chunk
    trailers = b"".join(draw(st.lists(trailer_lines, max_size=3)))
    return wire + b"0" + draw(extensions) + b"\r\n" + trailers + b"\r\n", payload, trailers


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A well-formed body with up to three edits of the kind that smugglers make, and sometimes a tail."""
    wire = bytearray(draw(bodies())[0] + draw(st.sampled_from([b"", b"GET / HTTP/1.1\r\n\r\n"])))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(wire)))
        width = draw(st.integers(0, 2))
        wire[place : place + width] = draw(
            st.sampled_from(
                [b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b";", b"=", b'"', b"\\", b"0", b"f", b":", b"\x00", b"-"]
            )
        )
    return bytes(wire)


@st.composite
def cuts(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    """A wire and the same wire in pieces."""
    wire = draw(source)
    places = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    return wire, [wire[a:b] for a, b in zip([0, *places], [*places, len(wire)], strict=True)]


@given(cuts(bodies().map(lambda body: body[0] + b"tail")))
@settings(deadline=None)
def test_a_body_in_pieces_reads_as_the_whole(cut: tuple[bytes, list[bytes]]) -> None:
    wire, pieces = cut
    assert ours(pieces) == ours([wire])


@given(cuts(damaged()))
@settings(deadline=None, max_examples=200)
def test_a_damaged_body_in_pieces_gets_the_verdict_of_the_whole(cut: tuple[bytes, list[bytes]]) -> None:
    wire, pieces = cut
    assert ours(pieces) == ours([wire])


@given(bodies())
@settings(deadline=None, max_examples=20)
def test_every_split_and_byte_by_byte_give_the_same(body: tuple[bytes, bytes, bytes]) -> None:
    wire, payload, trailers = body
    expected = ("end", payload, trailers, len(wire))
    assert ours([bytes((octet,)) for octet in wire]) == expected
    for place in range(len(wire) + 1):
        assert ours([wire[:place], wire[place:]]) == expected


@given(bodies())
@settings(deadline=None)
def test_what_is_well_formed_reads_the_same_everywhere(body: tuple[bytes, bytes, bytes]) -> None:
    wire, payload, _ = body
    assert ours([wire])[:2] == ("end", payload)
    assert llhttp(wire) == ("end", payload)
    assert by_h11(wire) == ("end", payload)


@given(damaged())
@settings(deadline=None, max_examples=400)
def test_what_we_accept_the_others_accept_and_read_alike(wire: bytes) -> None:
    verdict, payload, trailers, _ = ours([wire])
    if verdict == "refused" or b"content-length" in trailers.lower() or b"transfer-encoding" in trailers.lower():
        return
    assert llhttp(wire) == (verdict, payload)
    assert by_h11(wire) == (verdict, payload)


@given(st.lists(st.lists(st.binary(max_size=50), max_size=4), max_size=6), st.lists(trailer_lines, max_size=3))
@settings(deadline=None)
def test_what_we_write_reads_back(chunks: list[list[bytes]], lines: list[bytes]) -> None:
    trailers = b"".join(lines)
    wire = b"".join(encode_chunk(pieces) for pieces in chunks) + last_chunk(trailers)
    payload = b"".join(piece for pieces in chunks for piece in pieces)
    assert ours([wire]) == ("end", payload, forwardable_trailers(trailers), len(wire))
    assert llhttp(wire) == by_h11(wire) == ("end", payload)


@given(st.lists(trailer_lines, max_size=5).map(b"".join))
@settings(deadline=None)
def test_filtering_trailers_twice_is_filtering_them_once(trailers: bytes) -> None:
    once = forwardable_trailers(trailers)
    assert forwardable_trailers(once) == once


@given(st.integers(1, 3000), st.integers(1, 700))
@settings(deadline=None)
def test_small_chunks_cost_bounded_pieces_and_lose_nothing(count: int, cut: int) -> None:
    payload = bytes(number % 251 for number in range(count))
    wire = b"".join(b"1\r\n%c\r\n" % octet for octet in payload) + LAST_CHUNK
    decoder = ChunkedDecoder()
    received = b""
    for place in range(0, len(wire), cut):
        out: list[bytes] = []
        decoder.feed(wire[place : place + cut], 0, out)
        assert len(out) <= 256 + count // 256
        received += b"".join(out)
    assert received == payload
