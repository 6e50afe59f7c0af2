"""What decides what a model computes, its weights aside; read and told without torch, which takes seconds to load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agescale.ages.calibration import Calibration
from agescale.ages.cdf import PointEstimate
from agescale.faces.geometry import FaceGeometry

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelSpec:
    """Everything that decides what a model computes, its weights aside. Written into every checkpoint."""

    encoder: str
    task: str
    age_groups: str
    image_size: int  # pixels, square
    loss: str = ""  # the task's variant; "" is its first
    widths: tuple[int, ...] = ()  # these three are the encoder's; () and None are its own defaults
    num_features: int | None = None
    spatial_dropout: float | None = None
    head_sizes: tuple[int, ...] = ()
    dropout: float = 0.0
    genders: tuple[str, ...] = ()  # what the auxiliary heads tell apart; () is no such head
    ethnicities: tuple[str, ...] = ()
    center_crop: float = 1.0  # share of the shorter side that is kept
    faces: FaceGeometry | None = None  # how faces are found in photos; None: a photo is taken as one
    resize: str = "bilinear, antialiased, central square"
    color_order: str = "RGB"
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of pixels in 0..1
    std: tuple[float, float, float] = IMAGENET_STD
    decode: PointEstimate = "median"  # the age that is reported of the distribution
    calibration: Calibration | None = None  # of the age interval; None: it has none

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ModelSpec:
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        if known.get("faces"):
            known["faces"] = FaceGeometry.from_dict(values["faces"])
        if known.get("calibration"):
            known["calibration"] = Calibration.from_dict(values["calibration"])
        return ModelSpec(**known)


def predicts_age(task: str) -> bool:
    """Whether a task can say anything of a face's age."""
    return task != "reconstruction"


def learns_spread(task: str) -> bool:
    """Whether the spread of what a task decodes to, and hence the probability of a group, says how sure it is."""
    return predicts_age(task) and task != "regression"


def auxiliary_classes(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """The auxiliary heads: the column that each predicts, and the names of its classes."""
    classes = {"gender": spec.genders, "ethnicity": spec.ethnicities}
    return {column: names for column, names in classes.items() if names}
