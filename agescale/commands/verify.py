"""Verify a table of predictions, a checkpoint's files, or a report with its model card. Changes nothing.

python jobs/verify.py --catalog s3://bucket/catalog --predictions s3://bucket/ages
python jobs/verify.py --report s3://bucket/report --checkpoint s3://bucket/runs/fast/best

Exit code 0 and a line for each that is right; 3 and a list of what is wrong; 2 where there is nothing to verify.
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
    if config.predictions:
        check_table(config)
    if config.checkpoint or config.report:
        check_evidence(config)


def check_evidence(config: VerifyConfig) -> None:
    from agescale.operations.evidence import verify_checkpoint, verify_report  # with torch, which a table does without

    evidence = [verify_checkpoint(config.checkpoint)] if config.checkpoint else []
    model = evidence[0].model if evidence else ""
    evidence += [verify_report(config.report, model)] if config.report else []
    for each in evidence:
        if not each.problems:
            print(f"right: {each.says}")
    problems = [problem for each in evidence for problem in each.problems]
    for problem in problems[1:]:
        print(problem)
    if problems:
        refuse(problems[0], code=3)


def check_table(config: VerifyConfig) -> None:
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
    out, num = config.predictions, found.num_problems
    refuse(f"{out}: not right, {num:,} problem{'s' * (num > 1)}; {'; '.join(remedies(found))}", code=3)


def remedies(found: Verification) -> list[str]:
    """What to do, of which nothing loses a file that may be right."""
    told = []
    if found.num_kept:
        told.append("let this user, or a newer agescale, read the files that cannot be read")
    if found.wrong_files:
        again = "the same jobs/score.py command with --repair deletes the wrong files and scores their images again"
        told.append(again)
    elif found.num_problems > found.num_kept:
        told.append("run the same jobs/score.py command again")
    return told
