"""The labels of a catalog's photos, a row each: a photo whose faces are labelled by boxes becomes a row for each.

Rows of a catalog in, with their ``boxes``; rows of labels out, with the ``box`` that each is of. Whoever reads labels
reads these; whoever reads photos, knows nothing of it. Reads no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.faces.geometry import Box, matched_rows
from agescale.tables import schema

BOX = pa.field("box", pa.list_(pa.float64()))
"""Of a label: x1, y1, x2, y2, shares of the upright photo's width and height, whatever size it is seen in; null where
it is of the photo as a whole."""
BOX_COLUMNS = ("boxes", "width", "height")
"""Of a catalog: what ``per_label`` takes."""
FACE_COLUMNS = ("face_x", "face_y", "face_width", "face_height", "width", "height")
"""Of predictions: where a face is, pixels, and how large its photo."""


def per_label(rows: pa.Table) -> pa.Table:
    """``rows`` of a catalog (columns boxes, width, height) with ``box`` in place of ``boxes``, in their order: one for
    each box of a photo, in that of its boxes, and one for each photo without any. Columns that a box tells are the
    box's."""
    place = rows.schema.get_field_index("boxes")
    boxes = rows["boxes"].combine_chunks()
    if not len(boxes.flatten()):
        return rows.set_column(place, BOX, pa.nulls(len(rows), BOX.type))
    num_N = pc.fill_null(pc.list_value_length(boxes), 0).to_numpy(zero_copy_only=False)
    index = np.repeat(np.arange(len(rows)), np.maximum(num_N, 1))
    is_boxed = num_N[index] > 0
    of_box = np.full(len(index), -1)
    of_box[is_boxed] = np.arange(is_boxed.sum())
    told = boxes.flatten().take(pa.array(of_box, mask=~is_boxed))
    rows = rows.take(pa.array(index))
    for name in set(schema.BOX_LABEL) & set(rows.column_names):
        column = pc.if_else(pa.array(is_boxed), pc.struct_field(told, name), rows[name].combine_chunks())
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), column)
    corners_N4 = shares(*(pc.struct_field(told, name) for name in schema.SIDES), rows["width"], rows["height"])
    is_box_N = ~np.isnan(corners_N4[:, 0])
    ends_N = np.append(0, 4 * np.cumsum(is_box_N))
    values, mask = corners_N4[is_box_N].ravel(), pa.array(~is_box_N)
    column = pa.ListArray.from_arrays(pa.array(ends_N, pa.int32()), pa.array(values), BOX.type, mask=mask)
    return rows.set_column(place, BOX, column)


def corners_of(column: pa.ChunkedArray) -> np.ndarray:
    """x1, y1, x2, y2 (N, 4) of a column ``box``, NaN for null."""
    corners_N4 = np.full((len(column), 4), np.nan)
    corners_N4[column.is_valid().to_numpy()] = column.combine_chunks().flatten().to_numpy().reshape(-1, 4)
    return corners_N4


def predicted_rows(box_L4: np.ndarray, start_L: np.ndarray, stop_L: np.ndarray, rows: pa.Table) -> np.ndarray:
    """Which of the rows of predictions (FACE_COLUMNS) tells of each of L labels, whose photo's are ``start`` to
    ``stop``: that of the face in its box, -1 where no face is there; and the first, where label or photo has no box."""
    face_P4 = shares(*(rows[name] for name in FACE_COLUMNS))
    row_L = np.array(start_L)
    is_boxed_L = ~np.isnan(box_L4[:, 0]) & ~np.isnan(face_P4[start_L, 0])
    row_L[is_boxed_L] = matched_rows(box_L4[is_boxed_L], start_L[is_boxed_L], stop_L[is_boxed_L], face_P4)
    return row_L


def told_of_rows(rows: pa.Table, photos: pa.Table, place_N: np.ndarray) -> pa.Table:
    """What ``photos`` of a catalog tell (BOX_LABEL) of each of N rows of predictions, which say something of the photo
    at ``place``, those of one photo together: of a photo with labels by box that of the box in which the row's face is,
    null where it is in none; of others what is told of the photo."""
    labels = per_label(photos.append_column("photo", pa.array(np.arange(len(photos)))))
    photo_L, is_boxed_L = labels["photo"].to_numpy(), labels["box"].is_valid().to_numpy()
    starts = np.flatnonzero(np.diff(place_N, prepend=-1))
    start_P, stop_P = np.zeros((2, len(photos)), np.int64)
    start_P[place_N[starts]], stop_P[place_N[starts]] = starts, np.append(starts, len(rows))[1:]
    label_P, label_N = np.full(len(photos), -1), np.full(len(rows), -1)
    label_P[photo_L[~is_boxed_L]] = np.flatnonzero(~is_boxed_L)
    boxed_L = np.flatnonzero(is_boxed_L & (stop_P[photo_L] > 0))
    of_photo = photo_L[boxed_L]
    row_L = predicted_rows(corners_of(labels["box"].take(boxed_L)), start_P[of_photo], stop_P[of_photo], rows)
    has_face_N = rows["face_x"].is_valid().to_numpy()
    is_told_L = (row_L >= 0) & has_face_N[row_L]
    label_N[row_L[is_told_L]] = boxed_L[is_told_L]
    label_N = np.where(label_P[place_N] >= 0, label_P[place_N], label_N)
    return labels.select(schema.BOX_LABEL).take(pa.array(label_N, mask=label_N < 0))


def shares(*columns: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """x1, y1, x2, y2 (N, 4) as shares of a photo's sides: of boxes' x, y, width, height and photos' width and height,
    a column of pixels each. nan where one is null."""
    x, y, width, height, across, down = (
        pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False) for column in columns
    )
    return np.stack([x / across, y / down, (x + width) / across, (y + height) / down], axis=1)


def boxes_of(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a photo's row tells of its faces by boxes; nothing where it has one label, or none."""
    return row.get("boxes") or []


def corners(box: Mapping[str, Any]) -> Box:
    """x1, y1, x2, y2 of one of the ``boxes`` of a row, in pixels."""
    return box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]
