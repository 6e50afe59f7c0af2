"""The checkpoint that comes with agescale: what predicts where no other one is named. Its card lies beside it.

An empty text stands for it wherever a checkpoint to predict with is asked for, in every process and on every machine:
each has its own copy, and the model's digest says whether they are the same.
"""

from __future__ import annotations

from pathlib import Path

from agescale.models import checkpoints
from agescale.models.checkpoints import Checkpoint
from agescale.models.spec import predicts_age
from agescale.store import objects, paths
from agescale.store.outputs import Output

NAME = "included"
FOLDER = Path(__file__).parent / NAME
NOTE = f"model: the one that comes with agescale, for non-commercial research (agescale weights {NAME} prints its card)"
CARD_NAME, NOTICE_NAME = "README.md", "NOTICE.txt"


def located(checkpoint: str) -> str:
    """The folder of a checkpoint, or of the one that comes with agescale where there is none."""
    return checkpoint or str(FOLDER)


def read(uri: str) -> Checkpoint:
    """A checkpoint to predict with, by default the one that comes with agescale. Raises ValueError, in one line, where
    there is none or its task predicts no age."""
    checkpoint = checkpoints.read(located(uri))
    if not predicts_age(checkpoint.spec.task):
        raise ValueError(f"{uri}: its task, {checkpoint.spec.task}, predicts no age; nothing to score with")
    return checkpoint


def card() -> str:
    return (FOLDER / CARD_NAME).read_text(encoding="utf-8")


def summary() -> str:
    """What it is, in lines."""
    known = checkpoints.read(str(FOLDER))
    lines = [
        ("encoder", known.spec.encoder),
        ("model", known.digest),
        ("card", f"agescale weights {NAME}"),
        ("checkpoint", f"agescale weights {NAME} --out CHECKPOINT, to train on from (--weights CHECKPOINT)"),
    ]
    purpose = (
        f"ages and gender of faces at {known.spec.image_size} px; comes with agescale, for non-commercial research"
    )
    return "\n".join([f"{NAME}: {purpose}", *(f"  {title:<18} {text}" for title, text in lines)])


def copy(out: str) -> Checkpoint:
    """Makes a checkpoint of it in ``out``, with card and notices; the same again changes nothing. Raises ValueError
    where something else stands there."""
    source = str(FOLDER)
    known = checkpoints.read(source)

    def find_stranger(found: str) -> str | None:
        if checkpoints.exists(out):
            return None if checkpoints.read(out).digest == known.digest else checkpoints.CONFIG_NAME
        return checkpoints.stranger_in(out, {CARD_NAME, NOTICE_NAME, known.weights_file}.__contains__, found)

    Output(out, "a checkpoint", find_stranger).check({source: "what comes with agescale"})
    for name in (CARD_NAME, NOTICE_NAME):
        objects.write_bytes(paths.join(out, name), (FOLDER / name).read_bytes())
    checkpoints.copy_weights(source, known, out)
    return known
