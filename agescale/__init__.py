"""agescale: ages from buckets of face photos. See README.md for the map of this package."""

__version__ = "0.1.0"
