"""What must fit together: checks that look at more than one value, beyond what the schema sees.

They run on the parts of a file that the schema found right, so that one run finds everything. What a name may
refer to is taken from the file as it is: a pool with a mistake in it is still a pool.
"""

import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

from balancer.config import addresses, model, schema
from balancer.config.convert import located, plain_bind
from balancer.config.fields import did_you_mean
from balancer.config.scalars import shown
from balancer.config.schema_traffic import BindForm, Listener, ListenerTls
from balancer.config.source import KEY, Path, Source
from balancer.config.validate_coordination import check_coordination, check_registered
from balancer.config.validate_pools import check_pool
from balancer.config.validate_routes import check_routes
from balancer.errors import Problem


def check(file: schema.File, source: Source, base: str) -> list[Problem]:
    """Every problem between the parts of `file`; `base` is the folder from which relative paths start."""
    return [
        *_whole(file, source),
        *_binds(file, source, base),
        *(found for name, listener in file.listeners.items() for found in _listener(name, listener, source)),
        *check_routes(file, source),
        *(found for name, pool in file.pools.items() for found in check_pool(name, pool, source, base)),
        *check_coordination(file.coordination, source),
        *check_registered(file, source),
        *_unused(file, source),
    ]


def _whole(file: schema.File, source: Source) -> Iterator[Problem]:
    if not file.listeners and source.given(("listeners",)) and not source.damaged(("listeners",)):
        yield source.problem(("listeners",), 'is empty; write at least one, such as web: {bind: "0.0.0.0:8080"}')
    if not file.routes and source.given(("routes",)) and not source.damaged(("routes",)):
        yield source.problem(("routes",), "is empty; write at least one, such as - {name: everything, pool: web}")
    bind = file.admin.bind
    if bind.address is not None and not source.given(("admin", "token_file")):
        host = addresses.bind_address(bind.address)[0]
        if not ipaddress.ip_address(host).is_loopback:
            yield source.problem(
                ("admin", "bind"),
                f"{bind.address} can be reached from other machines, so token_file is required; add it, "
                "or bind to 127.0.0.1",
            )


_Mark = tuple[str, str, int]  # kind, address or family or path, port


class _Claim(NamedTuple):
    """Who binds an address, and where that stands in the file."""

    owner: str
    path: Path


def _binds(file: schema.File, source: Source, base: str) -> Iterator[Problem]:
    """Addresses that are incomplete, or bound twice: also once for all addresses and once for one of them."""
    forms = [
        (form, _Claim(f"listener {name}", ("listeners", name, "bind", index)))
        for name, listener in file.listeners.items()
        for index, form in enumerate(listener.bind)
    ]
    forms.append((file.admin.bind, _Claim("the admin API", ("admin", "bind"))))
    taken: dict[_Mark, _Claim] = {}
    for form, claim in forms:
        wrong = list(_bind_form(form, claim.path, source, base))
        yield from wrong
        if wrong or (form.address is None and form.path is None):
            continue
        bind = plain_bind(form, base)
        takes, clashes = _taken_by(bind)
        other = next((taken[mark] for mark in clashes if mark in taken), None)
        if other is None:
            taken.update((mark, claim) for mark in takes if mark not in taken)
            continue
        yield _taken_twice(bind, claim, other, source)


def _taken_twice(bind: model.Bind, claim: _Claim, other: _Claim, source: Source) -> Problem:
    if source.given(claim.path[:2]):
        line = source.line(other.path)
        message = f"{bind.text} is already bound by {other.owner} in line {line}; use another port or address"
        return source.problem(claim.path, message)
    return source.problem(
        other.path, f"{bind.text} is where the admin API listens by default; use another port, or set admin.bind"
    )


def _bind_form(form: BindForm, path: Path, source: Source, base: str) -> Iterator[Problem]:
    """What keeps `form` from being one address."""
    if form.address is not None and form.path is not None:
        yield source.problem(path, "has both address and path; write one of the two for each entry")
    elif form.path is not None:
        try:
            addresses.unix_path(located(form.path, base))
        except ValueError as error:
            yield source.problem(path, str(error))
    elif form.mode is not None:
        yield source.problem((*path, "mode"), "mode is for Unix sockets; remove it")
    elif form.address is None and not source.damaged(path):
        yield source.problem(path, "lacks its address; write address: host:port or path: /a/socket")


def _taken_by(bind: model.Bind) -> tuple[list[_Mark], list[_Mark]]:
    """What `bind` takes, and what must not be taken before. A wildcard address takes every address of its family."""
    if bind.path:
        return [("path", bind.path, 0)], [("path", bind.path, 0)]
    if bind.port == 0:
        return [], []  # any free port
    address = ipaddress.ip_address(bind.host)
    own = ("address", bind.host, bind.port)
    every = ("every", str(address.version), bind.port)
    some = ("some", str(address.version), bind.port)
    if address.is_unspecified:
        return [every, some], [some]
    return [own, some], [own, every]


def _listener(name: str, listener: Listener, source: Source) -> Iterator[Problem]:
    place: Path = ("listeners", name)
    if not listener.bind and not source.damaged((*place, "bind")):
        yield source.problem((*place, "bind"), "is empty; write at least one address, such as 0.0.0.0:8080")
    if listener.tls is not None:
        yield from _listener_tls(listener.tls, (*place, "tls"), source)
    limits = listener.limits
    if limits.uri_bytes > limits.head_bytes and source.given((*place, "limits", "uri_bytes")):
        yield source.problem(
            (*place, "limits", "uri_bytes"),
            "is above head_bytes, so it is never reached; make it smaller",
            warning=True,
        )
    if listener.routes is not None:
        yield from _listener_routes(listener.routes, (*place, "routes"), source)


def _listener_tls(tls: ListenerTls, place: Path, source: Source) -> Iterator[Problem]:
    if not tls.certificates and not source.damaged((*place, "certificates")):
        yield source.problem(
            (*place, "certificates"), "is empty; write at least one, such as {cert: site.pem, key: site.key}"
        )
    if source.given((*place, "client_auth")) and not source.given((*place, "client_ca")):
        yield source.problem(
            (*place, "client_auth"), "has no effect without client_ca; add client_ca, or remove client_auth"
        )


def _listener_routes(routes: list[str], place: Path, source: Source) -> Iterator[Problem]:
    if not routes and not source.damaged(place):
        yield source.problem(place, "is empty, so every request would get 404; remove the key to serve every route")
    order = {name: index for index, name in reversed(list(enumerate(source.texts(("routes",), "name"))))}
    seen: set[str] = set()
    last = -1
    for index, name in enumerate(routes):
        spot = (*place, index)
        if name not in order and not source.given(("routes",)):
            continue  # has been said
        if name not in order:
            yield source.problem(spot, f"there is no route {shown(name)}; {did_you_mean(name, order)}")
        elif name in seen:
            yield source.problem(spot, f"{shown(name)} stands twice; remove one of the two")
        elif order[name] < last:
            yield source.problem(
                spot,
                f"{shown(name)} comes earlier in `routes`, and that order decides which route wins; "
                "list the names in the same order",
                warning=True,
            )
        seen.add(name)
        last = max(last, order.get(name, -1))


def _unused(file: schema.File, source: Source) -> Iterator[Problem]:
    """Warnings for pools to which no route leads, and routes that no listener serves."""
    if source.damaged(("routes",)) or source.damaged(("listeners",)):
        return  # what is left out may be the use
    used = {*source.texts(("routes",), "pool"), *source.texts(("routes",), "fallback")}
    for route in file.routes:
        if route.split is not None:
            used |= {route.split.read, route.split.write}
    for name in file.pools:
        if name not in used:
            yield source.problem(
                ("pools", name, KEY), "no route leads to this pool; add one, or remove it", warning=True
            )
    listeners = file.listeners.values()
    if not listeners or any(listener.routes is None for listener in listeners):
        return
    served = {name for listener in listeners for name in listener.routes or ()}
    if not served <= {route.name for route in file.routes} or not all(listener.routes for listener in listeners):
        return  # has been said; the name that is wrong may stand for the one that is missing
    for index, route in enumerate(file.routes):
        if route.name not in served:
            yield source.problem(
                ("routes", index, "name"), "no listener serves this route; add it to one, or remove it", warning=True
            )
