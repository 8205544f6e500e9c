"""What a conformance case is: steps of a client, a script of the origin, and what each of them must get.

Templates are bytes of a message head in which `<name>` stands for a value that may rightly vary (PLACEHOLDERS) or
that is only known when the case runs (`<port>`, `<proto>`, `<client>`, `<backend>`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from tests.support.raw_origin import Reply

PLACEHOLDERS: dict[bytes, bytes] = {
    b"<id>": rb"[A-Za-z0-9._:/+=\-]{1,128}",
    b"<date>": rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
    rb" 20[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT",
    # RFC 7239: one element that names the client, in whatever order its pairs stand.
    b"<forwarded>": rb"(?:(?:for=127\.0\.0\.1|proto=https?|host=[A-Za-z0-9.\-]+|by=[^;,\r]+)(?:;|(?=\r))){2,4}",
    b"<maybe-close>\r\n": rb"(?:Connection: close\r\n)?",
}

Framing = Literal["none", "length", "chunked", "close"]


@dataclass(frozen=True, slots=True)
class Send:
    """The client sends these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AwaitClient:
    """The client waits until it has received these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AwaitOrigin:
    """The client waits until the origin has received these bytes, on any connection."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AwaitUpstreamEnd:
    """The client waits until the proxy has ended every upstream connection."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The client sends FIN (in TLS close_notify before it)."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The client sends RST."""


Step = Send | AwaitClient | AwaitOrigin | AwaitUpstreamEnd | Finish | Reset


@dataclass(frozen=True, slots=True)
class Forwarded:
    """One request that the origin must get whole. `head` is a template; `raw` is what follows in a tunnel."""

    head: bytes
    body: bytes = b""
    framing: Framing = "none"
    trailers: bytes = b""
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Partial:
    """A request that the origin may get the beginning of, or nothing, but never whole: its end is an error."""

    head: bytes
    body: bytes = b""
    framing: Framing = "chunked"


@dataclass(frozen=True, slots=True)
class Interim:
    """A 1xx head that the client must get, as it stands."""

    head: bytes


@dataclass(frozen=True, slots=True)
class Relayed:
    """One response of the origin that the client must get whole. `raw` is what follows a 101 in a tunnel."""

    head: bytes
    body: bytes = b""
    framing: Framing = "length"
    trailers: bytes = b""
    method: str = "GET"
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Own:
    """An answer made by the proxy itself: one of these statuses; `fields` are name -> regular expression."""

    statuses: tuple[int, ...]
    fields: tuple[tuple[bytes, bytes], ...] = ()
    method: str = "GET"
    body: bytes | None = None
    close: bool | None = None  # None: as it says itself


@dataclass(frozen=True, slots=True)
class Cut:
    """A response that the client must see broken off: RST, or an end before the message's own.

    A proxy that has not passed on anything yet may as well answer 502 (`or_502`).
    """

    head: bytes
    body: bytes = b""
    framing: Framing = "chunked"
    method: str = "GET"
    or_502: bool = True


Answer = Interim | Relayed | Own | Cut
End = Literal["kept", "closed", "broken", "stated", "any", "tunnel"]
"""How the client's connection stands at last: kept (a further request is answered on it), closed (a clean end),
broken (RST or an end inside a message), stated (closed if and only if the last answer said so), a tunnel."""

Upstream = Literal["reused", "closed", "any"]


@dataclass(frozen=True, slots=True)
class Case:
    """One case. `upstream`: whether the origin's last connection must serve the next request, or must be ended.

    `splits` False: whole only (large inputs, or time is the point). `compared` names fields, lower case, that a
    peer is judged by although a proxy usually adds or changes them.
    """

    name: str
    rows: tuple[str, ...]
    steps: tuple[Step, ...]
    forwarded: tuple[Forwarded | Partial, ...]
    answers: tuple[Answer, ...]
    end: End
    script: tuple[Reply, ...] = ()
    upstream: Upstream = "any"
    variant: str = "plain"
    tls: bool = True
    splits: bool = True
    extra: bool = False  # the client sends more than is answered
    compared: frozenset[bytes] = frozenset()
    note: str = ""

    @property
    def lingers(self) -> bool:
        """Whether a proxy may read on after its last answer, because more of the request may come.

        Over TCP it says FIN at once all the same. TLS has no half-close: there its end may come later, and what
        is checked is that it answers nothing more.
        """
        return bool(self.answers) and (
            self.extra
            or isinstance(self.answers[-1], Own)
            or any(isinstance(entry, Partial) for entry in self.forwarded)
        )

    @property
    def request_bytes(self) -> int:
        """Length of all that the client sends."""
        return sum(len(step.data) for step in self.steps if isinstance(step, Send))

    @property
    def reply_bytes(self) -> int:
        """Length of all that the origin plays."""
        return sum(len(reply.data) for reply in self.script)


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to run a case: whole, or byte by byte, or cut once at an offset of the request or of the replies."""

    kind: Literal["whole", "bytes", "request", "reply"] = "whole"
    offset: int = 0
    tls: bool = False

    def __str__(self) -> str:
        where = f" cut in the {self.kind} at {self.offset}" if self.kind in ("request", "reply") else f" {self.kind}"
        return ("TLS" if self.tls else "TCP") + where

    def request_cuts(self, start: int, length: int) -> Iterable[int]:
        """Offsets in the piece of the client's bytes that begins at `start` of them all."""
        return self._cuts("request", start, length)

    def reply_cuts(self, start: int, length: int) -> Iterable[int]:
        """The same for the origin's bytes."""
        return self._cuts("reply", start, length)

    def _cuts(self, side: str, start: int, length: int) -> Iterable[int]:
        if self.kind == "bytes":
            return range(1, length)
        if self.kind == side and start < self.offset < start + length:
            return (self.offset - start,)
        return ()


def every_mode(case: Case) -> Iterator[Mode]:
    """All ways to run `case`: O(bytes of the request and of the replies) of them."""
    for tls in (False, True) if case.tls else (False,):
        yield Mode("whole", tls=tls)
        if case.splits:
            yield Mode("bytes", tls=tls)
            for offset in range(1, case.request_bytes):
                yield Mode("request", offset, tls)
            for offset in range(1, case.reply_bytes):
                yield Mode("reply", offset, tls)
