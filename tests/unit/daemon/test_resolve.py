"""Names to addresses: each looked up once, all addresses used, nothing fatal, bounded in time."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from balancer.config.model import Backend, Config, Pool
from balancer.daemon.resolve import Resolution, resolve, with_slots
from balancer.daemon.shared_memory import SlotAllocator


def config_of(*pools: Sequence[Backend]) -> Config:
    return Config(
        listeners=(),
        routes=(),
        pools=tuple(Pool(name=f"p{number}", backends=tuple(backends)) for number, backends in enumerate(pools)),
    )


class Names:
    """A name server that counts. A name without addresses fails; "slow" never answers."""

    def __init__(self, **known: Sequence[str]) -> None:
        self.known = known
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host == "slow":
            await asyncio.Event().wait()
        if host not in self.known:
            raise socket.gaierror(-2, "Name or service not known")
        return self.known[host]


def resolved(config: Config, names: Names) -> Resolution:
    return asyncio.run(resolve(config, names, timeout=0.2))


def test_addresses_and_paths_are_not_looked_up() -> None:
    config = config_of(
        [
            Backend(name="a", host="127.0.0.1", port=1),
            Backend(name="b", host="::1", port=2),
            Backend(name="c", path="/run/x.sock"),
        ]
    )
    names = Names()
    result = resolved(config, names)
    assert names.asked == []
    assert result.addresses == {
        ("p0", "a"): (("127.0.0.1", 1, ""),),
        ("p0", "b"): (("::1", 2, ""),),
        ("p0", "c"): (("", 0, "/run/x.sock"),),
    }


def test_a_name_is_looked_up_once_and_every_distinct_address_used() -> None:
    config = config_of(
        [Backend(name="a", host="app", port=1), Backend(name="b", host="app", port=2)],
        [Backend(name="a", host="app", port=3)],
    )
    names = Names(app=["10.0.0.1", "10.0.0.2", "10.0.0.1", "fd00::1"])
    result = resolved(config, names)
    assert names.asked == ["app"]
    assert result.addresses["p1", "a"] == (("10.0.0.1", 3, ""), ("10.0.0.2", 3, ""), ("fd00::1", 3, ""))
    assert len(result.addresses) == 3


@pytest.mark.parametrize(("host", "why"), [("nosuch", "not known"), ("slow", "no answer within 0.2 s")])
def test_a_name_that_fails_or_hangs_costs_only_its_own_backends(host: str, why: str) -> None:
    config = config_of([Backend(name="bad", host=host, port=1), Backend(name="good", host="app", port=2)])
    result = resolved(config, Names(app=["10.0.0.1"]))
    assert result.addresses == {("p0", "bad"): (), ("p0", "good"): (("10.0.0.1", 2, ""),)}
    assert why in result.failures[host]
    assert list(result.failures) == [host]


def test_the_systems_resolver_knows_localhost() -> None:
    result = asyncio.run(resolve(config_of([Backend(name="a", host="localhost", port=5)])))
    assert ("127.0.0.1", 5, "") in result.addresses["p0", "a"] or ("::1", 5, "") in result.addresses["p0", "a"]


def test_each_address_gets_a_slot_that_it_keeps_in_the_next_generation() -> None:
    config = config_of(
        [Backend(name="a", host="app", port=1, weight=3, max_connections=7), Backend(name="b", path="/x")]
    )
    slots = SlotAllocator(10)
    first = with_slots(config, resolved(config, Names(app=["10.0.0.1", "10.0.0.2"])), slots, 1)
    assert [(each.name, each.address[0], each.slot, each.weight) for each in first] == [
        ("a", "10.0.0.1", 0, 3),
        ("a", "10.0.0.2", 1, 3),
        ("b", "", 2, 1),
    ]
    assert first[0].host == "app"
    assert first[0].max_connections == 7
    second = with_slots(config, resolved(config, Names(app=["10.0.0.3", "10.0.0.2"])), slots, 2)
    assert [each.slot for each in second] == [3, 1, 2]
