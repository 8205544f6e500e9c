"""Heads as values: what the data path knows of a request and of a response."""

import re

import msgspec

from balancer.http1.target import normalise_path, split_query

# A body's length where it is no number of bytes.
NO_BODY = 0
CHUNKED = -1
UNTIL_CLOSE = -2

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
PLAIN_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")  # int() would take "+1", "1_0" and other scripts' digits
# Fields that a client may not have removed by naming them in Connection (CVE-2024-45410).
PROTECTED = frozenset(
    b"host content-length transfer-encoding content-type content-encoding authorization cookie cache-control "
    b"forwarded via x-request-id x-real-ip x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port "
    b"expect date".split()
)
ALLOW = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
OWN_OPTIONS = frozenset(
    (b"close", b"keep-alive", b"upgrade", b"te", b"")
)  # connection options that name no other field
_TOKEN = re.compile(TOKEN)


def cut_nominated(raw_lower: bytes, options: list[bytes], cuts: list[tuple[int, int]]) -> None:
    """Add to `cuts` every field line that a Connection option names (RFC 9110 7.6.1), protected ones excepted."""
    for option in options:
        if option in OWN_OPTIONS or option in PROTECTED or not _TOKEN.fullmatch(option):
            continue
        for match in re.finditer(rb"\r\n" + re.escape(option) + rb":[^\r]*", raw_lower):
            if match.span() not in cuts:
                cuts.append(match.span())


def _nominated(raw: bytes) -> frozenset[bytes]:
    """What the Connection fields of a head name, in lower case. O(head)."""
    lines = re.findall(rb"\nconnection:([^\r]*)", raw.lower())
    return frozenset(option.strip(b" \t") for line in lines for option in line.split(b","))


class RareFields:
    """What few requests say; a head without any of it shares PLAIN. Treat as immutable once parsed.

    `forwarding` holds (name, value) of the X-Forwarded-*, X-Real-IP and Forwarded lines that were cut, in order.
    """

    __slots__ = (
        "continues",
        "forwarding",
        "host_from_target",
        "max_forwards",
        "rewritten_length",
        "te_trailers",
        "upgrade",
        "via",
    )

    def __init__(self) -> None:
        self.continues = False  # Expect: 100-continue, with a body
        self.forwarding: list[tuple[bytes, bytes]] = []
        self.host_from_target = False  # the Host line has to be made anew from an absolute target
        self.max_forwards = -1  # of OPTIONS; -1 = not said
        self.rewritten_length = False  # the Content-Length line was cut; a canonical one has to be made
        self.te_trailers = False
        self.upgrade = False  # to websocket, and lawful
        self.via = b""


PLAIN = RareFields()


class RequestHead(msgspec.Struct, gc=False):
    """One request head. Treat as immutable once parsed.

    `raw` ends with the empty line; `line_end` is the offset of the CRLF behind the request line. `target` is what is
    forwarded: origin-form, or b"*". `minor` is 0 or 1. `host` is lower case without port and trailing dot (b"" = an
    HTTP/1.0 request without Host), `host_field` as received, or from an absolute target. `length` is the body's:
    NO_BODY, CHUNKED or a number of bytes. `request_id` b"" = none that is valid. `cuts` are spans of `raw`, in
    order, each from the CRLF before a field line to the line's end.
    """

    raw: bytes
    line_end: int
    method: bytes
    target: bytes
    minor: int
    host_field: bytes = b""
    request_id: bytes = b""
    length: int = NO_BODY
    cuts: list[tuple[int, int]] = []
    host: bytes = b""
    keep_alive: bool = True
    rare: RareFields = PLAIN
    _path: bytes | None = None

    @property
    def path(self) -> bytes:
        """The path normalised for matching, computed when a route asks. Raises ProtocolError(BAD_REQUEST)."""
        path = self._path
        if path is None:
            path = self._path = normalise_path(split_query(self.target)[0])
        return path

    @property
    def query(self) -> bytes:
        """The query without its question mark."""
        return split_query(self.target)[1]

    @property
    def nominated(self) -> frozenset[bytes]:
        """The options of Connection in lower case: names of trailer fields, too, that do not travel on. O(head)."""
        return _nominated(self.raw)

    def field(self, name: bytes) -> list[bytes]:
        """All values of the field `name` (lower case), in order. O(head): for routes that ask, not for the path."""
        return [
            self.raw[m.start(1) : m.end(1)].strip(b" \t")
            for m in re.finditer(rb"\n" + re.escape(name) + rb":([^\r]*)", self.raw.lower())
        ]


class ResponseHead(msgspec.Struct, gc=False):
    """One response head. Treat as immutable once parsed.

    `cuts` as in RequestHead. `length`: NO_BODY, CHUNKED, UNTIL_CLOSE or a number of bytes, given the request's
    method. `keep_alive`: the backend will take another request on this connection. `status_line`: as it goes on, with
    our version, the backend's code and reason (ours where it gave none), without CRLF.
    """

    raw: bytes
    status: int
    line_end: int
    status_line: bytes
    length: int = UNTIL_CLOSE
    cuts: list[tuple[int, int]] = []
    has_date: bool = False
    keep_alive: bool = True
    upgrade: bytes = b""
    rewritten_length: bool = False

    @property
    def nominated(self) -> frozenset[bytes]:
        """As of RequestHead."""
        return _nominated(self.raw)
