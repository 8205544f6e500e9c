"""Rewriting of the path sent upstream."""

import pytest

from balancer.config.model import Rewrite
from balancer.errors import ProtocolError
from balancer.routing.rewrite import rewrite_target


@pytest.mark.parametrize(
    ("strip", "replace", "target", "sent"),
    [
        ("/v1", "", b"/v1/x", b"/x"),
        ("/v1", "", b"/v1/x?a=/v1/", b"/x?a=/v1/"),
        ("/v1", "", b"/v1", b"/"),
        ("/v1", "", b"/v1/", b"/"),
        ("/v1", "", b"/v1?q", b"/?q"),
        ("/v1", "", b"/v10", b"/v10"),
        ("/v1", "", b"/x/v1", b"/x/v1"),
        ("/v1", "", b"/v1?", b"/?"),
        ("/v1/", "", b"/v1/x", b"/x"),
        ("/v1", "/api", b"/v1/x", b"/api/x"),
        ("/v1", "/api", b"/v1", b"/api"),
        ("/v1", "/api/", b"/v1/", b"/api/"),
        ("/v1", "/api", b"/other", b"/other"),
        ("/", "/api", b"/x", b"/api/x"),
        ("/", "/api", b"/", b"/api/"),
        ("/v1", "/", b"/v1/x", b"/x"),
        ("/v1", "/café", b"/v1/x", b"/caf%C3%A9/x"),
        ("/v1", "", b"*", b"*"),
    ],
)
def test_prefix_is_cut_or_replaced_on_a_segment_boundary(strip: str, replace: str, target: bytes, sent: bytes) -> None:
    assert rewrite_target(Rewrite(strip_prefix=strip, replace_prefix=replace), target) == sent


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        (b"/v1/a%2Fb%7ec//d/./e", b"/a%2Fb%7ec//d/./e"),  # what needs no other reading stays raw
        (b"/%761/a%7e", b"/a~"),
        (b"//v1//a", b"/a"),
        (b"/x/../v1/a", b"/a"),
    ],
)
def test_raw_bytes_are_kept_unless_they_hide_the_prefix(target: bytes, sent: bytes) -> None:
    assert rewrite_target(Rewrite(strip_prefix="/v1"), target) == sent


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        (b"/v1//evil.example/x", b"/evil.example/x"),
        (b"/v1////x", b"/x"),
        (b"/v1/a/../../v1/b", b"/b"),
        (b"/v1/%2e%2e/b", b"/v1/%2e%2e/b"),  # it is /b, which is not below /v1
        (b"/v1/..%2Fb", b"/..%2Fb"),
    ],
)
def test_no_path_leaves_the_prefix_or_becomes_a_host(target: bytes, sent: bytes) -> None:
    assert rewrite_target(Rewrite(strip_prefix="/v1"), target) == sent


def test_a_path_without_normal_form_is_refused() -> None:
    with pytest.raises(ProtocolError):
        rewrite_target(Rewrite(strip_prefix="/v1"), b"/v1/%00")
