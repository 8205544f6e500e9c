"""Checks that balancers do for each other: each backend by one of them, known to all, and nobody depends on it."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest
from structlog.testing import capture_logs

from balancer.config.model import Backend, HealthCheck, Pool
from balancer.consensus.client_errors import NotReachedError
from balancer.coordination.responses import TxnResponse
from balancer.daemon.cluster import nodes
from balancer.daemon.cluster.check_results import PREFIX, Place, Result, key_of, publication_in, value_of
from balancer.resilience.health import Health
from balancer.telemetry import events, metrics
from tests.unit.daemon.cluster.sharing_balancers import (
    CHECK,
    PATIENCE,
    PORTS,
    Sharing,
    World,
    config_of,
    divided,
    now,
    sharing,
    with_check,
)
from tests.unit.daemon.cluster.virtual_store import Store, run, until

INTERVAL = CHECK.interval


async def stored(store: Store) -> dict[str, bytes]:
    """The values of all publications."""
    client, _ = store.client()
    answer = await client.get_prefix(PREFIX)
    await client.close()
    return {kv.key.decode(): kv.value for kv in answer.kvs}


def owners(world: World, since: float) -> dict[int, str]:
    """Who probes each backend; fails where that are several."""
    found = world.since(since)
    assert found.keys() == set(PORTS)
    assert all(len(set(by)) == 1 for by in found.values()), found
    return {port: by[0] for port, by in found.items()}


def agreed(balancers: Sequence[Sharing], world: World) -> bool:
    return all(
        each.health() == {port: Health.UNHEALTHY if port in world.failing else Health.HEALTHY for port in PORTS}
        for each in balancers
    )


# ---- who probes


def test_each_backend_is_probed_by_one_balancer_once_per_interval() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2", "n3"):
            began = now()
            await asyncio.sleep(20 * INTERVAL)
            assert set(owners(world, began).values()) == {"n1", "n2", "n3"}
            for port in PORTS:
                assert 18 <= len([at for at in world.times(port) if at >= began]) <= 23

    run(scenario)


def test_nobody_goes_back_and_forth_while_all_is_well() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2", "n3") as balancers:
            shown = [each.shown() for each in balancers]
            with capture_logs() as logged:
                for _ in range(1000):
                    await asyncio.sleep(0.1)
                    assert [each.shown() for each in balancers] == shown
            assert logged == []

    run(scenario)


def test_backends_that_hang_are_not_taken_for_silence() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        config = config_of(check=with_check(CHECK, timeout=3 * INTERVAL))
        async with sharing(store, world, "n1", "n2", config=config) as balancers:
            world.takes = 3 * INTERVAL - 0.1
            await asyncio.sleep(PATIENCE)
            shown, began = [each.shown() for each in balancers], now()
            await asyncio.sleep(20 * INTERVAL)
            assert [each.shown() for each in balancers] == shown
            owners(world, began)

    run(scenario)


def test_a_balancer_alone_publishes_nothing_and_checks_everything() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1") as (only,):
            await asyncio.sleep(3 * INTERVAL)
            assert await stored(store) == {}
            assert only.shown() == (len(PORTS), 0)

    run(scenario)


def test_one_that_comes_takes_its_share_and_no_backend_waits_longer_for_that() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2") as balancers:
            began = now()
            before = owners(world, began - 1.5 * INTERVAL)
            await asyncio.sleep(INTERVAL)
            third = Sharing(store, world, "n3")
            third.begin()
            await until(lambda: divided([*balancers, third]), 2 * INTERVAL)
            settled = now()
            await asyncio.sleep(3 * INTERVAL)
            after = owners(world, settled + 1.5 * INTERVAL)
            assert all(after[port] in (before[port], "n3") for port in PORTS)
            for port in PORTS:
                times = [at for at in world.times(port) if at >= began - INTERVAL]
                assert max(later - earlier for earlier, later in pairwise(times)) <= 1.2 * INTERVAL
            await third.end()

    run(scenario)


def test_what_one_that_ended_checked_is_divided_at_once_and_nothing_else_moves() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2", "n3") as (first, second, third):
            before = owners(world, now() - 1.5 * INTERVAL)
            await third.end()
            began = now()
            await until(lambda: divided([first, second]), 1.0)
            await asyncio.sleep(INTERVAL)
            assert all(min(at for at in world.times(port) if at >= began) - began < 0.5
                       for port in PORTS if before[port] == "n3")  # fmt: skip
            await asyncio.sleep(INTERVAL)
            after = owners(world, began + 0.7 * INTERVAL)
            assert all(after[port] == before[port] for port in PORTS if before[port] != "n3")

    run(scenario)


def test_what_a_killed_one_checked_is_probed_again_when_its_lease_is_over() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2", "n3") as (first, second, third):
            before = owners(world, now() - 1.5 * INTERVAL)
            await third.kill()
            began = now()
            orphans = {port for port in PORTS if before[port] == "n3"}
            world.failing = set(list(orphans)[:3])
            await until(lambda: orphans <= world.since(began).keys(), nodes.TTL + 0.5)
            await until(lambda: agreed([first, second], world), 2 * CHECK.fast_interval * 1.1 + 0.2)
            await until(lambda: divided([first, second]), 2 * INTERVAL)

    run(scenario)


# ---- what all know


def test_what_one_finds_out_all_others_know_a_moment_later_and_tell_who_saw_it() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2", "n3") as balancers:
            await asyncio.sleep(3 * INTERVAL)
            by = owners(world, now() - 2 * INTERVAL)
            for each in balancers:
                each.states.became.clear()
            world.failing = {3, 7}
            await until(lambda: agreed(balancers, world), 1.1 * INTERVAL + 2.5)
            world.failing = set()
            await until(lambda: agreed(balancers, world), 1.1 * INTERVAL + 2.5)
            for port in (3, 7):
                (owner,) = (each for each in balancers if each.name == by[port])
                for other in balancers:
                    known, seen = other.became(port), owner.became(port)
                    assert [what for _, what in known] == [Health.UNHEALTHY, Health.HEALTHY]
                    assert all(mine - theirs <= 0.1 for (mine, _), (theirs, _) in zip(known, seen, strict=True))
                    assert other.evidence(port) == ("200" if other is owner else f"by {owner.name}: 200")

    run(scenario)


@pytest.mark.parametrize("seed", range(3))
def test_all_end_up_with_the_same_knowledge_whatever_happened(seed: int) -> None:
    """Backends that fail and recover, balancers that are cut off, killed and started again."""

    async def scenario(store: Store) -> None:
        rng, world = Random(seed), World()
        async with sharing(store, world, "n1", "n2", "n3") as balancers:
            for _ in range(12):
                world.failing ^= set(rng.sample(PORTS, 3))
                each = rng.choice(balancers)
                match rng.choice(["cut", "snap", "mend", "mend", "kill"]):
                    case "cut":
                        each.link.wire.cut()
                    case "snap":
                        each.link.wire.snap()
                    case "mend":
                        each.link.wire.mend()
                    case "kill":
                        await each.kill()
                        balancers.remove(each)
                        await each.link.close()
                        again = Sharing(store, world, each.name)
                        again.begin()
                        balancers.append(again)
                await asyncio.sleep(rng.random() * PATIENCE)
                began = now()
            for each in balancers:
                each.link.wire.mend()
            await until(lambda: divided(balancers), 60.0)
            await until(lambda: agreed(balancers, world), 5 * INTERVAL)
            began = now()
            await asyncio.sleep(2 * INTERVAL)
            owners(world, began)

    run(scenario)


def test_a_backend_is_never_unchecked_for_longer_than_the_patience_and_an_interval() -> None:
    async def scenario(store: Store) -> None:
        rng, world = Random(3), World()
        async with sharing(store, world, "n1", "n2", "n3") as balancers:
            began = now()
            for _ in range(20):
                wire = rng.choice(balancers).link.wire
                rng.choice([wire.cut, wire.snap, wire.mend, wire.mend])()
                await asyncio.sleep(rng.random() * PATIENCE)
            for port in PORTS:
                times = [at for at in world.times(port) if at >= began - INTERVAL]
                assert max(later - earlier for earlier, later in pairwise(times)) <= PATIENCE + INTERVAL

    run(scenario)


# ---- going on alone


def test_who_is_cut_off_goes_back_to_own_checks_for_all_and_says_so_once() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2", "n3") as balancers:
            others = balancers[0].shown()[1]
            with capture_logs() as logged:
                began = now()
                balancers[0].link.wire.snap()
                await asyncio.sleep(PATIENCE + 2 * INTERVAL)
                assert balancers[0].shown() == (len(PORTS), 0)
                assert world.since(began + PATIENCE).keys() == set(PORTS)
                assert all("n1" in by for by in world.since(began + PATIENCE).values())
                assert divided(balancers[1:])  # the others do without it
                balancers[0].link.wire.mend()
                await until(lambda: divided(balancers), 5 * INTERVAL)
                await asyncio.sleep(0.2)
            told = [line for line in logged if line["event"].startswith("checks.")]
            assert [line["event"] for line in told] == [events.CHECKS_FELL_BACK, events.CHECKS_SHARED_AGAIN]
            assert 0 < told[0]["backends"] <= others
            assert told[0]["of"] == len(PORTS)

    run(scenario)


def test_without_a_cluster_each_goes_on_by_itself() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2", "n3") as balancers:
            for each in balancers:
                each.link.wire.cut()
            await asyncio.sleep(PATIENCE + 2 * INTERVAL)
            began = now()
            await asyncio.sleep(10 * INTERVAL)
            assert [each.shown() for each in balancers] == [(len(PORTS), 0)] * 3
            probes = Counter((by, port) for port, found in world.since(began).items() for by in found)
            assert len(probes) == 3 * len(PORTS)
            assert all(8 <= count <= 12 for count in probes.values())

    run(scenario)


def test_before_the_cluster_is_reached_everything_is_checked() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        only = Sharing(store, world, "n1")
        only.link.wire.cut()
        only.begin()
        await asyncio.sleep(3 * INTERVAL)
        assert world.since(0.0).keys() == set(PORTS)
        assert only.health() == dict.fromkeys(PORTS, Health.HEALTHY)
        only.link.wire.mend()
        await only.end()

    run(scenario)


def test_who_is_none_of_those_that_live_goes_by_its_own_checks_alone() -> None:
    """Somebody else has its name, so that it cannot tell who counts on it."""

    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n2", "n3") as balancers:
            client, _ = store.client()
            await client.put(f"{nodes.PREFIX}n1", '{"version": 1}')
            nameless = Sharing(store, world, "n1")
            nameless.begin()
            await asyncio.sleep(PATIENCE + INTERVAL)
            assert nameless.shown() == (len(PORTS), 0)
            assert divided(balancers)
            world.unreachable["n1"] = {4}
            await until(lambda: nameless.health()[4] is Health.UNHEALTHY, 1.1 * INTERVAL + 2.5)
            passed = nameless.counted.values(metrics.HEALTH_CHECKS, ("web", "b4", "passed"))[0]
            await asyncio.sleep(3 * INTERVAL)
            assert nameless.counted.values(metrics.HEALTH_CHECKS, ("web", "b4", "passed"))[0] == passed
            assert nameless.health()[4] is Health.UNHEALTHY
            assert nameless.evidence(4) == "refused"
            assert {each.health()[4] for each in balancers} == {Health.HEALTHY}
            await nameless.end()
            await client.close()

    run(scenario)


def test_a_silent_owner_is_done_without_though_it_lives() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2") as (first, second):
            share = second.shown()[0]
            world.unable = {("n2", port) for port in PORTS}
            began = now()
            await until(lambda: first.shown() == (len(PORTS), 0), PATIENCE + INTERVAL + 0.5)
            assert first.checks._told_late
            world.unable = set()
            await until(lambda: divided([first, second]), 5 * INTERVAL)  # heard twice
            assert second.shown()[0] == share
            probes = [at for at, by, _ in world.probes if at >= began and by == "n1"]
            assert len(probes) < len(PORTS) * (now() - began) / INTERVAL * 1.3  # never more often than on its own

    run(scenario)


def test_one_backend_of_which_nothing_new_is_told_is_done_without_its_owner_amid_news_of_others() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2") as (first, second):
            by = owners(world, now() - 1.5 * INTERVAL)
            port = next(port for port in PORTS if by[port] == "n2")
            others = first.shown()[1]
            world.unable = {("n2", port)}
            began = now()
            await asyncio.sleep(PATIENCE + INTERVAL)
            assert set(world.since(began)[port]) == {"n1", "n2"}
            assert first.shown()[1] == others - 1
            assert second.shown()[1] == len(PORTS) - second.shown()[0]

    run(scenario)


# ---- what is shared with whom


def test_balancers_that_check_otherwise_share_nothing() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2") as (first, second):
            third = Sharing(store, world, "n3", config_of(check=with_check(CHECK, path="/other")))
            third.begin()
            await asyncio.sleep(3 * INTERVAL)
            assert third.shown() == (len(PORTS), 0)
            assert divided([first, second])
            third.configure(config_of())
            await until(lambda: divided([first, second, third]), 2 * INTERVAL)
            await third.end()

    run(scenario)


def test_a_backend_that_only_one_has_is_checked_by_it() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2") as (first, second):
            first.configure(config_of([*PORTS, 77]))
            await asyncio.sleep(INTERVAL)
            began = now()
            await asyncio.sleep(3 * INTERVAL)
            assert set(world.since(began)[77]) == {"n1"}
            assert sum(first.shown()) == len(PORTS) + 1
            assert first.shown()[0] + second.shown()[0] == len(PORTS) + 1

    run(scenario)


def test_names_and_sockets_are_no_ones_elses_where_they_differ() -> None:
    """Another Host field is another probe; a Unix socket is every machine's own."""

    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2") as balancers:
            balancers[0].configure(config_of(), hosts={"b1": "app.internal"}, sockets=["b2"])
            balancers[1].configure(config_of(), sockets=["b2"])
            await asyncio.sleep(PATIENCE + INTERVAL)
            began = now()
            await asyncio.sleep(3 * INTERVAL)
            found = world.since(began)
            assert set(found[1]) == {"n1", "n2"}
            assert all(each.watch._schedule._entries.keys() >= {each._slots["web", "b2"]} for each in balancers)
            assert all(len(set(by)) == 1 for port, by in found.items() if port > 2)

    run(scenario)


def test_every_pool_with_checks_is_shared_and_pools_without_are_none_of_it() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        api = Pool(
            name="api/v1", health_check=CHECK, backends=(Backend(name="a b", host="10.0.0.9", port=91),)
        )  # fmt: skip
        plain = Pool(name="plain", backends=(Backend(name="p", host="10.0.0.9", port=92),))
        config = config_of(PORTS, CHECK, api=api, plain=plain)
        made = [Sharing(store, world, name, config) for name in ("n1", "n2")]
        for each in made:
            each.begin()
        await until(lambda: divided(made, len(PORTS) + 1), 20.0)
        began = now()
        await asyncio.sleep(3 * INTERVAL)
        found = world.since(began)
        assert len(set(found[91])) == 1
        assert 92 not in found
        assert any("/api%2Fv1/" in key for key in await stored(store))
        for each in made:
            await each.end()

    run(scenario)


# ---- reloads


def test_a_reload_that_changes_no_check_changes_nobodys_turn() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2") as (first, second):
            shown = first.shown()
            for _ in range(5):
                await asyncio.sleep(0.5)
                began = now()
                first.configure(config_of())
                assert first.shown() == shown
                await asyncio.sleep(0.05)
                assert all(by != ["n1", "n1"] for by in world.since(began).values())
            before = now()
            await asyncio.sleep(INTERVAL)
            assert all(len(set(by)) == 1 for by in world.since(before).values())
            assert divided([first, second])

    run(scenario)


def test_a_backend_that_leaves_is_published_no_more_and_one_that_comes_is_probed_at_once() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2") as balancers:
            began = now()
            for each in balancers:
                each.configure(config_of([port for port in PORTS if port != 5] + [77]))
            await asyncio.sleep(0.1)
            assert sorted(set(world.since(began)[77])) == ["n1", "n2"]
            await asyncio.sleep(2 * INTERVAL)
            assert divided(balancers)
            began = now()
            await asyncio.sleep(2 * INTERVAL)
            found = world.since(began)
            assert 5 not in found
            assert len(set(found[77])) == 1
            published = [
                result.backend for value in (await stored(store)).values() for result in publication_in(value).results
            ]
            assert sorted(published) == sorted(f"b{port}" for port in found)

    run(scenario)


def test_a_changed_check_is_done_by_each_until_the_others_have_it_too() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        changed = config_of(check=with_check(CHECK, path="/ready"))
        async with sharing(store, world, "n1", "n2", "n3") as balancers:
            balancers[0].configure(changed)
            began = now()
            assert balancers[0].shown() == (len(PORTS), 0)
            await asyncio.sleep(INTERVAL)
            assert {port for port, by in world.since(began).items() if "n1" in by} == set(PORTS)
            await until(lambda: divided(balancers[1:]), INTERVAL)
            for each in balancers[1:]:
                each.configure(changed)
            await until(lambda: divided(balancers), 2 * INTERVAL)

    run(scenario)


def test_checks_that_are_switched_off_leave_nothing_in_the_cluster() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2") as balancers:
            assert await stored(store) != {}
            for each in balancers:
                each.configure(config_of(check=None))
            await asyncio.sleep(INTERVAL)
            assert await stored(store) == {}
            assert [each.shown() for each in balancers] == [(0, 0)] * 2
            assert [each.checks._outbox._chunks for each in balancers] == [{}, {}]

    run(scenario)


# ---- keys


def test_what_is_published_ends_with_the_balancer() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2", "n3") as (first, second, third):
            assert any(f"{PREFIX}n3/" in key for key in await stored(store))
            await third.kill()
            await until(lambda: divided([first, second]), 2 * INTERVAL)
            assert not any(f"{PREFIX}n3/" in key for key in await stored(store))

    run(scenario)


def test_values_that_cannot_be_read_are_told_once_and_passed_over() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2") as (first, second):
            client, _ = store.client()
            with capture_logs() as logged:
                for _ in range(3):
                    await client.put(f"{PREFIX}n2/web/7", "what?")
                    await client.put(
                        f"{PREFIX}n2/web/8", '{"version": 9, "digest": "", "incarnation": "", "results": []}'
                    )
                    await client.put(f"{PREFIX}n2/web", "{}")
                    await client.put(f"{PREFIX}strange/web/7", "what?")
                    await asyncio.sleep(1.0)
            ignored = [(line["key"], line["log_level"]) for line in logged if line["event"] == events.KEY_IGNORED]
            assert sorted(set(ignored)) == [
                (f"{PREFIX}n2/web", "warning"),
                (f"{PREFIX}n2/web/7", "warning"),
                (f"{PREFIX}n2/web/8", "warning"),
            ]
            assert len(ignored) == 4  # n2 tells of the key that is none, too; of its own it reads nothing
            await client.close()
            assert divided([first, second])

    run(scenario)


def lies(value: bytes, digest: str | None = None, *, streak: int = 9, later: int = 100) -> bytes:
    """The same backends, all of them failing so many times, with newer results."""
    said = publication_in(value)
    failing = [
        Result(each.backend, each.address, False, "lies", streak, each.count + later) for each in said.results
    ]  # fmt: skip
    return value_of(digest or said.digest, said.incarnation, failing)


def test_results_count_only_of_whom_owns_the_backend_and_checks_it_alike() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2", "n3") as (first, second, third):
            by = owners(world, now() - 1.5 * INTERVAL)
            port = next(port for port in PORTS if by[port] == "n2")
            value = next(value for key, value in (await stored(store)).items() if "/n2/" in key)
            client, _ = store.client()
            await client.put(key_of(Place("n3", "web", 9)), lies(value))
            await client.put(key_of(Place("n2", "web", 9)), lies(value, digest="another"))
            await client.put(key_of(Place("n2", "other", 9)), lies(value))
            await client.put(key_of(Place("strange", "web", 9)), lies(value))
            await asyncio.sleep(1.0)
            assert first.health()[port] is Health.HEALTHY
            assert divided([first, second, third])
            await client.put(key_of(Place("n2", "web", 9)), lies(value))  # so it is not for another reason
            await until(lambda: first.health()[port] is Health.UNHEALTHY, 0.1)
            await client.close()

    run(scenario)


def test_a_result_that_is_told_again_counts_once() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2") as (first, _):
            key, value = next(item for item in (await stored(store)).items() if "/n2/" in item[0])
            ports = {int(each.backend[1:]) for each in publication_in(value).results}
            once = publication_in(lies(value, streak=1))
            client, _ = store.client()
            for _ in range(5):
                await client.put(key, value_of(once.digest, once.incarnation, once.results))
                await asyncio.sleep(0.01)
            assert all(first.health()[port] is Health.HEALTHY for port in ports)
            await client.put(key, lies(value, streak=2, later=101))
            await client.put(key, lies(value, streak=3, later=102))
            await until(lambda: all(first.health()[port] is Health.UNHEALTHY for port in ports), 0.1)
            await client.close()

    run(scenario)


def test_what_could_not_be_published_is_as_soon_as_the_cluster_answers() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        check = with_check(CHECK, fast_interval=INTERVAL, unhealthy_after=1)
        async with sharing(store, world, "n1", "n2", config=config_of(check=check)) as (first, second):
            by = owners(world, now() - 1.5 * INTERVAL)
            port = next(port for port in PORTS if by[port] == "n1")
            txn = first.link.client.txn

            async def refused(*_: object, **__: object) -> TxnResponse:
                raise NotReachedError("not now")

            first.link.client.txn = refused  # type: ignore[method-assign]
            world.failing = {port}
            began = await until(lambda: first.health()[port] is Health.UNHEALTHY, 1.1 * INTERVAL + 0.1)
            await asyncio.sleep(0.3)
            first.link.client.txn = txn  # type: ignore[method-assign]
            await until(lambda: second.health()[port] is Health.UNHEALTHY, began + 1.0 - now())

    run(scenario)


def test_a_watch_that_was_compacted_away_is_begun_anew() -> None:
    async def scenario(store: Store) -> None:
        world = World()
        async with sharing(store, world, "n1", "n2") as (first, second):
            first.link.wire.snap()
            await asyncio.sleep(INTERVAL / 2)
            client, _ = store.client()
            await client.compact((await client.get_prefix(PREFIX)).header.revision)
            await client.close()
            first.link.wire.mend()
            world.failing = set(PORTS)
            await until(lambda: agreed([first, second], world), 4 * INTERVAL)
            await until(lambda: divided([first, second]), 4 * INTERVAL)

    run(scenario)


def test_ten_thousand_backends_are_divided_without_holding_the_loop_up() -> None:
    """Not a speed: between any two turns no more than a slice is divided."""

    async def scenario(store: Store) -> None:
        world = World()
        config = config_of(range(1, 2001), HealthCheck(interval=60.0))
        balancer = Sharing(store, world, "n1", config)
        digest = balancer.checks._pools["web"].terms.digest
        balancer.nodes._live = {name: nodes.NodeInfo(pools={"web": digest}) for name in ("n1", "n2")}
        settling = asyncio.create_task(balancer.checks._settle())
        pool = balancer.checks._pools["web"]
        found = [0]
        for _ in range(8):
            await asyncio.sleep(0)
            found.append(len(pool.turns._owners) + len(balancer.checks._outbox._entries))
        settling.cancel()
        assert found[-1] == 2000
        assert max(later - earlier for earlier, later in pairwise(found)) <= 500

    run(scenario)
