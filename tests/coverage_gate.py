"""`python -m tests.coverage_gate`: branch coverage of the deciding packages; exits 1 when one is below the limit."""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("balancer/http1", "balancer/routing", "balancer/balancing", "balancer/config")
TESTS = ("tests/unit", "tests/property")
LIMIT = 95.0  # percent of branches


def measured(report: Path) -> int:
    """Run the tests with coverage of the packages, the result as JSON to `report`; pytest's exit code."""
    command = [sys.executable, "-m", "pytest", *TESTS, "-p", "no:cacheprovider", "--cov-branch"]
    command += [f"--cov={package.replace('/', '.')}" for package in PACKAGES]
    command += ["--cov-report=", f"--cov-report=json:{report}"]
    return subprocess.run(command, cwd=PROJECT, check=False).returncode


def branches(report: Path) -> dict[str, tuple[int, int]]:
    """Package -> (branches taken, branches)."""
    taken: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for name, file in json.loads(report.read_text(encoding="utf-8"))["files"].items():
        package = Path(name).parent.as_posix()
        taken[package] += file["summary"]["covered_branches"]
        total[package] += file["summary"]["num_branches"]
    return {package: (taken[package], total[package]) for package in PACKAGES}


def main() -> int:
    """0 when the tests pass and every package has branches enough that are covered."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        code = measured(report)
        if code:
            print("the tests failed: coverage says nothing", file=sys.stderr)
            return code
        met = True
        for package, (taken, total) in branches(report).items():
            percent = 100 * taken / total if total else 0.0
            met = met and percent >= LIMIT
            print(
                f"{package:22} {percent:6.2f} % of {total} branches{'' if percent >= LIMIT else f'  BELOW {LIMIT} %'}"
            )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
