"""A judgement as figures: numbers in, a matplotlib ``Figure`` out. Legend: N rows, G groups, E epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from agescale.ages.few import ENOUGH_FACES
from agescale.evaluation.gates import Candidate, Rate
from agescale.evaluation.records import CoveredPart, HandedOver, PartScores, Reliability
from agescale.reports.figures import ACCENT, INK, MUTED, SECOND, STYLE, WIDE_IN, WIDTH_IN, axes_of, legend_above

LOSSES = {"train_loss": "train", "val_loss": "val"}
MAX_POINTS = 1500
"""With more rows than these a cloud of points says less than a density."""


@mpl.rc_context(STYLE)
def confusion(counts_GH: np.ndarray, names: Sequence[str]) -> Figure:
    """Counts and per cent of the row of a confusion matrix (G, G + 1); "none" is drawn only where it occurs."""
    columns = [*names, "none"] if counts_GH[:, -1].any() else list(names)
    counts_GH = counts_GH[:, : len(columns)]
    totals_G1 = counts_GH.sum(axis=1, keepdims=True)
    share_GH = np.divide(counts_GH, totals_G1, out=np.zeros(counts_GH.shape), where=totals_G1 > 0)
    num_rows, num_columns = counts_GH.shape
    is_dense = num_columns > 6
    figure, axes = axes_of(height=min(1.1 + 0.62 * num_rows, 5.2))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for row in range(num_rows):
        for column in range(num_columns):
            share, count = share_GH[row, column], int(counts_GH[row, column])
            colour = ACCENT if row == column else SECOND
            axes.add_patch(rectangle(column + 0.03, row + 0.03, 0.94, 0.94, colour, 0.06 + 0.56 * math.sqrt(share)))
            if count:
                text = f"{count:,}\n{100 * share:.{0 if is_dense else 1}f} %"
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", size=6 if is_dense else 8.5)
    axes.set(xlim=(0, num_columns), ylim=(num_rows, 0), xlabel="predicted", ylabel="true")
    axes.set_xticks(np.arange(num_columns) + 0.5, columns, rotation=35 if is_crowded(columns) else 0)
    axes.set_yticks(
        np.arange(num_rows) + 0.5, [f"{n} ({int(t):,})" for n, t in zip(names, totals_G1[:, 0], strict=True)]
    )
    return figure


@mpl.rc_context(STYLE)
def error_by_subgroup(parts: Sequence[PartScores]) -> Figure:
    """MAE with its interval and, as a diamond, the bias of each part; those with few faces are hollow."""
    drawn = [(part, part.mae, part.bias) for part in parts if part.mae is not None and part.bias is not None]
    figure, axes = axes_of(height=0.9 + 0.29 * max(len(drawn), 2))
    axes.grid(visible=False)
    axes.grid(visible=True, axis="x")
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    for y, (part, mae, bias) in enumerate(drawn):
        fill = ACCENT if part.num_with_age >= ENOUGH_FACES else "none"
        if part.mae_low is not None and part.mae_high is not None:
            axes.plot([part.mae_low, part.mae_high], [y, y], color=ACCENT, linewidth=2.2, solid_capstyle="round")
        axes.plot(mae, y, "o", color=ACCENT, markerfacecolor=fill, markersize=6)
        axes.plot(bias, y, "D", color=SECOND, markerfacecolor=SECOND if fill == ACCENT else "none", markersize=4.5)
    axes.set(ylim=(len(drawn) - 0.5, -0.5), xlabel="years")
    axes.set_yticks(range(len(drawn)), [f"{part.name}  ({part.num_with_age:,})" for part, *_ in drawn])
    axes.plot([], [], "o", color=ACCENT, markersize=6, label="mean absolute error")
    axes.plot([], [], "D", color=SECOND, markersize=4.5, label="bias")
    legend_above(axes)
    return figure


@mpl.rc_context(STYLE)
def predicted_against_true(true_age_N: np.ndarray, predicted_age_N: np.ndarray) -> Figure:
    """Each face as a point, or, where they are many, how many faces lie in each hexagon (darker: more, log scale)."""
    known_N = ~np.isnan(true_age_N) & ~np.isnan(predicted_age_N)
    true_N, predicted_N = true_age_N[known_N], predicted_age_N[known_N]
    figure, axes = axes_of(height=4.3)
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
    figure, axes = axes_of(height=2.7)
    reach = max(10.0, float(np.ceil(np.percentile(np.abs(error_N), 99.5) / 5) * 5)) if len(error_N) else 10.0
    edges = np.arange(-reach, reach + 0.5, 1.0 if reach <= 40 else 2.0)
    counts = np.histogram(error_N.clip(-reach, reach), bins=edges)[0]
    axes.bar(edges[:-1], 100 * counts / max(len(error_N), 1), width=0.9 * np.diff(edges), align="edge", color=ACCENT)
    axes.axvline(0, color=INK, linewidth=0.9)
    if len(error_N):
        axes.axvline(error_N.mean(), color=SECOND, linewidth=1.2, label=f"mean error {error_N.mean():+.1f} years")
        legend_above(axes)
    axes.set(
        xlim=(-reach, reach), xlabel="predicted minus true age, years (the ends hold all beyond)", ylabel="% of faces"
    )
    return figure


@mpl.rc_context(STYLE)
def group_distribution(true_group_N: np.ndarray, predicted_group_N: np.ndarray, names: Sequence[str]) -> Figure:
    """How many of the judged faces are in each group, and how many are predicted to be."""
    known_N = true_group_N >= 0
    figure, axes = axes_of(height=2.7)
    for shift, groups_N, label, colour in (
        (-0.21, true_group_N[known_N], "true", ACCENT),
        (0.21, predicted_group_N[known_N], "predicted", SECOND),
    ):
        counts = np.bincount(groups_N[groups_N >= 0], minlength=len(names))
        axes.bar(np.arange(len(names)) + shift, counts, width=0.38, color=colour, label=label)
    axes.set_xticks(range(len(names)), names, rotation=35 if is_crowded(names) else 0)
    axes.set_ylabel("faces")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    legend_above(axes)
    return figure


@mpl.rc_context(STYLE)
def shares(names: Sequence[str], ours: Sequence[float], before: Sequence[float]) -> Figure:
    """How many in a hundred of two lots of rows are in each bin."""
    figure, axes = axes_of(height=2.7)
    for shift, shares_B, label, colour in ((-0.21, before, "before", ACCENT), (0.21, ours, "now", SECOND)):
        axes.bar(np.arange(len(names)) + shift, 100 * np.array(shares_B), width=0.38, color=colour, label=label)
    axes.set_xticks(range(len(names)), names, rotation=35 if is_crowded(names) else 0)
    axes.set_ylabel("% of rows")
    legend_above(axes)
    return figure


@mpl.rc_context(STYLE)
def reliability(curves: Mapping[str, Sequence[Reliability]], said: str, observed: str) -> Figure:
    """How often it is so, against how often that was said, in per cent, each with its interval; of few faces hollow."""
    figure, axes = axes_of(height=3.6)
    axes.grid(visible=True, axis="both")
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.9)
    for (name, rows), colour in zip(curves.items(), (ACCENT, SECOND), strict=False):
        axes.plot([100 * row.said for row in rows], [100 * row.observed for row in rows], color=colour, linewidth=0.9)
        for row in rows:
            x, fill = 100 * row.said, "none" if row.num_rows < ENOUGH_FACES else colour
            _interval(axes, x, row.observed_low, row.observed_high, 100, colour)
            axes.plot(x, 100 * row.observed, "o", color=colour, markerfacecolor=fill, markersize=5)
        axes.plot([], [], "o", color=colour, markersize=5, label=name)
    axes.set(xlim=(-2, 102), ylim=(-2, 102), xlabel=said, ylabel=observed)
    if len(curves) > 1:
        legend_above(axes)
    return figure


@mpl.rc_context(STYLE)
def handed_over(rows: Sequence[HandedOver]) -> Figure:
    """MAE, or where there are no ages the share in the right group, of the faces that are left where the least certain
    ones go to a person; a line where all would be were those drawn by chance."""
    x = [100 * row.handed_over for row in rows]
    figure, axes = axes_of(height=3.6)
    if rows[0].mae is not None:
        axes.plot(x, [row.mae if row.mae is not None else math.nan for row in rows], "o-", color=ACCENT, markersize=5)
        axes.axhline(rows[0].mae, color=MUTED, linewidth=0.9)
        for share, row in zip(x, rows, strict=True):
            _interval(axes, share, row.mae_low, row.mae_high)
        axes.set_ylabel("mean absolute error of the others, years")
        axes.set_ylim(bottom=0)
    else:
        axes.plot(x, [100 * (row.accuracy or 0.0) for row in rows], "o-", color=ACCENT, markersize=5)
        axes.axhline(100 * (rows[0].accuracy or 0.0), color=MUTED, linewidth=0.9)
        axes.set_ylabel("% of the others in the right group")
    axes.set_xlabel("% of the faces that go to a person, the least certain first")
    return figure


@mpl.rc_context(STYLE)
def coverage(parts: Sequence[CoveredPart], wanted: float) -> Figure:
    """Share of the intervals that hold the age, in per cent, of each part, with its interval; of few faces hollow."""
    figure, axes = axes_of(height=2.9)
    axes.axhline(100 * wanted, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="wanted")
    for x, part in enumerate(parts):
        _interval(axes, x, part.coverage_low, part.coverage_high, 100)
        fill = ACCENT if part.num_rows >= ENOUGH_FACES else "none"
        axes.plot(x, 100 * part.coverage, "o", color=ACCENT, markerfacecolor=fill, markersize=6)
    axes.set_xticks(range(len(parts)), [part.name for part in parts], rotation=35 if len(parts) > 8 else 0)
    axes.set(xlabel="predicted age, years", ylabel="% that hold the age")
    legend_above(axes)
    return figure


def _interval(
    axes: Axes, x: float, low: float | None, high: float | None, scale: float = 1, colour: str = ACCENT
) -> None:
    """An upright bar from one end to the other, ``scale`` times as high; none where they are not known."""
    if low is not None and high is not None:
        axes.plot([x, x], [scale * low, scale * high], color=colour, linewidth=2.2, solid_capstyle="round")


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
def false_positives(candidates: Sequence[Candidate], chosen: Candidate, target: float, label: str) -> Figure:
    """Share of minors who pass at each threshold, with its upper bound, in per cent; what was not certified is grey."""
    figure, axes = axes_of(height=3.2, width=WIDE_IN)
    axes.axhline(100 * target, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="target")
    certified = [each for each in candidates if each.is_certified]
    others = [chosen, *(each for each in candidates if not each.is_certified)]
    for some, colours, labels in (
        (others, (MUTED, MUTED), ("", "")),
        (certified, (ACCENT, SECOND), ("share of minors who pass", "upper bound")),
    ):
        thresholds = [each.threshold for each in some]
        shares = [100 * each.false_positive_rate for each in some]
        bounds = [100 * each.upper_bound for each in some]
        axes.plot(thresholds, bounds, color=colours[1], label=labels[1] or None, linewidth=1.1)
        axes.plot(thresholds, shares, color=colours[0], label=labels[0] or None)
    axes.axvline(chosen.threshold, color=MUTED, linewidth=0.8)
    axes.plot(chosen.threshold, 100 * chosen.upper_bound, "o", color=SECOND, markersize=5)
    axes.plot(chosen.threshold, 100 * chosen.false_positive_rate, "o", color=ACCENT, markersize=5)
    axes.set_title(f"T = {chosen.threshold:g}", loc="right", color=MUTED, size=8.5)
    if chosen.threshold < 1:  # a probability
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel=label, ylabel="% of minors")
    axes.set_ylim(bottom=0)
    legend_above(axes, columns=3)
    return figure


@mpl.rc_context(STYLE)
def challenged(bands: Sequence[Rate]) -> Figure:
    """Share of the adults of each age who must show papers, with its interval, in per cent; of few people hollow."""
    drawn = [(band, band.wrong, band.wrong_low, band.wrong_high) for band in bands if band.wrong is not None]
    figure, axes = axes_of(height=3.0, width=WIDE_IN)
    for x, (band, share, low, high) in enumerate(drawn):
        if low is not None and high is not None:
            axes.plot([x, x], [100 * low, 100 * high], color=ACCENT, linewidth=2.2, solid_capstyle="round")
        axes.plot(x, 100 * share, "o", color=ACCENT, markerfacecolor="none" if band.is_few else ACCENT, markersize=6)
    names = [band.name for band, *_ in drawn]
    axes.set_xticks(range(len(drawn)), names, rotation=90 if sum(len(name) + 2 for name in names) > 120 else 0)
    axes.set(xlabel="true age, years", ylabel="% who must show papers", ylim=(-3, 103), xlim=(-0.6, len(drawn) - 0.4))
    return figure


def rectangle(x: float, y: float, width: float, height: float, colour: str, alpha: float) -> mpl.patches.Rectangle:
    return mpl.patches.Rectangle((x, y), width, height, facecolor=colour, alpha=alpha, linewidth=0)


def is_crowded(names: Sequence[str]) -> bool:
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
