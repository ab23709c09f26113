"""MaC-DM beside the other generative models: `macdm compare`.

OUT/settings.json                                   what was asked for; the same OUT goes on with the same settings only
OUT/FOLD/SIZE/models/MODEL/                         samples.npz, contact_sheet.png and facts.json of a trained model
OUT/FOLD/SIZE/measures/MODEL.json                   realism, fit of the masks and copies
OUT/FOLD/SIZE/runs/TASK/ARM/seed-S.json             one trained and tested downstream network
OUT/comparison.json, OUT/index.html                 the answer; without them the comparison is unfinished
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from pathlib import Path

from ..data.cases import Cases
from ..evaluation.arms import CONTROLS, Arm, build_arms, stages_of
from ..evaluation.downstream import DownstreamTraining, Stage
from ..evaluation.judge import Judge
from ..evaluation.networks import DIAGNOSIS, TASKS
from ..evaluation.predictions import COLUMNS, tested
from ..files import MADE_AGAIN, begin, locked, read_columns, read_json, write_json
from ..hub.loading import own_version
from ..progress import Progress
from .folds import Fold, labels_for
from .measures import PairMeasures
from .page import write_comparison_page
from .pairs import SHEET, read_pairs, train_and_draw
from .plan import COMPARISON_FILE, Plan, resolve
from .settings import Settings
from .summary import FoldResult, summarise


PACKAGES = ("torch", "diffusers", "transformers", "monai", "scikit-learn", "scipy", "numpy")


def run(settings: Settings, *, show_progress: bool = True) -> dict:
    """Train generative models on the same cases with the same budget, and compare what their pairs are good for.

    Args:
        settings: what is asked for.
        show_progress: whether to show on stderr how far the work is.

    Returns:
        What `comparison.json` says.

    Raises:
        FileNotFoundError, ValueError: when the set cannot be read, is too small, or settings do not go together.
        FileExistsError: when `out` is complete or holds something else, or another process is writing there.
    """
    with locked(Path(settings.out)):
        return _compare(settings, show_progress)


def _compare(settings: Settings, show_progress: bool) -> dict:
    plan, out = resolve(settings), Path(settings.out)
    record = plan.record()
    begin(out, record, may_change=("real", "num_workers"))
    results = [compare_in_fold(plan, fold, out, show_progress) for fold in plan.folds]
    result = summarise(results, list(settings.models), list(settings.seeds), settings.resamples, str(settings.real))
    result["notes"] = plan.notes + result["notes"]
    result["settings"] = record
    result["versions"] = {
        "diffusers_macdm": own_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }
    return finish(out, plan, result)


def compare_in_fold(plan: Plan, fold: Fold, out: Path, show_progress: bool = True) -> FoldResult:
    """Train the models on the cases of one fold, and measure and use their pairs, as far as not done before."""
    settings, folder = plan.settings, out / fold.trained_folder
    class_labels = labels_for(fold.train, settings.num_synthetic or len(fold.train), plan.seed)
    pairs, facts, measures = {}, {}, {}
    for name in settings.models:
        path = folder / "models" / name
        if not path.is_dir():
            if show_progress:
                print(f"{fold.trained_folder}: {name}", file=sys.stderr, flush=True)  # no bar is there yet
            train_and_draw(
                path,
                name,
                fold.train,
                class_labels,
                settings.budget,
                seed=plan.seed,
                device=plan.training.device,
                show_progress=show_progress,
            )
        pairs[name], facts[name] = read_pairs(path, name)
    judge = Judge(fold.train, plan.training, seed=plan.seed, extractor=plan.extractor, show_progress=show_progress)
    measure = PairMeasures(judge, fold.held_out, settings.embedding_steps)
    for name in settings.models:
        path = folder / "measures" / f"{name}.json"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            write_json(path, measure(pairs[name]))
        measures[name] = read_json(path)
        if "far" not in measures[name]:
            raise ValueError(f"{path} is of an earlier version, or damaged (without far); {MADE_AGAIN}.")
    runs = train_and_test(out / fold.folder / "runs", fold, pairs, plan, show_progress)
    return FoldResult(fold, facts, measures, runs)


def finish(out: Path, plan: Plan, result: dict) -> dict:
    """Write the page, and last the file whose presence says that the comparison is finished."""
    first_fold = [fold for fold in plan.folds if fold.name == plan.folds[0].name]
    models = out / max(first_fold, key=lambda fold: len(fold.train)).trained_folder / "models"
    write_comparison_page(out, result, {name: models / name / SHEET for name in plan.settings.models})
    write_json(out / COMPARISON_FILE, result)
    return result


# --- the downstream networks ------------------------------------------------------------------------------------------


def train_and_test(folder: Path, fold: Fold, pairs: Mapping[str, Cases], plan: Plan, show_progress: bool = True) -> dict:
    """Train and test the networks of each arm with each seed, as far as not done before.

    Returns:
        Columns of the test cases by task, arm and seed; the arm of a model has its name.
    """
    arms: dict[str, Arm | Cases] = {**{name: build_arms((1.0,))[name] for name in CONTROLS}, **pairs}
    jobs = [
        (task, name, seed)
        for seed in plan.settings.seeds
        for task in TASKS
        for name, arm in arms.items()
        if task == DIAGNOSIS or isinstance(arm, Arm) or arm.has_masks
    ]
    runs = {}
    with Progress(len(jobs), "trainings", unit="training", show=show_progress) as progress:
        for task, name, seed in jobs:
            progress.describe(f"{fold.folder}, {task}, {name}, seed {seed}")
            path = folder / task / name / f"seed-{seed}.json"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, train_and_test_one(arms[name], fold, task, seed, plan.training))
            _, runs[task, name, seed] = read_columns(path, COLUMNS[task], len(fold.test))
            progress.update()
    return runs


def train_and_test_one(arm: Arm | Cases, fold: Fold, task: str, seed: int, training: DownstreamTraining) -> dict:
    """Train and test one network, with the real cases and the pairs of a model or as a control says; JSON-ready."""
    if isinstance(arm, Arm):
        stages, augmented = stages_of(arm, fold.train, fold.train.select([]), seed), arm.augmented
    else:
        stages, augmented = [Stage(Cases.concatenate([fold.train, arm]))], False
    return tested(task, training.train(task, stages, fold.validation, seed, augmented), fold.test)
