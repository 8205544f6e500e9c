"""Heads that come in pieces: kept until the empty line, refused as soon as no good head can come of them.

Law: every byte is looked at once, however the input is cut, so that a peer that sends byte by byte costs what its
packets cost and no more. Nothing waits for a timeout that can be judged now.
"""

import re

from balancer.errors import (
    BAD_REQUEST,
    BAD_RESPONSE,
    HEAD_TOO_LARGE,
    METHOD_UNKNOWN,
    RESPONSE_HEAD_TOO_LARGE,
    URI_TOO_LONG,
    ProtocolError,
)
from balancer.http1.message import TOKEN

METHOD_MAX = 20  # bytes; the longest that is registered has 17 (UPDATEREDIRECTREF)
LINE_SLACK = 32  # bytes of a request line beside its target: method, version, two spaces
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BEGINNING = re.compile(TOKEN + rb"(?: |$)|\r$")
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") (\S+) HTTP/(\d)\.(\d)")


class PartialRequest:
    """The beginning of a request head that is not complete yet."""

    __slots__ = ("_buffer", "_head_bytes", "_line_done", "_uri_bytes")

    def __init__(self, head_bytes: int, uri_bytes: int) -> None:
        self._buffer = bytearray()
        self._head_bytes = head_bytes
        self._uri_bytes = uri_bytes
        self._line_done = False

    def add(self, data: bytes) -> bytes | None:
        """All that came, once it holds a whole head or begins with an empty line; None = more is needed.

        Raises ProtocolError(BAD_REQUEST | METHOD_UNKNOWN | URI_TOO_LONG | HEAD_TOO_LARGE).
        """
        buffer = self._buffer
        known = len(buffer)
        buffer += data
        if buffer.find(b"\r\n\r\n", max(known - 3, 0)) >= 0 or buffer[:2] == b"\r\n":
            return bytes(buffer)
        if not self._line_done:
            self._check_line(known)
        if _BARE_LF.search(buffer, known):
            raise ProtocolError(BAD_REQUEST, "a line ends with a bare LF")
        if len(buffer) > self._head_bytes:
            raise ProtocolError(HEAD_TOO_LARGE, "the head is over head_bytes")
        return None

    def _check_line(self, known: int) -> None:
        buffer = self._buffer
        line_end = buffer.find(b"\r\n", max(known - 1, 0))
        if not _BEGINNING.match(buffer[:64]):
            raise ProtocolError(BAD_REQUEST, "a request begins with a method")  # TLS on a plain port, most likely
        if len(buffer) > METHOD_MAX and buffer.find(b" ", 0, METHOD_MAX + 1) < 0:
            raise ProtocolError(METHOD_UNKNOWN, "no method is that long")
        if line_end < 0:
            if len(buffer) > self._uri_bytes + LINE_SLACK:
                raise ProtocolError(URI_TOO_LONG, "the request line does not end")
            return
        self._line_done = True
        line = REQUEST_LINE.fullmatch(buffer, 0, line_end)
        if line is None:
            raise ProtocolError(BAD_REQUEST, "request line is not METHOD SP target SP version")
        if len(line[2]) > self._uri_bytes:
            raise ProtocolError(URI_TOO_LONG, "the request target is longer than uri_bytes")


class PartialResponse:
    """The beginning of a response head that is not complete yet."""

    __slots__ = ("_buffer", "_head_bytes")

    def __init__(self, head_bytes: int) -> None:
        self._buffer = bytearray()
        self._head_bytes = head_bytes

    def add(self, data: bytes) -> bytes | None:
        """All that came, once it holds a whole head; None = more is needed.

        Raises ProtocolError(BAD_RESPONSE | RESPONSE_HEAD_TOO_LARGE).
        """
        buffer = self._buffer
        known = len(buffer)
        buffer += data
        if buffer.find(b"\r\n\r\n", max(known - 3, 0)) >= 0:
            return bytes(buffer)
        if buffer[:5] != b"HTTP/"[: len(buffer)]:
            raise ProtocolError(BAD_RESPONSE, "the response does not begin with HTTP/")
        if _BARE_LF.search(buffer, known):
            raise ProtocolError(BAD_RESPONSE, "a line ends with a bare LF")
        if len(buffer) > self._head_bytes:
            raise ProtocolError(RESPONSE_HEAD_TOO_LARGE, "the response head is over 80 KiB")
        return None
