"""What the documents say of this repository is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_row_of_the_faults_names_a_test_that_exists() -> None:
    rows = [
        line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if re.match(r"\| (?!fault|---)", line)
    ]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`(?:([\w/]+\.py)::)?(test_\w+)`", row.rpartition(" | ")[2] or row)
        assert named, row
        file = ""
        for its_file, name in named:
            file = its_file or file
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"
