"""kill -9 of a job that regroups: the same command ends with the table of an undisturbed run, each file once."""

from __future__ import annotations

from pathlib import Path

import factories
import numpy as np
import pytest
from running_job import RunningJob

from agescale.ages import cdf
from agescale.config import RegroupConfig
from agescale.store import objects, parquet
from agescale.tables.predictions import Predictions, summary_uri
from agescale.tables.regrouping import regroup

NUM_FILES, FILE_ROWS = 60, 2000


@pytest.mark.timeout(600)
def test_a_job_that_was_killed_ends_with_the_same_table(tmp_path: Path) -> None:
    ages, out = str(tmp_path / "ages"), str(tmp_path / "view")
    probs_NA = np.random.default_rng(0).dirichlet(np.full(101, 0.3), FILE_ROWS)
    cdfs = list(cdf.quantize(probs_NA).astype(np.int32))
    for number in range(NUM_FILES):
        rows = [{"uri": f"/{number}/{row}", "version": "1", "face": 0, "status": "ok", "age_cdf": cdfs[row],
                 "model": factories.MODEL} for row in range(FILE_ROWS)]  # fmt: skip
        facts = {"statuses": {"ok": FILE_ROWS}, "gone": {}}
        factories.write_predictions(ages, rows, "25-years", number, **facts)
    objects.write_bytes(summary_uri(ages), b'{"by_status": {}}')
    job = ("jobs/regroup.py", "--predictions", ages, "--age-groups", "life-stages", "--out", out)
    first = RunningJob(tmp_path, *job)
    try:
        first.wait_for(lambda: len(Predictions.find(out).names) > 3)
        first.kill()
    finally:
        first.close()
    standing = Predictions.find(out).versions
    assert 3 < len(standing) < NUM_FILES, "it was over before the kill"
    assert not objects.exists(summary_uri(out))
    second = RunningJob(tmp_path, *job)
    try:
        assert second.end(timeout_s=300) == 0, second.said()
    finally:
        second.close()
    found = Predictions.open(out)
    assert {name: found.versions[name] for name in standing} == standing, "what stood was written again"
    regroup(RegroupConfig(ages, str(tmp_path / "undisturbed"), "life-stages"))
    undisturbed = Predictions.open(str(tmp_path / "undisturbed"))
    assert found.names == undisturbed.names
    columns = found.schema.names
    assert parquet.read_tables(found.files, columns).equals(parquet.read_tables(undisturbed.files, columns))
    assert objects.exists(summary_uri(out))
