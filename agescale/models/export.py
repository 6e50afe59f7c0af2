"""A checkpoint as one file for programs without agescale: uint8 images in; distribution, age and interval out.

    model.onnx    for ONNX Runtime and whatever else reads ONNX
    model.pt2     for torch.export.load, with nothing but torch

The file holds the whole model, normalisation and the way from its logits to ages included (``graph.Whole``), and says
of itself what it takes and gives. It is run on some images before it is written, and one that says otherwise than the
checkpoint is not written. What makes such images of photos, ``faces``, is no part of it. Without Ray.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agescale.config import ExportConfig
from agescale.models import parity
from agescale.models.checkpoints import Checkpoint
from agescale.models.graph import IMAGES, Whole, trace
from agescale.models.predictor import Predictor
from agescale.store import objects, paths
from agescale.tables import folders

FORMATS = {".onnx": "onnx", ".pt2": "torch"}
"""By the ending of a file's name."""
METADATA_NAME = "agescale.json"
"""Of what a file says of itself: an extra file of torch's, an entry of ONNX's metadata."""
OPSET = 18
"""Of ONNX: 2023's, which runtimes that are in use have."""
MAX_ONNX_BYTES = 2**31 - 2**20
"""One message of protobuf."""


@dataclass(frozen=True)
class Exported:
    uri: str
    format: str
    size_bytes: int
    outputs: tuple[str, ...]
    error_years: float | None  # the furthest from the checkpoint's that a distribution was; None where there is none


def export(config: ExportConfig) -> Exported:
    """Writes the file, whole or not at all; one that stood there before is replaced. Raises ValueError, in one line,
    where it cannot be made or is not the same model."""
    config = paths.with_absolute_uris(config)
    file_format = config.format or _format_of(config.out)
    _check_out(config.out, config.checkpoint)
    if file_format == "onnx":
        _check_installed()
    predictor = Predictor(config.checkpoint, faces="none")
    whole, size = Whole(predictor.model), predictor.spec.image_size
    program = trace(whole, size)
    told = card(predictor.checkpoint, whole)
    images_NHWC = parity.probes(size)
    if file_format == "onnx":
        data = _onnx_bytes(program, whole, told)
        said = _run_onnx(data, images_NHWC)
    else:
        data = _torch_bytes(program, told)
        said = _run_torch(data, images_NHWC)
    outputs = tuple(output.name for output in whole.outputs)
    error_years = _check_same(dict(zip(outputs, said, strict=True)), predictor(images_NHWC))
    objects.write_bytes(config.out, data)
    return Exported(config.out, file_format, len(data), outputs, error_years)


def card(checkpoint: Checkpoint, whole: Whole) -> dict[str, Any]:
    """What a file says of itself: plain JSON."""
    spec, provenance = checkpoint.spec, checkpoint.provenance
    return {
        "model": checkpoint.digest,
        "encoder": spec.encoder,
        "task": spec.task,
        "input": f"{IMAGES}: uint8 (N, {spec.image_size}, {spec.image_size}, 3), RGB, any N of at least 1",
        "resize": spec.resize,
        "center_crop": spec.center_crop,
        "faces": asdict(spec.faces) if spec.faces else None,
        "outputs": {each.name: f"({each.shape}) {each.meaning}" for each in whole.outputs},
        "age_groups": spec.age_groups,
        "interval_share": whole.share if whole.has_interval else None,
        "interval_is_calibrated": spec.calibration is not None,
        "data_license": provenance.get("data_license"),
        "weights_license": provenance["initial_weights"]["license"] if "initial_weights" in provenance else None,
    }


def _check_same(said: Mapping[str, np.ndarray], columns: Mapping[str, Any]) -> float | None:
    """Raises ValueError where a file says otherwise than the checkpoint of the same images."""
    far = parity.apart(said, columns)
    if not far <= parity.MAX_APART:
        raise ValueError(f"the exported model is another one: a distribution lies {far:.3g} years off; nothing written")
    return far if "age_cdf" in said else None


def _onnx_bytes(program: torch.export.ExportedProgram, whole: Whole, told: Mapping[str, Any]) -> bytes:
    size_bytes = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size_bytes > MAX_ONNX_BYTES:
        raise ValueError(f"the weights have {size_bytes / 1e9:.1f} GB, and one ONNX file at most 2; use --format torch")
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of its steps
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's and onnxscript's own doings
            exported = torch.onnx.export(
                program,
                input_names=[IMAGES],
                output_names=[output.name for output in whole.outputs],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except ImportError as error:  # onnxscript names releases of torch
        raise ValueError(
            f"onnxscript as installed does not know torch {torch.__version__} ({error}); pip install 'agescale[onnx]'"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"ONNX has no form of this network ({reason}); use --format torch") from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert exported is not None
    message = exported.model_proto
    for name, value in told.items():
        entry = message.metadata_props.add()
        entry.key, entry.value = f"agescale.{name}", value if isinstance(value, str) else json.dumps(value)
    return bytes(message.SerializeToString())


def _run_onnx(data: bytes, images_NHWC: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return [np.asarray(values) for values in session.run(None, {IMAGES: images_NHWC})]


def _torch_bytes(program: torch.export.ExportedProgram, told: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No complete tensor")  # of weights in channels_last; on the CPU all is saved
        torch.export.save(program, buffer, extra_files={METADATA_NAME: json.dumps(told)})
    return buffer.getvalue()


def _run_torch(data: bytes, images_NHWC: np.ndarray) -> list[np.ndarray]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")  # nobody writes to it
        module = torch.export.load(io.BytesIO(data)).module()
    with torch.inference_mode():
        return [values.numpy() for values in module(torch.from_numpy(images_NHWC))]


def _check_installed() -> None:
    try:
        import onnx, onnxruntime, onnxscript  # noqa: E401, F401, I001
    except ImportError as error:
        raise ValueError(f"--format onnx needs more ({error}): pip install 'agescale[onnx]'") from None


def _format_of(out: str) -> str:
    ending = Path(paths.name_of(out)).suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"--out {out}: a name that ends in {' or '.join(FORMATS)}, or say --format")
    return FORMATS[ending]


def _check_out(out: str, checkpoint: str) -> None:
    """Raises ValueError or StoreError where the file cannot be written, or would lie where it may not."""
    if checkpoint and out.startswith(f"{checkpoint}/"):
        raise ValueError(f"--out {out}: there is the checkpoint; give another folder")
    folders.check_file(out)
    if not paths.is_remote(out) and Path(out).is_dir():
        raise ValueError(f"--out {out}: a folder stands there; name a file")
    objects.check_writable(out.rpartition("/")[0])
