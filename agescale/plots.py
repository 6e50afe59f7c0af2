"""One function a figure: numbers in, a matplotlib ``Figure`` out.

A figure becomes a file by ``to_png``, or a part of a page by ``to_svg``, whose ink follows the page's text colour in
light and in dark. No ``pyplot``, no global state; computes no metric and reads no files.

Legend of shapes: N rows, G groups, E epochs, A axes of one figure.
"""

from __future__ import annotations

import io
import itertools
import logging
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

if not os.access(os.path.expanduser("~"), os.W_OK | os.X_OK):
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # would say at length that it keeps its cache elsewhere
import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

INK, MUTED, GRID = "#1c2023", "#6b7075", "#dfe1e4"
ACCENT, SECOND = "#2f6f9f", "#d08a2e"
PAPER = "#fefefe"
CSS_COLOURS = {
    PAPER: "var(--paper)",
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
}
WIDTH_IN, WIDE_IN = 4.9, 10.2
FEW = 30
"""Parts with fewer rows are drawn hollow: their numbers are mostly chance."""
LOSSES = {"train_loss": "train", "val_loss": "val"}
MAX_POINTS = 1500
"""With more rows than these a cloud of points says less than a density."""
MAX_AXES = 8
"""Settings that parallel coordinates show."""
FEW_KINDS = 6
"""A number that takes no more values than these is drawn as a category."""
LACKING = "–"

Curve = Sequence[tuple[int, float]]
"""The epochs of a trial, each with its value on the validation split, NaN where it has none."""
Ticks = list[tuple[float, str]]
"""Heights on an axis, and what is written there."""

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
def best_over_time(
    curves: Mapping[int, Curve], label: str, baseline: tuple[str, float] | None = None, is_higher_better: bool = False
) -> Figure:
    """The best value so far against the epochs that the whole sweep trained, trials in the order of their numbers.

    A dot for the best epoch of each trial; a dashed line for the value of the baseline, with its name.
    """
    trials = [[value for _, value in curves[number]] for number in sorted(curves)]
    starts = np.cumsum([0, *map(len, trials)]).tolist()
    dots = [
        start + _best(trial, is_higher_better)
        for start, trial in zip(starts, trials, strict=False)
        if not np.isnan(trial).all()
    ]
    values_E = np.array([value for trial in trials for value in trial], dtype=float)
    epochs_E = np.arange(1, len(values_E) + 1)
    best_E = (np.fmax if is_higher_better else np.fmin).accumulate(values_E)
    figure, axes = _axes(height=2.9)
    axes.plot(
        epochs_E[dots], values_E[dots], "o", color=MUTED, alpha=0.45, markersize=3.8, markeredgewidth=0, label="a trial"
    )
    axes.plot(epochs_E, best_E, color=ACCENT, drawstyle="steps-post", linewidth=2, label="the best so far")
    if baseline is not None:
        name, value = baseline
        axes.axhline(value, color=SECOND, linewidth=1.1, linestyle=(0, (4, 3)))
        _note(axes, f"{name}: {value:.3g}", (1, value), (-2, 3), xycoords=("axes fraction", "data"), ha="right")
    _limit_values(axes, [*best_E, *values_E[dots]], is_higher_better, also=baseline[1:] if baseline else ())
    if dots:
        best = _best(values_E, is_higher_better)
        axes.plot(epochs_E[best], values_E[best], "o", color=ACCENT, markersize=6)
        _note(axes, f"{values_E[best]:.3g}", (epochs_E[best], values_E[best]), (5, -12 if is_higher_better else 5))
    axes.set(xlim=(0, max(len(values_E), 1) * 1.02), xlabel="epochs trained by the whole sweep", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    _legend_above(axes)
    return figure


@mpl.rc_context(STYLE)
def trial_curves(
    curves: Mapping[int, Curve],
    label: str,
    winner: int | None = None,
    stopped: Collection[int] = (),
    diverged: Collection[int] = (),
    is_higher_better: bool = False,
) -> Figure:
    """The value of each trial by epoch, the ``winner`` in front; marks where some were stopped or diverged."""
    told = {number: [pair for pair in curve if not math.isnan(pair[1])] for number, curve in curves.items()}
    known = {number: np.array(pairs, dtype=float) for number, pairs in told.items() if pairs}
    figure, axes = _axes(height=2.9)
    others = [curve_E2 for number, curve_E2 in known.items() if number != winner]
    axes.add_collection(LineCollection(others, colors=MUTED, alpha=_faint(len(others)), linewidths=1.1))
    for numbers, name, marker, colour in ((stopped, "stopped early", "|", INK), (diverged, "diverged", "x", SECOND)):
        ends = np.array([known[number][-1] for number in numbers if number in known]).reshape(-1, 2)
        if len(ends):
            axes.plot(ends[:, 0], ends[:, 1], marker, color=colour, markersize=5, markeredgewidth=1.2, label=name)
    if winner in known:
        epochs_E, values_E = known[winner].T
        best = _best(values_E, is_higher_better)
        axes.plot(epochs_E, values_E, color=ACCENT, linewidth=2.2, label=f"trial {winner}, the best")
        axes.plot(epochs_E[best], values_E[best], "o", color=ACCENT, markersize=6)
    _limit_values(axes, [value for curve_E2 in known.values() for value in curve_E2[:, 1]], is_higher_better)
    axes.autoscale(axis="x")
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[0]:
        _legend_above(axes, columns=3)
    return figure


@mpl.rc_context(STYLE)
def setting_importance(shares: Sequence[tuple[str, float]]) -> Figure:
    """How much each setting mattered, in per cent of them all; see ``importance.importances``."""
    figure, axes = _axes(height=0.6 + 0.3 * max(len(shares), 2))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    values = [100 * share for _, share in shares]
    axes.barh(range(len(shares)), values, height=0.66, color=ACCENT)
    for y, value in enumerate(values):
        axes.annotate(f"{value:.0f} %", (value, y), xytext=(4, 0), textcoords="offset points", va="center", size=8.5)
    axes.set_yticks(range(len(shares)), [_shortened(name) for name, _ in shares])
    axes.set(ylim=(len(shares) - 0.5, -0.5), xlim=(0, max([*values, 1]) * 1.14), xticks=[])
    return figure


@mpl.rc_context(STYLE)
def parallel_coordinates(
    settings: Sequence[Mapping[str, Any]],
    values: Sequence[float],
    names: Sequence[str],
    label: str,
    is_higher_better: bool = False,
) -> Figure:
    """Each point as a line across an axis for each of the first ``MAX_AXES`` settings of ``names``, and for its value.

    The best is at the top of the last axis and in front, the best tenth in colour. What a point lacks is "–".
    """
    names = list(names)[:MAX_AXES]
    place_N = np.argsort(np.argsort(np.negative(values) if is_higher_better else values, kind="stable"))
    columns = [_spread([point.get(name, LACKING) for point in settings], place_N) for name in names]
    columns.append(_scaled(values, with_log_from=4, is_upside_down=not is_higher_better))
    heights_NA = np.stack([heights_N for heights_N, _ in columns], axis=1)
    figure, axes = _axes(height=3.7, width=WIDE_IN)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for row in np.argsort(-place_N):
        is_best, is_good = place_N[row] == 0, place_N[row] <= len(values) // 10
        line = PathPatch(
            _smooth(heights_NA[row]),
            fill=False,
            edgecolor=ACCENT if is_good else MUTED,
            linewidth=2.6 if is_best else 1.2,
            alpha=1 if is_best else 0.6 if is_good else _faint(len(values)),
        )
        axes.add_patch(line)
    for x, (_, ticks) in enumerate(columns):
        axes.plot([x, x], [-0.04, 1.04], color=GRID, linewidth=1.2, zorder=0.9)
        for height, text in ticks:
            box = {"facecolor": PAPER, "alpha": 0.85, "boxstyle": "square,pad=0.12"}
            _note(axes, _shortened(text), (x, height), (4, 0), color=INK, size=8, va="center", bbox=box, zorder=4)
    axes.set(xlim=(-0.04, len(names) + 0.04), ylim=(-0.08, 1.08), yticks=[])
    axes.set_xticks(range(len(columns)), [*map(_shortened, names), label])
    axes.xaxis.tick_top()
    axes.tick_params(axis="x", labelcolor=MUTED)
    return figure


@mpl.rc_context(STYLE)
def pareto_front(
    points: Mapping[int, tuple[float, float]],
    x_label: str,
    y_label: str,
    is_more_better: bool = False,
    is_higher_better: bool = False,
) -> Figure:
    """Trials as points (x, y) by their numbers; joined and numbered are those that no other one beats in both.

    ``is_more_better`` is said of x, ``is_higher_better`` of y.
    """
    x_sign, y_sign = (-1 if is_more_better else 1), (-1 if is_higher_better else 1)
    front: list[int] = []
    for number in sorted(points, key=lambda number: (x_sign * points[number][0], y_sign * points[number][1])):
        if not front or y_sign * points[number][1] < y_sign * points[front[-1]][1]:
            front.append(number)
    figure, axes = _axes(height=3.1)
    axes.grid(visible=True, axis="both")
    xs, ys = zip(*points.values(), strict=True)
    axes.plot(xs, ys, "o", color=MUTED, alpha=0.45, markersize=4.2, markeredgewidth=0)
    front_xs, front_ys = zip(*(points[number] for number in front), strict=True)
    axes.plot(front_xs, front_ys, color=ACCENT, drawstyle="steps-post", linewidth=1.2)
    axes.plot(front_xs, front_ys, "o", color=ACCENT, markersize=5.5)
    axes.margins(x=0.08)
    _limit_values(axes, ys, is_higher_better)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.xaxis.set_major_formatter(_short_number)
    if _spans(xs, 10):
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis, xs)
    axes.autoscale_view()
    numbered: list[np.ndarray] = []
    for number in reversed(front):  # the best first: where points stand close together, it is the one with a number
        place_in = axes.transData.transform(points[number]) / figure.dpi
        if all((np.abs(place_in - other_in) > (0.3, 0.14)).any() for other_in in numbered):
            numbered.append(place_in)
            offset = (-5 * x_sign, 5 if is_higher_better else -11)
            _note(axes, str(number), points[number], offset, color=INK, ha="left" if is_more_better else "right")
    axes.set(xlabel=x_label, ylabel=y_label)
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


def _axes(height: float, width: float = WIDTH_IN) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def _legend_above(axes: Axes, columns: int = 2) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, handlelength=1.2)


def _note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], color: str = MUTED, **how: Any
) -> None:
    axes.annotate(text, at, xytext=offset, textcoords="offset points", color=color, **({"size": 8.5} | how))


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


def _best(values: Sequence[float] | np.ndarray, is_higher_better: bool) -> int:
    return int(np.nanargmax(values) if is_higher_better else np.nanargmin(values))


def _faint(num_lines: int) -> float:
    """How opaque each of so many lines is."""
    return min(0.5, max(0.14, 14 / max(num_lines, 1)))


def _spans(values: Sequence[float] | np.ndarray, factor: float) -> bool:
    """Whether a log scale serves: all are positive, and the largest is more than ``factor`` times the smallest."""
    return len(values) > 0 and min(values) > 0 and max(values) > factor * min(values)


def _limit_values(axes: Axes, values: Sequence[float], is_higher_better: bool, also: Sequence[float] = ()) -> None:
    """Limits of y that hold ``also`` and all values but the worst few, which may be far off; logarithmic if need be."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return
    limits = np.quantile(known, [0.05, 1] if is_higher_better else [0, 0.95])
    low, high = min([*limits, *also]), max([*limits, *also])
    if _spans([low, high], 4):
        axes.set_yscale("log")
        margin = (high / low) ** 0.08
        axes.set_ylim(low / margin, high * margin)
        _plain_ticks(axes.yaxis, [low, high])
    else:
        margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)


def _plain_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Ticks of a log scale at round numbers, as people write them."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7) if max(values) < 12 * min(values) else (1, 3)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(_short_number)


def _short_number(value: float, _: float = 0) -> str:
    """A number in few signs; also formats ticks, whose places it does not need.

    >>> [_short_number(value) for value in (0.00052, 12.3, 3000, 48_000, 25_600_000)]
    ['0.00052', '12.3', '3000', '48k', '25.6M']
    """
    for least, unit, sign in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / unit:.3g}{sign}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _shortened(text: str, limit: int = 22) -> str:
    """
    >>> [_shortened(text) for text in ("torchvision/squeezenet1_0", "head:1@1e-3,all:{epochs}@{lr}")]
    ['…/squeezenet1_0', 'head:1@1e-3,all:{epoc…']
    """
    folder, _, name = text.rpartition("/")
    text = f"…/{name}" if folder and len(text) > limit else text
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _scaled(values: Sequence[float], with_log_from: float, is_upside_down: bool = False) -> tuple[np.ndarray, Ticks]:
    """Heights (N,) in 0..1 on an axis of their own, and what to write at its ends."""
    numbers_N = np.array(values, dtype=float)
    low, high = float(numbers_N.min()), float(numbers_N.max())
    if low == high:
        return np.full(len(numbers_N), 0.5), [(0.5, _short_number(low))]
    heights_N = np.log(numbers_N) if _spans(numbers_N, with_log_from) else numbers_N
    heights_N = (heights_N - heights_N.min()) / np.ptp(heights_N)
    if is_upside_down:
        heights_N, low, high = 1 - heights_N, high, low
    return heights_N, [(0.0, _short_number(low)), (1.0, _short_number(high))]


def _spread(values: Sequence[Any], place_N: np.ndarray) -> tuple[np.ndarray, Ticks]:
    """Heights (N,) in 0..1 of a setting's values, and what to write where; what is lacking is at the bottom.

    Lines through one category are fanned out by their place.
    """
    lacks_N = np.array([value == LACKING for value in values])
    known = [value for value in values if value != LACKING]
    are_numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in known)
    if are_numbers and len(set(known)) > FEW_KINDS:
        floor = 0.15 if lacks_N.any() else 0.0
        known_N, ends = _scaled(known, with_log_from=10)
        heights_N = np.zeros(len(values))
        heights_N[~lacks_N] = floor + (1 - floor) * known_N
        ticks = [(floor + (1 - floor) * height, text) for height, text in ends]
        return heights_N, [(0.0, LACKING), *ticks] if floor else ticks
    texts = [_short_number(value) if are_numbers and value != LACKING else str(value) for value in values]
    order = sorted(
        (value != LACKING, value if are_numbers and value != LACKING else 0, text)
        for value, text in zip(values, texts, strict=True)
    )
    kinds = list(dict.fromkeys(text for *_, text in order))
    step = 1 / max(len(kinds) - 1, 1)
    fan_N = (0.5 - place_N / len(values)) * min(0.08, 0.4 * step)
    rows_N = np.array([kinds.index(text) for text in texts])
    return rows_N * step + fan_N, [(row * step, kind) for row, kind in enumerate(kinds)]


def _smooth(heights_A: np.ndarray) -> Path:
    """A line through the heights of one point, level where it crosses an axis."""
    vertices, codes = [(0.0, heights_A[0])], [Path.MOVETO]
    for x, (start, end) in enumerate(itertools.pairwise(heights_A.tolist())):
        vertices += [(x + 0.5, start), (x + 0.5, end), (x + 1.0, end)]
        codes += [Path.CURVE4] * 3
    return Path(vertices, codes)
