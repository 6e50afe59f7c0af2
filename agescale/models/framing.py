"""What of a picture a model is shown: its square, or the faces in it. Told without torch, as ``spec`` is."""

from __future__ import annotations

from typing import Literal

from agescale.faces.geometry import FaceGeometry
from agescale.faces.loading import Framing
from agescale.models.spec import ModelSpec

Which = Literal["auto", "none", "largest", "all"]


def framing_of(spec: ModelSpec, faces: Which = "auto") -> Framing:
    """What of a picture a model is shown. Faces for one that was trained on squares are cut as UTKFace's chips are."""
    if faces == "none" or (faces == "auto" and spec.faces is None):
        return Framing(spec.image_size, spec.center_crop)
    geometry = spec.faces or FaceGeometry(size=spec.image_size)
    if faces == "all":
        geometry = geometry.for_all_faces()
    return Framing(spec.image_size, geometry=geometry, only_largest=faces != "all")


def faces_of(framing: Framing) -> str:
    """The word of ``framing_of`` for it, which is not auto."""
    return "none" if framing.geometry is None else "largest" if framing.only_largest else "all"
