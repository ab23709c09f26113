"""What the HTML pages share: one style, the marks of a verdict, filters for numbers, pictures within the page.

A page is one file that needs nothing else: no script, no link to the outside.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from ..files import write_text
from .palette import VERDICT_COLORS, VERDICT_COLORS_ON_DARK


TEMPLATES = Path(__file__).parent / "templates"
# Class and words of each verdict; the style has its color.
MARKS = {
    "helps": ("good", "▲ helps"),
    "hurts": ("bad", "▼ hurts"),
    "better": ("good", "▲ better"),
    "worse": ("bad", "▼ worse"),
    "no evidence": ("neutral", "● no evidence"),
    "no claim": ("neutral", "○ no claim"),
}
NOT_MEASURED = "not measured"
# Parts of names in the code that are written otherwise on a page.
WORDS = {"roc": "ROC", "auc": "AUC", "kid": "KID", "dice": "Dice", "hausdorff95": "Hausdorff distance (95 %)", "plus": "+"}


def percent(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.1%}"


def percent_interval(pair: Sequence[float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.1%} to {pair[1]:.1%}"


def number(value: float | None, sign: bool = False) -> str:
    """Return a number with three decimals; four below 0.01, one from 10 and none from 1000 on.

    Args:
        sign: for differences: a plus where it is due, and never four decimals.
    """
    if value is None:
        return NOT_MEASURED
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if size >= 100_000:
        return f"{value:{'+' if sign else ''}.2e}".replace("-", "−")
    digits = 0 if size >= 1000 else 1 if size >= 10 else 4 if 0 < size < 0.01 and not sign else 3
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    return text.replace("-", "−")


def number_interval(pair: Sequence[float] | None, sign: bool = False) -> str:
    return "no interval" if pair is None else f"{number(pair[0], sign)} to {number(pair[1], sign)}"


def plain(name: str) -> str:
    """Return a name in the code, of a metric or an option, in words: "roc_auc" -> "ROC AUC"."""
    return " ".join(WORDS.get(word, word) for word in name.split("_"))


def render(template: str | Path, names: Mapping[str, str] | None = None, **values) -> str:
    """Return a page from a template that extends "base.html.jinja" and may import the macros of "parts.html.jinja".

    Args:
        template: name of one in `report/templates`, or the path of another one.
        names: words of the names that `plain` does not know.
        values: what the template shows; every text is escaped.
    """
    import jinja2

    folders = [TEMPLATES, *([template.parent] if isinstance(template, Path) else [])]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters.update(
        percent=percent,
        interval=percent_interval,
        number=number,
        number_interval=number_interval,
        plain=lambda name: (names or {}).get(name) or plain(name),
        pretty=lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
    )
    environment.globals.update(
        colors=VERDICT_COLORS, dark_colors=VERDICT_COLORS_ON_DARK, marks=MARKS, not_measured=NOT_MEASURED
    )
    name = template.name if isinstance(template, Path) else template
    return environment.get_template(name).render(**values)


def write_index(folder: Path, page: str) -> None:
    """Write `index.html` of a folder, atomically."""
    write_text(Path(folder) / "index.html", page)


def png_source(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def image_source(image: Image.Image) -> str:
    """Return a picture as the source of an image element."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return png_source(stream.getvalue())


def figure_source(figure) -> str:
    """Return a matplotlib figure as the source of an image element."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160)
    return png_source(stream.getvalue())
