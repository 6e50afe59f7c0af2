"""What a network makes of faces before it says an age: uint8 faces in, features out. Trains nothing, knows no Ray."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agescale.faces.loading import Framing
from agescale.models import checkpoints, included
from agescale.models.age_model import AgeModel, autocast, below, dense_of
from agescale.models.checkpoints import Checkpoint
from agescale.models.framing import Which, framing_of
from agescale.store import objects

BATCH = 64
"""Of one size, so that the same images always have the same features."""
DIGEST_CHARACTERS = 12


def make(model: AgeModel, images_NCHW: Tensor, device: str) -> Tensor:
    """What the ``Top`` of a model takes, float32 (N, ...) on the CPU, of uint8 images."""
    with torch.inference_mode(), autocast(torch.device(device)):
        batches = [below(model, batch.to(device)).float().cpu() for batch in images_NCHW.split(BATCH)]
    return torch.cat(batches)


@dataclass(frozen=True)
class FeatureSource:
    """A checkpoint, by default the included one, as a source of features: what its encoder says of the largest face of
    a photo, dense layers and all. ``faces``: how a catalog's faces are found; none: of the photo's square."""

    faces: Which
    checkpoint: str = ""

    @cached_property
    def known(self) -> Checkpoint:
        return checkpoints.read(included.located(self.checkpoint))

    @property
    def framing(self) -> Framing:
        return replace(framing_of(self.known.spec, self.faces), only_largest=True)

    @property
    def digest(self) -> str:
        """Of all that decides the features of a photo."""
        told = {"model": self.known.digest, "shown": asdict(self.framing)}
        return objects.sha256(json.dumps(told, sort_keys=True).encode())[:DIGEST_CHARACTERS]

    def of(self, images_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
        """Features (N, F) of faces as ``framing`` says."""
        model = _model(self.checkpoint, self.known.digest)
        with torch.inference_mode():
            features_NF = dense_of(model)(make(model, torch.from_numpy(images_NHWC).permute(0, 3, 1, 2), "cpu"))
        features: npt.NDArray[np.float16] = features_NF.flatten(1).numpy().astype(np.float16)
        return features


@lru_cache(maxsize=1)
def _model(checkpoint: str, digest: str) -> AgeModel:
    """One a process. Raises ValueError where the checkpoint on this machine is another one than where the job began."""
    known = checkpoints.read(included.located(checkpoint))
    if known.digest != digest:
        where = included.located(checkpoint)
        raise ValueError(f"{where}: another model than where the job was started; install the same agescale everywhere")
    return checkpoints.load_model(included.located(checkpoint), known)
