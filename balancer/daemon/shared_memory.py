"""The numbers that all workers see: which areas the shared memory has, and who may write which cell.

Law: one writer per cell. A row belongs to a worker slot (only its worker writes it, and the supervisor once that
worker is dead); a column belongs to a listener or to a backend slot. Cells are aligned int64, so a reader sees
each whole; rows start on cache lines of their own, so that workers do not slow each other.
"""

import os
from collections.abc import Iterable, MutableSequence, Sequence
from enum import IntEnum
from typing import cast

from balancer.balancing.backend import LoadTable
from balancer.errors import BalancerError
from balancer.transport import memfd

CELL = 8
_LINE = 64  # bytes of a cache line
CONNECTION_COLUMNS = 256  # column 0 counts all client connections, column i+1 those of the i-th listener
BACKEND_COLUMNS_MIN = 1024  # reloads may add backends to a small file without a new memory


class Area(IntEnum):
    """The tables, in the order in which they lie in the memory."""

    CONNECTIONS = 0
    IN_FLIGHT = 1
    STARTED = 2
    FAILED = 3
    RETRY_TOKENS = 4
    ACCEPTING = 5  # written by the supervisor alone: 1 in a row whose worker accepts connections
    GIVEN = 6  # connections handed to the worker of each column so far (transport.handover)
    TAKEN = 7  # ... and taken from it; both go on counting for a slot's next worker, as its inbox goes on


_KEPT = (Area.GIVEN, Area.TAKEN)


class SharedMemory:
    """`rows` worker slots in every area. Made by the supervisor with `create`, seen by children with the same sizes.

    The memory is sparse: areas and columns that nobody touches cost no pages.
    """

    def __init__(self, fd: int, *, rows: int, backend_columns: int) -> None:
        self.fd = fd
        self.rows = rows
        self.backend_columns = backend_columns
        self._cells = memoryview(memfd.attach(fd)).cast("q")
        self._starts: dict[Area, int] = {}
        self._strides: dict[Area, int] = {}
        at = 0
        for area in Area:
            self._starts[area] = at
            self._strides[area] = _stride(area, rows, backend_columns)
            at += self._strides[area] * rows
        if at > len(self._cells):
            raise ValueError(f"the shared memory has {len(self._cells)} cells where {at} are due")

    @classmethod
    def create(cls, *, rows: int, backends: int) -> "SharedMemory":
        """New memory for `rows` workers and twice the `backends` of the file, at least 1024."""
        columns = max(BACKEND_COLUMNS_MIN, 2 * backends)
        size = sum(_stride(area, rows, columns) for area in Area) * rows * CELL
        return cls(memfd.create("balancer", size), rows=rows, backend_columns=columns)

    def row(self, area: Area, row: int) -> memoryview:
        """The cells of one row as int64."""
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        start = self._starts[area] + row * self._strides[area]
        return self._cells[start : start + self._columns(area)]

    def table(self, area: Area, own: int) -> LoadTable:
        """The area as the worker of row `own` uses it: its own row to write, all other rows to read."""
        return LoadTable(self.writable(area, own), [self.row(area, row) for row in range(self.rows) if row != own])

    def writable(self, area: Area, row: int) -> MutableSequence[int]:
        """A row to write: a memoryview of int64 is all that is needed, though it is not registered as such."""
        return cast("MutableSequence[int]", self.row(area, row))

    def every_row(self, area: Area) -> list[MutableSequence[int]]:
        """All rows of an area, by worker."""
        return [self.writable(area, row) for row in range(self.rows)]

    def total(self, area: Area, column: int) -> int:
        """The sum of a column. O(rows)."""
        return sum(self.row(area, row)[column] for row in range(self.rows))

    def clear_row(self, row: int) -> None:
        """Zero a dead worker's row, but what counts on. Only when its process is reaped: nobody else writes it then."""
        for area in Area:
            if area in _KEPT:
                continue
            cells = self.row(area, row)
            cells[:] = memoryview(bytes(len(cells) * CELL)).cast("q")

    def close(self) -> None:
        """Close the descriptor; the mapping lives until the process ends."""
        os.close(self.fd)

    def _columns(self, area: Area) -> int:
        return _columns(area, self.rows, self.backend_columns)


def _columns(area: Area, rows: int, backend_columns: int) -> int:
    if area is Area.CONNECTIONS:
        return CONNECTION_COLUMNS
    if area is Area.ACCEPTING:
        return 1
    return rows if area in _KEPT else backend_columns


def _stride(area: Area, rows: int, backend_columns: int) -> int:
    per_line = _LINE // CELL
    return -(-_columns(area, rows, backend_columns) // per_line) * per_line


Identity = tuple[str, str, tuple[str, int, str]]  # pool, backend name, address


class SlotsExhaustedError(BalancerError):
    """More different backends are in use at once than the shared memory has columns for."""


class SlotAllocator:
    """Which backend has which column. Pure: generations come and go, a column is never two backends' at once.

    A backend keeps its column while any generation that knows it is alive; only then is the column free again.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._slots: dict[Identity, int] = {}
        self._users: dict[Identity, int] = {}  # how many living generations know it
        self._generations: dict[int, tuple[Identity, ...]] = {}
        self._free: list[int] = []
        self._next = 0

    def take(self, generation: int, identities: Iterable[Identity]) -> list[int]:
        """The slots for a generation's backends, in their order. Raises SlotsExhaustedError and then takes nothing."""
        wanted = list(identities)
        if generation in self._generations:
            raise ValueError(f"generation {generation} has its slots already")
        new = [identity for identity in dict.fromkeys(wanted) if identity not in self._slots]
        left = self._capacity - self._next + len(self._free)
        if len(new) > left:
            raise SlotsExhaustedError(
                f"{len(new)} new backends, but only {left} of {self._capacity} slots are free;"
                " restart to raise the number"
            )
        for identity in new:
            self._slots[identity] = self._free.pop() if self._free else self._claim()
        distinct = tuple(dict.fromkeys(wanted))
        for identity in distinct:
            self._users[identity] = self._users.get(identity, 0) + 1
        self._generations[generation] = distinct
        return [self._slots[identity] for identity in wanted]

    def release(self, generation: int) -> list[int]:
        """No worker uses this generation any more. Returns the slots that became free. O(its backends)."""
        freed = []
        for identity in self._generations.pop(generation):
            self._users[identity] -= 1
            if not self._users[identity]:
                del self._users[identity]
                freed.append(self._slots.pop(identity))
        self._free.extend(freed)
        return freed

    def living(self) -> Sequence[int]:
        """The generations that hold slots."""
        return list(self._generations)

    def _claim(self) -> int:
        self._next += 1
        return self._next - 1
