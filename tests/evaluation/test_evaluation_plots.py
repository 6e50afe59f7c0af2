"""Figures of a judgement draw what they are given, also when it is little or strange."""

from __future__ import annotations

import numpy as np
import pytest
from figure_texts import texts

from agescale.evaluation.plots import confusion, error_histogram, predicted_against_true, training_curves
from agescale.reports import figures


def test_the_confusion_matrix_shows_counts_per_cent_and_predictions_of_no_group() -> None:
    shown = texts(confusion(np.array([[3, 1, 0], [0, 4, 0]]), ["young", "old"]))
    assert "3\n75.0 %" in shown
    assert "none" not in shown
    assert "none" in texts(confusion(np.array([[3, 0, 1], [0, 4, 0]]), ["young", "old"]))


@pytest.mark.parametrize("num_rows", [0, 1, 5000])
def test_any_number_of_faces_can_be_drawn(num_rows: int) -> None:
    ages_N = np.random.default_rng(0).uniform(0, 90, num_rows)
    for figure in (predicted_against_true(ages_N, ages_N[::-1]), error_histogram(ages_N - ages_N[::-1])):
        assert len(figures.to_svg(figure, "ages", "ages")) < 400_000


def test_training_curves_mark_the_phases_and_the_best_epoch() -> None:
    history = [{"epoch": e, "phase": "head" if e < 2 else "all", "train_loss": 3.0, "val_mae": abs(e - 3) + 5.0}
               for e in range(6)]  # fmt: skip
    shown = texts(training_curves(history))
    assert "head" in shown
    assert "all" in shown
    assert "best 5, epoch 3" in shown


@pytest.mark.parametrize(
    "history", [[{"epoch": 0}], [{"epoch": 0, "val_accuracy": None}], [{"epoch": 1, "val_f1": 0.5}]]
)
def test_training_curves_do_without_what_is_absent(history: list[dict]) -> None:
    assert figures.to_svg(training_curves(history), "training", "training")
