"""A sorted set in chunks behaves as one sorted list, whatever the chunks' size."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.coordination import sorted_keys
from balancer.coordination.sorted_keys import SortedKeys

KEY = st.binary(max_size=2)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_keys, "CHUNK", 2)


def filled(keys: list[bytes]) -> SortedKeys:
    """The set of `keys`, where one that comes again goes."""
    found = SortedKeys()
    there: set[bytes] = set()
    for key in keys:
        if key in there:
            found.remove(key)
        else:
            found.add(key)
        there ^= {key}
    assert len(found) == len(there)
    return found


@pytest.mark.usefixtures("_small_chunks")
@given(st.lists(KEY, max_size=60), KEY, st.none() | KEY, st.integers(0, 9))
@settings(deadline=None)
def test_a_range_is_that_of_a_sorted_list(keys: list[bytes], start: bytes, end: bytes | None, limit: int) -> None:
    found = filled(keys)
    expected = sorted(key for key in set(keys) if keys.count(key) % 2 and start <= key and (end is None or key < end))
    assert found.between(start, end) == expected
    assert found.between(start, end, limit) == (expected[:limit] if limit else expected)
    assert found.count(start, end) == len(expected)


def test_a_removed_last_key_of_a_chunk_leaves_its_neighbours_found() -> None:
    keys = [b"%02d" % number for number in range(20)]
    found = filled(keys)
    for key in keys[::3]:
        found.remove(key)
        keys.remove(key)
        assert found.between(b"", None) == keys
