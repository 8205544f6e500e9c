"""Listening sockets: shared among slots, never with strangers, with errors that say what to do."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.config.model import Bind
from balancer.transport.sockets import (
    BACKLOG,
    BindError,
    accept_all,
    bind_sockets,
    bound,
    file_identity,
    queued,
    refuse_new,
    remove_unix,
    url,
)

LOOPBACK = Bind(host="127.0.0.1", port=0)
DEADLINE = 10.0


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    """Sockets that the test opened; closed afterwards."""
    sockets: list[socket.socket] = []
    yield sockets
    for sock in sockets:
        sock.close()


def connect(address: tuple[str, int], opened: list[socket.socket]) -> socket.socket:
    client = socket.create_connection(address, timeout=DEADLINE)
    opened.append(client)
    return client


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_all_slots_share_the_port_that_the_first_one_got(opened: list[socket.socket]) -> None:
    opened += bind_sockets(LOOPBACK, 4)
    ports = {sock.getsockname()[1] for sock in opened}
    assert len(opened) == 4
    assert len(ports) == 1
    assert bound(LOOPBACK, opened[2]).port == ports.pop() != 0


def test_every_slot_gets_connections(opened: list[socket.socket]) -> None:
    slots = bind_sockets(LOOPBACK, 2)
    opened += slots
    address = slots[0].getsockname()
    for _ in range(64):  # one side of a hash stays empty with a chance of 2 ** -63
        connect(address, opened)
    counts = [queued(sock) for sock in slots]
    assert sum(counts) == 64
    assert min(counts) > 0


def test_sockets_are_neither_blocking_nor_inherited(opened: list[socket.socket]) -> None:
    opened += bind_sockets(LOOPBACK, 2)
    assert [sock.getblocking() for sock in opened] == [False, False]
    assert [sock.get_inheritable() for sock in opened] == [False, False]


def test_a_second_daemon_of_the_same_user_cannot_share_the_port(opened: list[socket.socket]) -> None:
    opened += bind_sockets(LOOPBACK, 2)
    port = opened[0].getsockname()[1]
    with pytest.raises(BindError, match=f"cannot bind 127.0.0.1:{port}: address already in use") as caught:
        bind_sockets(Bind(host="127.0.0.1", port=port), 2)
    assert caught.value.in_use


def test_a_port_is_free_again_right_after_its_connections_were_served(opened: list[socket.socket]) -> None:
    [first] = bind_sockets(LOOPBACK, 1)
    address = first.getsockname()
    client = connect(address, opened)
    first.setblocking(True)
    served, _ = first.accept()
    served.close()  # our side ends first: it goes to TIME_WAIT, and the port with it
    assert client.recv(1) == b""
    client.close()
    first.close()
    opened += bind_sockets(Bind(host="127.0.0.1", port=address[1]), 2)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_bind_leaves_ipv4_alone(opened: list[socket.socket]) -> None:
    opened += bind_sockets(Bind(host="::", port=0), 2)
    port = opened[0].getsockname()[1]
    opened += bind_sockets(Bind(host="0.0.0.0", port=port), 2)
    assert url(bound(Bind(host="::1", port=0), opened[0])) == f"http://[::1]:{port}"


@pytest.mark.parametrize(
    ("bind", "why"),
    [
        (Bind(host="192.0.2.1", port=0), "no such address"),
        (Bind(path="/nonexistent/folder/x.sock"), "there is no folder /nonexistent/folder"),
    ],
)
def test_what_cannot_be_bound_says_why(bind: Bind, why: str) -> None:
    with pytest.raises(BindError, match=why) as caught:
        bind_sockets(bind, 2)
    assert not caught.value.in_use


def test_a_privileged_port_names_the_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidding(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "socket", Forbidding)
    with pytest.raises(
        BindError, match=r"cannot bind 127\.0\.0\.1:80: permission denied \(needs root or CAP_NET_BIND_SERVICE\)"
    ):
        bind_sockets(Bind(host="127.0.0.1", port=80), 1)


def test_the_backlog_is_what_the_system_allows(opened: list[socket.socket]) -> None:
    [listening] = bind_sockets(LOOPBACK, 1)
    opened.append(listening)
    allowed = min(BACKLOG, int(Path("/proc/sys/net/core/somaxconn").read_text()))
    for _ in range(min(allowed, 200)):
        connect(listening.getsockname(), opened)
    assert queued(listening) == min(allowed, 200)


# ---- emptying a queue


def test_after_refuse_new_what_is_queued_is_served_and_nothing_new_enters(opened: list[socket.socket]) -> None:
    slots = bind_sockets(LOOPBACK, 2)
    opened += slots
    address = slots[0].getsockname()
    clients = [connect(address, opened) for _ in range(10)]
    for sock in slots:
        refuse_new(sock)
    late = socket.socket()
    opened.append(late)
    late.setblocking(False)
    late.connect_ex(address)
    served = []
    for sock in slots:
        while queued(sock):
            served.append(sock.accept()[0])
    opened += served
    assert len(served) == len(clients)
    for connection in served:
        connection.sendall(b"hello")  # the filter of the listener does not disturb what it let in
    assert [client.recv(5) for client in clients] == [b"hello"] * 10
    for client in clients:
        client.sendall(b"and back")
    assert all(connection.recv(8) == b"and back" for connection in map(_blocking, served))
    assert [queued(sock) for sock in slots] == [0, 0], "the late one waits outside"


def _blocking(sock: socket.socket) -> socket.socket:
    sock.settimeout(DEADLINE)
    return sock


def test_where_filters_are_roots_alone_new_connections_are_not_refused_and_none_is_lost(
    opened: list[socket.socket],
) -> None:
    class Unprivileged(socket.socket):
        def setsockopt(self, *arguments: object) -> None:
            raise PermissionError(1, "Operation not permitted")

    [bound_socket] = bind_sockets(LOOPBACK, 1)
    listening = Unprivileged(fileno=bound_socket.detach())
    opened.append(listening)
    assert not refuse_new(listening)
    connect(listening.getsockname(), opened)


def test_accept_all_takes_the_whole_queue_and_does_not_wait(opened: list[socket.socket]) -> None:
    [listening] = bind_sockets(LOOPBACK, 1)
    opened.append(listening)
    for _ in range(5):
        connect(listening.getsockname(), opened)
    accepted = accept_all(listening)
    opened += accepted
    assert len(accepted) == 5
    assert not any(sock.getblocking() for sock in accepted)
    assert accept_all(listening) == []


def test_refuse_new_leaves_a_unix_socket_alone(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = str(tmp_path / "s")
    opened += bind_sockets(Bind(path=path), 2)
    refuse_new(opened[0])
    assert queued(opened[0]) == 0
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


# ---- Unix sockets


def test_a_unix_bind_has_one_socket_with_the_mode_asked_for(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = tmp_path / "s"
    opened += bind_sockets(Bind(path=str(path), mode=0o620), 3)
    assert len(opened) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o620
    assert url(Bind(path=str(path))) == f"unix:{path}"


def test_the_socket_file_of_a_dead_process_is_replaced(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = str(tmp_path / "s")
    [dead] = bind_sockets(Bind(path=path), 1)
    dead.close()
    assert os.path.exists(path)
    opened += bind_sockets(Bind(path=path), 1)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_a_unix_socket_that_someone_listens_on_is_left_alone(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = str(tmp_path / "s")
    opened += bind_sockets(Bind(path=path), 1)
    with pytest.raises(BindError, match="another program listens there") as caught:
        bind_sockets(Bind(path=path), 1)
    assert caught.value.in_use
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(BindError, match="not a socket stands there"):
        bind_sockets(Bind(path=str(path)), 1)
    assert path.read_text() == "data"


def test_only_our_own_socket_file_is_removed(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = str(tmp_path / "s")
    [first] = bind_sockets(Bind(path=path), 1)
    first.close()
    ours = file_identity(path)
    # Another inode even on file systems that reuse the number at once: the old file is still there, by another name.
    os.rename(path, path + ".old")
    opened += bind_sockets(Bind(path=path), 1)
    remove_unix(path, ours)
    assert os.path.exists(path), "someone else's by now"
    remove_unix(path, file_identity(path))
    assert not os.path.exists(path)
    remove_unix(path, ours)  # gone already: nothing happens
