"""From bytes to nodes: positions are right, and nothing odd gets through or takes long."""

import pytest

from balancer.config import yaml_nodes
from balancer.config.yaml_nodes import BYTES_MAX, Mapping, Scalar, Sequence, compose, path_text
from balancer.errors import ConfigError, Problem


def refused(data: bytes) -> Problem:
    """The last problem of a file from which no tree can be built."""
    with pytest.raises(ConfigError) as caught:
        compose(data, "f.yaml")
    return caught.value.problems[-1]


def test_nodes_know_their_places_counted_in_characters_from_one() -> None:
    root = compose("é: x\nbb:\n  - 'ü': [1, \"2\"]\n".encode(), "f").root
    assert isinstance(root, Mapping)
    key, items = root.entries["bb"]
    assert (key.line, key.column) == (2, 1)
    assert isinstance(items, Sequence)
    inner = items.items[0]
    assert isinstance(inner, Mapping)
    assert (inner.line, inner.column) == (3, 5)
    numbers = inner.entries["ü"][1]
    assert isinstance(numbers, Sequence)
    one, two = numbers.items
    assert isinstance(one, Scalar)
    assert isinstance(two, Scalar)
    assert (one.text, one.plain, one.line, one.column) == ("1", True, 3, 11)
    assert (two.text, two.plain, two.column) == ("2", False, 14)


@pytest.mark.parametrize(
    ("data", "plain"),
    [(b"a: x", True), (b"a: 'x'", False), (b"a: |\n  x", False), (b"a: !!str x", False), (b"a: ! x", False)],
)
def test_only_a_scalar_without_quotes_block_or_tag_is_plain(data: bytes, plain: bool) -> None:
    root = compose(data, "f").root
    assert isinstance(root, Mapping)
    value = root.entries["a"][1]
    assert isinstance(value, Scalar)
    assert value.plain is plain


def test_an_alias_is_the_value_that_it_names() -> None:
    root = compose(b"a: &x [1]\nb: *x\n", "f").root
    assert isinstance(root, Mapping)
    assert root.entries["a"][1] is root.entries["b"][1]


def test_a_byte_order_mark_is_skipped() -> None:
    assert isinstance(compose(b"\xef\xbb\xbfa: 1\n", "f").root, Mapping)


@pytest.mark.parametrize(
    ("data", "line", "column", "right"),
    [
        (b"", 1, 1, "the file is empty"),
        (b"\n# only a comment\n", 1, 1, "the file is empty"),
        (b"---\n", 1, 1, "the file is empty"),
        (b"a: 1\n---\nb: 2\n", 2, 1, "a second document"),
        (b"a: *.host", 1, 4, 'quote it, such as "*.example.com"'),
        (b"a:\n  - *.host", 2, 5, 'quote it, such as "*.example.com"'),
        (b"a: [x, *.host]", 1, 8, 'quote it, such as "*.example.com"'),
        (b"a: *host", 1, 4, 'quote it: "*host"'),
        (b"a: &x [*x]", 1, 8, "inside the value that it names"),
        (b"a: @x", 1, 4, "quote it"),
        (b"a: `x`", 1, 4, "quote it"),
        (b"a: %x", 1, 4, "quote it"),
        (b"a: &", 1, 4, "an unquoted &"),
        (b"a:\n\tb: 1\n", 2, 1, "spaces only"),
        (b"a:\n  b: 1\n  \tc: 2\n", 3, 3, "spaces only"),
        (b"a: b: c", 1, 5, "second colon"),
        (b"a: [${X}]", 1, 6, "must be quoted"),
        (b"a: 'x\nb: 1\n", 1, 4, "never closed"),
        (b"a: 1\nb: [c,\n  d", 2, 4, "line 2"),
        (b"a: {b: c\nd: e\n", 2, 2, "line 1"),
        (b"a: [", 1, 5, "check the indentation"),
        (b"a:\n  b: 1\n c: 2\n", 3, 2, "check the indentation"),
        (b"a: !thing 1", 1, 4, "the tag `!thing`"),
        (b"a: !!int 1", 1, 4, "the tag `!!int`"),
        (b"{[a]: b}", 1, 2, "a key must be text"),
        ("é: \x07".encode(), 1, 4, "U+0007"),
        (b"ok: 1\n\xc3\xa9\xff: 2", 2, 2, "0xff is not UTF-8"),
        (b"a: \xff", 1, 4, "0xff is not UTF-8"),
        ("a: 1".encode("utf-16"), 1, 1, "not UTF-8"),
    ],
)
def test_what_no_tree_comes_of_is_refused_at_its_place(data: bytes, line: int, column: int, right: str) -> None:
    problem = refused(data)
    assert (problem.line, problem.column) == (line, column)
    assert right in problem.message


def test_a_duplicate_key_names_both_lines_and_the_rest_is_read() -> None:
    document = compose(b"a: 1\nb:\n  c: 1\n  c: 2\n", "f")
    (problem,) = document.problems
    assert (problem.line, problem.column, problem.path) == (4, 3, "b.c")
    assert "here and in line 3" in problem.message
    assert isinstance(document.root, Mapping)
    assert set(document.root.entries) == {"a", "b"}


def test_merge_keys_are_refused_but_a_quoted_one_is_a_key() -> None:
    assert "merge keys" in compose(b"a: &x {b: 1}\nc: {<<: *x}\n", "f").problems[0].message
    assert compose(b"'<<': 1\n", "f").problems == []


def test_problems_before_a_fatal_one_are_kept() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(b"a: 1\na: 2\nb: *x\n", "f")
    assert [problem.line for problem in caught.value.problems] == [2, 3]


def test_duplicate_keys_are_not_reported_without_bound() -> None:
    assert len(compose(b"a: 1\n" * 2000, "f").problems) == yaml_nodes.PROBLEMS_MAX


def test_a_file_that_is_too_large_is_not_even_decoded() -> None:
    problem = refused(b"\xff" * (BYTES_MAX + 1))
    assert "at most 4,194,304" in problem.message


def test_aliases_cannot_multiply() -> None:
    rows = [b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [b"a%d: &a%d [%s]" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 30)]
    assert "aliases add more than 50,000 values" in refused(b"\n".join(rows)).message


def test_the_number_of_values_is_bounded_without_aliases_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_nodes, "NODES_MAX", 10)
    assert "more than 10 values" in refused(b"[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]").message


@pytest.mark.parametrize("data", [b"[" * 100_000, b"{a: " * 100_000, b"- " * 100_000])
def test_nesting_is_bounded(data: bytes) -> None:
    assert "deep" in refused(data).message


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), "(file)"),
        (("pools", "api", "backends", 1, "weight"), "pools.api.backends[1].weight"),
        (("pools", "a.b", "x"), 'pools["a.b"].x'),
        (("a\nb",), '["a\\nb"]'),
    ],
)
def test_paths_read_like_code(path: tuple[str | int, ...], text: str) -> None:
    assert path_text(path) == text
