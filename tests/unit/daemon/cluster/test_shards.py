"""Who owns a backend: everybody names the same node, and as little moves as can be."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.daemon.cluster.shards import identity, owner, weight

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
NODES = st.sets(NAMES, min_size=1, max_size=8)
BACKENDS = [identity("web", f"b{number}", f"10.0.{number // 250}.{number % 250}:80") for number in range(3000)]


@given(NODES, NAMES, NAMES, NAMES)
def test_every_backend_has_one_owner_among_its_nodes_whatever_their_order(
    nodes: set[str], pool: str, name: str, address: str
) -> None:
    backend = identity(pool, name, address)
    found = owner(sorted(nodes), backend)
    assert found in nodes
    assert owner(sorted(nodes, reverse=True), backend) == found


def test_without_nodes_nobody_owns_anything() -> None:
    assert owner([], identity("web", "a", "10.0.0.7:80")) is None


@given(NODES, NAMES)
def test_a_node_that_goes_moves_what_it_owned_and_nothing_else(nodes: set[str], gone: str) -> None:
    for backend in BACKENDS[:50]:
        before = owner(nodes | {gone}, backend)
        after = owner(nodes - {gone}, backend)
        assert after == before or before == gone


@given(NODES, NAMES)
def test_a_node_that_comes_takes_from_others_and_moves_nothing_between_them(nodes: set[str], new: str) -> None:
    for backend in BACKENDS[:50]:
        assert owner(nodes | {new}, backend) in {owner(nodes, backend), new}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_shares_are_about_equal(count: int) -> None:
    nodes = [f"n{number}" for number in range(count)]
    shares = Counter(owner(nodes, backend) for backend in BACKENDS)
    fair = len(BACKENDS) / count
    assert all(abs(shares[node] - fair) < 5 * fair**0.5 for node in nodes), shares  # five standard deviations


def test_the_parts_of_an_identity_do_not_run_together() -> None:
    assert (
        len({identity(*parts) for parts in (("ab", "c", "d"), ("a", "bc", "d"), ("a", "b", "cd"), ("", "ab", "cd"))})
        == 4
    )


def test_weights_are_the_same_in_every_process() -> None:
    """Balancers of different versions must agree: if this has to change, they share nothing while one is upgraded."""
    assert weight("n1", identity("web", "a", "10.0.0.7:80")).hex() == "9a9e1b26799976e9"
