"""The faces that a report shows: the worst, the most confidently wrong, and a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from agescale.evaluation import metrics
from agescale.evaluation.joined import JoinedRows, is_wrong, who_is_judged
from agescale.faces import images
from agescale.faces.geometry import FaceGeometry
from agescale.faces.loading import Framing, Loaded
from agescale.tables import thumbnails
from agescale.tables.catalogs import Catalog

NUM_SHOWN = 12
FACE_PIXELS = 112
MAX_NAME = 80


@dataclass(frozen=True)
class ShownFace:
    """A face of the report. ``picture`` is a data URI, or None where the face cannot be read any more."""

    name: str  # of its file below the source, with the folders
    picture: str | None
    true_age: float | None
    age: float | None
    age_std: float | None
    true_group: str | None
    group: str | None
    group_probability: float | None


@dataclass(frozen=True)
class Gallery:
    """Faces of one split to be shown; ``kind`` is one of ``report.GALLERIES``."""

    kind: str
    split: str
    faces: Sequence[ShownFace]


def galleries(
    catalog: Catalog,
    rows: JoinedRows,
    central: str,
    names: list[str],
    center_crop: float,
    has_pictures: bool = True,
) -> list[Gallery]:
    """The worst faces of every split, that of the report first, and more of that one, as they look to the model; else
    without pixels, and with hidden names."""
    splits = sorted((name or "unsplit" for name in rows.splits), key=lambda name: (name != central, name))
    chosen = [(kind, split, index) for split in splits for kind, index in _chosen(rows, split, names, split == central)]
    wanted = sorted({index for _, _, of_kind in chosen for index in of_kind})
    places = rows.listed.places(np.array(wanted))
    use_packed = catalog.pack > 0
    pictures: Sequence[str | None] = [None] * len(wanted)
    if not has_pictures:
        uris = [catalog.hidden_name(uri) for uri in places["uri"].to_pylist()]
        places = places.set_column(places.schema.get_field_index("uri"), "uri", pa.array(uris, pa.string()))
    elif rows.listed.box_N4 is None:
        pictures = thumbnails.data_uris(catalog.uri, places, Framing(FACE_PIXELS, center_crop), use_packed)
    else:
        framing = Framing(FACE_PIXELS, geometry=FaceGeometry())
        boxes = rows.listed.box_N4[wanted]
        pictures = thumbnails.data_uris(
            catalog.uri, places, framing, use_packed, lambda photo, each: _cut_out(photo, boxes[each])
        )
    shown = dict(zip(wanted, zip(places["uri"].to_pylist(), pictures, strict=True), strict=True))
    source = f"{catalog.source}/"
    return [
        Gallery(kind, split, [_shown_face(rows, index, names, source, *shown[index]) for index in of_kind])
        for kind, split, of_kind in chosen
    ]


def _chosen(rows: JoinedRows, split: str, names: list[str], is_central: bool) -> list[tuple[str, list[int]]]:
    """Positions of the faces of each kind to show of a split; "wrong" stands in for "worst" where there are no ages."""
    judged_N, _ = who_is_judged(rows, rows.is_in(None if split == "unsplit" else split))
    index_J, outcomes = np.flatnonzero(judged_N), rows.outcomes.where(judged_N)
    size_J = np.nan_to_num(np.abs(outcomes.error_N), nan=-1)
    is_wrong_J, confidence_J = is_wrong(rows)[index_J], rows.probability_N[index_J]
    if not names:
        is_wrong_J, confidence_J = size_J > metrics.CS_YEARS, -rows.age_std_N[index_J]
    confidence_J = np.where(is_wrong_J & ~np.isnan(confidence_J), confidence_J, -np.inf)
    worst = [j for j in np.argsort(-size_J, kind="stable")[:NUM_SHOWN] if size_J[j] > 0]
    confident = [j for j in np.argsort(-confidence_J, kind="stable")[:NUM_SHOWN] if confidence_J[j] > -np.inf]
    chosen = {"worst": worst} if (size_J >= 0).any() else {"wrong": confident}
    if is_central:
        chosen |= {"confident": confident} if "worst" in chosen else {}
        chosen |= {"sample": list(np.random.default_rng(0).permutation(len(index_J))[:NUM_SHOWN])}
    return [(kind, [int(index_J[j]) for j in of_kind]) for kind, of_kind in chosen.items()]


def _cut_out(loaded: Loaded, box_4: np.ndarray) -> images.Pixels | None:
    """The box of a label, and a square around it."""
    if not isinstance(loaded, images.Photo) or np.isnan(box_4).any():
        return None
    height, width = loaded.pixels.shape[:2]
    x1, y1, x2, y2 = box_4 * (width, height, width, height)
    half = 0.6 * max(x2 - x1, y2 - y1)
    left, top = (max(0, round((low + high) / 2 - half)) for low, high in ((x1, x2), (y1, y2)))
    cut = loaded.pixels[top : round(top + 2 * half), left : round(left + 2 * half)]
    return images.resize(images.central_square(cut), FACE_PIXELS, FACE_PIXELS) if cut.size else None


def _shown_face(
    rows: JoinedRows, index: int, names: list[str], source: str, uri: str, picture: str | None
) -> ShownFace:
    outcomes = rows.outcomes
    true_group, predicted_group = outcomes.true_group_N[index], outcomes.predicted_group_N[index]
    face = ShownFace(
        name=uri.removeprefix(source),
        picture=picture,
        true_age=_known(outcomes.true_age_N[index]),
        age=_known(outcomes.predicted_age_N[index]),
        age_std=_known(rows.age_std_N[index]),
        true_group=names[true_group] if true_group >= 0 else None,
        group=names[predicted_group] if predicted_group >= 0 else None,
        group_probability=_known(rows.probability_N[index]),
    )
    return replace(face, name=face.name if len(face.name) <= MAX_NAME else f"…{face.name[1 - MAX_NAME :]}")


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
