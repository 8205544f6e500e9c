"""How commands find the running daemon, and what they say when they do not."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from balancer.admin.api import AdminApi
from balancer.cli.main import main
from balancer.cli.running_daemon import NoDaemonError, RefusedError, RunningDaemon, find_admin
from tests.support.admin_address import Supervisor, served

COMMANDS = [["status"], ["reload"], ["drain", "api", "a"], ["undrain", "api", "a"], ["weight", "api", "a", "2"]]


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"BALANCER_ADMIN": "", "BALANCER_ADMIN_TOKEN_FILE": "", **environ})


@pytest.fixture(scope="module")
def admin() -> Iterator[str]:
    """The URL of an admin address that asks for a token."""
    supervisor = Supervisor()
    with served(AdminApi(supervisor, "s3cret", frozenset(), supervisor)) as url:
        yield url


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    return str(file)


def runtime_folder(base: Path, name: str, url: str) -> Path:
    folder = base / name
    folder.mkdir()
    (folder / "admin.url").write_text(url + "\n")
    return folder


# ---- where it is


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


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:9901", "http://127.0.0.1:9901"),
        ("http://127.0.0.1:9901/", "http://127.0.0.1:9901"),
        ("127.0.0.1:9901", "http://127.0.0.1:9901"),
        ("[::1]:9901", "http://[::1]:9901"),
        ("localhost:9901\n", "http://localhost:9901"),
        ("unix:/run/balancer/admin", "unix:/run/balancer/admin"),
    ],
)
def test_an_address_is_taken_as_the_file_or_the_daemon_writes_it(given: str, url: str) -> None:
    assert RunningDaemon(given).url == url


@pytest.mark.parametrize(
    "given",
    ["https://127.0.0.1:9901", "http://", ":9901", "/run/x", "http://h:99999", "http://h/api", "a b", "http://[x"],
)
def test_what_is_no_address_is_told_once(given: str) -> None:
    for command in COMMANDS:
        result = run(*command, "--admin", given)
        assert result.exit_code == 2
        assert result.output == f"Error: {given!r} is no admin address; write http://HOST:PORT or unix:/PATH\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_nobody_at_the_address_is_exit_2(command: list[str]) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        result = run(*command, "--admin", f"127.0.0.1:{sock.getsockname()[1]}")
    assert result.exit_code == 2
    assert result.output.count("Connection refused; is the daemon running") == 1
    assert "Traceback" not in result.output


# ---- the token


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_token_is_said(admin: str, token_file: str, command: list[str]) -> None:
    result = run(*command, "--admin", admin)
    assert result.exit_code == 1
    assert "--token-file FILE" in result.output
    assert run(*command, "--admin", admin, "--token-file", token_file).exit_code == 0
    assert run(*command, BALANCER_ADMIN=admin, BALANCER_ADMIN_TOKEN_FILE=token_file).exit_code == 0


def test_a_token_file_that_cannot_be_read_is_said(admin: str, tmp_path: Path) -> None:
    result = run("status", "--admin", admin, "--token-file", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert "cannot read the token file" in result.output


# ---- answers


def test_a_refusal_is_told_in_the_words_of_the_daemon(admin: str) -> None:
    with pytest.raises(RefusedError, match=r"^there is no backend `z` in pool `api`; there are: `a`, `b`$"):
        RunningDaemon(admin, "s3cret").change_backend("api", "z", {"weight": 1})


def test_names_travel_percent_encoded(admin: str) -> None:
    RunningDaemon(admin, "s3cret").change_backend("odd/[pool]", "127.0.0.1:9001", {"weight": 1})
    with pytest.raises(RefusedError, match=r"no pool `\.\./\.\.\?x`"):
        RunningDaemon(admin, "s3cret").change_backend("../..?x", "a", {"weight": 1})
    with pytest.raises(RefusedError, match="there is nothing here"):
        RunningDaemon(admin, "s3cret").change_backend(os.fsdecode(b"\xff"), "a", {"weight": 1})
