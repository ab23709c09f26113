"""From the records of single trainings to the tables of evaluation.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .arms import CONTROLS, REAL_ONLY, Arm, filter_name, ratio_name
from .divisions import Division
from .endpoints import PRIMARY, Measurements, TestSet, conclude, measured
from .plan import Plan


Runs = Mapping[tuple[str, str, str, int], Mapping[str, Any]]  # names of division, task and arm, and seed -> record


def summarise(plan: Plan, runs: Runs) -> tuple[dict, Measurements]:
    """Return what evaluation.json says about the trainings, and the measurements that it comes from."""
    tasks, divisions, dataset = plan.settings.tasks, plan.divisions, str(plan.settings.real)
    test = TestSet.of({division.name: division.test for division in divisions})
    columns = columns_of(runs, divisions, tasks)
    measurements = Measurements(test, columns, plan.settings.resamples)
    endpoints = measured(tasks, plan.synthetic.known_masks)
    arms = [arm for arm in plan.arms if arm.name in columns[tasks[0]]]
    results = [{"dataset": dataset, **measurements.result(endpoint, arm.name)} for endpoint in endpoints for arm in arms]
    names = [arm.name for arm in arms]
    differences = [
        measurements.difference(endpoint, arm.name, control)
        for endpoint in endpoints
        for arm in arms
        for control in CONTROLS
        if control in names and control != arm.name and (arm.uses_synthetic or control == REAL_ONLY)
    ]
    conclusions = []
    for task in tasks:
        best = best_ratio(runs, divisions, task, arms)
        description = "" if best is None else f"Ratio {best.ratio:g}, chosen on the validation cases,"
        conclusions.append(conclude(task, None if best is None else best.name, description, results, differences))
    few = test.few_patients()
    verdict_fields = ("arm", "verdict", "controls_at_chance")
    result = {
        "conclusion": [conclusion["sentence"] for conclusion in conclusions],
        "verdicts": {row["task"]: {name: row[name] for name in verdict_fields} for row in conclusions},
        "results": results,
        "differences": differences,
        "by_site": _by_site(plan, runs) if plan.site_divisions else None,
        "by_fold": _by_fold(columns, test, arms) if len(divisions) > 1 else None,
        "arms": {arm.name: _arm_facts(arm, runs, divisions, tasks) for arm in arms},
        "notes": [] if few is None else [few],
    }
    return result, measurements


def columns_of(runs: Runs, divisions: Sequence[Division], tasks: Sequence[str]) -> dict[str, dict[str, list]]:
    """Return task -> arm -> columns of each seed, the divisions one after the other."""
    columns: dict[str, dict[str, list]] = {task: {} for task in tasks}
    first = divisions[0].name
    for (name, task, arm, seed), record in runs.items():
        if name == first:
            pieces = [runs[division.name, task, arm, seed]["columns"] for division in divisions]
            joined = {column: np.concatenate([piece[column] for piece in pieces]) for column in record["columns"]}
            columns[task].setdefault(arm, []).append(joined)
    return columns


def best_ratio(runs: Runs, divisions: Sequence[Division], task: str, arms: Sequence[Arm]) -> Arm | None:
    """Return the ratio with the best mean of the validation score over divisions and seeds; of equal ones the smallest."""
    best = None
    for arm in sorted((arm for arm in arms if arm.ratio is not None), key=lambda arm: arm.ratio):
        scores = _validation_scores(_records(runs, divisions, arm), task)
        score = float(np.mean(scores)) if scores else 0.0
        if best is None or score > best[0]:
            best = score, arm
    return None if best is None else best[1]


def compare_filters(kept: Mapping[str, Sequence[tuple[int, int]]], measurements: Measurements, tasks: Sequence[str]) -> dict:
    """Compare each filter with no filter at ratio 1.

    Args:
        kept: for each filter the numbers of pairs kept and dropped in each division; their means are reported, rounded.
        measurements: measurements of all arms.
        tasks: tasks that were measured.
    """
    compared = {}
    for name, counts in kept.items():
        arms = filter_name(name), ratio_name(1)
        differences = [measurements.difference(PRIMARY[task], *arms) for task in tasks if measurements.has(task, *arms)]
        num_kept, num_dropped = np.mean(counts, axis=0).round().astype(int).tolist()
        compared[name] = {"kept": num_kept, "dropped": num_dropped, "differences": differences}
    return compared


def generation_rows(result: dict, dataset: str) -> list[dict]:
    """Return the measures of all labels together as rows of `results`, for the model card."""
    measures = [
        *((row["name"], row) for row in result["realism"]["measures"]),
        *((f"{row['mask']}_fit_dice", row) for row in (result["fit"] or {"measures": ()})["measures"]),
    ]
    return [
        {
            "task": "generation",
            "dataset": dataset,
            "metric": metric,
            "arm": "synthetic pairs",
            "value": row["value"],
            "interval": row["interval"],
        }
        for metric, row in measures
        if row["label"] is None
    ]


def _records(runs: Runs, divisions: Sequence[Division], arm: Arm) -> dict[tuple, Mapping[str, Any]]:
    """The records of an arm in these divisions."""
    names = {division.name for division in divisions}
    return {key: record for key, record in runs.items() if key[0] in names and key[2] == arm.name}


def _validation_scores(records: Mapping[tuple, Mapping[str, Any]], task: str) -> list[float]:
    scores = [record["validation_score"] for (_, of_task, *_), record in records.items() if of_task == task]
    return [score for score in scores if score is not None]


def _arm_facts(arm: Arm, runs: Runs, divisions: Sequence[Division], tasks: Sequence[str]) -> dict:
    """Numbers of cases are means over divisions, rounded."""
    records = _records(runs, divisions, arm)
    scores = {task: _validation_scores(records, task) for task in tasks}
    return {
        "description": arm.description,
        "num_real": round(np.mean([record["num_real"] for record in records.values()])),
        "num_synthetic": round(np.mean([record["num_synthetic"] for record in records.values()])),
        "steps": max(record["steps"] for record in records.values()),
        "validation_score": {task: float(np.mean(values)) if values else None for task, values in scores.items()},
    }


def _by_fold(columns: Mapping[str, Mapping[str, list]], test: TestSet, arms: Sequence[Arm]) -> list[dict]:
    """The primary endpoints in each fold, means over the seeds."""
    rows = []
    for task, of_task in columns.items():
        for arm in arms:
            for fold in dict.fromkeys(test.folds.tolist()):
                here = test.folds == fold
                per_seed = [
                    PRIMARY[task].compute(
                        {name: values[here] for name, values in of_seed.items()}, test.has_lesion[here], test.folds[here]
                    )
                    for of_seed in of_task[arm.name]
                ]
                rows.append(
                    {
                        "fold": fold,
                        "task": task,
                        "metric": PRIMARY[task].metric,
                        "arm": arm.name,
                        "value": _number(np.mean(per_seed)),
                        "per_seed": [_number(value) for value in per_seed],
                        "num_cases": int(here.sum()),
                    }
                )
    return rows


def _by_site(plan: Plan, runs: Runs) -> list[dict]:
    """All endpoints on each site that neither trained nor chose."""
    rows = []
    for division in plan.site_divisions:
        columns = columns_of(runs, [division], plan.settings.tasks)
        test = TestSet.of({division.name: division.test})
        measurements = Measurements(test, columns, plan.settings.resamples)
        for endpoint in measured(plan.settings.tasks, plan.synthetic.known_masks):
            for arm in columns.get(endpoint.task, ()):
                site = division.name.removeprefix("site-")
                rows.append({"site": site, **measurements.result(endpoint, arm)})
    return rows


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
