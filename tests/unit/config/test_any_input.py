"""Whatever stands in a file: a configuration, or problems at places that exist. Never another exception."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balancer.config.load import load
from balancer.errors import ConfigError

EXAMPLES = sorted((Path(__file__).parents[3] / "config").glob("*.yaml"))
JUNK = (
    *(
        "",
        "~",
        "[]",
        "{}",
        "*x",
        "&x",
        "0",
        "off",
        "true",
        "-1",
        "1e9",
        '"',
        "'",
        "{a: b}",
        "[a, [b]]",
        "\t",
        "  ",
        "\n",
    ),
    *("${X}", "${", "!!int 3", "|\n", ">", "? ", ": ", "- ", "#", "é", "\u2028", "9" * 40, "x" * 300, "<<: *x", "\x85"),
)
BREAKS = ("\n", "\r", "\x85", "\u2028", "\u2029")


def checked(text: bytes) -> None:
    """Load `text`; a refusal must point into it and say something."""
    try:
        load(text, "f.yaml", {"X": "1"}, base="/etc")
    except ConfigError as error:
        problems = error.problems
    else:
        return
    assert problems
    lines = 1 + sum(text.count(line_break.encode()) for line_break in BREAKS)
    for problem in problems:
        assert 1 <= problem.line <= lines
        assert problem.column >= 1
        assert problem.path
        assert len(problem.message) > 10


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_an_example_with_parts_replaced_is_taken_or_refused(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(EXAMPLES)).read_text()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 20)))
        text = text[:start] + data.draw(st.sampled_from(JUNK)) + text[end:]
    checked(text.encode())


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_an_example_with_one_value_replaced_is_taken_or_refused(data: st.DataObject) -> None:
    lines = data.draw(st.sampled_from(EXAMPLES)).read_text().splitlines()
    index = data.draw(st.sampled_from([place for place, line in enumerate(lines) if ":" in line]))
    lines[index] = lines[index].partition(":")[0] + ": " + data.draw(st.sampled_from(JUNK) | st.text(max_size=12))
    checked("\n".join(lines).encode("utf-8", "surrogatepass"))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_refused_politely(text: bytes) -> None:
    checked(text)


_VALUES = st.recursive(
    st.sampled_from(["1", "off", "x", "5s", "127.0.0.1:1", "null", "true"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "address", "bind"]), inner),
    max_leaves=6,
)


@pytest.mark.parametrize(
    "frame",
    [
        "listeners: {{web: {0}}}\nroutes: [{{name: a, respond: {{}}}}]\n",
        'listeners: {{web: {{bind: "127.0.0.1:1"}}}}\nroutes: {0}\n',
        'listeners: {{web: {{bind: "127.0.0.1:1"}}}}\nroutes: [{{name: a, match: {0}, pool: p}}]\npools: {{p: {0}}}\n',
        'listeners: {{web: {{bind: "127.0.0.1:1", tls: {0}}}}}\nroutes: [{{name: a, headers: {0}, redirect: {0}}}]\n',
    ],
)
@settings(max_examples=60, deadline=None)
@given(value=_VALUES)
def test_any_shape_in_any_section_is_taken_or_refused(frame: str, value: object) -> None:
    checked(frame.format(str(value).replace("'null'", "null")).encode())
