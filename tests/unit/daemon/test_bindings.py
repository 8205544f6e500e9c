"""The listening sockets of a configuration: one per slot, all or none, waited for after a crash."""

import os
import socket
import threading
from pathlib import Path

import pytest

from balancer.config.model import Bind, Certificate, Config, Listener, ListenerTls
from balancer.daemon.bindings import Bindings
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
