"""Does it help: `macdm evaluate`.

OUT/settings.json                              what was asked for; the same OUT goes on with the same settings only
OUT/runs/ROUND/TASK/ARM/seed-S.json            one trained and tested network, written when it is finished
OUT/reference/                                 the networks behind filters, realism and fit, trained on real cases alone
OUT/evaluation.json, OUT/index.html            the answer; without them the evaluation is unfinished
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ..data.cases import Cases
from ..devices import available_device
from ..files import MADE_AGAIN, begin, check_seeds, read_columns, refuse_foreign, write_json
from ..generate.run import weights_digest
from ..hub.loading import load_pipeline, own_version
from .arms import CONTROLS, REAL_ONLY, Arm, build_arms, filter_name, ratio_name, stages_of, why_not
from .downstream import (
    COLUMNS,
    DIAGNOSIS,
    LEARNING_RATES,
    SEGMENTATION,
    TASKS,
    Budget,
    DownstreamTraining,
    measure_diagnosis,
    measure_segmentation,
)
from .endpoints import ENDPOINTS, MIN_SEEDS, PRIMARY, Measurements, TestSet, conclude
from .features import load_feature_extractor
from .filters import (
    BOTH,
    CLASSIFIER,
    FILTERS,
    NETWORK,
    SEGMENTER,
    MaskSampler,
    agrees_with_label,
    dice_of_masks,
    reaches,
    thresholds_of,
)
from .judge import Judge
from .rounds import Round, load_real, load_synthetic, make_rounds, make_site_rounds, refuse_leaks
from .settings import Settings


EVALUATION_FILE, RUNS, REFERENCE = "evaluation.json", "runs", "reference"
PACKAGES = ("torch", "transformers", "monai", "scikit-learn", "scipy", "numpy")


def run(settings: Settings, *, show_progress: bool = True) -> dict:
    """Train and test the downstream networks in every arm, and say whether the synthetic pairs help.

    Args:
        settings: what is asked for.
        show_progress: whether to show on stderr how far the work is.

    Returns:
        What `evaluation.json` says.

    Raises:
        FileNotFoundError, ValueError: when a set cannot be read, the sets leak into each other, or settings do not go together.
        FileExistsError: when `out` is complete or holds something else.
    """
    out = Path(settings.out)
    _check_names("task", settings.tasks, TASKS)
    _check_names("filter", settings.filters, FILTERS)
    if (NETWORK in settings.filters) != (settings.model is not None):
        raise ValueError(
            f"The filter {NETWORK!r} and the model that made the pairs (--model) go together: give both or neither."
        )
    check_seeds("seeds", settings.seeds)
    all_arms = build_arms({*settings.ratios, 1.0} if settings.filters else settings.ratios, settings.filters)
    if settings.arms is not None:
        _check_names("arm", settings.arms, [name for name, arm in all_arms.items() if arm.filter == "none"])
    chosen_arms = [
        arm for arm in all_arms.values() if settings.arms is None or arm.name in settings.arms or arm.filter != "none"
    ]
    if settings.filters and ratio_name(1) not in [arm.name for arm in chosen_arms]:
        chosen_arms.append(all_arms[ratio_name(1)])  # what a filter is compared with
    for arm in chosen_arms:
        if settings.downstream_steps < len(arm.pools):
            raise ValueError(f"steps={settings.downstream_steps} is not allowed: {arm.name} needs at least {len(arm.pools)}.")
    device = available_device(settings.device)
    widths = {DIAGNOSIS: settings.classifier_width, SEGMENTATION: settings.segmenter_width}
    budgets = {
        task: Budget(
            settings.downstream_steps,
            settings.downstream_batch_size,
            LEARNING_RATES[task],
            settings.validate_every,
            widths[task],
        )
        for task in TASKS
    }
    refuse_foreign(out, EVALUATION_FILE, "evaluation")
    mask_sampler = None if settings.model is None else _mask_sampler(settings.model, device)

    splits, notes = load_real(settings.real, settings.size, settings.samples_per_class)
    made = load_synthetic(settings.synthetic, settings.size, splits["train"])
    refuse_leaks(settings.real, splits, settings.synthetic, made, settings.allow_unrecorded)
    rounds = make_rounds(splits, made, settings.folds)
    site_rounds, untested_sites = make_site_rounds(splits, made) if settings.leave_one_site_out else ([], [])
    notes += untested_sites
    num_classes = 1 + max(int(cases.class_labels.max()) for cases in splits.values())
    training = DownstreamTraining(budgets, num_classes, settings.pretrained_classifier, device)
    training.check(settings.size)
    extractor = None
    if settings.feature_extractor is not None and not settings.skip_realism:
        extractor = load_feature_extractor(settings.feature_extractor, device=device)

    recorded = {
        "real": str(settings.real),
        "synthetic": str(settings.synthetic),
        "real_sha256": {split: cases.digest() for split, cases in splits.items()},
        "synthetic_sha256": made.digest(),
        "size": settings.size,
        "seeds": list(settings.seeds),
        "tasks": list(settings.tasks),
        "budgets": {task: asdict(budgets[task]) for task in settings.tasks},
        "arms": [arm.name for arm in chosen_arms],
        "filters": list(settings.filters),
        "model": None if settings.model is None else str(settings.model),
        "model_sha256": None if mask_sampler is None else weights_digest(mask_sampler.unet),
        "folds": settings.folds,
        "leave_one_site_out": settings.leave_one_site_out,
        "samples_per_class": None if settings.samples_per_class is None else list(settings.samples_per_class),
        "pretrained_classifier": settings.pretrained_classifier,
        "feature_extractor": settings.feature_extractor,
        "skip_realism": settings.skip_realism,
        "num_resamples": settings.resamples,
        "allow_unrecorded": settings.allow_unrecorded,
        "device": device.type,
    }
    begin(out, recorded, may_change=("real", "synthetic", "model"))
    if settings.allow_unrecorded:
        notes.append(
            "Where nothing records which cases trained the model behind the synthetic set, they were taken for others than the "
            "held-out ones (--allow-unrecorded)."
        )
    one_class = [part.name for part in rounds if len(set(part.validation.has_lesion.tolist())) < 2]
    if one_class:
        notes.append(
            f"The validation cases of {', '.join(one_class)} are of one class: there, the log-loss chose the state of the "
            "classifier, and a case counts as a lesion from a probability of 0.5 on."
        )
    if len(settings.seeds) < MIN_SEEDS:
        notes.append(
            f"Only {len(settings.seeds)} of {MIN_SEEDS} seeds: chance in the training is not measured, and no claim is made."
        )
    if site_rounds:
        notes.append("The generator was trained with cases of all sites, also of the one that is left out of the rest.")

    reference = Judge(
        splits["train"],
        training,
        seed=settings.seeds[0],
        folder=out / REFERENCE,
        extractor=extractor,
        show_progress=show_progress,
    )
    sets, kept = _filter_pairs(rounds, settings.filters, reference, mask_sampler)
    jobs = _plan(rounds, site_rounds, chosen_arms, settings.tasks, sets, notes)
    runs = _run_all(out, jobs, settings.seeds, training, show_progress)
    result = _summary(runs, rounds, site_rounds, chosen_arms, settings.tasks, settings.resamples, str(settings.real))
    result["filters"] = _compare_filters(kept, result.pop("measurements"), settings.tasks)
    result["realism"] = result["fit"] = None
    if not settings.skip_realism:
        held_out = Cases.concatenate([cases for split, cases in splits.items() if split != "train"])
        result |= reference.realism_and_fit(held_out, made)
        result["results"] += _generation_rows(result, str(settings.real))
    result["notes"] = notes + result["notes"]
    result["settings"] = recorded
    result["versions"] = _versions()
    result["seconds"] = {"trainings": sum(run["seconds"] for run in runs.values()), "training_runs": len(runs)}
    return _finish(out, result, splits, made)


# --- the runs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    round: Round
    task: str
    arm: Arm
    synthetic: Cases  # filtered where the arm says so


def _mask_sampler(model: str | Path, device: torch.device) -> MaskSampler:
    pipe = load_pipeline(model).to(device)
    pipe.set_progress_bar_config(disable=True)
    return MaskSampler(pipe)


def _filter_pairs(rounds: Sequence[Round], filters: Sequence[str], reference: Judge, mask_sampler: MaskSampler | None):
    """The pairs that each filter leaves in each round, `(round, filter)` -> pairs, and by filter how many it keeps and drops.

    The thresholds are those of the round's validation cases; no test case has a say.
    """
    sets = {(part.name, "none"): part.synthetic for part in rounds}
    kept: dict[str, list[tuple[int, int]]] = {name: [] for name in filters}
    made = rounds[0].synthetic  # the same in all of them
    agrees, networks = np.ones(len(made), dtype=bool), {}
    if {CLASSIFIER, BOTH} & set(filters):
        agrees = agrees_with_label(reference.network(DIAGNOSIS), made)
    if {SEGMENTER, BOTH} & set(filters):
        networks[SEGMENTER] = reference.network(SEGMENTATION)
    if NETWORK in filters:
        networks[NETWORK] = mask_sampler
    found = {name: dice_of_masks(network, made) for name, network in networks.items()}
    for part in rounds:
        thresholds = {name: thresholds_of(dice_of_masks(network, part.validation)) for name, network in networks.items()}
        fits = {name: reaches(found[name], thresholds[name]) for name in networks}
        left = {CLASSIFIER: agrees, **fits, BOTH: agrees & fits.get(SEGMENTER, agrees)}
        for name in filters:
            sets[part.name, name] = made.select(np.flatnonzero(left[name]))
            kept[name].append((int(left[name].sum()), int((~left[name]).sum())))
    return sets, kept


def _plan(rounds, site_rounds, arms: Sequence[Arm], tasks, sets: dict[tuple[str, str], Cases], notes: list[str]) -> list[_Job]:
    """The trainings of all rounds but for the seeds.

    An arm is either in all rounds of the evaluation or in none of them; what is left out is noted.
    """
    jobs = []
    for arm in arms:
        reasons = [why_not(arm, part.train, sets[part.name, arm.filter]) for part in rounds]
        reason = next(filter(None, reasons), None)
        if reason is not None:
            notes.append(reason)
            continue
        jobs += [_Job(part, task, arm, sets[part.name, arm.filter]) for part in rounds for task in tasks]
        for part in site_rounds if arm.filter == "none" else ():  # the filters' networks have seen every site
            reason = why_not(arm, part.train, part.synthetic)
            if reason is None:
                jobs += [_Job(part, task, arm, part.synthetic) for task in tasks]
            else:
                notes.append(f"Without {part.name}: {reason}")
    return jobs


def _run_all(out: Path, jobs: Sequence[_Job], seeds: Sequence[int], training: DownstreamTraining, progress: bool) -> dict:
    """Each job with each seed, as far as not done before: `(round, task, arm, seed)` -> what was written about it."""
    from tqdm import tqdm

    runs = {}
    total = sum(training.budgets[job.task].steps for job in jobs) * len(seeds)
    with tqdm(total=total, unit="step", disable=not progress) as bar:
        # Seed by seed, so that every arm has something early, and all arms of a comparison the same conditions.
        for seed in seeds:
            for job in jobs:
                bar.set_description(f"{job.round.name}, {job.task}, {job.arm.name}, seed {seed}")
                folder = out / RUNS / _folder_name(job.round.name) / job.task / job.arm.name
                path = folder / f"seed-{seed}.json"
                if path.is_file():
                    bar.update(training.budgets[job.task].steps)
                else:
                    folder.mkdir(parents=True, exist_ok=True)
                    write_json(path, _run(job, seed, training, lambda step: bar.update()))
                runs[job.round.name, job.task, job.arm.name, seed] = _read_run(path, job)
    return runs


def _run(job: _Job, seed: int, training: DownstreamTraining, progress) -> dict:
    stages = stages_of(job.arm, job.round.train, job.synthetic, seed)
    trained = training.train(job.task, stages, job.round.validation, seed, job.arm.augmented, progress)
    measure = measure_diagnosis if job.task == DIAGNOSIS else measure_segmentation
    columns = measure(trained, job.round.test)
    num_cases = sum(len(stage.cases) for stage in stages)
    num_real = sum(pool.real_copies for pool in job.arm.pools) * len(job.round.train)
    return {
        "steps": trained.steps,
        "best_step": trained.best_step,
        "validation_score": trained.validation_score,
        "threshold": trained.threshold,
        "seconds": trained.seconds,
        "num_real": num_real,
        "num_synthetic": num_cases - num_real,
        "names": list(job.round.test.names),
        "columns": {
            name: [None if np.isnan(value) else value for value in values.tolist()] for name, values in columns.items()
        },
    }


def _read_run(path: Path, job: _Job) -> dict:
    run, columns = read_columns(path, COLUMNS[job.task], len(job.round.test))
    if run.get("names") != list(job.round.test.names):
        raise ValueError(f"{path} was measured on other cases; {MADE_AGAIN}.")
    missing = {"steps", "validation_score", "seconds", "num_real", "num_synthetic"} - set(run)
    if missing:
        raise ValueError(f"{path} is damaged (without {', '.join(sorted(missing))}); {MADE_AGAIN}.")
    return run | {"columns": columns}


# --- the numbers ------------------------------------------------------------------------------------------------------


def _columns(runs: dict, rounds: Sequence[Round], tasks: Sequence[str]) -> dict[str, dict[str, list]]:
    """Task -> arm -> columns of each seed, the rounds one after the other."""
    columns: dict[str, dict[str, list]] = {task: {} for task in tasks}
    first = rounds[0].name
    for (name, task, arm, seed), run in runs.items():
        if name == first:
            parts = [runs[part.name, task, arm, seed]["columns"] for part in rounds]
            joined = {column: np.concatenate([part[column] for part in parts]) for column in run["columns"]}
            columns[task].setdefault(arm, []).append(joined)
    return columns


def _summary(runs: dict, rounds, site_rounds, arms: Sequence[Arm], tasks, num_resamples: int, dataset: str) -> dict:
    test = TestSet.of({part.name: part.test for part in rounds})
    columns = _columns(runs, rounds, tasks)
    measurements = Measurements(test, columns, num_resamples)
    endpoints = [endpoint for endpoint in ENDPOINTS if endpoint.task in tasks]
    trained = [arm for arm in arms if arm.name in columns[tasks[0]]]
    results = [{"dataset": dataset, **measurements.result(endpoint, arm.name)} for endpoint in endpoints for arm in trained]
    names = [arm.name for arm in trained]
    differences = [
        measurements.difference(endpoint, arm.name, control)
        for endpoint in endpoints
        for arm in trained
        for control in CONTROLS
        if control in names and control != arm.name and (arm.uses_synthetic or control == REAL_ONLY)
    ]
    conclusions = []
    for task in tasks:
        best = _best_ratio(runs, rounds, task, trained)
        description = "" if best is None else f"Ratio {best.ratio:g}, chosen on the validation cases,"
        conclusions.append(conclude(task, None if best is None else best.name, description, results, differences))
    few = test.few_patients()
    return {
        "conclusion": [found["sentence"] for found in conclusions],
        "verdicts": {
            found["task"]: {name: found[name] for name in ("arm", "verdict", "controls_at_chance")} for found in conclusions
        },
        "results": results,
        "differences": differences,
        "by_site": _by_site(runs, site_rounds, tasks, num_resamples) if site_rounds else None,
        "by_fold": _by_fold(columns, test, rounds, trained, tasks) if len(rounds) > 1 else None,
        "arms": {arm.name: _arm_facts(arm, runs, rounds, tasks) for arm in trained},
        "notes": [] if few is None else [few],
        "measurements": measurements,
    }


def _best_ratio(runs: dict, rounds: Sequence[Round], task: str, arms: Sequence[Arm]) -> Arm | None:
    """The ratio with the best mean over rounds and seeds of the validation cases' score; the smaller one of equal ones."""
    names, best = {part.name for part in rounds}, None
    for arm in sorted((arm for arm in arms if arm.ratio is not None), key=lambda arm: arm.ratio):
        found = [run["validation_score"] for key, run in runs.items() if key[0] in names and key[1:3] == (task, arm.name)]
        scores = [score for score in found if score is not None]
        score = float(np.mean(scores)) if scores else 0.0
        if best is None or score > best[0]:
            best = score, arm
    return None if best is None else best[1]


def _arm_facts(arm: Arm, runs: dict, rounds: Sequence[Round], tasks: Sequence[str]) -> dict:
    """Numbers of cases are means over rounds, rounded."""
    names = {part.name for part in rounds}
    found = {key: run for key, run in runs.items() if key[0] in names and key[2] == arm.name}
    scores = {
        task: [run["validation_score"] for key, run in found.items() if key[1] == task and run["validation_score"] is not None]
        for task in tasks
    }
    return {
        "description": arm.description,
        "num_real": round(np.mean([run["num_real"] for run in found.values()])),
        "num_synthetic": round(np.mean([run["num_synthetic"] for run in found.values()])),
        "steps": max(run["steps"] for run in found.values()),
        "validation_score": {task: float(np.mean(values)) if values else None for task, values in scores.items()},
    }


def _by_fold(columns, test: TestSet, rounds, arms: Sequence[Arm], tasks) -> list[dict]:
    """The primary endpoints in each fold, means over the seeds."""
    rows = []
    for task in tasks:
        for arm in arms:
            for part in rounds:
                here = test.folds == part.name
                per_seed = [
                    PRIMARY[task].compute(
                        {name: values[here] for name, values in of_seed.items()},
                        test.has_lesion[here],
                        test.folds[here],
                    )
                    for of_seed in columns[task][arm.name]
                ]
                rows.append(
                    {
                        "fold": part.name,
                        "task": task,
                        "metric": PRIMARY[task].metric,
                        "arm": arm.name,
                        "value": _number(np.mean(per_seed)),
                        "per_seed": [_number(value) for value in per_seed],
                        "num_cases": int(here.sum()),
                    }
                )
    return rows


def _by_site(runs: dict, site_rounds: Sequence[Round], tasks, num_resamples: int) -> list[dict]:
    rows = []
    for part in site_rounds:
        columns = _columns(runs, [part], tasks)
        measurements = Measurements(TestSet.of({part.name: part.test}), columns, num_resamples)
        for endpoint in ENDPOINTS:
            for arm in columns.get(endpoint.task, ()):
                rows.append({"site": part.name.removeprefix("site-"), **measurements.result(endpoint, arm)})
    return rows


def _compare_filters(kept: dict, measurements: Measurements, tasks) -> dict:
    """Each filter against no filter at ratio 1; the counts of pairs are means over the rounds, rounded."""
    compared = {}
    for name, counts in kept.items():
        arms = filter_name(name), ratio_name(1)
        differences = [measurements.difference(PRIMARY[task], *arms) for task in tasks if measurements.has(task, *arms)]
        of_name = dict(zip(("kept", "dropped"), np.mean(counts, axis=0).round().astype(int).tolist(), strict=True))
        compared[name] = {**of_name, "differences": differences}
    return compared


def _generation_rows(result: dict, dataset: str) -> list[dict]:
    """The measures of all labels together as rows of `results`, for the model card."""
    found = [
        *((row["name"], row) for row in result["realism"]["measures"]),
        *((f"{row['mask']}_fit_dice", row) for row in result["fit"]["measures"]),
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
        for metric, row in found
        if row["label"] is None
    ]


# --- files and settings -----------------------------------------------------------------------------------------------


def _check_names(what: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    for name in given:
        if name not in allowed:
            raise ValueError(f"{what} {name!r} is not allowed: {', '.join(allowed)}.")
    if len(set(given)) < len(given):
        raise ValueError(f"{what}s {', '.join(given)}: one is given twice.")


def _finish(out: Path, result: dict, splits: dict[str, Cases], made: Cases) -> dict:
    """The page, and last the file whose presence says that the evaluation is finished."""
    from .page import write_page

    write_page(out, result, splits["train"], made)
    write_json(out / EVALUATION_FILE, result)
    return result


def _folder_name(name: str) -> str:
    """A site can have any name: what a folder's name may not hold is replaced, and a digest keeps two of them apart."""
    plain = re.sub(r"[^\w.-]+", "_", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _versions() -> dict[str, str]:
    return {"diffusers_macdm": own_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}
