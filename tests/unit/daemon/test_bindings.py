"""The listening sockets of a configuration: one per slot, all or none, waited for after a crash."""

import os
import socket
import threading
from pathlib import Path

import pytest

from balancer.config.model import Bind, Certificate, Config, Listener, ListenerTls
from balancer.daemon.bindings import Bindings, ListeningSocket
from balancer.transport.sockets import BindError

LOOPBACK = Bind(host="127.0.0.1", port=0)


def config_of(*listeners: Listener, workers: int = 3) -> Config:
    return Config(workers=workers, listeners=listeners, routes=(), pools=())


def test_every_slot_has_its_own_tcp_sockets_and_shares_unix_ones(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    tls = ListenerTls(certificates=(Certificate(cert="c", key="k"),))
    bindings = Bindings.open(
        config_of(
            Listener(name="web", bind=(LOOPBACK, Bind(path=path))), Listener(name="secure", bind=(LOOPBACK,), tls=tls)
        )
    )
    everything = list(bindings.all())
    assert len({each.key for each in everything}) == len(everything) == 9
    assert len({each.sock.fileno() for each in everything}) == 7
    assert [each.listener for each in bindings.of_slot(1)] == ["web", "web", "secure"]
    assert [each.shared for each in bindings.of_slot(1)] == [False, True, False]
    assert all(not each.shared for each in bindings.own_of_slot(1))
    (web, web_url), (_, unix_url), (secure, secure_url) = bindings.announced
    port = bindings.of_slot(0)[0].sock.getsockname()[1]
    assert (web, web_url, unix_url, secure) == ("web", f"http://127.0.0.1:{port}", f"unix:{path}", "secure")
    assert secure_url.startswith("https://127.0.0.1:")
    assert bindings.of_slot(2)[0].bind.port == port != 0
    bindings.close()
    bindings.remove_files()
    assert not os.path.exists(path)


def test_when_one_address_fails_none_stays_bound(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=f"127.0.0.1:{port}: address already in use"):
            Bindings.open(
                config_of(
                    Listener(name="a", bind=(Bind(path=path),)),
                    Listener(name="b", bind=(Bind(host="127.0.0.1", port=port),)),
                )
            )
    assert not os.path.exists(path)


def test_after_a_crash_an_address_in_use_is_waited_for() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    config = config_of(Listener(name="a", bind=(Bind(host="127.0.0.1", port=port),)))
    with pytest.raises(BindError):
        Bindings.open(config, patience=0.2)
    timer = threading.Timer(0.3, taken.close)
    timer.start()
    bindings = Bindings.open(config, patience=10.0)
    timer.join()
    assert bindings.announced == [("a", f"http://127.0.0.1:{port}")]
    bindings.close()


def test_patience_is_for_addresses_in_use_only() -> None:
    config = config_of(Listener(name="a", bind=(Bind(host="192.0.2.1", port=0),)))
    with pytest.raises(BindError, match="no such address"):
        Bindings.open(config, patience=3600.0)


# ---- another configuration


def listener(name: str, *binds: Bind, tls: bool = False) -> Listener:
    certificates = ListenerTls(certificates=(Certificate(cert="c", key="k"),))
    return Listener(name=name, bind=binds, tls=certificates if tls else None)


def real(bindings: Bindings, name: str) -> Bind:
    """Where a listener really is."""
    return next(each.bind for each in bindings.all() if each.listener == name)


def connects(bind: Bind) -> bool:
    try:
        socket.create_connection((bind.host, bind.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def keys(sockets: list[ListeningSocket]) -> list[int]:
    return [each.key for each in sockets]


def test_what_stays_keeps_its_sockets_and_keys() -> None:
    first = config_of(listener("a", LOOPBACK, LOOPBACK), listener("b", LOOPBACK))
    bindings = Bindings.open(first)
    before = {each.key: each.sock for each in bindings.all()}
    change = bindings.rebind(config_of(listener("b", LOOPBACK), listener("a", LOOPBACK, LOOPBACK)), range(3))
    assert (change.added, change.removed, change.closing) == ([], [], [])
    bindings.apply(change)
    assert {each.key: each.sock for each in bindings.all()} == before
    assert [name for name, _ in bindings.announced] == ["b", "a", "a"], "in the order of the file"
    bindings.close()


def test_new_addresses_are_bound_before_anything_changes_and_old_ones_stay_open_until_they_are_closed() -> None:
    bindings = Bindings.open(config_of(listener("old", LOOPBACK)))
    old = real(bindings, "old")
    change = bindings.rebind(config_of(listener("new", LOOPBACK)), range(3))
    new = change.added[0].bind
    assert connects(new)
    assert [each.listener for each in bindings.of_slot(0)] == ["old"], "nothing in use has changed"
    bindings.apply(change)
    assert [each.listener for each in bindings.of_slot(2)] == ["new"]
    assert connects(old)
    assert len(change.closing) == len(change.removed) == 3
    bindings.close_removed(change)
    assert not connects(old)
    assert connects(new)
    bindings.close()


def test_a_change_that_is_undone_leaves_nothing_behind(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    bindings = Bindings.open(config_of(listener("old", LOOPBACK)))
    change = bindings.rebind(config_of(listener("old", LOOPBACK), listener("new", LOOPBACK, Bind(path=path))), range(4))
    new = next(each.bind for each in change.added if each.listener == "new" and not each.shared)
    assert os.path.exists(path)
    bindings.undo(change)
    assert not os.path.exists(path)
    assert not connects(new)
    assert connects(real(bindings, "old"))
    assert len(bindings.of_slot(3)) == 0
    bindings.close()


def test_an_address_that_cannot_be_bound_takes_the_others_of_its_change_along() -> None:
    bindings = Bindings.open(config_of(listener("old", LOOPBACK)))
    free = Bind(host="127.0.0.1", port=free_port())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = Bind(host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(BindError, match="address already in use"):
            bindings.rebind(config_of(listener("new", free, busy)), range(3))
    assert not connects(free)
    assert connects(real(bindings, "old"))
    bindings.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize("tls", [False, True])
def test_an_address_under_another_listener_keeps_its_sockets_under_new_keys(tls: bool) -> None:
    bind = Bind(host="127.0.0.1", port=free_port())
    bindings = Bindings.open(config_of(listener("old", bind)))
    before = [(each.key, each.sock) for each in bindings.all()]
    change = bindings.rebind(config_of(listener("old" if tls else "new", bind, tls=tls)), range(3))
    bindings.apply(change)
    after = [(each.key, each.sock) for each in bindings.all()]
    assert [sock for _, sock in after] == [sock for _, sock in before]
    assert not {key for key, _ in after} & {key for key, _ in before}
    assert keys(change.removed) == [key for key, _ in before]
    assert keys(change.added) == [key for key, _ in after]
    assert change.closing == []
    bindings.close_removed(change)
    assert connects(bind)
    bindings.close()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("old", "new"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")])
def test_an_address_that_overlaps_with_ours_is_bound_beside_it(old: str, new: str, workers: int) -> None:
    port = free_port()
    bindings = Bindings.open(config_of(listener("a", Bind(host=old, port=port)), workers=workers))
    change = bindings.rebind(config_of(listener("a", Bind(host=new, port=port)), workers=workers), range(workers))
    bindings.apply(change)
    bindings.close_removed(change)
    assert len(bindings.of_slot(workers - 1)) == 1
    assert connects(Bind(host="127.0.0.1", port=port))
    bindings.close()


def test_further_slots_get_sockets_of_their_own_and_fewer_slots_lose_none(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    config = config_of(listener("a", LOOPBACK, Bind(path=path)), workers=1)
    bindings = Bindings.open(config)
    [first, shared] = bindings.of_slot(0)
    change = bindings.rebind(config, range(3))
    assert [each.slot for each in change.added if not each.shared] == [1, 2]
    assert all(each.sock is shared.sock for each in change.added if each.shared)
    bindings.apply(change)
    assert bindings.of_slot(0) == [first, shared]
    assert len({each.sock for each in bindings.all()}) == 4
    assert {each.bind.port for each in bindings.all()} == {first.bind.port, 0}
    change = bindings.rebind(config, range(1))
    bindings.apply(change)
    assert change.closing == []
    assert len(bindings.own_of_slot(2)) == 1, "its queue is served by another worker"
    bindings.close()
    bindings.remove_files()


def test_the_file_of_a_unix_socket_goes_with_its_listener_and_its_mode_changes_in_place(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    bindings = Bindings.open(config_of(listener("a", Bind(path=path, mode=0o600))))
    kept = keys(bindings.of_slot(0))
    bindings.apply(bindings.rebind(config_of(listener("a", Bind(path=path, mode=0o666))), range(3)))
    assert keys(bindings.of_slot(0)) == kept
    assert os.stat(path).st_mode & 0o777 == 0o666
    change = bindings.rebind(config_of(listener("b", LOOPBACK)), range(3))
    bindings.apply(change)
    bindings.close_removed(change)
    assert not os.path.exists(path)
    bindings.close()
