"""A checkpoint as one graph of tensor operations: what is written for other programs, and what other engines compile.

``Logits`` is the network alone, ``Whole`` what it says in the end as well, and ``trace`` makes a graph of either, for
batches of any size. Uint8 pixels go in, as ``faces`` gives them: normalisation is inside. Legend of shapes: N images,
S pixels squared, A = 101 ages, G age groups, K classes.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from agescale.ages.calibration import Calibration
from agescale.ages.cdf import INTERVAL_SHARE, NUM_AGES, SCALE, PointEstimate
from agescale.ages.groups import MAX_AGE, AgeGroups
from agescale.models.age_model import AgeModel, Outputs, build_spec_task
from agescale.models.spec import auxiliary_classes, learns_spread

IMAGES = "images"
"""Name of the input."""


@dataclass(frozen=True)
class Output:
    """One of what ``Whole`` gives: its name, its shape as the legend has it, and what it is."""

    name: str
    shape: str
    meaning: str


class Logits(nn.Module):
    """Images (N, S, S, 3), uint8, to what the task's head says and then each auxiliary head, a tuple."""

    def __init__(self, model: AgeModel) -> None:
        super().__init__()
        self.model = model
        self.columns = tuple(auxiliary_classes(model.spec))

    def forward(self, images_NHWC: Tensor) -> tuple[Tensor, ...]:
        outputs: Outputs = self.model(images_NHWC.permute(0, 3, 1, 2))
        return (outputs.task, *(outputs.auxiliary[column] for column in self.columns))


class Whole(nn.Module):
    """Images (N, S, S, 3), uint8, to the ``outputs``, a tuple: what ``Predictor`` says, in float32 and integers alone,
    which every runtime has. From the stored distribution on it is ``ages.cdf`` once more, number for number."""

    def __init__(self, model: AgeModel) -> None:
        super().__init__()
        spec = model.spec
        self.logits = Logits(model)
        self.task = build_spec_task(spec)
        self.age_groups = AgeGroups.parse(spec.age_groups)
        self.decode: PointEstimate = spec.decode
        self.calibration = spec.calibration
        self.has_ages = self.age_groups.is_bounded or spec.task != "classification"
        self.share = spec.calibration.coverage if spec.calibration else INTERVAL_SHARE
        self.has_interval = self.has_ages and (spec.calibration is not None or learns_spread(spec.task))
        self.outputs = tuple(self._outputs())

    def _outputs(self) -> Iterator[Output]:
        if self.has_ages:
            yield Output("age_cdf", "N,101", "int32: 65535 * P(age < k years), k = 0..100, as tables store it")
            yield Output("age", "N", f"float32: years, the {self.decode} of the distribution; a label 34 is 34.0")
        if self.has_interval:
            kind = "calibrated" if self.calibration else "the model's own doubt"
            meaning = f"float32: years between which the age is, with a probability of {self.share:g} ({kind})"
            yield Output("age_interval", "N,2", meaning)
        if self.age_groups.is_bounded or not self.has_ages:
            names = ", ".join(self.age_groups.names)
            yield Output("group_probabilities", f"N,{len(self.age_groups)}", f"float32: of {names}")
        for column, classes in auxiliary_classes(self.logits.model.spec).items():
            yield Output(f"{column}_probabilities", f"N,{len(classes)}", f"float32: of {', '.join(classes)}")

    def forward(self, images_NHWC: Tensor) -> tuple[Tensor, ...]:
        task_logits, *auxiliary = self.logits(images_NHWC)
        prediction = self.task.predict(task_logits)
        said = []
        if prediction.age_probs_NA is None:
            said.append(prediction.group_probs_NG)
        else:
            cdf_NA = stored(prediction.age_probs_NA)
            age_N = point_estimate(cdf_NA, self.decode)
            said += [cdf_NA.int(), age_N]
            if self.has_interval:
                ends = quantile_age(cdf_NA, (1 - self.share) / 2), quantile_age(cdf_NA, (1 + self.share) / 2)
                if self.calibration:
                    ends = calibrated(self.calibration, age_N, *ends)
                said.append(torch.stack(ends, dim=1))
            if self.age_groups.is_bounded:
                said.append(group_probabilities(cdf_NA, self.age_groups))
        return (*said, *(logits_NK.softmax(dim=1) for logits_NK in auxiliary))


def trace(module: Logits | Whole, image_size: int) -> ExportedProgram:
    """The graph of a module, which is in evaluation mode and on the CPU, for batches of any size.

    Raises ValueError, in one line, for a network that torch cannot follow.
    """
    images_NHWC = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)  # of one image the size would be fixed
    apart = copy.deepcopy(module).eval()  # tracing leaves tensors without values in what some networks keep for later
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of such tensors, too
            return torch.export.export(apart, (images_NHWC,), dynamic_shapes=({0: Dim.DYNAMIC},))
    except Exception as error:  # each of the layers of torch.export raises its own
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"torch cannot make one graph of this network ({type(error).__name__}: {reason})") from error


def stored(age_probs_NA: Tensor) -> Tensor:
    """``cdf.quantize``: integers in float32, which holds them exactly."""
    below_NA = F.pad((age_probs_NA / age_probs_NA.sum(dim=1, keepdim=True))[:, :-1].cumsum(dim=1), (1, 0))
    return (below_NA.clamp(max=1.0) * SCALE).round()


def quantile_age(cdf_NA: Tensor, q: float) -> Tensor:
    """``cdf.quantile_age``."""
    bin_N1 = (cdf_NA < q * SCALE).sum(dim=1, keepdim=True) - 1
    below_N1, end_N1 = cdf_NA.gather(1, bin_N1), _ends(cdf_NA).gather(1, bin_N1)
    age_N1 = bin_N1 + (q * SCALE - below_N1) / (end_N1 - below_N1) - 0.5
    return age_N1[:, 0].clamp(min=0.0)


def point_estimate(cdf_NA: Tensor, rule: PointEstimate) -> Tensor:
    """``cdf.point_estimate``."""
    if rule == "median":
        return quantile_age(cdf_NA, 0.5)
    mass_NA = _ends(cdf_NA) - cdf_NA
    if rule == "mode":
        return mass_NA.argmax(dim=1).float()
    return (mass_NA * torch.arange(NUM_AGES, dtype=torch.float32)).sum(dim=1) / SCALE


def calibrated(known: Calibration, age_N: Tensor, low_N: Tensor, high_N: Tensor) -> tuple[Tensor, Tensor]:
    """``Calibration.intervals``."""
    ends = torch.tensor([float(MAX_AGE + 1 if band.high is None else band.high) for band in known.bands])
    offset_N = torch.tensor([band.offset for band in known.bands])[(age_N[:, None] >= ends[:-1]).sum(dim=1)]
    lower_N = torch.minimum(low_N - offset_N, age_N).clamp(0, MAX_AGE)
    upper_N = torch.maximum(high_N + offset_N, age_N).clamp(0, MAX_AGE)
    return torch.where(low_N <= 0, 0.0, lower_N), torch.where(high_N >= MAX_AGE, float(MAX_AGE), upper_N)


def group_probabilities(cdf_NA: Tensor, groups: AgeGroups) -> Tensor:
    """``cdf.group_probabilities``."""
    bounds = groups.bounds()
    low_G = torch.tensor([low for low, _ in bounds])
    high_G = torch.tensor([MAX_AGE + 1 if math.isinf(high) else int(high) for _, high in bounds])
    below_NA = F.pad(cdf_NA, (0, 1), value=float(SCALE))  # the column 101 stands for infinity
    return (below_NA[:, high_G] - below_NA[:, low_G]) / SCALE


def _ends(cdf_NA: Tensor) -> Tensor:
    """What is stored of the end of each bin, the last of which ends at infinity."""
    return F.pad(cdf_NA[:, 1:], (0, 1), value=float(SCALE))
