"""What the figures of all stages share: style, colours, axes, and how a matplotlib ``Figure`` becomes a file or HTML.

Each stage draws its own in its ``plots.py``, one function a figure. A figure becomes a file by ``to_png``, or a part of
a page by ``to_svg``, whose ink follows the page's text colour in light and in dark. No ``pyplot``, no global state.
"""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1c2023", "#6b7075", "#dfe1e4"
ACCENT, SECOND = "#2f6f9f", "#d08a2e"
PAPER = "#fefefe"
CSS_COLOURS = {
    PAPER: "var(--paper)",
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
}
WIDTH_IN, WIDE_IN = 4.9, 10.2

STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5, "legend.frameon": False, "legend.borderaxespad": 0.2,
    "text.color": INK, "axes.labelcolor": MUTED, "xtick.color": GRID, "ytick.color": GRID,
    "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED, "axes.edgecolor": GRID, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
    "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "xtick.major.size": 0, "ytick.major.size": 0,
    "lines.linewidth": 1.6, "patch.linewidth": 0, "figure.facecolor": "white", "figure.constrained_layout.use": True,
    "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "agescale",
}  # fmt: skip


def to_png(figure: Figure, dpi: int = 150) -> bytes:
    """``figure`` as a PNG file, on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


@mpl.rc_context(STYLE)
def to_svg(figure: Figure, name: str, description: str) -> str:
    """``figure`` as SVG within HTML: real text, no URLs, ids that start with ``name``, colours as CSS variables.

    No file by itself: the page must define the variables of ``CSS_COLOURS``.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'\s(width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*|font-family: [^;\"]*;", lambda m: f"font-size: {m[1]}" if m[1] else "", svg)
    svg = re.sub(r"<defs>\s*<style.*?</defs>", "", svg, flags=re.DOTALL)  # its rule for "*" would reach the whole page
    for colour, variable in CSS_COLOURS.items():
        svg = svg.replace(colour, variable)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


def axes_of(height: float, width: float = WIDTH_IN) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def legend_above(axes: Axes, columns: int = 2) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, handlelength=1.2)
