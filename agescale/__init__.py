"""agescale: ages from buckets of face photos. See README.md for the map of this package."""

import os

__version__ = "0.1.0"

for _descriptor in range(3):  # what is opened next would take the place of a standard stream that was closed
    try:
        os.fstat(_descriptor)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
