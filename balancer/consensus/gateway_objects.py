"""Where one JSON object ends and the next begins, in text that comes in pieces.

Only brackets and strings are looked at: whether an object is well formed is for who decodes it to say.
"""

import re
from collections.abc import Iterator

from balancer.consensus.gateway_errors import TOO_LARGE
from balancer.coordination.errors import Code, CoordinationError

_SPACE = re.compile(rb"[ \t\r\n]*")
_OUTSIDE = re.compile(rb'["{}\[\]]')
_INSIDE = re.compile(rb'["\\]')


class JsonObjects:
    """Cuts a stream of JSON objects, with or without white space between them, into its objects.

    None may have more than `size_max` bytes, and no more of one is looked at.
    """

    __slots__ = ("_depth", "_in_string", "_position", "_size_max", "_text")

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._text = bytearray()  # begins with the object that is not complete yet
        self._position = 0  # up to where it was looked at
        self._depth = 0
        self._in_string = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The objects that `piece` completes. Raises CoordinationError at what is no object, or too large a one."""
        self._text += piece
        while (end := self._end()) is not None:
            found = bytes(self._text[:end])
            del self._text[:end]
            self._position = 0
            yield found
        if len(self._text) > self._size_max:
            raise _too_large()

    @property
    def rest(self) -> bytes:
        """What has come of an object that is not complete."""
        return bytes(self._text)

    def _end(self) -> int | None:
        text = self._text
        if not self._depth:
            space = _SPACE.match(text)
            assert space is not None
            del text[: space.end()]
            if text and not text.startswith(b"{"):
                raise CoordinationError(Code.INVALID_ARGUMENT, "expected a JSON object")
        while True:
            match = (_INSIDE if self._in_string else _OUTSIDE).search(text, self._position)
            if match is None:
                self._position = len(text)
                return None
            octet = match[0]
            self._position = match.end()
            if self._position > self._size_max:
                raise _too_large()
            if octet == b'"':
                self._in_string = not self._in_string
            elif octet == b"\\":
                if self._position == len(text):  # what it escapes has not come yet
                    self._position -= 1
                    return None
                self._position += 1
            elif octet in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    self._depth = 0
                    return self._position


def _too_large() -> CoordinationError:
    return CoordinationError(Code.INVALID_ARGUMENT, TOO_LARGE)
