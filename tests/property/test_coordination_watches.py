"""Watches against the history: each stream is one slice of it without gaps, whatever else goes on."""

from typing import Any
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from balancer.coordination import state_machine, watches
from balancer.coordination.requests import RequestOp, TxnRequest, WatchCreateRequest, WatchFilter
from balancer.coordination.responses import Event, EventType, KeyValue, WatchResponse
from balancer.coordination.snapshot import Reader, View
from balancer.coordination.watch_index import prefix_end
from balancer.coordination.watches import WatchHub, WatchStream
from tests.unit.coordination.machine import Machine, op_delete, op_put
from tests.unit.coordination.naive_store import within

KEYS = [b"a", b"a/1", b"a/2", b"b", b"b/1"]
KEY = st.sampled_from(KEYS)
END = st.sampled_from([b"", b"", b"\0", b"b", b"z"])
FILTERS = st.sampled_from([(), (), (), (WatchFilter.NOPUT,), (WatchFilter.NODELETE,)])


class Told:
    """What one watch was told, and what it must be."""

    def __init__(self, request: WatchCreateRequest, first: int) -> None:
        self.request = request
        self.next = first  # the lowest revision that it has not been told of for sure
        self.over = False

    def expects(self, history: dict[int, list[KeyValue]], last: int) -> list[KeyValue]:
        kind = {(): (), (WatchFilter.NOPUT,): (True,), (WatchFilter.NODELETE,): (False,)}[self.request.filters]
        return [
            kv
            for revision in range(self.next, last + 1)
            for kv in history.get(revision, [])
            if within(kv.key, self.request.key, self.request.range_end) and (kv.version > 0) not in kind
        ]


class Watching(RuleBasedStateMachine):
    """Two streams; one member whose state may be replaced by another's."""

    @initialize(
        queue=st.sampled_from([1, 300, 1 << 20]),
        revisions=st.sampled_from([1, 2, 1000]),
        scan=st.sampled_from([1, 3, 2000]),
    )
    def begin(self, queue: int, revisions: int, scan: int) -> None:
        self.patches = [
            patch.multiple(state_machine, SWEEP_AT_COMPACTION=1, SWEEP_PER_ENTRY=1),
            patch.multiple(watches, ANSWER_REVISIONS_MAX=revisions, SCAN_MAX=scan, FRAGMENT_SIZE=200),
        ]
        for one in self.patches:
            one.start()
        self.machine = Machine()
        self.hub = WatchHub(self.machine.state.space, queue_size_max=queue)
        self.streams = [self.hub.open(), self.hub.open()]
        self.told: dict[tuple[WatchStream, int], Told] = {}
        self.history: dict[int, list[KeyValue]] = {}
        self.before: dict[int, dict[bytes, KeyValue]] = {1: {}}  # the whole state at each revision
        self.parts: dict[tuple[WatchStream, int], list[Event]] = {}

    def note(self, changes: tuple[KeyValue, ...]) -> None:
        revision = self.machine.state.revision
        if changes:
            self.history[revision] = list(changes)
            self.before[revision] = {kv.key: kv for kv in self.machine.range().kvs}

    # ---- the store

    @rule(key=KEY, value=st.sampled_from([b"", b"x" * 40]))
    def put(self, key: bytes, value: bytes) -> None:
        self.txn([op_put(key, value)])

    @rule(key=KEY, end=END)
    def delete(self, key: bytes, end: bytes) -> None:
        self.txn([op_delete(key, end)])

    @rule(keys=st.lists(KEY, unique=True, max_size=3), gone=st.sampled_from([b"x", b"b", b"a"]))
    def several(self, keys: list[bytes], gone: bytes) -> None:
        self.txn([op_delete(gone, b"\0"), *(op_put(key, b"y") for key in keys)])

    def txn(self, operations: list[RequestOp]) -> None:
        request = op_txn_of(operations)
        applied = self.machine.apply(request)
        self.note(applied.changes)
        self.hub.publish(applied.changes)

    @rule(back=st.integers(0, 4))
    def compact(self, back: int) -> None:
        revision = self.machine.state.revision - back
        if revision > self.machine.state.space.compacted:
            self.machine.compact(revision)

    @rule(changes=st.integers(0, 3), compact=st.booleans())
    def replace_the_state(self, changes: int, compact: bool) -> None:
        """A snapshot of a member that is ahead is installed."""
        for number in range(changes):
            self.note(self.machine.apply(op_txn_of([op_put(KEYS[number], b"far")])).changes)
        if compact and self.machine.state.revision > self.machine.state.space.compacted:
            self.machine.compact(self.machine.state.revision)
        reader = Reader()
        for piece in View(self.machine.state).slices():
            reader.feed(piece)
        self.machine.state = reader.finish()
        self.hub.restored(self.machine.state.space)

    # ---- the watchers

    @rule(
        number=st.integers(0, 1),
        range_=st.tuples(KEY, END) | KEY.map(lambda key: (key, prefix_end(key))),
        back=st.none() | st.integers(-3, 6),
        filters=FILTERS,
        prev_kv=st.booleans(),
        fragment=st.booleans(),
    )
    def watch(self, number: int, range_: tuple[bytes, bytes], back: int | None, **fields: Any) -> None:
        now = self.machine.state.revision
        start = 0 if back is None else max(now - back, 1)
        request = WatchCreateRequest(*range_, start, **fields)
        if len(request.range_end) > 0 and request.range_end != b"\0" and request.range_end <= request.key:
            return
        stream = self.streams[number]
        known = {watcher.number for watcher in stream.watchers()}
        stream.create(request)
        (created,) = {watcher.number for watcher in stream.watchers()} - known
        self.told[stream, created] = Told(request, start or now + 1)

    @rule(number=st.integers(0, 1), which=st.integers(0, 5))
    def cancel(self, number: int, which: int) -> None:
        stream = self.streams[number]
        watching = [watcher.number for watcher in stream.watchers()]
        if watching:
            stream.cancel(watching[which % len(watching)])

    @rule(number=st.integers(0, 1))
    def progress(self, number: int) -> None:
        self.streams[number].request_progress()

    @rule(number=st.integers(0, 1), count=st.integers(1, 6))
    def take(self, number: int, count: int) -> None:
        for _ in range(count):
            response = self.streams[number].take()
            if response is not None:
                self.check(self.streams[number], response)

    @rule(number=st.integers(0, 1))
    def take_all(self, number: int) -> None:
        stream = self.streams[number]
        for _ in range(2000):
            if not stream.ready:
                break
            if (response := stream.take()) is not None:
                self.check(stream, response)
        assert not stream.ready
        for (of, watch_id), told in self.told.items():
            if of is stream and not told.over:
                assert told.expects(self.history, self.machine.state.revision) == [], (watch_id, told.next)

    def check(self, stream: WatchStream, response: WatchResponse) -> None:
        if response.watch_id == -1:
            assert not response.canceled
            for (of, _), told in self.told.items():
                if of is stream and not told.over:
                    assert told.expects(self.history, response.header.revision) == [], "progress ahead of events"
            return
        told = self.told[stream, response.watch_id]
        assert not told.over
        if response.canceled:
            told.over = True
            if response.compact_revision:
                assert told.next < response.compact_revision
            return
        if response.events:
            self.parts.setdefault((stream, response.watch_id), []).extend(response.events)
            if not response.fragment:
                self.check_events(told, self.parts.pop((stream, response.watch_id)), response.header.revision)

    def check_events(self, told: Told, events: list[Event], revision: int) -> None:
        """Everything that it was to be told of up to the header's revision, and nothing else."""
        assert [event.kv for event in events] == told.expects(self.history, revision)
        for event in events:
            assert event.type is (EventType.PUT if event.kv.version else EventType.DELETE)
            before = self.before.get(event.kv.mod_revision - 1, {}).get(event.kv.key)
            if not told.request.prev_kv or event.kv.create_revision == event.kv.mod_revision:
                before = None
            assert event.prev_kv == before or (event.prev_kv is None and self.compacted(event.kv.mod_revision - 1))
        told.next = max(told.next, revision + 1)

    def compacted(self, revision: int) -> bool:
        return revision < self.machine.state.space.compacted

    def teardown(self) -> None:
        for one in getattr(self, "patches", []):
            one.stop()


def op_txn_of(operations: list[RequestOp]) -> TxnRequest:
    return TxnRequest(success=tuple(operations))


Watching.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestWatching = Watching.TestCase
