"""The coordination section: one error for each thing that would keep a member from starting, or from being safe."""

import pytest

from balancer.config.load import load
from balancer.config.model import Bind
from balancer.errors import ConfigError

HEAD = "listeners: {web: {bind: 127.0.0.1:1}}\nroutes: [{name: all, respond: {status: 200}}]\n"


def checked(embedded: str) -> tuple[list[str], list[str]]:
    """Errors and warnings of a file with this member."""
    text = f"{HEAD}coordination: {{embedded: {{{embedded}}}}}\n"
    try:
        loaded = load(text.encode(), "f.yaml", {}, cores=1, base="/etc/balancer")
    except ConfigError as error:
        told = error.problems
    else:
        told = loaded.warnings
    return [str(one) for one in told if not one.warning], [str(one) for one in told if one.warning]


def test_a_member_alone_on_loopback_needs_nothing_more() -> None:
    text = f'{HEAD}coordination: {{embedded: {{name: n1, members: {{n1: "127.0.0.1:7001"}}, data_dir: d}}}}\n'
    loaded = load(text.encode(), "f.yaml", {}, cores=1, base="/etc/balancer")
    assert loaded.warnings == []
    assert loaded.config.coordination is not None
    member = loaded.config.coordination.embedded
    assert member is not None
    assert (member.data_dir, member.join) == ("/etc/balancer/d", False)
    assert member.peer == Bind(host="127.0.0.1", port=7001)
    assert member.client == Bind(host="127.0.0.1", port=2379)


@pytest.mark.parametrize(
    ("embedded", "words"),
    [
        ('name: n2, members: {n1: "127.0.0.1:1"}, data_dir: d', "there is no member n2"),
        ("name: n1, members: {}, data_dir: d", "is empty; write at least one"),
        (
            'name: n1, members: {n1: "127.0.0.1:1", n2: "127.0.0.1:1", n3: "127.0.0.1:3"}, data_dir: d',
            "give each its own",
        ),
        ('name: n1, members: {n1: "10.0.0.1:1"}, data_dir: d', "peer_secret_file is required"),
        ('name: n1, members: {n1: "host:1"}, data_dir: d', "peer_secret_file is required"),
        ('name: n1, members: {n1: "127.0.0.1:1"}, data_dir: d, election: 100ms', "3 heartbeats"),
        ('name: n1, members: {n1: "unix:/a"}, data_dir: d', "write host:port"),
    ],
)
def test_what_cannot_work_is_an_error_that_says_what_would(embedded: str, words: str) -> None:
    errors, _ = checked(embedded)
    assert any(words in error for error in errors), errors


@pytest.mark.parametrize(
    ("embedded", "words"),
    [
        ('name: a, members: {a: "127.0.0.1:1", b: "127.0.0.1:2"}, data_dir: d', "two members stand still"),
        (
            'name: a, members: {a: "127.0.0.1:1", b: "127.0.0.1:2", c: "127.0.0.1:3", d: "127.0.0.1:4"}, data_dir: d',
            "have 3",
        ),
        ('name: a, members: {a: "127.0.0.1:1"}, data_dir: d, client: 0.0.0.0:2379', "no authentication"),
    ],
)
def test_what_is_unwise_is_a_warning(embedded: str, words: str) -> None:
    errors, warnings = checked(embedded)
    assert errors == []
    assert any(words in warning for warning in warnings), warnings
