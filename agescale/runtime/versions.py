"""Which versions of what decides about results are installed here; asks the packages' records and imports none."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("agescale", "torch", "torchvision", "timm", "ray", "numpy", "pillow", "simplejpeg", "pyarrow")


def installed_versions() -> dict[str, str]:
    """The versions of Python and of LIBRARIES, by name; empty for what is not installed, as agescale in a checkout."""
    return {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # an extra; agescale itself, of a checkout that came as a job's working directory
        return ""
