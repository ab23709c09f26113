"""The audit to look at: montage, histograms, and one page with everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..report.page import BLUE, GRAY, VERMILION, png_source, render, write_index
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
    draw.text((8, 6), "left: synthetic, right: nearest training image; closest first; framed: called a copy", "black", font)
    for place, i in enumerate(order):
        left, top = 8 + place % columns * width, 26 + place // columns * height
        line = lines[i]
        if line["copy"]:
            draw.rectangle((left - 2, top - 2, left + 2 * _TILE + 3, top + _TILE + 1), outline=VERMILION, width=2)
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
        for values, name, color in ((validation, "validation", GRAY), (synthetic, "synthetic", VERMILION)):
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
    axes.fill_between(x, low, high, color=VERMILION, alpha=0.2, label="95 % interval")
    axes.plot(x, [point["value"] for point in curve], "o-", color=VERMILION, label="called a copy")
    axes.plot(x, [point["nearest_is_source"] for point in curve], "s--", color=BLUE, label="nearest is its source")
    axes.axhline(chance, color="black", linewidth=1, linestyle=":", label=f"chance, {100 * chance:.0f} %")
    axes.set(xlabel="strength Z / T", ylabel="share of variations", ylim=(-0.03, 1.03))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def write_page(folder: Path, result: dict) -> None:
    """`index.html`, self-contained."""
    pictures = {name: folder / f"{name}.png" for name in ("montage", "distances", "strengths")}
    page = render(
        "audit.html.jinja",
        r=result,
        alarming=not result["reliable"]
        or result["copy_rate"]["interval"][0] > result["nominal_false_alarm_rate"]["interval"][1],
        none_measured={"value": None, "interval": None, "total": "no test split"},
        pairs=min(MONTAGE_PAIRS, result["copy_rate"]["total"]),
        settings={**result["settings"], "versions": result["versions"]},
        **{name: png_source(path.read_bytes()) if path.is_file() else "" for name, path in pictures.items()},
    )
    write_index(folder, page)
