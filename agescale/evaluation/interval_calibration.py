"""From the two tables to a model's calibration: whose faces count, and what of them is worth a line.

In: a catalog, and predictions of it. Out: a ``Calibration``. A face counts where it is not excluded (findings), is in
one of the splits, has an exact age, and was scored; of several photos of a person one counts, so that the faces are
drawn independently. Never runs a model and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agescale.ages.calibration import Calibration, bands_of, faces_needed
from agescale.evaluation import arrays
from agescale.evaluation.arrays import CatalogArrays
from agescale.tables import schema
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions


@dataclass(frozen=True)
class Labelled:
    """The faces of some splits of a catalog that have an exact age."""

    catalog: Catalog
    splits: Sequence[str]
    listed: CatalogArrays
    is_labelled_N: np.ndarray

    def persons(self, mask_N: np.ndarray) -> np.ndarray:
        """Index (P,) of one face of each person among those of the mask; which one hangs on nothing but its key."""
        index = np.flatnonzero(mask_N)
        index = index[np.argsort(self.listed.hash_N[index])]
        return index[np.unique(self.listed.cluster_N[index], return_index=True)[1]]


def labelled_faces(catalog: Catalog, splits: Sequence[str], coverage: float) -> Labelled:
    """Raises ValueError where there are too few, whatever is predicted of them."""
    listed = arrays.read_catalog(catalog, None, catalog.excluded())
    is_in_N = np.isin(listed.split_N, [schema.SPLITS.index(name) for name in splits])
    faces = Labelled(catalog, splits, listed, is_in_N & ~listed.is_excluded_N & ~np.isnan(listed.true_age_N))
    _check_enough(faces, len(faces.persons(faces.is_labelled_N)), coverage, "an exact age")
    return faces


def calibration_of(faces: Labelled, predictions: Predictions, coverage: float) -> tuple[Calibration, list[str]]:
    """The calibration, and notes. Raises ValueError where too few of the faces have a prediction."""
    listed = faces.listed
    said = arrays.read_predictions(predictions, listed, [], share=coverage)
    is_known_N = faces.is_labelled_N & said.is_ok_N & ~np.isnan(said.age_N)
    index = faces.persons(is_known_N)
    _check_enough(faces, len(index), coverage, "an exact age and a prediction")
    ends = (said.age_lower_N[index], said.age_upper_N[index])
    bands = bands_of(said.age_N[index], *ends, listed.true_age_N[index], coverage)
    num_photos, num_labelled = int(is_known_N.sum()), int(faces.is_labelled_N.sum())
    notes = []
    if num_photos > len(index):
        notes.append(f"{num_photos:,} photos are of {len(index):,} persons: one photo of each counts")
    if num_labelled > num_photos:
        notes.append(f"{num_labelled - num_photos:,} photos with an exact age have no prediction, and do not count")
    run = predictions.run
    told = (faces.catalog.id, ",".join(sorted(faces.splits)), run.get("faces", "none"), run.get("tta", False))
    return Calibration(coverage, bands, len(index), *told), notes


def _check_enough(faces: Labelled, num: int, coverage: float, what: str) -> None:
    if num < (needed := faces_needed(coverage)):
        where = f"{faces.catalog.uri} ({', '.join(faces.splits)})"
        raise ValueError(
            f"intervals that cover {100 * coverage:g}% take {needed:,} faces at least, better some hundreds, and "
            f"{where} has {num:,} with {what}"
        )
