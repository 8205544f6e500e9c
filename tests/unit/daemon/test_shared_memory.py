"""Shared rows: the same cells for all who hold the descriptor; slots that are never two backends' at once."""

import os
import random
import subprocess
import sys

import pytest

from balancer.daemon.shared_memory import (
    BACKEND_COLUMNS_MIN,
    CONNECTION_COLUMNS,
    Area,
    Identity,
    SharedMemory,
    SlotAllocator,
    SlotsExhaustedError,
)


def identity(number: int) -> Identity:
    return ("pool", f"backend{number}", ("127.0.0.1", number, ""))


def test_every_cell_is_a_cell_of_its_own() -> None:
    memory = SharedMemory.create(rows=3, backends=1)
    cells = [
        (area, row, column)
        for area in Area
        for row in range(3)
        for column in {0, 1, len(memory.row(area, row)) // 2, len(memory.row(area, row)) - 1}
        if column < len(memory.row(area, row))
    ]
    for number, (area, row, column) in enumerate(cells, start=1):
        assert memory.row(area, row)[column] == 0
        memory.row(area, row)[column] = number
    assert [memory.row(area, row)[column] for area, row, column in cells] == list(range(1, len(cells) + 1))
    memory.close()


def test_areas_have_room_for_what_a_reload_may_add() -> None:
    memory = SharedMemory.create(rows=1, backends=3)
    assert len(memory.row(Area.IN_FLIGHT, 0)) == BACKEND_COLUMNS_MIN
    assert len(memory.row(Area.CONNECTIONS, 0)) == CONNECTION_COLUMNS
    memory.close()
    large = SharedMemory.create(rows=1, backends=5000)
    assert len(large.row(Area.IN_FLIGHT, 0)) == 10_000
    large.close()


def test_another_process_sees_what_is_written_and_its_death_takes_nothing_along() -> None:
    memory = SharedMemory.create(rows=2, backends=1)
    memory.row(Area.IN_FLIGHT, 0)[7] = 41
    script = (
        "import os, sys, signal\n"
        "from balancer.daemon.shared_memory import *\n"
        f"memory = SharedMemory({memory.fd}, rows=2, backend_columns={memory.backend_columns})\n"
        "memory.row(Area.IN_FLIGHT, 1)[7] = memory.row(Area.IN_FLIGHT, 0)[7] + 1\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], pass_fds=(memory.fd,), check=False, timeout=30)
    assert memory.row(Area.IN_FLIGHT, 1)[7] == 42
    assert memory.total(Area.IN_FLIGHT, 7) == 83
    again = SharedMemory(memory.fd, rows=2, backend_columns=memory.backend_columns)
    assert again.row(Area.IN_FLIGHT, 1)[7] == 42, "a third process would find it too"
    memory.close()


def test_a_worker_writes_its_row_and_reads_the_others() -> None:
    memory = SharedMemory.create(rows=3, backends=1)
    tables = [memory.table(Area.IN_FLIGHT, own) for own in range(3)]
    for number, table in enumerate(tables):
        table.own[5] += number + 1
    assert [table.total(5) for table in tables] == [6, 6, 6]
    memory.close()


def test_a_dead_workers_row_is_zeroed_and_no_other() -> None:
    memory = SharedMemory.create(rows=3, backends=1)
    kept = {Area.GIVEN, Area.TAKEN}
    for area in Area:
        for row in range(3):
            cells = memory.row(area, row)
            cells[:] = memoryview(b"\1" * len(cells) * 8).cast("q")
    memory.clear_row(1)
    for area in Area:
        assert any(memory.row(area, 0))
        assert any(memory.row(area, 1)) == (area in kept), area
        assert all(memory.row(area, 2))
    memory.close()


def test_the_size_cannot_change_under_a_reader() -> None:
    memory = SharedMemory.create(rows=1, backends=1)
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 8)
    with pytest.raises(ValueError, match=r"where .* are due"):
        SharedMemory(memory.fd, rows=2, backend_columns=memory.backend_columns)
    with pytest.raises(IndexError):
        memory.row(Area.IN_FLIGHT, 1)
    memory.close()


# ---- slots


def test_a_backend_keeps_its_slot_as_long_as_some_generation_knows_it() -> None:
    slots = SlotAllocator(4)
    first = slots.take(1, [identity(1), identity(2)])
    second = slots.take(2, [identity(2), identity(3)])
    assert second[0] == first[1]
    assert slots.release(1) == [first[0]]
    assert slots.take(3, [identity(2), identity(3), identity(4)])[:2] == second
    assert slots.living() == [2, 3]


def test_a_slot_is_not_given_anew_before_every_generation_that_used_it_is_gone() -> None:
    slots = SlotAllocator(2)
    old = slots.take(1, [identity(1), identity(2)])
    with pytest.raises(SlotsExhaustedError, match="1 new backends, but only 0 of 2 slots are free"):
        slots.take(2, [identity(1), identity(3)])
    slots.take(2, [identity(1)])  # the refusal took nothing
    slots.release(1)
    assert slots.take(3, [identity(3)]) == [old[1]]


def test_two_entries_of_one_identity_share_a_slot() -> None:
    slots = SlotAllocator(4)
    assert len(set(slots.take(1, [identity(1), identity(1)]))) == 1
    assert len(slots.release(1)) == 1


def test_a_generation_takes_its_slots_once() -> None:
    slots = SlotAllocator(4)
    slots.take(1, [identity(1)])
    with pytest.raises(ValueError, match="has its slots already"):
        slots.take(1, [identity(2)])


@pytest.mark.parametrize("seed", range(20))
def test_living_backends_never_share_a_slot(seed: int) -> None:
    rng = random.Random(seed)
    slots = SlotAllocator(40)
    living: dict[int, dict[Identity, int]] = {}
    for generation in range(1, 200):
        wanted = [identity(number) for number in rng.sample(range(30), rng.randint(0, 15))]
        try:
            living[generation] = dict(zip(wanted, slots.take(generation, wanted), strict=True))
        except SlotsExhaustedError:
            distinct = {name for known in living.values() for name in known} | set(wanted)
            assert len(distinct) > 40 - 15
        while living and rng.random() < 0.6:
            gone = rng.choice(list(living))
            del living[gone]
            slots.release(gone)
        owners: dict[int, Identity] = {}
        for known in living.values():
            for name, slot in known.items():
                assert 0 <= slot < 40
                assert owners.setdefault(slot, name) == name


def test_a_number_that_is_busy_stays_its_names_until_it_is_not() -> None:
    slots = SlotAllocator(2)
    busy = {0}
    slots.take(1, [identity(1), identity(2)])
    slots.take(2, [identity(2)])
    assert slots.release(1, busy.__contains__) == []
    assert not slots.settled()
    assert identity(1) in slots.names()
    with pytest.raises(SlotsExhaustedError):
        slots.take(3, [identity(3)])
    assert slots.take(4, [identity(1)]) == [0], "its own again"
    slots.release(4, busy.__contains__)
    assert slots.sweep(busy.__contains__) == []
    busy.clear()
    assert slots.sweep(busy.__contains__) == [0]
    assert slots.settled()
    assert slots.names() == [identity(2)]
    assert slots.take(5, [identity(3)]) == [0]


def test_a_name_is_kept_once_however_many_generations_know_it() -> None:
    slots = SlotAllocator(4)
    for generation in range(1, 50):
        slots.take(generation, [identity(1)])
    held = [name for names in slots._generations.values() for name in names]
    assert len({id(name) for name in held}) == 1


def test_rows_of_workers_that_are_not_there_do_not_count() -> None:
    memory = SharedMemory.create(rows=4, backends=1)
    for row in range(4):
        memory.row(Area.IN_FLIGHT, row)[3] = 10**row
    table = memory.table(Area.IN_FLIGHT, 1, (0, 1))
    assert table.total(3) == 11
    table.others = memory.others(Area.IN_FLIGHT, 1, (0, 1, 3))
    assert table.total(3) == 1011
    assert memory.total(Area.IN_FLIGHT, 3) == 1111
    memory.close()
