"""The curl examples of etcd's documentation (v3.5, dev-guide/api_grpc_gateway), word for word but for the port.

What must come back is what stands there, but for the ids of the cluster and the member, and the term.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytestmark = pytest.mark.real_part("curl")

DEADLINE = 20.0
H = '"header":{"cluster_id":"1","member_id":"2","revision":"%s","raft_term":"3"}'

PUT = """curl -L http://localhost:2379/v3/kv/put -X POST -d '{"key": "Zm9v", "value": "YmFy"}'"""
GET = """curl -L http://localhost:2379/v3/kv/range -X POST -d '{"key": "Zm9v"}'"""
GET_PREFIX = """curl -L http://localhost:2379/v3/kv/range -X POST -d '{"key": "Zm9v", "range_end": "Zm9w"}'"""
WATCH = """curl -N http://localhost:2379/v3/watch -X POST -d '{"create_request": {"key":"Zm9v"} }'"""
TXN_CREATE = """curl -L http://localhost:2379/v3/kv/txn -X POST -d '{"compare":[{"target":"CREATE","key":"Zm9v","createRevision":"2"}],"success":[{"requestPut":{"key":"Zm9v","value":"YmFy"}}]}'"""  # noqa: E501
TXN_VERSION = """curl -L http://localhost:2379/v3/kv/txn -X POST -d '{"compare":[{"version":"4","result":"EQUAL","target":"VERSION","key":"Zm9v"}],"success":[{"requestRange":{"key":"Zm9v"}}]}'"""  # noqa: E501

FOO = '{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}'


def arguments(command: str, url: str) -> list[str]:
    """A command of the documentation for the server at `url`."""
    words = re.findall(r"'[^']*'|\S+", command.replace("localhost:2379", url.replace("http://127.0.0.1", "localhost")))
    return [word.strip("'") for word in words]


def curl(command: str, url: str) -> str:
    """What the command prints."""
    done = subprocess.run(arguments(command, url), capture_output=True, text=True, timeout=DEADLINE, check=True)
    return same_ids(done.stdout)


def same_ids(text: str) -> str:
    """JSON text with the ids and the term of the expected texts, in its own order of fields."""

    def told(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        known = {"cluster_id": "1", "member_id": "2", "raft_term": "3"}
        return {name: known.get(name, value) for name, value in pairs}

    return json.dumps(json.loads(text, object_pairs_hook=told), separators=(",", ":"))


def test_put_and_get_keys(our_etcd: str) -> None:
    assert curl(PUT, our_etcd) == "{" + H % 2 + "}"
    for command in (GET, GET_PREFIX):
        assert curl(command, our_etcd) == "{" + H % 2 + f',"kvs":[{FOO}],"count":"1"' + "}"


@contextmanager
def watching(url: str) -> Iterator[Iterator[str]]:
    """The lines that the watch of the documentation prints."""
    process = subprocess.Popen(arguments(WATCH, url), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield iter(process.stdout)
    finally:
        process.kill()
        process.wait(DEADLINE)


def test_watch_keys(our_etcd: str) -> None:
    with watching(our_etcd) as lines:
        assert same_ids(next(lines)) == '{"result":{' + H % 1 + ',"created":true}}'
        curl(PUT, our_etcd)
        assert same_ids(next(lines)) == '{"result":{' + H % 2 + ',"events":[{"kv":' + FOO + "}]}}"


def test_transactions(our_etcd: str) -> None:
    curl(PUT, our_etcd)
    expected = "{" + H % 3 + ',"succeeded":true,"responses":[{"response_put":{"header":{"revision":"3"}}}]}'
    assert curl(TXN_CREATE, our_etcd) == expected
    curl(PUT.replace("Zm9v", "YQ=="), our_etcd)
    curl(PUT, our_etcd)
    curl(PUT.replace("YmFy", "YmF6"), our_etcd)
    kvs = '[{"key":"Zm9v","create_revision":"2","mod_revision":"6","version":"4","value":"YmF6"}]'
    answer = '{"response_range":{"header":{"revision":"6"},"kvs":' + kvs + ',"count":"1"}}'
    assert curl(TXN_VERSION, our_etcd) == "{" + H % 6 + ',"succeeded":true,"responses":[' + answer + "]}"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("user/add", '{"name": "root", "password": "pass"}'),
        ("role/add", '{"name": "root"}'),
        ("user/grant", '{"user": "root", "role": "root"}'),
        ("enable", "{}"),
        ("authenticate", '{"name": "root", "password": "pass"}'),
    ],
)
def test_users_and_roles_are_not_served_and_that_is_said(our_etcd: str, path: str, body: str) -> None:
    told = json.loads(curl(f"curl -L http://localhost:2379/v3/auth/{path} -X POST -d '{body}'", our_etcd))
    assert (told["code"], told["details"]) == (12, [])
    assert "not served" in told["message"]


def test_the_examples_say_of_a_real_etcd_what_they_say_of_ours(real_etcd: str) -> None:
    """So that this test compares with what etcd does, not with what we believe that it does."""
    first = json.loads(curl(PUT, real_etcd))
    assert list(first) == ["header"]
    assert list(json.loads(curl(GET, real_etcd))) == ["header", "kvs", "count"]
    with watching(real_etcd) as lines:
        assert list(json.loads(next(lines))["result"]) == ["header", "created"]
        curl(PUT, real_etcd)
        assert list(json.loads(next(lines))["result"]) == ["header", "events"]
