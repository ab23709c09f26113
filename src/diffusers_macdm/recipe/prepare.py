"""What a call of `macdm train` works with: plan, data and speed of the device, checked before anything is written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..devices import available_device
from ..files import LOCK_FILE, SETTINGS_FILE, read_json, refuse_unknown
from ..planning import choose
from ..planning.fingerprint import digest_of
from ..planning.measuring import key_of, measure_audit, measure_trainings
from ..planning.plan_file import PARTS, PLAN_FILE, read_plan, setting_of
from ..planning.run import WRITTEN, look_at, make_plan, versions, write_plan
from ..planning.settings import PlanSettings, seconds_of_budget
from ..progress import duration
from .settings import Settings


RECORD_FILE = "train.json"


@dataclass(frozen=True)
class Prepared:
    """A call that can begin, or go on.

    Attributes:
        plan: all of its parts, and the facts of the data (`data`).
        measured: speed of this device (see `planning.expected`).
        report: what the check of the data found, where the plan is not written in `out` yet.
    """

    plan: dict[str, Any]
    measured: dict[str, Any]
    report: dict[str, Any] | None

    def record(self) -> dict[str, Any]:
        """What decides what comes out: an interrupted call goes on with the very same alone."""
        return {**{part: self.plan.get(part) for part in PARTS}, "data_sha256": self.plan["data"]["sha256"]}

    def write(self, out: Path, data: str) -> None:
        """Write plan and page into `out`, where they are not there yet."""
        if self.report is not None:
            write_plan(out, data, self.plan, self.report)


def prepare(settings: Settings, out: Path, *, show_progress: bool = True) -> Prepared:
    """Find the plan that is followed and check that it can be; nothing is written.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: see `run.run`.
    """
    begun = out / SETTINGS_FILE
    if not begun.is_file():
        refuse_unknown(out, (*WRITTEN, LOCK_FILE), "a model's folder")
    if not (out / PLAN_FILE).is_file() and settings.plan is None:
        budget = PlanSettings(
            settings.data, out, settings.time_budget, settings.preset or "default", settings.with_classifier, settings.seed
        )
        plan, report = make_plan(budget, show_progress=show_progress)
        _refuse_processes(settings, plan)
        return Prepared(plan, plan["measured"], report)
    plan, report = _given_plan(settings, out, show_progress)
    _refuse_processes(settings, plan)
    if begun.is_file():
        _refuse_other(settings, out, plan, read_json(begun, "give another folder"))
    measured = _measured(settings, out, plan)
    if report is not None:
        plan |= {"measured": measured, "expected": choose.expectation(plan, measured), "device": measured["device"]}
    return Prepared(plan, measured, report)


def _given_plan(settings: Settings, out: Path, show_progress: bool) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The plan in `out` or that of --plan, with the facts of the data; and the check's report where `out` has no plan yet."""
    own = out / PLAN_FILE
    if not own.is_file():
        facts, report = look_at(settings.data, show_progress)
        return _completed(read_plan(settings.plan), facts, settings), report
    plan = read_plan(own)
    if settings.plan is not None:
        other = read_plan(settings.plan)
        for part in PARTS:
            # The plan that is there says more of the denoiser than a plan by hand has to.
            theirs, ours = (values.get(part) or {} for values in (other, plan))
            if bool(theirs) != bool(ours) or any(ours.get(name) != value for name, value in theirs.items()):
                raise ValueError(f"{settings.plan} has another {part} than {own}: give none, or another folder.")
    _refuse_other_options(settings, own, plan)
    if "data" not in plan:
        raise ValueError(f"{own}: data is missing: `macdm plan` writes it; a plan without is given by --plan.")
    if plan["data"].get("sha256") != digest_of(settings.data):
        raise ValueError(
            f"{settings.data} is not the data that {own} was made for ({plan['data'].get('folder')}), or was changed since: "
            "give the same data, or another folder."
        )
    return plan, None


def _completed(plan: dict[str, Any], facts: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A plan of --plan, which other data or somebody by hand may have made, with all that a page says of one."""
    denoiser = {name: setting_of(plan, "denoiser", name) for name in ("resolution", "max_train_steps", "train_batch_size")}
    return {
        **{part: plan.get(part) for part in PARTS},
        "denoiser": {**plan["denoiser"], **denoiser},
        "data": facts,
        "region_of_interest": choose.region_advice(facts, denoiser["resolution"]),
        "reasons": [f"The settings are those of {settings.plan}, which was given.", *plan.get("reasons", [])],
        "versions": plan.get("versions") or versions(),
    }


def _refuse_other_options(settings: Settings, own: Path, plan: dict[str, Any]) -> None:
    """Refuse options that contradict the plan that is there."""
    asked = {
        "preset": (settings.preset, plan.get("preset")),
        "with_classifier": (settings.with_classifier or None, plan.get("classifier") is not None),
        "seed": (settings.seed or None, setting_of(plan, "denoiser", "seed")),
    }
    for name, (ours, theirs) in asked.items():
        if ours is not None and ours != theirs:
            raise ValueError(f"{name}={ours} is not that of {own} ({theirs}): leave it out, or give another folder.")
    budget = plan.get("time_budget_seconds")
    if settings.time_budget is not None and seconds_of_budget(settings.time_budget) != budget:
        theirs = "none" if budget is None else duration(budget)
        raise ValueError(
            f"time_budget={settings.time_budget} is not that of {own} ({theirs}): leave it out, or give another folder."
        )


def _refuse_processes(settings: Settings, plan: dict[str, Any]) -> None:
    for part in ("denoiser", "classifier"):
        if plan.get(part) is not None:
            batch = setting_of(plan, part, "train_batch_size")
            if batch % settings.processes:
                raise ValueError(f"processes={settings.processes} do not share the batch of {batch} of the {part} evenly.")


def _refuse_other(settings: Settings, out: Path, plan: dict[str, Any], begun: dict[str, Any]) -> None:
    """Refuse another plan than that which `out` was begun with, by the name of the first setting that differs."""
    for part in PARTS:
        before, now = (value or {} for value in (begun.get(part), plan.get(part)))
        for name in dict.fromkeys((*before, *now)):
            if before.get(name) != now.get(name):
                values = f"{before.get(name, 'the default')}, now {now.get(name, 'the default')}"
                raise ValueError(
                    f"{out} was begun with another plan: {part}.{name} was {values}; give the plan as it was, or another "
                    "folder."
                )
    if begun.get("data_sha256") != plan["data"]["sha256"]:
        raise ValueError(f"{settings.data} is not the data that {out} was begun with: give the same data, or another folder.")


def _measured(settings: Settings, out: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """The measurements of the plan, or of an earlier call, that are of these very trainings on this device; else new ones."""
    from ..training.records import hardware_name

    device = hardware_name(available_device(None))
    parts = [part for part in ("denoiser", "classifier") if plan.get(part) is not None]
    earlier = out / RECORD_FILE
    before = read_json(earlier).get("measured") if earlier.is_file() else None
    for measured in (before, plan.get("measured")):
        known = isinstance(measured, dict) and measured.get("of") == key_of(plan["denoiser"])
        known = known and all(part in measured for part in parts) and measured["device"]["device"] == device
        if known and (plan.get("audit") is None or measured.get("audit") is not None):
            return measured
    result = measure_trainings(settings.data, [(part, plan[part]) for part in parts], math.inf)
    for part, speed in zip(parts, result["trainings"], strict=True):
        if "update" not in speed:
            raise ValueError(
                f"the {part} of the plan {speed['left_out']} of this device: give it fewer channels or cases a batch."
            )
    audit = None
    if plan.get("audit") is not None:
        audit = measure_audit(settings.data, setting_of(plan, "denoiser", "resolution"))
        if audit is None:
            raise ValueError(
                f"{settings.data}: there are too few validation cases for the audit of the plan: set audit to null."
            )
    return {
        "start": result["start"],
        **dict(zip(parts, result["trainings"], strict=True)),
        "audit": audit,
        "of": key_of(plan["denoiser"]),
        "device": {name: result[name] for name in ("device", "kind", "threads", "memory")},
    }
