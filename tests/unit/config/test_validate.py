"""What must fit together, but for routes: binds, names, weights, TLS, what is unused."""

import pytest

from balancer.config.load import load
from balancer.errors import ConfigError, Problem

ROUTES = "routes: [{name: all, pool: app}]\n"
POOLS = 'pools: {app: {backends: ["127.0.0.1:9001"]}}\n'
WEB = 'listeners: {web: {bind: "127.0.0.1:8080"}}\n'


def problems(text: str, base: str = "") -> list[Problem]:
    """Errors and warnings alike."""
    try:
        return load(text.encode(), "f.yaml", {}, base=base).warnings
    except ConfigError as error:
        return error.problems


def only(text: str, base: str = "") -> Problem:
    found = problems(text, base)
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0]


def listeners(*binds: str) -> str:
    """Listeners l0, l1, ... from line 2 on."""
    lines = "".join(f"  l{index}: {{bind: {bind}}}\n" for index, bind in enumerate(binds))
    return f"listeners:\n{lines}{ROUTES}{POOLS}"


@pytest.mark.parametrize(
    "binds",
    [
        ('"127.0.0.1:80"', '"127.0.0.1:80"'),
        ('"0.0.0.0:80"', '"127.0.0.1:80"'),
        ('"127.0.0.1:80"', '"0.0.0.0:80"'),
        ('"0.0.0.0:80"', '"0.0.0.0:80"'),
        ('"[::]:80"', '"[::1]:80"'),
        ('"[0::1]:80"', '"[::1]:80"'),
        ('"unix:/a/b"', '{path: "/a/./b"}'),
    ],
)
def test_an_address_bound_twice_is_found_at_the_second(binds: tuple[str, str]) -> None:
    problem = only(listeners(*binds), base="/etc")
    assert (problem.line, problem.path, problem.warning) == (3, "listeners.l1.bind", False)
    assert "already bound by listener l0 in line 2" in problem.message


@pytest.mark.parametrize(
    "binds",
    [
        ('"127.0.0.1:80"', '"127.0.0.1:81"'),
        ('"127.0.0.1:80"', '"127.0.0.2:80"'),
        ('"0.0.0.0:80"', '"[::]:80"'),
        ('"127.0.0.1:0"', '"127.0.0.1:0"'),
        ("unix:/a", "unix:/b"),
        ('["127.0.0.1:80", "[::1]:80"]', '"127.0.0.1:81"'),
    ],
)
def test_different_addresses_do_not_clash(binds: tuple[str, str]) -> None:
    assert problems(listeners(*binds)) == []


def test_an_address_twice_in_one_list_is_found() -> None:
    assert only(listeners('["127.0.0.1:80", "127.0.0.1:80"]')).path == "listeners.l0.bind[1]"


def test_the_admin_address_must_be_free() -> None:
    problem = only(listeners('"127.0.0.1:80"') + 'admin: {bind: "127.0.0.1:80"}\n')
    assert problem.path == "admin.bind"
    assert "already bound by listener l0" in problem.message


def test_the_default_of_the_admin_address_is_reported_where_it_can_be_changed() -> None:
    problem = only(listeners('"0.0.0.0:9901"'))
    assert problem.path == "listeners.l0.bind"
    assert "set admin.bind" in problem.message


@pytest.mark.parametrize(
    ("bind", "right"),
    [
        ("{}", "write address: host:port or path"),
        ('{address: "127.0.0.1:80", path: /a}', "one of the two"),
        ('{address: "127.0.0.1:80", mode: 0600}', "mode is for Unix sockets"),
        ("{path: /a, mode: 600}", "write 0600"),
        ("{path: /a, mode: 0888}", "such as 0660"),
        ("{path: /a, mode: 01777}", "at most 0777"),
        ("unix:/" + "x" * 120, "at most 107 bytes"),
        ('"unix:"', "not the path of a file"),
        ("[]", "is empty"),
        ("{adress: 1}", "did you mean address"),
    ],
)
def test_a_bad_bind_says_what_is_right(bind: str, right: str) -> None:
    assert right in only(listeners(bind)).message


def test_the_length_of_a_socket_path_counts_with_its_folder() -> None:
    assert problems(listeners("unix:" + "x" * 60)) == []
    assert "107 bytes" in only(listeners("unix:" + "x" * 60), base="/" + "y" * 60).message


@pytest.mark.parametrize("bind", ['"127.0.0.1:1"', '"127.9.9.9:1"', '"[::1]:1"', "unix:/run/admin.sock"])
def test_an_admin_address_on_this_machine_needs_no_token(bind: str) -> None:
    assert problems(WEB + ROUTES + POOLS + f"admin: {{bind: {bind}}}\n") == []


@pytest.mark.parametrize("bind", ['"0.0.0.0:1"', '"10.0.0.1:1"', '"[::]:1"'])
def test_an_admin_address_off_loopback_needs_a_token(bind: str) -> None:
    problem = only(WEB + ROUTES + POOLS + f"admin: {{bind: {bind}}}\n")
    assert problem.path == "admin.bind"
    assert "token_file is required" in problem.message


def test_a_token_file_makes_any_admin_address_possible() -> None:
    assert problems(WEB + ROUTES + POOLS + 'admin: {bind: "0.0.0.0:1", token_file: token}\n') == []


def test_sections_without_entries_are_refused() -> None:
    found = [(problem.path, problem.warning) for problem in problems("listeners: {}\nroutes: []\n" + POOLS)]
    assert found == [("listeners", False), ("routes", False), ("pools.app", True)]


def listener(keys: str) -> str:
    return f'listeners: {{web: {{bind: "127.0.0.1:80", {keys}}}}}\n{ROUTES}{POOLS}'


@pytest.mark.parametrize(
    ("keys", "path", "right"),
    [
        ("routes: []", "listeners.web.routes", "remove the key to serve every route"),
        ("routes: [al]", "listeners.web.routes[0]", "did you mean all?"),
        ("routes: [all, all]", "listeners.web.routes[1]", "stands twice"),
        ("tls: {certificates: []}", "listeners.web.tls.certificates", "is empty"),
        (
            "tls: {certificates: [{cert: a, key: b}], client_auth: optional}",
            "listeners.web.tls.client_auth",
            "add client_ca",
        ),
        ("tls: {certificates: [{cert: a}]}", "listeners.web.tls.certificates[0].key", "is missing"),
        ("tls: {certificates: [{cert: a, key: b}], min_version: 1.1}", "listeners.web.tls.min_version", "1.2"),
        ("tls: {}", "listeners.web.tls.certificates", "is missing"),
        ("trusted_proxies: [10.0.0.1/8]", "listeners.web.trusted_proxies[0]", "10.0.0.0/8"),
        ("half_close: off", "listeners.web.half_close", "cancel, allow"),
        ("limits: {head_bytes: 100B}", "listeners.web.limits.head_bytes", "1KiB to 1MiB"),
        ("limits: {max_body: 0}", "listeners.web.limits.max_body", "write off, or"),
        ("limits: {max_body: 0B}", "listeners.web.limits.max_body", "write off, or"),
        ("limits: {header_count: off}", "listeners.web.limits.header_count", "cannot be off"),
        ("timeouts: {head: 0ms}", "listeners.web.timeouts.head", "1ms to 1h"),
    ],
)
def test_what_is_wrong_with_a_listener_is_found(keys: str, path: str, right: str) -> None:
    problem = only(listener(keys))
    assert problem.path == path
    assert right in problem.message
    assert not problem.warning


def test_a_limit_that_another_makes_pointless_earns_a_warning() -> None:
    assert only(listener("limits: {head_bytes: 4KiB, uri_bytes: 8KiB}")).warning
    assert problems(listener("limits: {head_bytes: 4KiB}")) == []


ORDER = """
listeners: {{web: {{bind: "127.0.0.1:80", routes: {served}}}}}
routes:
  - {{name: a, match: {{path: /a}}, pool: app}}
  - {{name: b, match: {{path: /b}}, pool: app}}
pools: {{app: {{backends: ["127.0.0.1:9001"]}}}}
"""


def test_routes_listed_in_another_order_earn_a_warning() -> None:
    problem = only(ORDER.format(served="[b, a]"))
    assert problem.warning
    assert problem.path == "listeners.web.routes[1]"


def test_a_route_that_no_listener_serves_earns_a_warning() -> None:
    problem = only(ORDER.format(served="[a]"))
    assert (problem.warning, problem.path) == (True, "routes[1].name")


def pool(keys: str) -> str:
    return f"{WEB}{ROUTES}pools: {{app: {{{keys}}}}}\n"


A, B = '{name: a, address: "127.0.0.1:1", weight: 5}', '{name: b, address: "127.0.0.1:2"}'


@pytest.mark.parametrize(
    ("keys", "path", "right", "warning"),
    [
        ("backends: []", "pools.app.backends", "no backends", True),
        ("host: keep", "pools.app", "no backends", True),
        (f"backends: [{A}, {B}]", "pools.app.backends[0].weight", "strategy: weighted", True),
        (f"strategy: random, backends: [{A}, {B}]", "pools.app.backends[0].weight", "weighted_random", True),
        ('backends: [{address: "a:1", weight: 0}]', "pools.app.backends", "every weight is 0", True),
        (f"strategy: weighted, backends: [{A}, {A}]", "pools.app.backends[1]", "line 3; give one of the two", False),
        ('backends: ["a:1", "a:1"]', "pools.app.backends[1]", "another name", False),
        ('backends: [{address: "a:1", weight: 65536}]', "pools.app.backends[0].weight", "0 to 65535", False),
        ('backends: [{address: "a:1", max_connections: 0}]', "pools.app.backends[0].max_connections", "off", False),
        ('backends: ["unix:"]', "pools.app.backends[0]", "needs a path", False),
        ('host: backend, backends: ["unix:/a"]', "pools.app.backends[0]", "no host to send", False),
        ('tls: {}, backends: ["unix:/a"]', "pools.app.backends[0]", "set server_name", False),
        ('tls: {cert: a}, backends: ["a:1"]', "pools.app.tls.cert", "add key", False),
        ('tls: {key: a}, backends: ["a:1"]', "pools.app.tls.key", "add cert", False),
        ('tls: {ca: a, verify: false}, backends: ["a:1"]', "pools.app.tls.ca", "no effect", True),
        ('tls: {server_name: "a:1"}, backends: ["a:1"]', "pools.app.tls.server_name", "has a port", False),
        ('tls: true, backends: ["a:1"]', "pools.app.tls", "mapping of keys is due", False),
        ('host: "a b", backends: ["a:1"]', "pools.app.host", "not a host name", False),
        ('strategy: fastest_ever, backends: ["a:1"]', "pools.app.strategy", "possible here: round_robin", False),
        ('timeouts: {first_byte: 0}, backends: ["a:1"]', "pools.app.timeouts.first_byte", "write off, or 1ms", False),
        ('keepalive: {max_idle: 0}, backends: ["a:1"]', "pools.app.keepalive.max_idle", "write off", False),
    ],
)
def test_what_is_wrong_with_a_pool_is_found(keys: str, path: str, right: str, warning: bool) -> None:
    problem = only(pool(keys))
    assert (problem.path, problem.warning) == (path, warning)
    assert right in problem.message


@pytest.mark.parametrize(
    "keys",
    [
        f"strategy: weighted, backends: [{A}, {B}]",
        'backends: [{address: "a:1", weight: 1}, {address: "b:1", weight: 0}]',
        'tls: {server_name: a.b, cert: c, key: d}, backends: ["unix:/a"]',
        'tls: {verify: false}, backends: ["unix:/a"]',
        'backends: ["a:1", {name: other, address: "a:1"}]',
    ],
)
def test_what_is_right_about_a_pool_is_left_alone(keys: str) -> None:
    assert problems(pool(keys)) == []


def test_the_same_backend_name_in_two_pools_is_fine() -> None:
    routes = "routes: [{name: all, split: {read: a, write: b}}]\n"
    assert problems(WEB + routes + 'pools: {a: {backends: ["x:1"]}, b: {backends: ["x:1"]}}\n') == []


def test_a_pool_that_is_only_a_fallback_is_used() -> None:
    routes = "routes: [{name: all, pool: a, fallback: b}]\n"
    assert problems(WEB + routes + 'pools: {a: {backends: ["x:1"]}, b: {backends: ["x:1"]}}\n') == []
