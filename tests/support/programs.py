"""Real programs that some tests need: found, or the test is skipped (at a desk) or fails (in CI)."""

import os
import shutil
from pathlib import Path

import pytest

# program -> the Debian package that has it. A program outside this table is asked for under its own name.
PACKAGES = {
    "curl": "curl",
    "etcd": "etcd-server",
    "h2load": "nghttp2-client",
    "haproxy": "haproxy",
    "nginx": "nginx",
    "openssl": "openssl",
    "wrk": "wrk",
}

# Debian keeps daemons where an ordinary user's PATH does not look.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find_program(name: str) -> Path | None:
    """The path of `name`, looked for in PATH and in the system's sbin folders; None when it is not there."""
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(_SYSTEM_FOLDERS))
    return Path(found) if found else None


def in_ci() -> bool:
    """True when CI is set to anything but an empty string, 0 or false."""
    return os.environ.get("CI", "").strip().lower() not in {"", "0", "false"}


def require_program(name: str) -> Path:
    """The path of `name`; without it the test is skipped with the install command, and fails when CI is set."""
    found = find_program(name)
    if found is not None:
        return found
    package = PACKAGES.get(name, name)
    reason = f"{name} is not installed: apt-get install {package}"
    if in_ci():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
