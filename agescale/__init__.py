"""agescale: ages from buckets of face photos. See docs/architecture.md for the map of this package.

From Python, without a job:

    import agescale

    model = agescale.load("runs/demo/run/best")
    ages = model.predict(["photo.jpg", "s3://photos/other.jpg"])

``docs/python.md`` has the rest. What is named here is loaded when it is first used: torch is not before a model is.
"""

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agescale.models.inference import Model, Prediction, Predictions, Scorer, load
    from agescale.store.errors import StoreError
    from agescale.tables.datasets import read_catalog, read_predictions

__version__ = "0.1.0"

__all__ = [
    "Model",
    "Prediction",
    "Predictions",
    "Scorer",
    "StoreError",
    "__version__",
    "load",
    "read_catalog",
    "read_predictions",
]

_MODULES = {"read_catalog": "tables.datasets", "read_predictions": "tables.datasets", "StoreError": "store.errors"}
"""Where public names are defined; the others in ``models.inference``."""

if not TYPE_CHECKING:  # to a type checker every name would be right

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'agescale' has no attribute {name!r}")
        return getattr(import_module(f"agescale.{_MODULES.get(name, 'models.inference')}"), name)


def __dir__() -> list[str]:
    return list(__all__)


if not os.access(os.path.expanduser("~"), os.W_OK | os.X_OK):
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # would say at length that it keeps its cache elsewhere
for _descriptor in range(3):  # what is opened next would take the place of a standard stream that was closed
    try:
        os.fstat(_descriptor)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
