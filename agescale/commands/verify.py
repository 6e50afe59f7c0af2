"""Verify a table of predictions: one row for each image of its catalog, and nothing else. Changes nothing.

Exit code 0 and one line if it is right; 3 and a list of what is wrong if not; 2 where there is nothing to verify.

python jobs/verify.py --catalog s3://bucket/catalog --predictions s3://bucket/ages
"""

from __future__ import annotations

from agescale.command_line import refuse
from agescale.config import VerifyConfig
from agescale.scoring.verification import Verification, verify
from agescale.store import paths
from agescale.store.errors import Damaged
from agescale.tables import folders


def main(config: VerifyConfig) -> None:
    config = paths.with_absolute_uris(config)
    try:
        found = verify(config)
    except Damaged as damaged:  # of the catalog: what it asks for cannot be told
        refuse(f"{damaged}; {folders.remedy(damaged.uri)}", code=3)
    size = f"{found.num_rows:,} rows in {found.num_units:,} files"
    counts = ", ".join(f"{count:,} {status}" for status, count in found.by_status.items())
    if not found.num_problems:
        images = f"each {found.run['split'].replace(',', ' or ')} image" if found.run["split"] else "each image"
        print(f"right: {size}, {images} of the catalog has its row; {counts}; model {found.run['model']}")
        return
    for problem in found.problems:
        print(problem)
    if found.num_problems > len(found.problems):
        print(f"... and {found.num_problems - len(found.problems):,} more")
    out = config.predictions
    num = found.num_problems
    refuse(f"{out}: not right, {num:,} problem{'s' * (num > 1)}; {'; '.join(remedies(found))}", code=3)


def remedies(found: Verification) -> list[str]:
    """What to do, of which nothing loses a file that may be right."""
    told = []
    if found.num_kept:
        told.append("let this user, or a newer agescale, read the files that cannot be read")
    if found.wrong_files:
        told.append(
            "the same jobs/score.py command with --repair deletes the wrong files and scores their images again"
        )
    elif found.num_problems > found.num_kept:
        told.append("run the same jobs/score.py command again")
    return told
