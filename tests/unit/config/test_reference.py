"""The reference: current, and complete."""

import subprocess
import sys
from pathlib import Path

from balancer.config import schema
from balancer.config.reference import reference

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == reference(), "run: python -m balancer.config.reference > docs/configuration.md"


def test_the_module_prints_the_page() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "balancer.config.reference"], capture_output=True, check=True, timeout=60
    )
    assert run.stdout.decode() == reference()


def test_every_row_has_its_four_cells() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    for row in rows:
        cells = row.replace("\\|", "").strip("|").split("|")
        assert len(cells) == 4, row
        assert all(cell.strip() for cell in cells), row


def test_keys_of_later_versions_are_named() -> None:
    text = reference()
    for pattern in schema.LATER:
        assert f"{pattern[-1]}`" in text
