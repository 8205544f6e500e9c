"""What differs between two configurations is told completely, in words that name the thing, and nothing else is."""

import random
from typing import Any

import msgspec
import pytest

from balancer.config import model
from balancer.config.diff import LIVE_FIELDS, NAMES_MAX, Difference, difference


def backends(*names: str, **more: Any) -> tuple[model.Backend, ...]:
    return tuple(model.Backend(name=name, host=name, port=80, **more) for name in names)


def bind(port: int) -> model.Bind:
    return model.Bind(host="0.0.0.0", port=port)


def route(name: str, pool: str = "api", **more: Any) -> model.Route:
    return model.Route(name=name, action=model.PoolAction(pool=pool), **more)


BASE = model.Config(
    listeners=(model.Listener(name="web", bind=(bind(80),), routes=("orders", "everything")),),
    routes=(route("orders"), route("everything")),
    pools=(model.Pool(name="api", backends=backends("a", "b")), model.Pool(name="web", backends=backends("c"))),
)


def with_(**changes: Any) -> model.Config:
    return msgspec.structs.replace(BASE, **changes)


def with_pool(**changes: Any) -> model.Config:
    return with_(pools=(msgspec.structs.replace(BASE.pools[0], **changes), BASE.pools[1]))


def with_listener(**changes: Any) -> model.Config:
    return with_(listeners=(msgspec.structs.replace(BASE.listeners[0], **changes),))


def with_route(**changes: Any) -> model.Config:
    return with_(routes=(msgspec.structs.replace(BASE.routes[0], **changes), BASE.routes[1]))


TLS = model.ListenerTls(certificates=(model.Certificate(cert="a.pem", key="a.key"),))
TOLD: list[tuple[str, model.Config, model.Config, list[str]]] = [
    (
        "a backend comes, another goes",
        BASE,
        with_pool(backends=backends("b", "10.0.0.7:80")),
        ["pool api: +1 backend (10.0.0.7:80), a drains"],
    ),
    ("two go", BASE, with_pool(backends=()), ["pool api: a and b drain"]),
    (
        "many come",
        BASE,
        with_pool(backends=backends("a", "b", *map(str, range(20)))),
        ["pool api: +20 backends"],
    ),
    (
        "many go",
        with_pool(backends=backends(*map(str, range(1200)))),
        with_pool(backends=()),
        ["pool api: 1,200 backends drain"],
    ),
    (
        "a weight",
        BASE,
        with_pool(backends=(*backends("a"), *backends("b", weight=3))),
        ["pool api: b: weight 1 becomes 3"],
    ),
    (
        "an address",
        BASE,
        with_pool(backends=(*backends("a"), model.Backend(name="b", host="b", port=81))),
        ["pool api: another address for b"],
    ),
    (
        "settings of a pool",
        BASE,
        with_pool(strategy="random", timeouts=model.PoolTimeouts(first_byte=None)),
        ["pool api: strategy `round_robin` becomes `random`, timeouts.first_byte 60s becomes off"],
    ),
    (
        "health checks begin",
        BASE,
        with_pool(health_check=model.HealthCheck()),
        ["pool api: health_check comes"],
    ),
    (
        "pools come and go",
        BASE,
        with_(pools=(BASE.pools[0], model.Pool(name="new"))),
        ["pool new: new", "pool web: removed"],
    ),
    (
        "routes change places",
        BASE,
        with_(routes=BASE.routes[::-1]),
        ["route everything: now comes before orders"],
    ),
    (
        "one of many routes moves to the end",
        with_(routes=tuple(map(route, "abcde"))),
        with_(routes=tuple(map(route, "acdeb"))),
        ["route b: now comes last"],
    ),
    (
        "one of many routes moves to the front, and another comes",
        with_(routes=tuple(map(route, "abcde"))),
        with_(routes=tuple(map(route, "daxbce"))),
        ["route x: new", "route d: now comes before a"],
    ),
    (
        "a route leads elsewhere",
        BASE,
        with_route(action=model.PoolAction(pool="web"), timeout=2.0),
        ["route orders: now leads to pool web, timeout off becomes 2s"],
    ),
    (
        "a route splits",
        BASE,
        with_route(action=model.SplitAction(read="web", write="api"), match=model.Match(path="/x")),
        ["route orders: matches other requests, now leads to pool web for reading and api for writing"],
    ),
    (
        "a route answers",
        BASE,
        with_route(action=model.RespondAction(status=410)),
        ["route orders: now answers 410 itself"],
    ),
    (
        "a route redirects",
        BASE,
        with_route(action=model.RedirectAction(to="/n", status=302)),
        ["route orders: now redirects to `/n` with 302"],
    ),
    (
        "a listener moves",
        BASE,
        with_listener(bind=(bind(81), bind(82))),
        ["listener web: also listens on 0.0.0.0:81 and 0.0.0.0:82, no longer listens on 0.0.0.0:80"],
    ),
    ("a listener gets TLS", BASE, with_listener(tls=TLS), ["listener web: speaks TLS"]),
    (
        "a listener has other certificates and routes",
        with_listener(tls=TLS),
        with_listener(tls=model.ListenerTls(certificates=(model.Certificate(cert="b", key="b"),)), routes=("orders",)),
        ["listener web: other certificates, no longer serves everything"],
    ),
    (
        "a setting of TLS",
        with_listener(tls=TLS),
        with_listener(tls=msgspec.structs.replace(TLS, min_version="1.3")),
        ["listener web: tls.min_version `1.2` becomes `1.3`"],
    ),
    (
        "settings of the process",
        BASE,
        with_(workers=4, shutdown_delay=0.5, watch=True),
        ["workers: 1 becomes 4", "watch: false becomes true", "shutdown_delay: 5s becomes 500ms"],
    ),
]


@pytest.mark.parametrize(("old", "new", "words"), [row[1:] for row in TOLD], ids=[row[0] for row in TOLD])
def test_every_change_is_told_in_words(old: model.Config, new: model.Config, words: list[str]) -> None:
    found = difference(old, new)
    assert list(found.changes) == words
    assert found.needs_restart == ()


def test_nothing_is_told_of_what_is_equal() -> None:
    assert difference(BASE, with_()) == Difference()


def test_another_order_alone_is_a_difference_too() -> None:
    assert difference(BASE, with_(pools=BASE.pools[::-1])).changes == (
        "the order of listeners, pools or backends in the file",
    )


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"user": "www"}, ["user"]),
        ({"runtime_dir": "/run/b", "group": "www"}, ["group", "runtime_dir"]),
        (
            {"admin": model.Admin(bind=model.Bind(host="127.0.0.1", port=1), token_file="/t")},
            ["admin.bind", "admin.token_file"],
        ),
        ({"log": model.Log(level="debug", access="off")}, ["log.access"]),
    ],
)
def test_what_cannot_change_while_it_runs_is_named(changes: dict[str, Any], names: list[str]) -> None:
    found = difference(BASE, with_(**changes))
    assert list(found.needs_restart) == names
    assert len(found.changes) >= len(names)
    assert all(any(word.startswith(f"{name}: ") and "restart" in word for word in found.changes) for name in names)


def test_the_live_fields_are_settings_that_exist() -> None:
    for path in LIVE_FIELDS:
        value: Any = BASE
        for step in path.split("."):
            value = getattr(value, step)


def test_listeners_come_go_and_are_rebound_as_data() -> None:
    old = with_(listeners=tuple(model.Listener(name=name, bind=(bind(80 + at),)) for at, name in enumerate("abc")))
    new = with_(listeners=tuple(model.Listener(name=name, bind=(bind(82 + at),)) for at, name in enumerate("cbd")))
    found = difference(old, new)
    assert (found.listeners_added, found.listeners_removed, found.rebound) == (("d",), ("a",), ("b",))


@pytest.mark.parametrize("seed", range(30))
def test_telling_the_moves_of_routes_leads_from_one_order_to_the_other(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"r{number}" for number in range(rng.randint(1, 12))]
    shuffled = rng.sample(names, len(names))
    words = difference(with_(routes=tuple(map(route, names))), with_(routes=tuple(map(route, shuffled)))).changes
    order = [name for name in names if not any(word.startswith(f"route {name}: ") for word in words)]
    for word in reversed(words):  # each names what it comes before, which stands already or was told of later
        name, _, where = word.removeprefix("route ").partition(": now comes ")
        order.insert(len(order) if where == "last" else order.index(where.removeprefix("before ")), name)
    assert order == shuffled


def test_a_line_stays_short_however_much_differs() -> None:
    old = with_pool(backends=backends(*map(str, range(5000))))
    new = with_pool(backends=backends(*map(str, range(5000)), weight=2))
    [line] = difference(old, new).changes
    assert line.endswith(f"and {5000 - NAMES_MAX:,} more changes of backends")
    assert len(line) < 300
