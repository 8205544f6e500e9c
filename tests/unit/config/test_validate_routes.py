"""What must fit together in routes."""

import pytest

from balancer.config.load import load
from balancer.errors import ConfigError, Problem


def problems(*routes: str) -> list[Problem]:
    """Errors and warnings of a file with these routes, the first in line 3."""
    lines = "".join(f"  - {{{route}}}\n" for route in routes)
    text = (
        f'listeners: {{web: {{bind: "127.0.0.1:80"}}}}\nroutes:\n{lines}'
        'pools: {app: {backends: ["a:1"]}, other: {backends: ["a:1"]}}\n'
    )
    try:
        found = load(text.encode(), "f.yaml", {}).warnings
    except ConfigError as error:
        found = error.problems
    return [problem for problem in found if "no route leads" not in problem.message]


def only(*routes: str) -> Problem:
    found = problems(*routes)
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0]


@pytest.mark.parametrize(
    ("route", "path", "right"),
    [
        ("name: a", "routes[0]", "add one of pool, split, redirect and respond"),
        ("name: a, pool: app, redirect: /x", "routes[0].redirect", "keep one of the two"),
        ("name: a, pool: ap", "routes[0].pool", "did you mean app?"),
        ("name: a, pool: zzz", "routes[0].pool", "possible here: app, other"),
        ("name: a, split: {read: app, write: othr}", "routes[0].split.write", "did you mean other?"),
        ("name: a, split: {read: nope, write: other}", "routes[0].split.read", "there is no pool"),
        ("name: a, split: {read: app}", "routes[0].split.write", "is missing"),
        ('name: a, redirect: "/{hots}"', "routes[0].redirect", "did you mean {host}?"),
        ('name: a, redirect: "/{host"', "routes[0].redirect", "%7B"),
        ("name: a, redirect: example.com", "routes[0].redirect", "http(s)://"),
        ("name: a, redirect: ftp://a", "routes[0].redirect", "http(s)://"),
        ("name: a, redirect: /a b", "routes[0].redirect", "percent-encoded"),
        ("name: a, redirect: {to: /a, status: 300}", "routes[0].redirect.status", "301, 302, 303, 307, 308"),
        ("name: a, redirect: {status: 301}", "routes[0].redirect.to", "is missing"),
        ("name: a, respond: {status: 199}", "routes[0].respond.status", "200 to 599"),
        ("name: a, respond: {status: 600}", "routes[0].respond.status", "200 to 599"),
        ("name: a, respond: {status: 204, body: x}", "routes[0].respond.body", "has no body"),
        ("name: a, respond: {headers: {Content-Type: x}}", "routes[0].respond.headers.Content-Type", "content_type"),
        ("name: a, respond: {headers: {Connection: x}}", "routes[0].respond.headers.Connection", "balancer alone"),
        ("name: a, respond: {headers: {A: x, a: y}}", "routes[0].respond.headers.a", "same field as A"),
        (f"name: a, respond: {{body: {'x' * 70000}}}", "routes[0].respond.body", "at most 65,536"),
        ("name: a, pool: app, match: {path: /a, path_prefix: /a}", "routes[0].match.path_prefix", "keep one"),
        ("name: a, pool: app, match: {path: /a, path_regex: a}", "routes[0].match.path_regex", "keep one"),
        ('name: a, pool: app, match: {path_regex: "/(a"}', "routes[0].match.path_regex", "not a regular expression"),
        (
            'name: a, pool: app, match: {path_regex: "a{99999999999999}"}',
            "routes[0].match.path_regex",
            "not a regular expression",
        ),
        ("name: a, pool: app, match: {path_regex: '[[a]'}", "routes[0].match.path_regex", "for a bracket"),
        ("name: a, pool: app, match: {headers: {Host: x}}", "routes[0].match.headers.Host", "with hosts"),
        ("name: a, pool: app, match: {headers: {X: a, x: b}}", "routes[0].match.headers.x", "same field"),
        ("name: a, pool: app, match: {methods: [get]}", "routes[0].match.methods[0]", "did you mean GET?"),
        ("name: a, pool: app, match: {hosts: ['a:1']}", "routes[0].match.hosts[0]", "write `a`"),
        ("name: a, pool: app, match: {client: [x]}", "routes[0].match.client[0]", "10.0.0.0/8"),
        ("name: a, pool: app, match: {path_prefix: a}", "routes[0].match.path_prefix", "write `/a`"),
        ("name: a, pool: app, match: {headers: {a b: c}}", 'routes[0].match.headers["a b"]', "header name"),
        (
            "name: a, pool: app, headers: {request: {set: {Content-Length: 1}}}",
            "routes[0].headers.request.set.Content-Length",
            "balancer alone",
        ),
        (
            "name: a, pool: app, headers: {response: {remove: [transfer-encoding]}}",
            "routes[0].headers.response.remove[0]",
            "balancer alone",
        ),
        ("name: a, pool: app, headers: {request: {add: {Host: x}}}", "routes[0].headers.request.add.Host", "use set"),
        ("name: a, pool: app, headers: {request: {remove: [Host]}}", "routes[0].headers.request.remove[0]", "use set"),
        (
            'name: a, pool: app, headers: {request: {set: {X: "a\\r\\nb"}}}',
            "routes[0].headers.request.set.X",
            "control character",
        ),
        ("name: a, pool: app, headers: {request: {st: {}}}", "routes[0].headers.request.st", "did you mean set?"),
        ("name: a, pool: app, rewrite: {replace_prefix: /a}", "routes[0].rewrite.strip_prefix", "is missing"),
        (
            "name: a, pool: app, rewrite: {strip_prefix: /a, replace_prefix: b}",
            "routes[0].rewrite.replace_prefix",
            "write `/b`",
        ),
        ("name: a, pool: app, fallback: othr", "routes[0].fallback", "did you mean other?"),
        ("name: a, pool: app, fallback: app", "routes[0].fallback", "the route's own pool"),
        ("name: a, split: {read: app, write: app}, fallback: app", "routes[0].fallback", "the route's own pool"),
        ("name: a, pool: app, retry_non_idempotent: yes", "routes[0].retry_non_idempotent", "write true"),
        ("name: a, pool: app, timeout: 5", "routes[0].timeout", "write 5s"),
        ("name: a, pool: app, max_body: off", "routes[0].max_body", "cannot be off"),
    ],
)
def test_what_is_wrong_with_a_route_is_found(route: str, path: str, right: str) -> None:
    problem = only(route)
    assert problem.path == path
    assert right in problem.message
    assert not problem.warning


@pytest.mark.parametrize(
    "route",
    [
        "name: a, pool: app, headers: {request: {set: {Host: x}, add: {X: '1'}, remove: [Y]}}",
        'name: a, redirect: "{scheme}://{host}{path}{query}"',
        "name: a, redirect: //other/x",
        "name: a, redirect: /straße",
        "name: a, respond: {status: 204}",
        "name: a, respond: {status: 503, body: busy, headers: {Retry-After: 5}}",
        "name: a, split: {read: app, write: other}, timeout: off",
        "name: a, split: {read: app, write: other}, fallback: other",
        "name: a, pool: app, fallback: other, retry_non_idempotent: true",
        "name: a, pool: app, match: {path_prefix: /a, path_regex: '.*[.]png'}",
        "name: a, pool: app, match: {path_prefix: /a/b}, rewrite: {strip_prefix: /a}",
        "name: a, pool: app, match: {path_prefix: /a}, rewrite: {strip_prefix: /a/b, replace_prefix: /c}",
    ],
)
def test_what_is_right_about_a_route_is_left_alone(route: str) -> None:
    assert problems(route) == []


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ("name: a, redirect: /x, timeout: 5s", "routes[0].timeout"),
        ("name: a, respond: {}, max_body: 1KiB", "routes[0].max_body"),
        ("name: a, redirect: /x, fallback: app", "routes[0].fallback"),
        ("name: a, respond: {}, retry_non_idempotent: true", "routes[0].retry_non_idempotent"),
        ("name: a, respond: {}, rewrite: {strip_prefix: /a}", "routes[0].rewrite"),
        ("name: a, respond: {}, headers: {request: {remove: [X]}}", "routes[0].headers.request"),
        ("name: a, pool: app, match: {path: /b}, rewrite: {strip_prefix: /a}", "routes[0].rewrite.strip_prefix"),
    ],
)
def test_what_has_no_effect_earns_a_warning(route: str, path: str) -> None:
    problem = only(route)
    assert (problem.path, problem.warning) == (path, True)


@pytest.mark.parametrize(
    ("timeout", "timeouts", "named"),
    [
        ("3.5s", "", ["connect (3.5s)"]),
        ("1s", "{connect: 2s}", ["connect (2s)"]),
        ("2s", "{connect: 1s, attempt: 2s}", ["attempt (2s)"]),
        ("2s", "{connect: 1s, first_byte: 30s}", ["first_byte (30s)"]),
        ("2s", "{connect: 3s, attempt: 3s}", ["connect (3s)", "attempt (3s)"]),
        ("3600ms", "", []),
        ("2s", "{connect: 1s, attempt: 1999ms}", []),
        ("2s", "{connect: 1s, first_byte: off}", []),
        ("off", "{connect: 10m}", []),
    ],
)
@pytest.mark.parametrize("action", ["pool: app", "split: {read: app, write: app}"])
def test_a_timeout_that_leaves_attempts_no_room_earns_a_warning(
    action: str, timeout: str, timeouts: str, named: list[str]
) -> None:
    pool = f"backends: [a:1]{', timeouts: ' + timeouts if timeouts else ''}"
    text = (
        'listeners: {web: {bind: "127.0.0.1:80"}}\n'
        f"routes: [{{name: a, {action}, timeout: {timeout}}}]\npools: {{app: {{{pool}}}}}\n"
    )
    found = load(text.encode(), "f", {}).warnings
    assert [problem.path for problem in found] == ["routes[0].timeout"] * len(named)
    assert all(
        f"timeouts.{words} of pool `app`" in problem.message for words, problem in zip(named, found, strict=True)
    )


def test_two_routes_of_one_name_are_refused_at_the_second() -> None:
    problem = only("name: a, match: {path: /a}, pool: app", "name: a, match: {path: /b}, pool: app")
    assert (problem.line, problem.path) == (4, "routes[1].name")
    assert "in line 3" in problem.message


def test_a_route_that_nothing_reaches_is_refused_with_the_one_that_takes_all() -> None:
    problem = only("name: a, match: {path_prefix: /x}, pool: app", "name: b, match: {path: /x/y}, pool: app")
    assert (problem.line, problem.path, problem.warning) == (4, "routes[1]", False)
    assert "`a` in line 3" in problem.message


def test_a_route_reached_on_one_listener_is_reached() -> None:
    text = """
listeners:
  one: {bind: "127.0.0.1:80"}
  two: {bind: "127.0.0.1:81", routes: [b]}
  three: {bind: "127.0.0.1:82"}
routes: [{name: a, pool: app}, {name: b, pool: app}]
pools: {app: {backends: ["a:1"]}}
"""
    assert load(text.encode(), "f", {}).warnings == []
    with pytest.raises(ConfigError, match="no request reaches `b`"):
        load(text.replace("routes: [b]", "routes: [a, b]").encode(), "f", {})


def test_no_pools_at_all_is_said_plainly() -> None:
    with pytest.raises(ConfigError, match="there is no pool `app`; add it to `pools`"):
        load(b'listeners: {w: {bind: "127.0.0.1:80"}}\nroutes: [{name: a, pool: app}]\n', "f", {})
