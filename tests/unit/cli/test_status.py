import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from balancer.admin.api import AdminApi
from balancer.admin.status import BackendStatus, Connections, Latency, PoolStatus
from balancer.cli.status import NoDaemonError, command, find_admin
from balancer.telemetry.aggregate import Aggregate
from balancer.transport.http_server import HttpServer

POOLS = [
    PoolStatus(
        name="web",
        strategy="least_connections",
        backends=(
            BackendStatus(
                name="a[b]",
                address="127.0.0.1:9001",
                weight=5,
                file_weight=3,
                in_flight=7,
                max_connections=200,
                requests={"none": 1, "2xx": 1995, "5xx": 4},
                latency=Latency(p50_ms=1.25, p99_ms=2500.0),
                connections=Connections(active=2, idle=3),
            ),
            BackendStatus(name="gone", address="app:80", state="unresolved"),
        ),
    ),
    PoolStatus(
        name="big",
        strategy="random",
        backends=tuple(BackendStatus(name=f"10.0.0.{n}:80", address=f"10.0.0.{n}:80") for n in range(60)),
    ),
    PoolStatus(name="none", strategy="random"),
]


class View:
    def readiness(self) -> str | None:
        return None

    async def aggregate(self) -> Aggregate:
        return Aggregate()

    async def pools(self) -> list[PoolStatus]:
        return POOLS

    def generation(self) -> int:
        return 3


@pytest.fixture(scope="module")
def admin() -> Iterator[str]:
    """The URL of an admin address with a token, served by a thread."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        server = HttpServer(AdminApi(View(), "s3cret", frozenset()))
        await server.start(sock)
        await stop.wait()
        await server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    thread.start()
    yield url
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    return str(file)


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(command, arguments, env={"COLUMNS": "140", "BALANCER_ADMIN": "", **environ})


def test_the_table_shows_every_pool_and_what_matters_of_a_backend(admin: str, token_file: str) -> None:
    result = run("--admin", admin, "--token-file", token_file)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == f"balancer at {admin}, configuration generation 3"
    row = next(line for line in lines if "a[b]" in line)
    words = row.split()
    assert words == [
        "a[b]", "127.0.0.1:9001", "active", "5", "(file", "3)", "7/200", "2,000",
        "5", "(0.2%)", "1.2", "ms", "2.5", "s", "3/5",
    ]  # fmt: skip
    assert "unresolved" in next(line for line in lines if "gone" in line)
    assert any("no backends" in line for line in lines)


def test_a_large_pool_is_cut_unless_all_is_asked_for(admin: str, token_file: str) -> None:
    cut = run("--admin", admin, "--token-file", token_file).output
    assert "10.0.0.49:80" in cut
    assert "10.0.0.50:80" not in cut
    assert "and 10 more; --all shows them" in cut
    whole = run("--admin", admin, "--token-file", token_file, "--all").output
    assert "10.0.0.59:80" in whole
    assert "more; --all" not in whole


def test_json_is_what_the_daemon_says(admin: str, token_file: str) -> None:
    result = run("--json", BALANCER_ADMIN=admin, BALANCER_ADMIN_TOKEN_FILE=token_file)
    known = json.loads(result.output)
    assert [pool["name"] for pool in known["pools"]] == ["web", "big", "none"]


def test_a_missing_token_is_said(admin: str) -> None:
    result = run("--admin", admin)
    assert result.exit_code == 1
    assert "--token-file FILE" in result.output


def test_nothing_that_answers_is_an_error_for_a_person() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        result = run("--admin", f"http://127.0.0.1:{sock.getsockname()[1]}")
    assert result.exit_code == 1
    assert "Connection refused; is the daemon running" in " ".join(result.output.split())
    assert "Traceback" not in result.output


def runtime_folder(base: Path, name: str, url: str) -> Path:
    folder = base / name
    folder.mkdir()
    (folder / "admin.url").write_text(url + "\n")
    return folder


def test_the_one_daemon_of_this_user_is_found(tmp_path: Path) -> None:
    runtime_folder(tmp_path, "balancer-0-abc", "http://127.0.0.1:1")
    runtime_folder(tmp_path, "other", "http://127.0.0.1:2")
    assert find_admin({"XDG_RUNTIME_DIR": str(tmp_path)}, os.geteuid(), ()) == "http://127.0.0.1:1"


def test_several_daemons_are_listed_to_choose_from(tmp_path: Path) -> None:
    for number in (1, 2):
        runtime_folder(tmp_path, f"balancer-{number}", f"http://127.0.0.1:{number}")
    with pytest.raises(
        NoDaemonError, match=r"choose one:\n  --admin http://127.0.0.1:1 .*\n  --admin http://127.0.0.1:2"
    ):
        find_admin({"XDG_RUNTIME_DIR": str(tmp_path)}, os.geteuid(), ())


def test_no_daemon_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NoDaemonError, match="balancer run CONFIG"):
        find_admin({"XDG_RUNTIME_DIR": str(tmp_path)}, os.geteuid(), ())


@pytest.mark.parametrize(("mode", "believed"), [(0o700, True), (0o1777, False)])
def test_the_folder_of_another_user_is_believed_only_where_others_cannot_make_one(
    tmp_path: Path, mode: int, believed: bool
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(runtime_folder(tmp_path, "balancer-x", "http://127.0.0.1:1"), 12345, 12345)
    tmp_path.chmod(mode)
    if believed:
        assert find_admin({}, 0, (str(tmp_path),)) == "http://127.0.0.1:1"
    else:
        with pytest.raises(NoDaemonError):
            find_admin({}, 0, (str(tmp_path),))
