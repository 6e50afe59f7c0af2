"""URIs: a path, ``file://...`` or ``s3://bucket/key``. Text in, text out; nothing is read or asked."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import PurePosixPath
from typing import Any, TypeVar

URI_SETTINGS = (
    "against", "catalog", "checkpoint", "csv", "draw", "gate", "gender_from", "listing", "out", "out_predictions",
    "photos", "predictions", "report", "source",
)  # fmt: skip
"""Settings of jobs that name a place, or several."""
Settings = TypeVar("Settings", bound=Any)


def absolute(uri: str) -> str:
    """``uri`` without ``file://``, user directory or relative parts, so that it means the same in every process."""
    if uri.startswith("file://"):
        uri = uri.removeprefix("file://")
    scheme, sign, rest = uri.partition("://")
    if not sign:
        return os.path.abspath(os.path.expanduser(uri))
    if scheme != "s3":
        raise ValueError(f"{uri}: a URI is a path, file:// or s3://, not {scheme}://")
    if not rest.strip("/"):
        raise ValueError(f"{uri}: the bucket's name is missing")
    return uri.rstrip("/")


def with_absolute_uris(config: Settings) -> Settings:
    """The settings of a job as all that comes behind takes them: what names a place is ``absolute``.

    Each job begins with it, and nobody else asks.
    """
    settings = {name: getattr(config, name, None) for name in URI_SETTINGS}
    given = {name: uri for name, uri in settings.items() if uri and uri is not True}  # --report of the catalog is a yes
    made = {name: absolute(uri) if isinstance(uri, str) else tuple(map(absolute, uri)) for name, uri in given.items()}
    return dataclasses.replace(config, **made)


def join(uri: str, *names: str) -> str:
    return "/".join([uri.rstrip("/"), *names])


def name_of(uri: str) -> str:
    return PurePosixPath(uri).name


ARCHIVES = (".tar", ".zip", ".parquet")
"""Files whose names end so (in any case) may hold others, their members."""
MEMBER = re.compile(rf"(?i)(?:{'|'.join(map(re.escape, ARCHIVES))})!(?:/|$)")
"""Ends the URI of an archive in that of a member, or of the folder of all of them."""


def is_archive(uri: str) -> bool:
    return uri.lower().endswith(ARCHIVES)


def archive_and_member(uri: str) -> tuple[str, str] | None:
    """The archive that a member lies in, and its name there; None for what is no member.

    >>> archive_and_member("s3://b/shard-0001.tar!/img/17.jpg"), archive_and_member("s3://b/img/17.jpg")
    (('s3://b/shard-0001.tar', 'img/17.jpg'), None)
    """
    found = MEMBER.search(uri) if "!" in uri else None
    return (uri[: found.end()].rstrip("/").removesuffix("!"), uri[found.end() :]) if found else None


def members_of(archive: str) -> str:
    """The folder that an archive is: what its members are joined to, as files to a folder.

    >>> join(members_of("faces.zip"), "25-49/17.jpg")
    'faces.zip!/25-49/17.jpg'
    """
    return f"{archive}!"


def outside_archives(path: str) -> str:
    """A relative path as if archives had been unpacked where they lie.

    >>> outside_archives("train/shard-0001.tar!/25-49/17.jpg")
    'train/25-49/17.jpg'
    """
    found = MEMBER.search(path) if "!" in path else None
    return path[: path.rfind("/", 0, found.start()) + 1] + path[found.end() :] if found else path


def table_name(path: str) -> str:
    r"""A path as tables hold it: bytes that are no UTF-8 stand as \xNN, and mean the same file.

    >>> table_name(os.fsdecode(b"/faces/Mu\xf1oz.jpg"))
    '/faces/Mu\\xf1oz.jpg'
    """
    return os.fsencode(path).decode(errors="backslashreplace")


def local_path(uri: str) -> str:
    """The path of a file on disk, which ``table_name`` may have made the URI of."""
    if "\\x" not in uri or os.path.lexists(uri):
        return uri
    octets = re.sub(rb"\\x([89a-f][0-9a-f])", lambda digits: bytes.fromhex(digits[1].decode()), os.fsencode(uri))
    return os.fsdecode(octets)


def is_remote(uri: str) -> bool:
    return uri.startswith("s3://")


def bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
