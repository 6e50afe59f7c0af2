"""The picture of what labelled photos are worth: mean absolute error by how many were learned from, a line a curve that
few_labels.py measured, with its 95 % interval.

python benchmarks/few_labels_picture.py --out docs/learning-curve.png \
    --curves APPA-REAL=runs/few/appa "APPA-REAL, from ImageNet=runs/few/appa-imagenet"
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import tyro
from matplotlib.figure import Figure

from agescale.reports import figures

NONE_AT = 30
"""Where a logarithmic axis has room for no labels at all."""


@dataclass(frozen=True)
class Config:
    """Draw curves of few_labels.py."""

    curves: tuple[str, ...]
    """Name and folder of each, as ``NAME=FOLDER``; those of names with ``from ImageNet`` are dashed."""
    out: str
    """PNG file to write."""


@mpl.rc_context(figures.STYLE)
def main(config: Config) -> None:
    figure = Figure(figsize=(figures.WIDTH_IN * 1.3, 3.2))
    axes = figure.subplots()
    colours: dict[str, str] = {}
    for text in config.curves:
        name, _, folder = text.rpartition("=")
        curve = json.loads(Path(folder, "curve.json").read_bytes())
        label_N, mae_N = [at["labels"] or NONE_AT for at in curve], [at["mae"] for at in curve]
        data = name.partition(",")[0]
        colour = colours.setdefault(data, (figures.ACCENT, figures.SECOND, figures.INK)[len(colours) % 3])
        axes.plot(label_N, mae_N, "--o" if "from ImageNet" in name else "-o", color=colour, markersize=4, label=name)
        low_N, high_N = zip(*(at["intervals"]["mae"] for at in curve), strict=True)
        axes.fill_between(label_N, low_N, high_N, color=colour, alpha=0.12)
    ticks = [NONE_AT, 100, 300, 1000, 4000]
    axes.set_xscale("log")
    axes.set_xticks(ticks, ["0", *(f"{tick:,}" for tick in ticks[1:])])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("labelled photos learned from")
    axes.set_ylabel("mean absolute error, years")
    axes.legend(loc="lower left")
    Path(config.out).write_bytes(figures.to_png(figure))


if __name__ == "__main__":
    main(tyro.cli(Config))
