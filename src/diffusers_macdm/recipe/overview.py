"""One page that links everything that there is of a model: what a colleague can be sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import read_json
from ..report.page import png_source, render, write_index


PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class Part:
    """A line of the page: what there is, where, and what came out, in a sentence."""

    name: str
    link: str | None
    says: str


def _copies(audit: dict[str, Any]) -> str:
    rate, chance = audit["copy_rate"], audit["nominal_false_alarm_rate"]
    return f"{rate['value']:.0%} of {rate['total']} pairs are called copies; by chance it would be {chance['value']:.0%}."


def _conclusion(result: dict[str, Any]) -> str:
    return " ".join(result.get("conclusion") or ["No conclusion."])


# File that says that the work of a command is finished -> what it is called, and its sentence.
RESULTS = {
    "audit.json": ("Copy audit", _copies),
    "evaluation.json": ("Evaluation", _conclusion),
    "comparison.json": ("Comparison", _conclusion),
    "sweep.json": ("Sweep", _conclusion),
}


def write_overview(out: Path) -> None:
    """Write OUT/index.html from what stands in OUT."""
    plan = read_json(out / PLAN_FILE)
    sheet = out / "synthetic" / "contact_sheet.png"
    parts, audited = list(_parts(out, plan)), out / "audit" / "audit.json"
    audit = read_json(audited) if audited.is_file() else None
    page = render(
        "overview.html.jinja",
        name=plan["data"]["folder"],
        parts=parts,
        verdict=None if audit is None else audit["verdict"],
        alarming=audit is not None and audit["outcome"] != "chance",
        sheet=png_source(sheet.read_bytes()) if sheet.is_file() else None,
        has_model=(out / "model" / "model_index.json").is_file(),
        folder=out.name,
    )
    write_index(out, page)


def refresh_around(folder: Path | str | None) -> None:
    """Write the overview anew where a command has written into a model's folder, or into a folder beside its model."""
    if folder is None:
        return
    for out in (Path(folder), Path(folder).absolute().parent):
        if (out / PLAN_FILE).is_file() and (out / "plan" / "index.html").is_file():
            write_overview(out)
            return


def _parts(out: Path, plan: dict[str, Any]) -> Iterator[Part]:
    splits = ", ".join(f"{count} in {split}" for split, count in plan["data"]["splits"].items())
    if (out / "check.json").is_file():
        notes = len(read_json(out / "check.json")["notes"])
        yield Part("Check", "plan/index.html#check", f"No faults, {notes or 'no'} note{'s' * (notes != 1)}; cases: {splits}.")
    denoiser = plan["denoiser"]
    if (out / "plan" / "index.html").is_file():
        yield Part(
            "Plan",
            "plan/index.html",
            f"{denoiser.get('resolution', 64)} px, {denoiser.get('max_train_steps', 20000):,} updates.",
        )
    if (out / "training" / "index.html").is_file():
        done = (out / "model" / "model_index.json").is_file()
        yield Part("Training", "training/index.html", "Finished." if done else "Not finished: the same command goes on.")
    folders = sorted(path for path in out.iterdir() if path.is_dir() and not path.name.startswith("."))
    for folder in folders:
        if (folder / "summary.json").is_file() and (folder / "contact_sheet.png").is_file():
            pairs = read_json(folder / "summary.json").get("num_pairs")
            yield Part(f"Samples{_named(folder)}", f"{folder.name}/contact_sheet.png", f"{pairs} pairs.")
    for file, (name, says) in RESULTS.items():
        for folder in folders:
            if (folder / file).is_file():
                link = f"{folder.name}/index.html" if (folder / "index.html").is_file() else None
                yield Part(f"{name}{_named(folder)}", link, says(read_json(folder / file)))
    if (out / "card" / "README.md").is_file():
        yield Part("Model card", "card/README.md", "As the Hub would show it.")


def _named(folder: Path) -> str:
    """The folder's name behind that of a part, where it is not the usual one."""
    return "" if folder.name in ("synthetic", "audit", "evaluation") else f" ({folder.name})"
