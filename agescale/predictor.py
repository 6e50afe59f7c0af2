"""A checkpoint as a function: uint8 faces in, columns of the predictions table out. Without Ray."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agescale import age_cdf, checkpoints
from agescale.age_cdf import DecodeRule
from agescale.age_groups import AgeGroups
from agescale.age_model import auxiliary_classes, build_spec_task
from agescale.tasks import Prediction


class Predictor:
    """``predictor(images)`` with uint8 RGB images (N, S, S, 3), S = ``spec.image_size``, gives columns of N values.

    With ``mirror`` every prediction is the average over the image and its mirror image.
    """

    def __init__(self, checkpoint_uri: str, device: str = "cpu", mirror: bool = False) -> None:
        self.mirror = mirror
        self.checkpoint = checkpoints.read(checkpoint_uri)
        self.spec = self.checkpoint.spec
        self.digest = self.checkpoint.digest
        self.device = torch.device(device)
        self.task = build_spec_task(self.spec)
        self.classes = auxiliary_classes(self.spec)
        self.age_groups = AgeGroups.parse(self.spec.age_groups)
        self.model = checkpoints.load_model(checkpoint_uri, self.checkpoint).to(self.device)

    def __call__(self, images_NHWC: npt.NDArray[np.uint8]) -> dict[str, Any]:
        images_NCHW = torch.from_numpy(images_NHWC).to(self.device).permute(0, 3, 1, 2)
        views = [images_NCHW, images_NCHW.flip(3)] if self.mirror else [images_NCHW]
        with torch.inference_mode(), self._autocast():
            outputs = [self.model(view_NCHW) for view_NCHW in views]
            columns = prediction_columns(
                self.task.decode(_mean([each.task for each in outputs])), self.age_groups, self.spec.decode
            )
            for column, names in self.classes.items():
                probs_NK = _mean([each.auxiliary[column] for each in outputs]).softmax(dim=1)
                probability_N, index_N = probs_NK.cpu().max(dim=1)
                columns[column] = [names[index] for index in index_N]
                columns[f"{column}_probability"] = probability_N.numpy()
        return columns

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda")


def _mean(outputs: list[Tensor]) -> Tensor:
    """Before they are decoded: the mean of two ages is an age between, that of two distributions has two peaks."""
    return torch.stack(outputs).float().mean(dim=0)


def prediction_columns(prediction: Prediction, age_groups: AgeGroups, decode: DecodeRule) -> dict[str, Any]:
    """The predictions table's columns of one batch, each derived from what is stored of it (see schema.PREDICTIONS)."""
    if prediction.age_probs_NA is not None:
        cdf_NA = age_cdf.encode(prediction.age_probs_NA.cpu().numpy())
        columns = age_cdf.prediction_columns(cdf_NA, age_groups, decode)
        return {"age_cdf": [row.tobytes() for row in cdf_NA.astype("<u2")], **columns}
    assert prediction.group_probs_NG is not None
    probs_NG = prediction.group_probs_NG.cpu().numpy()
    best_N = probs_NG.argmax(axis=1)
    return {
        "group": [age_groups.names[index] for index in best_N],
        "group_probability": probs_NG.max(axis=1),
        "group_probabilities": probs_NG.tolist(),
    }
