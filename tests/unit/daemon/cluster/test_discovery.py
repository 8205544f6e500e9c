"""What registers comes into use and leaves it, at once and seldom enough, whatever the cluster does meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from balancer.admin.changes import ReloadResult
from balancer.config.model import Backend, BackendsFrom, Config, Pool, ResolvedBackend
from balancer.daemon.cluster import discovery as module
from balancer.daemon.cluster import registrations
from balancer.daemon.cluster.discovery import AGAIN_FIRST, FILE, LACKING_AGAIN, REST, Discovery
from balancer.telemetry import events, metrics
from balancer.telemetry.aggregate import Aggregate
from tests.unit.daemon.cluster.virtual_store import Store, VirtualLink, run, until

PREFIX = "/services/api/"


def pool(name: str = "api", *, prefix: str | None = PREFIX, backends: tuple[str, ...] = ("file",)) -> Pool:
    return Pool(
        name=name,
        backends=tuple(Backend(name=one, host="127.0.0.1", port=1) for one in backends),
        backends_from=None if prefix is None else BackendsFrom(prefix=prefix),
    )


FILE_CONFIG = Config(listeners=(), routes=(), pools=(pool(), pool("web", prefix=None)))


class Balancer:
    """A balancer as far as `Discovery` sees it: a file, and how it is put to use."""

    def __init__(self, store: Store, folder: Path, file: Config = FILE_CONFIG) -> None:
        self.link: VirtualLink = store.link("n1")
        self.counted = Aggregate()
        self.file = file
        self.takes = 0.0  # seconds to put something to use
        self.refuse = 0  # so many times
        self.room = 10_000
        self.nameless: set[str] = set()  # hosts without an address
        self.applied: list[tuple[float, ...]] = []
        self.discovery = Discovery(self.link, self.counted, folder)
        self.discovery.tell(self.reapply)
        self.config = file
        self.take_into_use()
        self._running: asyncio.Task[None] | None = None

    def take_into_use(self) -> None:
        extended = self.discovery.extend(self.file)
        own = {(one.name, backend.name) for one in self.file.pools for backend in one.backends}
        room = self.room
        pools = []
        for one in extended.pools:
            kept = []
            for backend in one.backends:
                if (one.name, backend.name) not in own:
                    room -= 1
                if (one.name, backend.name) in own or room >= 0:
                    kept.append(backend)
            pools.append(msgspec.structs.replace(one, backends=tuple(kept)))
        self.config = msgspec.structs.replace(extended, pools=tuple(pools))
        resolved = [
            ResolvedBackend(pool=one.name, name=each.name, host=each.host, address=(each.host, each.port, ""), slot=0)
            for one in self.config.pools
            for each in one.backends
            if each.host not in self.nameless
        ]
        self.discovery.configure(self.config, resolved)

    async def reapply(self) -> ReloadResult:
        self.applied.append((asyncio.get_running_loop().time(),))
        await asyncio.sleep(self.takes)
        if self.refuse:
            self.refuse -= 1
            return ReloadResult(False, 1, [], ["worker 0 ended; try again"])
        self.take_into_use()
        return ReloadResult(True, 2)

    def names(self, of: str = "api") -> list[str]:
        return [backend.name for one in self.config.pools if one.name == of for backend in one.backends]

    def count(self, state: str, of: str = "api") -> int:
        return int(self.counted.values(metrics.REGISTERED_BACKENDS, (of, state))[0])

    def begin(self) -> None:
        self._running = asyncio.create_task(self.discovery.run())

    async def end(self) -> None:
        assert self._running is not None
        self._running.cancel()
        self.link.wire.mend()
        with suppress(asyncio.CancelledError):
            await self._running
        await self.link.close()


@asynccontextmanager
async def balancer(store: Store, folder: Path, file: Config = FILE_CONFIG) -> AsyncIterator[Balancer]:
    """It runs, and has read what there is."""
    made = Balancer(store, folder, file)
    made.begin()
    try:
        await until(lambda: any("range" in path for path in made.link.wire.requests))
        await asyncio.sleep(0.1)
        yield made
    finally:
        await made.end()


def now() -> float:
    return asyncio.get_running_loop().time()


# ---- coming and going


def test_what_registers_is_used_after_the_files_backends_until_it_is_gone(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        await client.put(PREFIX + "early", "10.0.0.1:80")
        async with balancer(store, tmp_path) as it:
            assert it.names() == ["file", "early"]
            assert it.names("web") == ["file"]
            await client.put(PREFIX + "late", '{"address": "10.0.0.2:80", "weight": 3}')
            await until(lambda: it.names() == ["file", "early", "late"], 1)
            assert it.config.pools[0].backends[2].weight == 3
            assert (it.count("in_use"), it.count("left_out"), it.count("wrong")) == (2, 0, 0)
            await client.delete(PREFIX + "early")
            await until(lambda: it.names() == ["file", "late"], 1)
            assert it.count("in_use") == 1
            assert it.discovery.extend(FILE_CONFIG).pools[1] is FILE_CONFIG.pools[1]
        await client.close()

    run(scenario)


def test_a_backend_lives_as_long_as_its_lease(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with balancer(store, tmp_path) as it:
            async with client.lease(10) as lease:
                await client.put(PREFIX + "a", "10.0.0.1:80", lease=lease)
                await until(lambda: it.names() == ["file", "a"], 1)
                await asyncio.sleep(60)
                assert it.names() == ["file", "a"]
            await until(lambda: it.names() == ["file"], 1)
        await client.close()

    run(scenario)


def test_each_pool_has_what_is_below_its_own_prefix(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        file = Config(listeners=(), routes=(), pools=(pool(), pool("web", prefix="/services/web/", backends=())))
        async with balancer(store, tmp_path, file) as it:
            await client.put("/services/web/a", "10.0.0.1:80")
            await client.put("/services/webb", "10.0.0.1:80")
            await client.put("/services/api/b", "10.0.0.1:80")
            await until(lambda: (it.names(), it.names("web")) == (["file", "b"], ["a"]), 1)
        await client.close()

    run(scenario)


def test_writing_the_same_again_and_again_puts_nothing_to_use(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with balancer(store, tmp_path) as it:
            await client.put(PREFIX + "a", "10.0.0.1:80")
            await until(lambda: it.names() == ["file", "a"], 1)
            before = len(it.applied)
            for _ in range(20):
                await client.put(PREFIX + "a", "10.0.0.1:80")
            await asyncio.sleep(5)
            assert len(it.applied) == before
        await client.close()

    run(scenario)


# ---- what cannot be used


def test_a_wrong_value_is_logged_once_and_the_old_one_stays(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with balancer(store, tmp_path) as it:
            await client.put(PREFIX + "a", "10.0.0.1:80")
            await until(lambda: it.names() == ["file", "a"], 1)
            with capture_logs() as logged:
                for _ in range(3):
                    await client.put(PREFIX + "a", "nonsense")
                    await asyncio.sleep(5)
                await client.put(PREFIX + "b", "10.0.0.2:80")
                await until(lambda: it.names() == ["file", "a", "b"], 1)
            assert [(one["key"], one["pool"]) for one in logged if one["event"] == events.REGISTRATION_REFUSED] == [
                (PREFIX + "a", "api")
            ]
            assert it.count("wrong") == 1
        await client.close()

    run(scenario)


def test_a_storm_of_wrong_values_is_told_in_a_few_lines(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with balancer(store, tmp_path):
            with capture_logs() as logged:
                for number in range(500):
                    await client.put(f"{PREFIX}n{number}", "nonsense")
                await asyncio.sleep(3)
            told = [one for one in logged if one["event"] == events.REGISTRATION_REFUSED]
            assert 1 < len(told) < 100
            assert "more keys" in told[-1]["problem"]
        await client.close()

    run(scenario)


def test_the_files_backend_wins_over_one_that_registers_under_its_name(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with balancer(store, tmp_path) as it:
            with capture_logs() as logged:
                await client.put(PREFIX + "file", "10.0.0.9:80")
                await client.put(PREFIX + "a", "10.0.0.1:80")
                await until(lambda: it.names() == ["file", "a"], 1)
                await client.put(PREFIX + "b", "10.0.0.1:80")
                await until(lambda: it.names() == ["file", "a", "b"], 1)
                await asyncio.sleep(1)
            assert it.config.pools[0].backends[0].host == "127.0.0.1"
            told = [one for one in logged if one["event"] == events.REGISTRATION_LEFT_OUT]
            assert [(one["backends"], one["reason"]) for one in told] == [
                (["file"], "the file has a backend of this name")
            ]
            assert it.count("in_use") == 2
        await client.close()

    run(scenario)


def test_those_beyond_the_bound_are_left_out_with_an_error_until_others_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrations, "BACKENDS_MAX", 2)

    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with balancer(store, tmp_path) as it:
            with capture_logs() as logged:
                for name in ("c", "b", "a", "d"):
                    await client.put(PREFIX + name, "10.0.0.1:80")
                    await asyncio.sleep(0.1)
                assert it.names() == ["file", "c", "b"]
                assert it.count("left_out") == 2
            told = [one for one in logged if one["event"] == events.REGISTRATION_LEFT_OUT]
            assert [one["log_level"] for one in told] == ["error"], "once"
            await client.delete(PREFIX + "c")
            await until(lambda: it.names() == ["file", "b", "a"], 1)
        await client.close()

    run(scenario)


def test_keys_that_there_was_no_room_for_are_read_once_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrations, "KEYS_MAX", 2)
    monkeypatch.setattr(module, "KEYS_MAX", 2)

    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with balancer(store, tmp_path) as it:
            for name in ("a", "b", "c"):
                await client.put(PREFIX + name, "10.0.0.1:80")
            await until(lambda: it.names() == ["file", "a", "b"], 1)
            await client.delete(PREFIX + "a")
            await until(lambda: it.names() == ["file", "b", "c"], 5)
        await client.close()

    run(scenario)


def test_one_without_a_slot_is_told_and_tried_again(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with balancer(store, tmp_path) as it:
            it.room = 1
            with capture_logs() as logged:
                for name in ("a", "b"):
                    await client.put(PREFIX + name, "10.0.0.1:80")
                await until(lambda: it.count("left_out") == 1, 1)
                assert it.names() == ["file", "a"]
                await asyncio.sleep(3 * LACKING_AGAIN)
            told = [one for one in logged if one["event"] == events.REGISTRATION_LEFT_OUT]
            assert [(one["backends"], one["reason"]) for one in told] == [(["b"], "there are no slots left")]
            it.room = 2
            await until(lambda: it.names() == ["file", "a", "b"], LACKING_AGAIN + 1)
            assert it.count("left_out") == 0
            before = len(it.applied)
            await asyncio.sleep(3 * LACKING_AGAIN)
            assert len(it.applied) == before, "all is well: nothing more is tried"
        await client.close()

    run(scenario)


def test_one_whose_name_has_no_address_is_tried_again(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with balancer(store, tmp_path) as it:
            it.nameless = {"app"}
            await client.put(PREFIX + "a", "app:80")
            await until(lambda: it.names() == ["file", "a"], 1)
            before = len(it.applied)
            await asyncio.sleep(2.5 * LACKING_AGAIN)
            assert len(it.applied) == before + 2
        await client.close()

    run(scenario)


# ---- put to use


def test_a_refused_change_is_tried_again_until_it_is_in_use(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with balancer(store, tmp_path) as it:
            it.refuse = 4
            began = now()
            await client.put(PREFIX + "a", "10.0.0.1:80")
            await until(lambda: it.names() == ["file", "a"], 30)
            assert len(it.applied) == 5
            assert now() - began >= AGAIN_FIRST * (1 + 2 + 4 + 8)
        await client.close()

    run(scenario)


def test_a_storm_costs_a_third_of_the_time_and_what_comes_meanwhile_is_put_to_use_together(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with balancer(store, tmp_path) as it:
            it.takes = 0.02
            began, before = now(), len(it.applied)
            for number in range(1000):
                await client.put(f"{PREFIX}n{number}", "10.0.0.1:80")
                await asyncio.sleep(0.001)
            await until(lambda: len(it.names()) == 1001, 5)
            took, times = now() - began, len(it.applied) - before
            assert times * it.takes <= took / (1 + REST) + it.takes
            assert times > 10, "but it goes on all the time"
        await client.close()

    run(scenario)


def test_one_that_comes_alone_does_not_wait(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        async with balancer(store, tmp_path) as it:
            it.takes = 1.0
            await asyncio.sleep(10)
            began = now()
            await client.put(PREFIX + "a", "10.0.0.1:80")
            await until(lambda: bool(it.applied) and it.applied[-1][0] >= began, 0.1)
        await client.close()

    run(scenario)


# ---- without the cluster


def test_what_is_known_stays_while_the_cluster_cannot_be_asked_and_is_compared_afterwards(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        await client.put(PREFIX + "a", "10.0.0.1:80")
        await client.put(PREFIX + "b", "10.0.0.1:80")
        async with balancer(store, tmp_path) as it:
            it.link.wire.snap()
            await client.delete(PREFIX + "a")
            await client.put(PREFIX + "c", "10.0.0.1:80")
            await asyncio.sleep(600)
            assert it.names() == ["file", "a", "b"]
            it.link.wire.mend()
            await until(lambda: it.names() == ["file", "b", "c"])
        await client.close()

    run(scenario)


def test_changes_that_were_compacted_away_unseen_are_found_by_reading_anew(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        await client.put(PREFIX + "a", "10.0.0.1:80")
        async with balancer(store, tmp_path) as it:
            it.link.wire.snap()
            await client.delete(PREFIX + "a")
            await client.put(PREFIX + "b", "10.0.0.1:80")
            last = await client.put("other", "x")
            await client.compact(last.header.revision)
            it.link.wire.mend()
            await until(lambda: it.names() == ["file", "b"])
            await client.put(PREFIX + "c", "10.0.0.1:80")
            await until(lambda: it.names() == ["file", "b", "c"])
        await client.close()

    run(scenario)


def test_over_a_restart_what_was_registered_is_used_before_the_cluster_answers(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        await client.put(PREFIX + "a", '{"address": "10.0.0.1:80", "weight": 4}')
        await client.put(PREFIX + "b", "10.0.0.1:80")
        async with balancer(store, tmp_path) as it:
            assert it.names() == ["file", "a", "b"]
        again = Balancer(store, tmp_path)
        again.link.wire.cut()
        assert again.names() == ["file", "a", "b"]
        assert again.config.pools[0].backends[1].weight == 4
        again.begin()
        await asyncio.sleep(60)
        assert again.names() == ["file", "a", "b"]
        await client.delete(PREFIX + "a")
        again.link.wire.mend()
        await until(lambda: again.names() == ["file", "b"])
        await client.delete(PREFIX + "b")
        await until(lambda: again.names() == ["file"])
        await until(lambda: not (tmp_path / FILE).exists(), 1)
        await again.end()
        await client.close()

    run(scenario)


@pytest.mark.parametrize("data", [b"", b"{", b'{"version": 9}', b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_told_and_written_anew(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FILE).write_bytes(data)

    async def scenario(store: Store) -> None:
        client, _ = store.client()
        await client.put(PREFIX + "a", "10.0.0.1:80")
        with capture_logs() as logged:
            async with balancer(store, tmp_path) as it:
                assert it.names() == ["file", "a"]
        assert [one["event"] for one in logged].count(events.REGISTRATIONS_UNREADABLE) == 1
        await client.close()

    run(scenario)
    saved: dict[str, Any] = json.loads((tmp_path / FILE).read_bytes())
    assert saved["pools"]["api"]["keys"] == [["a", "10.0.0.1:80", 2]]


def test_what_cannot_be_saved_is_used_all_the_same(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        with capture_logs() as logged:
            async with balancer(store, tmp_path / "nowhere") as it:
                await client.put(PREFIX + "a", "10.0.0.1:80")
                await until(lambda: it.names() == ["file", "a"], 1)
        assert events.REGISTRATIONS_NOT_SAVED in {one["event"] for one in logged}
        await client.close()

    run(scenario)


# ---- another file


def test_a_pool_that_gets_or_loses_its_prefix_follows(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        await client.put("/services/web/w", "10.0.0.1:80")
        await client.put(PREFIX + "a", "10.0.0.1:80")
        async with balancer(store, tmp_path) as it:
            it.file = Config(listeners=(), routes=(), pools=(pool(prefix=None), pool("web", prefix="/services/web/")))
            it.take_into_use()
            await until(lambda: (it.names(), it.names("web")) == (["file"], ["file", "w"]), 1)
            it.file = FILE_CONFIG
            it.take_into_use()
            await until(lambda: (it.names(), it.names("web")) == (["file", "a"], ["file"]), 1)
            it.file = Config(listeners=(), routes=(), pools=())
            it.take_into_use()
            it.file = FILE_CONFIG
            it.take_into_use()
            await until(lambda: it.names() == ["file", "a"], 1)
            await client.put(PREFIX + "b", "10.0.0.1:80")
            await until(lambda: it.names() == ["file", "a", "b"], 1)
        await client.close()

    run(scenario)


def test_with_another_prefix_the_backends_of_the_old_one_serve_until_the_new_one_is_read(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        client, _ = store.client()
        await client.put(PREFIX + "a", "10.0.0.1:80")
        await client.put("/elsewhere/b", "10.0.0.1:80")
        async with balancer(store, tmp_path) as it:
            it.link.wire.snap()
            it.file = Config(listeners=(), routes=(), pools=(pool(prefix="/elsewhere/"),))
            it.take_into_use()
            await asyncio.sleep(60)
            assert it.names() == ["file", "a"]
            it.link.wire.mend()
            await until(lambda: it.names() == ["file", "b"])
            await client.put(PREFIX + "c", "10.0.0.1:80")
            await client.put("/elsewhere/d", "10.0.0.1:80")
            await until(lambda: it.names() == ["file", "b", "d"], 1)
        await client.close()

    run(scenario)


def test_without_prefixes_the_file_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'{"version": 1, "pools": {"gone": {"prefix": "/x/", "keys": [["a", "a:1", 1]]}}}')
    file = Config(listeners=(), routes=(), pools=(pool(prefix=None),))

    async def scenario(store: Store) -> None:
        it = Balancer(store, tmp_path, file)
        it.begin()
        await asyncio.sleep(10)
        assert it.config == file
        assert it.discovery.extend(file) is file
        assert it.link.wire.requests == []
        await it.end()

    run(scenario)
