"""Figures draw what they are given, also when it is little or strange."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from agescale import plots


def texts(figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text")))


def test_a_figure_is_a_png_file_or_a_part_of_a_page() -> None:
    figure = plots.error_histogram(np.array([1.0, -3.0, np.nan]))
    assert plots.to_png(figure).startswith(b"\x89PNG")
    svg = plots.to_svg(figure, "errors", 'errors "and" <more>')
    assert svg.startswith('<svg role="img" aria-label="errors &quot;and&quot; &lt;more>"')
    assert "http" not in svg


def test_the_confusion_matrix_shows_counts_per_cent_and_predictions_of_no_group() -> None:
    shown = texts(plots.confusion(np.array([[3, 1, 0], [0, 4, 0]]), ["young", "old"]))
    assert "3\n75.0 %" in shown
    assert "none" not in shown
    assert "none" in texts(plots.confusion(np.array([[3, 0, 1], [0, 4, 0]]), ["young", "old"]))


@pytest.mark.parametrize("num_rows", [0, 1, 5000])
def test_any_number_of_faces_can_be_drawn(num_rows: int) -> None:
    ages_N = np.random.default_rng(0).uniform(0, 90, num_rows)
    for figure in (plots.predicted_against_true(ages_N, ages_N[::-1]), plots.error_histogram(ages_N - ages_N[::-1])):
        assert len(plots.to_svg(figure, "ages", "ages")) < 400_000


def test_training_curves_mark_the_phases_and_the_best_epoch() -> None:
    history = [{"epoch": e, "phase": "head" if e < 2 else "all", "train_loss": 3.0, "val_mae": abs(e - 3) + 5.0}
               for e in range(6)]  # fmt: skip
    shown = texts(plots.training_curves(history))
    assert "head" in shown
    assert "all" in shown
    assert "best 5, epoch 3" in shown


@pytest.mark.parametrize(
    "history", [[{"epoch": 0}], [{"epoch": 0, "val_accuracy": None}], [{"epoch": 1, "val_f1": 0.5}]]
)
def test_training_curves_do_without_what_is_absent(history: list[dict]) -> None:
    assert plots.to_svg(plots.training_curves(history), "training", "training")


def test_a_catalogs_ages_and_classes_are_counted() -> None:
    table = pa.table({
        "age_low": pa.array([30, 20, None, 100], pa.float32()),
        "age_high": pa.array([31, 40, None, np.inf], pa.float32()),
        "group": ["adult", "adult", None, "senior"],
    })  # fmt: skip
    bars = [bar.get_height() for bar in plots.age_distribution(table).axes[0].patches]
    assert bars[30] == pytest.approx(1.05)
    assert bars[100] == pytest.approx(1)
    assert sum(bars) == pytest.approx(3)
    assert "(none)" in texts(plots.class_distribution(table))
