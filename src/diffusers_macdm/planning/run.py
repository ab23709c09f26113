"""Settings of the trainings from the data and the device: `macdm plan`.

OUT/plan.json          what `macdm train` follows; it may be edited
OUT/plan/index.html    the same to look at, with what the training sees (sheet.png beside it)
OUT/check.json         what `macdm check` says of the data
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import diffusers
import torch

from ..data.check import inspect_dataset
from ..files import locked, new_folder, refuse_unknown, write_json
from ..hub.loading import own_version
from ..progress import Progress
from ..training.launching import mixed_precision
from . import choose
from .fingerprint import fingerprint
from .measuring import key_of, measure_audit, measure_trainings
from .page import plan_page, write_sheet
from .plan_file import PLAN_FILE, check_plan
from .reasons import reasons
from .settings import PlanSettings, seconds_of_budget


CHECK_FILE, PAGE_FOLDER = "check.json", "plan"
WRITTEN = (PLAN_FILE, CHECK_FILE, PAGE_FOLDER, "index.html")  # what stands in OUT after this command


def run(settings: PlanSettings, *, show_progress: bool = True) -> dict[str, Any]:
    """Plan the trainings and write plan.json and its page into the folder `out`.

    Args:
        settings: what is asked for.
        show_progress: whether to show on stderr how far the work is.

    Returns:
        What plan.json says.

    Raises:
        FileNotFoundError: when there is no such data folder.
        FileExistsError: when `out` holds a plan or something else, or another process is writing there.
        ValueError: when the data has faults, or nothing can be learned from it here in this time.
    """
    with locked(Path(settings.out)):
        out = Path(settings.out)
        if (out / PLAN_FILE).exists():
            raise FileExistsError(f"{out / PLAN_FILE} is there already: edit it, or delete it to have it made again.")
        refuse_unknown(out, WRITTEN, "a model's folder")
        plan, report = make_plan(settings, show_progress=show_progress)
        write_plan(out, settings.data, plan, report)
        return plan


def write_plan(out: Path, data: str, plan: dict[str, Any], report: dict[str, Any]) -> None:
    """Write a plan, what the check said, and the page; plan.json last."""
    write_json(out / CHECK_FILE, {"data": Path(data).resolve().name, **report}, indent=2)
    with new_folder(out / PAGE_FOLDER) as folder:
        write_sheet(folder, data, plan)
        plan_page(folder, plan, report)
    write_json(out / PLAN_FILE, plan, indent=2)


def make_plan(settings: PlanSettings, *, show_progress: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plan the trainings; nothing is written.

    The seconds of the time budget are counted from the call on, so that the time of the planning is part of them.

    Returns:
        What plan.json says, and what the check of the data found.
    """
    started = time.monotonic()
    preset = choose.PRESETS[settings.preset]
    budget = preset.budget if settings.time_budget is None else seconds_of_budget(settings.time_budget)
    facts, report = look_at(settings.data, show_progress)
    with Progress(2, "probe", "part", show=show_progress) as progress:
        device, trainings, precisions = _probe(settings, preset, facts, budget)
        progress.update()
        seconds_of = {side: speed["update"] for side, speed in trainings.items() if "update" in speed}
        if not seconds_of:
            raise ValueError(
                f"{settings.data}: not even {min(trainings)} px fit into the memory of this device; take a larger one, or "
                "--preset quick."
            )
        choose.refuse_vanishing(settings.data, facts, sorted(seconds_of))
        side = choose.chosen_side(facts, preset, seconds_of, budget)
        audit = measure_audit(settings.data, side)
        progress.update()
    precision = device["precision"]
    denoiser = choose.denoiser_settings(preset, side, precision, device["kind"], os.cpu_count() or 1, settings.seed)
    classifier = None
    if settings.with_classifier:
        classifier = choose.classifier_settings(side, precision, settings.seed)
        denoiser["guidance_scale"] = 0.0  # of the pictures: they are what they are without a classifier, and take no longer
    hardware = {name: device[name] for name in ("device", "kind", "threads", "memory")}
    measured = {"start": device["start"], "denoiser": trainings[side], "audit": audit, "device": hardware}
    if classifier is not None:
        speed, base = device["classifier"], choose.sides(facts, preset)[0]
        measured["classifier"] = {**speed, "update": speed["update"] * (side / base) ** 2}
    plan = {
        "preset": settings.preset,
        "time_budget_seconds": budget,
        "denoiser": denoiser,
        "classifier": classifier,
        "samples": {"num_per_class": preset.num_per_class, "classifier_free_guidance_scale": 1.5, "batch_size": 32},
        "audit": None if audit is None else dict(preset.audit),
        "data": facts,
        "device": hardware,
        "region_of_interest": choose.region_advice(facts, side),
    }
    spent = time.monotonic() - started
    text = settings.time_budget or f"{budget / 60:g}m"
    plan, measured = choose.fit_length(plan, measured, budget - spent, text, spent)
    measured["of"] = key_of(plan["denoiser"])
    plan["expected"] = choose.expectation(plan, measured) | {"planning": round(spent, 1)}
    plan["measured"] = measured
    plan["reasons"] = reasons(plan, seconds_of, precisions)
    plan["versions"] = versions()
    check_plan(plan, "the plan")
    return plan, report


def versions() -> dict[str, str]:
    """Versions that a plan records."""
    return {"diffusers_macdm": own_version(), "diffusers": diffusers.__version__, "torch": torch.__version__}


def look_at(data: str, show_progress: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the data is like, and what the check says; a set with a fault, or too small for anything, is refused."""
    report = inspect_dataset(data, show_progress=show_progress)
    if report.faults:
        first, count = report.faults[0], len(report.faults)
        more = f" and {count - 1} more: `macdm check {data}` lists them" if count > 1 else ""
        raise ValueError(f"{data}: {first.file}: {first.reason.rstrip('.')}{more}.")
    facts = fingerprint(data, show_progress)
    choose.refuse_data(data, facts)
    return facts, report.to_dict()


def _probe(settings: PlanSettings, preset: choose.Preset, facts: dict, budget: float) -> tuple[dict, dict, dict]:
    """Measure the trainings at the resolutions that come into question, in float32 and, where there is bf16, in that.

    Returns:
        What `measure_trainings` says, with the faster `precision` and the `classifier`; the measurements by resolution in that
        precision; seconds of an update by precision, at the first resolution.
    """
    sides, fast = choose.sides(facts, preset), mixed_precision()
    kind, cores = "cuda" if torch.cuda.is_available() else "cpu", os.cpu_count() or 1

    def at(side: int, precision: str) -> tuple[str, dict[str, Any]]:
        return "denoiser", choose.denoiser_settings(preset, side, precision, kind, cores, settings.seed)

    asked = [at(sides[0], "no")] if fast == "no" else [at(sides[0], "no"), at(sides[0], fast)]
    asked += [at(side, fast) for side in sides[1:]]
    if settings.with_classifier:
        asked.append(("classifier", choose.classifier_settings(sides[0], fast, settings.seed)))
    result = measure_trainings(settings.data, asked, 32 * budget / choose.ENOUGH_SAMPLES)
    measured = result.pop("trainings")
    result["classifier"] = measured.pop() if settings.with_classifier else None
    first = list(zip(asked, measured, strict=False))[: 1 if fast == "no" else 2]
    precisions = {values["mixed_precision"]: part["update"] for (_, values), part in first if "update" in part}
    if fast == "no" or "update" not in measured[0]:
        by_side = dict(zip(sides, measured if fast == "no" else measured[1:], strict=True))
        return {**result, "precision": fast}, by_side, precisions
    slow, faster, *others = measured
    is_faster = faster.get("update", float("inf")) < slow["update"]
    by_side = {sides[0]: faster if is_faster else slow, **dict(zip(sides[1:], others, strict=True))}
    return {**result, "precision": fast if is_faster else "no"}, by_side, precisions
