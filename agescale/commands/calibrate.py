"""Give a model age intervals that hold: a checkpoint of the same weights, calibrated on faces with an exact age.

python jobs/calibrate.py --checkpoint runs/fast/best --catalog catalog --interval-coverage 0.9 --out runs/fast-90
"""

from __future__ import annotations

from agescale.config import CalibrateConfig
from agescale.models import included
from agescale.operations.calibration import calibrate
from agescale.runtime import terminal
from agescale.store import paths


def main(config: CalibrateConfig) -> None:
    if not config.checkpoint:
        print(included.NOTE, flush=True)
    done = calibrate(config)
    for note in done.notes:
        print(terminal.printable(note))
    calibration = done.checkpoint.spec.calibration
    assert calibration is not None, "that is what the job is for"
    rows = [[band.name, f"{band.num_faces:,}", f"{band.offset:+.2f}"] for band in calibration.bands]
    terminal.print_table(["predicted age", "faces", "wider at either end by years"], rows)
    print(f"intervals: {100 * calibration.coverage:g} % of faces such as these {calibration.num_faces:,}")
    print(f"checkpoint: {paths.absolute(config.out)} (model {done.checkpoint.digest})")
