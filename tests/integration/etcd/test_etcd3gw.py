"""etcd3gw, a client of others, unmodified: the same calls against our gateway and against real etcds."""

import queue
import threading
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import etcd3gw
import pytest
from etcd3gw.exceptions import Etcd3Exception

DEADLINE = 20.0


@pytest.fixture(params=["ours", "3.4", "3.5"])
def client(request: pytest.FixtureRequest, our_etcd: str) -> Iterator[etcd3gw.Etcd3Client]:
    """A client of ours, or of a real one; it found out the path of the API by itself."""
    url = our_etcd if request.param == "ours" else request.getfixturevalue("etcds")[request.param]
    parts = urlsplit(url)
    client = etcd3gw.client(host=parts.hostname, port=parts.port)
    assert client.api_path == "/v3/"
    yield client
    client.session.close()


@pytest.fixture
def name() -> str:
    """A name that no other test has, as the real ones are shared."""
    return f"test-{uuid.uuid4()}/"


def test_status_and_members(client: etcd3gw.Etcd3Client) -> None:
    status = client.status()
    assert status["version"].startswith("3.")
    (member,) = client.members()
    assert member["ID"] == status["header"]["member_id"] == status["leader"]
    assert member["clientURLs"]


def test_keys(client: etcd3gw.Etcd3Client, name: str) -> None:
    assert client.get(name) == []
    assert client.put(name, "one")
    assert client.get(name) == [b"one"]
    for number in (3, 1, 2):
        client.put(f"{name}{number}", str(number))
    assert client.get_prefix(f"{name}1")[0][0] == b"1"
    found = client.get(name, metadata=True, range_end=f"{name}~", sort_order="descend", sort_target="create")
    assert [value for value, _ in found] == [b"2", b"1", b"3", b"one"]
    assert [int(kv["version"]) for _, kv in found] == [1, 1, 1, 1]
    found = client.get(name, range_end=f"{name}~", sort_order="ascend", sort_target="key", limit=2)
    assert found == [b"one", b"1"]
    assert client.delete(f"{name}1")
    assert not client.delete(f"{name}1")
    assert client.delete_prefix(name)
    assert client.get_prefix(name) == []


def test_transactions(client: etcd3gw.Etcd3Client, name: str) -> None:
    assert client.create(name, "one")
    assert not client.create(name, "two")
    assert client.replace(name, "one", "two")
    assert not client.replace(name, "one", "three")
    assert client.get(name) == [b"two"]
    encoded = etcd3gw.utils._encode(name)
    result = client.transaction(
        {
            "compare": [{"key": encoded, "result": "GREATER", "target": "VERSION", "version": 1}],
            "success": [
                {"request_txn": {"success": [{"request_range": {"key": encoded}}]}},
                {"request_delete_range": {"key": encoded, "prev_kv": True}},
            ],
            "failure": [],
        }
    )
    assert result["succeeded"]
    assert result["responses"][1]["response_delete_range"]["deleted"] == "1"


def test_leases(client: etcd3gw.Etcd3Client, name: str) -> None:
    lease = client.lease(ttl=100)
    assert 0 < lease.ttl() <= 100
    client.put(name, "kept", lease=lease)
    assert lease.keys() == [name.encode()]
    assert lease.refresh() == 100
    assert lease.revoke()
    assert client.get(name) == []
    assert lease.refresh() == -1
    assert lease.ttl() == -1
    with pytest.raises(Etcd3Exception):
        client.put(name, "late", lease=lease)
    with pytest.raises(Etcd3Exception):
        lease.revoke()


def test_a_lease_ends_by_itself(client: etcd3gw.Etcd3Client, name: str) -> None:
    events, cancel = client.watch(name)
    client.put(name, "short", lease=client.lease(ttl=1))
    kinds = [next(events).get("type", "PUT") for _ in range(2)]
    cancel()
    assert kinds == ["PUT", "DELETE"]


def test_locks(client: etcd3gw.Etcd3Client, name: str) -> None:
    first, second = client.lock(id=name, ttl=60), client.lock(id=name, ttl=60)
    assert first.acquire()
    assert first.is_acquired()
    assert first.refresh() == 60
    assert not second.acquire()
    assert not second.is_acquired()
    assert not second.release()
    assert first.release()
    assert second.acquire()
    assert second.release()
    with client.lock(id=name) as held:
        assert held.is_acquired()


def test_watches(client: etcd3gw.Etcd3Client, name: str) -> None:
    events, cancel = client.watch_prefix(name)
    told: queue.Queue[tuple[str, bytes, bytes]] = queue.Queue()

    def collect() -> None:
        for event in events:
            told.put((event.get("type", "PUT"), event["kv"]["key"], event["kv"].get("value", b"")))

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    client.put(f"{name}1", "one")
    client.put(f"{name}2", "two")
    client.delete(f"{name}1")
    expected = [
        ("PUT", f"{name}1".encode(), b"one"),
        ("PUT", f"{name}2".encode(), b"two"),
        ("DELETE", f"{name}1".encode(), b""),
    ]
    assert [told.get(timeout=DEADLINE) for _ in expected] == expected
    cancel()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_a_watch_from_a_revision_of_the_past(client: etcd3gw.Etcd3Client, name: str) -> None:
    client.put(name, "old")
    revision = int(client.get(name, metadata=True)[0][1]["mod_revision"])
    client.put(name, "new")
    events, cancel = client.watch(name, start_revision=revision, prev_kv=True)
    values = [next(events)["kv"]["value"] for _ in range(2)]
    cancel()
    assert values == [b"old", b"new"]


def test_watching_once(client: etcd3gw.Etcd3Client, name: str) -> None:
    timer = threading.Timer(0.1, client.put, (name, "now"))
    timer.start()
    assert client.watch_once(name, timeout=int(DEADLINE))["kv"]["value"] == b"now"
    timer.join()


def test_refusals_are_exceptions_with_the_text_of_the_server(client: etcd3gw.Etcd3Client) -> None:
    with pytest.raises(Etcd3Exception) as caught:
        client.get("a", revision=10**9)
    assert "required revision is a future revision" in str(caught.value.detail_text)
