"""What keys and values below a prefix mean, what of them is refused in which words, and what is kept then."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.model import Backend
from balancer.coordination.responses import KeyValue
from balancer.daemon.cluster import registrations
from balancer.daemon.cluster.registrations import (
    PROBLEMS_MAX,
    VALUE_MAX,
    DamagedRegistrationsError,
    Registrations,
    backend_of,
    from_bytes,
    name_of,
    to_bytes,
)

PREFIX = "/services/api/"


def key(name: str) -> bytes:
    return f"{PREFIX}{name}".encode()


def written(name: str, value: str, created: int = 1) -> KeyValue:
    return KeyValue(key=key(name), value=value.encode(), create_revision=created)


def registered(**values: str) -> Registrations:
    """Keys in the order given."""
    made = Registrations(PREFIX)
    for created, (name, value) in enumerate(values.items(), start=1):
        made.put(written(name, value, created))
    return made


def names(known: Registrations) -> list[str]:
    return [backend.name for backend in known.backends]


# ---- values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10.0.0.5:8080", Backend(name="x", host="10.0.0.5", port=8080)),
        (" 10.0.0.5:8080\n", Backend(name="x", host="10.0.0.5", port=8080)),
        ("[::1]:8080", Backend(name="x", host="::1", port=8080)),
        ("App.Example:80", Backend(name="x", host="app.example", port=80)),
        ("http://10.0.0.5:8080", Backend(name="x", host="10.0.0.5", port=8080)),
        ("http://10.0.0.5:8080/", Backend(name="x", host="10.0.0.5", port=8080)),
        ("http://app.example", Backend(name="x", host="app.example", port=80)),
        ("http://[::1]", Backend(name="x", host="::1", port=80)),
        ('{"address": "10.0.0.5:8080"}', Backend(name="x", host="10.0.0.5", port=8080)),
        (
            '{"address": "http://a:1", "weight": 0, "backup": true, "max_connections": 9}',
            Backend(name="x", host="a", port=1, weight=0, backup=True, max_connections=9),
        ),
        ('{"address": "a:1", "max_connections": null, "name": 5, "zone": {}}', Backend(name="x", host="a", port=1)),
        ('{"Op":0,"Addr":"10.0.0.5:8080","Metadata":null}', Backend(name="x", host="10.0.0.5", port=8080)),
        ('{"address": "a:1", "Addr": "b:2"}', Backend(name="x", host="a", port=1)),
    ],
)
def test_a_value_is_an_address_or_json_with_one(value: str, expected: Backend) -> None:
    assert backend_of("x", value.encode()) == expected


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"", "lacks its port"),
        (b"10.0.0.5", "lacks its port"),
        (b"8080", "is only a port"),
        (b"10.0.0.5:0", "a port is 1 to 65535"),
        (b"10.0.0.5:99999", "a port is 1 to 65535"),
        (b"10.0.0.500:80", "neither an IP address nor a host name"),
        (b"::1:80", "stands in brackets"),
        (b"unix:/run/app.sock", "on its own machine only; write host:port"),
        (b'{"address": "unix:/run/app.sock"}', "on its own machine only; write host:port"),
        (b"https://a:1", "the pool's `tls`"),
        (b"ftp://a:1", "is a URL; write host:port"),
        (b"http://a:1/path", "more than an address"),
        (b"http://user@a:1", "more than an address"),
        (b"\xff\xfe", "not UTF-8"),
        (b"{", "JSON looks like"),
        (b"{}", "lacks its address"),
        (b'{"address": null}', "lacks its address"),
        (b'{"address": 80}', "Expected `str | null`, got `int` - at `$.address`"),
        (b'{"address": "a:1", "weight": "2"}', "Expected `int`, got `str` - at `$.weight`"),
        (b'{"address": "a:1", "weight": -1}', "at `$.weight`"),
        (b'{"address": "a:1", "weight": 65536}', "at `$.weight`"),
        (b'{"address": "a:1", "max_connections": 0}', "at `$.max_connections`"),
        (b'{"address": "a:1", "backup": 1}', "at `$.backup`"),
        (b'{"address": "a:1"} b', "JSON looks like"),
        (b"a" * (VALUE_MAX + 1), "at most 4,096 are taken"),
        (b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b"}", "JSON looks like"),
    ],
)
def test_a_value_that_cannot_be_used_says_why(value: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as refused:
        backend_of("x", value)
    assert told in str(refused.value)
    assert str(refused.value).isprintable()


# ---- keys


@pytest.mark.parametrize(
    "name", ["a", "10.0.0.5:8080", "[::1]:80", "host-1:web_1:8080", "eu/zone-1/a", "7587869134526023430"]
)
def test_what_follows_the_prefix_is_the_name_slashes_and_all(name: str) -> None:
    assert name_of(PREFIX.encode(), key(name)) == name


@pytest.mark.parametrize("name", ["", "/a", " a", "a b", "ä", "a\n", "a" * 129, "a\0b", "<a>"])
def test_names_are_those_of_the_file(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        name_of(PREFIX.encode(), key(name))


def test_a_key_that_is_no_text_is_no_name() -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        name_of(PREFIX.encode(), key("") + b"\xff")


# ---- together


def test_backends_stand_in_the_order_in_which_they_registered() -> None:
    known = Registrations(PREFIX)
    for name, created in (("b", 5), ("a", 9), ("c", 2)):
        assert known.put(written(name, f"{name}:1", created))
    assert names(known) == ["c", "b", "a"]
    assert known.put(written("c", '{"address": "c:1", "weight": 2}', 2))
    assert names(known) == ["c", "b", "a"], "another value is no other registration"
    assert known.delete(key("c"))
    assert known.put(written("c", "c:1", 10))
    assert names(known) == ["b", "a", "c"]


def test_writing_the_same_again_changes_nothing() -> None:
    known = registered(a="a:1")
    assert not known.put(written("a", "a:1"))
    assert not known.put(written("a", '{"address": "http://a:1"}')), "other words for the same"
    assert not known.delete(key("b"))
    assert not known.replace([written("a", "a:1")])


def test_a_wrong_value_is_told_once_and_leaves_the_others_and_its_own_old_one_in_use() -> None:
    known = registered(a="a:1", b="b:1")
    assert not known.put(written("a", "nonsense"))
    assert not known.put(written("c", "unix:/x", 3))
    assert (names(known), known.wrong) == (["a", "b"], 2)
    told, untold = known.take_problems()
    assert [one for one, _ in told] == [f"{PREFIX}a", f"{PREFIX}c"]
    assert untold == 0
    known.put(written("a", "nonsense"))
    known.replace([written("a", "nonsense"), written("b", "b:1", 2), written("c", "unix:/x", 3)])
    assert known.take_problems() == ([], 0)
    known.put(written("a", "more nonsense"))
    assert len(known.take_problems()[0]) == 1
    assert known.backends[0] == Backend(name="a", host="a", port=1)


def test_a_value_that_is_right_again_is_used_and_no_longer_wrong() -> None:
    known = registered(a="a:1")
    known.put(written("a", "nonsense"))
    assert known.put(written("a", "a:2"))
    assert (known.backends[0].port, known.wrong, known.take_problems()) == (2, 0, ([], 0))
    known.put(written("a", "nonsense"))
    assert not known.put(written("a", "a:2"))
    assert known.wrong == 0


def test_a_key_that_was_deleted_and_came_again_unseen_does_not_keep_the_old_value() -> None:
    known = registered(a="a:1")
    assert known.replace([written("a", "nonsense", 7)])
    assert names(known) == []


def test_what_a_reading_does_not_have_is_gone() -> None:
    known = registered(a="a:1", b="b:1")
    assert known.replace([written("b", "b:1", 2), written("c", "c:1", 3)])
    assert names(known) == ["b", "c"]
    assert known.replace([])
    assert len(known) == 0


def test_problems_of_many_keys_are_counted() -> None:
    known = Registrations(PREFIX)
    for number in range(PROBLEMS_MAX + 5):
        known.put(written(f"n{number}", "nonsense"))
    told, untold = known.take_problems()
    assert (len(told), untold) == (PROBLEMS_MAX, 5)
    assert known.take_problems() == ([], 0)


def test_a_pool_takes_so_many_and_those_that_came_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registrations, "BACKENDS_MAX", 2)
    known = registered(d="d:1", c="c:1", b="b:1")
    assert (names(known), known.left_out) == (["d", "c"], 1)
    assert [one.name for one in known.to_saved().keys] == ["d", "c"]
    known.delete(key("d"))
    assert (names(known), known.left_out) == (["c", "b"], 0)


def test_keys_beyond_the_bound_are_not_kept_and_are_known_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registrations, "KEYS_MAX", 2)
    known = registered(a="a:1", b="b:1", c="c:1")
    assert (names(known), known.more, len(known)) == (["a", "b"], True, 2)
    assert known.put(written("a", "a:2")), "those that are kept are followed"
    known.delete(key("a"))
    assert known.more
    known.replace([written("b", "b:1", 2), written("c", "c:1", 3)])
    assert (names(known), known.more) == (["b", "c"], False)
    known.replace([written("b", "b:1", 2), written("c", "c:1", 3), written("d", "d:1", 4)])
    assert (names(known), known.more) == (["b", "c"], True)


# ---- saved


def test_what_was_saved_is_what_is_known_afterwards() -> None:
    known = registered(b="b:1", a='{"address": "a:1", "weight": 7}')
    known.put(written("b", "nonsense"))
    known.put(written("c", "nonsense", 9))
    again = from_bytes(to_bytes({"api": known, "empty": Registrations("/x/")}))
    assert again["api"].backends == known.backends
    assert again["api"].prefix == PREFIX
    assert again["empty"].backends == ()
    assert not again["api"].replace([written("b", "b:1", 1), written("a", '{"address": "a:1", "weight": 7}', 2)])


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"x", b"{}", b"\xff", b'{"version": 1}'),
        *(b'{"version": 2, "pools": {}}', b'{"version": 1, "pools": {"a": 1}}'),
    ],
)
def test_what_cannot_be_read_is_an_error_in_words(data: bytes) -> None:
    with pytest.raises(DamagedRegistrationsError, match=r"\w"):
        from_bytes(data)


def test_what_was_saved_is_checked_like_what_is_registered() -> None:
    pool = {"prefix": "/p/", "keys": [["a", "a:1", 1], ["b", "b:99999", 2], ["", "c:1", 3]]}
    data = msgspec.json.encode({"version": 1, "pools": {"api": pool}})
    assert names(from_bytes(data)["api"]) == ["a"]


# ---- whatever comes


ODD = st.sampled_from([b"a:1", b'{"address": "a:1"}', b'{"address": "\\ud800:1"}', b"http://a", b"{", b"\xff", b""])
TEXTS = st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace"))
VALUES = st.one_of(st.binary(max_size=60), ODD, TEXTS)
TAILS = st.binary(max_size=20).map(lambda tail: key("") + tail)
KEYS = st.one_of(st.sampled_from([key("a"), key("b"), key("")]), TAILS)
CHANGES = st.lists(st.tuples(KEYS, st.one_of(st.none(), VALUES), st.integers(1, 3)), max_size=12)


@given(changes=CHANGES)
def test_whatever_is_written_harms_nobody(changes: list[tuple[bytes, bytes | None, int]]) -> None:
    """What is in use is right by the rules, the same as before where nothing was said to change, and can be saved."""
    known = Registrations(PREFIX)
    known.put(written("safe", "10.0.0.1:80", 1))
    for where, value, created in changes:
        before = known.backends
        if where == key("safe"):
            continue
        if value is None:
            changed = known.delete(where)
        else:
            changed = known.put(KeyValue(key=where, value=value, create_revision=created))
        assert changed or known.backends == before
        assert "safe" in names(known)
        assert len(set(names(known))) == len(known.backends)
        for text in (f"{one} {told}" for one, told in known.take_problems()[0]):
            assert len(text) < 1000
            text.encode()
    assert from_bytes(to_bytes({"api": known}))["api"].backends == known.backends


@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))))
def test_whatever_stands_in_the_file_is_read_or_refused_in_words(data: bytes) -> None:
    with suppress(DamagedRegistrationsError):
        from_bytes(data)
