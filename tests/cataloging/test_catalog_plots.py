"""Figures of a catalog."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from figure_texts import texts

from agescale.cataloging.plots import age_distribution, class_distribution


def test_a_catalogs_ages_and_classes_are_counted() -> None:
    table = pa.table({
        "age_low": pa.array([30, 20, None, 100], pa.float32()),
        "age_high": pa.array([31, 40, None, np.inf], pa.float32()),
        "group": ["adult", "adult", None, "senior"],
    })  # fmt: skip
    bars = [bar.get_height() for bar in age_distribution(table).axes[0].patches]
    assert bars[30] == pytest.approx(1.05)
    assert bars[100] == pytest.approx(1)
    assert sum(bars) == pytest.approx(3)
    assert "(none)" in texts(class_distribution(table))
