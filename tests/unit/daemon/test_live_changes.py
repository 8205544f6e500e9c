"""Live weights, drains and added backends: what holds, what a reload ends, what a file of them gives back."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.admin.changes import RefusedChangeError, UnknownBackendError
from balancer.config import model
from balancer.daemon.live_changes import VERSION, DamagedChangesError, Layers, LiveChanges
from tests.support.admin_address import backend, file_of

FILE = file_of(
    model.Pool(name="api", backends=(backend("a", weight=3), backend("b"))),
    model.Pool(name="web", backends=(backend("a"),)),
)


def changed(name: str = "a", *, weight: int | None = None, drained: bool | None = None) -> LiveChanges:
    """A change of a backend of the pool api, and nothing else."""
    return LiveChanges().with_change(FILE, "api", name, weight=weight, drained=drained)


def with_api(*backends: model.Backend) -> model.Config:
    """The file with other backends in its pool api."""
    return file_of(model.Pool(name="api", backends=backends), FILE.pools[1])


def names(config: model.Config, pool: str) -> list[str]:
    return [entry.name for one in config.pools if one.name == pool for entry in one.backends]


# ---- changes


def test_without_changes_the_file_holds() -> None:
    live = LiveChanges()
    assert not live
    assert (live.weight("api", "a"), live.drained("api", "a"), live.source("api", "a")) == (None, False, "file")
    assert live.apply(FILE) is FILE
    assert list(live.words()) == []


def test_a_change_holds_for_its_backend_alone() -> None:
    live = changed(weight=7, drained=True)
    assert (live.weight("api", "a"), live.drained("api", "a")) == (7, True)
    for pool, name in (("api", "b"), ("web", "a")):
        assert (live.weight(pool, name), live.drained(pool, name)) == (None, False)


def test_weight_and_drain_are_changed_one_without_the_other() -> None:
    live = changed(weight=7).with_change(FILE, "api", "a", weight=None, drained=True)
    assert (live.weight("api", "a"), live.drained("api", "a")) == (7, True)
    live = live.with_change(FILE, "api", "a", weight=0, drained=None)
    assert (live.weight("api", "a"), live.drained("api", "a")) == (0, True)
    live = live.with_change(FILE, "api", "a", weight=None, drained=False)
    assert (live.weight("api", "a"), live.drained("api", "a")) == (0, False)


def test_what_equals_the_file_is_no_change() -> None:
    live = changed(weight=7, drained=True).with_change(FILE, "api", "a", weight=3, drained=False)
    assert not live
    assert not changed(weight=3)


def test_a_change_leaves_the_one_before_as_it_was() -> None:
    before = changed(weight=7)
    before.with_change(FILE, "api", "a", weight=9, drained=True)
    before.with_backend(FILE, "api", backend("c"))
    assert (len(before), before.weight("api", "a"), before.drained("api", "a")) == (1, 7, False)


@pytest.mark.parametrize(
    ("pool", "name", "code", "told"),
    [("apo", "a", "unknown_pool", "`api`, `web`"), ("api", "z", "unknown_backend", "`a`, `b`")],
)
def test_what_is_not_there_is_told_with_what_is(pool: str, name: str, code: str, told: str) -> None:
    with pytest.raises(UnknownBackendError, match=f"there are: {told}$") as changing:
        LiveChanges().with_change(FILE, pool, name, weight=1, drained=None)
    with pytest.raises(UnknownBackendError, match=f"there are: {told}$") as deleting:
        LiveChanges().without_backend(FILE, pool, name)
    assert (changing.value.code, deleting.value.code) == (code, code)


def test_of_many_names_a_few_are_told() -> None:
    many = with_api(*(backend(f"n{number}") for number in range(2000)))
    with pytest.raises(UnknownBackendError, match=r"`n4` and 1,995 more$"):
        LiveChanges().with_change(many, "api", "x", weight=1, drained=None)


# ---- added backends


def test_an_added_backend_stands_after_those_of_the_file() -> None:
    live = LiveChanges().with_backend(FILE, "api", backend("c")).with_backend(FILE, "web", backend("b"))
    assert names(live.apply(FILE), "api") == ["a", "b", "c"]
    assert names(live.apply(FILE), "web") == ["a", "b"]
    assert (live.source("api", "c"), live.source("api", "b"), live.source("web", "b")) == ("api", "file", "api")


def test_an_added_backend_can_be_changed_and_deleted_with_its_change() -> None:
    live = LiveChanges().with_backend(FILE, "api", backend("c")).with_change(FILE, "api", "c", weight=5, drained=True)
    assert (live.weight("api", "c"), live.drained("api", "c")) == (5, True)
    live = live.without_backend(FILE, "api", "c")
    assert not live
    assert live.apply(FILE) is FILE


@pytest.mark.parametrize("name", ["a", "c"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    live = LiveChanges().with_backend(FILE, "api", backend("c"))
    with pytest.raises(RefusedChangeError, match=f"`{name}`"):
        live.with_backend(FILE, "api", backend(name))


def test_a_backend_of_the_file_is_not_deleted() -> None:
    with pytest.raises(RefusedChangeError, match="drain it"):
        LiveChanges().without_backend(FILE, "api", "a")


@pytest.mark.parametrize(
    ("change", "told"), [({"host": "backend"}, "host to send"), ({"tls": model.PoolTls()}, "no name to verify")]
)
def test_a_pool_gets_no_backend_that_its_file_could_not_name(change: dict[str, object], told: str) -> None:
    plain = file_of(model.Pool(name="api"))
    strict = file_of(msgspec.structs.replace(plain.pools[0], **change))
    added = model.Backend(name="u", path="/run/u")
    with pytest.raises(RefusedChangeError, match=told):
        LiveChanges().with_backend(strict, "api", added)
    live, ended = LiveChanges().with_backend(plain, "api", added).carried_to(strict)
    assert not live
    assert told in ended[0]


# ---- reloads


def test_a_change_survives_a_reload_that_leaves_its_entry_alone() -> None:
    live, ended = changed(weight=7, drained=True).carried_to(with_api(backend("new"), backend("a", weight=3)))
    assert (live.weight("api", "a"), live.drained("api", "a"), ended) == (7, True, [])


@pytest.mark.parametrize(
    "entry",
    [
        backend("a", weight=4),
        backend("a", weight=7),
        backend("a", weight=3, port=9999),
        msgspec.structs.replace(backend("a", weight=3), backup=True),
        msgspec.structs.replace(backend("a", weight=3), max_connections=9),
    ],
    ids=["weight", "to the live weight", "address", "backup", "max_connections"],
)
def test_a_changed_entry_wins(entry: model.Backend) -> None:
    live, ended = changed(weight=7, drained=True).carried_to(with_api(entry))
    assert not live
    assert ended == ["pool api: backend a: its entry changed, which ends: live weight 7 instead of 3, drained"]


def test_what_left_the_file_comes_back_as_the_file_says() -> None:
    gone, _ = changed(weight=7, drained=True).carried_to(with_api(backend("b")))
    back, _ = gone.carried_to(FILE)
    assert not back


def test_an_added_backend_survives_reloads_with_its_changes() -> None:
    live = LiveChanges().with_backend(FILE, "api", backend("c")).with_change(FILE, "api", "c", weight=5, drained=True)
    empty = with_api()
    for file in (empty, FILE):
        live, ended = live.carried_to(file)
        assert (names(live.apply(file), "api")[-1], live.weight("api", "c"), ended) == ("c", 5, [])


def test_the_file_takes_over_a_name_that_was_added() -> None:
    live = (
        LiveChanges()
        .with_backend(FILE, "api", backend("c", port=1))
        .with_change(FILE, "api", "c", weight=5, drained=None)
    )
    file = with_api(backend("c", port=2))
    assert [entry.port for entry in live.apply(file).pools[0].backends] == [2]
    live, ended = live.carried_to(file)
    assert not live
    assert live.source("api", "c") == "file"
    assert len(ended) == 2


def test_an_added_backend_ends_with_its_pool() -> None:
    live = LiveChanges().with_backend(FILE, "web", backend("c")).with_change(FILE, "web", "c", weight=5, drained=None)
    live, ended = live.carried_to(file_of(FILE.pools[0]))
    assert not live
    assert ended == ["pool web: backend c: it was added, and ends with its pool"]


def test_words_tell_every_difference_from_the_file() -> None:
    live = changed(weight=7, drained=True).with_backend(FILE, "web", backend("c", host="::1", port=80))
    assert list(live.words()) == [
        "pool web: backend c: added, [::1]:80, weight 1",
        "pool api: backend a: live weight 7 instead of 3, drained",
    ]


# ---- the saved form


def test_what_is_saved_is_read_back_as_it_was() -> None:
    live = changed(weight=7, drained=True).with_backend(FILE, "web", backend("c", host="::1", weight=0))
    again = LiveChanges.from_bytes(live.to_bytes())
    assert again.to_bytes() == live.to_bytes()
    assert (again.weight("api", "a"), again.drained("api", "a"), again.source("web", "c")) == (7, True, "api")
    assert again.apply(FILE) == live.apply(FILE)
    assert not LiveChanges.from_bytes(LiveChanges().to_bytes())


def test_a_form_of_another_version_is_refused_by_its_number() -> None:
    data = b'{"version":%d,"anything":1}' % (VERSION + 1)
    with pytest.raises(DamagedChangesError, match=f"its version is {VERSION + 1}"):
        LiveChanges.from_bytes(data)


SAVED = changed(weight=7).with_backend(FILE, "web", backend("c", weight=9)).to_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"version":1}',
        b'{"version":"1","changes":[],"added":[]}',
        SAVED.replace(b'"weight":7', b'"weight":70000'),
        SAVED.replace(b'"weight":9', b'"weight":-9'),
        SAVED.replace(b'"pool":"api"', b'"pool":"\xff"'),
    ],
)
def test_a_damaged_form_is_told_as_such(data: bytes) -> None:
    with pytest.raises(DamagedChangesError):
        LiveChanges.from_bytes(data)


@given(st.integers(0, len(SAVED) - 1), st.integers(0, 255))
def test_no_byte_that_changed_is_more_than_damage(at: int, byte: int) -> None:
    data = SAVED[:at] + bytes([byte]) + SAVED[at + 1 :]
    try:
        live = LiveChanges.from_bytes(data)
    except DamagedChangesError:
        return
    live.carried_to(FILE)
    live.apply(FILE)


def test_the_end_of_a_drain_is_told_when_its_backend_leaves_the_file() -> None:
    live = LiveChanges().with_change(FILE, "web", "a", weight=None, drained=True)
    without = msgspec.structs.replace(FILE.pools[0], backends=FILE.pools[0].backends[1:])
    live, ended = live.carried_to(file_of(without))
    assert not live
    assert ended == ["pool web: backend a: it is no more, which ends: drained"]


# ---- with what is said everywhere


class Everywhere:
    """The same of every backend."""

    def __init__(self, said_weight: int | None, *, said_drained: bool) -> None:
        self.said_weight = said_weight
        self.said_drained = said_drained

    def weight(self, pool: str, name: str) -> int | None:
        return self.said_weight

    def drained(self, pool: str, name: str) -> bool:
        return self.said_drained


@pytest.mark.parametrize(
    ("here", "everywhere", "weight", "by"),
    [
        (None, None, 3, None),
        (7, None, 7, "balancer"),
        (0, None, 0, "balancer"),
        (None, 5, 5, "cluster"),
        (7, 5, 5, "cluster"),
        (7, 0, 0, "cluster"),
        (0, 5, 5, "cluster"),
        (None, 3, 3, "cluster"),
        (7, 3, 3, "cluster"),
    ],
)
def test_the_weight_is_what_is_said_everywhere_else_what_is_said_here_else_the_entrys(
    here: int | None, everywhere: int | None, weight: int, by: str | None
) -> None:
    layers = Layers(changed(weight=here), Everywhere(everywhere, said_drained=False))
    assert layers.in_use("api", FILE.pools[0].backends[0]) == (weight, False)
    assert (layers.weight("api", "a") or weight, layers.weight_by("api", "a")) == (weight, by)


@pytest.mark.parametrize(
    ("here", "everywhere", "by"),
    [
        (False, False, ()),
        (True, False, ("balancer",)),
        (False, True, ("cluster",)),
        (True, True, ("balancer", "cluster")),
    ],
)
def test_a_backend_is_drained_when_here_or_everywhere_it_is(here: bool, everywhere: bool, by: tuple[str, ...]) -> None:
    layers = Layers(changed(drained=here), Everywhere(None, said_drained=everywhere))
    drained = here or everywhere
    assert layers.in_use("api", FILE.pools[0].backends[0]) == (3, drained)
    assert (layers.drained("api", "a"), layers.drained_by("api", "a")) == (drained, by)


def test_another_entry_ends_what_was_said_here_and_not_what_is_said_everywhere() -> None:
    live = changed(weight=7, drained=True)
    other = backend("a", weight=4)
    assert Layers(live).in_use("api", other) == (4, False)
    assert Layers(live, Everywhere(5, said_drained=True)).in_use("api", other) == (5, True)


def test_a_balancer_on_its_own_has_what_is_said_here() -> None:
    live = changed(weight=7, drained=True).with_backend(FILE, "api", backend("c"))
    layers = Layers(live)
    assert (layers.weight("api", "a"), layers.drained("api", "a")) == (7, True)
    assert (layers.weight_by("api", "a"), layers.drained_by("api", "a")) == ("balancer", ("balancer",))
    assert (layers.weight_by("api", "b"), layers.drained_by("api", "b")) == (None, ())
    assert (layers.source("api", "a"), layers.source("api", "c")) == ("file", "api")


def test_file_is_the_weight_of_the_entry() -> None:
    live = changed(weight=7, drained=True).with_change(FILE, "api", "a", weight="file", drained=None)
    assert (live.weight("api", "a"), live.drained("api", "a")) == (None, True)
    assert live.changed() == [("api", "a")]
