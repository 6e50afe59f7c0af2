"""Models that others have published, and how their files become checkpoints; each is one file in ``foreign/``.

Nothing is downloaded, and nothing of theirs lies in this repository: whoever has the files names the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from agescale.models import checkpoints
from agescale.models.age_model import AgeModel, describe_blocks
from agescale.models.checkpoints import Checkpoint, RunProgress, StateDict
from agescale.models.spec import ModelSpec
from agescale.runtime.versions import installed_versions
from agescale.store import objects, paths
from agescale.store.outputs import Output

FOLDER = Path(__file__).parent / "foreign"
LICENSE_NAME = "LICENSE.txt"
"""Beside a checkpoint's config.json: the notice that has to go with the weights."""


@dataclass(frozen=True)
class ForeignModel:
    """``MODEL`` of a file in ``foreign/``: what is known of it, and ``convert`` from its files, by name, to the tensors
    of an AgeModel of ``spec``. The notice of its licence stands beside that file, as NAME.LICENSE.txt."""

    purpose: str
    source: str
    code_license: str
    weights_license: str
    training_data: str  # as far as it is stated
    files: Mapping[str, str]  # SHA-256 by name
    size_bytes: int
    spec: ModelSpec
    convert: Callable[[Mapping[str, bytes]], StateDict]


def foreign_models() -> dict[str, ForeignModel]:
    """All of them, by name."""
    names = sorted(file.stem for file in FOLDER.glob("[!_]*.py"))
    return {name: import_module(f"agescale.models.foreign.{name}").MODEL for name in names}


def import_model(name: str, source: str, out: str) -> Checkpoint:
    """Makes a checkpoint of a foreign model whose files lie in ``source``.

    The same again changes nothing. Raises ValueError, in one line, for a name that there is not, for other files than
    those that were published, and where something else stands in ``out``.
    """
    known = foreign_models()
    if name not in known:
        raise ValueError(f"no foreign model is called {name!r}; there are {', '.join(known)}")
    model = known[name]
    origin = f"{name}: {model.source}"

    def find_stranger(found: str) -> str | None:
        if checkpoints.exists(out):
            told = checkpoints.read(out).provenance.get("initial_weights")
            return None if told and told["source"] == origin else checkpoints.CONFIG_NAME
        return checkpoints.stranger_in(out, lambda name: name == LICENSE_NAME or name.startswith("weights-"), found)

    Output(out, "a checkpoint", find_stranger).check({source: "what is imported"})
    age_model = AgeModel(model.spec).eval()  # raises where its encoder's library is missing
    files = {file: read_file(paths.join(source, file), sha256) for file, sha256 in model.files.items()}
    fill(age_model, model.convert(files))
    objects.write_bytes(paths.join(out, LICENSE_NAME), (FOLDER / f"{name}.{LICENSE_NAME}").read_bytes())
    return checkpoints.save(
        out,
        model.spec,
        age_model.state_dict(),
        RunProgress(is_finished=True),
        {
            "num_parameters": sum(parameter.numel() for parameter in age_model.parameters()),
            "blocks": describe_blocks(age_model),
            "initial_weights": {
                "source": origin,
                "sha256": max(model.files.items(), key=lambda file: len(files[file[0]]))[1],
                "license": model.weights_license,
            },
            "data_license": None,
            "versions": installed_versions(),
        },
    )


def read_file(uri: str, sha256: str) -> bytes:
    """A file as it was published."""
    data = objects.read_bytes(uri)
    objects.check_sha256(uri, data, sha256, "not the file that was published: ")
    return data


def fill(model: AgeModel, tensors: StateDict) -> None:
    """Gives a model these tensors: all that it has, but for the counts of batches that it was trained on."""
    lacking, unknown = model.load_state_dict(tensors, strict=False)
    lacking = [name for name in lacking if not name.endswith(".num_batches_tracked")]
    assert not lacking, lacking
    assert not unknown, unknown
