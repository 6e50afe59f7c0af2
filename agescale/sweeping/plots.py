"""A sweep as figures: trials in, a matplotlib ``Figure`` out. Legend of shapes: A axes of one figure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from agescale.reports.figures import ACCENT, GRID, INK, MUTED, PAPER, SECOND, STYLE, WIDE_IN, axes_of, legend_above

MAX_AXES = 8
"""Settings that parallel coordinates show."""
FEW_KINDS = 6
"""A number that takes no more values than these is drawn as a category."""
LACKING = "–"

Curve = Sequence[tuple[int, float]]
"""The epochs of a trial, each with its value on the validation split, NaN where it has none."""
Ticks = list[tuple[float, str]]
"""Heights on an axis, and what is written there."""


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
    figure, axes = axes_of(height=2.9)
    axes.plot(
        epochs_E[dots], values_E[dots], "o", color=MUTED, alpha=0.45, markersize=3.8, markeredgewidth=0, label="a trial"
    )
    axes.plot(epochs_E, best_E, color=ACCENT, drawstyle="steps-post", linewidth=2, label="the best so far")
    if baseline is not None:
        name, value = baseline
        axes.axhline(value, color=SECOND, linewidth=1.1, linestyle=(0, (4, 3)))
        note(axes, f"{name}: {value:.3g}", (1, value), (-2, 3), xycoords=("axes fraction", "data"), ha="right")
    _limit_values(axes, [*best_E, *values_E[dots]], is_higher_better, also=baseline[1:] if baseline else ())
    if dots:
        best = _best(values_E, is_higher_better)
        axes.plot(epochs_E[best], values_E[best], "o", color=ACCENT, markersize=6)
        note(axes, f"{values_E[best]:.3g}", (epochs_E[best], values_E[best]), (5, -12 if is_higher_better else 5))
    axes.set(xlim=(0, max(len(values_E), 1) * 1.02), xlabel="epochs trained by the whole sweep", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    legend_above(axes)
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
    figure, axes = axes_of(height=2.9)
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
        legend_above(axes, columns=3)
    return figure


@mpl.rc_context(STYLE)
def setting_importance(shares: Sequence[tuple[str, float]]) -> Figure:
    """How much each setting mattered, in per cent of them all; see ``importance.importances``."""
    figure, axes = axes_of(height=0.6 + 0.3 * max(len(shares), 2))
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
    figure, axes = axes_of(height=3.7, width=WIDE_IN)
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
            note(axes, _shortened(text), (x, height), (4, 0), color=INK, size=8, va="center", bbox=box, zorder=4)
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
    figure, axes = axes_of(height=3.1)
    axes.grid(visible=True, axis="both")
    xs, ys = zip(*points.values(), strict=True)
    axes.plot(xs, ys, "o", color=MUTED, alpha=0.45, markersize=4.2, markeredgewidth=0)
    front_xs, front_ys = zip(*(points[number] for number in front), strict=True)
    axes.plot(front_xs, front_ys, color=ACCENT, drawstyle="steps-post", linewidth=1.2)
    axes.plot(front_xs, front_ys, "o", color=ACCENT, markersize=5.5)
    axes.margins(x=0.08)
    _limit_values(axes, ys, is_higher_better)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.xaxis.set_major_formatter(short_number)
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
            note(axes, str(number), points[number], offset, color=INK, ha="left" if is_more_better else "right")
    axes.set(xlabel=x_label, ylabel=y_label)
    return figure


def note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], color: str = MUTED, **how: Any
) -> None:
    axes.annotate(text, at, xytext=offset, textcoords="offset points", color=color, **({"size": 8.5} | how))


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
    axis.set_major_formatter(short_number)


def short_number(value: float, _: float = 0) -> str:
    """A number in few signs; also formats ticks, whose places it does not need.

    >>> [short_number(value) for value in (0.00052, 12.3, 3000, 48_000, 25_600_000)]
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
        return np.full(len(numbers_N), 0.5), [(0.5, short_number(low))]
    heights_N = np.log(numbers_N) if _spans(numbers_N, with_log_from) else numbers_N
    heights_N = (heights_N - heights_N.min()) / np.ptp(heights_N)
    if is_upside_down:
        heights_N, low, high = 1 - heights_N, high, low
    return heights_N, [(0.0, short_number(low)), (1.0, short_number(high))]


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
    texts = [short_number(value) if are_numbers and value != LACKING else str(value) for value in values]
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
