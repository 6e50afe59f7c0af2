"""A figure as a file, and as a part of a page."""

from __future__ import annotations

from agescale.reports import figures


def test_a_figure_is_a_png_file_or_a_part_of_a_page() -> None:
    figure, axes = figures.axes_of(height=2)
    axes.plot([1, 2], [3, -4], label="errors")
    figures.legend_above(axes)
    assert figures.to_png(figure).startswith(b"\x89PNG")
    svg = figures.to_svg(figure, "errors", 'errors "and" <more>')
    assert svg.startswith('<svg role="img" aria-label="errors &quot;and&quot; &lt;more>"')
    assert "http" not in svg
