"""Layers: imports go only downward, and decision code does no I/O (the contracts of pyproject.toml)."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package below `folder` with the contracts of the pyproject.toml there."""
    code = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=100)


def test_the_contracts_hold(project: Path) -> None:
    result = lint_imports(project)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("http1/__init__.py", "import socket"),
        ("balancing/__init__.py", "import random"),
        ("balancing/strategy.py", "import balancer.telemetry.metrics"),
        ("errors.py", "import balancer.http1"),
        ("misc.py", ""),
    ],
    ids=["pure layer reads a socket", "pure layer draws randomness", "upward", "from the bottom up", "no layer"],
)
def test_a_breach_is_reported(project: Path, tmp_path: Path, module: str, line: str) -> None:
    shutil.copytree(project / "balancer", tmp_path / "balancer", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(project / "pyproject.toml", tmp_path)
    with (tmp_path / "balancer" / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode != 0, result.stdout


def test_a_worker_loads_neither_the_validation_nor_the_command_line() -> None:
    heavy = ("pydantic", "yaml", "click", "prometheus_client", "balancer.config.schema", "balancer.config.load")
    code = f"import sys, balancer.daemon.worker; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout.strip() == "[]"
