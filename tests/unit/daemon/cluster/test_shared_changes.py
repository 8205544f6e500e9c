"""Weights and drains for all balancers: everybody hears of them, nothing said is lost, no failure is hidden."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from balancer.admin.changes import OutOfReachError, RefusedChangeError, UncertainChangeError
from balancer.consensus.client_http import ExchangeError
from balancer.consensus.client_kv import RANGE, TXN
from balancer.daemon.cluster import changes
from balancer.daemon.cluster.changes import Change, Place, change_of, key_of
from balancer.daemon.cluster.shared_changes import ANSWER_WITHIN, FILE, SharedChanges
from balancer.telemetry import events
from balancer.transport.http_client import Response
from tests.unit.daemon.cluster.virtual_store import Store, VirtualLink, Wire, run, until

A: Place = ("web", "a")
KEY_A = key_of(*A)


class Balancer:
    """The changes of one balancer, and what its operator was told to put to use."""

    def __init__(self, store: Store, name: str, folder: Path) -> None:
        self.link: VirtualLink = store.link(name)
        self.folder = folder / name
        self.folder.mkdir(exist_ok=True)
        self.changes = SharedChanges(self.link, self.folder)
        self.used: list[tuple[Place, int | None, bool]] = []
        self.changes.tell(self._use)
        self._running: asyncio.Task[None] | None = None

    def _use(self, pool: str, name: str) -> None:
        self.used.append(((pool, name), self.changes.weight(pool, name), self.changes.drained(pool, name)))

    def says(self, place: Place = A) -> tuple[int | None, bool]:
        return self.changes.weight(*place), self.changes.drained(*place)

    async def drain(self, drained: bool = True) -> None:
        await self.changes.change(*A, weight=None, drained=drained)

    async def weigh(self, weight: int) -> None:
        await self.changes.change(*A, weight=weight, drained=None)

    def begin(self) -> None:
        self._running = asyncio.create_task(self.changes.run())

    async def end(self) -> None:
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running


@asynccontextmanager
async def balancers(store: Store, folder: Path, *names: str) -> AsyncIterator[list[Balancer]]:
    made = [Balancer(store, name, folder) for name in names]
    for each in made:
        each.begin()
    try:
        await asyncio.sleep(1)
        yield made
    finally:
        for each in made:
            each.link.wire.mend()
            await each.end()


async def at_key(store: Store, key: str = KEY_A) -> Change | None:
    client, _ = store.client()
    kv = await client.get(key)
    return None if kv is None else change_of(kv.value)


async def written(store: Store, value: bytes, key: str = KEY_A) -> None:
    client, _ = store.client()
    await client.put(key, value)


def now() -> float:
    return asyncio.get_running_loop().time()


# ---- everybody hears of it


def test_what_is_said_at_one_is_in_use_there_when_it_is_answered_and_soon_everywhere(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1", "n2", "n3") as (first, *others):
            await first.drain()
            assert first.used == [(A, None, True)]
            for other in others:
                await until(lambda other=other: other.used == [(A, None, True)], 0.5)  # type: ignore[misc]
            await others[0].weigh(7)
            await until(lambda: first.used[-1] == (A, 7, True), 0.5)
            await others[1].drain(False)
            await first.changes.change(*A, weight="file", drained=None)
            await until(lambda: all(other.used[-1] == (A, None, False) for other in others), 0.5)
            assert await at_key(store) is None, "a key that says nothing is none"

    run(scenario)


def test_the_key_tells_who_said_it_and_when(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1", "n2") as (first, second):
            await first.drain()
            found = await at_key(store)
            assert found is not None
            assert (found.by, found.drained, found.weight) == ("n1", True, None)
            assert len(found.at) == len("2026-11-21T12:00:00Z")
            await second.drain()
            assert await at_key(store) == found, "it was said already"
            await until(lambda: second.changes.said_of(*A) == f"said at `n1` ({found.at})", 0.5)

    run(scenario)


def late_writes(wire: Wire) -> "Callable[..., Awaitable[Response]]":
    """As the wire, but a transaction is under way for a while."""
    exchange = wire.exchange

    async def late(path: str, body: bytes, *, timeout: float) -> Response:
        if path == TXN:
            await asyncio.sleep(0.05)
        return await exchange(path, body, timeout=timeout)

    return late


def test_two_operators_at_once_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1", "n2") as (first, second):
            for wire in (first.link.wire, second.link.wire):
                monkeypatch.setattr(wire, "exchange", late_writes(wire))
            await asyncio.gather(first.drain(), second.weigh(7))
            found = await at_key(store)
            assert found is not None
            assert (found.weight, found.drained) == (7, True)
            asked = first.link.wire.requests + second.link.wire.requests
            assert asked.count(TXN) > 2, "one of them met the other's write, and tried again"
            await until(lambda: first.says() == second.says() == (7, True), 0.5)
            await asyncio.gather(*(each.weigh(number) for number, each in enumerate((first, second) * 8)))
            await until(lambda: first.says() == second.says(), 0.5)
            assert first.says()[1]

    run(scenario)


def test_what_a_balancer_does_not_have_is_kept_and_told_when_a_generation_comes_into_use(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1") as (only,):
            await written(store, Change(weight=2).to_bytes(), key_of("later", "x/y"))
            await until(lambda: only.used, 0.5)
            only.used.clear()
            list(only.changes.configure())
            assert only.used == [(("later", "x/y"), 2, False)]

    run(scenario)


def test_many_of_them_leave_the_loop_its_turns(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        for number in range(450):
            await written(store, Change(weight=2).to_bytes(), key_of("web", f"b{number}"))
        turns: list[int] = []
        only = Balancer(store, "n1", tmp_path)
        only.begin()
        while len(only.used) < 450:
            await asyncio.sleep(0)
            turns.append(len(only.used))
        assert max(after - before for before, after in pairwise(turns)) <= 100
        only.used.clear()
        assert [len(only.used) for _ in only.changes.configure()] == [100, 200, 300, 400]
        assert len(only.used) == 450
        await only.end()

    run(scenario)


def test_an_unreadable_value_is_told_once_says_nothing_and_is_not_overwritten(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1") as (only,):
            await only.drain()
            with capture_logs() as logged:
                await written(store, b'{"version": 2, "drained": "slowly"}')
                await until(lambda: not only.changes.drained(*A), 0.5)
                only.link.wire.snap()
                only.link.wire.mend()
                await asyncio.sleep(30)
            ignored = [entry for entry in logged if entry["event"] == events.KEY_IGNORED]
            assert [(entry["part"], entry["key"]) for entry in ignored] == [("changes", KEY_A)]
            with pytest.raises(RefusedChangeError, match=rf"version 2.*balancer cluster kv get {KEY_A}"):
                await only.drain()
            client, _ = store.client()
            await client.delete(KEY_A)
            await only.drain()
            assert only.says() == (None, True)

    run(scenario)


def test_what_was_compacted_away_before_it_was_heard_of_is_read_anew(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1", "n2") as (first, second):
            await first.drain()
            await until(lambda: second.says() == (None, True), 0.5)
            second.link.wire.snap()
            await first.drain(False)
            await first.changes.change("web", "b", weight=3, drained=None)
            client, _ = store.client()
            await client.compact((await client.get_prefix("/")).header.revision)
            second.link.wire.mend()
            await until(lambda: second.says() == (None, False) and second.says(("web", "b")) == (3, False))

    run(scenario)


# ---- without the cluster


def test_without_the_cluster_nothing_is_changed_what_was_said_stays_and_the_words_say_so(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1", "n2") as (first, second):
            await first.drain()
            await until(lambda: second.says() == (None, True), 0.5)
            second.link.wire.snap()
            began = now()
            with pytest.raises(OutOfReachError, match=r"nothing was changed.*without --cluster") as refused:
                await second.drain(False)
            assert "outcome" not in str(refused.value)
            assert now() - began <= ANSWER_WITHIN
            assert second.says() == (None, True)
            await first.drain(False)
            await asyncio.sleep(60)
            assert second.says() == (None, True)
            second.link.wire.mend()
            await until(lambda: second.used[-1] == (A, None, False))

    run(scenario)


def losing_answers(wire: Wire, path: str, times: int) -> "Callable[..., Awaitable[Response]]":
    """As the wire, but so many answers to `path` never come although what was asked is done."""
    exchange, left = wire.exchange, times

    async def losing(asked: str, body: bytes, *, timeout: float) -> Response:
        nonlocal left
        answer = await exchange(asked, body, timeout=timeout)
        if asked == path and left:
            left -= 1
            raise ExchangeError("the connection broke", sent=True)
        return answer

    return losing


def an_etcd(balancer: Balancer) -> Wire:
    """A server that cannot recognise a repeated change."""
    balancer.link.client._calls._sessions = False
    return balancer.link.wire


def test_a_write_whose_answer_is_lost_is_found_to_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1") as (only,):
            wire = an_etcd(only)
            monkeypatch.setattr(wire, "exchange", losing_answers(wire, TXN, 1))
            await only.drain()
            assert (only.used, wire.requests.count(TXN)) == ([(A, None, True)], 1)

    run(scenario)


def test_a_write_that_was_lost_is_repeated_and_the_lost_one_can_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1") as (only,):
            wire = an_etcd(only)
            exchange = wire.exchange
            late: list[bytes] = []

            async def held_up(path: str, body: bytes, *, timeout: float) -> Response:
                if path == TXN and not late:
                    late.append(body)
                    raise ExchangeError("the connection broke", sent=True)
                return await exchange(path, body, timeout=timeout)

            monkeypatch.setattr(wire, "exchange", held_up)
            await only.weigh(7)
            await only.weigh(9)
            await exchange(TXN, late[0], timeout=1)
            found = await at_key(store)
            assert found is not None
            assert found.weight == 9

    run(scenario)


def test_an_outcome_that_stays_unknown_is_told_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1") as (only,):
            wire = an_etcd(only)
            exchange = wire.exchange

            async def cut_at_once(path: str, body: bytes, *, timeout: float) -> Response:
                if path == TXN:
                    await exchange(path, body, timeout=timeout)
                    wire.cut()
                    raise ExchangeError("the connection broke", sent=True)
                return await exchange(path, body, timeout=timeout)

            monkeypatch.setattr(wire, "exchange", cut_at_once)
            began = now()
            with pytest.raises(UncertainChangeError, match=r"not known.*balancer status"):
                await only.drain()
            assert now() - began <= ANSWER_WITHIN
            assert only.says() == (None, False)
            wire.mend()
            await until(lambda: only.says() == (None, True)), "it was done, and is heard of"

    run(scenario)


def test_a_write_that_gets_no_answer_at_all_is_of_unknown_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1") as (only,):
            wire = an_etcd(only)
            exchange = wire.exchange

            async def silent(path: str, body: bytes, *, timeout: float) -> Response:
                if path == TXN:
                    await asyncio.sleep(3600)
                return await exchange(path, body, timeout=timeout)

            monkeypatch.setattr(wire, "exchange", silent)
            with pytest.raises(UncertainChangeError, match="no answer within 8 s"):
                await only.drain()

    run(scenario)


def test_a_write_that_may_have_been_done_late_is_never_told_to_have_changed_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes just before its repetition, which therefore finds another revision; and then nobody answers."""

    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1") as (only,):
            wire = an_etcd(only)
            exchange = wire.exchange
            late: list[bytes] = []

            async def held_up(path: str, body: bytes, *, timeout: float) -> Response:
                if path == TXN and not late:
                    late.append(body)
                    raise ExchangeError("the connection broke", sent=True)
                if path == TXN:
                    await exchange(path, late[0], timeout=timeout)
                    answer = await exchange(path, body, timeout=timeout)
                    wire.cut()
                    return answer
                return await exchange(path, body, timeout=timeout)

            monkeypatch.setattr(wire, "exchange", held_up)
            with pytest.raises(UncertainChangeError):
                await only.drain()
            wire.mend()
            await until(lambda: only.says() == (None, True))

    run(scenario)


REFUSAL = Response(400, {}, b'{"code": 9, "message": "etcdserver: mvcc: database space exceeded"}')


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (REFUSAL, (RefusedChangeError, "refused it, and nothing was changed.*space exceeded")),
        (ExchangeError("broke", sent=True), (UncertainChangeError, "not known")),
        (ExchangeError("no connection", sent=False), (RefusedChangeError, "nothing was changed")),
    ],
)
def test_a_refusal_changed_nothing_unless_an_earlier_attempt_may_have(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: Response | ExchangeError,
    told: tuple[type[Exception], str],
) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1") as (only,):
            wire = only.link.wire
            exchange, outcomes = wire.exchange, [first]

            async def refusing(path: str, body: bytes, *, timeout: float) -> Response:
                if path != TXN:
                    return await exchange(path, body, timeout=timeout)
                outcome = outcomes.pop() if outcomes else REFUSAL
                if isinstance(outcome, ExchangeError):
                    raise outcome
                return outcome

            monkeypatch.setattr(wire, "exchange", refusing)
            with pytest.raises(told[0], match=told[1]):
                await only.drain()
            assert only.says() == (None, False)

    run(scenario)


def test_a_write_that_was_never_sent_changed_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1") as (only,):
            exchange = only.link.wire.exchange

            async def closed(path: str, body: bytes, *, timeout: float) -> Response:
                if path == TXN:
                    raise ExchangeError("connection refused", sent=False)
                return await exchange(path, body, timeout=timeout)

            monkeypatch.setattr(only.link.wire, "exchange", closed)
            with pytest.raises(OutOfReachError, match="nothing was changed"):
                await only.drain()

    run(scenario)


# ---- the bound


def test_over_the_bound_nothing_more_is_said_and_what_was_left_out_comes_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "ENTRIES_MAX", 2)

    async def scenario(store: Store) -> None:
        for name in "abc":
            await written(store, Change(weight=2).to_bytes(), key_of("web", name))
        async with balancers(store, tmp_path, "n1") as (only,):
            assert [only.says(("web", name))[0] for name in "abc"] == [2, 2, None]
            with pytest.raises(RefusedChangeError, match="end some of them first"):
                await only.changes.change("web", "d", weight=1, drained=None)
            await only.changes.change("web", "b", weight=7, drained=None)
            await only.changes.change("web", "a", weight="file", drained=None)
            await until(lambda: only.says(("web", "c")) == (2, False))
            client, _ = store.client()
            assert await client.get(key_of("web", "d")) is None

    run(scenario)


# ---- over a restart


def test_what_was_said_last_holds_over_a_kill_until_the_cluster_answers(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1", "n2") as (first, second):
            await first.drain()
            assert (first.folder / FILE).exists(), "saved before it is answered"
            await until(lambda: (second.folder / FILE).exists(), 1.0)
            await second.end()  # without a close, as a kill ends it
            again = Balancer(store, "n2", tmp_path)
            again.link.wire.cut()
            again.begin()
            await asyncio.sleep(30)
            assert again.says() == (None, True)
            list(again.changes.configure())
            assert again.used == [(A, None, True)]
            await first.drain(False)
            assert not (first.folder / FILE).exists()
            again.link.wire.mend()
            await until(lambda: again.used[-1] == (A, None, False))
            await until(lambda: not (second.folder / FILE).exists(), 1.0)
            await again.end()

    run(scenario)


def test_what_was_heard_just_now_is_saved_at_an_orderly_end(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1") as (only,):
            await written(store, Change(weight=2).to_bytes())
            await until(lambda: only.says() == (2, False), 0.15)
            assert not (only.folder / FILE).exists()
            await only.end()
            only.changes.close()
        assert Balancer(store, "n1", tmp_path).says() == (2, False)

    run(scenario)


def test_a_damaged_file_is_told_and_the_cluster_asked(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        (tmp_path / "n1").mkdir()
        (tmp_path / "n1" / FILE).write_bytes(b"{broken")
        await written(store, Change(weight=2).to_bytes())
        with capture_logs() as logged:
            async with balancers(store, tmp_path, "n1") as (only,):
                assert only.says() == (2, False)
        assert [entry["event"] for entry in logged if entry["event"] == events.LIVE_CHANGES_UNREADABLE]

    run(scenario)


def test_a_folder_that_cannot_be_written_is_told_and_refuses_nothing(tmp_path: Path) -> None:
    async def scenario(store: Store) -> None:
        async with balancers(store, tmp_path, "n1") as (only,):
            (only.folder / FILE).with_suffix(".new").mkdir()
            with capture_logs() as logged:
                await only.drain()
            assert only.says() == (None, True)
            assert events.LIVE_CHANGES_NOT_SAVED in [entry["event"] for entry in logged]

    run(scenario)


def test_a_change_asks_the_cluster_and_not_what_was_known(tmp_path: Path) -> None:
    """Whoever has just started, or hears late, does not take away what others said."""

    async def scenario(store: Store) -> None:
        await written(store, Change(weight=7, by="n9").to_bytes())
        fresh = Balancer(store, "n1", tmp_path)
        await fresh.drain()
        assert (fresh.says(), fresh.link.wire.requests.count(RANGE)) == ((7, True), 1)

    run(scenario)
