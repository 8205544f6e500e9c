"""A change of the file counts once, and only when it has settled."""

import asyncio
import os
from pathlib import Path

import pytest

from balancer.daemon import watch
from balancer.daemon.watch import Look, Watch, look


def at(number: int) -> Look:
    return (number, 0, 0), (number, 0, 0)


class Told:
    def __init__(self, first: Look) -> None:
        self.times = 0
        self.watch = Watch("", self.changed, lambda: True)
        self.watch.known(first)

    def changed(self) -> None:
        self.times += 1

    def after(self, *looks: Look) -> int:
        for each in looks:
            self.watch.seen(each)
        return self.times


def test_a_change_counts_when_a_further_look_finds_the_same() -> None:
    told = Told(at(1))
    assert told.after(at(1), at(1)) == 0
    assert told.after(at(2)) == 0
    assert told.after(at(2)) == 1
    assert told.after(at(2), at(2)) == 1


def test_while_it_is_being_written_it_does_not_count() -> None:
    told = Told(at(1))
    assert told.after(at(2), at(3), at(4), at(5)) == 0
    assert told.after(at(5)) == 1


def test_a_file_that_is_away_for_a_moment_counts_when_it_is_back_and_differs() -> None:
    told = Told(at(1))
    assert told.after(None, None, None) == 0
    assert told.after(at(1), at(1)) == 0, "the very same file"
    assert told.after(None, at(2), at(2)) == 1


def test_what_was_changed_and_changed_back_before_it_settled_is_no_change() -> None:
    told = Told(at(1))
    assert told.after(at(2), at(1), at(1)) == 0


def test_every_way_to_change_a_file_changes_the_look(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert look(str(path)) is None
    path.write_text("a")
    first = look(str(path))
    os.utime(path, ns=(0, 1))
    touched = look(str(path))
    (tmp_path / "g").write_text("a")
    os.utime(tmp_path / "g", ns=(0, 1))
    (tmp_path / "g").rename(path)
    replaced = look(str(path))
    path.write_text("ab")
    longer = look(str(path))
    assert len({first, touched, replaced, longer}) == 4


def test_a_link_two_folders_up_that_is_swapped_changes_the_look(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text("a")
        os.utime(tmp_path / name / "f", ns=(0, 1))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "f").symlink_to("..data/f")
    before = look(str(tmp_path / "f"))
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert look(str(tmp_path / "f")) != before
    (tmp_path / "..data").unlink()
    assert look(str(tmp_path / "f")) is None, "it leads nowhere"


def test_what_happened_while_nobody_wanted_to_know_is_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "EVERY", 0.001)
    path = tmp_path / "f"
    path.write_text("a")
    times = 0
    wanted = True

    def changed() -> None:
        nonlocal times
        times += 1

    async def until(holds: int) -> None:
        async with asyncio.timeout(10):
            while times < holds:
                await asyncio.sleep(0.001)

    async def work() -> None:
        nonlocal wanted
        each = Watch(str(path), changed, lambda: wanted)
        running = asyncio.ensure_future(each.run())
        await asyncio.sleep(0.1)
        path.write_text("ab")
        await until(1)
        wanted = False
        await asyncio.sleep(0.05)
        path.write_text("abc")
        await asyncio.sleep(0.05)
        wanted = True
        await asyncio.sleep(0.1)
        assert times == 1
        path.write_text("abcd")
        await until(2)
        running.cancel()

    asyncio.run(work())
