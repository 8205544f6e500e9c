"""`python -m loadtest`: the canonical workload, our balancer beside nginx and HAProxy."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from loadtest import report
from loadtest.gates import GATES, rule
from loadtest.load import LOAD_CORE, PROXY_CORE
from loadtest.origin import running_origin
from loadtest.processes import RunError, environment
from loadtest.proxies import NAMES, OURS, Site
from loadtest.rounds import Plan, Row, measure
from loadtest.templates import HERE
from loadtest.workloads import WORKLOADS

_ROUNDS, _SECONDS = 5, 4
_QUICK_ROUNDS, _QUICK_SECONDS = 2, 1  # shows that everything runs; decides nothing


def _chosen(known: tuple[str, ...], text: str | None) -> tuple[str, ...]:
    """The names in `a,b`, in the order in which `known` has them; all without a text."""
    if text is None:
        return known
    names = {name.strip() for name in text.split(",")}
    for name in sorted(names - set(known)):
        raise click.BadParameter(f"{name!r} is not one of {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for this run, ECDSA P-256 as most sites have: (certificate, key)."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        subprocess.run(
            [*argv, "-keyout", str(key), "-out", str(cert)], capture_output=True, check=True, env=environment()
        )
    except FileNotFoundError as missing:
        raise RunError("openssl is not installed: apt-get install openssl") from missing
    except subprocess.CalledProcessError as failed:
        raise RunError(f"openssl made no certificate: {failed.stderr.decode(errors='replace').strip()}") from failed
    return cert, key


def _stop(signum: int, _frame: FrameType | None) -> None:
    """SIGTERM ends us as Ctrl-C does: through every `finally` that ends a child."""
    raise KeyboardInterrupt(signum)


def _measure_all(names: tuple[str, ...], plan: Plan, console: Console) -> dict[str, list[Row]]:
    """Runs the workloads and prints each table as soon as it is known."""
    missing = {PROXY_CORE, LOAD_CORE} - os.sched_getaffinity(0)
    if missing:
        raise RunError(f"two cores are needed, one for the proxy, one for the load; not ours to use: {sorted(missing)}")
    folder = Path(tempfile.mkdtemp(prefix="loadtest-"))
    results: dict[str, list[Row]] = {}
    try:
        cert, key = _certificate(folder)
        with running_origin(folder, LOAD_CORE) as origin:
            site = Site(origin, cert, key, folder, PROXY_CORE)
            for name in names:
                with console.status(name) as status:
                    results[name] = measure(WORKLOADS[name], plan, site, status.update)
                report.print_workload(console, WORKLOADS[name], results[name])
    finally:
        shutil.rmtree(folder)
    return results


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workload", help=f"Only these, comma-separated: {', '.join(WORKLOADS)}.")
@click.option("--proxy", help=f"Only these, comma-separated: {', '.join(NAMES)}.")
@click.option("--rounds", type=click.IntRange(min=1), help=f"Rounds per workload (default {_ROUNDS}).")
@click.option("--seconds", type=click.IntRange(min=1), help=f"Seconds per run (default {_SECONDS}).")
@click.option("--quick", is_flag=True, help=f"{_QUICK_ROUNDS} rounds of {_QUICK_SECONDS} s: shows that it runs.")
@click.option(
    "--gates", is_flag=True, help="Exit 1 when a gate is unmet; without --workload runs only their workloads."
)
@click.option("--json", "target", type=click.Path(path_type=Path, dir_okay=False), help="Where the JSON goes.")
def main(
    workload: str | None, proxy: str | None, rounds: int | None, seconds: int | None, quick: bool, gates: bool,
    target: Path | None,
) -> None:  # fmt: skip
    """Measure the balancer beside nginx and HAProxy; see loadtest/README.md for how to read it."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    names = _chosen(tuple(WORKLOADS), workload)
    if gates and workload is None:
        names = tuple(name for name in names if any(gate.workload == name for gate in GATES))
    plan = Plan(
        _chosen(NAMES, proxy),
        rounds or (_QUICK_ROUNDS if quick else _ROUNDS),
        seconds or (_QUICK_SECONDS if quick else _SECONDS),
    )
    signal.signal(signal.SIGTERM, _stop)
    host = report.machine()
    try:
        results = _measure_all(names, plan, console)
    except RunError as why:
        raise click.ClickException(str(why)) from why
    except KeyboardInterrupt:
        raise click.Abort from None
    rulings = rule(results) if OURS in plan.proxies or gates else []
    if rulings:
        report.print_rulings(console, rulings)
    path = target or HERE / "results" / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime())
    report.write(path, report.document(results, plan, rulings, host))
    console.print(f"{path}", soft_wrap=True)
    if gates and not all(ruling.met for ruling in rulings):
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m loadtest")
