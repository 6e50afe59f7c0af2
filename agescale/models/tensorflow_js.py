"""Tensors of a graph model of TensorFlow.js: a JSON file that names them, and binary shards that hold them in turn."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import torch

from agescale.models.checkpoints import StateDict

DTYPES = {"float32": np.dtype("<f4"), "int32": np.dtype("<i4")}


def read_tensors(graph: bytes, shards: Mapping[str, bytes]) -> StateDict:
    """Tensors by name, of ``graph`` (the JSON file) and the ``shards`` that it asks for, by name.

    Raises ValueError, in one line, for what is stored in another way: quantised, for instance.

    >>> entry = {"name": "bias", "shape": [2], "dtype": "float32"}
    >>> graph = json.dumps({"weightsManifest": [{"paths": ["a.bin", "b.bin"], "weights": [entry]}]}).encode()
    >>> halves = {"a.bin": np.float32(1).tobytes(), "b.bin": np.float32(2).tobytes()}
    >>> read_tensors(graph, halves)["bias"].tolist()
    [1.0, 2.0]
    """
    tensors: StateDict = {}
    for group in json.loads(graph)["weightsManifest"]:
        data, start = b"".join(shards[path] for path in group["paths"]), 0
        for entry in group["weights"]:
            if entry["dtype"] not in DTYPES or "quantization" in entry:
                raise ValueError(f"{entry['name']} is stored as {entry['dtype']}, quantised or not: float32 is read")
            dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
            count = int(np.prod(shape, dtype=int))
            values = np.frombuffer(data, dtype, count, start).reshape(shape)
            tensors[entry["name"]] = torch.from_numpy(values.copy())
            start += count * dtype.itemsize
        if start != len(data):
            raise ValueError(f"{', '.join(group['paths'])}: {len(data):,} bytes, of which the graph names {start:,}")
    return tensors
