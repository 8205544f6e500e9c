"""Addresses, hosts, networks and header fields: the normal form, or what would be right."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config import addresses


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0.0.0.0:8080", ("0.0.0.0", 8080)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::]:80", ("::", 80)),
        ("[0:0::1]:443", ("::1", 443)),
    ],
)
def test_binds_are_ip_addresses_with_ports(text: str, found: tuple[str, int]) -> None:
    assert addresses.bind_address(text) == found


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("8080", "such as 0.0.0.0:8080"),
        ("127.0.0.1", "lacks its port"),
        (":80", "write 0.0.0.0:80"),
        ("*:80", "write 0.0.0.0:80"),
        ("localhost:80", "write the address itself"),
        ("web:80", "not an IP address"),
        ("::1:80", "stands in brackets"),
        ("[::1]", "lacks its port"),
        ("[::1", "lacks its port"),
        ("[10.0.0.1]:80", "brackets hold an IPv6 address"),
        ("10.0.0.1:65536", "a port is 0 to 65535"),
        ("10.0.0.1:x", "a port is 0 to 65535"),
        ("10.0.0.1:-1", "a port is 0 to 65535"),
        ("10.0.0.01:80", "not an IP address"),
    ],
)
def test_a_bad_bind_says_what_is_right(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        addresses.bind_address(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [("10.0.0.1:80", ("10.0.0.1", 80)), ("App.internal.:80", ("app.internal", 80)), ("[::1]:80", ("::1", 80))],
)
def test_backends_are_addresses_or_names(text: str, found: tuple[str, int]) -> None:
    assert addresses.backend_address(text) == found


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("http://app:80/x", "write host:port, such as app:80"),
        ("https://app", "such as app:80"),
        ("app:0", "a port is 1 to 65535"),
        ("app", "lacks its port"),
        ("a b:80", "not a host name"),
        ("-a:80", "not a host name"),
        ("10.0.0.256:80", "4 parts"),
        ("straße.de:80", "xn--"),
        (f"{'ä' * 80}.de:80", "xn--..."),
    ],
)
def test_a_bad_backend_says_what_is_right(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        addresses.backend_address(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("API.Example.com.", "api.example.com"),
        ("*.Example.com", "*.example.com"),
        ("10.0.0.1", "10.0.0.1"),
        ("[0::1]", "[::1]"),
        ("a_b.example", "a_b.example"),
    ],
)
def test_host_patterns_are_lower_case_without_dot(text: str, found: str) -> None:
    assert addresses.host_pattern(text) == found


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("*", "leave hosts out"),
        ("example.com:80", "write `example.com`"),
        ("[::1]:80", r"write `\[::1\]`"),
        ("::1", "in brackets"),
        ("[x]", "not an IPv6 address"),
        ("a.*.com", "whole first label"),
        ("*a.com", "whole first label"),
        ("*.10.0.0.1", "no names below"),
        ("http://a", "path or path_prefix"),
        ("a/b", "path or path_prefix"),
        ("1.2.3.999", "4 parts"),
    ],
)
def test_a_bad_host_pattern_says_what_is_right(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        addresses.host_pattern(text)


@pytest.mark.parametrize(("text", "found"), [("App.x", "app.x"), ("10.0.0.1", "10.0.0.1"), ("::1", "::1")])
def test_server_names_have_no_port(text: str, found: str) -> None:
    assert addresses.server_name(text) == found


def test_a_server_name_with_a_port_is_refused() -> None:
    with pytest.raises(ValueError, match="has a port"):
        addresses.server_name("a:443")


@pytest.mark.parametrize(
    ("text", "found"), [("App.x", "app.x"), ("App.x:81", "app.x:81"), ("[::1]", "[::1]"), ("[0::1]:81", "[::1]:81")]
)
def test_an_authority_may_have_a_port(text: str, found: str) -> None:
    assert addresses.authority(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [("10.0.0.0/8", "10.0.0.0/8"), ("10.0.0.1", "10.0.0.1/32"), ("fd00::/8", "fd00::/8"), ("::1", "::1/128")],
)
def test_networks_are_cidr(text: str, found: str) -> None:
    assert addresses.network(text) == found


@pytest.mark.parametrize(
    ("text", "right"),
    [("10.1.2.3/8", r"did you mean 10\.0\.0\.0/8"), ("10.0.0.0/33", "such as 10.0.0.0/8"), ("lan", "not a network")],
)
def test_a_bad_network_says_what_is_right(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        addresses.network(text)


@pytest.mark.parametrize("text", ["X-A", "x_a", "a.b", "A1~"])
def test_header_names_are_tokens(text: str) -> None:
    assert addresses.header_name(text) == text


@pytest.mark.parametrize("text", ["", "a b", "a:", "é", "a\n", "x" * 300])
def test_other_texts_are_no_header_names(text: str) -> None:
    with pytest.raises(ValueError, match="not a header name"):
        addresses.header_name(text)


@pytest.mark.parametrize("text", ["", "a b", "a\tb", "ü", "max-age=1"])
def test_header_values_are_kept(text: str) -> None:
    assert addresses.header_value(text) == text


@pytest.mark.parametrize(
    ("text", "right"),
    [("a\r\nX: y", "control"), ("a\0", "control"), ("\x7f", "control"), (" a", "blanks"), ("x" * 9000, "8,192")],
)
def test_a_bad_header_value_is_refused(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        addresses.header_value(text)


@given(st.text())
def test_no_header_value_breaks_a_line(text: str) -> None:
    try:
        value = addresses.header_value(text)
    except ValueError:
        return
    assert not set(value) & {"\r", "\n", "\0"}


@pytest.mark.parametrize(
    ("text", "right"),
    [("get", "did you mean GET"), ("TRACE", "refused"), ("connect", "refused"), ("FETCH", "methods are")],
)
def test_a_bad_method_says_what_is_right(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        addresses.method(text)


@pytest.mark.parametrize("text", ["web", "10.0.0.1:80", "[::1]:80", "unix:/run/a.sock", "a-b_c.d", "x" * 128])
def test_names_can_be_labels(text: str) -> None:
    assert addresses.name(text) == text


@pytest.mark.parametrize("text", ["", "-", "a b", "é", "a\n", "x" * 129, 'a"b'])
def test_other_texts_cannot_be_names(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be a name"):
        addresses.name(text)


@pytest.mark.parametrize("text", ["www-data", "_x", "1000", "svc$"])
def test_accounts_are_names_or_numbers(text: str) -> None:
    assert addresses.account(text) == text


@pytest.mark.parametrize("text", ["", "a b", "-1", "a/b"])
def test_other_texts_are_no_accounts(text: str) -> None:
    with pytest.raises(ValueError, match="account"):
        addresses.account(text)


@pytest.mark.parametrize("text", ["/", "/a/b", "/a/", "/caf%C3%A9", "/café", "/..."])
def test_paths_are_kept(text: str) -> None:
    assert addresses.url_path(text) == text


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("a", "write `/a`"),
        ("/a?b", "match it with query"),
        ("/a#b", "fragment"),
        ("/a/../b", "resolved"),
        ("/.", "resolved"),
        ("/a\\b", "backslash"),
        ("/%zz", "hex digits"),
        ("/%00", "hex digits"),
        ("/\x01", "control"),
    ],
)
def test_a_path_that_no_request_has_is_refused(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        addresses.url_path(text)


@pytest.mark.parametrize("text", ["", "a\0b", "/" + "x" * 107])
def test_a_socket_path_must_fit(text: str) -> None:
    with pytest.raises(ValueError, match="Unix socket"):
        addresses.unix_path(text)


@pytest.mark.parametrize(
    "parse",
    [
        addresses.bind_address,
        addresses.backend_address,
        addresses.host_pattern,
        addresses.network,
        addresses.authority,
        addresses.server_name,
        addresses.url_path,
        addresses.method,
        addresses.name,
    ],
)
def test_any_text_is_taken_or_refused_with_a_reason(parse: Callable[[str], object]) -> None:
    @given(st.text(max_size=40) | st.from_regex(r"[\[\]:.*0-9a-f/]{0,12}", fullmatch=True))
    def check(text: str) -> None:
        try:
            parse(text)
        except ValueError as error:
            assert str(error)  # noqa: PT017

    check()
