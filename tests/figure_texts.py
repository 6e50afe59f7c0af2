"""What a figure says."""

from __future__ import annotations

from matplotlib.figure import Figure


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text")))
