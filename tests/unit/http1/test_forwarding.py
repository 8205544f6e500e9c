"""What is sent on: rebuilt heads, the fields that name the client, and whom we believe."""

from ipaddress import ip_network

import pytest

from balancer.http1.forwarding import Forwarder, is_trusted, replace_host, request_head, response_head
from balancer.http1.message import RequestHead
from balancer.http1.request import parse_request_head
from balancer.http1.response import parse_response_head

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


def forwarder(peer: str = "1.2.3.4", *, forwarded: bool = False, via: bytes = b"edge", port: int = 80) -> Forwarder:
    return Forwarder(peer=peer, proto=b"http", port=port, via=via, networks=TRUSTED, forwarded=forwarded)


def request(lines: bytes = b"", line: bytes = b"GET /x HTTP/1.1", host: bytes = b"Host: h\r\n") -> RequestHead:
    return parse_request_head(line + b"\r\n" + host + lines + b"\r\n", 8192, 100)


def test_an_untrusted_peer_is_named_by_us_alone() -> None:
    head = request(b"X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 9\r\n")
    by = forwarder()
    expected = (
        b"\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nX-Forwarded-Port: 80"
        b"\r\nVia: 1.1 edge"
    )
    assert by.block(head) == expected
    assert by.block(head) is by.block(head), "the same Host gives the same block without building it again"
    assert by.client(head) == "1.2.3.4"


def test_a_trusted_peers_values_are_kept_and_ours_appended() -> None:
    head = request(
        b"X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-For: 8.8.8.8\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: o\r\n"
        b"X-Forwarded-Port: 443\r\nX-Real-IP: 9\r\nForwarded: for=9\r\nVia: 1.0 a\r\n"
    )
    assert forwarder("10.1.1.1", forwarded=True).block(head) == (
        b"\r\nX-Forwarded-For: 9.9.9.9, 8.8.8.8, 10.1.1.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: o"
        b"\r\nX-Forwarded-Port: 443\r\nX-Real-IP: 9\r\nForwarded: for=9, for=10.1.1.1;proto=http;host=h"
        b"\r\nVia: 1.0 a, 1.1 edge"
    )
    assert b"\r\nForwarded: for=9\r\n" in forwarder("10.1.1.1").block(head)


def test_forwarded_is_written_when_asked_and_quotes_what_needs_it() -> None:
    head = request(host=b"Host: h:81\r\n")
    block = forwarder("2001:db9::1", forwarded=True, via=b"").block(head)
    assert b'Forwarded: for="[2001:db9::1]";proto=http;host="h:81"' in block
    assert b"Via" not in block


def test_via_of_others_passes_when_ours_is_off() -> None:
    assert b"\r\nVia: 1.0 a" in forwarder(via=b"").block(request(b"Via: 1.0 a\r\n"))


def test_a_unix_peer_has_no_port_and_no_address() -> None:
    block = forwarder("", port=0).block(request(line=b"GET /x HTTP/1.0", host=b""))
    assert block == b"\r\nX-Forwarded-For: unknown\r\nX-Forwarded-Proto: http\r\nVia: 1.0 edge"


def test_via_says_the_version_of_each_request() -> None:
    by = forwarder()
    for version in (b"1.1", b"1.0", b"1.1"):
        assert by.block(request(line=b"GET /x HTTP/" + version)).endswith(b"\r\nVia: " + version + b" edge")


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        (b"9.9.9.9, 10.2.2.2", "9.9.9.9"),
        (b"6.6.6.6, 9.9.9.9, 10.2.2.2", "9.9.9.9"),
        (b"junk, 10.2.2.2", "10.2.2.2"),
        (b"\xff", "10.1.1.1"),
        (b"[2001:db9::9]", "2001:db9::9"),
        (b"10.3.3.3, 10.2.2.2", "10.3.3.3"),
    ],
)
def test_the_client_is_found_from_right_to_left_through_trusted_proxies(chain: bytes, client: str) -> None:
    assert forwarder("10.1.1.1").client(request(b"X-Forwarded-For: " + chain + b"\r\n")) == client


def test_trust_reads_mapped_addresses_as_v4() -> None:
    assert is_trusted("::ffff:10.0.0.1", TRUSTED)
    assert not is_trusted("::ffff:11.0.0.1", TRUSTED)
    assert not is_trusted("", TRUSTED)
    assert not is_trusted("10.0.0.1", ())


def test_our_own_entry_twice_in_via_is_a_loop() -> None:
    by = forwarder()
    assert not by.loops(request())
    assert not by.loops(request(b"Via: 1.1 edge, 1.1 edge2\r\n"))
    assert by.loops(request(b"Via: 1.1 edge, 1.0 x\r\nVia: 1.1 edge (comment)\r\n"))
    assert by.loops(request(b"Via: 1.1  edge , 1.0\tedge\r\n")), "any white space may stand between (RFC 9110 5.6.3)"
    assert not forwarder(via=b"").loops(request(b"Via: 1.1 edge, 1.1 edge\r\n"))


def send(head: RequestHead, **changes: object) -> bytes:
    arguments: dict[str, object] = {"target": head.target, "host": None, "ours": b"", "edit": None}
    return request_head(head, **{**arguments, **changes})  # type: ignore[arg-type]


def test_a_request_head_travels_as_it_came() -> None:
    assert send(request(b"A: b\r\n")) == b"GET /x HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n"
    assert send(request(b"A: b\r\n", b"GET /x HTTP/1.0")) == b"GET /x HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n"


def test_framing_and_options_are_ours() -> None:
    post = b"POST /x HTTP/1.1"
    assert send(request(b"Transfer-Encoding: CHUNKED\r\n", post)).endswith(b"h\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert send(request(b"Content-Length:   7\r\n", post)).endswith(b"h\r\nContent-Length: 7\r\n\r\n")
    assert send(request(b"Upgrade: websocket\r\nConnection: upgrade\r\n")).endswith(
        b"h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    assert send(request(b"TE: trailers\r\n")).endswith(b"h\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
    assert send(request(b"Max-Forwards: 2\r\n", b"OPTIONS /x HTTP/1.1")).endswith(b"h\r\nMax-Forwards: 1\r\n\r\n")


def test_host_is_replaced_where_it_stood_or_added_first() -> None:
    assert send(request(b"A: b\r\n"), host=b"new") == b"GET /x HTTP/1.1\r\nHost: new\r\nA: b\r\n\r\n"
    absolute = request(line=b"GET http://o/x HTTP/1.0", host=b"A: b\r\n")
    assert send(absolute) == b"GET /x HTTP/1.1\r\nHost: o\r\nA: b\r\n\r\n"
    assert replace_host(b"GET / HTTP/1.1\r\nA: b\r\n\r\n", b"n") == b"GET / HTTP/1.1\r\nHost: n\r\nA: b\r\n\r\n"
    assert replace_host(b"\r\nA: b\r\nhost: o", b"n") == b"\r\nA: b\r\nHost: n"
    other_case = request(line=b"GET http://O/x HTTP/1.1", host=b"A: b\r\nhost: o\r\n")
    assert send(other_case) == b"GET /x HTTP/1.1\r\nA: b\r\nHost: O\r\n\r\n"


def test_a_host_line_in_a_body_is_no_host_line() -> None:
    """A body that is changed is longer or shorter than its Content-Length says: the rest would be another request."""
    body = b"\r\nHost: evil\r\n\r\nHOST: evil"
    head = b"POST / HTTP/1.1\r\nA: b\r\n\r\n"
    assert replace_host(head + body, b"n") == b"POST / HTTP/1.1\r\nHost: n\r\nA: b\r\n\r\n" + body


def test_edits_see_the_remaining_lines_only() -> None:
    seen = []

    def edit(lines: bytes) -> bytes:
        seen.append(lines)
        return b"\r\nE: 1"

    assert send(request(b"Connection: close\r\n"), edit=edit, ours=b"\r\nB: 2") == (
        b"GET /x HTTP/1.1\r\nE: 1\r\nB: 2\r\n\r\n"
    )
    assert seen == [b"\r\nHost: h"]


def respond(lines: bytes, line: bytes = b"HTTP/1.1 200 OK", **changes: object) -> bytes:
    arguments: dict[str, object] = {"minor": 1, "close": False, "date": b"D", "edit": None}
    head = parse_response_head(line + b"\r\n" + lines + b"\r\n", b"GET")
    return response_head(head, **{**arguments, **changes})  # type: ignore[arg-type]


def test_a_response_head_travels_as_it_came_with_date_added() -> None:
    assert respond(b"Date: x\r\nContent-Length: 1\r\n") == b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 1\r\n\r\n"
    assert respond(b"Content-Length: 1\r\n").endswith(b"\r\nContent-Length: 1\r\nDate: D\r\n\r\n")


def test_the_clients_version_decides_how_a_body_without_length_ends() -> None:
    assert b"\r\nTransfer-Encoding: chunked\r\n" in respond(b"")
    assert b"chunked" not in respond(b"Transfer-Encoding: chunked\r\n", minor=0, close=True)


def test_close_and_keep_alive_are_said_where_they_are_not_the_default() -> None:
    assert respond(b"Content-Length: 1\r\n", close=True).endswith(b"\r\nConnection: close\r\n\r\n")
    assert respond(b"Content-Length: 1\r\n", minor=0).endswith(b"\r\nConnection: keep-alive\r\n\r\n")


def test_interim_and_switching_responses() -> None:
    assert respond(b"Link: a\r\n", b"HTTP/1.1 103 Early Hints") == b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
    out = respond(b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"HTTP/1.1 101 Switching Protocols")
    assert out.endswith(b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")


def test_an_edited_and_an_uncanonical_response() -> None:
    assert respond(b"Content-Length: 1 \r\nDate: x\r\n", edit=lambda lines: lines + b"\r\nE: 1") == (
        b"HTTP/1.1 200 OK\r\nDate: x\r\nE: 1\r\nContent-Length: 1\r\n\r\n"
    )
    assert respond(b"", b"HTTP/1.0 205 Reset Content").count(b"Content-Length: 0") == 1
