"""The numbers that all workers see: which areas the shared memory has, and who may write which cell.

Law: one writer per cell. A row belongs to a worker slot (only its worker writes it, and the supervisor once that
worker is dead); a column belongs to a listener or to a backend slot. Cells are aligned int64, so a reader sees
each whole; rows start on cache lines of their own, so that workers do not slow each other.
"""

import os
from collections.abc import Callable, Hashable, Iterable, MutableSequence, Sequence
from enum import IntEnum
from typing import Generic, TypeVar, cast

from balancer.balancing.backend import LoadTable
from balancer.errors import BalancerError
from balancer.transport import memfd

CELL = 8
_LINE = 64  # bytes of a cache line
CONNECTION_COLUMNS = 256  # column 0 counts all client connections, the others those of one listener each
ROWS_MIN = 16  # reloads may raise the number of workers so far without a new memory
BACKEND_COLUMNS_MIN = 1024  # reloads may add backends to a small file without a new memory
REGISTERED_MAX = 1000  # backends that register themselves in one pool, each with a column from the start


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
    OLDEST = 8  # the oldest generation of which the worker uses something; 0 = it has none yet


_KEPT = (Area.GIVEN, Area.TAKEN)
_SINGLE = (Area.ACCEPTING, Area.OLDEST)


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
        self._all_rows = {area: [self.row(area, row) for row in range(rows)] for area in Area}

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

    def table(self, area: Area, own: int, rows: Iterable[int] | None = None) -> LoadTable:
        """The area as the worker of row `own` uses it: its own row to write, the other `rows` (all) to read."""
        return LoadTable(self.writable(area, own), self.others(area, own, rows))

    def others(self, area: Area, own: int, rows: Iterable[int] | None = None) -> list[memoryview]:
        """These rows (all) of an area, without `own`."""
        return [self._all_rows[area][row] for row in (range(self.rows) if rows is None else rows) if row != own]

    def writable(self, area: Area, row: int) -> MutableSequence[int]:
        """A row to write: a memoryview of int64 is all that is needed, though it is not registered as such."""
        return cast("MutableSequence[int]", self.row(area, row))

    def every_row(self, area: Area) -> list[MutableSequence[int]]:
        """All rows of an area, by worker."""
        return [self.writable(area, row) for row in range(self.rows)]

    def total(self, area: Area, column: int) -> int:
        """The sum of a column. O(rows)."""
        return sum([row[column] for row in self._all_rows[area]])

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
    if area in _SINGLE:
        return 1
    return rows if area in _KEPT else backend_columns


def _stride(area: Area, rows: int, backend_columns: int) -> int:
    per_line = _LINE // CELL
    return -(-_columns(area, rows, backend_columns) // per_line) * per_line


Identity = tuple[str, str, tuple[str, int, str]]  # pool, backend name, address


class SlotsExhaustedError(BalancerError):
    """More different backends or listeners are in use at once than the shared memory has columns for."""


K = TypeVar("K", bound=Hashable)


class _Held(Generic[K]):
    """A name that has a number, and how many living generations know it."""

    __slots__ = ("name", "number", "users")

    def __init__(self, name: K, number: int) -> None:
        self.name = name
        self.number = number
        self.users = 0


class Allocator(Generic[K]):
    """Who has which number below `capacity`. Pure: generations come and go, a number is never two names' at once.

    A name keeps its number while any generation that knows it is alive, and then until its number is not busy.
    """

    def __init__(self, capacity: int, what: str = "backends") -> None:
        self.capacity = capacity
        self._what = what
        self._held: dict[K, _Held[K]] = {}
        self._leaving: dict[int, _Held[K]] = {}  # by number: those that no generation knows
        self._generations: dict[int, list[_Held[K]]] = {}
        self._free: list[int] = []
        self._next = 0

    def take(self, generation: int, names: Iterable[K]) -> list[int]:
        """The numbers for a generation's names, in their order. Raises SlotsExhaustedError and then takes nothing."""
        if generation in self._generations:
            raise ValueError(f"generation {generation} has its slots already")
        wanted = list(names)
        new = dict.fromkeys(name for name in wanted if name not in self._held)
        if len(new) > self.left:
            raise SlotsExhaustedError(
                f"{len(new)} new {self._what}, but only {self.left} of {self.capacity} slots are free;"
                " restart to raise the number"
            )
        for name in new:
            self._held[name] = _Held(name, self._free.pop() if self._free else self._claim())
        known = [self._held[name] for name in wanted]
        distinct = self._generations[generation] = list(dict.fromkeys(known))
        for held in distinct:
            held.users += 1
            if held.users == 1:
                self._leaving.pop(held.number, None)
        return [held.number for held in known]

    @property
    def left(self) -> int:
        """Numbers that are nobody's."""
        return self.capacity - self._next + len(self._free)

    def new(self, names: Iterable[K]) -> int:
        """How many of these names have no number."""
        return sum(name not in self._held for name in names)

    def release(self, generation: int, busy: Callable[[int], bool] = lambda _: False) -> list[int]:
        """Nobody uses this generation any more. Returns the numbers that became free. O(its names)."""
        for held in self._generations.pop(generation):
            held.users -= 1
            if not held.users:
                self._leaving[held.number] = held
        return self.sweep(busy)

    def sweep(self, busy: Callable[[int], bool]) -> list[int]:
        """Free the numbers that no generation knows and that are not `busy`; returns them. O(those that wait)."""
        gone = [held for number, held in self._leaving.items() if not busy(number)]
        freed = [held.number for held in gone]
        for held in gone:
            del self._leaving[held.number]
            del self._held[held.name]
        self._free.extend(freed)
        return freed

    def living(self) -> Sequence[int]:
        """The generations that hold numbers."""
        return list(self._generations)

    def names(self) -> Sequence[K]:
        """Every name that has a number."""
        return list(self._held)

    def settled(self) -> bool:
        """Whether one generation alone has all the numbers."""
        return len(self._generations) < 2 and not self._leaving

    def _claim(self) -> int:
        self._next += 1
        return self._next - 1


SlotAllocator = Allocator[Identity]
"""Which backend has which column of the areas that are by backend."""
