"""A strict reader of HTTP/1 byte streams for tests: what exactly stands there, and whether it is whole.

Written for observation, not for service: it keeps the head's bytes, tells how the body was framed and says in
words why something is not HTTP. RFC 9112 sections 2-7.
"""

import re
from dataclasses import dataclass

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~\x80-\xff]+) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2}) ?([^\r\n\x00]*)")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*((?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)[ \t]*")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:;[^\r\n]*)?)")


@dataclass(slots=True)
class Message:
    """One request or response as it stood in a stream.

    `framing` is none, length, chunked or close. `end` is the offset behind the message, meaningful when
    `complete`. `broken` says what a strict reader objects to; a broken message is never complete.
    """

    start: int
    head: bytes
    line: bytes = b""
    fields: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    framing: str = "none"
    trailers: bytes = b""
    extensions: bool = False
    complete: bool = False
    broken: str = ""
    end: int = 0
    status: int = 0

    def values(self, name: bytes) -> list[bytes]:
        """The values of all lines of field `name` (lower case), in order."""
        return [value for key, value in self.fields if key.lower() == name]

    @property
    def interim(self) -> bool:
        """A 1xx that more will follow; 101 is final for the HTTP part of a connection."""
        return 100 <= self.status < 200 and self.status != 101

    @property
    def method(self) -> bytes:
        """The method of a request."""
        return self.line.split(b" ")[0]

    @property
    def target(self) -> bytes:
        """The target of a request."""
        parts = self.line.split(b" ")
        return parts[1] if len(parts) > 1 else b""


def read_request(data: bytes, start: int) -> Message | None:
    """The request that begins at `start`; None while its head is incomplete."""
    message = _read_head(data, start)
    if message is None or message.broken:
        return message
    if _REQUEST_LINE.fullmatch(message.line) is None:
        message.broken = "request line"
        return message
    codings, lengths = message.values(b"transfer-encoding"), message.values(b"content-length")
    if not _framing_is_clear(message, codings, lengths):
        return message
    if codings:
        _read_chunked(message, data)
    elif lengths:
        _read_length(message, data, int(lengths[0]))
    else:
        _whole_at(message, start + len(message.head))
    return message


def read_response(data: bytes, start: int, method: str, ended: bool) -> Message | None:
    """The response at `start` to a request with `method`; `ended`: the stream has no more to come."""
    message = _read_head(data, start)
    if message is None or message.broken:
        return message
    match = _STATUS_LINE.fullmatch(message.line)
    if match is None:
        message.broken = "status line"
        return message
    message.status = int(match[2])
    if message.status < 200 or message.status in (204, 304) or method == "HEAD":
        _whole_at(message, start + len(message.head))
        return message
    codings, lengths = message.values(b"transfer-encoding"), message.values(b"content-length")
    if not _framing_is_clear(message, codings, lengths):
        return message
    if codings:
        _read_chunked(message, data)
    elif lengths:
        _read_length(message, data, int(lengths[0]))
    else:
        message.framing = "close"
        message.body = data[start + len(message.head) :]
        message.complete = ended
        message.end = len(data)
    return message


def _read_head(data: bytes, start: int) -> Message | None:
    end = data.find(b"\r\n\r\n", start)
    if end < 0:
        return None
    message = Message(start, data[start : end + 4])
    lines = data[start:end].split(b"\r\n")
    message.line = lines[0]
    fields = []
    for line in lines:
        if b"\n" in line or b"\r" in line:
            message.broken = "bare CR or LF"
            return message
    for line in lines[1:]:
        match = _FIELD.fullmatch(line)
        if match is None:
            message.broken = f"field line {line[:40]!r}"
            return message
        fields.append((match[1], match[2]))
    message.fields = tuple(fields)
    return message


def _framing_is_clear(message: Message, codings: list[bytes], lengths: list[bytes]) -> bool:
    if len(codings) + len(lengths) > 1:
        message.broken = "more than one framing field"
    elif codings and codings[0].lower() != b"chunked":
        message.broken = "transfer coding"
    elif lengths and re.fullmatch(rb"[0-9]{1,18}", lengths[0]) is None:
        message.broken = "content length"
    return not message.broken


def _whole_at(message: Message, end: int) -> None:
    message.complete = True
    message.end = end


def _read_length(message: Message, data: bytes, length: int) -> None:
    message.framing = "length"
    begin = message.start + len(message.head)
    message.body = data[begin : begin + length]
    if len(message.body) == length:
        _whole_at(message, begin + length)


def _read_chunked(message: Message, data: bytes) -> None:
    message.framing = "chunked"
    at = message.start + len(message.head)
    pieces: list[bytes] = []
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            if len(data) - at > 4096:
                message.broken = "chunk line without end"
            break
        match = _CHUNK_LINE.fullmatch(data[at:line_end])
        if match is None:
            message.broken = f"chunk line {data[at : min(line_end, at + 40)]!r}"
            break
        message.extensions = message.extensions or bool(match[2])
        size, at = int(match[1], 16), line_end + 2
        if size == 0:
            _read_trailers(message, data, at)
            break
        pieces.append(data[at : at + size])
        if len(data) < at + size + 2:
            if data[at + size :] not in (b"", b"\r"):
                message.broken = "chunk is not followed by CRLF"
            break
        if data[at + size : at + size + 2] != b"\r\n":
            message.broken = "chunk is not followed by CRLF"
            break
        at += size + 2
    message.body = b"".join(pieces)


def _read_trailers(message: Message, data: bytes, at: int) -> None:
    begin = at
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return
        line = data[at:line_end]
        if not line:
            message.trailers = data[begin:at]
            _whole_at(message, line_end + 2)
            return
        if _FIELD.fullmatch(line) is None:
            message.broken = f"trailer line {line[:40]!r}"
            return
        at = line_end + 2
