"""What every test may use: real programs (`require_program`) and the root of the checkout (`project`)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.programs import require_program as _require_program


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], Path]:
    """`require_program("nginx")` gives its path; without it the test is skipped, or fails when CI is set."""
    return _require_program


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Four at a time where everything runs: tests wait more than they compute.

    One at a time where somebody names what to run, and in the full tier, whose loads want the machine for themselves.
    """
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    return 0 if named or config.option.markexpr != "not full" else 4


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.real_part("nginx", "wrk")` asks for programs before the test starts."""
    for marker in item.iter_markers("real_part"):
        for name in marker.args:
            _require_program(name)
