"""A checkpoint as a function: uint8 faces in, rows or columns of the predictions table out. Without Ray."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from agescale.ages import cdf
from agescale.ages.calibration import Calibration
from agescale.ages.cdf import PointEstimate
from agescale.ages.groups import AgeGroups
from agescale.config import Backend
from agescale.faces.finding import FaceFinder, Found
from agescale.faces.images import Face, ImageError, Pixels, Place, TinyFace
from agescale.faces.loading import Loaded
from agescale.models import backends, checkpoints, included, parity
from agescale.models.age_model import Outputs, autocast, build_spec_task
from agescale.models.framing import Which, framing_of
from agescale.models.spec import auxiliary_classes
from agescale.models.tasks import Prediction
from agescale.runtime.bottleneck import Meter
from agescale.store.errors import StoreError
from agescale.tables import schema

MAX_ERROR_CHARACTERS = 500
PLACE = ("face", "num_faces", "face_x", "face_y", "face_width", "face_height", "face_score")
"""Columns of where a face lies; filled where faces are looked for."""
MAX_UNREACHABLE = 64
"""Images in a row that the store did not deliver, each of them asked for over and over: the store is down."""


Waiting = tuple[dict[str, Any], Pixels]
"""The record of a face, which the model is to complete, and its pixels."""
Computed = tuple[list[dict[str, Any]], list[Outputs]]
"""The records of a batch, and what ``Predictor.compute`` says of it."""


class Predictor:
    """``predictor(images)`` with uint8 RGB images (N, S, S, 3), S = ``spec.image_size``, gives columns of N values.

    With ``tta`` every prediction is the average over the image and its mirror image. ``faces`` says what of a picture
    the model is shown: its square (none), the faces found in it (largest, all), or what it was trained on (auto).
    ``backend`` says what computes it (see ``backends``); auto is OpenVINO where that is installed and says the same.
    """

    def __init__(
        self,
        checkpoint_uri: str,
        device: str = "cpu",
        tta: bool = False,
        faces: Which = "auto",
        backend: Backend = "eager",
    ) -> None:
        self.tta = tta
        self.checkpoint = included.read(checkpoint_uri)
        self.spec = self.checkpoint.spec
        self.digest = self.checkpoint.digest
        self.device = torch.device(device)
        self.task = build_spec_task(self.spec)
        self.classes = auxiliary_classes(self.spec)
        self.age_groups = AgeGroups.parse(self.spec.age_groups)
        self.model = checkpoints.load_model(included.located(checkpoint_uri), self.checkpoint).to(self.device)
        self.framing = framing_of(self.spec, faces)
        self.finder = FaceFinder(self.framing, device, torch.get_num_threads())
        self.meter = Meter()
        """Of the thread that predicts tables; begun by whoever reads it."""
        self.forward: Callable[[Tensor], Outputs] = self._eager
        self.backend, self.why_eager = "eager", ""
        if backend == "openvino" or (backend == "auto" and self.device.type == "cpu" and backends.is_installed()):
            self._take_openvino(is_asked_for=backend == "openvino")

    def _eager(self, images_NHWC: Tensor) -> Outputs:
        outputs: Outputs = self.model(images_NHWC.permute(0, 3, 1, 2))
        return outputs

    def _take_openvino(self, is_asked_for: bool) -> None:
        """Computes by OpenVINO from now on, if it says the same; else ``why_eager`` is why not. Raises ValueError where
        it was asked for and cannot be."""
        if is_asked_for and not backends.is_installed():
            raise ValueError("--backend openvino: it is not installed; pip install 'agescale[cpu]'")
        if self.device.type != "cpu":
            raise ValueError("--backend openvino: it computes on CPUs; leave it out, or say --device cpu")
        images_NHWC = parity.probes(self.spec.image_size)
        expected, eager = self(images_NHWC), self.forward
        try:
            self.forward = backends.OpenVino(self.model)
            far = parity.apart(self(images_NHWC), expected)
            if not far <= parity.MAX_APART:
                raise ValueError(f"OpenVINO says otherwise on this CPU, by {far:.3g} years")
            self.backend = "openvino"
        except ValueError as error:
            if is_asked_for:
                raise
            self.forward, self.why_eager = eager, str(error)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of schema.PREDICTIONS that derive from an image alone and that this model fills."""
        filled = set(PLACE) if self.framing.geometry else set()
        filled |= {"status", "error", "group", "group_probability", "width", "height", "model", *self.classes}
        filled |= {f"{column}_probability" for column in self.classes}
        has_ages = self.age_groups.is_bounded or self.spec.task != "classification"
        filled |= {"age_cdf", "age", "age_std"} if has_ages else {"group_probabilities"}
        filled |= {"age_lower", "age_upper"} if self.spec.calibration else set()
        return tuple(name for name in schema.PREDICTIONS.names if name in filled)

    def __call__(self, images_NHWC: npt.NDArray[np.uint8]) -> dict[str, Any]:
        return self.columns_of(self.compute(images_NHWC))

    def compute(self, images_NHWC: npt.NDArray[np.uint8]) -> list[Outputs]:
        """What the model says of images, and of their mirror images with ``tta``. On a GPU they are copied and computed
        while the processor goes on: it waits in ``columns_of``."""
        side = self.spec.image_size
        if images_NHWC.shape[1:] != (side, side, 3) or images_NHWC.dtype != np.uint8:
            given = f"{images_NHWC.dtype} of the shape {images_NHWC.shape}"
            hint = "agescale.load(...).predict takes images of any size"
            raise ValueError(f"this model takes uint8 images (N, {side}, {side}, 3), not {given}; {hint}")
        images_NHWC = np.require(images_NHWC, requirements=["C", "W"])  # a copy of what is read-only, which torch minds
        pixels_NHWC = torch.from_numpy(images_NHWC)
        if self.device.type != "cpu":
            with self.meter.stage("transfer"):
                pixels_NHWC = pixels_NHWC.pin_memory().to(self.device, non_blocking=True)
        views = [pixels_NHWC, pixels_NHWC.flip(2)] if self.tta else [pixels_NHWC]
        with torch.inference_mode(), autocast(self.device):
            return [self.forward(view_NHWC) for view_NHWC in views]

    def columns_of(self, outputs: list[Outputs]) -> dict[str, Any]:
        """Columns of N values, of what ``compute`` says of N images."""
        with torch.inference_mode(), autocast(self.device):
            columns = prediction_columns(
                self.task.predict(_mean([each.task for each in outputs])),
                self.age_groups,
                self.spec.decode,
                self.spec.calibration,
            )
            for column, names in self.classes.items():
                probs_NK = _mean([each.auxiliary[column] for each in outputs]).softmax(dim=1)
                probability_N, index_N = probs_NK.cpu().max(dim=1)
                columns[column] = [names[index] for index in index_N]
                columns[f"{column}_probability"] = probability_N.numpy()
        return columns

    def predict_rows(self, rows: pa.Table, loaded: Iterable[Loaded], batch_size: int) -> pa.Table:
        """``predict_loaded`` for each of ``rows`` (columns uri, version) and its picture."""
        return self.predict_loaded(zip(_keys(rows), loaded, strict=True), batch_size)

    def predict_loaded(self, loaded: Iterable[tuple[tuple[str, str], Loaded]], batch_size: int) -> pa.Table:
        """Rows of schema.PREDICTIONS for each (uri, version) and its picture, in their order: one a face.

        Where there is no face, a row says why. ``loaded`` is drawn from as batches fill: whoever decodes may be ahead.
        Raises the StoreError that will be the same for the next image: refused credentials, a store that is down.
        """
        found = self.finder.find(self.meter.each("images", loaded))
        return self._predict_found(self.meter.each("decode", found), batch_size)

    def predict_found(self, rows: pa.Table, found: Iterable[Found], batch_size: int) -> pa.Table:
        """``predict_rows`` where the faces of each picture were found by others."""
        return self._predict_found(zip(_keys(rows), self.meter.each("images", found), strict=True), batch_size)

    def _predict_found(self, found_faces: Iterable[tuple[tuple[str, str], Found]], batch_size: int) -> pa.Table:
        num_unreachable = 0
        records: list[dict[str, Any]] = []
        waiting: list[Waiting] = []
        computed: Computed | None = None  # the batch before, which a GPU may still be at
        for (uri, version), found in found_faces:
            is_unreachable = isinstance(found, StoreError) and found.status == "unreachable"
            num_unreachable = num_unreachable + 1 if is_unreachable else 0
            if isinstance(found, StoreError) and (found.stops_the_job or num_unreachable == MAX_UNREACHABLE):
                raise found
            for face in found if isinstance(found, list) else [found]:
                record = {"uri": uri, "version": version, "model": self.digest, **self._said_of(face)}
                records.append(record)
                if isinstance(face, Face):
                    waiting.append((record, face.pixels))
                if len(waiting) == batch_size:
                    computed = self._compute(waiting, computed)
                    waiting = []
        if waiting:
            computed = self._compute(waiting, computed)
        self._fill(computed)
        scored_at = dt.datetime.now(dt.UTC)
        return pa.Table.from_pylist(
            [{**record, "scored_at": scored_at} for record in records], schema=schema.PREDICTIONS
        )

    def _said_of(self, face: Face | TinyFace | ImageError | StoreError) -> dict[str, Any]:
        """What is known of a face, or of a picture without one, before the model has seen it."""
        if isinstance(face, ImageError | StoreError):
            num_faces = 0 if face.status == "no_face" else None
            return {"face": 0, "status": face.status, "error": str(face)[:MAX_ERROR_CHARACTERS], "num_faces": num_faces}
        said = {"face": 0, "status": "ok", "width": face.width, "height": face.height, **placed(face.place)}
        if isinstance(face, TinyFace):
            least = self.framing.geometry.min_face_size if self.framing.geometry else 0
            said |= {"status": "too_small", "error": f"a face of fewer than {least} pixels"}
        return said

    def _compute(self, waiting: list[Waiting], before: Computed | None) -> Computed:
        """Begins with a batch, then ends the one ``before``."""
        with self.meter.stage("model"):
            outputs = self.compute(np.stack([pixels for _, pixels in waiting]))
        self._fill(before)
        return [record for record, _ in waiting], outputs

    def _fill(self, computed: Computed | None) -> None:
        """Writes what the model says of a batch into its records."""
        if computed is None:
            return
        records, outputs = computed
        with self.meter.stage("model"):
            columns = self.columns_of(outputs)
        for position, record in enumerate(records):
            record |= {name: values[position] for name, values in columns.items()}


def _keys(rows: pa.Table) -> Iterable[tuple[str, str]]:
    return zip(rows["uri"].to_pylist(), rows["version"].to_pylist(), strict=True)


def placed(place: Place | None) -> dict[str, Any]:
    """The columns of a place."""
    if place is None:
        return {}
    box = {"face_x": place.x, "face_y": place.y, "face_width": place.width, "face_height": place.height}
    return {"face": place.number, "num_faces": place.num_faces, "face_score": place.score, **box}


def _mean(outputs: list[Tensor]) -> Tensor:
    """Before they are decoded: the mean of two ages is an age between, that of two distributions has two peaks."""
    return torch.stack(outputs).float().mean(dim=0)


def prediction_columns(
    prediction: Prediction, age_groups: AgeGroups, decode: PointEstimate, calibration: Calibration | None = None
) -> dict[str, Any]:
    """The predictions table's columns of one batch, each derived from what is stored of it (see schema.PREDICTIONS)."""
    if prediction.age_probs_NA is not None:
        cdf_NA = cdf.quantize(prediction.age_probs_NA.cpu().numpy())
        columns = cdf.prediction_columns(cdf_NA, age_groups, decode, calibration)
        return {"age_cdf": list(cdf_NA.astype(np.int32)), **columns}
    assert prediction.group_probs_NG is not None
    probs_NG = prediction.group_probs_NG.cpu().numpy()
    best_N = probs_NG.argmax(axis=1)
    return {
        "group": [age_groups.names[index] for index in best_N],
        "group_probability": probs_NG.max(axis=1),
        "group_probabilities": probs_NG.tolist(),
    }
