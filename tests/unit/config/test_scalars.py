"""Scalars: YAML 1.2 core and our units, nothing guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.scalars import Quoted, boolean, duration, integer, share, shown, size, substitute


@pytest.mark.parametrize("text", ["true", "True", "TRUE"])
def test_true_is_true(text: str) -> None:
    assert boolean(text) is True


@pytest.mark.parametrize("text", ["false", "False", "FALSE"])
def test_false_is_false(text: str) -> None:
    assert boolean(text) is False


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("on", "write true"),
        ("yes", "write true"),
        ("1", "write true"),
        ("off", "write false"),
        ("No", "write false"),
        ("maybe", "write true or false"),
        ("tRue", "without quotes"),
        (Quoted("true"), "write true without quotes"),
    ],
)
def test_nothing_else_is_a_boolean_and_the_message_says_what_is(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        boolean(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("0100", 100), ("-7", -7), ("+7", 7), ("0o17", 15), ("0x1F", 31), ("9" * 18, 10**18 - 1)],
)
def test_integers_are_those_of_the_core_schema(text: str, value: int) -> None:
    assert integer(text) == value


@pytest.mark.parametrize("text", ["1:30", "1_000", "1e3", "1.0", "0b1", "٣", "", " 1", "9" * 30, "0o8", "-0x1", "ten"])
def test_other_texts_are_no_integers(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        integer(text)


def test_a_quoted_number_is_a_string() -> None:
    with pytest.raises(ValueError, match="write 5 without quotes"):
        integer(Quoted("5"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("2s", 2.0), ("1.5m", 90.0), ("1h", 3600.0), ("0s", 0.0), ("5 s", 5.0)]
)
def test_durations_have_a_unit(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("5", "write 5s"),
        ("2.5", "write 2.5s"),
        ("1:30", "such as 250ms"),
        ("5 sec", "units are ms, s, m and h"),
        ("-5s", "not a duration"),
        ("1m30s", "not a duration"),
        ("5d", "units are"),
        ("", "not a duration"),
    ],
)
def test_a_bad_duration_says_what_is_right(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        duration(text)


@given(st.integers(min_value=0, max_value=10**9), st.sampled_from(["ms", "s", "m", "h"]))
def test_every_number_with_a_unit_is_a_duration(number: int, unit: str) -> None:
    factor = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]
    assert duration(f"{number}{unit}") == pytest.approx(number * factor)


@pytest.mark.parametrize(
    ("text", "value"), [("512B", 512), ("64KiB", 65536), ("1.5MiB", 1572864), ("2GiB", 2**31), ("1TiB", 2**40)]
)
def test_sizes_have_a_unit(text: str, value: int) -> None:
    assert size(text) == value


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("64", "write 64B"),
        ("64k", "did you mean 64KiB"),
        ("1MB", "did you mean 1MiB"),
        ("5x", "units are B, KiB"),
        ("0.3B", "whole number of bytes"),
        ("big", "not a size"),
    ],
)
def test_a_bad_size_says_what_is_right(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        size(text)


@pytest.mark.parametrize(("text", "value"), [("20%", 0.2), ("0%", 0.0), ("100%", 1.0), ("2.5%", 0.025)])
def test_shares_are_percentages(text: str, value: float) -> None:
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize(("text", "right"), [("20", "write 20%"), ("101%", "0% to 100%"), ("0.2", "0% to 100%")])
def test_a_bad_share_says_what_is_right(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        share(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "one"),
        ("x${A}y${B}", "xoney"),
        ("${A:-two}", "one"),
        ("${B:-two}", "two"),
        ("${C:-}", ""),
        ("${C:-a:-b}", "a:-b"),
        ("$${A}", "${A}"),
        ("$$", "$"),
        ("^/a$", "^/a$"),
        ("$A", "$A"),
        ("${D}", "${A}"),
    ],
)
def test_variables_are_filled_in_once(text: str, value: str) -> None:
    assert substitute(text, {"A": "one", "B": "", "D": "${A}"}) == value


def test_a_missing_variable_without_default_is_named() -> None:
    with pytest.raises(ValueError, match=r"NOPE is not set; set it, or write \$\{NOPE:-default\}"):
        substitute("${NOPE}", {})


def test_a_variable_that_is_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="is not UTF-8"):
        substitute("${A}", {"A": b"\xff".decode("utf-8", "surrogateescape")})


@pytest.mark.parametrize("text", ["${", "${}", "${A", "${1}", "${A-b}", "${A B}"])
def test_a_malformed_variable_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a variable"):
        substitute(text, {"A": "1"})


@given(st.text())
def test_text_without_a_dollar_stays(text: str) -> None:
    clean = text.replace("$", "")
    assert substitute(clean, {}) == clean


def test_a_message_repeats_a_value_short_and_printable() -> None:
    assert shown("a\x1b[2J\n") == "`a\\x1b[2J\\n`"
    assert len(shown("x" * 10_000)) < 100
