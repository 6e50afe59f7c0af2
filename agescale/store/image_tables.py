"""Parquet files whose rows hold images, as Hugging Face writes them: what is in one, and the images of a row group.

The images are a column of bytes, or of ``{bytes, path}``; the other columns tell of them. A file without such a column
holds no image, and neither does a table of ours.
"""

from __future__ import annotations

import json
import posixpath
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agescale.store import parquet
from agescale.store.errors import Damaged

NAMES = ("image", "img", "photo", "picture", "face", "jpg", "png")
"""Of the column of images, where several could be it: the first of these that is there."""
MAX_GROUP_BYTES = 2**30
"""Of a row group, unpacked, whose images are read at once."""
BATCH_ROWS = 64
ENDINGS = {b"\xff\xd8": "jpg", b"\x89P": "png", b"RI": "webp", b"BM": "bmp", b"GI": "gif", b"II": "tif", b"MM": "tif"}
"""Of the names of images without one, by what they begin with."""


@dataclass(frozen=True)
class Row:
    """A row's image: its name, the CRC-32 and number of its bytes, and where it stands. ``record`` is what the other
    columns tell of it, ``problem`` why it is not taken."""

    name: str
    group: int
    place: int  # in the row group
    crc: int = 0
    size_bytes: int = 0
    record: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def image_column(schema: pa.Schema) -> str:
    """The path of the column of images as Parquet has it, such as ``image.bytes``; empty where there is none, or nobody
    can tell which it is."""
    found = {each.name: path for each in schema if (path := _image_path(each))}
    if b"agescale.schema_version" in (schema.metadata or {}):
        return ""
    named = [found[name] for name in NAMES if name in found]
    return next(iter(named or (found.values() if len(found) == 1 else ())), "")


def _image_path(column: pa.Field) -> str:
    if _is_binary(column.type):
        return str(column.name)
    is_struct = pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0
    return f"{column.name}.bytes" if is_struct and _is_binary(column.type.field("bytes").type) else ""


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def read_rows(uri: str, with_records: bool) -> Iterator[Row]:
    """The images of a file, in the order of its rows, a row group at a time. Raises Damaged."""
    with parquet.opened(uri) as file:
        table = pq.ParquetFile(file)
        schema, footer = table.schema_arrow, table.metadata
        path = image_column(schema)
        if not path:
            return
        told = [each.name for each in schema if not pa.types.is_nested(each.type) and not _is_binary(each.type)]
        column = path if path in schema.names else path.partition(".")[0]  # a dot may be part of its name
        columns = [column, *(told if with_records else [])]
        classes = _classes(schema)
        first = 0
        for group in range(table.num_row_groups):
            said = footer.row_group(group)  # not its columns: of a garbled one pyarrow ends the process
            if said.total_byte_size > MAX_GROUP_BYTES:
                why = f"its row group has more than {MAX_GROUP_BYTES:,} bytes; write smaller ones"
                yield Row(f"{first:07d}", group, 0, problem=why)
            else:
                rows = (row for batch in table.iter_batches(BATCH_ROWS, [group], columns) for row in batch.to_pylist())
                for place, row in enumerate(rows):
                    yield _described(row, columns[0], first + place, group, place, classes)
            first += said.num_rows


def _described(
    row: dict[str, Any], column: str, number: int, group: int, place: int, classes: dict[str, list[str]]
) -> Row:
    image = row.pop(column)
    data, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
    if data is None:
        return Row(f"{number:07d}", group, place, problem="a row without the bytes of an image")
    file = posixpath.basename((path or "").replace("\\", "/"))
    name = f"{number:07d}/{file}" if file else f"{number:07d}.{ENDINGS.get(data[:2], 'jpg')}"
    record = {key: _text(value, classes.get(key, [])) for key, value in row.items() if value is not None}
    return Row(name, group, place, zlib.crc32(data), len(data), record)


def _text(value: Any, classes: list[str]) -> str:
    """A cell as a CSV would have it; a number that counts classes by the name of its class."""
    return classes[value] if isinstance(value, int) and 0 <= value < len(classes) else str(value)


def _classes(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the classes that columns of numbers stand for, as Hugging Face keeps them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: list(each["names"]) for name, each in features.items() if each.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def read_group(uri: str, group: int, column: str) -> list[bytes | None]:
    """The images of a row group; none where there is no such group or column any more. Raises StoreError."""
    try:
        images = parquet.read_row_groups(uri, [group], [column]).column(0)
    except (Damaged, IndexError):
        return []
    if pa.types.is_struct(images.type):
        images = pa.chunked_array([chunk.field("bytes") for chunk in images.chunks], images.type.field("bytes").type)
    return list(images.to_pylist())
