"""Fills `@NAME@` into the configurations under loadtest/."""

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent


def fill(source: str, target: Path, values: dict[str, object]) -> Path:
    """Writes `source` (relative to loadtest/) to `target`, every `@NAME@` replaced; an unknown name is a KeyError."""
    text = (HERE / source).read_text(encoding="utf-8")
    code_only = [line if not line.lstrip().startswith("#") else "#" for line in text.splitlines()]
    filled = re.sub(r"@([A-Z0-9]+)@", lambda found: str(values[found[1]]), "\n".join(code_only))
    target.write_text(filled + "\n", encoding="utf-8")
    return target
