"""The values, differences and sentences of a comparison, from what was measured in its folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..audit.verdict import far_note
from ..evaluation.arms import CONTROLS
from ..evaluation.endpoints import (
    AT_CHANCE,
    BETTER,
    ENDPOINTS,
    HELPS,
    HURTS,
    MIN_SEEDS,
    NAMES,
    NO_CLAIM,
    NO_EVIDENCE,
    PRIMARY,
    WORSE,
    Measurements,
    TestSet,
    conclude,
)
from ..evaluation.networks import TASKS
from ..statistics.proportions import proportion
from ..statistics.trainings import t_interval
from .folds import Fold
from .models import MODELS
from .models.macdm import MaCDM


@dataclass(frozen=True)
class FoldResult:
    """Measurements of one fold.

    Attributes:
        facts: of each model, what `fit` returned and `seconds_per_pair`.
        measures: of each model `realism` and `fit` (see `evaluation`; fit is None without masks), `copies` and `far` (a
            `proportion` with its `nominal_rate` each).
        runs: `(task, arm, seed)` -> columns of the test cases, float64 `[N]` each; a model's name is its arm's.
    """

    fold: Fold
    facts: Mapping[str, dict]
    measures: Mapping[str, dict]
    runs: Mapping[tuple[str, str, int], Mapping[str, np.ndarray]]


def summarise(
    fold_results: Sequence[FoldResult], models: Sequence[str], seeds: Sequence[int], num_resamples: int, dataset: str
) -> dict:
    """comparison.json without settings and versions.

    The test cases of all folds are taken together, as `macdm evaluate` does. What is measured on the pairs is a mean over the
    trainings of the generative models.
    """
    results, differences, realism_rows, fit_rows = [], [], [], []
    shares: dict[str, list[dict]] = {"copies": [], "far": []}
    sizes = list(dict.fromkeys(result.fold.size for result in fold_results))
    for size in sizes:
        of_size = [result for result in fold_results if result.fold.size == size]
        train_size = round(np.mean([len(result.fold.train) for result in of_size]))
        trainings = list({result.fold.trained: result for result in of_size}.values())
        rows, compared = _downstream(of_size, models, seeds, num_resamples)
        results += [{"dataset": dataset, "train_size": train_size, **row} for row in rows]
        differences += [{"train_size": train_size, **row} for row in compared]
        for model in models:
            tag = {"model": model, "train_size": train_size}
            measures = [result.measures[model] for result in trainings]
            realism_rows += [{**tag, **row} for row in over_folds([measured["realism"]["measures"] for measured in measures])]
            if measures[0]["fit"] is not None:
                fit_rows += [{**tag, **row} for row in over_folds([measured["fit"]["measures"] for measured in measures])]
            for name, rows in shares.items():
                rows.append({**tag, **_pooled([measured[name] for measured in measures])})

    largest = max(row["train_size"] for row in results)
    verdicts, sentences = _conclusions(
        models,
        [row for row in results if row["train_size"] == largest],
        [row for row in differences if row["train_size"] == largest],
    )
    most = max(sizes, key=lambda size: size or 0)  # None stands alone
    last = [result for result in fold_results if result.fold.size == most]
    return {
        "conclusion": sentences,
        "verdicts": verdicts,
        "models": {model: _model_facts(model, last) for model in models},
        "results": results,
        "differences": differences,
        "realism": realism_rows,
        "fit": fit_rows,
        **shares,
        "feature_extractor": fold_results[0].measures[models[0]]["realism"]["feature_extractor"],
        "notes": [*_notes(fold_results, models, seeds), *_far_notes(shares["far"], largest)],
    }


def _pooled(shares: Sequence[Mapping]) -> dict:
    """The share of all folds together, with its `nominal_rate`."""
    count, total = (sum(share[name] for share in shares) for name in ("count", "total"))
    return {**proportion(np.arange(total) < count), "nominal_rate": float(np.mean([share["nominal_rate"] for share in shares]))}


def _far_notes(far: Sequence[Mapping], train_size: int) -> list[str]:
    """What is to be said of the copies of models whose films are none."""
    notes = (far_note(_listed([row["model"]]), row["count"], row["total"]) for row in far if row["train_size"] == train_size)
    return [note for note in notes if note is not None]


def _downstream(
    fold_results: Sequence[FoldResult], models: Sequence[str], seeds, num_resamples: int
) -> tuple[list[dict], list[dict]]:
    """Rows of `results` and `differences` of one training size."""
    test = TestSet.of({result.fold.name: result.fold.test for result in fold_results})
    columns: dict[str, dict[str, list]] = {task: {} for task in TASKS}
    for task, arm, seed in fold_results[0].runs:
        runs = [result.runs[task, arm, seed] for result in fold_results]
        joined = {column: np.concatenate([run[column] for run in runs]) for column in runs[0]}
        columns[task].setdefault(arm, []).append(joined)
    measurements = Measurements(test, columns, num_resamples)
    results, differences = [], []
    for endpoint in ENDPOINTS:
        arms = list(columns[endpoint.task])
        for arm in arms:
            row = measurements.result(endpoint, arm)
            results.append({"model": arm if arm in models else None, **row})
        pairs = [(model, control) for model in models for control in CONTROLS]
        if MaCDM.name in models:
            pairs += [(MaCDM.name, other) for other in models if other != MaCDM.name]
        differences += [
            measurements.difference(endpoint, arm, against) for arm, against in pairs if arm in arms and against in arms
        ]
    return results, differences


def over_folds(per_fold: Sequence[Sequence[dict]]) -> list[dict]:
    """Rows of the same names, masks and labels in all folds, their numbers averaged.

    Where there are folds, the interval of the value is that of a mean of as many numbers (t distribution), and others are left
    out: each fold has networks of its own to measure with, so that its cases cannot be pooled with the others'.
    """
    if len(per_fold) == 1:
        return list(per_fold[0])
    rows = []
    for row in per_fold[0]:
        key = [row.get(name) for name in ("name", "mask", "label")]
        same = [other for fold in per_fold for other in fold if [other.get(name) for name in ("name", "mask", "label")] == key]
        averaged = {name: row[name] for name in ("name", "mask", "label") if name in row}
        for name, value in row.items():
            if name not in averaged and not name.endswith("interval") and not isinstance(value, str):
                numbers = [other[name] for other in same if other[name] is not None]
                averaged[name] = float(np.mean(numbers)) if numbers else None
        values = [other["value"] for other in same]
        rows.append(
            {**averaged, "interval": t_interval([value for value in values if value is not None], least=3), "per_fold": values}
        )
    return rows


def _model_facts(model: str, fold_results: Sequence[FoldResult]) -> dict:
    """What the model is, and means over the folds."""
    mean = lambda name: float(np.mean([result.facts[model][name] for result in fold_results]))  # noqa: E731
    return {
        "description": MODELS[model].description,
        "makes_masks": MODELS[model].makes_masks,
        "num_parameters": fold_results[0].facts[model]["num_parameters"],
        "steps": fold_results[0].facts[model]["steps"],
        "seconds_training": mean("seconds"),
        "seconds_per_pair": mean("seconds_per_pair"),
    }


def _conclusions(models: Sequence[str], results: Sequence[dict], differences: Sequence[dict]) -> tuple[dict, list[str]]:
    """Verdict of each model in each task, from the primary endpoints, and the sentences that say it."""
    verdicts, sentences = {}, []
    for task in TASKS:
        metric = PRIMARY[task].metric
        tested = [row["arm"] for row in results if row["metric"] == metric and row["arm"] in models]
        answers = {model: conclude(task, model, model, results, differences) for model in tested}
        verdicts[task] = {model: answer["verdict"] for model, answer in answers.items()}
        by_verdict = {}
        for model, answer in answers.items():
            by_verdict.setdefault(answer["verdict"], []).append(model)
        says = {
            HELPS: "better than every control are the pairs of {}",
            HURTS: "worse than every control are the pairs of {}",
            NO_EVIDENCE: "no evidence that the pairs of {} help",
            NO_CLAIM: "no claim is made about {}",
        }
        told = [sentence.format(_listed(by_verdict[verdict])) for verdict, sentence in says.items() if verdict in by_verdict]
        if told:
            # The controls are the same for all models.
            at_chance = f" {AT_CHANCE}" if any(answer["controls_at_chance"] for answer in answers.values()) else ""
            sentences.append(f"{NAMES[task]}: {'; '.join(told)}.{at_chance}")
        sentences += [answer["sentence"] for answer in answers.values() if answer["verdict"] in (HELPS, HURTS)]
        sentences += _macdm_against_others(task, metric, differences, models, verdicts[task])
    return verdicts, sentences


def _macdm_against_others(task: str, metric: str, differences, models, verdicts: Mapping[str, str]) -> list[str]:
    if verdicts.get(MaCDM.name) in (None, NO_CLAIM):
        return []
    rows = [row for row in differences if row["metric"] == metric and row["arm"] == MaCDM.name and row["against"] in models]
    says = {
        BETTER: "better than those of {}",
        WORSE: "worse than those of {}",
        NO_EVIDENCE: "no evidence of a difference from those of {}",
    }
    told = []
    for verdict, sentence in says.items():
        others = [row["against"] for row in rows if row["verdict"] == verdict]
        if others:
            told.append(sentence.format(_listed(others)))
    return [f"{NAMES[task]}, MaC-DM's pairs against the other models': {'; '.join(told)}."] if told else []


def _listed(names: Sequence[str]) -> str:
    titles = [MODELS[name].title for name in names]
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"


def _notes(fold_results: Sequence[FoldResult], models: Sequence[str], seeds: Sequence[int]) -> list[str]:
    notes = [
        "Each generative model was trained once for the same training cases: the intervals cover the choice of test patients "
        "and the downstream trainings, not how another training of the generative model would turn out.",
    ]
    if len(models) > 1:
        notes.append(
            f"{len(models)} models are judged side by side, each by 95 % intervals of its own: the more of them, the likelier "
            "it is that one looks better or worse by chance."
        )
    few = TestSet.of(
        {result.fold.name: result.fold.test for result in fold_results if result.fold.size == fold_results[0].fold.size}
    ).few_patients()
    if few is not None:
        notes.append(few)
    if len(seeds) < MIN_SEEDS:
        notes.append(f"Only {len(seeds)} of {MIN_SEEDS} seeds: chance in the training is not measured, and no claim is made.")
    given = [model for model in models if MODELS[model].makes_masks == "given"]
    if given:
        notes.append(f"The masks in the pairs of {_listed(given)} are those of training cases, not generated ones.")
    if len({result.fold.trained for result in fold_results}) > 1:
        notes.append(
            "Realism and fit are means over the folds; their intervals are those of a mean of as many values, rough because "
            "the folds share training cases."
        )
    return notes
