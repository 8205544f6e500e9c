"""First starts over real sockets and files: members find each other, survive crashes, and wiped ones stay out."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import uvloop
from structlog.testing import capture_logs

from balancer.consensus import first_start
from balancer.consensus.bootstrap import Begin, Origin, Own, admitted, answer_of, decode_members
from balancer.consensus.disk import OsDisk
from balancer.consensus.first_start import FirstStart, StartRefusedError, load_origin, new_origin, save_origin
from balancer.consensus.peer_connection import End, Ending, PeerError, PeerLimits
from balancer.consensus.peer_frames import Answer, Ask, Listed, Member
from balancer.consensus.peer_hello import PeerIdentity
from balancer.consensus.peers import Peers, Security
from balancer.consensus.storage_errors import EXIT_SUSPECT, IdentityError

DEADLINE = 15.0
SECURITY = Security(b"a secret of some length")
LIMITS = PeerLimits(backoff_first=0.005, backoff_max=0.05)


def run(test: Callable[[], Awaitable[Any]]) -> None:
    async def bounded() -> None:
        # One thread: waiting for it means that a write that was under way at a stop is over.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        async with asyncio.timeout(30):
            await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


@pytest.fixture(autouse=True)
def brief_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two rounds of questions."""
    monkeypatch.setattr(first_start, "_PAUSE_FIRST", 0.005)
    monkeypatch.setattr(first_start, "_PAUSE_MAX", 0.02)


# ---- the file


def test_an_origin_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path / "data"))
    assert load_origin(disk) is None
    origin = new_origin("n1")
    save_origin(disk, origin)
    assert load_origin(disk) == origin
    grown = Origin("n1", origin.uuid, 5, 6, (Member(6, "n1", "a:1", origin.uuid),), begun=True)
    save_origin(disk, grown)
    assert load_origin(OsDisk(str(tmp_path / "data"))) == grown
    assert os.stat(tmp_path / "data" / "origin").st_mode & 0o777 == 0o600


def test_every_data_directory_gets_a_uuid_of_its_own() -> None:
    assert len({new_origin("n1").uuid for _ in range(100)}) == 100


def test_a_damaged_origin_is_never_taken_for_an_empty_directory(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path))
    save_origin(disk, new_origin("n1"))
    whole = (tmp_path / "origin").read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            (tmp_path / "origin").write_bytes(damaged)
            with pytest.raises(IdentityError, match="rejoin"):
                load_origin(disk)


def test_data_without_an_origin_is_no_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "wal-0000000000000001.log").write_bytes(b"votes")
    with pytest.raises(IdentityError, match="has no file `origin`, but wal-"):
        load_origin(OsDisk(str(tmp_path)))


def test_what_a_crash_and_a_file_system_leave_is_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "origin.new").write_bytes(b"half")
    (tmp_path / "lost+found").mkdir()
    disk = OsDisk(str(tmp_path))
    assert load_origin(disk) is None
    save_origin(disk, new_origin("n1"))
    assert load_origin(disk) is not None


class Recorded(OsDisk):
    """Writes down what is done, and may break off."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.done: list[str] = []

    def create(self, name: str) -> Any:
        self.done.append(f"create {name}")
        file = super().create(name)
        sync = file.sync

        class File:
            write, close = file.write, file.close

            def sync(_) -> None:  # noqa: N805
                self.done.append("sync")
                sync()

        return File()

    def rename(self, old: str, new: str) -> None:
        self.done.append(f"rename {old} {new}")
        super().rename(old, new)

    def sync_directory(self) -> None:
        self.done.append("sync directory")
        super().sync_directory()


def test_an_origin_is_durable_before_it_has_its_name_and_the_name_before_anybody_is_told(tmp_path: Path) -> None:
    disk = Recorded(str(tmp_path))
    save_origin(disk, new_origin("n1"))
    assert disk.done == ["create origin.new", "sync", "rename origin.new origin", "sync directory"]


# ---- one member, with others that are told what to say


def alone(disk: OsDisk, ask: Callable[[str, Ask], Awaitable[Answer]], count: int = 2, **more: Any) -> FirstStart:
    origin = load_origin(disk) or new_origin("n1")
    save_origin(disk, origin)
    listed = tuple(Listed(f"n{number + 1}", f"10.0.0.{number + 1}:7001") for number in range(count))
    return FirstStart(disk, Own(origin, listed, **more), ask, Random(1))


async def nobody(address: str, ask: Ask) -> Answer:
    raise PeerError(Ending(End.LOST, "Connection refused"))


def test_a_single_member_begins_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        disk = OsDisk(str(tmp_path))
        start = alone(disk, nobody, count=1)
        begin = await start.run()
        saved = load_origin(disk)
        assert saved is not None
        assert (saved.cluster_id, saved.begun) == (begin.origin.cluster_id, False)  # its log is still to be made
        assert begin.membership().voters == (begin.origin.node_id,)
        await start.begin(begin)
        assert load_origin(disk) == begin.origin
        assert begin.origin.begun
        again = alone(disk, nobody, count=3)  # the file's list is of no interest any more
        assert await again.run() == begin

    run(test)


def test_who_waits_says_once_for_whom_and_why(tmp_path: Path) -> None:
    async def test() -> None:
        asked = 0

        async def ask(address: str, question: Ask) -> Answer:
            nonlocal asked
            asked += 1
            return await nobody(address, question)

        start = alone(OsDisk(str(tmp_path)), ask)
        with capture_logs() as logged:
            task = asyncio.get_running_loop().create_task(start.run())
            while asked < 6:
                await asyncio.sleep(0)
            task.cancel()
        assert [entry["event"] for entry in logged] == ["member.start_delayed"]
        assert "for n2: at the first start all listed members" in logged[0]["reason"]
        assert logged[0]["unreached"] == "n2: Connection refused"

    run(test)


def test_a_lone_joiner_waits_without_turning(tmp_path: Path) -> None:
    async def test() -> None:
        start = alone(OsDisk(str(tmp_path)), nobody, count=1, join=True)
        with capture_logs(), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await start.run()

    run(test)


def test_a_newcomer_s_question_ends_the_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(first_start, "_PAUSE_FIRST", 600.0)
        monkeypatch.setattr(first_start, "_PAUSE_MAX", 600.0)
        rounds = 0

        async def ask(address: str, question: Ask) -> Answer:
            nonlocal rounds
            rounds += 1
            return await nobody(address, question)

        start = alone(OsDisk(str(tmp_path)), ask)
        with capture_logs():
            task = asyncio.get_running_loop().create_task(start.run())
            for due in (1, 2, 3):
                while rounds < due:
                    await asyncio.sleep(0)
                for _ in range(10):  # the same one again is no news
                    start.answer(Ask("n2", bytes([due]) * 16))
                    await asyncio.sleep(0)
            task.cancel()
        assert rounds <= 4

    run(test)


def test_nobody_is_told_of_an_agreement_that_is_not_durable(tmp_path: Path) -> None:
    async def test() -> None:
        disk = OsDisk(str(tmp_path))
        listed = tuple(Listed(f"n{number}", f"10.0.0.{number}:7001") for number in (1, 2))
        told: list[int] = []

        class Full(OsDisk):
            def rename(self, old: str, new: str) -> None:
                told.append(start.answer(Ask("n2", bytes(16))).cluster_id)
                raise OSError(28, "No space left on device")

        async def ask(address: str, question: Ask) -> Answer:
            return Answer("n2", bytes(16), listed=listed)

        start = alone(disk, ask)
        start._disk = Full(str(tmp_path))
        with pytest.raises(OSError, match="No space"):
            await start.run()
        assert told == [0]
        saved = load_origin(disk)
        assert saved is not None
        assert saved.cluster_id == 0

    run(test)


# ---- several members


class Town:
    """Members that can be started, stopped and wiped, each with its folder and its address."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.places: dict[str, str] = {}
        for number in range(1, count + 1):
            self.settle(f"n{number}")
        self.listed = tuple(Listed(name, address) for name, address in self.places.items())
        self.peers: dict[str, Peers] = {}
        self.starts: dict[str, FirstStart] = {}
        self.tasks: dict[str, asyncio.Task[Begin]] = {}

    def settle(self, name: str) -> None:
        """Give a member an address."""
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.places[name] = f"127.0.0.1:{sock.getsockname()[1]}"

    def disk(self, name: str) -> OsDisk:
        return OsDisk(str(self.folder / name))

    def start(self, name: str, *, join: bool = False, security: Security = SECURITY) -> None:
        """From what its folder holds, as after any stop."""
        disk = self.disk(name)
        origin = load_origin(disk)
        if origin is None:
            origin = new_origin(name)
            save_origin(disk, origin)
        start: list[FirstStart] = []
        peers = Peers(
            PeerIdentity(origin.cluster_id, origin.node_id, origin.uuid, name),
            on_frame=lambda *_: None,
            on_ask=lambda ask: start[0].answer(ask),
            security=security,
            limits=LIMITS,
        )
        host, port = self.places[name].rsplit(":", 1)
        start.append(FirstStart(disk, Own(origin, self.listed, join), peers.ask, Random(1)))
        peers.start(socket.create_server((host, int(port))))
        self.peers[name], self.starts[name] = peers, start[0]
        self.tasks[name] = asyncio.get_running_loop().create_task(self._begin(start[0]))

    async def _begin(self, start: FirstStart) -> Begin:
        begin = await start.run()
        await start.begin(begin)
        return begin

    async def stop(self, *names: str) -> None:
        """At any moment, as a crash would."""
        for name in names:
            task = self.tasks.pop(name)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, StartRefusedError):
                await task
            await asyncio.to_thread(int)
            await self.peers.pop(name).close()
            self.starts.pop(name)

    def wipe(self, name: str) -> None:
        """It lost its disk."""
        for path in (self.folder / name).iterdir():
            path.unlink()

    async def all_begin(self, *names: str) -> list[Origin]:
        async with asyncio.timeout(DEADLINE):
            return [(await self.tasks[name]).origin for name in names]

    async def waits(self, name: str, rounds: int = 5) -> None:
        """It has asked everybody so many times and still waits."""
        start = self.starts[name]
        asked = 0
        ask_all = start._ask_all

        async def counted() -> None:
            nonlocal asked
            asked += 1
            await ask_all()

        start._ask_all = counted  # type: ignore[method-assign]
        async with asyncio.timeout(DEADLINE):
            while asked < rounds:
                assert not self.tasks[name].done()
                await asyncio.sleep(0)

    async def close(self) -> None:
        await self.stop(*list(self.tasks))


def in_town(tmp_path: Path, test: Callable[[Town], Awaitable[None]], count: int = 3) -> None:
    async def whole() -> None:
        town = Town(tmp_path, count)
        try:
            with capture_logs():
                await test(town)
        finally:
            await town.close()

    run(whole)


def test_three_members_that_start_at_different_times_found_one_cluster(tmp_path: Path) -> None:
    async def test(town: Town) -> None:
        town.start("n1")
        await town.waits("n1")
        town.start("n2")
        await town.waits("n2")
        town.start("n3")
        origins = await town.all_begin("n1", "n2", "n3")
        assert len({origin.cluster_id for origin in origins}) == 1
        assert len({origin.node_id for origin in origins}) == 3
        memberships = {Begin(origin).membership() for origin in origins}
        assert len(memberships) == 1
        (membership,) = memberships
        assert {(member.name, member.address) for member in decode_members(membership.context)} == set(
            town.places.items()
        )

    in_town(tmp_path, test)


@pytest.mark.parametrize("seed", range(6))
def test_members_that_crash_and_come_back_while_they_found_it_found_one_cluster(tmp_path: Path, seed: int) -> None:
    async def test(town: Town) -> None:
        rng = Random(seed)
        for _ in range(25):
            name = rng.choice(["n1", "n2", "n3"])
            if name in town.tasks:
                await town.stop(name)
            else:
                town.start(name)
            for _ in range(rng.randrange(30)):
                await asyncio.sleep(0.0002)
        for name in ("n1", "n2", "n3"):
            if name not in town.tasks:
                town.start(name)
        origins = await town.all_begin("n1", "n2", "n3")
        assert len({origin.cluster_id for origin in origins}) == 1

    in_town(tmp_path, test)


@pytest.mark.parametrize("reached", ["nobody", "n2", "n3", "n2 n3"])
def test_a_wiped_voter_stays_out_whoever_it_reaches(tmp_path: Path, reached: str) -> None:
    async def test(town: Town) -> None:
        for name in town.places:
            town.start(name)
        await town.all_begin(*town.places)
        await town.stop("n1")
        town.wipe("n1")
        others = [name for name in ("n2", "n3") if name not in reached]
        await town.stop(*others)
        town.start("n1")
        if reached == "nobody":
            await town.waits("n1")
        else:
            with pytest.raises(StartRefusedError) as refused:
                await town.all_begin("n1")
            assert refused.value.exit_code == EXIT_SUSPECT
            assert "balancer cluster members remove n1" in str(refused.value)
            assert f"balancer cluster members add http://{town.places['n1']}" in str(refused.value)
        saved = load_origin(town.disk("n1"))
        assert saved is not None
        assert saved.cluster_id == 0

    in_town(tmp_path, test)


def test_two_wiped_voters_of_three_wait_for_the_third_and_then_stay_out(tmp_path: Path) -> None:
    async def test(town: Town) -> None:
        for name in town.places:
            town.start(name)
        await town.all_begin(*town.places)
        await town.stop("n1", "n2", "n3")
        for name in ("n1", "n2"):
            town.wipe(name)
            town.start(name)
        await town.waits("n1")
        await town.waits("n2")
        town.start("n3")
        for name in ("n1", "n2"):
            with pytest.raises(StartRefusedError, match="remove"):
                await town.all_begin(name)

    in_town(tmp_path, test)


def test_a_member_that_was_away_when_the_others_began_begins_with_them(tmp_path: Path) -> None:
    async def test(town: Town) -> None:
        for name in town.places:
            town.start(name)
        first = await town.all_begin(*town.places)
        await town.stop("n3")
        origin = load_origin(town.disk("n3"))
        assert origin is not None
        save_origin(town.disk("n3"), msgspec.structs.replace(origin, begun=False))
        town.start("n3")
        assert await town.all_begin("n3") == first[2:]

    in_town(tmp_path, test)


def test_a_joiner_waits_until_it_is_added(tmp_path: Path) -> None:
    async def test(town: Town) -> None:
        for name in town.places:
            town.start(name)
        founders = await town.all_begin(*town.places)
        town.settle("n4")
        town.start("n4", join=True)
        await town.waits("n4")
        # What `members add` does at a running member: ask at the address, and put what answers into the membership.
        answer = await town.peers["n1"].ask(town.places["n4"], Ask("n1", founders[0].uuid))
        member = admitted(answer, "n4", town.places["n4"], founders[0].cluster_id)
        members = (*founders[0].members, member)
        town.peers["n1"].on_ask = lambda _: answer_of(town.starts["n1"].own, members)
        (joined,) = await town.all_begin("n4")
        assert (joined.cluster_id, joined.node_id, joined.joined) == (founders[0].cluster_id, member.node_id, True)
        assert Begin(joined).membership().voters == ()
        await town.stop("n4")
        town.start("n4", join=True)
        assert await town.all_begin("n4") == [joined]

    in_town(tmp_path, test)


def test_members_with_other_secrets_wait_and_say_so(tmp_path: Path) -> None:
    async def test(town: Town) -> None:
        town.start("n1")
        town.start("n2", security=Security(b"another long secret"))
        await town.waits("n1")
        assert town.starts["n1"]._unreached["n2"] == "the peer secrets of n1 and n2 differ"

    in_town(tmp_path, test, count=2)
