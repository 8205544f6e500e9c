"""Bugs that other systems had, where no other test says the law alone; the numbers are those of tests/mutation."""

import ast
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from balancer.consensus.bootstrap import decode_members
from balancer.consensus.peer_frames import FrameError, decode_frame
from balancer.consensus.peer_hello import Handshake, HelloError, PeerIdentity
from balancer.consensus.wal import Wal
from balancer.consensus.wal_record import Identity
from balancer.coordination.command import decode
from balancer.coordination.errors import CoordinationError
from balancer.coordination.snapshot import Reader, SnapshotError
from balancer.raft.log_entry import Entry, HardState
from balancer.raft.membership import decode as decode_membership
from balancer.raft.refusals import SafetyBrokenError
from tests.support.simulated_disk import SimulatedDisk

# 12: a commit index on the disk that is newer than the log, so that the member does not start (PySyncObj 197).


@pytest.mark.parametrize("seed", range(40))
def test_bug_12_whatever_a_crash_leaves_the_commit_index_counts_entries_that_are_there(seed: int) -> None:
    """A follower that catches up: what it is sent was committed long ago."""
    disk, rng = SimulatedDisk(), Random(seed)
    disk.seed(seed)
    log = Wal.create(disk, Identity(1, 2, bytes(16)), segment_bytes=16_384)
    last = 0
    for _ in range(rng.randrange(1, 6)):
        entries = [Entry(index, 1, data=bytes(200)) for index in range(last + 1, last + rng.randrange(2, 6))]
        last = entries[-1].index
        log.append(HardState(1, 0, last), entries)
        log.flush()
    disk.crash(rng)
    _, recovered = Wal.open(disk)
    assert recovered.hard_state.commit <= len(recovered.entries) <= last


# 22: pickles on the wire, so that whoever reaches the port runs code (PySyncObj).

OWN = PeerIdentity(1, 2, bytes(16), "n2")
READERS: dict[str, Callable[[bytes], object]] = {
    "frame": decode_frame,
    "handshake": lambda data: Handshake(OWN, bytes(32)).take(data),
    "command": decode,
    "membership": decode_membership,
    "members": decode_members,
    "snapshot": lambda data: Reader().feed(data),
}


class Bomb:
    """Whoever reads its pickle makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_bug_22_a_pickle_on_the_wire_is_refused_and_runs_nothing(
    read: Callable[[bytes], object], protocol: int, tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    data = pickle.dumps(Bomb(folder), protocol)
    with pytest.raises(
        (FrameError, HelloError, CoordinationError, SafetyBrokenError, SnapshotError, msgspec.MsgspecError)
    ):
        read(data)
    assert not folder.exists()
    pickle.loads(data)
    assert folder.exists()  # it was one


RUNS_CODE = {
    "pickle",
    "_pickle",
    "marshal",
    "shelve",
    "copyreg",
    "dill",
    "cloudpickle",
    "jsonpickle",
    "multiprocessing",
}


def readers_of_code(source: str) -> list[str]:
    """Imports of modules that make objects of any kind from bytes, and calls of what runs a text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [each.name for each in names if each.name.partition(".")[0] in RUNS_CODE]
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in RUNS_CODE:
                found.append(module)
            case ast.Call(func=ast.Name(id="eval" | "exec" | "__import__" as name)):
                found.append(name)
    return found


def test_bug_22_nothing_here_can_read_a_pickle(project: Path) -> None:
    sources = sorted((project / "balancer").rglob("*.py"))
    assert [path for path in sources if path.parent.name == "consensus"]
    assert {str(path): found for path in sources if (found := readers_of_code(path.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "import multiprocessing.connection", "eval(text)", "exec(text)"],
)
def test_what_could_read_one_is_found(source: str) -> None:
    assert readers_of_code(source)
