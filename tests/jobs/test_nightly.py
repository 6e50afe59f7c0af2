"""Night after night on a real bucket: what is not new is neither read nor scored again, counted at the store.

And nights of random answers, which end as quiet ones. Part of `make chaos`, with 20,000 objects (AGESCALE_NUM_OBJECTS);
prints what nights took.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
import torch
from conftest import RunJob
from fault_proxy import FaultProxy

from agescale.faces import images
from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.spec import ModelSpec
from agescale.store import client, listing, objects, parquet
from agescale.synthetic import dataset
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions

NUM_OBJECTS = int(os.environ.get("AGESCALE_NUM_OBJECTS", "400"))
NUM_FACES = 200
MAX_RUNS = 5
NUM_CHANGED = NUM_NEW = NUM_DELETED = max(1, NUM_OBJECTS // 400)


PASSING = ("slow_down", "internal", "unanswered", "lost", "reset", "cut", "login", "empty", "error", "short")
"""Answers that say something else the next time, of a store or of whoever stands before it."""


@pytest.fixture
def faces(tmp_path: Path) -> list[bytes]:
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=NUM_FACES, size=64, num_broken=0)
    paths = sorted(path for path in (tmp_path / "faces").rglob("*") if images.is_image_name(path.name))
    return [path.read_bytes() for path in paths]


@pytest.fixture
def bucket(s3: str, faces: list[bytes], tmp_path: Path) -> str:
    """A folder of a bucket with NUM_OBJECTS images, and a model."""
    folder = f"{s3}/{tmp_path.name}"
    with objects.read_pool() as pool:
        uris = [f"{folder}/inbox/{n % 10}/{n:06d}.jpg" for n in range(NUM_OBJECTS)]
        list(pool.map(lambda n: objects.write_bytes(uris[n], faces[n % len(faces)]), range(NUM_OBJECTS)))
    torch.manual_seed(0)
    model = AgeModel(ModelSpec(encoder="cnn", task="distribution", age_groups="25-years", image_size=32))
    checkpoints.save(f"{folder}/model", model.spec, model.state_dict(), checkpoints.RunProgress(), {"data": "none"})
    return folder


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_the_second_night_reads_and_scores_only_what_changed(
    bucket: str, faces: list[bytes], counter: FaultProxy, run_job: RunJob
) -> None:
    first = night(bucket, counter, run_job, num_scored=NUM_OBJECTS)
    assert len(images_read(counter)) == NUM_OBJECTS

    changed = [f"{bucket}/inbox/{n % 10}/{n:06d}.jpg" for n in range(NUM_CHANGED)]
    new = [f"{bucket}/inbox/new/{n:06d}.jpg" for n in range(NUM_NEW)]
    deleted = [f"{bucket}/inbox/{n % 10}/{n:06d}.jpg" for n in range(NUM_CHANGED, NUM_CHANGED + NUM_DELETED)]
    client.filesystem(bucket).pipe(dict.fromkeys(changed + new, faces[-1] + b"other bytes behind the picture"))
    client.filesystem(bucket).rm(deleted)
    counter.requests.clear()
    second = night(bucket, counter, run_job, num_scored=NUM_CHANGED + NUM_NEW)
    assert images_read(counter) == sorted(uri.removeprefix("s3:/") for uri in changed + new)
    print(f"\n{NUM_OBJECTS:,} objects: {first}; {NUM_CHANGED} changed, {NUM_NEW} new: {second}")

    verified = run_job("jobs/verify.py", "--catalog", f"{bucket}/catalog", "--predictions", f"{bucket}/ages")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    rows = parquet.read_tables(
        Predictions.open(f"{bucket}/ages").files,
        ["uri", "version", "status"],
    )
    assert set(rows["status"].to_pylist()) == {"ok"}
    assert len(rows) == NUM_OBJECTS + NUM_CHANGED + NUM_NEW, "old predictions stay"


def night(bucket: str, counter: FaultProxy, run_job: RunJob, num_scored: int) -> str:
    """Lists and scores, as every night; returns what it took, in words."""
    began = time.monotonic()
    environment = {"AWS_ENDPOINT_URL": counter.url}
    out = ("--out", f"{bucket}/catalog")
    listed = run_job("jobs/catalog.py", "--source", f"{bucket}/inbox", *out, env=environment, timeout_s=900)
    assert listed.returncode == 0, listed.stdout + listed.stderr
    was_listed = time.monotonic()
    arguments = ("--checkpoint", f"{bucket}/model", "--out", f"{bucket}/ages")
    scored = run_job("jobs/score.py", "--catalog", f"{bucket}/catalog", *arguments, env=environment, timeout_s=900)
    assert scored.returncode == 0, scored.stdout + scored.stderr
    told = re.search(r"scored ([\d,]+) images now", scored.stdout)
    assert told is not None, scored.stdout
    assert int(told[1].replace(",", "")) == num_scored
    return f"listed in {was_listed - began:.0f} s, scored in {time.monotonic() - was_listed:.0f} s"


def images_read(counter: FaultProxy) -> list[str]:
    """Keys of the images that were read, once for each time that one was."""
    reads = ((key, count) for (operation, key), count in counter.requests.items() if operation == "GET")
    return sorted(key for key, count in reads if "/inbox/" in key for _ in range(count))


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("conditions", ["kept", "refused"])
def test_nights_of_random_answers_end_with_the_catalog_and_the_table_of_quiet_ones(
    conditions: str, bucket: str, faces: list[bytes], run_job: RunJob
) -> None:
    """Every kind of answer, on reads, listings and writes alike, at random; a body of one byte a second now and then.

    A job may give up, in one line; the same command goes on.
    """
    kinds = (*PASSING * 20, "trickle")
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], kinds, 0.03, ("GET", "LIST", "HEAD", "PUT"), seconds=1) as proxy:
        proxy.conditions = conditions
        options = () if conditions == "kept" else ("--no-lease",)
        num_runs = bad_night(bucket, proxy, run_job, options)
        for n in range(NUM_CHANGED):
            objects.write_bytes(f"{bucket}/inbox/{n % 10}/{n:06d}.jpg", faces[-1] + b"other bytes behind the picture")
        client.filesystem(bucket).rm(
            [f"{bucket}/inbox/{n % 10}/{n:06d}.jpg" for n in range(NUM_CHANGED, 2 * NUM_CHANGED)]
        )
        num_runs += bad_night(bucket, proxy, run_job, options)
        print(f"\n{NUM_OBJECTS:,} objects, conditions {conditions}: {num_runs} runs; {dict(proxy.faults)}")
        assert set(PASSING) <= set(proxy.faults)

    verified = run_job("jobs/verify.py", "--catalog", f"{bucket}/catalog", "--predictions", f"{bucket}/ages")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    listed = {item.uri: item.version for item in listing.list_files(f"{bucket}/inbox")}
    rows = Catalog.open(f"{bucket}/catalog").read(["uri", "version"])
    assert dict(zip(rows["uri"].to_pylist(), rows["version"].to_pylist(), strict=True)) == listed
    scored = parquet.read_tables(Predictions.open(f"{bucket}/ages").files, ["uri", "version", "status"]).to_pylist()
    current = [row for row in scored if listed.get(row["uri"]) == row["version"]]
    assert len(current) == len(listed)
    assert {row["status"] for row in current} == {"ok"}


def bad_night(bucket: str, proxy: FaultProxy, run_job: RunJob, options: tuple[str, ...]) -> int:
    """Lists and scores until both have ended well; returns how often a job was started."""
    environment = {"AWS_ENDPOINT_URL": proxy.url}
    jobs = (
        ("jobs/catalog.py", "--source", f"{bucket}/inbox", "--out", f"{bucket}/catalog"),
        ("jobs/score.py", "--catalog", f"{bucket}/catalog", "--checkpoint", f"{bucket}/model", "--out",
         f"{bucket}/ages", "--retry", "unreachable", "missing", "changed"),
    )  # fmt: skip
    num_runs = 0
    for job in jobs:
        for _ in range(MAX_RUNS):
            num_runs += 1
            done = run_job(*job, *options, env=environment, timeout_s=900)
            assert "Traceback" not in done.stderr, done.stderr
            if done.returncode == 0 and "unreachable" not in done.stdout:
                break
            assert done.returncode in (0, 2, 3), done.stderr
        else:
            pytest.fail(f"{job[0]} did not end well in {MAX_RUNS} runs: {done.stderr[-2000:]}")
    return num_runs
