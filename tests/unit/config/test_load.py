"""Loading: every problem in one go, at its place, and a file that is right gives what it says."""

from pathlib import Path
from textwrap import dedent

import pytest

from balancer.config import model, yaml_nodes
from balancer.config.load import Loaded, load
from balancer.errors import ConfigError, Problem

MINIMAL = """
    listeners: {web: {bind: "127.0.0.1:8080"}}
    routes: [{name: all, pool: app}]
    pools: {app: {backends: ["127.0.0.1:9001"]}}
"""


def loaded(text: str, **environ: str) -> Loaded:
    return load(dedent(text).encode(), "f.yaml", environ, cores=3)


def problems(text: str, **environ: str) -> list[Problem]:
    """The problems of a file that cannot be used."""
    with pytest.raises(ConfigError) as caught:
        loaded(text, **environ)
    return caught.value.problems


def only(text: str, **environ: str) -> Problem:
    """The only problem of a file."""
    found = problems(text, **environ)
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0]


def test_twelve_mistakes_are_reported_at_their_lines_and_nothing_else() -> None:
    file = Path(__file__).with_name("twelve_mistakes.yaml")
    with pytest.raises(ConfigError) as caught:
        load(file.read_bytes(), file.name, {})
    found = [(problem.line, problem.column, problem.path) for problem in caught.value.problems]
    assert found == [
        (2, 1, "worker"),
        (3, 14, "log.level"),
        (4, 17, "shutdown_grace"),
        (6, 9, "admin.bind"),
        (11, 11, "listeners.other.bind"),
        (12, 23, "listeners.other.http10_keepalive"),
        (15, 21, "routes[0].match.hosts[0]"),
        (16, 11, "routes[0].pool"),
        (19, 5, "routes[2]"),
        (24, 15, "pools.app.strategy"),
        (27, 28, "pools.app.backends[1].address"),
        (28, 21, "pools.app.backends_from.dns"),
    ]
    rights = [
        "did you mean workers?",
        "possible here: debug, info, warning, error",
        "write 30s",
        "token_file is required",
        "already bound by listener web in line 9",
        "write true",
        "write `api.example.com`",
        "did you mean app?",
        "`everything` in line 17",
        "did you mean weighted?",
        "lacks its port",
        "dns is not supported yet",
    ]
    for problem, right in zip(caught.value.problems, rights, strict=True):
        assert right in problem.message
        assert not problem.warning


def test_a_minimal_file_has_the_defaults_of_the_model() -> None:
    config = loaded(MINIMAL).config
    expected = model.Config(
        admin=model.Admin(bind=model.Bind(host="127.0.0.1", port=9901)),
        listeners=(model.Listener(name="web", bind=(model.Bind(host="127.0.0.1", port=8080),), routes=("all",)),),
        routes=(model.Route(name="all", action=model.PoolAction(pool="app")),),
        pools=(model.Pool(name="app", backends=(model.Backend(name="127.0.0.1:9001", host="127.0.0.1", port=9001),)),),
    )
    assert config == expected


def test_the_same_file_gives_no_warnings() -> None:
    assert loaded(MINIMAL).warnings == []


def test_warnings_do_not_refuse_a_file() -> None:
    result = loaded(MINIMAL + "    workers: auto\n" + "    log: {access: ./a.log}\n")
    assert result.config.workers == 3
    unused = loaded(
        """
        listeners: {web: {bind: "127.0.0.1:8080"}}
        routes: [{name: all, pool: app}]
        pools: {app: {backends: ["127.0.0.1:9001"]}, spare: {backends: ["127.0.0.1:9002"]}}
        """
    )
    assert [(problem.warning, problem.path) for problem in unused.warnings] == [(True, "pools.spare")]


@pytest.mark.parametrize("text", ["- a", "just text", "5"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    assert "must be a mapping" in only(text).message


def test_what_is_missing_is_asked_for_with_an_example() -> None:
    found = problems("workers: 1")
    assert [problem.path for problem in found] == ["listeners", "routes"]
    assert 'listeners: {web: {bind: "0.0.0.0:8080"}}' in found[0].message


def test_a_missing_key_is_reported_at_the_key_of_its_section() -> None:
    problem = only(MINIMAL.replace('{bind: "127.0.0.1:8080"}', "\n      {tls: {certificates: [{cert: a, key: b}]}}"))
    assert problem.path == "listeners.web.bind"
    assert problem.line == 2


@pytest.mark.parametrize("value", ["", "~", "null", "Null"])
def test_a_key_without_a_value_is_refused(value: str) -> None:
    problem = only(MINIMAL + f"    workers: {value}\n")
    assert (problem.path, problem.line) == ("workers", 5)
    assert "has no value" in problem.message


def test_an_empty_section_is_refused_too() -> None:
    assert "has no value" in only(MINIMAL + "    log:\n").message


@pytest.mark.parametrize(
    ("key", "value", "right"),
    [
        ("workers", "[1]", "a list stands where one value is due"),
        ("workers", "{a: 1}", "a mapping stands where one value is due"),
        ("workers", "0", "write 1 to 256"),
        ("workers", "257", "out of range"),
        ("workers", "'2'", "without quotes"),
        ("workers", "two", "not a whole number"),
        ("log", "[a]", "a list stands where a mapping of keys is due; its keys are level, format, access"),
        ("admin", "text", "`text` stands where a mapping"),
        ("max_connections", "0", "write off, or 1 to"),
        ("shutdown_grace", "0s", "could mean none or no limit"),
        ("shutdown_grace", "off", "cannot be off"),
        ("shutdown_grace", "25h", "out of range"),
        ("log: {access", "nowhere}", "./access.log"),
        ("admin: {hosts", "a}", "write [a]"),
        ("admin: {hosts", "{a: b}}", "write [...]"),
        ("via", "a b", "not a header name"),
        ("user", "a b", "account"),
        ("runtime_dir", "''", "not the path of a file"),
        ("coordination", "{etcd: {}}", "http://10.0.0.9:2379"),
        ("coordination", "{etcd: {endpoints: []}}", "at least one address"),
        ("coordination", '{etcd: {endpoints: ["https://10.0.0.9:2379"]}}', "write http://"),
        ("coordination", '{etcd: {endpoints: ["10.0.0.9:2379"]}}', "write such as http://10.0.0.9:2379"),
        ("coordination", '{etcd: {endpoints: ["http://10.0.0.9"]}}', "lacks its port"),
        ("coordination", "{embedded: {name: n1, members: {n1: x}, data_dir: d}}", "port"),
        ("coordination", "{}", "is empty; write embedded"),
        ("watch", "yes", "write true"),
    ],
)
def test_a_wrong_value_says_what_would_be_right(key: str, value: str, right: str) -> None:
    assert right in only(MINIMAL + f"    {key}: {value}\n").message


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("backends_from: {dns: app.internal}", "backends_from.dns"),
        ("strategy: power_of_two", "strategy"),
        ("strategy: peak_ewma", "strategy"),
        ("strategy: consistent_hash", "strategy"),
        ("strategy: adaptive", "strategy"),
    ],
)
def test_keys_of_later_versions_are_refused_as_such(written: str, key: str) -> None:
    problem = only(MINIMAL.replace("{app: {", f"{{app: {{{written}, "))
    assert problem.path == f"pools.app.{key}"
    assert "not supported yet" in problem.message


def test_an_unknown_key_without_a_near_one_lists_what_is_possible() -> None:
    assert "possible here: level, format, access" in only(MINIMAL + "    log: {zzzz: 1}\n").message


def test_variables_resolve_like_plain_scalars_even_in_quotes() -> None:
    text = MINIMAL + '    workers: "${N}"\n    log: {level: "${LEVEL:-debug}"}\n'
    config = loaded(text, N="2").config
    assert config.workers == 2
    assert config.log.level == "debug"


def test_a_variable_that_is_empty_counts_as_no_value() -> None:
    assert "has no value" in only(MINIMAL + "    user: ${U}\n", U="").message


def test_a_missing_variable_is_reported_at_its_value() -> None:
    problem = only(MINIMAL + "    user: ${NOBODY}\n")
    assert (problem.line, problem.column, problem.path) == (5, 7, "user")
    assert "NOBODY is not set" in problem.message


def test_numbers_and_booleans_are_taken_as_written_where_text_is_due() -> None:
    text = MINIMAL.replace(
        "pool: app", "match: {headers: {A: 0100, B: true, C: 1:30, D: on, E: 1.50}, query: {v: 007}}, pool: app"
    )
    match = loaded(text).config.routes[0].match
    assert match.headers == {"a": "0100", "b": "true", "c": "1:30", "d": "on", "e": "1.50"}
    assert match.query == {"v": "007"}


def test_problems_come_in_the_order_of_the_file_and_each_once() -> None:
    found = problems("log: &x {lvl: 1}\nadmin: *x\nzzz: 1\nlisteners: {}\nroutes: []\n")
    assert [problem.line for problem in found] == sorted(problem.line for problem in found)
    assert len(found) == len(set(found))


def test_lines_stay_right_when_items_before_are_wrong() -> None:
    text = """
        listeners: {web: {bind: "127.0.0.1:8080"}}
        routes:
          - name: a b
            pool: app
          - pool: app
          - name: good
            pool: nope
        pools:
          app:
            backends:
              - wrong
              - {name: x}
              - {name: c, address: "127.0.0.1:9001"}
              - {name: c, address: "127.0.0.1:9002"}
        """
    found = [(problem.line, problem.path) for problem in problems(text)]
    assert found == [
        (4, "routes[0].name"),
        (6, "routes[1].name"),
        (8, "routes[2].pool"),
        (12, "pools.app.backends[0]"),
        (13, "pools.app.backends[1].address"),
        (15, "pools.app.backends[3]"),
    ]


def test_one_mistake_is_not_reported_as_several() -> None:
    # The wrong path leaves a route without conditions: it must not seem to take everything of the next one.
    text = MINIMAL.replace(
        "[{name: all, pool: app}]", "[{name: a, match: {path: nope}, pool: app}, {name: b, pool: app}]"
    )
    assert only(text).path == "routes[0].match.path"
    assert only(MINIMAL.replace("pool: app", "pol: app")).path == "routes[0].pol"
    assert only(MINIMAL.replace('["127.0.0.1:9001"]', "[wrong]")).path == "pools.app.backends[0]"
    assert only(MINIMAL.replace('"127.0.0.1:8080"', "80")).path == "listeners.web.bind"


def test_a_wrong_name_of_a_pool_is_reported_at_its_key() -> None:
    found = problems(MINIMAL.replace("{app:", '{"a b":'))
    assert [(problem.path, problem.column) for problem in found] == [("routes[0].pool", 28), ('pools["a b"]', 9)]


def test_the_list_of_problems_has_an_end() -> None:
    text = "\n".join(f"k{index}: 1" for index in range(2000))
    found = problems(text)
    assert len(found) <= yaml_nodes.PROBLEMS_MAX + 1


def test_the_end_of_a_long_list_says_how_many_more_there_are() -> None:
    backends = ", ".join(["wrong"] * 400 + ["~"] * 400)
    found = problems(MINIMAL.replace('"127.0.0.1:9001"', backends))
    assert len(found) == yaml_nodes.PROBLEMS_MAX + 1
    assert "300 more problems" in found[-1].message


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"a: [",
        b"a: *x",
        b"[" * 1000,
        b"x" * (5 * 1024 * 1024),
        b"? a",
        b"?",
        b"a: \t- b",
        b"{}",
        b"[]",
        b"~",
    ],
)
def test_no_input_gives_anything_but_a_configuration_error(text: bytes) -> None:
    with pytest.raises(ConfigError):
        load(text, "f", {})


def test_a_mistyped_section_is_one_mistake_and_the_rest_is_checked() -> None:
    found = problems(MINIMAL.replace("listeners:", "listenrs:").replace("pool: app", "pool: ap"))
    assert [problem.path for problem in found] == ["listeners", "listenrs", "routes[0].pool"]
    found = problems(MINIMAL.replace("pools:", "poools:"))
    assert [problem.path for problem in found] == ["poools"]
    text = MINIMAL.replace("routes:", "rotues:").replace('"127.0.0.1:8080"', '"127.0.0.1:8080", routes: [all]')
    assert [problem.path for problem in problems(text)] == ["routes", "rotues"]


def test_a_required_key_without_a_value_is_reported_once() -> None:
    assert only(MINIMAL.replace('"127.0.0.1:8080"', "")).path == "listeners.web.bind"
    assert only(MINIMAL.replace('{web: {bind: "127.0.0.1:8080"}}', "")).path == "listeners"
