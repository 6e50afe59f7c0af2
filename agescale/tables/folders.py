"""A table is a folder in which nothing lies but its Parquet files, so that everybody's reader takes it by its name.

    <table>/             parts, each of which appears whole or not at all
    <table>.agescale/    what agescale keeps beside it: the lock or lease, files that are being written, a catalog's
                         findings, faces, features and charts, the summary of predictions

In: folders; out: names of parts and what their metadata say. Every part tells its kind and what it belongs to, so the
folder beside may be lost without harm. Knows no rows (``catalogs`` and ``predictions`` do).
"""

from __future__ import annotations

import os
import re
from typing import Any

import pyarrow as pa

from agescale.store import objects, parquet, paths
from agescale.store.errors import Damaged
from agescale.store.outputs import Output
from agescale.tables import schema

SUFFIX = ".agescale"

PARTS = {
    "catalog": re.compile(r"part-\d{5,}-\d{6,}\.parquet"),
    "faces": re.compile(r"faces-\d{5,}-\d{6,}\.parquet"),
    "features": re.compile(r"features-\d{5,}-\d{6,}\.parquet"),
    "predictions": re.compile(r"part-\d{5,}-\d{6,}-rows-\d{9,}-\d{9,}-[0-9a-f]+\.parquet"),
}
"""Names of parts by the kind of their table; whatever else lies in a folder is nobody's."""


def beside(uri: str) -> str:
    """URI of the folder of what is no part of the table at ``uri``.

    >>> beside("s3://work/ages/")
    's3://work/ages.agescale'
    """
    return uri.rstrip("/") + SUFFIX


def list_parts(uri: str, kind: str) -> list[str]:
    """Sorted names of the parts of a table of that kind; none where none stands."""
    return [name for name in objects.list_names(uri, suffix=".parquet") if PARTS[kind].fullmatch(name)]


def list_versions(uri: str, kind: str) -> dict[str, str]:
    """``list_parts``, each with what changes when it is written anew."""
    versions = objects.list_versions(uri)
    return {name: version for name, version in versions.items() if PARTS[kind].fullmatch(name)}


def nothing_there(uri: str, kind: str, how: str) -> ValueError:
    """What to say where no table of that kind stands, but maybe something else; ``how`` says how to make one."""
    other = next((schema.NOUNS[each] for each in PARTS if list_parts(uri, each)), None)
    stranger = objects.any_name(uri)
    there = f", but {other}" if other else f", but other files (such as {stranger})" if stranger else ""
    return ValueError(f"{uri}: no {kind} there{there}; {how}")


def read_metadata(uri: str, kind: str) -> dict[str, Any]:
    """What the footer of a part says. Raises Damaged where it is no part of such a table, and ValueError, naming the
    file, where it is one of another version of agescale."""
    return metadata_in(uri, parquet.read_schema(uri), kind)


def metadata_in(uri: str, columns: pa.Schema, kind: str) -> dict[str, Any]:
    """As ``read_metadata``, where the footer has been read."""
    try:
        return schema.read_metadata(columns, kind)
    except schema.OtherVersion as error:
        raise ValueError(f"{uri}: {error}") from error
    except ValueError as error:
        raise Damaged(uri, str(error)) from error


def remedy(uri: str) -> str:
    """What to do where a file of a table, or of what lies beside it, is damaged."""
    name = paths.name_of(uri)
    if PARTS["predictions"].fullmatch(name):
        return "the same jobs/score.py command with --repair deletes it and scores its images again"
    if PARTS["catalog"].fullmatch(name):
        return "the same jobs/catalog.py command with --repair lists its images anew"
    if PARTS["faces"].fullmatch(name):
        return "delete it, and the same jobs/catalog.py command finds its faces again"
    if PARTS["features"].fullmatch(name):
        return "delete it, and the same jobs/catalog.py command makes it again"
    if paths.name_of(uri.rpartition("/")[0]).endswith(SUFFIX):
        return "the same jobs/catalog.py command writes it anew"
    return "put it back as it was, or delete what it belongs to"


def output(out: str, kind: str, option: str = "--out") -> Output:
    """The folder of a table that is to be written. Raises ValueError where there is no place beside it."""
    has_no_neighbour = "/" not in out.removeprefix("s3://") if paths.is_remote(out) else os.path.ismount(out)
    if has_no_neighbour:
        raise ValueError(f"{out}: a table needs a folder below, such as {option} {paths.join(out, kind)}")

    def find_stranger(name: str) -> str | None:
        return None if PARTS[kind].fullmatch(name) or list_parts(out, kind) else name

    return Output(out, f"a table of {schema.NOUNS[kind]}", find_stranger, beside(out), option)


def check_file(out: str) -> None:
    """Raises ValueError where the file ``out`` would stand among the files of a table, or beside one."""
    folder = out.rpartition("/")[0]
    kind = next((schema.NOUNS[kind] for kind in PARTS if list_parts(folder, kind)), None)
    if kind or folder.endswith(SUFFIX):
        raise ValueError(f"--out {out}: {folder} is {kind or 'what belongs to a table'}; give another folder")


def archives(uri: str) -> str:
    """Where it is kept what the archives of a catalog's source hold (``store.archives``)."""
    return paths.join(beside(uri), "archives")


def write_new_part(uri: str, name: str, table: pa.Table, row_group_size: int | None = None) -> bool:
    """Writes a part; until it is whole it lies in the folder beside, where no reader looks. False, and nothing is
    written, where the part stands already."""
    return objects.write_new(paths.join(uri, name), parquet.as_parquet(table, row_group_size), scratch=beside(uri))


def replace_part(uri: str, name: str, table: pa.Table, expected: str) -> bool:
    """Writes a part anew. False, and nothing is written, where another one than that ``objects.version`` stands."""
    return objects.write_over(paths.join(uri, name), parquet.as_parquet(table), expected, scratch=beside(uri))
