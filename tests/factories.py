"""Tables and archives made by hand, for what is to be tested without a listing and without a model; copied folders."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agescale.store import listing, objects, parquet, paths
from agescale.tables import catalogs, schema, units

Row = dict[str, Any]
PART = "part-00001-000000.parquet"
MODEL = "beef"
ROWS_PER_UNIT = 1000


def copy_folder(folder: str, to: str) -> None:
    """Of a disk or a store, to a disk or a store; a store that is late is asked again, as jobs ask it."""
    for item in listing.list_files(folder):
        objects.write_bytes(paths.join(to, item.relative), objects.read_bytes(item.uri))


def write_catalog(
    uri: str,
    parts: Mapping[str, list[Row]],
    findings: Iterable[Row] = (),
    settings: Mapping[str, Any] | None = None,
    identity: str = "1",
) -> str:
    """A complete catalog of these rows, by the name of their part; a listing after the first one replaces rows."""
    for name, rows in parts.items():
        facts = {"id": identity, "settings": dict(settings or {}), "replaces": not name.startswith("part-00001")}
        table = pa.Table.from_pylist(rows, schema.with_metadata("catalog", facts))
        parquet.write_table(f"{uri}/{name}", table, row_group_size=256)
    covered = schema.with_metadata("findings", {"id": identity, "parts": list(parts)})
    parquet.write_table(catalogs.findings_uri(uri), pa.Table.from_pylist(list(findings), covered))
    return uri


def write_predictions(
    uri: str, rows: list[Row], age_groups: str | None, number: int = 0, model: str = MODEL, **facts: Any
) -> str:
    """One more file of predictions, by a model that was made for ``age_groups``."""
    metadata = {"run": {"model": model, "age_groups": age_groups}, "model_card": {}} | facts
    unit = units.Unit(PART, ROWS_PER_UNIT * number, ROWS_PER_UNIT * (number + 1))
    table = pa.Table.from_pylist(rows, schema.with_metadata("predictions", metadata))
    parquet.write_table(f"{uri}/{unit.file_name(model)}", table)
    return uri


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """A tar of these members, in their order."""
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_rows(path: Path, members: Mapping[str, bytes], group_rows: int = 10, **columns: list[Any]) -> Path:
    """A Parquet file of these images, as Hugging Face writes them, and of other columns."""
    images = [{"bytes": data, "path": name} for name, data in members.items()]
    pq.write_table(pa.table({"image": images, **columns}), path, row_group_size=group_rows)
    return path
