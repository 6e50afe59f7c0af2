"""What all reports share: templates, inlined figures, numbers and names as text, and by what each kind is known."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from agescale.reports.figures import Figure, to_svg
from agescale.store import objects

UNKNOWN: tuple[Any, ...] = (None, "", [], {})
"""Values of a card that say nothing and are not shown."""


def template(name: str) -> Template:
    """A page to be filled in, with the filters that all pages have."""
    environment = Environment(
        loader=PackageLoader("agescale.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "count": lambda value: "–" if value is None else f"{value:,}",
        "years": lambda value: number(value, "{:.2f}"),
        "signed": lambda value: number(value, "{:+.2f}"),
        "percent": percent,
        "signed_percent": lambda value: number(value, "{:+.1%}"),
        "decimal": lambda value: number(value, "{:.3f}"),
        "age": lambda value: number(value, "{:.1f}"),
        "text": text,
        "cell": cell,
    }
    return environment.get_template(name)


def inline(figures: Mapping[str, tuple[Figure, str]]) -> dict[str, Markup]:
    """Figures with their descriptions, by name, as parts of a page."""
    return {
        name: Markup(to_svg(figure, name, description))  # our own SVG, in which matplotlib escapes the texts
        for name, (figure, description) in figures.items()
    }


def text(value: Any, separator: str = ", ") -> str:
    """A value of a card, or of a setting, as people read it."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {text(item)}" for key, item in value.items() if item not in UNKNOWN)
    if isinstance(value, (list, tuple)):
        return separator.join(text(item) for item in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def cell(value: object) -> str:
    r"""A text from data in a table of Markdown: one line, in which nothing is marked up.

    >>> print(cell("a|b\n![c](http://d)"))
    a\|b !\[c\](http://d)
    """
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", " ".join(str(value).split()))


def number(value: float | None, style: str) -> str:
    """A number as people read it, or a dash."""
    return "–" if value is None else style.format(value).replace("%", "\N{NO-BREAK SPACE}%").replace("-", "−")


def percent(share: float | None) -> str:
    return number(share, "{:.1%}")


def interval(bounds: Sequence[float | None] | None, style: str) -> str:
    if bounds is None or bounds[0] is None:
        return "–"
    return " to ".join(number(bound, style) for bound in bounds).replace("\N{NO-BREAK SPACE}% to", " to")


def is_about(uri: str, marks: Collection[str]) -> bool:
    """Whether the numbers beside a page stand there, and tell all of the ``marks``, by which its kind is known."""
    try:
        numbers = json.loads(objects.read_bytes(uri)) if objects.exists(uri) else None
    except ValueError:
        return False
    return isinstance(numbers, dict) and set(marks) <= set(numbers.get("about") or ())
