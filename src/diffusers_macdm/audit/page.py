"""The audit to look at: montage, histograms, and one page with everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..report.contact_sheet import match_sheet, save
from ..report.page import png_source, render, write_index
from ..report.plots import curves, histograms
from .copies import CopyDetector
from .neighbours import Comparison


MONTAGE_PAIRS = 24
MEASURES = ("aligned_distance", "nearest_ratio", "embedding_distance", "pixel_distance")


def write_pictures(
    folder: Path, synthetic, training, detector: CopyDetector, comparison: Comparison, lines, result: dict
) -> None:
    """Write `montage.png`, `distances.png` and, where there is a curve, `strengths.png`.

    Args:
        synthetic, training: the images that were compared.
        lines: what `audit.jsonl` says of each synthetic image.
        result: what `audit.json` says.
    """
    order = np.argsort(detector.closeness(comparison), kind="stable")[:MONTAGE_PAIRS]
    montage = match_sheet(
        [(synthetic.images[i].numpy(), training.images[comparison.nearest[i]].numpy()) for i in order],
        [_caption(lines[i]) for i in order],
        [lines[i]["copy"] for i in order],
        "left: synthetic, right: nearest training image; closest first; framed: called a copy",
    )
    save(montage, folder / "montage.png")

    null = detector.null
    panels = {"closeness (what decides)": (detector.closeness(null), detector.closeness(comparison), detector.threshold)}
    for name in MEASURES:
        reference = getattr(null, name)
        panels[name.replace("_", " ")] = (reference, getattr(comparison, name), np.quantile(reference, 0.05))
    figure = histograms(panels, ("validation", "synthetic", "5th percentile of validation"), "share of images")
    figure.savefig(folder / "distances.png", dpi=90)

    if result["strength_curve"]:
        chance = result["nominal_false_alarm_rate"]["value"]
        figure = curves(
            {
                "called a copy": [point | {"x": point["strength"]} for point in result["strength_curve"]],
                "nearest is its source": [
                    {"x": point["strength"], "value": point["nearest_is_source"], "interval": None}
                    for point in result["strength_curve"]
                ],
            },
            "strength Z / T",
            "share of variations (95 % interval)",
            {f"chance, {chance:.0%}".replace("%", " %"): chance},
        )
        figure.axes[0].set_ylim(-0.03, 1.03)
        figure.savefig(folder / "strengths.png", dpi=110)


def _caption(line: dict) -> tuple[str, str]:
    return (
        f"{Path(line['image_file_name']).stem} | {Path(line['nearest_training_image']).stem}",
        f"distance {line['aligned_distance']:.3f}, ratio {line['nearest_ratio']:.2f}",
    )


def write_page(folder: Path, result: dict) -> None:
    """Write `index.html`, self-contained, beside the pictures that are there."""
    pictures = {name: folder / f"{name}.png" for name in ("montage", "distances", "strengths")}
    page = render(
        "audit.html.jinja",
        r=result,
        alarming=result["outcome"] != "chance",
        none_measured={"value": None, "interval": None, "total": "no test split"},
        pairs=min(MONTAGE_PAIRS, result["copy_rate"]["total"]),
        settings={**result["settings"], "versions": result["versions"]},
        **{name: png_source(path.read_bytes()) if path.is_file() else "" for name, path in pictures.items()},
    )
    write_index(folder, page)
