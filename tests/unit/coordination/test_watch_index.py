"""Who watches a key is found as by comparing with every range."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.coordination.watch_index import WatchIndex, prefix_end
from tests.unit.coordination.naive_store import within

KEY = st.binary(min_size=1, max_size=3).map(lambda key: bytes(b"\0ab\xff"[byte % 4] for byte in key))
RANGE = st.tuples(KEY, st.just(b"") | st.just(b"\0") | KEY) | KEY.map(lambda key: (key, prefix_end(key)))


@given(st.lists(RANGE, max_size=12), st.sets(st.integers(0, 11)), st.lists(KEY, min_size=1, max_size=5))
@settings(deadline=None)
def test_it_finds_whose_range_has_the_key(ranges: list[tuple[bytes, bytes]], gone: set[int], keys: list[bytes]) -> None:
    index: WatchIndex[int] = WatchIndex()
    for number, (key, end) in enumerate(ranges):
        index.add(number, key, end)
    for number in gone & set(range(len(ranges))):
        index.remove(number, *ranges[number])
    for key in keys:
        expected = [n for n, (start, end) in enumerate(ranges) if n not in gone and within(key, start, end)]
        assert sorted(index.watching(key)) == expected


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"a", b"b"), (b"a/", b"a0"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")]
)
def test_the_end_of_a_prefix(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end


def test_nothing_is_left_of_who_is_gone() -> None:
    index: WatchIndex[int] = WatchIndex()
    for range_ in ((b"a", b""), (b"a", b"b"), (b"a", b"z"), (b"a", b"\0")):
        index.add(1, *range_)
        index.remove(1, *range_)
    assert not any(vars(index).values())
