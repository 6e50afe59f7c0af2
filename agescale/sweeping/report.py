"""A sweep as one self-contained page: the best trial beside the baseline, what was spent, and which settings mattered.

In: what was searched, the leaderboard, each trial's validation by epoch, and the command that trains the best again.
Out: ``sweep_report.html``. Every number is of the validation split; the page says so. Trains and judges nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

from markupsafe import Markup

from agescale.reports.figures import Figure
from agescale.reports.page import inline, number, template
from agescale.store import objects, paths
from agescale.sweeping import plots
from agescale.sweeping.importance import importances, varying
from agescale.sweeping.plan import Baseline
from agescale.sweeping.trials import Curve, Row
from agescale.training import validation
from agescale.training.validation import sign

PAGE = "sweep_report.html"
NUM_SHOWN = 10
CLOSE = 0.02
"""Trials whose value is within this share of the best one's are as good, for all that one sweep can tell."""

OBJECTIVES = {
    "mae": ("mean absolute error", "MAE, years", "{:.2f}"),
    "worst_group_mae": ("mean absolute error of the worst group", "MAE of the worst group, years", "{:.2f}"),
    "accuracy": ("accuracy", "accuracy", "{:.1%}"),
}
"""In words, on an axis, and how its values are written."""


class About(TypedDict):
    """What is told of a sweep as a whole."""

    space: str
    searcher: str
    scheduler: str
    objective: str  # one of OBJECTIVES
    worst_of: str  # parts, where it is not by age group that the worst is told
    catalog: str
    num_train: int  # images
    num_val: int
    num_trials: int  # in all, those that are still to begin too
    epochs: int  # the most of a trial
    seconds: float  # of all trials together
    disk_bytes: int
    baseline: Baseline | None


def _words_of(about: About) -> tuple[str, str, str]:
    """The objective's words of OBJECTIVES, with the parts of which the worst is meant."""
    title, label, style = OBJECTIVES[about["objective"]]
    by = about["worst_of"] if about["objective"] == "worst_group_mae" else ""
    return (title.replace("group", f"part by {by.replace(',', ' or by ')}") if by else title), label, style


STATUSES = {"finished": "finished", "stopped": "stopped early", "diverged": "diverged", "failed": "failed",
            "running": "not finished"}  # fmt: skip


def write_report(out: str, about: About, leaderboard: Sequence[Row], curves: Mapping[int, Curve], command: str) -> str:
    """Writes the page into the folder ``out`` (a path or ``s3://``) and returns its URI; see ``render``."""
    uri = paths.join(out, PAGE)
    objects.write_bytes(uri, render(about, leaderboard, curves, command).encode())
    return uri


def render(about: About, leaderboard: Sequence[Row], curves: Mapping[int, Curve], command: str) -> str:
    """The page as text; the best trial stands first on the ``leaderboard``, and ``curves`` are by number of a trial."""
    rows = [_as_shown(row) for row in leaderboard]
    ranked = [row for row in rows if row["value"] is not None]
    values = [value for row in rows if (value := row["value"]) is not None]
    costs = [sign(about["objective"]) * value for value in values]
    shares = importances([row["settings"] for row in ranked], costs)
    names = varying([row["settings"] for row in rows])
    title, _, style = _words_of(about)
    return template("sweep_report.html.j2").render(
        about=about,
        title=title,
        told=lambda value: number(value, style),
        rows=rows,
        ranked=ranked,
        top=ranked[:NUM_SHOWN],
        names=names,
        same={key: value for key, value in (rows[0]["settings"] if rows else {}).items() if key not in names},
        wrong=[row for row in rows if row["reason"]],
        statuses=STATUSES,
        num_by_status=Counter(STATUSES[row["status"]] for row in rows),
        num_epochs=sum(row["epochs"] for row in rows),
        time=_duration(about["seconds"]),
        disk=_size(about["disk_bytes"]),
        verdicts=_verdicts(about, ranked, values, shares),
        figures=_figures(about, ranked, values, curves, shares),
        command=command,
    )


def _verdicts(
    about: About, ranked: Sequence[Row], values: Sequence[float], shares: Sequence[tuple[str, float]]
) -> list[str]:
    """What was found, in a few sentences."""
    if not ranked:
        return ["No trial has a validation metric."]
    title, _, style = _words_of(about)
    best, baseline = values[0], about["baseline"]
    line = f"The {title} of trial {ranked[0]['number']} is {number(best, style)}"
    if baseline is not None:
        line += f", that of “{baseline['name']}” {number(baseline['value'], style)}"
        if sign(about["objective"]) * best >= sign(about["objective"]) * baseline["value"]:
            line += ". So nothing was found that is better than that"
    found = [line + "."]
    num_close = sum(abs(value - best) <= CLOSE * abs(best) for value in values[1:])
    if num_close:
        found.append(
            f"{'One other trial is' if num_close == 1 else f'{num_close:,} other trials are'} within "
            f"{number(CLOSE, '{:.0%}')} of it: which is first may be chance, so take the one that suits you."
        )
    elif len(ranked) > 1:
        found.append(f"The next best, trial {ranked[1]['number']}, has {number(values[1], style)}.")
    if len(shares) > 1:
        most = ", ".join(f"{name} ({number(share, '{:.0%}')})" for name, share in shares[:3] if share >= 0.05)
        found.append(f"What mattered most: {most}.")
    return found


def _figures(
    about: About,
    ranked: Sequence[Row],
    values: Sequence[float],
    curves: Mapping[int, Curve],
    shares: Sequence[tuple[str, float]],
) -> dict[str, Markup]:
    """The page's figures by name; a figure that would say nothing is left out."""
    if not ranked:
        return {}
    title, label, _ = _words_of(about)
    is_higher_better = sign(about["objective"]) < 0
    baseline = about["baseline"] and (about["baseline"]["name"], about["baseline"]["value"])
    told = {trial: _curve(curve, about["objective"]) for trial, curve in curves.items()}
    stopped, diverged = (
        [row["number"] for row in ranked if row["status"] == status] for status in ("stopped", "diverged")
    )
    figures: dict[str, tuple[Figure, str]] = {
        "best": (
            plots.best_over_time(told, label, baseline, is_higher_better),
            f"The best {title} so far, by epochs trained",
        ),
        "curves": (
            plots.trial_curves(told, label, ranked[0]["number"], stopped, diverged, is_higher_better),
            f"The {title} of each trial by epoch",
        ),
    }
    if len(shares) > 1:
        figures["importance"] = plots.setting_importance(shares), "How much each setting mattered"
    settings = [row["settings"] for row in ranked]
    order = [name for name, _ in shares]
    names = sorted(varying(settings), key=lambda name: order.index(name) if name in order else len(order))
    if names:
        figures["parallel"] = (
            plots.parallel_coordinates(settings, values, names, label, is_higher_better),
            f"Settings and {title} of each trial",
        )
    for name, x_label, by_trial in (
        ("speed", "images/s in training", {row["number"]: row["images_per_s"] for row in ranked}),
        ("size", "parameters", {row["number"]: row["num_parameters"] for row in ranked}),
    ):
        pairs = zip(ranked, values, strict=True)
        points = {row["number"]: (x, value) for row, value in pairs if (x := by_trial[row["number"]]) is not None}
        if len({x for x, _ in points.values()}) > 1:
            figures[name] = (
                plots.pareto_front(points, x_label, label, name == "speed", is_higher_better),
                f"The {title} of each trial against {x_label}",
            )
    return inline(figures)


def _curve(curve: Curve, objective: str) -> plots.Curve:
    values = [_known(validation.value_of(epoch, objective)) for epoch in curve]
    return [(epoch["epoch"], math.nan if value is None else value) for epoch, value in zip(curve, values, strict=True)]


def _as_shown(row: Row) -> Row:
    shown = {key: _known(value) for key, value in row.items()}
    settings = {key: _plain(value) for key, value in row["settings"].items()}
    return cast(Row, shown | {"settings": settings})


def _known(value: Any) -> Any:
    """``value``, or None for a number that is none."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """A setting's value as a number or a text; what is empty is the setting's default."""
    if value in (None, "", [], ()):
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _duration(seconds: float) -> str:
    """
    >>> [_duration(seconds) for seconds in (42, 1500, 12_345, 700_000)]
    ['42 s', '25 min', '3.4 h', '194 h']
    """
    for unit, length, least in (("h", 3600, 5400), ("min", 60, 90)):
        if seconds >= least:
            return f"{seconds / length:.{1 if unit == 'h' and seconds < 360_000 else 0}f} {unit}"
    return f"{seconds:.0f} s"


def _size(num_bytes: int) -> str:
    """
    >>> [_size(num_bytes) for num_bytes in (512, 48_200_000, 1_240_000_000)]
    ['0 MB', '48 MB', '1.2 GB']
    """
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
