"""What a catalog holds, as figures: numbers in, a matplotlib ``Figure`` out."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from agescale.reports.figures import ACCENT, GRID, MUTED, STYLE, axes_of


@mpl.rc_context(STYLE)
def age_distribution(table: pa.Table) -> Figure:
    """Rows of a catalog by age (``age_low``, ``age_high``); a label of several years is spread evenly over them."""
    labelled = table.select(["age_low", "age_high"]).drop_null()
    low_N = labelled["age_low"].to_numpy().astype(float).clip(0, 100)
    high_N = labelled["age_high"].to_numpy().astype(float).clip(max=101)
    steps = np.zeros(103)
    weight_N = 1 / np.maximum(high_N - low_N, 1)
    np.add.at(steps, low_N.astype(int), weight_N)
    np.add.at(steps, np.maximum(high_N, low_N + 1).astype(int), -weight_N)
    counts = np.cumsum(steps)[:101]
    figure, axes = axes_of(height=2.7)
    axes.bar(np.arange(101), counts, width=0.85, align="edge", color=ACCENT)
    last = int(np.nonzero(counts > 1e-9)[0].max(initial=9)) + 1
    axes.set(xlim=(0, min(101, last + 3)), xlabel="age, years", ylabel="images")
    axes.set_title(f"{len(labelled):,} of {len(table):,} images have an age", loc="left", color=MUTED)
    return figure


@mpl.rc_context(STYLE)
def class_distribution(table: pa.Table, column: str = "group", names: Sequence[str] | None = None) -> Figure:
    """Images of a catalog by the value of ``column``, the order of ``names`` first; those without one are "(none)"."""
    counted = pc.value_counts(table[column]).to_pylist()
    counts = {item["values"]: item["counts"] for item in counted}
    order = list(names) if names is not None else []
    order += sorted(value for value in counts if value is not None and value not in order)
    labels = {value: value for value in order} | ({None: "(none)"} if None in counts else {})
    figure, axes = axes_of(height=0.8 + 0.3 * max(len(labels), 2))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    values = [counts.get(key, 0) for key in labels]
    axes.barh(range(len(labels)), values, height=0.66, color=[ACCENT if key is not None else GRID for key in labels])
    for y, value in enumerate(values):
        axes.annotate(f"{value:,}", (value, y), xytext=(4, 0), textcoords="offset points", va="center", size=8.5)
    axes.set_yticks(range(len(labels)), list(labels.values()))
    axes.set(ylim=(len(labels) - 0.5, -0.5), xlim=(0, max([*values, 1]) * 1.14), xticks=[])
    axes.set_title(f"images by {column}", loc="left", color=MUTED)
    return figure
