"""Header edits."""

from typing import Any

import pytest

from balancer.config.model import UNEDITABLE_FIELDS, HeaderEdits
from balancer.routing.edits import HeaderEditor

LINES = b"\r\nHost: a\r\nX-One: 1\r\nx-two: 2\r\nX-ONE: 3\r\nLast: x-one: 9"


def edited(lines: bytes = LINES, **edits: Any) -> bytes:
    return HeaderEditor(HeaderEdits(**edits)).apply(lines)


def test_no_edits_change_nothing() -> None:
    assert edited() == LINES
    assert edited(b"") == b""


def test_remove_takes_every_line_of_that_name_in_any_case() -> None:
    assert edited(remove=("x-One",)) == b"\r\nHost: a\r\nx-two: 2\r\nLast: x-one: 9"
    assert edited(remove=("LAST", "x-two")) == b"\r\nHost: a\r\nX-One: 1\r\nX-ONE: 3"
    assert edited(remove=("x",)) == LINES
    assert edited(remove=("absent",)) == LINES


def test_set_replaces_every_line_of_that_name() -> None:
    assert edited(set={"X-One": "new"}) == b"\r\nHost: a\r\nx-two: 2\r\nLast: x-one: 9\r\nX-One: new"
    assert edited(b"", set={"X": ""}) == b"\r\nX: "
    assert edited(b"\r\nHost: a", set={"Host": "b"}) == b"\r\nHost: b"


def test_add_leaves_lines_of_that_name() -> None:
    assert edited(b"\r\nX: 1", add={"X": "2"}) == b"\r\nX: 1\r\nX: 2"


def test_order_is_remove_set_add() -> None:
    assert edited(b"\r\nX: 1\r\nY: 1", remove=("X",), set={"x": "2"}, add={"X": "3"}) == b"\r\nY: 1\r\nx: 2\r\nX: 3"


def test_a_bare_cr_in_a_value_does_not_end_the_line() -> None:
    assert edited(b"\r\nX: a\rb\r\nY: 1", remove=("x",)) == b"\r\nY: 1"


def test_names_are_those_touched() -> None:
    edits = HeaderEdits(set={"A": "1"}, add={"B": "1"}, remove=("C",))
    assert HeaderEditor(edits).names == {b"a", b"b", b"c"}


@pytest.mark.parametrize("name", [*UNEDITABLE_FIELDS, "Content-Length", "TRANSFER-ENCODING"])
def test_framing_and_hop_by_hop_fields_are_refused(name: str) -> None:
    for edits in ({"remove": (name,)}, {"set": {name: "1"}}, {"add": {name: "1"}}):
        with pytest.raises(ValueError, match="cannot be edited"):
            edited(**edits)


def test_host_is_neither_added_nor_removed() -> None:
    for edits in ({"remove": ("Host",)}, {"add": {"host": "b"}}):
        with pytest.raises(ValueError, match="exactly one"):
            edited(**edits)


@pytest.mark.parametrize("value", ["a\r\nb", "a\n", "\r", "\0"])
def test_a_value_that_would_break_out_of_its_line_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        edited(set={"X": value})


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "é"])
def test_what_is_no_field_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no field name"):
        edited(remove=(name,))
