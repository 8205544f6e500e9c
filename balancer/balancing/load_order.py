"""Backends ordered by load, so that the least loaded of thousands is found without looking at each.

Intuition: backends of one weight are ordered by count alone, so each weight has a heap of (count, when picked last),
and the least loaded of all is on top of one of them: a pick compares one backend per distinct weight, and looks
again at those heaps only where something changed.

A heap is corrected as late as it can be. An entry may promise less than is so, because its backend was picked or
took on load since: that is seen, and put right, when the entry comes to the top. An entry never promises more than
is so: when load falls, a new entry is filed and the old one no longer counts. A heap that is mostly old entries is
made anew, so each change costs O(log n) amortised.

Counts of other workers change without a word to us. They are read again in slices, as many per pick as the time
since the last pick demands. A slice of a row that has the same bytes as last time is done; so what it costs
depends on what changed. This worker's row is looked at as well: what ends under an older generation is
told to that generation's strategy only.
"""

from collections.abc import Callable, Collection, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from itertools import compress
from operator import itemgetter, ne

from balancer.balancing.backend import BackendState, LoadTable

SLICE = 64
"""Counts read at once. An unchanged slice costs some 0.2 us per worker, a changed one 4 us."""
OLD_ENTRIES_MIN = 64
"""Entries that no longer count and may always stay: making a small heap anew would cost more than they do."""

# (in flight, when picked last, place): the least loaded first, then the least recently picked.
Entry = tuple[int, int, int]
# The first of a weight: (load, when picked last, place).
Top = tuple[float, int, int]
# The counts of one row in one slice: the bytes of int64, or a list where the row is no memoryview.
Reading = bytes | list[int]


class _WeightClass:
    """The backends of one weight. `heap` holds one entry that counts for each of `places`, and old ones."""

    __slots__ = ("heap", "index", "places", "weight")

    def __init__(self, index: int, weight: int) -> None:
        self.index = index
        self.weight = weight
        self.places: list[int] = []
        self.heap: list[Entry] = []


class _Slice:
    """SLICE neighbours: how to read their counts, and what each row held last time.

    `own` and `others` are as read; `seen` are the other workers' counts as lists.
    """

    __slots__ = ("first", "others", "own", "read_others", "read_own", "seen", "size")

    def __init__(self, loads: LoadTable, first: int, slots: Sequence[int]) -> None:
        self.first = first
        self.size = len(slots)
        self.read_own = _reader(loads.own, slots)
        self.read_others = [_reader(row, slots) for row in loads.others]
        self.own: Reading = b""
        self.others: list[Reading] = [b"" for _ in loads.others]
        self.seen = [[0] * len(slots) for _ in loads.others]


class LoadOrder:
    """The eligible backends of a pool by (in flight / weight, least recently picked).

    Own counts are exact, provided that `count_again` hears of every change. Other workers' counts are at most
    `age_max` seconds old at a pick; 0: read at every pick. Places number the backends by slot, so that neighbours
    are neighbours in the rows.
    """

    __slots__ = (
        "_age_max",
        "_backends",
        "_class_of",
        "_classes",
        "_counts",
        "_filed",
        "_moved",
        "_next_slice",
        "_own",
        "_own_row",
        "_picked",
        "_picks",
        "_places",
        "_slice_due",
        "_slices",
        "_tops",
    )

    def __init__(self, loads: LoadTable, order: Sequence[tuple[BackendState, int]], age_max: float) -> None:
        """`order`: the backends with their weights, the least recently picked first; not empty. O(n log n)."""
        ranked = sorted(enumerate(order), key=lambda item: item[1][0].slot)
        self._backends = [backend for _, (backend, _) in ranked]
        self._places = {backend: place for place, backend in enumerate(self._backends)}
        self._picked = [rank for rank, _ in ranked]
        self._picks = len(ranked)
        self._counts = [0] * len(ranked)  # own + others
        self._own = [0] * len(ranked)
        self._own_row = loads.own
        distinct = {weight for _, weight in order}
        self._classes = [_WeightClass(index, weight) for index, weight in enumerate(sorted(distinct))]
        classes = {weight_class.weight: weight_class for weight_class in self._classes}
        self._class_of = [classes[weight] for _, (_, weight) in ranked]
        for place, weight_class in enumerate(self._class_of):
            weight_class.places.append(place)
        self._filed: list[Entry] = [(0, 0, 0)] * len(ranked)
        for weight_class in self._classes:
            self._file_all(weight_class)
        self._tops = [self._first(weight_class) for weight_class in self._classes]
        self._moved: set[_WeightClass] = set()  # those whose top may be another by now
        slots = [backend.slot for backend in self._backends]
        self._slices = [_Slice(loads, first, slots[first : first + SLICE]) for first in range(0, len(slots), SLICE)]
        self._next_slice = 0
        self._slice_due = 0.0
        self._age_max = age_max

    def least_recently_picked(self) -> list[BackendState]:
        """All backends in that order, for whatever follows this. O(n log n)."""
        return [backend for _, backend in sorted(zip(self._picked, self._backends, strict=True), key=itemgetter(0))]

    def pick(self, now: float, exclude: Collection[BackendState]) -> BackendState | None:
        """The least loaded outside `exclude`, which then is the most recently picked.

        O(distinct weights + log n) amortised, and O(left out * log n) with `exclude`; besides the slices that became
        due since the last pick, O(n / SLICE * workers) at most while nothing changed.
        """
        if now >= self._slice_due:
            self._read_slices(now)
        if exclude:
            outside = [self._first_outside(weight_class, exclude) for weight_class in self._classes]
            best = min((top for top in outside if top is not None), default=None)
            if best is None:
                return None
        else:
            for weight_class in self._moved:
                self._tops[weight_class.index] = self._first(weight_class)
            self._moved.clear()
            best = min(self._tops)
        place = best[2]
        self._picks += 1
        self._picked[place] = self._picks
        self._moved.add(self._class_of[place])
        return self._backends[place]

    def count_again(self, backend: BackendState) -> None:
        """An attempt of this worker at `backend` began or ended. O(log n) amortised."""
        place = self._places.get(backend)
        if place is not None:
            own = self._own_row[backend.slot]
            change = own - self._own[place]
            self._own[place] = own
            self._slices[place // SLICE].own = b""  # even if it reads as before, that is not what we know now
            self._change(place, change)

    def _change(self, place: int, change: int) -> None:
        count = self._counts[place] = self._counts[place] + change
        weight_class = self._class_of[place]
        self._moved.add(weight_class)
        if count < self._filed[place][0]:
            if len(weight_class.heap) > 2 * len(weight_class.places) + OLD_ENTRIES_MIN:
                self._file_all(weight_class)
            else:
                entry = self._filed[place] = (count, self._picked[place], place)
                heappush(weight_class.heap, entry)

    def _file_all(self, weight_class: _WeightClass) -> None:
        """Make a heap anew. O(its backends)."""
        for place in weight_class.places:
            self._filed[place] = (self._counts[place], self._picked[place], place)
        weight_class.heap[:] = [self._filed[place] for place in weight_class.places]
        heapify(weight_class.heap)

    def _first(self, weight_class: _WeightClass) -> Top:
        """The first entry that counts and says what is so. The heap must hold one that counts."""
        heap = weight_class.heap
        while True:
            entry = heap[0]
            place = entry[2]
            if self._filed[place] is not entry:
                heappop(heap)
                continue
            now = (self._counts[place], self._picked[place], place)
            if now == entry:
                # Division rounds correctly, so loads are equal exactly where the fractions are (below 2**26 each).
                return now[0] / weight_class.weight, now[1], place
            self._filed[place] = now
            heapreplace(heap, now)

    def _first_outside(self, weight_class: _WeightClass, exclude: Collection[BackendState]) -> Top | None:
        """As `_first`, for the backends outside `exclude`; None without one."""
        aside: list[Entry] = []
        found: Top | None = None
        while found is None and len(aside) < len(weight_class.places):
            top = self._first(weight_class)
            if self._backends[top[2]] in exclude:
                aside.append(heappop(weight_class.heap))
            else:
                found = top
        for entry in aside:
            heappush(weight_class.heap, entry)
        return found

    def _read_slices(self, now: float) -> None:
        """Read those that became due, spread evenly over `age_max`; all of them after a pause or when it is 0."""
        slices = self._slices
        due = len(slices)
        late = (now - self._slice_due) * due
        if late < self._age_max * due:
            due = 1 + int(late / self._age_max)
            self._slice_due += due * self._age_max / len(slices)
        elif self._age_max > 0:
            self._slice_due = now + self._age_max / due
        for _ in range(min(due, len(slices))):
            self._read(slices[self._next_slice])
            self._next_slice = (self._next_slice + 1) % len(slices)

    def _read(self, piece: _Slice) -> None:
        own = piece.read_own()
        if own != piece.own:
            piece.own = own
            # `count_again` told most of it already: what counts is the difference to what it told.
            known = slice(piece.first, piece.first + piece.size)
            before, self._own[known] = self._own[known], _counts(own)
            self._change_all(piece.first, before, self._own[known])
        for index, read in enumerate(piece.read_others):
            reading = read()
            if reading != piece.others[index]:
                piece.others[index] = reading
                before, piece.seen[index] = piece.seen[index], _counts(reading)
                self._change_all(piece.first, before, piece.seen[index])

    def _change_all(self, first: int, before: list[int], after: list[int]) -> None:
        if after != before:
            for offset in compress(range(len(after)), map(ne, after, before)):
                self._change(first + offset, after[offset] - before[offset])


def _reader(row: Sequence[int], slots: Sequence[int]) -> Callable[[], Reading]:
    """Reads the counts of `slots`, which rise, at one instant as far as a copy is one.

    As bytes where slots without gaps lie in a memoryview: four times as fast to read and compare as a list.
    """
    if isinstance(row, memoryview) and slots[-1] - slots[0] == len(slots) - 1:
        return row[slots[0] : slots[-1] + 1].tobytes
    return lambda: [row[slot] for slot in slots]


def _counts(reading: Reading) -> list[int]:
    return memoryview(reading).cast("q").tolist() if isinstance(reading, bytes) else reading
