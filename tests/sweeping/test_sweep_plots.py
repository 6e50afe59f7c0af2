"""Figures of a sweep draw what they are given, also when it is little or strange."""

from __future__ import annotations

import numpy as np
import pytest
from figure_texts import texts

from agescale.reports import figures
from agescale.sweeping.plots import best_over_time, parallel_coordinates, pareto_front, setting_importance, trial_curves

CURVES = {
    0: [(1, 9.0), (2, 7.0)],
    2: [(1, 8.0), (2, 5.0), (3, 6.0)],
    1: [(1, float("nan"))],
    3: [(1, 8.5)],
}


def test_the_best_so_far_follows_the_trials_in_their_order_and_never_gets_worse() -> None:
    figure = best_over_time(CURVES, "MAE", baseline=("always the median age", 9.87))
    best = next(line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post")
    np.testing.assert_array_equal(best.get_xdata(), [1, 2, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(best.get_ydata(), [9, 7, 7, 7, 5, 5, 5])
    assert "always the median age: 9.87" in texts(figure)
    assert figure.axes[0].get_ylim()[1] > 9.87
    figure = best_over_time(CURVES, "accuracy", is_higher_better=True)
    best = next(line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post")
    np.testing.assert_array_equal(best.get_ydata(), [9] * 7)


def test_curves_show_the_winner_and_who_was_stopped_or_diverged() -> None:
    figure = trial_curves(CURVES, "MAE", winner=2, stopped=[0], diverged=[1, 3])
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert lines["trial 2, the best"] == [[1, 8], [2, 5], [3, 6]]
    assert lines["stopped early"] == [[2, 7]]
    assert lines["diverged"] == [[1, 8.5]]


def test_one_trial_that_goes_astray_does_not_flatten_the_others() -> None:
    others = {number: [(epoch, 5.0 + number / 10) for epoch in range(1, 13)] for number in range(8)}
    figure = trial_curves(others | {9: [(1, 6.0), (2, 1e6)]}, "MAE")
    assert figure.axes[0].get_ylim()[1] < 10


def test_values_that_span_much_are_drawn_on_a_log_scale() -> None:
    axes = trial_curves({n: [(1, 40.0 - n), (2, 15.0), (3, 5.0 + n)] for n in range(5)}, "MAE").axes[0]
    assert axes.get_yscale() == "log"
    assert {"5", "10", "30"} <= {axes.yaxis.get_major_formatter()(tick, None) for tick in axes.get_yticks()}


def test_the_importance_of_settings_is_in_per_cent() -> None:
    assert "71 %" in texts(setting_importance([("lr", 0.71), ("task", 0.29), ("mixup", 0.0)]))


def test_parallel_coordinates_put_the_best_on_top_and_what_is_lacking_below() -> None:
    settings = [{"encoder": "cnn", "lr": 10.0**-n, "dropout": 0.5 if n % 2 else 0.0} for n in range(1, 8)]
    settings.append({"encoder": "torchvision/mobilenet_v3_small", "lr": 1e-3})
    figure = parallel_coordinates(settings, [4, 5, 6, 7, 8, 9, 10, 11], ["lr", "encoder", "dropout"], "MAE")
    heights = {text.get_text(): text.xy for text in figure.axes[0].texts}
    assert heights["4"] == (3, 1)
    assert heights["11"] == (3, 0)
    assert heights["0.1"] == (0, 1)
    assert heights["…/mobilenet_v3_small"][0] == 1
    assert heights["–"] == (2, 0)
    best = max(figure.axes[0].patches, key=lambda patch: patch.get_linewidth())
    np.testing.assert_allclose(best.get_path().vertices[[0, -1]], [[0, 1], [3, 1]])


def test_parallel_coordinates_show_no_more_settings_than_can_be_read() -> None:
    settings = [{f"setting {n}": value for n in range(12)} for value in ("a", "b")]
    shown = texts(parallel_coordinates(settings, [1.0, 1.0], [f"setting {n}" for n in range(12)], "MAE"))
    assert "setting 7" in shown
    assert "setting 8" not in shown


def test_the_front_has_the_trials_that_no_other_one_beats_in_both() -> None:
    points = {4: (100.0, 5.0), 5: (300.0, 6.0), 6: (90.0, 5.5), 7: (300.0, 6.5), 8: (3000.0, 9.0)}
    front = pareto_front(points, "images/s", "MAE", is_more_better=True).axes[0].lines[1]
    assert front.get_xydata().tolist() == [[3000, 9], [300, 6], [100, 5]]
    figure = pareto_front(points, "parameters", "accuracy", is_higher_better=True)
    assert {text.get_text() for text in figure.axes[0].texts} == {"6", "7", "8"}


@pytest.mark.parametrize("num_trials", [1, 200])
def test_any_number_of_trials_can_be_drawn(num_trials: int) -> None:
    rng = np.random.default_rng(0)
    curves = {n: [(e, float(rng.uniform(5, 9))) for e in range(1, 13)] for n in range(num_trials)}
    settings = [{"encoder": f"net {n % 5}", "lr": rng.uniform(1e-4, 1e-2), "list": [n % 2, 3]} for n in curves]
    values = [curve[-1][1] for curve in curves.values()]
    for figure in (
        best_over_time(curves, "MAE"),
        trial_curves(curves, "MAE", winner=0, stopped=list(curves)),
        parallel_coordinates(settings, values, ["encoder", "lr", "list"], "MAE"),
        pareto_front({n: (rng.uniform(1, 9), value) for n, value in enumerate(values)}, "images/s", "MAE"),
    ):
        assert len(figures.to_svg(figure, "trials", "trials")) < 400_000


def test_trials_without_a_value_are_an_empty_figure() -> None:
    for curves in ({}, {0: []}, {0: [(1, float("nan"))]}):
        assert figures.to_svg(best_over_time(curves, "MAE", ("always the median age", 9.0)), "best", "best")
        assert figures.to_svg(trial_curves(curves, "MAE"), "curves", "curves")
