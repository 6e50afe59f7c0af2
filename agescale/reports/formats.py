"""Tables for other people's programs: rows in, the text of CSV or JSON, or the bytes of a file out. Writes nothing."""

from __future__ import annotations

import io
import json
from pathlib import PurePosixPath
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

Format = Literal["csv", "json", "parquet"]

FORMATS: dict[str, Format] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
"""What the ending of a file's name says."""

FORMULA = r"^[=+\-@\t\r\n]"
"""How a text begins that spreadsheets take for a formula, which may call programs and web pages."""

BYTE_ORDER_MARK = "\ufeff"
"""Without it Excel reads a CSV in the encoding of its country, and names in another script as nonsense."""


def format_of(out: str) -> Format:
    """What to write to ``out``, by the ending of its name. Raises ValueError where that tells nothing."""
    form = FORMATS.get(PurePosixPath(out).suffix.lower())
    if form is None:
        raise ValueError(f"--out {out}: its ending tells no format; use {', '.join(FORMATS)}, or say --format")
    return form


def harmless(table: pa.Table) -> pa.Table:
    """``table`` with an apostrophe before each text that a spreadsheet would take for a formula. Numbers stay.

    >>> harmless(pa.table({"uri": ["=1+1.jpg", "a=1.jpg", None], "age": [-1, 2, 3]})).to_pydict()
    {'uri': ["'=1+1.jpg", 'a=1.jpg', None], 'age': [-1, 2, 3]}
    """
    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            column = table.column(index)
            quoted = pc.binary_join_element_wise(pa.scalar("'", field.type), column, pa.scalar("", field.type))
            is_formula = pc.match_substring_regex(column, FORMULA)
            table = table.set_column(index, field, pc.if_else(is_formula, quoted, column))
    return table


def to_csv(table: pa.Table) -> str:
    """A header and a line a row; texts in quotation marks, nulls empty. Columns are texts, numbers or times."""
    buffer = io.BytesIO()
    pacsv.write_csv(harmless(table), buffer)
    return buffer.getvalue().decode()


def to_json(table: pa.Table, is_ascii: bool = False) -> str:
    r"""One array of objects, a line a row.

    >>> print(to_json(pa.table({"uri": ["Jürgen.jpg"], "age": [30.5]})), end="")
    [
    {"uri": "Jürgen.jpg", "age": 30.5}
    ]
    """
    rows = [json.dumps(row, ensure_ascii=is_ascii, allow_nan=False) for row in table.to_pylist()]
    return "[\n" + ",\n".join(rows) + "\n]\n"


def to_bytes(table: pa.Table, form: Format) -> bytes:
    """The whole file."""
    if form == "csv":
        return (BYTE_ORDER_MARK + to_csv(table)).encode()
    if form == "json":
        return to_json(table).encode()
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
