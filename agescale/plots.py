"""One function a figure: numbers in, a matplotlib ``Figure`` out.

A figure becomes a file by ``to_png``, or a part of a page by ``to_svg``, whose ink follows the page's text colour in
light and in dark. No ``pyplot``, no global state; computes no metric and reads no files.

Legend of shapes: N rows, G groups.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, MUTED, GRID = "#1c2023", "#6b7075", "#dfe1e4"
ACCENT, SECOND = "#2f6f9f", "#d08a2e"
CSS_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
}
WIDTH_IN = 4.9
FEW = 30
"""Parts with fewer rows are drawn hollow: their numbers are mostly chance."""
LOSSES = {"train_loss": "train", "val_loss": "val"}
MAX_POINTS = 1500
"""With more rows than these a cloud of points says less than a density."""

STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5, "legend.frameon": False, "legend.borderaxespad": 0.2,
    "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": GRID, "ytick.color": GRID,
    "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED, "axes.edgecolor": GRID, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
    "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "xtick.major.size": 0, "ytick.major.size": 0,
    "lines.linewidth": 1.6, "patch.linewidth": 0, "figure.facecolor": "white", "figure.constrained_layout.use": True,
    "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "agescale",
}  # fmt: skip


def to_png(figure: Figure, dpi: int = 150) -> bytes:
    """``figure`` as a PNG file, on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


@mpl.rc_context(STYLE)
def to_svg(figure: Figure, name: str, description: str) -> str:
    """``figure`` as SVG within HTML: real text, no URLs, ids that start with ``name``, colours as CSS variables.

    No file by itself: the page must define the variables of ``CSS_COLOURS``.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*|font-family: [^;\"]*;", lambda m: f"font-size: {m[1]}" if m[1] else "", svg)
    svg = re.sub(r"<defs>\s*<style.*?</defs>", "", svg, flags=re.DOTALL)  # its rule for "*" would reach the whole page
    for colour, variable in CSS_COLOURS.items():
        svg = svg.replace(colour, variable)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


@mpl.rc_context(STYLE)
def confusion(counts_GH: np.ndarray, names: Sequence[str]) -> Figure:
    """Counts and per cent of the row of a confusion matrix (G, G + 1); "none" is drawn only where it occurs."""
    columns = [*names, "none"] if counts_GH[:, -1].any() else list(names)
    counts_GH = counts_GH[:, : len(columns)]
    totals_G1 = counts_GH.sum(axis=1, keepdims=True)
    share_GH = np.divide(counts_GH, totals_G1, out=np.zeros(counts_GH.shape), where=totals_G1 > 0)
    num_rows, num_columns = counts_GH.shape
    is_dense = num_columns > 6
    figure, axes = _axes(height=min(1.1 + 0.62 * num_rows, 5.2))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for row in range(num_rows):
        for column in range(num_columns):
            share, count = share_GH[row, column], int(counts_GH[row, column])
            colour = ACCENT if row == column else SECOND
            axes.add_patch(_rectangle(column + 0.03, row + 0.03, 0.94, 0.94, colour, 0.06 + 0.56 * math.sqrt(share)))
            if count:
                text = f"{count:,}\n{100 * share:.{0 if is_dense else 1}f} %"
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", size=6 if is_dense else 8.5)
    axes.set(xlim=(0, num_columns), ylim=(num_rows, 0), xlabel="predicted", ylabel="true")
    axes.set_xticks(np.arange(num_columns) + 0.5, columns, rotation=35 if _is_crowded(columns) else 0)
    axes.set_yticks(
        np.arange(num_rows) + 0.5, [f"{n} ({int(t):,})" for n, t in zip(names, totals_G1[:, 0], strict=True)]
    )
    return figure


@mpl.rc_context(STYLE)
def error_by_part(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """MAE with its interval and, as a diamond, the bias of each row of ``metrics.breakdown``; few rows are hollow."""
    rows = [row for row in rows if row["mae"] is not None]
    figure, axes = _axes(height=0.9 + 0.29 * max(len(rows), 2))
    axes.grid(visible=False)
    axes.grid(visible=True, axis="x")
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    for y, row in enumerate(rows):
        fill = ACCENT if row["num_with_age"] >= FEW else "none"
        if row["mae_low"] is not None:
            axes.plot([row["mae_low"], row["mae_high"]], [y, y], color=ACCENT, linewidth=2.2, solid_capstyle="round")
        axes.plot(row["mae"], y, "o", color=ACCENT, markerfacecolor=fill, markersize=6)
        axes.plot(
            row["bias"], y, "D", color=SECOND, markerfacecolor=SECOND if fill == ACCENT else "none", markersize=4.5
        )
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="years")
    axes.set_yticks(range(len(rows)), [f"{row['name']}  ({row['num_with_age']:,})" for row in rows])
    axes.plot([], [], "o", color=ACCENT, markersize=6, label="mean absolute error")
    axes.plot([], [], "D", color=SECOND, markersize=4.5, label="bias")
    _legend_above(axes)
    return figure


@mpl.rc_context(STYLE)
def predicted_against_true(true_age_N: np.ndarray, predicted_age_N: np.ndarray) -> Figure:
    """Each face as a point, or, where they are many, how many faces lie in each hexagon (darker: more, log scale)."""
    known_N = ~np.isnan(true_age_N) & ~np.isnan(predicted_age_N)
    true_N, predicted_N = true_age_N[known_N], predicted_age_N[known_N]
    figure, axes = _axes(height=4.3)
    axes.grid(visible=True, axis="both")
    top = max(10.0, float(np.concatenate([true_N, predicted_N]).max(initial=0))) * 1.03
    axes.plot([0, top], [0, top], color=MUTED, linewidth=0.9, zorder=3)
    if len(true_N) <= MAX_POINTS:
        axes.scatter(true_N, predicted_N, s=9, color=ACCENT, alpha=0.45, linewidths=0)
    else:
        hexagons = axes.hexbin(true_N, predicted_N, gridsize=38, extent=(0, top, 0, top), mincnt=1, linewidths=0)
        counts = np.log1p(np.asarray(hexagons.get_array(), dtype=float))
        alphas = 0.12 + 0.83 * counts / counts.max()
        hexagons.set_array(None)
        hexagons.set_facecolor([mpl.colors.to_rgba(ACCENT, alpha) for alpha in alphas])
    axes.set(xlim=(0, top), ylim=(0, top), xlabel="true age, years", ylabel="predicted age, years", aspect="equal")
    return figure


@mpl.rc_context(STYLE)
def error_histogram(error_N: np.ndarray) -> Figure:
    """How often each error (predicted minus true, years) occurs, in per cent of the faces."""
    error_N = error_N[~np.isnan(error_N)]
    figure, axes = _axes(height=2.7)
    reach = max(10.0, float(np.ceil(np.percentile(np.abs(error_N), 99.5) / 5) * 5)) if len(error_N) else 10.0
    edges = np.arange(-reach, reach + 0.5, 1.0 if reach <= 40 else 2.0)
    counts = np.histogram(error_N.clip(-reach, reach), bins=edges)[0]
    axes.bar(edges[:-1], 100 * counts / max(len(error_N), 1), width=0.9 * np.diff(edges), align="edge", color=ACCENT)
    axes.axvline(0, color=INK, linewidth=0.9)
    if len(error_N):
        axes.axvline(error_N.mean(), color=SECOND, linewidth=1.2, label=f"mean error {error_N.mean():+.1f} years")
        _legend_above(axes)
    axes.set(
        xlim=(-reach, reach), xlabel="predicted minus true age, years (the ends hold all beyond)", ylabel="% of faces"
    )
    return figure


@mpl.rc_context(STYLE)
def group_distribution(true_group_N: np.ndarray, predicted_group_N: np.ndarray, names: Sequence[str]) -> Figure:
    """How many of the judged faces are in each group, and how many are predicted to be."""
    known_N = true_group_N >= 0
    figure, axes = _axes(height=2.7)
    for shift, groups_N, label, colour in (
        (-0.21, true_group_N[known_N], "true", ACCENT),
        (0.21, predicted_group_N[known_N], "predicted", SECOND),
    ):
        counts = np.bincount(groups_N[groups_N >= 0], minlength=len(names))
        axes.bar(np.arange(len(names)) + shift, counts, width=0.38, color=colour, label=label)
    axes.set_xticks(range(len(names)), names, rotation=35 if _is_crowded(names) else 0)
    axes.set_ylabel("faces")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    _legend_above(axes)
    return figure


@mpl.rc_context(STYLE)
def training_curves(history: Sequence[Mapping[str, Any]], watched: str | None = None) -> Figure:
    """Loss, and below it the watched validation metric, by epoch; the phases are marked. Absent columns are left out.

    A row an epoch with (all but ``epoch`` may be missing) ``epoch``, ``phase``, ``train_loss``, ``val_loss`` and other
    ``val_*`` metrics, of which one is drawn: that of ``watched`` (without "val_"), or val_mae, val_accuracy, any other.
    """
    rows = sorted(history, key=lambda row: row["epoch"])
    epochs = [row["epoch"] for row in rows]
    others = sorted({key for row in rows for key in row if key.startswith("val_") and key != "val_loss"})
    metric = next(
        (key for key in (f"val_{watched}", "val_mae", "val_accuracy", *others) if _values(rows, key) is not None), None
    )
    losses = {key: name for key, name in LOSSES.items() if _values(rows, key) is not None}
    panels = [("loss", losses)] if losses or metric is None else []
    if metric is not None:
        panels.append((metric.removeprefix("val_").replace("_", " "), {metric: "val"}))
    figure = Figure(figsize=(WIDTH_IN, 0.7 + 1.75 * len(panels)))
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for index, (axes, (label, keys)) in enumerate(zip(all_axes, panels, strict=True)):
        for key, name in keys.items():
            colour = MUTED if name == "train" else ACCENT
            marker = "o" if len(rows) <= 40 else ""
            axes.plot(epochs, _values(rows, key), color=colour, label=name, marker=marker, markersize=3.2)
        _mark_phases(axes, rows, with_names=index == 0)
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(keys) > 1:
            axes.legend(loc="upper right", ncols=2)
    if metric is not None:
        values = np.asarray(_values(rows, metric), dtype=float)
        is_error = any(word in metric for word in ("mae", "loss", "error"))
        if not np.isnan(values).all():
            best = int(np.nanargmin(values) if is_error else np.nanargmax(values))
            all_axes[-1].plot(epochs[best], values[best], "o", color=SECOND, markersize=6)
            all_axes[-1].set_title(f"best {values[best]:.3g}, epoch {epochs[best]}", loc="right", color=MUTED, size=8.5)
    all_axes[-1].set_xlabel("epoch")
    return figure


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
    figure, axes = _axes(height=2.7)
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
    figure, axes = _axes(height=0.8 + 0.3 * max(len(labels), 2))
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


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH_IN, height))
    return figure, figure.add_subplot()


def _legend_above(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handlelength=1.2)


def _rectangle(x: float, y: float, width: float, height: float, colour: str, alpha: float) -> mpl.patches.Rectangle:
    return mpl.patches.Rectangle((x, y), width, height, facecolor=colour, alpha=alpha, linewidth=0)


def _is_crowded(names: Sequence[str]) -> bool:
    return sum(len(name) + 2 for name in names) > 58


def _values(rows: Sequence[Mapping[str, Any]], key: str) -> list[float] | None:
    """The column ``key`` with NaN for what is missing, or None where no row has a number in it."""
    values = [row.get(key) for row in rows]
    if not any(isinstance(value, (int, float)) for value in values):
        return None
    return [float(value) if isinstance(value, (int, float)) else math.nan for value in values]


def _mark_phases(axes: Axes, rows: Sequence[Mapping[str, Any]], with_names: bool) -> None:
    previous = None
    for index, row in enumerate(rows):
        phase = row.get("phase")
        if phase is None or phase == previous:
            continue
        previous, start = phase, row["epoch"] - (0.5 if index else 0.0)
        if index:
            axes.axvline(start, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
        if with_names:
            axes.annotate(
                str(phase), (start, 1), xycoords=("data", "axes fraction"), xytext=(3, 3), textcoords="offset points",
                size=8.5, color=MUTED,
            )  # fmt: skip
