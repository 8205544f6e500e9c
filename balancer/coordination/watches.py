"""Watches: every change from a revision on, in order, none twice, none left out (etcd's watch guarantees).

A watcher is *synced* when all that it has not been given yet waits in its queue; publishing a change appends to the
queues of the synced watchers that watch the key, and does nothing else. A queue that grows too long is thrown away:
the watcher is *behind* then and is served from the log of the store, as one that starts in the past. So a slow reader
costs the writer nothing and the memory a bound. `WatchStream.take` makes one answer, when somebody can use it.
"""

from collections import deque
from collections.abc import Iterator

from balancer.coordination.key_space import EVERYTHING_ON, KeySpace, bounds
from balancer.coordination.requests import WatchCreateRequest, WatchFilter
from balancer.coordination.responses import Event, EventType, KeyValue, ResponseHeader, WatchResponse
from balancer.coordination.revision_log import Changes
from balancer.coordination.watch_index import WatchIndex

QUEUE_SIZE_MAX = 1024 * 1024
"""Bytes of keys and values that wait for one watcher."""

ANSWER_REVISIONS_MAX = 1000
ANSWER_SIZE_MAX = 1024 * 1024
"""Of an answer to a watcher that is behind; a single revision may be more."""

SCAN_MAX = 2000
"""Revisions that one call looks at on behalf of a watcher that is behind: about a millisecond."""

FRAGMENT_SIZE = 1536 * 1024
"""Bytes after which an answer is cut for who asked for fragments: etcd's bound on a request."""

WATCHERS_MAX = 100_000
UNREAD_MAX = 16
"""Answers to creations and cancellations that a client may leave unread before it is to be read from no more."""

NO_WATCHER = -1
EMPTY_RANGE = "mvcc: watcher range is empty"
DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"
COMPACTED = "etcdserver: mvcc: required revision has been compacted"
TOO_MANY = "etcdserver: too many requests"


class _Watcher:
    """One watch. Behind: everything below `next_revision` was given or does not concern it. Synced: everything that
    was published was given or is in the queue, and nothing below `next_revision` will be.
    """

    __slots__ = ("has_turn", "idle", "next_revision", "number", "queue", "queue_size", "request", "stream", "synced")

    def __init__(self, stream: "WatchStream", number: int, request: WatchCreateRequest, next_revision: int) -> None:
        self.stream = stream
        self.number = number
        self.request = request
        self.next_revision = next_revision
        self.synced = False
        self.queue: deque[tuple[int, list[KeyValue]]] = deque()
        self.queue_size = 0
        self.has_turn = False  # it is in its stream's round
        self.idle = True  # it got no events since the last time that progress was due

    def wants(self, kv: KeyValue) -> bool:
        filters = self.request.filters
        return not filters or (WatchFilter.NOPUT if kv.version else WatchFilter.NODELETE) not in filters


class WatchHub:
    """All watches of a member. `revision`: up to which changes were published."""

    def __init__(self, space: KeySpace, *, queue_size_max: int = QUEUE_SIZE_MAX) -> None:
        self._space = space
        self._queue_size_max = queue_size_max
        self._synced: WatchIndex[_Watcher] = WatchIndex()
        self._streams: dict[WatchStream, None] = {}
        self._ready: dict[WatchStream, None] = {}
        self.revision = space.revision
        self.watchers = 0

    def open(self) -> "WatchStream":
        """A client's stream of watches; close it when the client is gone."""
        stream = WatchStream(self)
        self._streams[stream] = None
        return stream

    def publish(self, changes: Changes) -> None:
        """Tell of an applied entry's changes, in the order of the log. O(changes x (who watches + 1))."""
        if not changes:
            return
        self.revision = revision = changes[0].mod_revision
        told: dict[_Watcher, list[KeyValue]] = {}
        for kv in changes:
            for watcher in self._synced.watching(kv.key):
                if watcher.next_revision <= revision and watcher.wants(kv):
                    told.setdefault(watcher, []).append(kv)
        for watcher, wanted in told.items():
            self._tell(watcher, revision, wanted)

    def take_ready(self) -> list["WatchStream"]:
        """The streams that have got something to take since the last call: wake whoever serves them."""
        ready = list(self._ready)
        self._ready.clear()
        return ready

    def restored(self, space: KeySpace) -> None:
        """The state was replaced by a snapshot's: all go on from there, out of its log. O(watchers)."""
        self._space = space
        for stream in self._streams:
            for watcher in stream.watchers():
                if watcher.synced:
                    watcher.next_revision = max(watcher.next_revision, self.revision + 1)
                    self._fall_behind(watcher)
        self.revision = space.revision

    def _tell(self, watcher: _Watcher, revision: int, wanted: list[KeyValue]) -> None:
        size = sum(map(_size, wanted))
        if watcher.queue_size + size > self._queue_size_max:
            watcher.next_revision = revision
            self._fall_behind(watcher)
            return
        watcher.queue.append((revision, wanted))
        watcher.queue_size += size
        self._give_turn(watcher)

    def _fall_behind(self, watcher: _Watcher) -> None:
        """`next_revision` is the first one that is not in the queue; what is there is read again from the log."""
        if watcher.queue:
            watcher.next_revision = watcher.queue[0][0]
        watcher.queue.clear()
        watcher.queue_size = 0
        watcher.synced = False
        self._synced.remove(watcher, watcher.request.key, watcher.request.range_end)
        self._give_turn(watcher)

    def _catch_up(self, watcher: _Watcher) -> None:
        watcher.synced = True
        self._synced.add(watcher, watcher.request.key, watcher.request.range_end)

    def _give_turn(self, watcher: _Watcher) -> None:
        watcher.stream._give_turn(watcher)
        self._ready[watcher.stream] = None

    def _wake(self, stream: "WatchStream") -> None:
        self._ready[stream] = None


class WatchStream:
    """The watches of one client. `take` until not `ready`; then wait for `WatchHub.take_ready` to name it."""

    def __init__(self, hub: WatchHub) -> None:
        self._hub = hub
        self._watchers: dict[int, _Watcher] = {}
        self._answers: deque[WatchResponse] = deque()  # made already, to be taken first
        self._round: deque[_Watcher] = deque()  # who has something, each once: nobody starves
        self._progress_wanted = False
        self._next_number = 0

    @property
    def ready(self) -> bool:
        """Whether there is something to take, or to look for."""
        return bool(self._answers or self._round or self._progress_wanted)

    @property
    def congested(self) -> bool:
        """The client asks and does not read: take no further request from it."""
        return len(self._answers) >= UNREAD_MAX

    def watchers(self) -> Iterator[_Watcher]:
        """All of this stream."""
        return iter(self._watchers.values())

    # ---- what a client asks

    def create(self, request: WatchCreateRequest) -> None:
        """A new watch; that it is there, or why not, is the next answer to take."""
        if not request.key:
            request = WatchCreateRequest(
                b"\0",
                request.range_end,
                request.start_revision,
                request.progress_notify,
                request.filters,
                request.prev_kv,
                request.watch_id,
                request.fragment,
            )
        if refused := self._refused(request):
            self._answer(WatchResponse(self._header(), NO_WATCHER, created=True, canceled=True, cancel_reason=refused))
            return
        number = request.watch_id or self._free_number()
        start = request.start_revision or self._hub.revision + 1
        watcher = self._watchers[number] = _Watcher(self, number, request, start)
        self._hub.watchers += 1
        self._answer(WatchResponse(self._header(), number, created=True))
        if start > self._hub.revision:
            self._hub._catch_up(watcher)
        else:
            self._hub._give_turn(watcher)

    def cancel(self, watch_id: int) -> None:
        """End a watch; nothing of it is to be taken after the answer. As in etcd an unknown one has no answer."""
        if watch_id in self._watchers:
            self._remove(self._watchers[watch_id])
            self._answer(WatchResponse(self._header(), watch_id, canceled=True))

    def request_progress(self) -> None:
        """Say how far this stream is, once every watcher has been given everything."""
        self._progress_wanted = True
        self._hub._wake(self)

    def progress_due(self) -> None:
        """To be called every ten minutes or so: tell those who asked for it and got no event meanwhile."""
        for watcher in self._watchers.values():
            if watcher.request.progress_notify:
                if watcher.idle and watcher.synced and not watcher.queue:
                    self._answer(WatchResponse(self._header(), watcher.number))
                watcher.idle = True

    def close(self) -> None:
        """The client is gone."""
        for watcher in list(self._watchers.values()):
            self._remove(watcher)
        self._answers.clear()
        self._progress_wanted = False
        self._hub._streams.pop(self, None)
        self._hub._ready.pop(self, None)

    # ---- what it is given

    def take(self) -> WatchResponse | None:
        """The next answer; None = none yet, go on while `ready`. Bounded work, and nothing waits for it."""
        if self._answers:
            return self._answers.popleft()
        if self._round:
            watcher = self._round.popleft()
            watcher.has_turn = False
            return self._serve(watcher)
        if self._progress_wanted:
            # Only here, where no watcher waits for anything: what it says must not run ahead of the events.
            self._progress_wanted = False
            return WatchResponse(self._header(), NO_WATCHER)
        return None

    def _serve(self, watcher: _Watcher) -> WatchResponse | None:
        hub = self._hub
        if watcher.synced:
            revision, changes = watcher.queue.popleft()
            watcher.queue_size -= sum(map(_size, changes))
            if watcher.queue:
                self._give_turn(watcher)
        else:
            compacted = hub._space.compacted
            if watcher.next_revision < compacted:
                self._remove(watcher)
                return WatchResponse(watch_id=watcher.number, canceled=True, compact_revision=compacted)
            changes = _read_on(watcher, hub._space, hub.revision)
            revision = min(watcher.next_revision - 1, hub.revision)
            if watcher.next_revision > hub.revision:
                hub._catch_up(watcher)
            else:
                self._give_turn(watcher)
            if not changes:
                return None
        watcher.idle = False
        return self._response(watcher, revision, changes)

    def _response(self, watcher: _Watcher, revision: int, changes: list[KeyValue]) -> WatchResponse:
        events = [_event(self._hub._space, kv, prev_kv=watcher.request.prev_kv) for kv in changes]
        header = ResponseHeader(revision=revision)
        parts = list(_fragments(events)) if watcher.request.fragment else [tuple(events)]
        answers = [WatchResponse(header, watcher.number, fragment=part is not parts[-1], events=part) for part in parts]
        self._answers.extendleft(reversed(answers[1:]))
        return answers[0]

    def _give_turn(self, watcher: _Watcher) -> None:
        if not watcher.has_turn:
            watcher.has_turn = True
            self._round.append(watcher)

    def _answer(self, response: WatchResponse) -> None:
        self._answers.append(response)
        self._hub._wake(self)

    def _header(self) -> ResponseHeader:
        return ResponseHeader(revision=self._hub.revision)

    def _refused(self, request: WatchCreateRequest) -> str:
        """Why there is no such watch; "" = there is."""
        if request.start_revision < 0:
            return COMPACTED
        if request.range_end and request.range_end != EVERYTHING_ON and request.range_end <= request.key:
            return EMPTY_RANGE
        if request.watch_id in self._watchers and request.watch_id:
            return DUPLICATE_ID
        return TOO_MANY if self._hub.watchers >= WATCHERS_MAX else ""

    def _free_number(self) -> int:
        while self._next_number in self._watchers:
            self._next_number += 1
        self._next_number += 1
        return self._next_number - 1

    def _remove(self, watcher: _Watcher) -> None:
        del self._watchers[watcher.number]
        self._hub.watchers -= 1
        if watcher.synced:
            self._hub._synced.remove(watcher, watcher.request.key, watcher.request.range_end)
        if watcher.has_turn:
            self._round.remove(watcher)


def _read_on(watcher: _Watcher, space: KeySpace, last: int) -> list[KeyValue]:
    """What a watcher that is behind is to be given next, whole revisions up to `last`. Moves its `next_revision`."""
    key, range_end = watcher.request.key, watcher.request.range_end
    start, end = bounds(key, range_end)
    found: list[KeyValue] = []
    revisions = size = 0
    if range_end:
        entries = space.log.between(watcher.next_revision, min(watcher.next_revision + SCAN_MAX, last + 1))
        read_to = min(watcher.next_revision + SCAN_MAX - 1, last)
    else:
        entries, read_to = space.changes_of(key, watcher.next_revision, last, ANSWER_REVISIONS_MAX)
    for changes in entries:
        wanted = [kv for kv in changes if start <= kv.key and (end is None or kv.key < end) and watcher.wants(kv)]
        if not wanted:
            continue
        more = sum(map(_size, wanted))
        if found and (revisions >= ANSWER_REVISIONS_MAX or size + more > ANSWER_SIZE_MAX):
            read_to = changes[0].mod_revision - 1
            break
        found += wanted
        revisions += 1
        size += more
    watcher.next_revision = max(watcher.next_revision, read_to + 1)
    return found


def _event(space: KeySpace, kv: KeyValue, *, prev_kv: bool) -> Event:
    kind = EventType.PUT if kv.version else EventType.DELETE
    if not prev_kv or kv.create_revision == kv.mod_revision:
        return Event(kind, kv)
    before = kv.mod_revision - 1
    return Event(kind, kv, space.get_at(kv.key, before) if before >= space.compacted else None)


def _fragments(events: list[Event]) -> Iterator[tuple[Event, ...]]:
    """The events of one answer, cut where they grow larger than FRAGMENT_SIZE; one event is never cut."""
    held: list[Event] = []
    held_size = 0
    for event in events:
        size = _size(event.kv) + (0 if event.prev_kv is None else _size(event.prev_kv))
        if held and held_size + size > FRAGMENT_SIZE:
            yield tuple(held)
            held, held_size = [], 0
        held.append(event)
        held_size += size
    yield tuple(held)


def _size(kv: KeyValue) -> int:
    return len(kv.key) + len(kv.value) + 64  # and its numbers
