"""Request heads: validated by llhttp, then read once for the fields that an intermediary must understand.

Hot path: every request passes here once. llhttp judges the grammar of the bytes up to and including the empty
line (never a body); one case-sensitive search over the lower-cased head finds our fields; what must not travel on
is kept as spans to cut, so that every other byte is forwarded as it came. RFC 9112 sections 2-6, RFC 9110 7.6.1.
"""

import re

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from balancer.errors import (
    BAD_REQUEST,
    CODING_UNKNOWN,
    EXPECTATION_FAILED,
    HEAD_TOO_LARGE,
    METHOD_REFUSED,
    METHOD_UNKNOWN,
    URI_TOO_LONG,
    VERSION_UNSUPPORTED,
    ProtocolError,
)
from balancer.http1.target import check_host, normalise_path, parse_target, split_query

NO_BODY = 0
CHUNKED = -1
UNTIL_CLOSE = -2

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TOKEN = re.compile(TOKEN)
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") (\S+) HTTP/(\d)\.(\d)")
_DIGITS = re.compile(rb"0|[1-9][0-9]{0,17}")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=\-]{1,128}")

# One byte in front of the names, so that the search is a memchr from line to line. The names that backends
# fold onto ours ("_" for "-" in a CGI environment) are found by the same pass (peers.md 4.4).
_FIELDS = re.compile(
    rb"\n(host|con(?:nection|tent[-_]length)|x[-_]re(?:quest[-_]id|al[-_]ip)|x[-_]forwarded[-_](?:for|proto|host|port)"
    rb"|t(?:e|ransfer[-_]encoding)|upgrade|expect|via|forwarded|keep[-_]alive|proxy[-_]connection|max-forwards):"
)

# Fields that a client may not have removed by naming them in Connection (peers.md 3 no. 22, CVE-2024-45410).
PROTECTED = frozenset(
    b"host content-length transfer-encoding content-type content-encoding authorization cookie cache-control "
    b"forwarded via x-request-id x-real-ip x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port "
    b"expect date".split()
)
ALLOW = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


class _NoCallbacks:
    """llhttp is asked for a verdict only; a callback per field would cost more than the rest of this module."""

    __slots__ = ()


_VERDICT_ONLY = _NoCallbacks()


class RequestHead:
    """One request head. Treat as immutable once parsed.

    `raw` ends with the empty line; `line_end` is the offset of the CRLF behind the request line. `cuts` are spans
    of `raw`, in order, each from the CRLF before a field line to the line's end. `length` is the body's: NO_BODY,
    CHUNKED or a number of bytes. `forwarding` holds (name, value) of the X-Forwarded-*, X-Real-IP and Forwarded
    lines that were cut, in order.
    """

    __slots__ = (
        "_path",
        "continues",
        "cuts",
        "forwarding",
        "host",
        "host_field",
        "keep_alive",
        "length",
        "line_end",
        "lowered",
        "max_forwards",
        "method",
        "minor",
        "no_host_line",
        "raw",
        "request_id",
        "rewritten_length",
        "target",
        "te_trailers",
        "upgrade",
        "via",
    )

    lowered: bytes
    line_end: int
    method: bytes
    target: bytes  # what is forwarded: origin-form, or b"*"
    minor: int  # 0 or 1
    host: bytes  # lower case, no port, no trailing dot; b"" = an HTTP/1.0 request without Host
    host_field: bytes  # as received (from the target when it was absolute)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.host_field = b""
        self.host = b""
        self.no_host_line = False
        self.cuts: list[tuple[int, int]] = []
        self.length = NO_BODY
        self.rewritten_length = False
        self.request_id = b""
        self.via = b""
        self.forwarding: list[tuple[bytes, bytes]] = []
        self.keep_alive = True
        self.continues = False
        self.te_trailers = False
        self.upgrade = False
        self.max_forwards = -1
        self._path: bytes | None = None

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

    def field(self, name: bytes) -> list[bytes]:
        """All values of the field `name` (lower case), in order. O(head): for routes that ask, not for the path."""
        return [
            self.raw[m.start(1) : m.end(1)].strip(b" \t")
            for m in re.finditer(rb"\n" + re.escape(name) + rb":([^\r]*)", self.lowered)
        ]


def parse_request_head(raw: bytes, uri_bytes: int, header_count: int) -> RequestHead:
    """The head in `raw`, which ends with its empty line and starts with its request line.

    Raises ProtocolError with the outcome to answer. O(head).
    """
    try:
        HttpRequestParser(_VERDICT_ONLY).feed_data(raw)
    except HttpParserUpgrade:
        pass  # whether it is one is decided below, by our own rules
    except (HttpParserError, HttpParserCallbackError) as error:
        raise _verdict(raw, error) from None
    head = RequestHead(raw)
    line_end = head.line_end = raw.find(b"\r\n")
    parts = raw[:line_end].split(b" ")
    if len(parts) != 3:
        raise ProtocolError(BAD_REQUEST, "request line is not METHOD SP target SP version")
    method, target, version = parts
    if version == b"HTTP/1.1":
        head.minor = 1
    elif version == b"HTTP/1.0":
        head.minor = 0
        head.keep_alive = False
    else:
        raise _version_error(version)
    if len(target) > uri_bytes:
        raise ProtocolError(URI_TOO_LONG, "request target is longer than uri_bytes")
    if raw.count(b"\n") - 2 > header_count:
        raise ProtocolError(HEAD_TOO_LARGE, "more fields than header_count")
    if method in _REFUSED:
        raise ProtocolError(METHOD_REFUSED, "CONNECT and TRACE are not proxied")
    head.method = method
    _read_fields(head)
    if _PLAIN_TARGET(target):
        head.target = target
    else:
        _apply_target(head, method, target)
    if head.host_field:
        head.host = check_host(head.host_field)
    elif head.minor:
        raise ProtocolError(BAD_REQUEST, "HTTP/1.1 without Host")
    return head


_REFUSED = frozenset((b"CONNECT", b"TRACE"))
# Origin-form without anything that parse_target would refuse or change.
_PLAIN_TARGET = re.compile(rb"/[^#\\]*").fullmatch


def _apply_target(head: RequestHead, method: bytes, target: bytes) -> None:
    parsed = parse_target(method, target)
    head.target = parsed.path_and_query
    if parsed.authority is not None:
        # RFC 9112 3.2.2 says ignore Host; a Host that differs is refused instead, as routing confusion.
        if head.host_field and head.host_field.lower() != parsed.authority.lower():
            raise ProtocolError(BAD_REQUEST, "Host differs from the authority of the target")
        if not head.host_field and head.minor:
            raise ProtocolError(BAD_REQUEST, "HTTP/1.1 without Host")
        head.no_host_line = not head.host_field
        head.host_field = parsed.authority


def _read_fields(head: RequestHead) -> None:
    raw = head.raw
    lowered = head.lowered = raw.lower()
    rare: list[tuple[bytes, int, int, bytes]] | None = None
    for match in _FIELDS.finditer(lowered):
        name = match[1]
        start = match.end()
        end = raw.find(b"\r\n", start)
        value = raw[start:end].strip(b" \t")
        if name == b"host":
            if head.host_field or not value:
                raise ProtocolError(BAD_REQUEST, "Host is repeated or empty")
            head.host_field = value
        elif name == b"x-request-id" and not head.request_id and _REQUEST_ID.fullmatch(value):
            head.request_id = value
        else:
            if rare is None:
                rare = []
            rare.append((name, match.start() - 1, end, value))
    if rare is not None:
        _RareFields(head).read(rare)


class _RareFields:
    """The fields that few requests carry: framing, connection options, forwarding. One object per such head."""

    __slots__ = ("codings", "expect", "head", "lengths", "nominated", "options", "upgrades")

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        self.options: list[bytes] = []
        self.lengths = 0
        self.codings = 0
        self.upgrades: list[bytes] = []
        self.expect: tuple[bytes, int, int] | None = None

    def read(self, fields: list[tuple[bytes, int, int, bytes]]) -> None:
        """Take the fields in order, then settle what depends on several of them."""
        head = self.head
        for name, start, end, value in fields:
            handler = _HANDLERS.get(name)
            if handler is None:  # a twin with "_" of one of our names
                if name in _FRAMING_TWINS:
                    raise ProtocolError(BAD_REQUEST, "a framing field is written with '_'")
                head.cuts.append((start, end))
            else:
                handler(self, start, end, value, name)
        if self.options:
            self._connection_options()
        if self.codings and self.lengths:
            raise ProtocolError(BAD_REQUEST, "Transfer-Encoding and Content-Length together")
        if self.upgrades:
            self._upgrade()
        if self.expect is not None:
            self._settle_expect(*self.expect)
        if len(head.cuts) > 1:
            head.cuts.sort()

    def _connection(self, start: int, end: int, value: bytes, _name: bytes) -> None:
        self.head.cuts.append((start, end))
        self.options.extend(option.strip(b" \t").lower() for option in value.split(b","))

    def _connection_options(self) -> None:
        head = self.head
        options = self.options
        if b"close" in options:
            head.keep_alive = False
        elif head.minor == 0 and b"keep-alive" in options:
            head.keep_alive = True  # whether it is granted is the listener's to say
        for option in options:
            if option in _OWN_OPTIONS or option in PROTECTED or not _TOKEN.fullmatch(option):
                continue
            for match in re.finditer(rb"\r\n" + re.escape(option) + rb":[^\r]*", head.lowered):
                if match.span() not in head.cuts:
                    head.cuts.append(match.span())

    def _content_length(self, start: int, end: int, value: bytes, _name: bytes) -> None:
        head = self.head
        if self.lengths or not _DIGITS.fullmatch(value):
            raise ProtocolError(BAD_REQUEST, "Content-Length is repeated or not a plain number")
        self.lengths = 1
        head.length = int(value)
        # A canonical line is its own re-serialisation; any other is cut and written anew.
        if end - start != len(b"\r\ncontent-length: ") + len(value):
            head.cuts.append((start, end))
            head.rewritten_length = True

    def _transfer_encoding(self, start: int, end: int, value: bytes, _name: bytes) -> None:
        head = self.head
        if head.minor == 0:
            raise ProtocolError(BAD_REQUEST, "Transfer-Encoding in HTTP/1.0")
        if self.codings or value.lower() != b"chunked":
            raise ProtocolError(CODING_UNKNOWN, "only the one transfer coding 'chunked' is understood")
        self.codings = 1
        head.length = CHUNKED
        head.cuts.append((start, end))

    def _te(self, start: int, end: int, value: bytes, _name: bytes) -> None:
        self.head.cuts.append((start, end))
        if b"trailers" in (coding.strip(b" \t").lower() for coding in value.split(b",")):
            self.head.te_trailers = self.head.minor == 1

    def _upgrade_field(self, start: int, end: int, value: bytes, _name: bytes) -> None:
        self.head.cuts.append((start, end))
        self.upgrades.append(value.lower())

    def _upgrade(self) -> None:
        """RFC 9110 7.8: only websocket is tunnelled; any other offer is dropped, which a server may always do."""
        head = self.head
        if self.upgrades != [b"websocket"] or b"upgrade" not in self.options or head.minor == 0:
            return
        if head.length != NO_BODY:
            raise ProtocolError(BAD_REQUEST, "an upgrade with a body")
        head.upgrade = head.method == b"GET"

    def _expect(self, start: int, end: int, value: bytes, _name: bytes) -> None:
        if self.expect is not None:
            raise ProtocolError(EXPECTATION_FAILED, "Expect is repeated")
        self.expect = (value, start, end)

    def _settle_expect(self, value: bytes, start: int, end: int) -> None:
        head = self.head
        if head.minor == 0:  # RFC 9110 10.1.1: ignored in HTTP/1.0
            head.cuts.append((start, end))
        elif value.lower() != b"100-continue":
            raise ProtocolError(EXPECTATION_FAILED, "only 100-continue can be expected")
        elif head.length == NO_BODY:
            head.cuts.append((start, end))
        else:
            head.continues = True

    def _via(self, start: int, end: int, value: bytes, _name: bytes) -> None:
        head = self.head
        head.cuts.append((start, end))
        head.via = head.via + b", " + value if head.via else value

    def _forwarding(self, start: int, end: int, value: bytes, name: bytes) -> None:
        self.head.cuts.append((start, end))
        self.head.forwarding.append((name, value))

    def _drop(self, start: int, end: int, _value: bytes, _name: bytes) -> None:
        self.head.cuts.append((start, end))

    def _max_forwards(self, start: int, end: int, value: bytes, _name: bytes) -> None:
        head = self.head
        if head.method != b"OPTIONS":
            return
        if head.max_forwards >= 0 or not _DIGITS.fullmatch(value):
            raise ProtocolError(BAD_REQUEST, "Max-Forwards is repeated or not a number")
        head.max_forwards = int(value)
        head.cuts.append((start, end))


_OWN_OPTIONS = frozenset((b"close", b"keep-alive", b"upgrade", b"te", b""))
_FRAMING_TWINS = frozenset((b"content_length", b"transfer_encoding"))
_HANDLERS = {
    b"connection": _RareFields._connection,
    b"content-length": _RareFields._content_length,
    b"transfer-encoding": _RareFields._transfer_encoding,
    b"te": _RareFields._te,
    b"upgrade": _RareFields._upgrade_field,
    b"expect": _RareFields._expect,
    b"via": _RareFields._via,
    b"forwarded": _RareFields._forwarding,
    b"x-forwarded-for": _RareFields._forwarding,
    b"x-forwarded-proto": _RareFields._forwarding,
    b"x-forwarded-host": _RareFields._forwarding,
    b"x-forwarded-port": _RareFields._forwarding,
    b"x-real-ip": _RareFields._forwarding,
    b"x-request-id": _RareFields._drop,  # an invalid or a second one
    b"keep-alive": _RareFields._drop,
    b"proxy-connection": _RareFields._drop,
    b"max-forwards": _RareFields._max_forwards,
}


def _version_error(version: bytes) -> ProtocolError:
    if re.fullmatch(rb"HTTP/\d\.\d", version):
        return ProtocolError(VERSION_UNSUPPORTED, "only HTTP/1.0 and HTTP/1.1 are spoken")
    return ProtocolError(BAD_REQUEST, "not an HTTP version")


def _verdict(raw: bytes, error: Exception) -> ProtocolError:
    """The outcome for a head that llhttp refused: a lawful line may still ask for what we do not speak."""
    line = _REQUEST_LINE.fullmatch(raw[: raw.find(b"\r\n")])
    if line is not None:
        if (line[3], line[4]) not in ((b"1", b"0"), (b"1", b"1")):
            return ProtocolError(VERSION_UNSUPPORTED, "only HTTP/1.0 and HTTP/1.1 are spoken")
        if isinstance(error, HttpParserInvalidMethodError):
            return ProtocolError(METHOD_UNKNOWN, "the method is not known")
        if line[1] in _REFUSED:
            return ProtocolError(METHOD_REFUSED, "CONNECT and TRACE are not proxied")
    return ProtocolError(BAD_REQUEST, str(error))


def check_partial_head(data: bytes, uri_bytes: int) -> None:
    """Refuse the beginning of a head as soon as it cannot become a good one, not at a timeout.

    `data` holds no complete head. Raises ProtocolError: a bare LF, a finished first line without a version, an
    endless target. O(data).
    """
    line_end = data.find(b"\r\n")
    if not _BEGINNING.match(data):
        raise ProtocolError(BAD_REQUEST, "a request begins with a method")  # TLS on a plain port, most likely
    if _BARE_LF.search(data):
        raise ProtocolError(BAD_REQUEST, "a line ends with a bare LF")
    if line_end < 0:
        if len(data) > uri_bytes + 32:
            raise ProtocolError(URI_TOO_LONG, "request target is longer than uri_bytes")
    elif not _REQUEST_LINE.fullmatch(data[:line_end]):
        raise ProtocolError(BAD_REQUEST, "request line is not METHOD SP target SP version")


_BEGINNING = re.compile(TOKEN + rb"(?: |$)|\r$")
_BARE_LF = re.compile(rb"(?<!\r)\n")
