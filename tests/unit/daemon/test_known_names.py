"""Names that are in use are not asked for again, nor for a while those that have no address."""

import asyncio

import pytest
from structlog.testing import capture_logs

from balancer.config.model import Backend, Config, Pool, ResolvedBackend
from balancer.daemon.known_names import ASK_AGAIN, KnownNames
from balancer.telemetry import events

CONFIG = Config(
    listeners=(),
    routes=(),
    pools=(
        Pool(name="p", backends=(Backend(name="a", host="app", port=80), Backend(name="b", host="gone", port=80))),
        Pool(name="q", backends=(Backend(name="c", host="gone", port=81),)),
    ),
)


def used(host: str, *addresses: str) -> list[ResolvedBackend]:
    return [
        ResolvedBackend(pool="p", name="a", host=host, address=(address, 80, ""), slot=slot)
        for slot, address in enumerate(addresses)
    ]


class Asked:
    """A resolver that remembers what it was asked."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def __call__(self, host: str) -> list[str]:
        self.names.append(host)
        return ["10.0.0.9"]


def test_a_name_in_use_means_what_it_means_there() -> None:
    async def scenario() -> None:
        asked = Asked()
        backends = [*used("app", "10.0.0.1", "10.0.0.2"), *used("app", "10.0.0.1"), *used("10.0.0.3", "10.0.0.3")]
        lookup = KnownNames().lookup(backends, 0.0, asked)
        assert await lookup("app") == ["10.0.0.1", "10.0.0.2"]
        assert asked.names == []
        assert await lookup("other") == ["10.0.0.9"]
        assert asked.names == ["other"]

    asyncio.run(scenario())


def test_a_name_without_an_address_is_asked_for_again_after_a_while() -> None:
    async def scenario() -> None:
        asked = Asked()
        names = KnownNames()
        names.tell_failed(CONFIG, {"gone": "no such name"}, 100.0)
        with pytest.raises(OSError, match="no such name") as failed:
            await names.lookup([], 100.0 + ASK_AGAIN - 1, asked)("gone")
        assert failed.value.strerror == "no such name"
        assert asked.names == []
        assert await names.lookup([], 100.0 + ASK_AGAIN, asked)("gone") == ["10.0.0.9"]
        names.tell_failed(CONFIG, {"gone": "no such name"}, 200.0)
        names.forget()
        assert await names.lookup([], 200.0, asked)("gone") == ["10.0.0.9"]

    asyncio.run(scenario())


def test_the_log_is_told_of_each_backend_whose_name_was_asked_for_in_vain() -> None:
    names = KnownNames()
    with capture_logs() as logged:
        names.tell_failed(CONFIG, {"gone": "no such name"}, 100.0)
        names.tell_failed(CONFIG, {"gone": "no such name"}, 101.0)
    assert [(one["event"], one["pool"], one["backend"], one["error"]) for one in logged] == [
        (events.NAME_FAILED, "p", "b", "no such name"),
        (events.NAME_FAILED, "q", "c", "no such name"),
    ]
    with capture_logs() as logged:
        names.tell_failed(CONFIG, {"gone": "no such name", "app": "timed out"}, 102.0)
        names.tell_failed(CONFIG, {"gone": "no such name"}, 100.0 + ASK_AGAIN)
    assert [one["backend"] for one in logged] == ["a", "b", "c"]
    names.tell_failed(CONFIG, {}, 200.0)
    with capture_logs() as logged:
        names.tell_failed(CONFIG, {"gone": "no such name"}, 201.0)
    assert len(logged) == 2, "it had an address in between"
