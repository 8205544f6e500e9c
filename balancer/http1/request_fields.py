"""The request fields that few requests carry and that change where it ends, how it travels or whom it names."""

from balancer.errors import BAD_REQUEST, CODING_UNKNOWN, EXPECTATION_FAILED, ProtocolError
from balancer.http1.message import CHUNKED, NO_BODY, PLAIN_LENGTH, RareFields, RequestHead, cut_nominated


class RequestFields:
    """Framing, connection options and forwarding of one head. Made only where such a field is there."""

    __slots__ = ("codings", "expect", "head", "lengths", "nominated", "options", "upgrades")

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        head.rare = RareFields()
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
        cut_nominated(head.raw.lower(), options, head.cuts)

    def _content_length(self, start: int, end: int, value: bytes, _name: bytes) -> None:
        head = self.head
        if self.lengths or not PLAIN_LENGTH.fullmatch(value):
            raise ProtocolError(BAD_REQUEST, "Content-Length is repeated or not a plain number")
        self.lengths = 1
        head.length = int(value)
        # A canonical line is its own re-serialisation; any other is cut and written anew.
        if head.raw[start + len(b"\r\ncontent-length") : end] != b": " + value:
            head.cuts.append((start, end))
            head.rare.rewritten_length = True

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
            self.head.rare.te_trailers = self.head.minor == 1

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
        head.rare.upgrade = head.method == b"GET"

    def _expect(self, start: int, end: int, value: bytes, _name: bytes) -> None:
        if self.head.minor == 0:  # RFC 9110 10.1.1: ignored in HTTP/1.0
            self.head.cuts.append((start, end))
            return
        if self.expect is not None:
            raise ProtocolError(EXPECTATION_FAILED, "Expect is repeated")
        self.expect = (value, start, end)

    def _settle_expect(self, value: bytes, start: int, end: int) -> None:
        head = self.head
        if value.lower() != b"100-continue":
            raise ProtocolError(EXPECTATION_FAILED, "only 100-continue can be expected")
        if head.length == NO_BODY:
            head.cuts.append((start, end))
        else:
            head.rare.continues = True

    def _via(self, start: int, end: int, value: bytes, _name: bytes) -> None:
        head = self.head
        head.cuts.append((start, end))
        head.rare.via = head.rare.via + b", " + value if head.rare.via else value

    def _forwarding(self, start: int, end: int, value: bytes, name: bytes) -> None:
        self.head.cuts.append((start, end))
        self.head.rare.forwarding.append((name, value))

    def _drop(self, start: int, end: int, _value: bytes, _name: bytes) -> None:
        self.head.cuts.append((start, end))

    def _max_forwards(self, start: int, end: int, value: bytes, _name: bytes) -> None:
        head = self.head
        if head.method != b"OPTIONS":
            return
        if head.rare.max_forwards >= 0 or not PLAIN_LENGTH.fullmatch(value):
            raise ProtocolError(BAD_REQUEST, "Max-Forwards is repeated or not a number")
        head.rare.max_forwards = int(value)
        head.cuts.append((start, end))


_FRAMING_TWINS = frozenset((b"content_length", b"transfer_encoding"))
_HANDLERS = {
    b"connection": RequestFields._connection,
    b"content-length": RequestFields._content_length,
    b"transfer-encoding": RequestFields._transfer_encoding,
    b"te": RequestFields._te,
    b"upgrade": RequestFields._upgrade_field,
    b"expect": RequestFields._expect,
    b"via": RequestFields._via,
    b"forwarded": RequestFields._forwarding,
    b"x-forwarded-for": RequestFields._forwarding,
    b"x-forwarded-proto": RequestFields._forwarding,
    b"x-forwarded-host": RequestFields._forwarding,
    b"x-forwarded-port": RequestFields._forwarding,
    b"x-real-ip": RequestFields._forwarding,
    b"x-request-id": RequestFields._drop,  # an invalid or a second one
    b"keep-alive": RequestFields._drop,
    b"proxy-connection": RequestFields._drop,
    b"max-forwards": RequestFields._max_forwards,
}
