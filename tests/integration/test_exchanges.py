"""No answer is mixed up: many different exchanges at once, each answer checked against its own request."""

import asyncio
import json
import re
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from tests.support.daemon import Daemon, wait_until
from tests.support.echo_origin import running_origins
from tests.support.load_client import LoadClient, scrape

FULL = (pytest.mark.full, pytest.mark.timeout(3600))
SEED = 20_261


def before(ports: list[int], **top: object) -> dict[str, object]:
    """A daemon's configuration: one listener before the origins at `ports`."""
    return {
        "listeners": {"web": {"bind": "127.0.0.1:0"}},
        "routes": [{"name": "all", "pool": "web"}],
        "pools": {"web": {"backends": [f"127.0.0.1:{port}" for port in ports]}},
        **top,
    }


@pytest.mark.parametrize("count", [3_000, pytest.param(200_000, marks=FULL)])
def test_each_answer_belongs_to_its_request(count: int, tmp_path: Path) -> None:
    with running_origins(3) as ports, Daemon(before(ports, workers=2), tmp_path) as daemon:
        client = LoadClient([daemon.address("web")[1]], count=count, connections=32, seed=SEED)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(client.run())
        assert report.mismatches == 0, report.examples
        assert report.completed + report.aborted == count
        assert report.aborted >= count * 0.01, "aborts are part of this load"
        assert wait_until(lambda: scrape(daemon.admin, "balancer_backend_in_flight") == 0, 10)
        assert scrape(daemon.admin, "balancer_worker_restarts_total") == 0
        served = [json.loads(_get(f"http://127.0.0.1:{port}/stats"))["requests"] for port in ports]
        assert min(served) > count / 6, f"three backends share the load: {served}"


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: bytes = answer.read()
        return body


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=FULL)])
def test_wrk_sees_no_error(count: int, tmp_path: Path, require_program: Callable[[str], Path]) -> None:
    """wrk says nothing of connections that end before an answer, so the daemon's own counts must agree with it."""
    wrk = require_program("wrk")
    completed, runs = 0, 0
    with running_origins(3) as ports, Daemon(before(ports, workers=2), tmp_path) as daemon:
        while completed < count:
            host, port = daemon.address("web")
            seconds = 2 if count < 100_000 else 20
            done = subprocess.run(
                [wrk, "-t1", "-c48", f"-d{seconds}s", "--timeout", "20s", f"http://{host}:{port}/w?size=64"],
                capture_output=True, text=True, timeout=seconds + 60, check=True,
            )  # fmt: skip
            assert "Socket errors" not in done.stdout, done.stdout
            assert "Non-2xx" not in done.stdout, done.stdout
            found = re.search(r"(\d+) requests in", done.stdout)
            assert found is not None, done.stdout
            assert int(found[1]) > 0, "the daemon answers nothing"
            completed += int(found[1])
            runs += 1
        assert wait_until(lambda: scrape(daemon.admin, "balancer_downstream_connections") == 0, 10)
        good = scrape(daemon.admin, "balancer_requests_total", code="2xx")
        every = scrape(daemon.admin, "balancer_requests_total")
        # At the end of each run wrk leaves up to 48 requests unread; those may end as 499 or count as answered.
        assert completed <= good <= completed + 48 * runs
        assert every <= completed + 48 * runs
        assert scrape(daemon.admin, "balancer_requests_total", code="5xx") == 0
        assert scrape(daemon.admin, "balancer_terminations_total", ended_by="upstream") == 0
