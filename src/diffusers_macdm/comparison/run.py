"""MaC-DM beside the other generative models: `macdm compare`.

OUT/settings.json                                   what was asked for; the same OUT goes on with the same settings only
OUT/FOLD/SIZE/models/MODEL/                         samples.npz, contact_sheet.png and facts.json of a trained model
OUT/FOLD/SIZE/measures/MODEL.json                   realism, fit of the masks and copies
OUT/FOLD/SIZE/runs/TASK/ARM/seed-S.json             one trained and tested downstream network
OUT/comparison.json, OUT/index.html                 the answer; without them the comparison is unfinished
"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
import time
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..audit.copies import CopyDetector
from ..audit.embedding import train_embedding
from ..audit.images import to_audit_size
from ..audit.neighbours import Gallery
from ..data.cases import Cases
from ..devices import available_device
from ..evaluation.arms import CONTROLS, Arm, build_arms, stages_of
from ..evaluation.divisions import load_real
from ..evaluation.downstream import LEARNING_RATES, Budget, DownstreamTraining, Stage
from ..evaluation.features import FeatureExtractor, classifier_features, load_feature_extractor
from ..evaluation.networks import DIAGNOSIS, SEGMENTATION, TASKS
from ..evaluation.predictions import COLUMNS, measure_diagnosis, measure_segmentation
from ..files import begin, check_seeds, read_columns, read_json, refuse_foreign, write_json
from ..hub.loading import own_version
from ..report.contact_sheet import contact_sheet, save
from ..statistics.proportions import proportion
from .diffusion import NUM_TRAIN_TIMESTEPS
from .folds import Part, labels_for, make_parts
from .models import MODELS
from .page import write_comparison_page
from .settings import Settings, TrainingBudget
from .summary import Done, summarise


COMPARISON_FILE = "comparison.json"
PACKAGES = ("torch", "diffusers", "transformers", "monai", "scikit-learn", "scipy", "numpy")
SHEET_PAIRS = 8  # of each label, the first ones


def run(settings: Settings, *, show_progress: bool = True) -> dict:
    """Train generative models on the same cases with the same budget, and compare what their pairs are good for.

    Args:
        settings: what is asked for.
        show_progress: whether to show on stderr how far the work is.

    Returns:
        What `comparison.json` says.

    Raises:
        FileNotFoundError, ValueError: when the set cannot be read, is too small, or settings do not go together.
        FileExistsError: when `out` is complete or holds something else.
    """
    out = Path(settings.out)
    budget = settings.budget
    _check(settings.models, settings.seeds, settings.num_synthetic, settings.train_sizes)
    if budget.num_inference_steps > NUM_TRAIN_TIMESTEPS:
        raise ValueError(
            f"num_inference_steps={budget.num_inference_steps} is not allowed: there are {NUM_TRAIN_TIMESTEPS} noise levels."
        )
    for name in settings.models:
        MODELS[name].check_size(settings.size, budget)
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
    refuse_foreign(out, COMPARISON_FILE, "comparison")

    splits, notes = load_real(settings.real, settings.size, pooled=settings.folds is not None)
    parts = make_parts(splits, settings.folds, settings.train_sizes, settings.samples_per_class, settings.held_out_folds)
    num_classes = 1 + max(int(cases.class_labels.max()) for cases in splits.values())
    training = DownstreamTraining(budgets, num_classes, settings.pretrained_classifier, device)
    training.check(settings.size)
    extractor = (
        None if settings.feature_extractor is None else load_feature_extractor(settings.feature_extractor, device=device)
    )
    recorded = {
        "real": str(settings.real),
        "cases": {split: len(cases) for split, cases in splits.items()},
        "real_sha256": {split: cases.digest() for split, cases in splits.items()},
        "models": list(settings.models),
        "budget": {name: value for name, value in asdict(budget).items() if name != "num_workers"},
        "train_sizes": None if settings.train_sizes is None else list(settings.train_sizes),
        "samples_per_class": None if settings.samples_per_class is None else list(settings.samples_per_class),
        "folds": settings.folds,
        "held_out_folds": settings.held_out_folds,
        "num_synthetic": settings.num_synthetic,
        "size": settings.size,
        "seeds": list(settings.seeds),
        "downstream_budgets": {task: asdict(budgets[task]) for task in TASKS},
        "pretrained_classifier": settings.pretrained_classifier,
        "feature_extractor": settings.feature_extractor,
        "audit_steps": settings.embedding_steps,
        "num_resamples": settings.resamples,
        "device": device.type,
        "num_workers": budget.num_workers,
    }
    begin(out, recorded, may_change=("real", "num_workers"))

    done = []
    for part in parts:
        place = out / part.trained_folder
        labels = labels_for(part.train, settings.num_synthetic or len(part.train), settings.seeds[0])
        made, facts = {}, {}
        for name in settings.models:
            folder = place / "models" / name
            if not folder.is_dir():
                _make(folder, name, part, labels, budget, settings.seeds[0], device, show_progress)
            made[name], facts[name] = _read_made(folder, name)
        judge = _Judge(part, training, extractor, settings.embedding_steps, settings.seeds[0], show_progress)
        measures = {}
        for name in settings.models:
            path = place / "measures" / f"{name}.json"
            if not path.is_file():
                path.parent.mkdir(exist_ok=True)
                write_json(path, judge.measure(made[name]))
            measures[name] = read_json(path)
        done.append(
            Done(
                part, facts, measures, _run_all(out / part.folder / "runs", part, made, training, settings.seeds, show_progress)
            )
        )

    result = summarise(done, list(settings.models), list(settings.seeds), settings.resamples, str(settings.real))
    result["notes"] = notes + result["notes"]
    result["settings"] = recorded
    result["versions"] = {
        "diffusers_macdm": own_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }
    first_fold = [part for part in parts if part.fold == parts[0].fold]
    shown = out / max(first_fold, key=lambda part: len(part.train)).trained_folder / "models"
    write_comparison_page(out, result, {name: shown / name / "contact_sheet.png" for name in settings.models})
    write_json(out / COMPARISON_FILE, result)  # last: its presence says that the comparison is finished
    return result


# --- the generative models --------------------------------------------------------------------------------------------


def _make(folder: Path, name: str, part: Part, labels, budget: TrainingBudget, seed: int, device, progress: bool) -> None:
    """Train a model and draw its pairs; the folder appears when all of it is there."""
    if progress:
        tqdm.write(f"{part.trained_folder}: {name}", file=sys.stderr)
    model = MODELS[name]()
    facts = model.fit(part.train, budget, seed=seed, device=device, progress=progress)
    start = time.monotonic()
    made = model.sample(labels, seed=seed, given=part.train)
    facts["seconds_per_pair"] = (time.monotonic() - start) / len(made)
    temporary = folder.with_name(f".{name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    gray = ((made.radiographs[:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()  # [N, H, W]
    content = {"radiographs": gray, "class_labels": labels}
    if made.has_masks:
        content["masks"] = made.masks.numpy()  # [N, 2, H, W]
    np.savez_compressed(temporary / "samples.npz", **content)
    shown = np.concatenate([np.flatnonzero(labels == label)[:SHEET_PAIRS] for label in np.unique(labels)])
    masks = made.masks.numpy()[shown]  # [N, 2, H, W]
    sheet = contact_sheet(
        gray[shown],
        masks[:, 0],
        masks[:, 1],
        captions=[f"label {label}" for label in labels[shown].tolist()],
        outlines=made.has_masks,
    )
    save(sheet, temporary / "contact_sheet.png")
    write_json(temporary / "facts.json", facts)
    temporary.rename(folder)


def _read_made(folder: Path, name: str) -> tuple[Cases, dict]:
    path = folder / "samples.npz"
    try:
        with np.load(path) as file:
            content = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); delete {folder}, and it is made again.") from error
    gray = torch.from_numpy(content["radiographs"])  # [N, H, W]
    radiographs = gray[:, None].float() / 127.5 - 1
    if "masks" in content:
        masks = torch.from_numpy(content["masks"]).float() * 2 - 1
    else:
        masks = torch.full_like(radiographs, torch.nan).expand(-1, 2, -1, -1)
    names = [f"{name}-{index:06d}" for index in range(len(gray))]
    facts = read_json(folder / "facts.json", f"delete {folder}, and it is made again")
    return Cases.of(torch.cat([radiographs, masks], dim=1), content["class_labels"], names), facts


# --- what is measured on the pairs ------------------------------------------------------------------------------------


class _Judge:
    """Realism, fit and copies of the pairs of one part.

    It judges by networks of the part's real training cases alone, each trained when it is first asked for. Their last state is
    taken, so that all held-out cases are new to them.
    """

    def __init__(
        self,
        part: Part,
        training: DownstreamTraining,
        extractor: FeatureExtractor | None,
        audit_steps: int,
        seed: int,
        progress,
    ):
        self._part, self._training, self._extractor = part, training, extractor
        self._audit_steps, self._seed, self._progress = audit_steps, seed, progress
        self._networks: dict[str, torch.nn.Module] = {}
        self._detector: CopyDetector | None = None

    def measure(self, made: Cases) -> dict:
        """`realism` and `fit` (see `evaluation`; fit is None without masks), `copies` a `proportion` and the `nominal_rate`."""
        from ..evaluation.mask_fit import mask_fit
        from ..evaluation.realism import realism

        held_out, device = self._part.held_out, self._training.device
        if self._extractor is None:
            self._extractor = classifier_features(self._network(DIAGNOSIS), device=device)
        found = realism(held_out, made, self._extractor, self._seed)
        del found["tsne"]  # of each model, in each fold, a picture of its own: too many to look at
        fit = None
        if made.has_masks:
            fit = mask_fit(self._network(SEGMENTATION), held_out, made, self._seed, device=device)
        return {"realism": found, "fit": fit, "copies": self._copies(made)}

    def _network(self, task: str) -> torch.nn.Module:
        if task not in self._networks:
            with tqdm(
                total=self._training.budgets[task].steps, desc=f"reference, {task}", unit="step", disable=not self._progress
            ) as bar:
                trained = self._training.train(
                    task, [Stage(self._part.train)], None, self._seed, progress=lambda step: bar.update()
                )
            self._networks[task] = trained.network
        return self._networks[task]

    def _copies(self, made: Cases) -> dict:
        """How many are closer to a training radiograph than 95 % of the held-out ones are, and how many would be by chance."""
        if self._detector is None:
            train = _audit_images(self._part.train)
            embedding = train_embedding(
                train, self._audit_steps, self._seed, device=self._training.device, progress=self._progress
            )
            gallery = Gallery(train, self._part.train.patient_ids, embedding)
            null = gallery.compare(_audit_images(self._part.held_out), progress="held-out films" if self._progress else None)
            self._detector = CopyDetector(gallery, null)
        return {**proportion(self._detector.find(_audit_images(made))), "nominal_rate": self._detector.nominal_rate}


def _audit_images(cases: Cases) -> torch.Tensor:
    """uint8 `[N, 64, 64]`, of 8-bit films as those of the models are."""
    gray = ((cases.radiographs[:, 0] + 1) * 127.5).round() / 255  # [N, H, W] in [0, 1]
    return to_audit_size(gray.numpy(), cases.size)


# --- the downstream networks ------------------------------------------------------------------------------------------


def _run_all(folder: Path, part: Part, made: dict[str, Cases], training: DownstreamTraining, seeds, progress: bool) -> dict:
    """Each arm of each task with each seed, as far as not done before."""
    arms: dict[str, Arm | Cases] = {**{name: build_arms((1.0,))[name] for name in CONTROLS}, **made}
    jobs = [
        (task, name, seed)
        for seed in seeds
        for task in TASKS
        for name, arm in arms.items()
        if task == DIAGNOSIS or isinstance(arm, Arm) or arm.has_masks
    ]
    runs = {}
    with tqdm(total=len(jobs), unit="training", disable=not progress) as bar:
        for task, name, seed in jobs:
            bar.set_description(f"{part.folder}, {task}, {name}, seed {seed}")
            path = folder / task / name / f"seed-{seed}.json"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_json(path, _run(arms[name], part, task, seed, training))
            _, runs[task, name, seed] = read_columns(path, COLUMNS[task], len(part.test))
            bar.update()
    return runs


def _run(arm: Arm | Cases, part: Part, task: str, seed: int, training: DownstreamTraining) -> dict:
    if isinstance(arm, Arm):
        stages, augmented = stages_of(arm, part.train, part.train.select([]), seed), arm.augmented
    else:
        stages, augmented = [Stage(Cases.concatenate([part.train, arm]))], False
    trained = training.train(task, stages, part.validation, seed, augmented)
    columns = (measure_diagnosis if task == DIAGNOSIS else measure_segmentation)(trained, part.test)
    return {
        "steps": trained.steps,
        "best_step": trained.best_step,
        "validation_score": trained.validation_score,
        "seconds": trained.seconds,
        "columns": {
            name: [None if np.isnan(value) else value for value in values.tolist()] for name, values in columns.items()
        },
    }


# --- files and settings -----------------------------------------------------------------------------------------------


def _check(models: Sequence[str], seeds: Sequence[int], num_synthetic: int | None, train_sizes) -> None:
    unknown = [name for name in models if name not in MODELS]
    if unknown or not models or len(set(models)) < len(models):
        raise ValueError(f"models {', '.join(models)} are not allowed: different ones of {', '.join(MODELS)}.")
    check_seeds("seeds", seeds)
    if num_synthetic is not None and num_synthetic < 2:
        raise ValueError(f"num_synthetic={num_synthetic} is not allowed: at least 2 are needed.")
    if train_sizes is not None and len(set(train_sizes)) < len(train_sizes):
        raise ValueError(f"train sizes {list(train_sizes)} are not allowed: one is given twice.")
