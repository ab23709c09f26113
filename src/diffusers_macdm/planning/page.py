"""The plan to look at: one page with what the training sees, what was chosen and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..progress import duration
from ..report.contact_sheet import save
from ..report.page import png_source, render, write_index
from .plan_file import PARTS, PLAN_FILE
from .show import show_sheet


SHEET_FILE = "sheet.png"
STAGES = {
    "classifier": "training of the classifier",
    "denoiser": "training of the denoiser",
    "samples": "samples",
    "audit": "copy audit",
    "pages": "pages and card",
}


def write_sheet(folder: Path, data: str, plan: Mapping[str, Any]) -> None:
    """Write the contact sheet of the cases at the plan's resolution."""
    save(show_sheet(data, plan["denoiser"]["resolution"]), folder / SHEET_FILE)


def plan_page(folder: Path, plan: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    """Write `index.html`, self-contained, beside the contact sheet.

    Args:
        plan: what plan.json says.
        report: what the check of the data found.
    """
    expected = plan["expected"]
    page = render(
        "plan.html.jinja",
        plan=plan,
        facts=plan["data"],
        denoiser=plan["denoiser"],
        expected=expected,
        stages=[(STAGES[name], duration(seconds)) for name, seconds in expected["parts"].items() if seconds],
        total=duration(expected["seconds"]),
        notes=report["notes"],
        sheet=png_source((folder / SHEET_FILE).read_bytes()),
        settings={name: plan[name] for name in PARTS},
        plan_file=PLAN_FILE,
    )
    write_index(folder, page)
