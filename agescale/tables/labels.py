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

from agescale.faces.geometry import Box
from agescale.tables import schema

BOX = pa.field("box", pa.list_(pa.float64()))
"""Of a label: x1, y1, x2, y2, shares of the upright photo's width and height, whatever size it is seen in; null where
it is of the photo as a whole."""


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
    column = pa.array([None if np.isnan(each[0]) else each for each in corners_N4], BOX.type)
    return rows.set_column(place, BOX, column)


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
