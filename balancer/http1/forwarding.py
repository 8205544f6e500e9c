"""What we send on: heads rebuilt from what came, less what is hop-by-hop, plus what an intermediary adds.

The order is fixed: parse, remove nominated and hop-by-hop fields, apply the user's edits, add our own.
RFC 9110 sections 7.6 and 7.8, RFC 7239.
"""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

from balancer.http1.message import CHUNKED, PLAIN, RareFields, RequestHead, ResponseHead

Edit = Callable[[bytes], bytes]
Networks = Sequence[IPv4Network | IPv6Network]
LOOP_LIMIT = 2  # our own Via entry this often = a loop (RFC 9110 7.6: MUST NOT forward to itself)


def remaining_lines(raw: bytes, line_end: int, cuts: list[tuple[int, int]]) -> bytes:
    """The field lines of a head, each preceded by CRLF, without the `cuts`; no CRLF at the end."""
    if not cuts:
        return raw[line_end:-4]
    if len(cuts) == 1:
        start, end = cuts[0]
        return raw[line_end:start] + raw[end:-4]
    pieces = []
    position = line_end
    for start, end in cuts:
        pieces.append(raw[position:start])
        position = end
    pieces.append(raw[position:-4])
    return b"".join(pieces)


def is_trusted(address: str, networks: Networks) -> bool:
    """Whether the peer at `address` is one of the trusted proxies; a Unix socket's peer ("") is not. O(networks)."""
    if not address or not networks:
        return False
    ip = ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    if mapped is not None:
        ip = mapped
    return any(ip in network for network in networks)


class Forwarder:
    """The fields that name the client to a backend, for one client connection.

    For a peer that is not a trusted proxy what it sent in these fields is replaced; a trusted one's values are
    kept and ours appended (`trusted_proxies`). `via` is our pseudonym, b"" = no Via.
    """

    __slots__ = ("_block", "_block_host", "_forwarded", "_peer", "_port", "_proto", "_via", "networks", "trusted")

    def __init__(self, *, peer: str, proto: bytes, port: int, via: bytes, networks: Networks, forwarded: bool) -> None:
        self._peer = peer.encode("ascii") if peer else b"unknown"
        self._proto = proto
        self._port = b"%d" % port if port else b""
        self._via = via
        self._forwarded = forwarded
        self.networks = networks
        self.trusted = is_trusted(peer, networks)
        self._block_host: bytes | None = None
        self._block = b""

    def block(self, head: RequestHead) -> bytes:
        """Our field lines for `head`, each preceded by CRLF. Cached while the Host stays the same."""
        rare = head.rare
        if not head.minor or (rare is not PLAIN and (rare.via or (self.trusted and rare.forwarding))):
            return self._merged(head)
        host = head.host_field
        if host == self._block_host:
            return self._block
        block = self._lines(self._peer, self._proto, host, self._port, b"")
        self._block_host = host
        self._block = block
        return block

    def _lines(self, chain: bytes, proto: bytes, host: bytes, port: bytes, via: bytes) -> bytes:
        lines = [b"\r\nX-Forwarded-For: ", chain, b"\r\nX-Forwarded-Proto: ", proto]
        if host:
            lines += (b"\r\nX-Forwarded-Host: ", host)
        if port:
            lines += (b"\r\nX-Forwarded-Port: ", port)
        if self._forwarded:
            lines += (b"\r\nForwarded: ", self._element(host))
        return b"".join(lines) + self._via_line(via, 1)

    def _via_line(self, received: bytes, minor: int) -> bytes:
        if not self._via:
            return b"\r\nVia: " + received if received else b""
        mine = b"1.%d %b" % (minor, self._via)
        return b"\r\nVia: " + (received + b", " + mine if received else mine)

    def _element(self, host: bytes) -> bytes:
        """One RFC 7239 element; an IPv6 address and anything with a colon is quoted."""
        peer = b'"[' + self._peer + b']"' if b":" in self._peer else self._peer
        element = b"for=" + peer + b";proto=" + self._proto
        if host:
            element += b';host="' + host + b'"' if b":" in host or b"[" in host else b";host=" + host
        return element

    def _merged(self, head: RequestHead) -> bytes:
        received: dict[bytes, bytes] = {}
        if self.trusted:
            for name, value in head.rare.forwarding:
                received[name] = received[name] + b", " + value if name in received else value
        chain = received.get(b"x-forwarded-for")
        block = [
            b"\r\nX-Forwarded-For: ",
            chain + b", " + self._peer if chain else self._peer,
            b"\r\nX-Forwarded-Proto: ",
            received.get(b"x-forwarded-proto") or self._proto,
        ]
        host = received.get(b"x-forwarded-host") or head.host_field
        if host:
            block += (b"\r\nX-Forwarded-Host: ", host)
        port = received.get(b"x-forwarded-port") or self._port
        if port:
            block += (b"\r\nX-Forwarded-Port: ", port)
        real = received.get(b"x-real-ip")
        if real:
            block += (b"\r\nX-Real-IP: ", real)
        forwarded = received.get(b"forwarded")
        if self._forwarded:
            mine = self._element(head.host_field)
            block += (b"\r\nForwarded: ", forwarded + b", " + mine if forwarded else mine)
        elif forwarded:
            block += (b"\r\nForwarded: ", forwarded)
        return b"".join(block) + self._via_line(head.rare.via, head.minor)

    def client(self, head: RequestHead) -> str:
        """The client's address: the peer, or behind trusted proxies the last one in X-Forwarded-For not trusted.

        Read from right to left; an entry that is no address ends the walk at the hop before.
        """
        peer = self._peer.decode("ascii")
        if not self.trusted:
            return peer
        entries = [e.strip(b" \t") for n, v in head.rare.forwarding if n == b"x-forwarded-for" for e in v.split(b",")]
        client = peer
        for entry in reversed(entries):
            try:
                address = str(ip_address(entry.decode("ascii").strip("[]")))
            except ValueError:  # UnicodeDecodeError is one
                break
            client = address
            if not is_trusted(address, self.networks):
                break
        return client

    def loops(self, head: RequestHead) -> bool:
        """Whether this request passed us before: our own entry stands in Via LOOP_LIMIT times."""
        if not head.rare.via or not self._via:
            return False
        entries = [entry.split() for entry in head.rare.via.split(b",")]
        return sum(1 for entry in entries if len(entry) > 1 and entry[1] == self._via) >= LOOP_LIMIT


def request_head(head: RequestHead, target: bytes, host: bytes | None, ours: bytes, edit: Edit | None) -> bytes:
    """The head to send upstream: `ours` are our own lines, each preceded by CRLF; `host` None keeps the client's."""
    raw = head.raw
    lines = remaining_lines(raw, head.line_end, head.cuts) if head.cuts else raw[head.line_end : -4]
    rare = head.rare
    if host is not None:
        lines = replace_host(lines, host)
    elif rare.host_from_target:
        lines = replace_host(lines, head.host_field)
    if edit is not None:
        lines = edit(lines)
    if rare is not PLAIN:
        lines += _own_lines(head, rare)
    return b"".join((head.method, b" ", target, b" HTTP/1.1", lines, ours, b"\r\n\r\n"))


def _own_lines(head: RequestHead, rare: RareFields) -> bytes:
    """Framing and connection options as we say them to the backend."""
    lines = b""
    if head.length == CHUNKED:
        lines = b"\r\nTransfer-Encoding: chunked"
    elif rare.rewritten_length:
        lines = b"\r\nContent-Length: %d" % head.length
    if rare.upgrade:
        lines += b"\r\nConnection: upgrade\r\nUpgrade: websocket"
    elif rare.te_trailers:
        lines += b"\r\nTE: trailers\r\nConnection: TE"
    if rare.max_forwards >= 0:
        lines += b"\r\nMax-Forwards: %d" % max(rare.max_forwards - 1, 0)
    return lines


def replace_host(lines: bytes, host: bytes) -> bytes:
    """`lines` with `host` as their one Host line: where it stood, or first.

    `lines` are field lines, or a whole head, perhaps with the beginning of a body behind it, which is not searched.
    """
    head_end = lines.find(b"\r\n\r\n")
    at = (lines if head_end < 0 else lines[:head_end]).lower().find(b"\r\nhost:")
    if at < 0:
        at = end = max(lines.find(b"\r\n"), 0)
    else:
        end = lines.find(b"\r\n", at + 2)
    return lines[:at] + b"\r\nHost: " + host + (lines[end:] if end >= 0 else b"")


def response_head(head: ResponseHead, minor: int, close: bool, date: bytes, edit: Edit | None) -> bytes:
    """The head to send downstream to a client of HTTP/1.`minor`. `date` is used where the backend gave none."""
    raw = head.raw
    lines = remaining_lines(raw, head.line_end, head.cuts) if head.cuts else raw[head.line_end : -4]
    if edit is not None:
        lines = edit(lines)
    extra = b""
    if head.status < 200:
        if head.upgrade and head.status == 101:
            extra = b"\r\nConnection: upgrade\r\nUpgrade: websocket"
        return b"".join((head.status_line, lines, extra, b"\r\n\r\n"))
    if head.length < 0:  # CHUNKED or UNTIL_CLOSE
        if minor:
            extra = b"\r\nTransfer-Encoding: chunked"
    elif head.rewritten_length:
        extra = b"\r\nContent-Length: %d" % head.length
    if not head.has_date:
        extra += b"\r\nDate: " + date
    if close:
        extra += b"\r\nConnection: close"
    elif not minor:
        extra += b"\r\nConnection: keep-alive"  # an HTTP/1.0 client that the listener grants it to
    return b"".join((head.status_line, lines, extra, b"\r\n\r\n"))
