"""``agescale export`` as a job of its own, for ``ray job submit`` and for a checkout that is not installed."""

from agescale.__main__ import run

if __name__ == "__main__":
    run("export")
