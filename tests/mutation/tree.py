"""A copy of the sources in which a bug may be planted, and what is run in it. The work tree itself is never changed."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.patch import Patch, applied

PROJECT = Path(__file__).resolve().parent.parent.parent
PARTS = ("balancer", "tests", "pyproject.toml")
DEADLINE = 600.0
"""Seconds for one run, on a machine that does much else: a bug may make the program turn in a circle."""

_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*_cache", ".hypothesis", "corpus", "patches")
_CARELESS = re.compile(r"(^|: )(NameError|AttributeError|TypeError|ImportError|ModuleNotFoundError|SyntaxError):")
_OUTCOME = re.compile(r"^(FAILED|ERROR) (.+?)(?: - (.*))?$", re.MULTILINE)
_RAISED = re.compile(r"^(?:\w+\.)*(\w+(?:: .*)?)$", re.MULTILINE)


class RunError(Exception):
    """What was to be run did not run, so that it neither passed nor failed. The text is what it printed."""


@dataclass(frozen=True, slots=True)
class Played:
    """How many seeds were played, and what the last of them raised; "" = nothing."""

    seeds: int
    failed: str
    seconds: float


@contextmanager
def copied(patch: Patch | None = None) -> Iterator[Path]:
    """A copy of the tree, with the patch. Raises PatchError."""
    texts = {} if patch is None else applied(patch, read_source)
    with tempfile.TemporaryDirectory(prefix="balancer-mutation-") as folder:
        tree = Path(folder)
        for part in PARTS:
            if (PROJECT / part).is_dir():
                shutil.copytree(PROJECT / part, tree / part, ignore=_LEFT_OUT)
            else:
                shutil.copy(PROJECT / part, tree / part)
        for path, text in texts.items():
            (tree / path).write_text(text, encoding="utf-8")
        yield tree


def read_source(path: str) -> str:
    """A file of the work tree."""
    return (PROJECT / path).read_text(encoding="utf-8")


def failing_tests(tree: Path, tests: Sequence[str]) -> dict[str, str]:
    """Those of the tests that fail, each with its reason. Raises RunError where they do not even begin."""
    options = ("-n0", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider")
    done = _run(tree, ["-m", "pytest", *options, *tests])
    failed: dict[str, str] = {}
    for kind, test, reason in _OUTCOME.findall(done.stdout):
        if kind == "ERROR":
            raise RunError(f"{test}: {reason}")
        reason = "".join(_RAISED.findall(reason)) or reason  # without the module of what was raised
        _refuse_careless(reason)
        for named in tests:
            if test == named or test.startswith(f"{named}["):
                failed.setdefault(named, reason)
    if done.returncode != bool(failed):
        raise RunError(f"pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return failed


def play(tree: Path, kind: str, seeds: Sequence[int]) -> Played:
    """Play `storms` or `histories` in this order until one fails. Raises RunError."""
    began = time.monotonic()
    done = _run(tree, ["-m", "tests.mutation.seeds", kind, *map(str, seeds)])
    seconds = time.monotonic() - began
    played = len(done.stdout.splitlines())
    if done.returncode == 0 and played == len(seeds):
        return Played(played, "", seconds)
    raised = _RAISED.findall(done.stderr)
    if done.returncode != 1 or not played or not raised:
        raise RunError(f"{kind} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    reason = raised[-1].removeprefix("HistoryFailedError: ")
    _refuse_careless(reason)
    return Played(played, reason, seconds)


def _refuse_careless(reason: str) -> None:
    """A patch that makes an error of this kind is none that anybody would have shipped."""
    if _CARELESS.search(reason):
        raise RunError(f"the patch itself is broken: {reason}")


def _run(tree: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    # The same run each time, and reasons that are not cut.
    environment = {"PYTHONPATH": str(tree), "PYTHONHASHSEED": "0", "COLUMNS": "400"}
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tree,
            env={**kept, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"not done after {DEADLINE:.0f} s: {' '.join(arguments)}") from None
