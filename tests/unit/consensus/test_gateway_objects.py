"""Cutting a stream of JSON objects, however the network cut it before."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.consensus.gateway_objects import JsonObjects
from balancer.coordination.errors import Code, CoordinationError

TEXT = b' {"a":"}\\"{\\\\"}\n{}{"b":[{"c":"]"},[]]}\t {"d":"\\u007d"}'
OBJECTS = [b'{"a":"}\\"{\\\\"}', b"{}", b'{"b":[{"c":"]"},[]]}', b'{"d":"\\u007d"}']


@pytest.mark.parametrize("size", range(1, len(TEXT) + 1))
def test_objects_are_found_however_the_text_is_cut(size: int) -> None:
    objects = JsonObjects(1000)
    found = [one for start in range(0, len(TEXT), size) for one in objects.feed(TEXT[start : start + size])]
    assert found == OBJECTS
    assert objects.rest == b""


@given(st.lists(st.dictionaries(st.text(), st.text() | st.lists(st.text()))), st.integers(1, 7))
def test_any_objects_come_out_as_they_went_in(values: list[dict[str, object]], size: int) -> None:
    text = b" ".join(json.dumps(value).encode() for value in values)
    objects = JsonObjects(10_000)
    found = [one for start in range(0, len(text), size) for one in objects.feed(text[start : start + size])]
    assert [json.loads(one) for one in found] == values


def test_what_is_not_complete_is_kept_and_shown() -> None:
    objects = JsonObjects(1000)
    assert list(objects.feed(b'{"a":1} {"b"')) == [b'{"a":1}']
    assert objects.rest == b'{"b"'


@pytest.mark.parametrize("text", [b"[]", b"5", b"null", b'"x"', b"}", b"{}]", b" \n\x00"])
def test_what_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(CoordinationError) as caught:
        list(JsonObjects(1000).feed(text))
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_objects_before_a_fault_are_found() -> None:
    found = JsonObjects(1000).feed(b'{}{"a":1}[')
    assert (next(found), next(found)) == (b"{}", b'{"a":1}')
    with pytest.raises(CoordinationError):
        next(found)


def test_an_object_that_does_not_end_is_refused_at_its_bound() -> None:
    objects = JsonObjects(100)
    assert list(objects.feed(b'{"a":"' + b"x" * 94)) == []
    with pytest.raises(CoordinationError, match="too large"):
        list(objects.feed(b"x"))


@pytest.mark.parametrize("size", [1, 7, 50, 1000])
def test_an_object_that_is_too_large_is_refused_however_it_comes(size: int) -> None:
    for text in (b'{"a":"' + b"x" * 93 + b'"}', b'{"a":[' + b"[]" * 46 + b" ]}", b"{" + b" " * 99 + b"}"):
        objects = JsonObjects(100)
        with pytest.raises(CoordinationError, match="too large"):
            for start in range(0, len(text), size):
                assert not list(objects.feed(text[start : start + size]))
        assert list(JsonObjects(101).feed(b" " * 7 + text)) == [text]


def test_white_space_is_not_kept() -> None:
    objects = JsonObjects(100)
    for _ in range(100):
        assert list(objects.feed(b" \n" * 100)) == []
    assert list(objects.feed(b"{}")) == [b"{}"]
