"""The audit to look at: montage, histograms, and one page with everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..report.page import png_source, render, write_index
from .copies import CopyDetector
from .neighbours import Comparison


MONTAGE_PAIRS = 24
_TILE, _COLUMNS, _CAPTION = 128, 4, 30


def write_pictures(folder: Path, made, training, detector: CopyDetector, comparison: Comparison, lines, result: dict) -> None:
    """`montage.png`, `distances.png` and, where there is a curve, `strengths.png`."""
    order = np.argsort(detector.closeness(comparison), kind="stable")[:MONTAGE_PAIRS]
    _montage(made.images, training.images, comparison.nearest, lines, order).save(folder / "montage.png", optimize=True)
    _histograms(folder / "distances.png", detector, comparison)
    if result["strength_curve"]:
        _strengths(folder / "strengths.png", result["strength_curve"], result["nominal_false_alarm_rate"]["value"])


def _montage(synthetic, training, nearest, lines, order) -> Image.Image:
    """The most suspicious pairs, left the synthetic image and right its nearest training image, the closest first."""
    columns = min(_COLUMNS, len(order))
    rows = -(-len(order) // columns)
    width, height = 2 * _TILE + 14, _TILE + _CAPTION + 8
    sheet = Image.new("RGB", (columns * width + 8, rows * height + 26), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    draw.text((8, 6), "left: synthetic, right: nearest training image; closest first; red: called a copy", "black", font)
    for place, i in enumerate(order):
        left, top = 8 + place % columns * width, 26 + place // columns * height
        line = lines[i]
        if line["copy"]:
            draw.rectangle((left - 2, top - 2, left + 2 * _TILE + 3, top + _TILE + 1), outline="red", width=2)
        for side, image in enumerate((synthetic[i], training[nearest[i]])):
            tile = Image.fromarray(image.numpy()).resize((_TILE, _TILE), Image.Resampling.BICUBIC)
            sheet.paste(tile.convert("RGB"), (left + side * (_TILE + 2), top))
        names = f"{Path(line['image_file_name']).stem} | {Path(line['nearest_training_image']).stem}"
        numbers = f"distance {line['aligned_distance']:.3f}, ratio {line['nearest_ratio']:.2f}"
        draw.text((left, top + _TILE + 2), names[:42], "black", font)
        draw.text((left, top + _TILE + 15), numbers, "black", font)
    return sheet


def _histograms(path: Path, detector: CopyDetector, comparison: Comparison) -> None:
    from matplotlib.figure import Figure

    null = detector.null
    panels = [
        ("closeness (what decides)", detector.closeness(comparison), detector.closeness(null), detector.threshold),
        *(
            (name.replace("_", " "), getattr(comparison, name), getattr(null, name), np.quantile(getattr(null, name), 0.05))
            for name in ("aligned_distance", "nearest_ratio", "embedding_distance", "pixel_distance")
        ),
    ]
    figure = Figure(figsize=(4 * len(panels), 3.4), layout="constrained")
    for axes, (title, synthetic, validation, threshold) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        low = float(np.quantile(np.concatenate([synthetic, validation]), 0.002))
        high = float(np.quantile(np.concatenate([synthetic, validation]), 0.995))
        bins = np.linspace(low, max(high, low + 1e-6), 41)
        for values, name, color in ((validation, "validation", "tab:gray"), (synthetic, "synthetic", "tab:red")):
            weights = np.full(len(values), 1 / len(values))
            axes.hist(np.clip(values, bins[0], bins[-1]), bins, weights=weights, label=name, color=color, alpha=0.55)
        axes.axvline(threshold, color="black", linewidth=1, linestyle="--", label="5th percentile of validation")
        axes.set(title=title, ylabel="share of images")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def _strengths(path: Path, curve: list[dict], chance: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    x = [point["strength"] for point in curve]
    low, high = zip(*(point["interval"] for point in curve), strict=True)
    axes.fill_between(x, low, high, color="tab:red", alpha=0.2, label="95 % interval")
    axes.plot(x, [point["value"] for point in curve], "o-", color="tab:red", label="called a copy")
    axes.plot(x, [point["nearest_is_source"] for point in curve], "s--", color="tab:blue", label="nearest is its source")
    axes.axhline(chance, color="black", linewidth=1, linestyle=":", label=f"chance, {100 * chance:.0f} %")
    axes.set(xlabel="strength Z / T", ylabel="share of variations", ylim=(-0.03, 1.03))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=90)


PAGE = """{% extends "base.html" %}
{% from "parts.html" import head, picture %}
{% block title %}Copy audit{% endblock %}
{% block body %}
<h1>Copy audit</h1>
<p class="verdict{{ " bad" if alarming }}">{{ r.verdict }}</p>
<p>Compared with {{ r.settings.training_images }} training images; {{ r.settings.validation_images }} validation images say how
near an image comes that copies nobody. A copy is closer to a training image, after the best alignment, than 95 % of these.</p>
{% if r.notes %}<ul>{% for note in r.notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<h2>Copies</h2>
<div class="scroll"><table>{{ head(["", "share", "95 % interval", "of"]) }}<tbody>
{% macro row(name, part) %}<tr><th scope="row">{{ name }}</th><td>{{ part.value | percent }}</td>
<td class="interval">{{ part.interval | interval }}</td>
<td>{{ part.total if part.total is defined else "" }}</td></tr>{% endmacro %}
{{ row("synthetic images called copies", r.copy_rate) }}
{{ row("expected by chance (nominal; interval: the threshold's own uncertainty)", r.nominal_false_alarm_rate) }}
{{ row("false alarms on the test split", r.false_alarms or none_measured) }}
{{ row("training images that were copied", r.training_images_copied) }}
{{ row("authentic synthetic images", r.authenticity) }}
{% for label, part in r.by_label.items() %}{{ row("label " ~ label, part) }}{% endfor %}
{% for strength, part in r.by_strength.items() %}
{{ row("from noise" if strength == "none" else "strength " ~ strength, part) }}{% endfor %}
</tbody></table></div>
<p class="note">Authentic: farther from its nearest training image than that one is from its own nearest neighbour. Nearest /
second-nearest ratio over other patients: median {{ "%.3f" | format(r.nearest_ratio.median) }}, of validation images
{{ "%.3f" | format(r.nearest_ratio.median_validation) }}.</p>
<h2>Does the audit find copies? Planted ones</h2>
<div class="scroll"><table>
{{ head(["training images, altered", "found", "95 % interval", "of", "traced to their source"]) }}<tbody>
{% for kind, part in r.sensitivity.items() %}<tr><th scope="row">{{ kind }}</th><td>{{ part.value | percent }}</td>
<td class="interval">{{ part.interval | interval }}</td><td>{{ part.total }}</td><td>{{ part.attributed | percent }}</td></tr>
{% endfor %}</tbody></table></div>
<h2>The {{ pairs }} most suspicious pairs</h2>
{{ picture(montage, "Synthetic images beside their nearest training images") }}
<h2>Distances</h2>
{{ picture(distances, "Histograms of distances of synthetic and of validation images") }}
<h2>Membership inference</h2>
{% if r.membership and r.membership.auc is not none %}
<p>By its denoising error at t / T = {{ r.membership.noise_levels | join(", ") }} a training case is told from a validation
case of the same label with AUC {{ "%.3f" | format(r.membership.auc) }}
(95 % interval {{ "%.3f" | format(r.membership.interval[0]) }} to
{{ "%.3f" | format(r.membership.interval[1]) }}; 0.5 is chance) over {{ r.membership.members }} and
{{ r.membership.others }} cases.</p>
{% else %}<p>Not measured: no model was given.</p>{% endif %}
<h2>Variations of real cases</h2>
{% if strengths %}
{{ picture(strengths, "Copy rate against strength") }}
{% if r.strength_level is none %}<p>At no strength measured is it shown that the audit cannot tell which case a variation was
made from.</p>
{% else %}<p>From strength {{ r.strength_level }} on, variations are called copies no more often than chance explains, and fewer
than 1 in 10 (upper end of the interval) lie nearest to their own case. Below, the audit may tell which case a variation was
made from.</p>{% endif %}
{% else %}<p>Not measured: no strengths were asked for.</p>{% endif %}
<h2>Settings</h2>
<pre>{{ settings | pretty }}</pre>
{% endblock %}
"""


def write_page(folder: Path, result: dict) -> None:
    """`index.html`, self-contained."""
    pictures = {name: folder / f"{name}.png" for name in ("montage", "distances", "strengths")}
    page = render(
        PAGE,
        r=result,
        alarming=not result["reliable"]
        or result["copy_rate"]["interval"][0] > result["nominal_false_alarm_rate"]["interval"][1],
        none_measured={"value": None, "interval": None, "total": "no test split"},
        pairs=min(MONTAGE_PAIRS, result["copy_rate"]["total"]),
        settings={**result["settings"], "versions": result["versions"]},
        **{name: png_source(path.read_bytes()) if path.is_file() else "" for name, path in pictures.items()},
    )
    write_index(folder, page)
