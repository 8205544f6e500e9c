"""Chunked transfer coding, read strictly and written plainly (RFC 9112 section 7.1).

Law: where a body ends is decided here and nowhere else. One transition table says what may stand where;
every byte that it does not name is refused when it is seen, so the verdict cannot depend on how the network
cut the input. Deviations from the grammar, all towards refusing: no whitespace beside `;` and `=` (readers
disagree about it), no bare CR or LF anywhere, and the bounds below.

Hot path: one regex per chunk, one slice per payload; bytes go through the table one by one only in extensions,
trailers and lines that the network cut in two.
"""

import re
from typing import Final

from balancer.errors import BAD_BODY, ProtocolError

LAST_CHUNK: Final = b"0\r\n\r\n"

SIZE_DIGITS_MAX: Final = 16
"""Hex digits of a chunk size: a 64-bit number; leading zeros count."""
SIZE_MAX: Final = 2**53
"""Bytes of one chunk: the largest count that also a reader with floating-point numbers gets right."""
EXTENSION_BYTES_MAX: Final = 256
"""Per chunk. Nobody uses extensions; room for what a signing scheme puts there."""
EXTENSION_BYTES_TOTAL_MAX: Final = 16 * 1024
"""Per message: extensions are work without payload (CVE-2023-39326 of Go is this)."""
TRAILER_BYTES_MAX: Final = 8 * 1024
"""Kept in memory until the body ends; as much as one header line may have."""
TRAILER_FIELDS_MAX: Final = 64
"""Fields in a trailer section; real ones have one to three."""
_PIECES_MAX: Final = 256
"""Slices of one feed before they are joined: one-byte chunks would cost 40 bytes of memory per byte."""

# States. Up to _SIZE_LF a chunk-size line; from _EXTENSION to _QUOTE_END its extension; then the rest.
_SIZE_START = 0
_SIZE = 1
_SIZE_LF = 2
_EXTENSION = 3  # behind ";": a name must begin
_NAME = 4
_EQUALS = 5  # behind "=": a value must begin
_VALUE = 6
_QUOTED = 7
_ESCAPED = 8
_QUOTE_END = 9
_LINE_END = 10
_TRAILER = 11  # at the start of a trailer line
_TRAILER_NAME = 12
_TRAILER_VALUE = 13
_TRAILER_LF = 14
_LAST_LF = 15
_DONE = 16
_DATA = 17
_DATA_CR = 18
_DATA_LF = 19
_REFUSED = 255

_HEX = b"0123456789abcdefABCDEF"
_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # RFC 9110 section 5.6.2
_VISIBLE = bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))  # VCHAR and obs-text
_TEXT = b"\t " + _VISIBLE

_TRANSITIONS: dict[int, list[tuple[bytes, int]]] = {
    _SIZE_START: [(_HEX, _SIZE)],
    _SIZE: [(_HEX, _SIZE), (b";", _EXTENSION), (b"\r", _SIZE_LF)],
    _SIZE_LF: [(b"\n", _LINE_END)],
    _EXTENSION: [(_TOKEN, _NAME)],
    _NAME: [(_TOKEN, _NAME), (b"=", _EQUALS), (b";", _EXTENSION), (b"\r", _SIZE_LF)],
    _EQUALS: [(_TOKEN, _VALUE), (b'"', _QUOTED)],
    _VALUE: [(_TOKEN, _VALUE), (b";", _EXTENSION), (b"\r", _SIZE_LF)],
    _QUOTED: [(_TEXT, _QUOTED), (b"\\", _ESCAPED), (b'"', _QUOTE_END)],
    _ESCAPED: [(_TEXT, _QUOTED)],
    _QUOTE_END: [(b";", _EXTENSION), (b"\r", _SIZE_LF)],
    _TRAILER: [(_TOKEN, _TRAILER_NAME), (b"\r", _LAST_LF)],
    _TRAILER_NAME: [(_TOKEN, _TRAILER_NAME), (b":", _TRAILER_VALUE)],
    _TRAILER_VALUE: [(_TEXT, _TRAILER_VALUE), (b"\r", _TRAILER_LF)],
    _TRAILER_LF: [(b"\n", _TRAILER)],
    _LAST_LF: [(b"\n", _DONE)],
    _DATA_CR: [(b"\r", _DATA_LF)],
    _DATA_LF: [(b"\n", _SIZE_START)],
}

_PLACES: dict[int, str] = {
    _SIZE_START: "where a chunk size begins",
    _SIZE: "in a chunk size",
    _SIZE_LF: "behind the CR of a chunk-size line",
    _TRAILER: "where a trailer field begins",
    _TRAILER_NAME: "in a trailer field's name",
    _TRAILER_VALUE: "in a trailer field's value",
    _TRAILER_LF: "behind the CR of a trailer line",
    _LAST_LF: "behind the CR of the last line",
    _DATA_CR: "where a chunk's data must end in CRLF",
    _DATA_LF: "where a chunk's data must end in CRLF",
}


def _rows() -> tuple[bytes, ...]:
    """The transitions as one 256-byte row per state: the byte read -> the state that follows."""
    rows = []
    for state in range(_DATA_LF + 1):
        row = bytearray([_REFUSED]) * 256
        for octets, following in _TRANSITIONS.get(state, []):  # later entries win: `"` and `\` are also text
            for octet in octets:
                row[octet] = following
        rows.append(bytes(row))
    return tuple(rows)


_NEXT: Final = _rows()
_DIGIT: Final = bytes(int(chr(octet), 16) if octet in _HEX else 0 for octet in range(256))

# 13 digits stay below SIZE_MAX; longer sizes, extensions and cut lines take the table.
_SIZE_LINE = re.compile(rb"([0-9a-fA-F]{1,13})\r\n").match
_BOUNDARY = re.compile(rb"\r\n([0-9a-fA-F]{1,13})\r\n").match


def _refuse(state: int, octet: int) -> ProtocolError:
    place = _PLACES.get(state, "in a chunk extension")
    return ProtocolError(BAD_BODY, f"byte 0x{octet:02x} {place}")


class ChunkedDecoder:
    """Strict chunked decoder, pure: payload slices out, end offset back.

    Memory: at most TRAILER_BYTES_MAX; nothing else of the input is kept. Cost: linear in the input, however
    it is split. After an error, or after the end, the object is spent.
    """

    __slots__ = ("_digits", "_extension", "_extensions", "_fields", "_left", "_section", "_state", "trailers")

    trailers: bytes
    """Raw trailer lines, each ended by CRLF, without the final empty line. Complete once feed gave an offset."""

    def __init__(self) -> None:
        self._state = _SIZE_START
        self._left = 0  # size of the chunk while its line is read, then its bytes still to come
        self._digits = 0
        self._extension = 0  # bytes of this chunk's extension
        self._extensions = 0  # bytes of all extensions of the message
        self._section = bytearray()  # the trailer section so far
        self._fields = 0
        self.trailers = b""

    def feed(self, data: bytes, start: int, out: list[bytes]) -> int:
        """Append the payload slices of data[start:] to `out`; the offset behind the message's end, or -1 for "more".

        Raises ProtocolError(BAD_BODY) on anything that a strict reader refuses (RFC 9112 section 7.1).
        """
        position = start
        end = len(data)
        first = len(out)  # where the slices begin that may still be joined
        while position < end:
            if self._state == _DATA:
                left = self._left
                if end - position < left:
                    out.append(data[position:])
                    self._left = left - (end - position)
                    return -1
                out.append(data[position : position + left])
                position = self._take_whole_chunks(data, position + left, out, first)
                if len(out) - first >= _PIECES_MAX:
                    out[first:] = [b"".join(out[first:])]
                    first += 1
            elif self._state == _SIZE_START and (match := _SIZE_LINE(data, position)) is not None:
                position = match.end()
                self._begin_chunk(int(match[1], 16))
            else:
                position = self._step(data, position)
                if self._state == _DONE:
                    return position
        return -1

    def _take_whole_chunks(self, data: bytes, position: int, out: list[bytes], first: int) -> int:
        """From behind a chunk's data, take the chunks whose lines and payload are all there; the offset reached."""
        end = len(data)
        most = first + _PIECES_MAX
        match = _BOUNDARY(data, position)
        while match is not None:
            position = match.end()
            size = int(match[1], 16)
            behind = position + size
            if behind > end or not size or len(out) >= most:
                self._begin_chunk(size)
                return position
            out.append(data[position:behind])
            position = behind
            match = _BOUNDARY(data, position)
        self._state = _DATA_CR
        return position

    def _begin_chunk(self, size: int) -> None:
        self._left = size
        self._state = _DATA if size else _TRAILER

    def _step(self, data: bytes, position: int) -> int:
        """Read on in the piece at `position` byte by byte; the offset reached."""
        if self._state <= _QUOTE_END:
            return self._read_size_line(data, position)
        if self._state < _DONE:
            return self._read_trailers(data, position)
        following = _NEXT[self._state][data[position]]  # CR or LF behind a chunk's data
        if following == _REFUSED:
            raise _refuse(self._state, data[position])
        self._state = following
        if following == _SIZE_START:
            self._left = self._digits = self._extension = 0
        return position + 1

    def _read_size_line(self, data: bytes, position: int) -> int:
        state = self._state
        for offset in range(position, len(data)):
            octet = data[offset]
            following = _NEXT[state][octet]
            if following == _SIZE:
                self._digits += 1
                self._left = self._left * 16 + _DIGIT[octet]
                if self._digits > SIZE_DIGITS_MAX or self._left > SIZE_MAX:
                    raise ProtocolError(BAD_BODY, "chunk size too large")
            elif following == _LINE_END:
                self._begin_chunk(self._left)
                return offset + 1
            elif following == _REFUSED:
                raise _refuse(state, octet)
            elif following != _SIZE_LF:
                self._count_extension_byte()
            state = following
        self._state = state
        return len(data)

    def _count_extension_byte(self) -> None:
        self._extension += 1
        self._extensions += 1
        if self._extension > EXTENSION_BYTES_MAX:
            raise ProtocolError(BAD_BODY, f"chunk extension over {EXTENSION_BYTES_MAX} bytes")
        if self._extensions > EXTENSION_BYTES_TOTAL_MAX:
            raise ProtocolError(BAD_BODY, f"chunk extensions over {EXTENSION_BYTES_TOTAL_MAX} bytes in one message")

    def _read_trailers(self, data: bytes, position: int) -> int:
        state = self._state
        room = TRAILER_BYTES_MAX + 2 - len(self._section)  # the empty line's CRLF is collected too, then cut off
        offset = position
        for offset in range(position, min(len(data), position + room)):
            following = _NEXT[state][data[offset]]
            if following == _REFUSED:
                raise _refuse(state, data[offset])
            if following == _TRAILER_NAME and state == _TRAILER:
                self._fields += 1
                if self._fields > TRAILER_FIELDS_MAX:
                    raise ProtocolError(BAD_BODY, f"more than {TRAILER_FIELDS_MAX} trailer fields")
            state = following
            if state == _DONE:
                break
        offset += 1
        self._state = state
        self._section += data[position:offset]
        if state == _DONE:
            self.trailers = bytes(self._section[:-2])
        elif len(self._section) >= TRAILER_BYTES_MAX + 2:
            raise ProtocolError(BAD_BODY, f"trailer section over {TRAILER_BYTES_MAX} bytes")
        return offset


def encode_chunk(pieces: list[bytes]) -> bytes:
    """One chunk of all pieces joined; b"" if they hold no payload, because an empty chunk would end the body."""
    size = sum(map(len, pieces))
    if not size:
        return b""
    return b"".join((b"%x\r\n" % size, *pieces, b"\r\n"))


_NO_NAMES: frozenset[bytes] = frozenset()

# RFC 9110 section 6.5.1: what says where the message ends, where it goes, who sends it, or how it is to be
# processed was acted upon when the head came; in a trailer it could only contradict that.
_NOT_IN_TRAILERS: Final = frozenset(
    b"""
    transfer-encoding te trailer connection keep-alive upgrade host via forwarded max-forwards expect
    authorization www-authenticate authentication-info cookie set-cookie cookie2 set-cookie2
    cache-control pragma range vary age date expires location retry-after warning allow
    x-real-ip x-request-id x-http-method-override x-original-url x-rewrite-url true-client-ip
    """.split()
)
_NOT_IN_TRAILERS_PREFIXES: Final = (b"content-", b"x-forwarded-", b"proxy-", b"if-", b"access-control-")
_DIGESTS: Final = frozenset([b"content-digest"])
"""Content-* fields that are made for trailers (RFC 9530 section 2)."""


def forwardable_trailers(trailers: bytes, nominated: frozenset[bytes] = _NO_NAMES) -> bytes:
    """The lines of a decoded trailer section that may go on to the next hop.

    `nominated`: lower-case names that the message's Connection field lists (RFC 9110 section 7.6.1). Names are
    judged with `_` read as `-`, because some origins cannot tell them apart. Idempotent.
    """
    if not trailers:
        return b""
    kept = []
    for line in trailers[:-2].split(b"\r\n"):
        name = line.partition(b":")[0].lower()
        canonical = name.replace(b"_", b"-")
        if canonical in _NOT_IN_TRAILERS or name in nominated or canonical in nominated:
            continue
        if canonical.startswith(_NOT_IN_TRAILERS_PREFIXES) and name not in _DIGESTS:
            continue
        kept.append(line + b"\r\n")
    return b"".join(kept)


def last_chunk(trailers: bytes, nominated: frozenset[bytes] = _NO_NAMES) -> bytes:
    """The end of a chunked body with those of its trailer fields that are forwardable."""
    return b"".join((b"0\r\n", forwardable_trailers(trailers, nominated), b"\r\n"))
