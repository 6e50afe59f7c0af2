"""Verify a table of predictions: one row for each image of its catalog, and nothing else. Changes nothing.

Exit code 0 and one line if it is right; 3 and a list of what is wrong if not; 2 where there is nothing to verify.

python jobs/verify.py --catalog s3://bucket/catalog --predictions s3://bucket/ages
"""

from __future__ import annotations

from agescale import storage
from agescale.command_line import refuse, run_job
from agescale.config import VerifyConfig
from agescale.verification import verify


def main(config: VerifyConfig) -> None:
    found = verify(config)
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
    out = storage.absolute(config.predictions)
    remedy = "delete the files that are named, and run the same jobs/score.py command again"
    refuse(f"{out}: not right, {found.num_problems:,} problem{'s' * (found.num_problems > 1)}; {remedy}", code=3)


if __name__ == "__main__":
    run_job(main, VerifyConfig)
