"""What a probe reaches: the same words on every node for the same thing, and others for what only looks the same."""

from pathlib import Path

import pytest

from balancer.config.model import ResolvedBackend
from balancer.daemon.cluster import probed_address as module
from balancer.daemon.cluster.probed_address import network, probed_address


def backend(ip: str, port: int = 80, path: str = "", host: str | None = None) -> ResolvedBackend:
    return ResolvedBackend(pool="web", name="a", host=ip if host is None else host, address=(ip, port, path), slot=1)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (backend("10.0.0.7"), "10.0.0.7:80"),
        (backend("2001:db8::7"), "[2001:db8::7]:80"),
        (backend("10.0.0.7", host="app.internal"), "app.internal at 10.0.0.7:80"),
    ],
)
def test_an_address_is_the_same_everywhere(given: ResolvedBackend, text: str) -> None:
    assert probed_address(given, "here") == probed_address(given, "there") == text


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "169.254.1.1", "fe80::1%eth0"])
def test_what_every_machine_has_for_itself_is_told_apart(ip: str) -> None:
    assert probed_address(backend(ip), "here") != probed_address(backend(ip), "there")
    assert probed_address(backend(ip), "here") == probed_address(backend(ip), "here")


def test_a_unix_socket_is_no_one_elses() -> None:
    assert probed_address(backend("", 0, "/run/app.sock"), "here") is None


def test_a_network_has_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert network() == network()
    monkeypatch.setattr(module, "_BOOT", Path("/nowhere/at/all"))
    assert network() != network()  # rather nobody's than somebody else's
