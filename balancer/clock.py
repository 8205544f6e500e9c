"""The only reader of the machine's clocks. Decision code takes `now` as an argument instead."""

import time
from email.utils import formatdate

monotonic = time.monotonic
wall = time.time


class DateField:
    """The Date field's value (RFC 9110 section 6.6.1), formatted at most once a second."""

    __slots__ = ("_second", "value")

    def __init__(self) -> None:
        self._second = 0
        self.value = b""
        self.refresh()

    def refresh(self) -> bytes:
        """The current value as bytes, e.g. b"Sat, 21 Nov 2026 12:00:00 GMT"."""
        second = int(wall())
        if second != self._second:
            self._second = second
            self.value = formatdate(second, usegmt=True).encode("ascii")
        return self.value
