import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from balancer.admin.api import AdminApi
from balancer.admin.status import BackendStatus, Connections, Latency, PoolStatus
from balancer.cli.status import command
from balancer.telemetry.aggregate import Aggregate
from tests.support.admin_address import served

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
        name="troubled",
        strategy="weighted",
        backends=(
            BackendStatus(name="fine", address="127.0.0.1:1", evidence="it passed 2 checks"),
            BackendStatus(
                name="sick",
                address="127.0.0.1:2",
                state="unhealthy",
                since="2026-11-21T12:00:00.000Z",
                evidence="GET /[x] answered 500\x1b[2J",
            ),
            BackendStatus(name="spare", address="127.0.0.1:3", share=0.25, backup=True, evidence="slow start"),
            BackendStatus(
                name="new", address="127.0.0.1:4", state="draining", drained=True, source="api", file_weight=None
            ),
            BackendStatus(
                name="shared",
                address="127.0.0.1:5",
                state="drained",
                drained=True,
                drained_by=("cluster",),
                weight=4,
                weight_by="cluster",
                file_weight=2,
            ),
            BackendStatus(
                name="twice",
                address="127.0.0.1:6",
                state="drained",
                drained=True,
                drained_by=("balancer", "cluster"),
                weight=2,
                weight_by="cluster",
                file_weight=2,
            ),
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
    with served(AdminApi(View(), "s3cret", frozenset())) as url:
        yield url


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
        "a[b]", "127.0.0.1:9001", "up", "5", "(file", "3)", "7/200", "2,000",
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
    assert [pool["name"] for pool in known["pools"]] == ["web", "troubled", "big", "none"]


def test_why_a_backend_is_not_in_use_stands_under_its_pool(admin: str, token_file: str) -> None:
    output = run("--admin", admin, "--token-file", token_file).output
    assert "  sick: unhealthy since 2026-11-21T12:00:00.000Z: GET /[x] answered 500?[2J\n" in output
    assert "  spare: up: slow start\n" in output
    assert "  new: draining, drained by the operator\n" in output
    assert "  gone: unresolved\n" in output
    assert "it passed 2 checks" not in output
    assert "\x1b" not in output


def test_role_source_and_share_stand_where_they_are_not_the_usual_ones(admin: str, token_file: str) -> None:
    output = run("--admin", admin, "--token-file", token_file).output
    row = {words[0]: words for line in output.splitlines() if (words := line.split())}
    assert row["spare"][1:6] == ["127.0.0.1:3", "up", "(backup)", "1", "25%"]
    assert row["fine"][1:5] == ["127.0.0.1:1", "up", "1", "100%"]
    assert row["new"][2:5] == ["draining", "(api)", "1"]
    assert len(re.findall(r"\bshare\b", output)) == 1


def test_what_holds_at_all_balancers_is_marked(admin: str, token_file: str) -> None:
    output = run("--admin", admin, "--token-file", token_file).output
    row = {words[0]: words for line in output.splitlines() if (words := line.split())}
    assert row["shared"][2:7] == ["drained", "4", "(cluster,", "file", "2)"]
    assert row["twice"][2:5] == ["drained", "2", "(cluster)"]
    assert "  shared: drained, drained in the whole cluster\n" in output
    assert "  twice: drained, drained in the whole cluster, and here by itself\n" in output


def test_a_narrow_terminal_gets_no_line_that_breaks_the_table(admin: str, token_file: str) -> None:
    for columns in ("80", "60"):
        result = run("--admin", admin, "--token-file", token_file, COLUMNS=columns)
        assert result.exit_code == 0
        assert "sick: unhealthy since" in result.output


def test_a_missing_token_is_said(admin: str) -> None:
    result = run("--admin", admin)
    assert result.exit_code == 1
    assert "--token-file FILE" in result.output


def test_nothing_that_answers_is_an_error_for_a_person() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        result = run("--admin", f"http://127.0.0.1:{sock.getsockname()[1]}")
    assert result.exit_code == 2
    assert "Connection refused; is the daemon running" in " ".join(result.output.split())
    assert "Traceback" not in result.output
