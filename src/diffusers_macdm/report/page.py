"""What the HTML pages share: one style, the marks of a verdict, filters for numbers, pictures within the page.

A page is one file that needs nothing else: no script, no link to the outside. Colors are those of Okabe and Ito (2008), told
apart by color-blind readers too, and nothing is said by color alone.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from ..files import write_text
from .contact_sheet import contact_sheet


BLUE, ORANGE, GREEN, VERMILION = "#0072b2", "#b87a00", "#007a5a", "#c44e00"
PURPLE, SKY, GRAY = "#a8538a", "#3f8fbf", "#5f6368"
COLORS = {"good": BLUE, "bad": VERMILION, "neutral": GRAY}
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GRAY, "#000000")
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
# Words that are written otherwise than the names in the code.
WORDS = {"roc": "ROC", "auc": "AUC", "kid": "KID", "dice": "Dice", "hausdorff95": "Hausdorff distance (95 %)"}
WORDS |= {"macdm": "MaC-DM", "gan": "GAN", "ddpm": "DDPM"}
TEMPLATES = Path(__file__).parent / "templates"
SHEET_COLUMNS, SHEET_ROWS, SHEET_TILE = 4, 3, 128


def percent(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.1%}"


def percent_interval(pair: Sequence[float] | None) -> str:
    return "" if pair is None else f"{pair[0]:.1%} to {pair[1]:.1%}"


def number(value: float | None, sign: bool = False) -> str:
    """Three decimals; four below 0.01, one from 10 and none from 1000 on. `sign`, for differences: a plus, and never four."""
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
    """Return the name of an arm or a metric in words."""
    words = name.replace("real_plus_synthetic", "real_+_synthetic").split("_")
    return " ".join(WORDS.get(word, word) for word in words)


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
    environment.globals.update(colors=COLORS, marks=MARKS, not_measured=NOT_MEASURED)
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


def sheet_source(cases) -> str:
    """The first pairs of some `evaluation.cases.Cases`, not the best ones, as the source of an image element; no
    outlines where there are no masks."""
    shown = cases.select(range(min(len(cases), SHEET_COLUMNS * SHEET_ROWS)))
    radiographs = (shown.radiographs[:, 0] / 2 + 0.5).clamp(0, 1).numpy()  # [N, H, W] in [0, 1]
    anatomy_masks, lesion_masks = shown.masks.numpy().swapaxes(0, 1)  # [N, H, W] each
    return image_source(
        contact_sheet(
            radiographs, anatomy_masks, lesion_masks, columns=SHEET_COLUMNS, tile=SHEET_TILE, outlines=shown.has_masks
        )
    )
