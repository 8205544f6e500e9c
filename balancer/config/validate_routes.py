"""What must fit together in routes: names, actions, conditions, edits, and whether each route can be reached."""

import re
import warnings
from collections.abc import Iterator

from balancer.config import model, schema
from balancer.config.convert import plain_match
from balancer.config.fields import did_you_mean
from balancer.config.reachability import below_prefix, first_covers
from balancer.config.scalars import shown
from balancer.config.schema_traffic import ACTIONS, HeaderEdits, Match, Redirect, Respond, Route
from balancer.config.source import KEY, Path, Source
from balancer.config.validate_headers import own_field, same_name
from balancer.config.validate_resilience import written
from balancer.errors import Problem

_PLACEHOLDERS = {"scheme": "https", "host": "host", "path": "/", "query": ""}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_TARGET = re.compile(r"/|https?://[^/]", re.ASCII | re.IGNORECASE)
_NO_BODY = (204, 205, 304)  # RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5
_OWN_ANSWER_FIELDS = {"content-type": "write content_type instead", "date": "the balancer sets it"}


def check_routes(file: schema.File, source: Source) -> Iterator[Problem]:
    """Every problem of the routes. O(routes), but for reachability (see there)."""
    pools: list[str] | None = source.names(("pools",))
    if not pools and set(source.names(())) - set(schema.File.model_fields):
        pools = None  # a mistyped `pools` is one mistake, not one for each route
    first: dict[str, int] = {}
    for index, route in enumerate(file.routes):
        place: Path = ("routes", index)
        other = first.setdefault(route.name, index)
        if other != index:
            line = source.line(("routes", other))
            yield source.problem(
                (*place, "name"), f"there is a route {shown(route.name)} in line {line}; rename one of the two"
            )
        yield from _action(route, place, pools, source)
        yield from _timeout(route, place, file, source)
        yield from _match(route.match, (*place, "match"), source)
        yield from _edits(route.headers.request, (*place, "headers", "request"), source)
        yield from _edits(route.headers.response, (*place, "headers", "response"), source)
        yield from _rewrite(route, place, source)
    yield from _unreachable(file, source)


def _action(route: Route, place: Path, pools: list[str] | None, source: Source) -> Iterator[Problem]:
    given = [key for key in ACTIONS if source.given((*place, key))]
    if not given and not source.damaged(place):
        yield source.problem(place, "the route has no action; add one of pool, split, redirect and respond")
    for key in given[1:]:
        yield source.problem((*place, key, KEY), f"{key} is a second action beside {given[0]}; keep one of the two")
    if route.pool is not None:
        yield from _pool_name(route.pool, (*place, "pool"), pools, source)
    if route.split is not None:
        yield from _pool_name(route.split.read, (*place, "split", "read"), pools, source)
        yield from _pool_name(route.split.write, (*place, "split", "write"), pools, source)
    if route.fallback is not None:
        yield from _fallback(route, place, pools, source)
    if route.redirect is not None:
        yield from _redirect(route.redirect, (*place, "redirect"), source)
    if route.respond is not None:
        yield from _respond(route.respond, (*place, "respond"), source)
    if given[:1] in (["redirect"], ["respond"]):
        for key in ("timeout", "max_body", "rewrite", "fallback", "retry_non_idempotent"):
            if source.given((*place, key)):
                yield source.problem(
                    (*place, key), f"has no effect: {given[0]} sends nothing upstream; remove it", warning=True
                )
        if source.given((*place, "headers", "request")):
            yield source.problem(
                (*place, "headers", "request"),
                f"has no effect: {given[0]} sends nothing upstream; remove it",
                warning=True,
            )


def _timeout(route: Route, place: Path, file: schema.File, source: Source) -> Iterator[Problem]:
    """Timeouts of attempts that the route's own leaves no room for.

    `first_byte` only where the file has it: its default is not meant to be below anything.
    """
    limit = route.timeout
    if limit is None or source.damaged((*place, "timeout")):
        return
    own = [route.pool or ""] if route.split is None else [route.split.read, route.split.write]
    for name in dict.fromkeys(own):
        pool = file.pools.get(name)
        spot: Path = ("pools", name, "timeouts")
        if pool is None or source.damaged(spot):
            continue
        times = pool.timeouts
        first_byte = times.first_byte if source.given((*spot, "first_byte")) else None
        for key, seconds in (("connect", times.connect), ("attempt", times.attempt), ("first_byte", first_byte)):
            if seconds is not None and seconds >= limit:
                yield source.problem(
                    (*place, "timeout"),
                    f"is not above timeouts.{key} ({written(seconds)}) of pool {shown(name)}: no attempt ends "
                    "early enough for another one then; make this one longer, or that one shorter",
                    warning=True,
                )


def _pool_name(name: str, place: Path, pools: list[str] | None, source: Source) -> Iterator[Problem]:
    if pools is not None and name not in pools:
        hint = did_you_mean(name, pools) if pools else "add it to `pools`"
        yield source.problem(place, f"there is no pool {shown(name)}; {hint}")


def _fallback(route: Route, place: Path, pools: list[str] | None, source: Source) -> Iterator[Problem]:
    """A fallback may be one pool of a split, such as the primary for reads, but not all that the route has."""
    name = route.fallback or ""
    yield from _pool_name(name, (*place, "fallback"), pools, source)
    own = {route.split.read, route.split.write} if route.split is not None else {route.pool}
    if own == {name}:
        yield source.problem(
            (*place, "fallback"), f"{shown(name)} is the route's own pool; name another one, or remove it"
        )


def _redirect(redirect: Redirect, place: Path, source: Source) -> Iterator[Problem]:
    names = _PLACEHOLDER.findall(redirect.to)
    wrong = [name for name in names if name not in _PLACEHOLDERS]
    for name in wrong:
        choices = ["{" + choice + "}" for choice in _PLACEHOLDERS]
        yield source.problem((*place, "to"), f"{shown('{' + name + '}')} is unknown; {did_you_mean(name, choices)}")
    if wrong:
        return
    filled = _PLACEHOLDER.sub(lambda found: _PLACEHOLDERS[found[1]], redirect.to)
    if "{" in filled or "}" in filled:
        yield source.problem((*place, "to"), "has a { or } without its partner; write it as %7B or %7D")
    elif not _TARGET.match(filled):
        yield source.problem(
            (*place, "to"), f"{shown(redirect.to)} is no target; write a path such as /new, or a URL with http(s)://"
        )
    elif any(char < "!" or char == "\x7f" for char in filled):
        yield source.problem((*place, "to"), "holds a blank or control character; write it percent-encoded")


def _respond(respond: Respond, place: Path, source: Source) -> Iterator[Problem]:
    if respond.status in _NO_BODY and respond.body:
        yield source.problem(
            (*place, "body"), f"an answer with status {respond.status} has no body; remove it, or use another status"
        )
    for name in respond.headers:
        lowered = name.lower()
        if lowered in _OWN_ANSWER_FIELDS:
            yield source.problem((*place, "headers", name, KEY), f"{name}: {_OWN_ANSWER_FIELDS[lowered]}")
        else:
            yield from own_field(name, (*place, "headers", name, KEY), source)
    yield from same_name(list(respond.headers), (*place, "headers"), source)


def _match(match: Match, place: Path, source: Source) -> Iterator[Problem]:
    for key in ("path_prefix", "path_regex"):
        if match.path is not None and source.given((*place, key)):
            yield source.problem((*place, key, KEY), f"{key} beside path adds nothing; keep one of the two")
    if match.path_regex is not None:
        reason = _regex_problem(match.path_regex)
        if reason:
            yield source.problem(
                (*place, "path_regex"), f"is not a regular expression: {reason}; correct it, or use path_prefix"
            )
    for name in match.headers:
        if name.lower() == "host":
            yield source.problem(
                (*place, "headers", name, KEY), "match the host with hosts, which ignores port and case"
            )
    yield from same_name(list(match.headers), (*place, "headers"), source)


def _regex_problem(pattern: str) -> str:
    """Why `pattern` does not compile; "" when it does. It is compiled to match bytes, as paths are."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            re.compile(pattern.encode())
    except re.error as error:
        return error.msg if error.pos is None else f"{error.msg} at character {error.pos + 1}"
    except FutureWarning as error:
        return f"{error}, which later versions may read otherwise; write \\[ for a bracket"
    except (OverflowError, RecursionError) as error:
        return str(error)
    return ""


def _edits(edits: HeaderEdits, place: Path, source: Source) -> Iterator[Problem]:
    for key, names in (("set", list(edits.set)), ("add", list(edits.add))):
        for name in names:
            yield from own_field(name, (*place, key, name, KEY), source)
        yield from same_name(names, (*place, key), source)
    for index, name in enumerate(edits.remove):
        yield from own_field(name, (*place, "remove", index), source)
    single = [((*place, "add", name, KEY), name) for name in edits.add]
    single += [((*place, "remove", index), name) for index, name in enumerate(edits.remove)]
    for spot, name in single:
        if name.lower() in model.SET_ONLY_FIELDS:
            yield source.problem(spot, f"a request has exactly one {name}; use set, or the pool's host")


def _rewrite(route: Route, place: Path, source: Source) -> Iterator[Problem]:
    if route.rewrite is None:
        return
    strip = route.rewrite.strip_prefix
    path = route.match.path or route.match.path_prefix
    if path is not None and not below_prefix(strip, path) and not below_prefix(path, strip):
        yield source.problem(
            (*place, "rewrite", "strip_prefix"),
            f"{shown(strip)} never stands in front of {shown(path)}, which the route matches; correct one of the two",
            warning=True,
        )


def _unreachable(file: schema.File, source: Source) -> Iterator[Problem]:
    """Routes that are covered on every listener that serves them. Only those whose conditions are all right count."""
    matches = [
        (route.name, plain_match(route.match))
        for index, route in enumerate(file.routes)
        if not source.damaged(("routes", index, "match"))
    ]
    shadows: dict[str, str] = {}
    reached: set[str] = set()
    whole: dict[str, str] | None = None
    for listener in file.listeners.values():
        if listener.routes is None:
            if whole is None:
                whole = first_covers(matches)
            served, found = [name for name, _ in matches], whole
        else:
            wanted = set(listener.routes)
            part = [(name, match) for name, match in matches if name in wanted]
            served, found = [name for name, _ in part], first_covers(part)
        reached.update(name for name in served if name not in found)
        shadows.update(found)
    places = {route.name: index for index, route in enumerate(file.routes)}
    for index, route in enumerate(file.routes):
        cover = shadows.get(route.name)
        if cover is not None and cover != route.name and route.name not in reached:
            line = source.line(("routes", places[cover]))
            yield source.problem(
                ("routes", index),
                f"no request reaches {shown(route.name)}: {shown(cover)} in line {line} takes all that it matches; "
                "put this one first, or narrow that one",
            )
