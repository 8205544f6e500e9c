"""What a cluster says of backends: keys and values, what is known of them, and whose word is the later one."""

import json
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.admin.changes import LiveWeight
from balancer.config import model
from balancer.daemon.cluster import changes
from balancer.daemon.cluster.changes import (
    ENTRIES_MAX,
    PREFIX,
    VALUE_MAX,
    Change,
    KnownChanges,
    Place,
    UnreadableChangeError,
    change_of,
    changed,
    key_of,
    place_of,
)

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
A: Place = ("web", "a")
KEY_A = key_of(*A).encode()


def said(weight: int | None = None, *, drained: bool = False) -> Change:
    return Change(weight=weight, drained=drained, by="lb1", at="2026-11-21T12:00:00Z")


def value(weight: int | None = None, *, drained: bool = False) -> bytes:
    return said(weight, drained=drained).to_bytes()


def keys_of(**backends: bytes) -> list[tuple[bytes, bytes, int]]:
    """What stands at the keys of backends of the pool web, each written at the revision of its place in the list."""
    return [(key_of("web", name).encode(), found, at) for (name, found), at in zip(backends.items(), count(1))]


def known_of(**backends: bytes) -> KnownChanges:
    known = KnownChanges()
    known.read(keys_of(**backends), 10, 1)
    return known


# ---- keys and values


@given(NAMES, NAMES)
def test_every_pool_and_backend_has_a_key_that_means_it(pool: str, name: str) -> None:
    key = key_of(pool, name)
    assert key.isascii()
    assert place_of(key.encode()) == (pool, name)


def test_a_key_is_what_is_documented() -> None:
    assert key_of("api", "10.0.0.7:80") == "/balancer/changes/api/10.0.0.7%3A80"


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"/balancer/changes/",
        b"/balancer/changes/web",
        b"/balancer/changes/web/",
        b"/balancer/changes//a",
        b"/balancer/changes/web/a/b",
        b"/balancer/changes/web/%61",
        b"/balancer/changes/web/a:b",
        b"/balancer/changes/web/%3a",
        b"/balancer/changes/web/%ff",
        b"/balancer/changes/web/\xff",
        b"/balancer/changes/web/%",
        b"web/a",
    ],
)
def test_a_key_that_is_written_otherwise_is_none(key: bytes) -> None:
    with pytest.raises(UnreadableChangeError):
        place_of(key)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_key_or_told_to_be_none(rest: bytes) -> None:
    key = PREFIX.encode() + rest
    try:
        place = place_of(key)
    except UnreadableChangeError:
        return
    assert key_of(*place).encode() == key


def test_a_value_is_what_is_documented() -> None:
    assert json.loads(value(3, drained=True)) == {
        "version": 1, "weight": 3, "drained": True, "by": "lb1", "at": "2026-11-21T12:00:00Z",
    }  # fmt: skip
    assert json.loads(value(drained=True))["weight"] is None


@pytest.mark.parametrize(
    ("found", "change"),
    [
        (value(3, drained=True), said(3, drained=True)),
        (b'{"version": 1, "drained": true}', Change(drained=True)),
        (b'{"version": 1, "weight": 0, "new": {"later": 1}}', Change(weight=0)),
        (b'{"version": 1}', Change()),
    ],
)
def test_a_value_is_read(found: bytes, change: Change) -> None:
    assert change_of(found) == change


@pytest.mark.parametrize(
    "found",
    [
        b"",
        b"drain",
        b"[]",
        b"\xff",
        b'{"drained": true}',
        b'{"version": 2, "drained": true}',
        b'{"version": "1", "drained": true}',
        b'{"version": 1, "weight": -1}',
        b'{"version": 1, "weight": 65536}',
        b'{"version": 1, "weight": 1.5}',
        b'{"version": 1, "weight": "3"}',
        b'{"version": 1, "drained": 1}',
        b'{"version": 1, "by": 7}',
        b'{"version": 1, "by": "%s"}' % (b"x" * VALUE_MAX),
        b"[" * VALUE_MAX,
    ],
)
def test_a_value_that_is_none_of_ours_is_told_to_be_unreadable(found: bytes) -> None:
    with pytest.raises(UnreadableChangeError):
        change_of(found)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_told_to_be_none(found: bytes) -> None:
    try:
        change = change_of(found)
    except UnreadableChangeError:
        return
    assert change_of(change.to_bytes()) == change


# ---- saying something


@pytest.mark.parametrize(
    ("before", "weight", "drained", "after"),
    [
        (None, 3, None, said(3)),
        (None, 0, None, said(0)),
        (None, None, True, said(drained=True)),
        (None, 3, True, said(3, drained=True)),
        (said(3), None, True, said(3, drained=True)),
        (said(drained=True), 3, None, said(3, drained=True)),
        (said(3, drained=True), 5, None, said(5, drained=True)),
        (said(3, drained=True), None, False, said(3)),
        (said(3, drained=True), "file", None, said(drained=True)),
        (said(3, drained=True), "file", False, None),
        (said(3), "file", None, None),
        (said(drained=True), None, False, None),
        (None, "file", None, None),
        (None, None, False, None),
    ],
)
def test_one_half_is_changed_and_the_other_stays(
    before: Change | None, weight: LiveWeight | None, drained: bool | None, after: Change | None
) -> None:
    found = changed(before, weight=weight, drained=drained, by="lb1", at="2026-11-21T12:00:00Z")
    assert found == after


def test_who_said_it_first_is_told_when_it_is_said_again() -> None:
    first = said(3, drained=True)
    assert changed(first, weight=3, drained=True, by="lb2", at="later") is first
    again = changed(first, weight=4, drained=None, by="lb2" * 1000, at="later")
    assert again is not None
    assert (again.by[:3], again.at) == ("lb2", "later")
    assert len(again.to_bytes()) < VALUE_MAX


# ---- what is known


def test_what_is_read_is_all_that_is_known() -> None:
    known = known_of(a=value(3), b=value(drained=True))
    assert (known.of("web", "a"), known.of("web", "b"), known.of("web", "c")) == (said(3), said(drained=True), None)
    assert known.read(keys_of(b=value(7), c=value(1)), 20, 1).changed == [("web", name) for name in "abc"]
    assert (len(known), known.of("web", "a"), known.of("web", "b")) == (2, None, said(7))


def test_only_what_makes_a_difference_is_told_to_be_changed() -> None:
    known = known_of(a=value(3))
    other = Change(weight=3, by="somebody else", at="later")
    assert known.read(keys_of(a=other.to_bytes()), 20, 1).changed == []
    assert known.of("web", "a") == other
    assert known.heard(KEY_A, value(3), 21).changed == []
    assert known.heard(KEY_A, value(4), 22).changed == [A]
    assert known.heard(KEY_A, None, 23).changed == [A]
    assert known.heard(KEY_A, None, 24).changed == []
    assert known.heard(KEY_A, Change(by="lb1").to_bytes(), 25).changed == []
    assert len(known) == 0


def test_an_own_write_counts_at_once_and_news_from_before_it_does_not() -> None:
    known = known_of()
    assert known.wrote(A, said(5), 13).changed == [A]
    for revision, older in ((11, value(1)), (12, None)):
        assert known.heard(KEY_A, older, revision).changed == []
        assert known.of(*A) == said(5)
    assert known.heard(KEY_A, value(5), 13).changed == []
    assert known.heard(KEY_A, value(6), 14).changed == [A]


def test_an_own_end_counts_at_once_and_news_from_before_it_brings_nothing_back() -> None:
    known = known_of(a=value(3))
    assert known.wrote(A, None, 13).changed == [A]
    assert known.heard(KEY_A, value(4), 12).changed == []
    assert known.heard(KEY_A, None, 13).changed == []
    assert known.of(*A) is None
    assert known.heard(KEY_A, value(4), 14).changed == [A]


def test_an_answer_that_comes_late_overrules_nothing_that_was_heard() -> None:
    known = known_of()
    known.heard(KEY_A, value(6), 14)
    assert known.wrote(A, said(5), 13).changed == []
    assert known.of(*A) == said(6)


def test_of_two_answers_the_later_write_counts_whichever_comes_first() -> None:
    known = known_of()
    known.wrote(A, said(6), 14)
    assert known.wrote(A, said(5), 13).changed == []
    assert known.of(*A) == said(6)


def test_what_was_read_before_an_own_write_does_not_overrule_it() -> None:
    known = known_of(a=value(3))
    known.wrote(A, said(5), 13)
    known.wrote(("web", "b"), None, 13)
    assert known.read(keys_of(a=value(4), b=value(4)), 12, 1).changed == []
    assert (known.of(*A), known.of("web", "b")) == (said(5), None)
    known.read(keys_of(a=value(4), b=value(4)), 13, 1)
    assert (known.of(*A), known.of("web", "b")) == (said(4), said(4))


def test_revisions_of_another_cluster_overrule_nothing() -> None:
    known = known_of()
    known.wrote(A, said(5), 1_000_000)
    known.read(keys_of(a=value(4)), 7, 2)
    assert known.of(*A) == said(4)


@given(st.data())
def test_whatever_comes_first_the_last_word_counts(data: st.DataObject) -> None:
    """Writes of one key by two balancers; this one's answers come at any time around the watch's news."""
    writes = data.draw(st.lists(st.tuples(st.booleans(), st.sampled_from([None, 0, 1, 2])), min_size=1, max_size=8))
    history = [(own, None if weight is None else said(weight)) for own, weight in writes]
    known = known_of()
    heard = answered = 0
    own = [at for at, (mine, _) in enumerate(history) if mine]
    while heard < len(history) or answered < len(own):
        latest = max([heard - 1, *own[:answered]])
        if latest >= 0:
            assert known.of(*A) == history[latest][1]
        if answered < len(own) and (heard == len(history) or data.draw(st.booleans())):
            known.wrote(A, history[own[answered]][1], 11 + own[answered])
            answered += 1
        else:
            change = history[heard][1]
            known.heard(KEY_A, None if change is None else change.to_bytes(), 11 + heard)
            heard += 1
    assert known.of(*A) == history[-1][1]


# ---- what cannot be used


def test_an_unreadable_value_says_nothing_and_is_told_once() -> None:
    known = known_of(a=value(drained=True))
    taken = known.heard(KEY_A, b"drain", 11)
    assert (taken.changed, [key for key, _ in taken.ignored]) == ([A], [KEY_A.decode()])
    assert known.of(*A) is None
    for revision in (12, 13):
        assert known.read([(KEY_A, b"drain", 11)], revision, 1) == ([], [], False)
    assert [key for key, _ in known.read([(KEY_A, b"other", 14)], 14, 1).ignored] == [KEY_A.decode()]
    assert known.heard(KEY_A, value(3), 15) == ([A], [], False)


def test_a_key_that_is_none_is_told_once_and_stands_in_nobodys_way() -> None:
    known = known_of()
    bad = b"/balancer/changes/web/\xff"
    assert [key for key, _ in known.heard(bad, value(3), 11).ignored] == ["/balancer/changes/web/\\xff"]
    assert known.read([(bad, value(3), 11), (KEY_A, value(3), 9)], 12, 1) == ([A], [], False)
    assert known.heard(bad, None, 13) == ([], [], False)


def test_there_is_a_bound_which_is_told_once_and_read_anew_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "ENTRIES_MAX", 2)
    known = KnownChanges()
    keys = keys_of(a=value(1), b=b"unreadable", c=value(3))
    taken = known.read(keys, 10, 1)
    assert (taken.changed, len(taken.ignored)) == ([A], 2)
    assert "2 keys are known" in taken.ignored[1][1]
    assert len(known.read(keys, 11, 1).ignored) == 0
    assert not known.has_room_for(("web", "d"))
    assert known.has_room_for(A)
    assert known.heard(key_of("web", "d").encode(), value(4), 12) == ([], [], False)
    assert known.heard(KEY_A, value(7), 13) == ([A], [], False), "it is known already"
    assert known.heard(KEY_A, None, 14) == ([A], [], True)
    assert known.read(keys[2:], 14, 1).changed == [("web", "c")]
    assert not known.heard(keys[2][0], None, 15).anew
    assert known.has_room_for(("web", "d"))


def test_a_key_that_was_unreadable_has_its_place_when_it_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "ENTRIES_MAX", 1)
    known = known_of(a=b"unreadable")
    assert known.has_room_for(A)
    assert not known.has_room_for(("web", "b"))
    assert known.heard(KEY_A, value(3), 11) == ([A], [], False)
    known = known_of(a=b"unreadable")
    known.wrote(A, None, 11)
    assert known.has_room_for(("web", "b"))


def test_the_bound_is_ten_thousand() -> None:
    known = KnownChanges()
    keys = [(key_of("web", f"b{number}").encode(), value(2), 1) for number in range(ENTRIES_MAX + 5)]
    assert len(known.read(keys, 1, 1).ignored) == 1
    assert len(known) == ENTRIES_MAX == 10_000


# ---- for people, and over a restart


def test_all_of_it_is_told_in_words() -> None:
    known = known_of(b=value(drained=True), a=value(3, drained=True), gone=value(0), c=value(1))
    entries = {name: model.Backend(name=name, host="127.0.0.1", port=1) for name in "abc"}
    by = "in the whole cluster, said at `lb1` (2026-11-21T12:00:00Z)"
    assert list(known.words({"web": entries})) == [
        f"pool web: backend a: weight 3 instead of 1, drained {by}",
        f"pool web: backend b: drained {by}",
        f"pool web: backend c: weight 1 {by}",
        f"pool web: backend gone: weight 0 {by}, and there is no such backend here",
    ]
    assert (
        next(iter(known.words({}))) == f"pool web: backend a: weight 3, drained {by}, and there is no such backend here"
    )


def test_what_others_wrote_is_told_without_its_control_characters() -> None:
    known = known_of(a=Change(drained=True, by="\x1b[1m", at="\x1b[2m").to_bytes())
    assert "\x1b" not in "".join(known.words({}))


DRAINED = st.builds(Change, weight=st.none() | st.integers(0, 65535), drained=st.just(True))


@given(st.dictionaries(st.tuples(NAMES, NAMES), DRAINED))
def test_what_is_saved_is_known_again(entries: dict[Place, Change]) -> None:
    known = KnownChanges.from_bytes(KnownChanges(entries.items()).to_bytes())
    assert {place: known.of(*place) for place in known.places()} == entries


def test_what_the_cluster_says_overrules_what_was_saved() -> None:
    known = KnownChanges.from_bytes(known_of(a=value(3), b=value(drained=True)).to_bytes())
    assert known.read(keys_of(a=value(4)), 5, 1).changed == [A, ("web", "b")]
    assert (len(known), known.of(*A)) == (1, said(4))


@pytest.mark.parametrize(
    "saved",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "changes": []}',
        b'{"version": 1}',
        b'{"version": 1, "changes": [{"pool": 1}]}',
    ],
)
def test_a_damaged_file_is_told_to_be_so(saved: bytes) -> None:
    with pytest.raises(UnreadableChangeError):
        KnownChanges.from_bytes(saved)
