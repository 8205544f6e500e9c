"""What a run says: tables for people, JSON for comparison."""

import json
import math
import os
import platform
import ssl
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loadtest.gates import Results, Ruling, better_peer
from loadtest.load import CONNECTIONS, LOAD_CORE, PROXY_CORE
from loadtest.processes import environment
from loadtest.proxies import OURS
from loadtest.rounds import Plan, Row
from loadtest.statistics import Estimate, mean, ratio, verdict
from loadtest.templates import HERE
from loadtest.workloads import WORKLOADS, Workload

_QUIET = 0.05  # share of the proxy's core that others may take before the table says so
_PACKAGES = ("balancer", "uvloop", "httptools", "msgspec")


def print_workload(console: Console, workload: Workload, rows: Sequence[Row]) -> None:
    """One table: cost with its interval, ratio to the better peer, rate and latency."""
    idle = workload.request is None
    table = Table(title=f"{workload.name}: {workload.what}", title_justify="left")
    table.add_column("proxy")
    table.add_column("bytes / connection [95 %]" if idle else "CPU us / request [95 %]", justify="right")
    table.add_column("to the better peer [95 %]", justify="right")
    for name in ("resident before, MiB",) if idle else ("requests/s", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for row in rows:
        if row.void:
            table.add_row(row.label, "void", "", *([""] if idle else ["", "", ""]), row.void)
            continue
        peer = better_peer(rows, row.mode if row.mode in workload.modes else workload.modes[0])
        related = shown(ratio(row.costs, peer.costs), 2) if peer and peer is not row and min(peer.costs) > 0 else ""
        judged = verdict(row.costs, peer.costs) if peer and row.proxy == OURS else ""
        table.add_row(row.label, shown(mean(row.costs), 0 if idle else 1), related, *_further(row), judged)
    busy = [one.others_share for row in rows for one in row.runs]
    if busy and max(busy) > _QUIET:
        table.caption = f"not a quiet machine: other processes took up to {max(busy):.0%} of the proxy's core"
    console.print(table)


def _further(row: Row) -> list[str]:
    if row.idle:
        return [f"{mean([one.base_bytes / 2**20 for one in row.idle]).value:.1f}"]
    return [
        f"{mean([one.requests_per_second for one in row.runs]).value:,.0f}",
        f"{mean([one.p50_ms for one in row.runs]).value:.2f}",
        f"{mean([one.p99_ms for one in row.runs]).value:.2f}",
    ]


def shown(estimate: Estimate, digits: int) -> str:
    """`17.3 [16.9 - 17.7]`; without an interval only the figure."""
    if math.isnan(estimate.low):
        return f"{estimate.value:,.{digits}f}"
    return f"{estimate.value:,.{digits}f} [{estimate.low:,.{digits}f} - {estimate.high:,.{digits}f}]"


def print_rulings(console: Console, rulings: Sequence[Ruling]) -> None:
    """The gates, one line each."""
    table = Table(title="Gates", title_justify="left")
    for name in ("workload", "what", "measured [95 %]", "limit", "ruling"):
        table.add_column(name)
    for ruling in rulings:
        gate = ruling.gate
        measured = shown(ruling.estimate, 2 if gate.unit == "x" else 0) if ruling.estimate else ""
        table.add_row(gate.workload, gate.what, measured, f"{gate.limit:g} {gate.unit}", ruling.text)
    console.print(table)


def machine() -> dict[str, object]:
    """Where and with what: commit, host, versions."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _first_line("git", "-C", str(HERE), "rev-parse", "HEAD"),
        "uncommitted_changes": bool(_first_line("git", "-C", str(HERE), "status", "--porcelain", "-uno")),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        **{name: version(name) for name in _PACKAGES},
        "nginx": _first_line("nginx", "-v"),
        "haproxy": _first_line("haproxy", "-v"),
        "wrk": _first_line("wrk", "-v"),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(*argv: str) -> str:
    """The first line that a program prints, to either stream; empty when there is none."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False, env=environment())
    except FileNotFoundError:
        return "not installed"
    said = (done.stdout + done.stderr).strip().splitlines()
    return said[0] if said else ""


def document(results: Results, plan: Plan, rulings: Sequence[Ruling], host: dict[str, object]) -> dict[str, object]:
    """Everything measured, run by run, with the summaries of the tables."""
    return {
        "host": host,
        "method": {
            "proxy_core": PROXY_CORE,
            "load_core": LOAD_CORE,
            "connections": CONNECTIONS,
            "rounds": plan.rounds,
            "seconds": plan.seconds,
        },
        "workloads": {
            name: {"what": WORKLOADS[name].what, "rows": [_row(WORKLOADS[name], row, rows) for row in rows]}
            for name, rows in results.items()
        },
        "gates": [
            {
                "workload": ruling.gate.workload,
                "what": ruling.gate.what,
                "limit": ruling.gate.limit,
                "measured": _estimate(ruling.estimate) if ruling.estimate else None,
                "met": ruling.met,
                "text": ruling.text,
            }
            for ruling in rulings
        ],
    }


def _row(workload: Workload, row: Row, rows: Sequence[Row]) -> dict[str, object]:
    peer = better_peer(rows, row.mode if row.mode in workload.modes else workload.modes[0])
    counts = not row.void and peer is not None and min(peer.costs) > 0
    return {
        "proxy": row.proxy,
        "mode": row.mode,
        "void": row.void,
        "cost": _estimate(mean(row.costs)),
        "to_better_peer": _estimate(ratio(row.costs, peer.costs)) if counts and peer else None,
        "runs": [asdict(one) for one in row.runs] + [asdict(one) for one in row.idle],
    }


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in asdict(estimate).items()}


def write(path: Path, content: dict[str, object]) -> None:
    """Writes the document as JSON, its folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
