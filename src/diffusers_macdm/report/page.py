"""What the HTML pages share: one style, the marks of a verdict, filters for numbers, pictures within the page.

A page is one file that needs nothing else: no script, no link to the outside. Colors are those of Okabe and Ito (2008), told
apart by color-blind readers too, and nothing is said by color alone.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .contact_sheet import contact_sheet


BLUE, ORANGE, GREEN, VERMILION = "#0072b2", "#b87a00", "#007a5a", "#c44e00"
PURPLE, SKY, GRAY = "#a8538a", "#3f8fbf", "#5f6368"
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
MODELS = {  # of `macdm compare`, where their names alone would not say it
    "classifier_free": "classifier-free guidance",
    "guided_ddpm": "DDPM without masks",
    "mask_conditional": "mask-conditional DDPM",
}
WORDS = {"roc": "ROC", "auc": "AUC", "kid": "KID", "dice": "Dice", "hausdorff95": "Hausdorff distance (95 %)"}
WORDS |= {"macdm": "MaC-DM", "gan": "GAN", "ddpm": "DDPM"}
SHEET_COLUMNS, SHEET_ROWS, SHEET_TILE = 4, 3, 128

STYLE = (
    f":root {{ --good: {BLUE}; --bad: {VERMILION}; --neutral: {GRAY}; }}"
    + """
  * { box-sizing: border-box; }
  body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", "DejaVu Sans", sans-serif;
         max-width: 1200px; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff; overflow-wrap: break-word; }
  a { color: var(--good); }
  h1 { line-height: 1.2; margin-bottom: .5rem; }
  h2 { margin: 2.2rem 0 .6rem; padding-top: .4rem; border-top: 2px solid #e3e3e3; line-height: 1.25; }
  h3 { margin: 1.4rem 0 .3rem; }
  p, li, dd { max-width: 75ch; }
  img { max-width: 100%; height: auto; }
  figure { margin: 0 0 1rem; }
  figcaption, .note { color: #555; font-size: .9rem; }
  .pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap: 1rem; }
  .scroll { overflow-x: auto; margin: .8rem 0; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
  th, td { border-bottom: 1px solid #d0d0d0; padding: .3rem .8rem; text-align: right; vertical-align: top; }
  th:first-child, td:first-child { text-align: left; padding-left: 0; }
  thead th { border-bottom: 2px solid #888; vertical-align: bottom; }
  tbody th { font-weight: normal; min-width: 6rem; }
  th.text, td.text { text-align: left; }
  td.note { min-width: 15rem; }
  .interval { white-space: nowrap; }
  .narrow { max-width: 600px; }
  pre { background: #f4f4f4; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
  nav { font-size: .9rem; margin: .8rem 0; }
  nav a { margin-right: .9rem; white-space: nowrap; }
  dt { font-weight: 600; margin-top: .6rem; }
  dd { margin: 0; }
  .verdict { border-left: .45rem solid var(--neutral); background: #f6f6f6; padding: .6rem 1rem; font-size: 1.1rem;
             max-width: none; margin: .7rem 0; }
  .verdict.good { border-color: var(--good); }
  .verdict.bad { border-color: var(--bad); }
  .mark { color: var(--neutral); white-space: nowrap; }
  .mark.good { color: var(--good); font-weight: 600; }
  .mark.bad { color: var(--bad); font-weight: 600; }
  .verdict .mark { display: inline-block; background: var(--neutral); color: #fff; font-weight: 600; border-radius: .25rem;
                   padding: 0 .6rem; margin-right: .5rem; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .verdict .mark.good { background: var(--good); }
  .verdict .mark.bad { background: var(--bad); }
  @media (max-width: 600px) {
    body { margin: 1rem auto; }
    th, td { padding: .3rem .5rem; }
    .verdict { padding: .5rem .7rem; font-size: 1rem; }
  }
  @media print {
    body { max-width: none; margin: 0; font-size: 10pt; }
    nav { display: none; }
    .scroll { overflow: visible; }
    table { font-size: 8pt; }
    figure, tr, .verdict { break-inside: avoid; }
    h2, h3 { break-after: avoid; }
  }
"""
)

BASE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{% block title %}{% endblock %}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
{% block body %}{% endblock %}
</main>
</body>
</html>
"""

PARTS = """
{%- macro picture(source, alt, caption="") -%}
<figure><img src="{{ source }}" alt="{{ alt }}">{% if caption %}<figcaption>{{ caption }}</figcaption>{% endif %}</figure>
{%- endmacro -%}
{%- macro mark(verdict) -%}
{% set kind, words = marks[verdict] %}<span class="mark {{ kind }}">{{ words }}</span>
{%- endmacro -%}
{%- macro head(names, texts=()) -%}
<thead><tr>{% for name in names %}<th scope="col"{% if loop.first or name in texts %} class="text"{% endif %}>{{ name }}</th>
{%- endfor %}</tr></thead>
{%- endmacro -%}
{%- macro estimate(row) -%}
{% if not row or row.value is none %}{{ not_measured }}{% else %}{{ row.value | number }} <span class="interval">
({{- row.interval | number_interval }})</span>{% endif %}
{%- endmacro -%}
{%- macro difference(row) -%}
{% if not row or row.value is none %}{{ not_measured }}{% else %}{{ row.value | number(sign=True) }} <span class="interval">
({{- row.interval | number_interval(sign=True) }})</span><br>{{ mark(row.verdict) }}{% endif %}
{%- endmacro -%}
{%- macro ending(notes, settings) -%}
{% if notes %}<h2 id="notes">Notes</h2>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<h2 id="settings">Settings and versions</h2>
<pre>{{ settings | pretty }}</pre>
{%- endmacro -%}
"""


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
    """The name of an arm, a model or a metric in words."""
    if name in MODELS:
        return MODELS[name]
    words = name.replace("real_plus_synthetic", "real_+_synthetic").split("_")
    return " ".join(WORDS.get(word, word) for word in words)


def render(template: str, **values) -> str:
    """A page from a template that extends "base.html" and may import the macros of "parts.html"."""
    import jinja2

    loader = jinja2.DictLoader({"base.html": BASE, "parts.html": PARTS, "page.html": template})
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters.update(
        percent=percent,
        interval=percent_interval,
        number=number,
        number_interval=number_interval,
        plain=plain,
        pretty=lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
    )
    environment.globals.update(style=STYLE, marks=MARKS, not_measured=NOT_MEASURED)
    return environment.get_template("page.html").render(**values)


def write_index(folder: Path, page: str) -> None:
    """`index.html` of a folder, under a temporary name first, so that no half-written page is ever seen."""
    temporary = Path(folder) / ".index.html.tmp"
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(Path(folder) / "index.html")


def png_source(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def image_source(image: Image.Image) -> str:
    """A picture as the source of an <img>."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return png_source(stream.getvalue())


def figure_source(figure) -> str:
    """A matplotlib figure as the source of an <img>."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160)
    return png_source(stream.getvalue())


def sheet_source(cases) -> str:
    """The first pairs of some `evaluation.cases.Cases`, not the best ones, as the source of an <img>; no outlines where there
    are no masks."""
    shown = cases.select(range(min(len(cases), SHEET_COLUMNS * SHEET_ROWS)))
    radiographs = (shown.radiographs[:, 0] / 2 + 0.5).clamp(0, 1).numpy()  # [N, H, W] in [0, 1]
    anatomy_masks, lesion_masks = shown.masks.numpy().swapaxes(0, 1)  # [N, H, W] each
    return image_source(
        contact_sheet(
            radiographs, anatomy_masks, lesion_masks, columns=SHEET_COLUMNS, tile=SHEET_TILE, outlines=shown.has_masks
        )
    )
