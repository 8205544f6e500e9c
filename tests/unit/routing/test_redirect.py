"""Location values."""

import pytest

from balancer.routing.redirect import location


def to(template: str, path: bytes = b"/p", query: bytes = b"", host: bytes = b"h.example") -> bytes:
    return location(template, scheme=b"https", host=host, path=path, query=query)


@pytest.mark.parametrize(
    ("template", "query", "expected"),
    [
        ("/new", b"a=1", b"/new"),
        ("/new{path}{query}", b"a=1", b"/new/p?a=1"),
        ("/new{path}{query}", b"", b"/new/p"),
        ("{scheme}://{host}{path}{query}", b"a", b"https://h.example/p?a"),
        ("https://other{path}", b"", b"https://other/p"),
        ("//cdn.example{path}", b"", b"//cdn.example/p"),
        ("/a b/é#part", b"", b"/a%20b/%C3%A9#part"),
        ("{unknown}", b"", b"{unknown}"),
    ],
)
def test_placeholders_are_filled_in(template: str, query: bytes, expected: bytes) -> None:
    assert to(template, query=query) == expected


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("{path}", b"//evil.example", b"/evil.example"),
        ("/{path}", b"/evil.example", b"/evil.example"),
        ("{path}", b"/\\evil.example", b"/%5Cevil.example"),
        ("https://good.example{path}", b"@evil.example", b"https://good.example/@evil.example"),
        ("https://good.example{path}", b"*", b"https://good.example/"),
        ("https://good.example{path}", b"", b"https://good.example/"),
        ("{path}", b"/{host}", b"/%7Bhost%7D"),
    ],
)
def test_no_path_becomes_another_host(template: str, path: bytes, expected: bytes) -> None:
    assert to(template, path) == expected


@pytest.mark.parametrize("octet", [b"\r", b"\n", b"\0", b" ", b'"', b"<", b"\xff", b"#"])
def test_octets_that_a_uri_must_not_hold_are_escaped(octet: bytes) -> None:
    result = to("{path}{query}", b"/a" + octet + b"b", b"c" + octet + b"d")
    assert result == b"/a%%%02Xb?c%%%02Xd" % (octet[0], octet[0])


def test_escapes_stay_as_they_are() -> None:
    assert to("{path}", b"/a%2Fb") == b"/a%2Fb"


def test_without_a_host_the_redirect_stays_here() -> None:
    assert to("https://{host}{path}{query}", b"//evil.example", b"q", host=b"") == b"/evil.example?q"
    assert to("/new", host=b"") == b"/new"
