"""How many faces make a number: the one place that knows when there are too few."""

ENOUGH_FACES = 20
"""An error of fewer faces is mostly chance. The mean of so many absolute errors is itself uncertain by a sixth (one
standard error: normal errors spread by 0.76 of the mean of their sizes, divided by the root of 20), and a share of
them by up to 11 points in a hundred."""
ENOUGH_TO_LEARN = 100
"""With fewer faces of a kind to learn from, a model knows them mostly from others. A rule of thumb."""
