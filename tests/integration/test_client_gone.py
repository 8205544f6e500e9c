"""A client that ends while we do not read from it is noticed all the same."""

import socket
import struct
import time
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.load_client import scrape

TIMEOUT = 15.0
RESET = struct.pack("ii", 1, 0)


def test_a_client_gone_behind_a_blocked_upload_ends_its_exchange(tmp_path: Path) -> None:
    """The backend takes nothing, so neither do we, and the loop tells of no end; the kernel knows of the reset.

    (A FIN behind bytes that our full window keeps out has not reached this machine: nobody can know of it.)
    """
    with socket.create_server(("127.0.0.1", 0)) as backend:
        config = {
            "admin": {"bind": "127.0.0.1:0"},
            "log": {"access": "off"},
            "listeners": {"web": {"bind": "127.0.0.1:0", "timeouts": {"body_idle": "5m", "send": "5m"}}},
            "routes": [{"name": "all", "pool": "slow"}],
            "pools": {
                "slow": {
                    "backends": [f"127.0.0.1:{backend.getsockname()[1]}"],
                    "timeouts": {"first_byte": "5m", "body_idle": "5m"},
                }
            },
        }
        with Daemon(config, tmp_path) as daemon:
            client = socket.create_connection(daemon.address("web"))
            client.settimeout(2)
            client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
            upstream, _ = backend.accept()
            with pytest.raises(TimeoutError):
                while True:
                    client.send(bytes(65536))  # until nobody takes any more
            assert scrape(daemon.admin, "balancer_backend_in_flight") == 1
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            deadline = time.monotonic() + TIMEOUT
            while scrape(daemon.admin, "balancer_backend_in_flight") != 0:
                assert time.monotonic() < deadline, "the exchange is still in flight"
            assert scrape(daemon.admin, "balancer_downstream_connections") == 0
            upstream.close()
