"""Which backends are probed, and what of a pool's checks is the same elsewhere."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from random import Random

import pytest

from balancer.config.model import Backend, Bind, Config, HealthCheck, Listener, Pool, PoolTls, ResolvedBackend
from balancer.daemon.health_watch import CheckedPool, HealthWatch
from balancer.daemon.states import States
from balancer.telemetry.aggregate import Aggregate
from tests.support.certificates import authority

CHECK = HealthCheck(headers={"a": "1", "b": "2"})


def config_of(*pools: Pool) -> Config:
    return Config(listeners=(Listener(name="web", bind=(Bind(host="127.0.0.1"),)),), routes=(), pools=pools)


def pool_of(
    name: str = "web", check: HealthCheck | None = CHECK, tls: PoolTls | None = None, host: str = "keep"
) -> Pool:
    backends = tuple(Backend(name=each, host="10.0.0.1", port=ord(each)) for each in "abc")
    return Pool(name=name, backends=backends, health_check=check, tls=tls, host=host)


class Share:
    """Leaves some slots to others, and notes what it is told."""

    def __init__(self, resting: Collection[int] = ()) -> None:
        self.resting = resting
        self.pools: Mapping[str, CheckedPool] = {}
        self.backends: Sequence[ResolvedBackend] = ()
        self.results: list[tuple[int, bool, str]] = []

    def configure(self, pools: Mapping[str, CheckedPool], backends: Sequence[ResolvedBackend]) -> Collection[int]:
        self.pools, self.backends = pools, backends
        return self.resting

    def result(self, slot: int, passed: bool, evidence: str) -> None:
        self.results.append((slot, passed, evidence))


class Bench:
    def __init__(self, share: Share | None = None) -> None:
        self.states = States(
            tell=lambda *_: None, workers=list, counted=Aggregate(), rng=Random(1), now=lambda: 0.0
        )  # fmt: skip
        self.watch = HealthWatch(self.states, Random(1))
        if share is not None:
            self.watch.share_with(share)

    def configure(self, config: Config, files: Mapping[str, bytes] | None = None) -> None:
        backends = [
            ResolvedBackend(
                pool=pool.name,
                name=one.name,
                host=one.host,
                address=(one.host, one.port, ""),
                slot=100 * number + one.port,
            )
            for number, pool in enumerate(config.pools)
            for one in pool.backends
        ]
        asyncio.run(self.watch.make_ready(config, files or {}))
        self.states.configure(config, backends, starting=True)
        self.watch.configure(config, backends, files or {})

    @property
    def probed(self) -> set[int]:
        return set(self.watch._schedule._entries)


A, B, C = (ord(each) for each in "abc")


def test_every_backend_of_a_pool_with_checks_is_probed_and_no_other() -> None:
    bench = Bench()
    bench.configure(config_of(pool_of(), pool_of("plain", check=None)))
    assert bench.probed == {A, B, C}


def test_what_is_left_to_others_is_not_probed_until_that_ends() -> None:
    share = Share({B, 9999})
    bench = Bench(share)
    bench.configure(config_of(pool_of(), pool_of("plain", check=None)))
    assert bench.probed == {A, C}
    assert share.pools.keys() == {"web"}
    assert [backend.name for backend in share.backends] == ["a", "b", "c"]
    bench.watch.probe([B, 9999])
    assert bench.probed == {A, B, C}
    bench.watch.rest([A, B, 9999])
    assert bench.probed == {C}


def test_results_of_own_probes_are_told_and_those_of_others_are_not_told_back() -> None:
    share = Share()
    bench = Bench(share)
    bench.configure(config_of(pool_of()))
    bench.watch._result(A, True, "200")
    bench.watch.take_in(B, False, "by n2: refused")
    assert share.results == [(A, True, "200")]
    trackers = bench.states.checks()
    assert (trackers[A].state, trackers[B].state, trackers[C].state) == ("healthy", "unhealthy", "checking")


def digest_of(pool: Pool, files: Mapping[str, bytes] | None = None) -> str:
    share = Share()
    Bench(share).configure(config_of(pool), files)
    return share.pools["web"].digest


@pytest.mark.parametrize("other", [
    HealthCheck(headers={"a": "1", "b": "2"}, path="/other"),
    HealthCheck(headers={"a": "1", "b": "2"}, unhealthy_after=9),
    HealthCheck(headers={"a": "1", "b": "2"}, interval=9.0),
    HealthCheck(headers={"a": "1"}),
])  # fmt: skip
def test_other_checks_have_another_digest(other: HealthCheck) -> None:
    assert digest_of(pool_of(check=other)) != digest_of(pool_of())


def test_what_decides_no_probe_is_not_in_the_digest() -> None:
    assert digest_of(pool_of(host="backend")) == digest_of(pool_of())
    assert digest_of(pool_of(check=HealthCheck(headers={"b": "2", "a": "1"}))) == digest_of(pool_of())


def test_of_files_the_contents_count_and_not_where_they_lie() -> None:
    one, two = (authority(name).cert for name in ("one", "two"))
    here, there = PoolTls(ca="/here/ca.pem"), PoolTls(ca="/there/ca.pem")
    digest = digest_of(pool_of(tls=here), {"/here/ca.pem": one})
    assert digest_of(pool_of(tls=there), {"/there/ca.pem": one}) == digest
    assert digest_of(pool_of(tls=here), {"/here/ca.pem": two}) != digest
    assert digest_of(pool_of(tls=PoolTls(ca="/here/ca.pem", verify=False)), {"/here/ca.pem": one}) != digest
    assert digest_of(pool_of(tls=PoolTls(ca="/here/ca.pem", server_name="x")), {"/here/ca.pem": one}) != digest
    assert digest_of(pool_of()) != digest
