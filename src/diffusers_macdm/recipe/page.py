"""A training to look at: loss curves, samples over time, the audit's verdict, how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import read_json
from ..planning.page import STAGES
from ..planning.plan_file import PARTS
from ..progress import duration
from ..report.page import figure_source, png_source, render, write_index
from ..report.plots import loss_curves
from .forecast import read_log
from .stages import Stages


TRAINING = "training"


def training_page(out: Path, plan: Mapping[str, Any], stages: Stages) -> dict[str, Any]:
    """Write OUT/training/index.html from what there is; return the `step` that is reached and the audit's `verdict`."""
    model = out / "model"
    rows = read_log(model / "training_log.jsonl")
    steps = plan["denoiser"].get("max_train_steps", 0)
    step = rows[-1]["step"] if rows else 0
    audit = read_json(out / "audit" / "audit.json") if (out / "audit" / "audit.json").is_file() else None
    sheet = out / "synthetic" / "contact_sheet.png"
    pictures = [(int(path.stem.split("-")[1]), path) for path in sorted((model / "samples").glob("step-*.png"))]
    verdict = None if audit is None else audit["verdict"]
    seconds = {STAGES.get(name, name): duration(value) for name, value in stages.seconds.items()}
    page = render(
        "training.html.jinja",
        name=plan["data"]["folder"],
        step=step,
        steps=steps,
        is_done=(model / "model_index.json").is_file(),
        verdict=verdict,
        alarming=audit is not None and audit["outcome"] != "chance",
        sheet=png_source(sheet.read_bytes()) if sheet.is_file() else None,
        curve=figure_source(loss_curves(rows)) if len(rows) > 1 else None,
        pictures=[(number, png_source(path.read_bytes())) for number, path in reversed(pictures)],
        seconds=seconds,
        forecast=stages.noted("forecast"),
        minutes=lambda value: f"{value / 60:.1f} min",
        settings={part: plan.get(part) for part in PARTS},
    )
    (out / TRAINING).mkdir(exist_ok=True)
    write_index(out / TRAINING, page)
    return {"step": step, "verdict": verdict}
