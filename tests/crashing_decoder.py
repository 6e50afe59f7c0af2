"""A decoder that really crashes: for every Python process that finds the folder on its path, child processes too."""

from __future__ import annotations

from pathlib import Path

SITECUSTOMIZE = """
import os, signal, time
import simplejpeg

decode_jpeg = simplejpeg.decode_jpeg


def decode_or_crash(data, **options):
    if b"SEGFAULT" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"TOO MUCH MEMORY" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"FOR EVER" in data:
        time.sleep(3600)
    return decode_jpeg(data, **options)


simplejpeg.decode_jpeg = decode_or_crash
"""


def install(folder: Path) -> Path:
    """A folder for PYTHONPATH."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return folder


def poisoned(jpeg: bytes, poison: str) -> bytes:
    """A JPEG with a comment at which that decoder crashes: SEGFAULT, TOO MUCH MEMORY or FOR EVER."""
    comment = poison.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + jpeg[2:]
