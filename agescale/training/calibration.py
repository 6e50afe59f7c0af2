"""Age intervals of the model that is validated, from the same pass over the validation images: none is read again.

In: what a model says of validation images, and their labels. Out: a ``Calibration`` for its checkpoint, so that last/
and best/ have one at any time, by the same write as their weights. A face counts where its age is exact; of several
photos of a person one counts, so that the faces are drawn independently. The epoch, and how an age is told, are chosen
on these very faces, as ``assumes`` says. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from agescale.ages import cdf
from agescale.ages.calibration import Calibration, bands_of, faces_needed
from agescale.ages.cdf import PointEstimate
from agescale.ages.groups import AgeGroups
from agescale.ages.labels import has_exact_age
from agescale.config import TrainConfig
from agescale.models.framing import faces_of, framing_of
from agescale.models.spec import ModelSpec
from agescale.models.tasks import Task
from agescale.training import selection, validation

NUM_SAID = 3 + len(validation.RULES)
"""Numbers that are kept of each image: whether it was seen, both ends, and the age by each rule."""
ASSUMES = "exchangeable photos, and an epoch that was chosen on the same ones"


def counted(rows: pa.Table) -> np.ndarray:
    """Whether each of the ``rows`` (N,) counts."""
    is_exact_N = pc.fill_null(has_exact_age(rows), False).to_numpy()
    index = np.flatnonzero(is_exact_N)
    is_counted_N = np.zeros(len(rows), bool)
    is_counted_N[index[selection.one_of_each_person(rows.take(pa.array(index)))]] = True
    return is_counted_N


def is_wanted(config: TrainConfig) -> bool:
    """Whether there are to be intervals: of a model that has learned from the validation images none would hold."""
    return config.interval_coverage > 0 and not config.refit


def said_of(task: Task, outputs: Tensor, coverage: float) -> Tensor:
    """What is kept (N, NUM_SAID), float32, of a batch's outputs; zeros where the task says no ages."""
    said_NS = np.zeros((len(outputs), NUM_SAID), np.float32)
    prediction = task.predict(outputs) if task.predicts_age else None
    if prediction is not None and prediction.age_probs_NA is not None:
        cdf_NA = cdf.quantize(prediction.age_probs_NA.cpu().numpy())
        ages = [cdf.point_estimate(cdf_NA, rule) for rule in validation.RULES]
        said_NS[:] = np.stack([np.ones(len(cdf_NA)), *cdf.central_interval(cdf_NA, coverage), *ages], axis=1)
    return torch.from_numpy(said_NS)


def calibration_of(
    said_NS: np.ndarray,
    labels: Mapping[str, np.ndarray],
    decode: PointEstimate,
    spec: ModelSpec,
    coverage: float,
    catalog_ids: Sequence[str],
) -> Calibration | None:
    """The calibration by all that was said of the validation images, whose ``labels`` these are, with the ages as
    ``decode`` tells them; None where too few count."""
    index = np.flatnonzero((said_NS[:, 0] > 0) & labels["is_counted"])
    if len(index) < faces_needed(coverage):
        return None
    _, low_N, high_N, *ages = said_NS[index].T
    age_N = ages[validation.RULES.index(decode)]
    bands = bands_of(age_N, low_N, high_N, labels["age_low"][index].astype(np.float64), coverage)
    faces = faces_of(framing_of(spec))
    return Calibration(coverage, bands, len(index), ",".join(catalog_ids), "val", faces, tta=False, assumes=ASSUMES)


def told(config: TrainConfig, spec: ModelSpec, made: Calibration | None, num_counted: int) -> str:
    """What has become of the intervals, in a line; empty where none were asked for."""
    if made:
        return f"intervals: {100 * made.coverage:g} % of faces such as these {made.num_faces:,} of the validation split"
    has_ages = spec.task != "reconstruction" and (
        spec.task != "classification" or AgeGroups.parse(spec.age_groups).is_bounded
    )
    if not config.interval_coverage or not has_ages:
        return ""
    way = "jobs/calibrate.py makes them with other faces"
    if config.refit:
        return f"no intervals: it has learned from the validation images, too; {way}"
    needed = faces_needed(config.interval_coverage)
    if num_counted < needed:
        takes = f"--interval-coverage {config.interval_coverage:g} takes {needed:,} validation faces with an exact age"
        return f"no intervals: {takes} at least, better some hundreds, and there are {num_counted:,}; {way}"
    return f"no intervals: too few validation faces could be read, or the best epoch is an older agescale's; {way}"
