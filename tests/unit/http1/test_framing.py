"""Chunked bodies: what is read, what is refused and when, what is written."""

import pytest

from balancer.errors import BAD_BODY, ProtocolError
from balancer.http1 import framing
from balancer.http1.framing import LAST_CHUNK, ChunkedDecoder, encode_chunk, forwardable_trailers, last_chunk


def read(wire: bytes) -> tuple[int, bytes, bytes]:
    """Offset, payload and trailers of one feed."""
    decoder = ChunkedDecoder()
    out: list[bytes] = []
    return decoder.feed(wire, 0, out), b"".join(out), decoder.trailers


def refusal(wire: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        read(wire)
    assert caught.value.outcome is BAD_BODY
    return caught.value.detail


@pytest.mark.parametrize(
    ("wire", "payload", "trailers"),
    [
        (b"0\r\n\r\n", b"", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
        (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2, b""),
        (b"0000000000000005\r\nhello\r\n0000000000000000\r\n\r\n", b"hello", b""),
        (b"5;a\r\nhello\r\n0;b=c\r\n\r\n", b"hello", b""),
        (b'5;a=b;c="d; e\\"\t\\\\\xe9";f\r\nhello\r\n0\r\n\r\n', b"hello", b""),
        (b'5;a=""\r\nhello\r\n0\r\n\r\n', b"hello", b""),
        (b"2\r\n\r\n\r\n2\r\n0\r\r\n0\r\n\r\n", b"\r\n0\r", b""),
        (b"0\r\nA:b\r\nc-D: \t e\xe9 \r\nEmpty:\r\n\r\n", b"", b"A:b\r\nc-D: \t e\xe9 \r\nEmpty:\r\n"),
    ],
)
def test_a_well_formed_body_is_read_to_its_last_byte_and_no_further(
    wire: bytes, payload: bytes, trailers: bytes
) -> None:
    assert read(wire) == (len(wire), payload, trailers)
    assert read(wire + b"GET / HTTP/1.1\r\n\r\n") == (len(wire), payload, trailers)
    assert read(wire[:-1])[0] == -1


# Each is refused at its last byte: all before it could still have become a body.
REFUSED_AT_THE_LAST_BYTE = [
    b"\r",
    b"\n",
    b";",
    b" ",
    b"+",
    b"-",
    b"g",
    b"0x",
    b"5 ",
    b"5\t",
    b"5_",
    b"5\n",
    b"5\r\r",
    b"5\rh",
    b"5;\r",
    b"5;;",
    b"5; ",
    b"5;\n",
    b"5;a ",
    b"5;a\n",
    b"5;a\x00",
    b"5;a\r\r",
    b"5;a\rb",
    b"5;a=\r",
    b"5;a= ",
    b"5;a=;",
    b"5;a=b ",
    b'5;a=b"',
    b'5;"',
    b'5;a="\r',
    b'5;a="\n',
    b'5;a="\x01',
    b'5;a="\x7f',
    b'5;a="\\\r',
    b'5;a="b"c',
    b'5;a="b" ',
    b"5\r\nhellow",
    b"5\r\nhello\n",
    b"5\r\nhello0",
    b"5\r\nhello\r0",
    b"5\r\nhello\r\r",
    b"5\r\nhello\r\n\r",
    b"0\r\n\n",
    b"0\r\n\r0",
    b"0\r\n ",
    b"0\r\n\t",
    b"0\r\n:",
    b"0\r\nA ",
    b"0\r\nA\r",
    b"0\r\nA\n",
    b"0\r\nA(",
    b"0\r\nA:b\n",
    b"0\r\nA:b\x00",
    b"0\r\nA:b\x7f",
    b"0\r\nA:b\rc",
    b"0\r\nA:b\r\n ",
    b"0\r\nA:b\r\n\n",
    b"0\r\nA:b\r\n\rc",
    b"FFFFFFFFFFFFFF",
    b"20000000000001",  # 2**53 + 1
    b"00000000000000005",  # 17 digits
]


@pytest.mark.parametrize("wire", REFUSED_AT_THE_LAST_BYTE)
def test_what_a_strict_reader_refuses_is_refused_when_its_first_wrong_byte_arrives(wire: bytes) -> None:
    assert read(wire[:-1])[0] == -1
    assert refusal(wire)


def test_a_refusal_names_the_byte_and_the_place() -> None:
    assert refusal(b"5\r\nhelloX") == "byte 0x58 where a chunk's data must end in CRLF"
    assert refusal(b"5;a=\x00") == "byte 0x00 in a chunk extension"
    assert refusal(b"0\r\nA b") == "byte 0x20 in a trailer field's name"


def test_a_chunk_of_the_largest_size_is_begun() -> None:
    assert read(b"20000000000000\r\nab") == (-1, b"ab", b"")


def test_extensions_are_bounded_per_chunk() -> None:
    most = b";" + b"x" * (framing.EXTENSION_BYTES_MAX - 1)
    assert read(b"1%b\r\na\r\n0%b\r\n\r\n" % (most, most))[1] == b"a"
    assert "256" in refusal(b"1%bx" % most)


def test_extensions_are_bounded_per_message() -> None:
    chunk = b"1;%b\r\na\r\n" % (b"x" * 255)
    most = chunk * (framing.EXTENSION_BYTES_TOTAL_MAX // 256)
    assert read(most + LAST_CHUNK)[0] == len(most + LAST_CHUNK)
    assert "in one message" in refusal(most + b"1;x")


def test_a_trailer_section_is_bounded_in_bytes() -> None:
    line = b"A: %b\r\n" % (b"x" * (framing.TRAILER_BYTES_MAX - 5))
    assert len(line) == framing.TRAILER_BYTES_MAX
    assert read(b"0\r\n" + line + b"\r\n") == (3 + len(line) + 2, b"", line)
    assert "trailer section over" in refusal(b"0\r\n" + b"A" + line + b"\r\n")
    assert "trailer section over" in refusal(b"0\r\nA:" + b"x" * 100_000)


def test_a_trailer_section_is_bounded_in_fields() -> None:
    most = b"A:\r\n" * framing.TRAILER_FIELDS_MAX
    assert read(b"0\r\n" + most + b"\r\n")[2] == most
    assert "64 trailer fields" in refusal(b"0\r\n" + most + b"A")


def test_payload_that_fills_the_input_is_passed_on_without_a_copy() -> None:
    decoder = ChunkedDecoder()
    out: list[bytes] = []
    assert decoder.feed(b"ffff\r\n", 0, out) == -1
    middle, rest = b"x" * 0xFFF0, b"y" * 15
    assert decoder.feed(middle, 0, out) == -1
    assert decoder.feed(rest, 0, out) == -1
    assert [piece is whole for piece, whole in zip(out, (middle, rest), strict=True)] == [True, True]
    assert decoder.feed(b"\r\n0\r\n\r\n", 0, out) == 7


def test_the_input_is_read_from_the_given_offset() -> None:
    out: list[bytes] = [b"before"]
    wire = b"POST / HTTP/1.1\r\n\r\n" + b"3\r\nabc\r\n0\r\n\r\n"
    assert ChunkedDecoder().feed(wire, wire.index(b"3"), out) == len(wire)
    assert out == [b"before", b"abc"]


def test_empty_input_asks_for_more() -> None:
    assert read(b"") == (-1, b"", b"")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_many_small_chunks_come_as_few_pieces(size: int) -> None:
    chunks = [bytes([65 + number % 26]) * size for number in range(10_000)]
    wire = b"".join(encode_chunk([chunk]) for chunk in chunks) + LAST_CHUNK
    out = [b"kept"]
    assert ChunkedDecoder().feed(wire, 0, out) == len(wire)
    assert out[0] == b"kept"
    assert b"".join(out[1:]) == b"".join(chunks)
    assert len(out) < 10_000 / 256 + 256 + 2


def test_a_chunk_is_written_as_one_piece_of_all_its_payload() -> None:
    assert encode_chunk([b"a" * 10, b"", b"b" * 17]) == b"1b\r\n" + b"a" * 10 + b"b" * 17 + b"\r\n"


def test_an_empty_chunk_is_never_written_since_it_would_end_the_body() -> None:
    assert encode_chunk([]) == encode_chunk([b"", b""]) == b""


@pytest.mark.parametrize(
    "name",
    [
        *("Transfer-Encoding", "content-length", "Host", "Connection", "TE", "Trailer", "Upgrade", "Keep-Alive"),
        *("Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "WWW-Authenticate", "Via", "Forwarded"),
        *("X-Forwarded-For", "x-forwarded-anything", "Content-Type", "Content-Encoding", "Content-Range", "Expect"),
        *("If-Match", "Cache-Control", "Location", "X-Request-Id", "Content_Length", "X_Forwarded_For", "Max-Forwards"),
    ],
)
def test_a_trailer_that_could_contradict_the_head_is_dropped(name: str) -> None:
    trailers = b"A: 1\r\n" + name.encode() + b": x\r\nB: 2\r\n"
    assert forwardable_trailers(trailers) == b"A: 1\r\nB: 2\r\n"
    assert last_chunk(trailers) == b"0\r\nA: 1\r\nB: 2\r\n\r\n"


def test_trailers_made_for_trailers_are_kept_as_they_came() -> None:
    trailers = b'grpc-Status: 0\r\nServer-Timing:db;dur=1 \r\nContent-Digest: sha-256=:x:\r\nETag: "a"\r\n'
    assert forwardable_trailers(trailers) == trailers


def test_names_that_connection_lists_are_dropped_from_trailers_too() -> None:
    trailers = b"X-Hop: 1\r\nX_Hop: 2\r\nX-End: 3\r\n"
    assert forwardable_trailers(trailers, frozenset([b"x-hop"])) == b"X-End: 3\r\n"
    assert last_chunk(trailers, frozenset([b"x_hop"])) == b"0\r\nX-Hop: 1\r\nX-End: 3\r\n\r\n"


def test_a_body_without_trailers_ends_with_the_last_chunk() -> None:
    assert last_chunk(b"") == LAST_CHUNK
    assert last_chunk(b"Host: x\r\n") == LAST_CHUNK
