"""A machine that loses power before any operation of the disk, a disk that fails at any: nothing synced is lost."""

import errno
from collections import Counter
from random import Random

import pytest

from balancer.consensus.storage import Storage
from balancer.consensus.storage_errors import CorruptError, StorageFailedError
from balancer.consensus.suspect import is_suspect
from tests.support.simulated_disk import PowerLoss, SimulatedDisk
from tests.support.storage_workload import FIRST, SEGMENT, WHO, Expected, Workload, check_crashed, reopen


def begin(seed: int) -> tuple[SimulatedDisk, Workload, Random]:
    """A member with an empty log, what it will do, and another source of chance for what goes wrong."""
    disk = SimulatedDisk()
    disk.seed(seed)
    storage = Storage.create(disk, WHO, FIRST, segment_bytes=SEGMENT)
    return disk, Workload(Random(seed), storage, Expected()), Random(-seed - 1)


def restart(disk: SimulatedDisk, workload: Workload) -> None:
    """Open what the disk has and go on with it."""
    workload.storage, recovered = reopen(disk)
    workload.expected.restart(workload.expected.check(recovered), recovered)


def crash_before_operations(seed: int, share: float) -> int:
    """Run a workload through two crashes; before a share of the disk's operations a copy of it crashes and is read."""
    disk, workload, rng = begin(seed)
    checked = 0

    def watch() -> None:
        nonlocal checked
        if rng.random() < share:
            checked += 1
            check_crashed(disk, workload.expected, rng)

    disk.watch = watch
    for _ in range(3):
        for _ in range(rng.randint(5, 40)):
            workload.step()
        disk.crash(rng)
        restart(disk, workload)
    return checked


def test_whatever_operation_a_crash_comes_before_nothing_synced_is_missing() -> None:
    assert sum(crash_before_operations(seed, 1.0) for seed in range(8)) > 8 * 50


def test_in_hundreds_of_histories_a_crash_at_some_operation_loses_nothing_synced() -> None:
    assert sum(crash_before_operations(seed, 0.04) for seed in range(100, 300)) > 200 * 4


@pytest.mark.full
@pytest.mark.timeout(0)
def test_in_thousands_of_histories_whatever_operation_a_crash_comes_before_nothing_synced_is_missing() -> None:
    assert sum(crash_before_operations(seed, 1.0) for seed in range(1000, 4000)) > 3000 * 50


def fail_at(seed: int, number: int, code: int) -> bool:
    """Whether the run's operation with this number exists; it fails, the member stops and starts again."""
    disk, workload, rng = begin(seed)
    disk.fail("any", after=number, code=code)
    failed = False
    for _ in range(30):
        try:
            workload.step()
        except StorageFailedError:
            failed = True
            with pytest.raises(StorageFailedError):
                workload.storage.sync()
            break
    if not failed:
        return False
    disk.heal()
    if rng.random() < 0.5:
        disk.kill()  # the page cache stays, and has more than the device
    else:
        disk.crash(rng)
    restart(disk, workload)
    assert not is_suspect(disk)
    durable = disk.copy()
    durable.crash(rng, tearing="lose")
    workload.expected.check(reopen(durable)[1])
    for _ in range(10):
        workload.step()
    disk.crash(rng)
    restart(disk, workload)
    return True


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_whatever_operation_fails_the_member_stops_and_starts_again_with_all_that_was_synced(code: int) -> None:
    for seed in range(3):
        number = 0
        while fail_at(seed, number, code):
            number += 1
        assert number > 20


def test_a_start_that_fails_at_any_operation_can_be_repeated() -> None:
    for seed in range(15):
        disk, workload, rng = begin(seed)
        for _ in range(30):
            workload.step()
        disk.crash(rng)
        for failed in range(40):
            twin = disk.copy()
            twin.seed(seed)
            twin.fail("any", after=failed)
            try:
                _, recovered = reopen(twin)
            except StorageFailedError:
                twin.heal()
                twin.kill()
                _, recovered = reopen(twin)
                assert not is_suspect(twin)
                workload.expected.check(recovered)
            else:
                break
        assert failed > 4


def test_a_start_that_removes_a_long_torn_write_is_interrupted_at_any_operation() -> None:
    """What is left of it must not be taken for damage: it is removed, durably, before anything is written."""
    interrupted = 0
    for seed in range(12):
        disk, workload, rng = begin(seed)
        workload.step()
        for _ in range(6):
            workload.append_entries(sizes=(1500, 1200))
        workload.storage.wal.flush()
        disk.crash(rng, tearing="some")
        for number in range(12):
            for _ in range(4):
                twin = disk.copy()
                twin.crash_at(number)
                try:
                    reopen(twin)
                except PowerLoss:
                    interrupted += 1
                twin.crash(rng, tearing="some")
                workload.expected.check(reopen(twin)[1])
    assert interrupted > 12 * 12


def test_power_that_goes_off_in_the_middle_of_an_operation_loses_nothing_synced() -> None:
    """The operation itself is done in part; `crash_before_operations` only sees those that are complete."""
    for seed in range(300):
        disk, workload, rng = begin(seed)
        disk.crash_at(disk.operations + rng.randrange(60))
        with pytest.raises(PowerLoss):
            for _ in range(500):
                workload.step()
        disk.crash(rng)
        restart(disk, workload)


def test_a_process_that_dies_at_any_operation_leaves_names_that_the_next_one_makes_durable() -> None:
    """What the next process sees in the page cache and in the directory need not be on the device yet."""
    died = 0
    for seed in range(4):
        for number in range(7, 70):
            disk, workload, rng = begin(seed)
            disk.crash_at(number)
            try:
                for _ in range(30):
                    workload.step()
            except PowerLoss:
                died += 1
            disk.heal()
            disk.kill()
            restart(disk, workload)
            for _ in range(3):
                workload.append_entries()
            workload.storage.sync()
            workload.expected.synced()
            disk.crash(rng, tearing="lose")
            restart(disk, workload)
    assert died > 150


def test_a_device_that_leaves_noise_in_unfinished_sectors_makes_a_member_refuse_at_worst() -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(300):
        disk, workload, rng = begin(seed)
        for _ in range(rng.randint(5, 30)):
            workload.step()
        workload.storage.wal.flush()
        disk.crash(rng, garble=0.5)
        try:
            _, recovered = reopen(disk)
        except CorruptError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
            workload.expected.check(recovered)
    assert outcomes["refused"] > 20
    assert outcomes["read"] > 150


def test_a_term_never_goes_back_and_has_one_vote_over_any_number_of_starts() -> None:
    for seed in range(20):
        disk, workload, rng = begin(seed)
        votes: dict[int, int] = {}
        latest = 0
        for _ in range(12):
            for _ in range(rng.randrange(12)):
                workload.step()
                state = workload.expected.states[workload.expected.durable]  # what it may tell others
                assert state.term >= latest
                latest = state.term
                if state.vote:
                    assert votes.setdefault(state.term, state.vote) == state.vote
            disk.crash(rng)
            restart(disk, workload)
            assert workload.expected.state.term >= latest


@pytest.mark.parametrize("end", ["crash", "kill"])
def test_making_a_directory_is_interrupted_at_any_operation_and_made_again(end: str) -> None:
    for number in range(30):
        for seed in range(5):
            disk = SimulatedDisk()
            disk.crash_at(number)
            try:
                Storage.create(disk, WHO, FIRST, segment_bytes=SEGMENT)
            except PowerLoss:
                made = False
            else:
                made = True
            disk.heal()
            disk.crash(Random(seed)) if end == "crash" else disk.kill()
            opened = Storage.open(disk, segment_bytes=SEGMENT)
            if opened is None:
                assert not made
                Storage.create(disk, WHO, FIRST, segment_bytes=SEGMENT)
                disk.kill()
                opened = Storage.open(disk, segment_bytes=SEGMENT)
            assert opened is not None
            assert opened[1].mark == FIRST
    assert made
