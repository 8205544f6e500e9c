"""Which Host and Origin fields are ours."""

import pytest

from balancer.transport.host_check import HostCheck


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:2379",
        "[::1]:2379",
        "[::1]",
        "::1",
        "localhost",
        "LocalHost:9",
        "localhost.",
        "etcd.internal:1",
    ],
)
def test_addresses_localhost_and_configured_names_are_accepted(host: str) -> None:
    check = HostCheck(frozenset(["Etcd.Internal"]))
    assert check.accepts(host)
    assert check.accepts(host)  # once more, from memory


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example:2379", "127.0.0.1.evil.example", "[::1", "a:b:c"]
)
def test_any_other_name_is_refused(host: str) -> None:
    assert HostCheck(frozenset(["etcd.internal"])).accepts(host) is False


def test_what_is_remembered_is_bounded() -> None:
    check = HostCheck()
    for number in range(200):
        assert check.accepts(f"127.0.0.1:{number}")
    assert len(check._seen) == 64


@pytest.mark.parametrize(
    ("origin", "ours"),
    [
        ("http://127.0.0.1:2379", True),
        ("https://127.0.0.1:2379", True),
        ("http://127.0.0.1:8080", False),
        ("http://evil.example", False),
        ("ftp://127.0.0.1:2379", False),
        ("null", False),
        ("", False),
    ],
)
def test_only_a_page_from_the_same_host_and_port_is_ours(origin: str, ours: bool) -> None:
    assert HostCheck.same_origin(origin, "127.0.0.1:2379") is ours
