"""A set of keys given as ranges has exactly the keys of its ranges."""

from hypothesis import given
from hypothesis import strategies as st

from balancer.coordination.covered import Covered

KEY = st.binary(min_size=1, max_size=1).map(lambda key: bytes([key[0] % 16]))
RANGES = st.lists(st.tuples(KEY, KEY | st.none()), max_size=8)


@given(RANGES, RANGES, st.lists(KEY, max_size=3))
def test_it_has_what_any_of_its_ranges_has(
    ranges: list[tuple[bytes, bytes | None]], others: list[tuple[bytes, bytes | None]], keys: list[bytes]
) -> None:
    covered, other = Covered(), Covered()
    for start, end in ranges:
        covered.add_range(start, end)
    for start, end in others:
        other.add_range(start, end)
    for key in keys:
        other.add(key)
    covered.update(other)
    for number in range(16):
        key = bytes([number])
        inside = any(start <= key and (end is None or key < end) for start, end in ranges + others)
        assert (key in covered) == (inside or key in keys)
