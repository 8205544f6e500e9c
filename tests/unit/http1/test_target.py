"""Targets and hosts: forwarded raw, matched in a normal form, refused where readers disagree."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.errors import BAD_REQUEST, ProtocolError
from balancer.http1.target import HOSTS_REMEMBERED, check_host, normalise_path, parse_target, split_query


@pytest.mark.parametrize(
    "target",
    [
        *(b"/", b"/a/b?c=d", b"//evil/x", b"/a//b/../c", b"/%00%zz", b"/?", b"/a?b?c", b"/*", b"/a:b@c", b"/http://x/"),
        *(b'/a|b[c]{d}^e`f"g<h>', b"/\\a", b"/a?b\\c", b"/a;b=c,d"),
    ],
)
def test_a_path_is_forwarded_as_it_came(target: bytes) -> None:
    assert parse_target(b"GET", target) == (target, None)


@pytest.mark.parametrize(
    ("target", "path", "authority"),
    [
        (b"http://a/b?c", b"/b?c", b"a"),
        (b"HTTPS://A.Example:8443/b", b"/b", b"A.Example:8443"),
        (b"http://a", b"/", b"a"),
        (b"http://a/", b"/", b"a"),
        (b"http://a?b=c", b"/?b=c", b"a"),
        (b"http://[::1]:80/x", b"/x", b"[::1]:80"),
        (b"http://a:/x", b"/x", b"a:"),
        (b"http://a//b", b"//b", b"a"),
    ],
)
def test_an_absolute_target_is_cut_into_authority_and_path(target: bytes, path: bytes, authority: bytes) -> None:
    assert parse_target(b"GET", target) == (path, authority)


def test_options_for_the_whole_server_is_forwarded_as_an_asterisk() -> None:
    assert parse_target(b"OPTIONS", b"*") == (b"*", None)
    assert parse_target(b"OPTIONS", b"http://a:81") == (b"*", b"a:81")
    assert parse_target(b"OPTIONS", b"http://a/") == (b"/", b"a")
    assert parse_target(b"OPTIONS", b"http://a?b") == (b"/?b", b"a")


@pytest.mark.parametrize(
    "target",
    [
        *(b"", b"a", b"a/b", b"example.com:443", b"?a", b"**", b"*/", b"/a#b", b"/#", b"/a b", b"/a\tb", b"/a\x00b"),
        *(b"/a\x7f", b"/\xe4", b"/a\n", b"/a\r", b"http:/a", b"http:a", b"http:///a", b"http://", b"http://?a"),
        *(b"ftp://a/b", b"ws://a/b", b"http://u@a/b", b"http://u:p@a/b", b"http://a:x/", b"http://a:65536/"),
        *(b"http://a b/", b"http://a/b c", b"http://a/#b", b"http://a#b", b"http://a\\b/", b"http://a,b/", b"//a b"),
        *(b"http://%00/", b"http://[::1/", b" /a", b"/a\n/b", b"http://a/\xff"),
    ],
)
def test_any_other_target_is_refused(target: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_target(b"GET", target)
    assert caught.value.outcome is BAD_REQUEST


def test_an_asterisk_is_only_for_options() -> None:
    with pytest.raises(ProtocolError, match="OPTIONS"):
        parse_target(b"GET", b"*")


@pytest.mark.parametrize(
    ("value", "host"),
    [
        (b"a", b"a"),
        (b"Example.COM", b"example.com"),
        (b"example.com.", b"example.com"),
        (b"example.com.:80", b"example.com"),
        (b"example.com:", b"example.com"),
        (b"example.com:0", b"example.com"),
        (b"example.com:65535", b"example.com"),
        (b"a_b-c.d~e", b"a_b-c.d~e"),
        (b"a!$&'()*+;=b", b"a!$&'()*+;=b"),
        (b"127.0.0.1:80", b"127.0.0.1"),
        (b"[::1]", b"[::1]"),
        (b"[0:0:0:0:0:0:0:1]:80", b"[::1]"),
        (b"[2001:DB8::A]:", b"[2001:db8::a]"),
        (b"ex%61mple.c%4Fm", b"example.com"),
        (b"b%C3%BCcher.de", b"b%c3%bccher.de"),
        (b"%2e", b""),
        (b"a" * 255, b"a" * 255),
        (b"a" * 255 + b".", b"a" * 255),
    ],
)
def test_a_host_comes_back_in_one_form(value: bytes, host: bytes) -> None:
    if not host:
        with pytest.raises(ProtocolError, match="empty"):
            check_host(value)
        return
    assert check_host(value) == host


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b".", b":80", b"a:b", b"a:80:80", b"a:-1", b"a:+1", b"a:65536", b"a:100000", b"a:8 0", b"u@a", b"u:p@a"),
        *(b"a/", b"/a", b"a?b", b"a#b", b"a\\b", b" a", b"a ", b"a b", b"a\tb", b"a\x00", b"a\n", b"\xe4", b"a,b"),
        *(
            b"a%",
            b"a%4",
            b"a%zz",
            b"a%00",
            b"a%2f",
            b"a%40b",
            b"a%3a80",
            b"a%20",
            b"a%25",
            b"a%7f",
            b'a"',
            b"a<",
            b"a|",
        ),
        *(
            b"::1",
            b"[::1",
            b"::1]",
            b"[]",
            b"[1.2.3.4]",
            b"[::g]",
            b"[::1%25eth0]",
            b"[::1%eth0]",
            b"[v1.a]",
            b"[::1]a",
        ),
        *(b"[::1]]", b"[[::1]]", b"[1:2:3:4:5:6:7:8:9]", b"a" * 256, b"a^b", b"a{b}"),
    ],
)
def test_a_host_that_is_none_is_refused(value: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_host(value)
    assert caught.value.outcome is BAD_REQUEST


def test_the_memory_for_hosts_is_bounded() -> None:
    for number in range(HOSTS_REMEMBERED + 10):
        check_host(b"h%d" % number)
    assert check_host.cache_info().currsize == HOSTS_REMEMBERED


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/", b"/"),
        (b"*", b"*"),
        (b"/a/b", b"/a/b"),
        (b"/a/b/", b"/a/b/"),
        (b"/a/./b", b"/a/b"),
        (b"/a/../b", b"/b"),
        (b"/a/b/..", b"/a/"),
        (b"/a/b/.", b"/a/b/"),
        (b"/..", b"/"),
        (b"/../../a", b"/a"),
        (b"/.", b"/"),
        (b"/...", b"/..."),
        (b"/..a/.b/c..", b"/..a/.b/c.."),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"//a///b//", b"/a/b/"),
        (b"/a//../b", b"/b"),
        (b"/%61%2D%7e", b"/a-~"),
        (b"/a/%2e%2E/b", b"/b"),
        (b"/a/.%2e/b", b"/b"),
        (b"/a%2fb", b"/a%2Fb"),
        (b"/a/..%2fb", b"/a/..%2Fb"),
        (b"/%2561", b"/%2561"),
        (b"/%c3%a4", b"/%C3%A4"),
        (b"/%5c..%5c", b"/%5C..%5C"),
        (b"/a;b/..;/c", b"/a;b/..;/c"),
    ],
)
def test_equivalent_paths_have_one_normal_form(path: bytes, normal: bytes) -> None:
    assert normalise_path(path) == normal


@pytest.mark.parametrize(
    "path", [b"/%00", b"/a%00b", b"/%", b"/%4", b"/%zz", b"/a%g0", b"/%4/", b"/\\", b"/a\\..", b"/a#b"]
)
def test_a_path_that_readers_understand_differently_is_refused(path: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        normalise_path(path)
    assert caught.value.outcome is BAD_REQUEST


segments = st.sampled_from([b"", b".", b"..", b"a", b"b", b"%2e", b"%2E.", b"%41", b"%2f", b".a", b"%25", b"..."])
paths = st.lists(segments, min_size=1, max_size=8).map(lambda parts: b"/" + b"/".join(parts))


@given(paths)
@settings(deadline=None)
def test_a_normal_form_is_normal(path: bytes) -> None:
    normal = normalise_path(path)
    assert normalise_path(normal) == normal
    assert normal.startswith(b"/")
    assert b"//" not in normal
    assert not {b".", b".."} & set(normal.split(b"/"))


@given(paths.filter(lambda path: b"//" not in path and b"%" not in path))
@settings(deadline=None)
def test_dot_segments_go_as_rfc_3986_removes_them(path: bytes) -> None:
    """The five steps of section 5.2.4, literally."""
    left, done = path, b""
    while left:
        if left.startswith(b"/./") or left == b"/.":
            left = b"/" + left[3:]
        elif left.startswith(b"/../") or left == b"/..":
            left, done = b"/" + left[4:], done.rpartition(b"/")[0]
        else:
            end = left.find(b"/", 1)
            end = len(left) if end < 0 else end
            done, left = done + left[:end], left[end:]
    assert normalise_path(path) == done


def test_a_query_is_cut_at_the_first_question_mark() -> None:
    assert split_query(b"/a?b=c?d") == (b"/a", b"b=c?d")
    assert split_query(b"/a") == (b"/a", b"")
    assert split_query(b"/a?") == (b"/a", b"")
    assert split_query(b"*") == (b"*", b"")
