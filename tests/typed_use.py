"""What a type checker sees of the public names in a user's program. mypy reads this, nobody runs it."""

from __future__ import annotations

from typing import assert_type

import numpy as np
import numpy.typing as npt
from PIL import Image

import agescale


def use(picture: Image.Image, pixels: npt.NDArray[np.uint8]) -> None:
    model = agescale.load("runs/demo/run/best")
    assert_type(model, agescale.Model)
    results = model.predict(["a.jpg", b"", picture, pixels])
    assert_type(results, agescale.Predictions)
    assert_type(results[0], agescale.Prediction)
    assert_type(results[0].age, float | None)
    assert_type(results[0].interval, tuple[float, float] | None)
    assert_type(results[0].probability_under(18), float)
    assert_type(results[0].cdf, npt.NDArray[np.float64] | None)
    assert_type(agescale.__version__, str)
    model.predict(7)  # type: ignore[arg-type]
    agescale.predict  # type: ignore[attr-defined]  # noqa: B018
