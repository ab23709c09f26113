"""What the settings of MaC-DM do to its pairs: `macdm sweep`, the paper's ablations of `w2, w3, g, Z`.

    OUT/settings.json      what was asked for; a run that was interrupted goes on, one with other settings is refused
    OUT/networks/          what measures: diagnosis classifier and segmenter, trained on the real training cases, and the copy
                           audit's embedding
    OUT/models/NAME/       the models that were trained for `w2` and `w3`, one for each pair of weights and seed
    OUT/points/NAME.json   one for each point of the grid (and each of its trainings), written when it is measured
    OUT/sweep.json, sweep.csv, index.html      written last

All points are measured by the same networks, and their pairs are drawn from the same seeds: what differs is the setting.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..audit.copies import CopyDetector
from ..audit.embedding import CopyEmbedding
from ..audit.images import to_audit_size
from ..audit.run import Radiographs, build_detector, load_radiographs, trained_on
from ..comparison.model import masks_for
from ..comparison.models.macdm import MaCDM
from ..comparison.settings import TrainingBudget
from ..data.cases import Cases
from ..devices import available_device
from ..evaluation.divisions import load_real
from ..evaluation.downstream import LEARNING_RATES, Budget, Stage, train_classifier, train_segmenter
from ..evaluation.features import FeatureExtractor, classifier_features, load_feature_extractor
from ..evaluation.mask_fit import mask_fit
from ..evaluation.networks import DIAGNOSIS, SEGMENTATION, TASKS, diagnosis_classifier, segmenter
from ..evaluation.predictions import predict_probabilities
from ..evaluation.realism import Sample, quality
from ..files import MADE_AGAIN, begin, check_seeds, read_json, refuse_foreign, write_json
from ..generate.run import make_pairs, pair_seed, weights_digest
from ..hub.loading import load_pipeline, own_version
from ..macdm import MaCDMPipeline
from ..macdm.image_processor import radiograph_array
from ..macdm.joint_sample import CHANNELS, check_channel_weights, join
from ..provenance.guard import refuse_contaminated
from ..report.page import plain
from ..statistics.bootstrap import patient_bootstrap
from ..statistics.proportions import proportion
from .page import sweep_page, value_name
from .settings import Settings


SAMPLING = ("guidance_scale", "guidance_interval", "strength", "num_inference_steps")
RETRAINING = ("w2", "w3")
PARAMETERS = (*SAMPLING, *RETRAINING)
HURTS_ABOVE = 0.8  # MaC-DM sec. 3: "when the weights are above 0.8 the image quality falls"
RESULT_FILE, TABLE_FILE = "sweep.json", "sweep.csv"
LEVEL = 0.95
UNBOUNDED = ("kid", "median_copy_closeness")  # all other measures lie in [0, 1]
HALVES, SHUFFLED, REAL = "two halves of the real cases", "shuffled pairs", "real cases"


def parse_grid(texts: Sequence[str]) -> dict[str, list]:
    """`["guidance_scale=0,1,2", "guidance_interval=0:1,0.2:0.8"]` -> values by parameter.

    Raises:
        ValueError: for an unknown parameter, one that is given twice, and values that are not allowed.
    """
    grid: dict[str, list] = {}
    for text in texts:
        name, separator, values = text.partition("=")
        if not separator or name not in PARAMETERS:
            raise ValueError(f"--grid {text!r} is not allowed: NAME=VALUE,VALUE,... with one of {', '.join(PARAMETERS)}.")
        if name in grid:
            raise ValueError(f"--grid has {name} twice; its values go into one list.")
        try:
            grid[name] = [_parse(name, value) for value in values.split(",")]
        except ValueError as error:
            raise ValueError(f"--grid {text!r}: {error}") from error
        if len(set(grid[name])) < len(grid[name]):
            raise ValueError(f"--grid {text!r}: a value stands there twice.")
    return grid


def _parse(name: str, text: str):
    if name == "guidance_interval":
        try:
            ends = tuple(float(end) for end in text.split(":"))
        except ValueError:
            ends = ()
        if len(ends) != 2 or not 0 <= ends[0] < ends[1] <= 1:
            raise ValueError(f"guidance_interval {text!r} is not allowed: lo:hi with 0 <= lo < hi <= 1.")
        return ends
    if name == "num_inference_steps":
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"num_inference_steps {text!r} is not allowed: a whole number of at least 1.")
        return int(text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    allowed, words = {
        "guidance_scale": (value >= 0, "0 (off) or more"),
        "strength": (0 < value <= 1, "above 0, at most 1 (pure noise)"),
    }.get(name, (value > 0, "above 0"))
    if not (allowed and math.isfinite(value)):
        raise ValueError(f"{name} {text!r} is not allowed: {words}.")
    return value


def grid_points(grid: Mapping[str, Sequence], full_grid: bool) -> list[tuple[str | None, Any]]:
    """Parameter and value of each point: each parameter alone, or None and a dict of all of them for the product."""
    if full_grid:
        return [(None, dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values())]
    return [(name, value) for name, values in grid.items() for value in values]


def runs_of(parameter: str | None, value, defaults: Mapping, train_seeds: Sequence[int]) -> list[dict]:
    """All settings of a point. One with a weight in it stands there once for each `train_seed`: the given model was trained
    otherwise, so that the default weights are trained anew, too."""
    varied = value if parameter is None else {parameter: value}
    run = {name: varied.get(name, defaults[name]) for name in SAMPLING}
    if not set(RETRAINING) & set(varied):
        return [run]
    weights = {name: varied.get(name, defaults[name]) for name in RETRAINING}
    return [{**run, **weights, "train_seed": seed} for seed in train_seeds]


def run_name(run: Mapping, defaults: Mapping) -> str:
    """What differs from the defaults, as the name of a file."""
    parts = []
    for name, value in run.items():
        if name not in SAMPLING or value != defaults[name]:
            parts.append(f"{name}={'-'.join(map(str, value)) if isinstance(value, tuple) else value}")
    return ",".join(parts) or "defaults"


def run(settings: Settings, *, show_progress: bool = True) -> dict:
    """Measure the pairs of a model at each point of a grid, or go on with a run that was interrupted.

    Args:
        settings: what is asked for.
        show_progress: whether to show on stderr how far the work is.

    Returns:
        What `sweep.json` says.

    Raises:
        FileNotFoundError, ValueError: when the model or the data cannot be read, settings do not go together, `out` was begun
            with others, held-out cases have trained the model, or no training case has.
        FileExistsError: when `out` holds something else.
    """
    out, grid = Path(settings.out), parse_grid(settings.grid)
    widths = {DIAGNOSIS: settings.classifier_width, SEGMENTATION: settings.segmenter_width}
    budgets = {
        task: Budget(settings.downstream_steps, learning_rate=LEARNING_RATES[task], width=widths[task]) for task in TASKS
    }
    if not grid:
        raise ValueError(f"The grid is empty; it may have {', '.join(PARAMETERS)}.")
    retrained = [name for name in RETRAINING if name in grid]
    check_seeds("seed", [settings.seed])
    if retrained:
        check_seeds("train_seeds", settings.train_seeds)
    device = available_device(settings.device)
    refuse_foreign(out, RESULT_FILE, "sweep")
    pipe = load_pipeline(settings.model).to(device)
    pipe.set_progress_bar_config(disable=True)
    size, labels = pipe.unet.config.sample_size, list(range(pipe.unet.num_classes))
    if len(labels) < 2:
        raise ValueError(f"{settings.model}: the model knows {len(labels)} labels; there is no class agreement to measure.")
    has_guidance = pipe.guidance_classifier is not None
    defaults = {
        "guidance_scale": 1.0 if has_guidance else 0.0,
        "guidance_interval": (0.0, 1.0),
        "strength": 1.0,
        "num_inference_steps": 25,
        **dict.fromkeys(RETRAINING, 1.0),
    }
    if not has_guidance and max(grid.get("guidance_scale", (0,))) > 0:
        raise ValueError(f"{settings.model}: has no guidance classifier, so that guidance_scale can only be 0.")
    levels = pipe.scheduler.config.num_train_timesteps
    if max(grid.get("num_inference_steps", (0,))) > levels:
        raise ValueError(
            f"num_inference_steps {max(grid['num_inference_steps'])} is not allowed: {settings.model} knows {levels} noise "
            "levels."
        )
    mask_weighting = settings.mask_weighting or pipe.unet.config.mask_weighting
    check_channel_weights((1.0,) * len(CHANNELS), len(CHANNELS), mask_weighting)
    budget = None
    if retrained:
        budget = TrainingBudget(
            steps=settings.train_steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            block_out_channels=tuple(pipe.unet.config.block_out_channels),
            layers_per_block=pipe.unet.config.layers_per_block,
            patch_size=pipe.unet.config.patch_size,
            norm_num_groups=pipe.unet.config.norm_num_groups,
        )
    extractor = (
        None if settings.feature_extractor is None else load_feature_extractor(settings.feature_extractor, device=device)
    )

    splits, notes = load_real(settings.real, size, settings.samples_per_class)
    if "validation" not in splits:
        raise ValueError(
            f"{settings.real}: there is no split 'validation', and cases are needed that no network was trained with."
        )
    training, validation = splits["train"], splits["validation"]
    for split in splits:
        if split != "train":
            measured = splits[split].names
            refuse_contaminated(
                settings.real, split, model=settings.model, allow_unrecorded=settings.allow_unrecorded, measured=measured
            )
    held_out = Cases.concatenate([cases for split, cases in splits.items() if split != "train"])
    films = _films_of(training, settings.real)
    notes += trained_on(films, settings.real, model=settings.model)[1]
    recorded = {
        "model": str(settings.model),
        "weights_sha256": weights_digest(pipe.unet),
        "guidance_classifier_sha256": weights_digest(pipe.guidance_classifier) if has_guidance else None,
        "real": str(settings.real),
        "training_cases": len(training),
        "held_out_cases": len(held_out),
        "real_sha256": {"training": training.digest(), "held_out": held_out.digest()},
        "grid": {name: list(values) for name, values in grid.items()},
        "full_grid": settings.full_grid,
        "defaults": {name: value for name, value in defaults.items() if name in (*SAMPLING, *grid)},
        "num_per_class": settings.num_per_class,
        "size": size,
        "evaluation_steps": settings.downstream_steps,
        "embedding_steps": settings.embedding_steps,
        "classifier_width": settings.classifier_width,
        "segmenter_width": settings.segmenter_width,
        "feature_extractor": settings.feature_extractor,
        "train_steps": settings.train_steps if retrained else None,
        "train_seeds": list(settings.train_seeds) if retrained else None,
        "learning_rate": settings.learning_rate if retrained else None,
        "mask_weighting": mask_weighting if retrained else None,
        "samples_per_class": None if settings.samples_per_class is None else list(settings.samples_per_class),
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "device": device.type,
    }
    begin(out, recorded, may_change=("model", "real"))
    (out / "points").mkdir(exist_ok=True)
    folder = out / "networks"
    measure = _Measure(
        folder,
        settings.real,
        films,
        training,
        validation,
        held_out,
        budgets,
        extractor,
        settings.embedding_steps,
        settings.seed,
        device,
        show_progress,
    )

    points = []
    trained_guidance = max([defaults["guidance_scale"], *grid.get("guidance_scale", ())])
    for parameter, value in tqdm(grid_points(grid, settings.full_grid), desc="sweep", unit="point", disable=not show_progress):
        measured = []
        for run in runs_of(parameter, value, defaults, settings.train_seeds):
            path = out / "points" / f"{run_name(run, defaults)}.json"
            if not path.is_file():
                sampler = pipe
                if "train_seed" in run:
                    weights = {name: run[name] for name in (*RETRAINING, "train_seed")}
                    folder = out / "models" / run_name(weights, {})
                    if not folder.is_dir():
                        _retrain(folder, weights, mask_weighting, budget, training, trained_guidance, device, show_progress)
                    sampler = load_pipeline(folder).to(device)
                    sampler.set_progress_bar_config(disable=True)
                pairs, unrefined = sample_pairs(
                    sampler, run, training, labels, settings.num_per_class, settings.seed, settings.batch_size
                )
                write_json(path, {"settings": run, "measures": measure(pairs, unrefined)})
            content = read_json(path)
            if not {"settings", "measures"} <= set(content):
                raise ValueError(f"{path} is damaged (without settings or measures); {MADE_AGAIN}.")
            measured.append(content)
        measures = [entry["measures"] for entry in measured]
        points.append({"parameter": parameter, "value": value, "measures": _over_runs(measures), "runs": measured})

    findings = {name: finding(name, points) for name in retrained}
    result = {
        "conclusion": [*_lowest_kid(points), *(found["sentence"] for found in findings.values())],
        "feature_extractor": measure.extractor.name,
        "points": points,
        "references": _references(points),
        "findings": findings,
        "notes": [*notes, *measure.notes, *_notes(len(held_out), retrained, settings.train_seeds)],
        "settings": recorded,
        "versions": _versions(),
    }
    _write(out / TABLE_FILE, _table(points))
    sweep_page(out, result)
    write_json(out / RESULT_FILE, result)  # last: its presence says that the sweep is finished
    return result


# --- pairs --------------------------------------------------------------------------------------------------------------


def sample_pairs(
    pipe: MaCDMPipeline, run: Mapping, training: Cases, labels: Sequence[int], num_per_class: int, seed: int, batch_size: int
) -> tuple[Cases, np.ndarray]:
    """The pairs of one run and the pixels of their lesion masks before refinement, int `[N]`.

    Variations of the same patient's cases stand under that patient: they are no independent pairs.
    """
    class_labels = torch.tensor(labels).repeat(num_per_class)
    sources = masks_for(class_labels, training.class_labels, seed) if run["strength"] < 1 else None
    common = {
        "guidance_scale": run["guidance_scale"],
        "guidance_interval": run["guidance_interval"],
        "strength": None if sources is None else run["strength"],
        "num_inference_steps": run["num_inference_steps"],
        "classifier_free_guidance_scale": 1.0,
        "refine_masks": True,
        "masks_from": None,
    }
    pairs = []
    for first in range(0, len(class_labels), batch_size):
        numbers = range(first, min(first + batch_size, len(class_labels)))
        rows = [
            {
                **common,
                "label": int(class_labels[number]),
                "seed": pair_seed(seed, number),
                "source": None if sources is None else training.names[sources[number]],
            }
            for number in numbers
        ]
        cases = None if sources is None else [training.joint_samples[sources[number]] for number in numbers]
        pairs += make_pairs(pipe, rows, cases)
    masks = [torch.from_numpy(np.stack([getattr(pair, f"{name}_mask") for pair in pairs])) for name in ("anatomy", "lesion")]
    radiographs = torch.from_numpy(np.stack([radiograph_array(pair.radiograph) for pair in pairs]))  # [N, H, W] in [0, 1]
    patients = None if sources is None else [training.patient_ids[source] for source in sources]
    made = Cases.of(join(radiographs, *masks), class_labels, patient_ids=patients)
    return made, np.array([pair.lesion_pixels_unrefined for pair in pairs])


def _retrain(
    folder: Path,
    weights: Mapping,
    mask_weighting: str,
    budget: TrainingBudget,
    training: Cases,
    guidance_scale,
    device,
    progress,
) -> None:
    """Train a model with other weights of its channels, and keep it."""
    model = MaCDM((1.0, weights["w2"], weights["w3"]), guidance_scale, mask_weighting)
    model.fit(training, budget, seed=weights["train_seed"], device=device, progress=progress)
    _keep(folder, model.pipeline.save_pretrained)


def _keep(path: Path, save: Callable) -> None:
    """`save(path)`, all of it or nothing."""
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    if temporary.is_dir():  # of a call that was killed
        shutil.rmtree(temporary)
    save(temporary)
    temporary.rename(path)


# --- measures -----------------------------------------------------------------------------------------------------------


class _Measure:
    """The networks that measure, trained once on real training cases and kept in `folder`; called with the pairs of a point."""

    def __init__(
        self,
        folder: Path,
        real,
        films: Radiographs,
        training: Cases,
        validation: Cases,
        held_out: Cases,
        budgets: Mapping[str, Budget],
        extractor: FeatureExtractor | None,
        embedding_steps: int,
        seed: int,
        device,
        progress: bool,
    ):
        self.held_out, self.seed, self.device = held_out, seed, device
        num_classes = int(max(cases.class_labels.max() for cases in (training, held_out))) + 1
        widths = {task: {} if budget.width is None else {"width": budget.width} for task, budget in budgets.items()}
        stages = [Stage(training)]
        common = {"seed": seed, "device": device}
        self.classifier = _kept(
            folder / "diagnosis_classifier.safetensors",
            lambda: diagnosis_classifier(num_classes, **widths[DIAGNOSIS]),
            lambda: train_classifier(stages, validation, budgets[DIAGNOSIS], num_classes=num_classes, **common).network,
        ).to(device)
        self.segmenter = _kept(
            folder / "segmenter.safetensors",
            lambda: segmenter(training.size, **widths[SEGMENTATION]),
            lambda: train_segmenter(stages, validation, budgets[SEGMENTATION], **common).network,
        ).to(device)
        self.detector, self.notes = _detector(
            folder / "embedding", real, films, training.size, embedding_steps, seed, device, progress
        )
        self.extractor = classifier_features(self.classifier, device=device) if extractor is None else extractor
        self.real = Sample.of(held_out, self.extractor)
        self.real_agreement = class_agreement(self.classifier, held_out, self.seed)["value"]

    def __call__(self, pairs: Cases, unrefined: np.ndarray) -> list[dict]:
        """Each with `name`, `value`, `interval` and `references` by name."""
        found = [
            _entry(name, entry, {HALVES: entry["real_versus_real"]})
            for name, entry in quality(self.real, Sample.of(pairs, self.extractor), self.seed).items()
        ]
        for entry in mask_fit(self.segmenter, self.held_out, pairs, self.seed, device=self.device)["measures"]:
            if entry["label"] is None:
                found.append(_entry(f"{entry['mask']}_fit_dice", entry, {REAL: entry["real"], SHUFFLED: entry["shuffled"]}))
        found.append(_entry("class_agreement", class_agreement(self.classifier, pairs, self.seed), {REAL: self.real_agreement}))
        has_lesion = pairs.has_lesion.numpy()
        found.append(_entry("lesion_before_refinement", proportion(unrefined[has_lesion] > 0), {}))
        found.append(_entry("no_lesion_in_normal_before_refinement", proportion(unrefined[~has_lesion] == 0), {}))
        comparison = self.detector.gallery.compare(to_audit_size((pairs.radiographs[:, 0] / 2 + 0.5).numpy(), pairs.size))
        closeness = self.detector.closeness(comparison)
        median = patient_bootstrap(lambda chosen: float(np.median(closeness[chosen])), pairs.patient_ids, seed=self.seed)
        found.append(_entry("median_copy_closeness", median.to_dict(), {"validation images": 0.0}))
        found.append(_entry("copy_rate", proportion(self.detector.is_copy(comparison)), {"chance": self.detector.nominal_rate}))
        return found


def class_agreement(classifier: torch.nn.Module, cases: Cases, seed: int) -> dict:
    """Share of cases that a classifier gives their label, mean over the labels: `value`, `interval` (bootstrap over patients)
    and `by_label`."""
    labels = cases.class_labels.numpy()
    right = predict_probabilities(classifier, cases).argmax(axis=1) == labels

    def of_label(chosen):
        return {int(label): float(right[chosen][labels[chosen] == label].mean()) for label in np.unique(labels[chosen])}

    def mean_over_labels(chosen):
        return float(np.mean([*of_label(chosen).values()]))

    of_each = [labels == label for label in np.unique(labels)]
    found = patient_bootstrap(mean_over_labels, cases.patient_ids, seed=seed, rests_on=of_each).to_dict()
    return {**found, "by_label": of_label(np.arange(len(labels)))}


def _entry(name: str, estimate: Mapping, references: Mapping[str, float | None]) -> dict:
    known = {line: value for line, value in references.items() if value is not None}
    return {"name": name, "value": estimate["value"], "interval": estimate["interval"], "references": known}


def _kept(path: Path, build: Callable, train: Callable) -> torch.nn.Module:
    """The network of an earlier call, or a newly trained one, which is kept."""
    from safetensors.torch import load_model, save_model

    if path.is_file():
        network = build()
        load_model(network, path)
        return network.eval().requires_grad_(False)
    network = train()
    _keep(path, lambda temporary: save_model(network, str(temporary)))
    return network


def _films_of(cases: Cases, real) -> Radiographs:
    """The training films of these cases."""
    films, names = load_radiographs(real, "train", cases.size), set(cases.names)
    return films.select([number for number, name in enumerate(films.names) if name in names])


def _detector(
    folder: Path, real, training: Radiographs, size: int, steps: int, seed: int, device, progress
) -> tuple[CopyDetector, list[str]]:
    validation = load_radiographs(real, "validation", size)
    embedding = CopyEmbedding.from_pretrained(str(folder)).eval().requires_grad_(False) if folder.is_dir() else None
    detector, notes = build_detector(
        training,
        validation,
        embedding=embedding,
        embedding_steps=steps,
        seed=seed,
        device=device,
        progress=progress,
    )
    if embedding is None:
        _keep(folder, detector.gallery.embedding.save_pretrained)
    return detector, notes


# --- what comes out -----------------------------------------------------------------------------------------------------


def _over_runs(runs: Sequence[list[dict]]) -> list[dict]:
    """Measures of a point: those of its single run, or the mean over its trainings.

    The interval of a mean is `+- sqrt(h^2 + (t s / sqrt(n))^2)`: `h^2` is the mean square of half the intervals of the single
    trainings (patients and pairs), `s` the standard deviation over the n trainings. Both hold the chance of the pairs, so it is
    rather too wide. What is a share is clipped to [0, 1].
    """
    from scipy.stats import t

    measures = []
    for entries in zip(*runs, strict=True):
        values = np.array([entry["value"] for entry in entries if entry["value"] is not None])
        ends = np.array([entry["interval"] for entry in entries if entry["interval"] is not None])  # [n, 2]
        value, interval = (float(values.mean()) if len(values) else None), entries[0]["interval"]
        if len(runs) > 1:
            interval = None
            if len(values) > 1 and len(ends):
                over_runs = t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
                half = float(np.sqrt((np.diff(ends) ** 2 / 4).mean() + over_runs**2))
                interval = [value - half, value + half]
                if entries[0]["name"] not in UNBOUNDED:
                    interval = [max(interval[0], 0.0), min(interval[1], 1.0)]
        measures.append({"name": entries[0]["name"], "value": value, "interval": interval})
    return measures


def finding(weight: str, points: Sequence[dict]) -> dict:
    """Whether a mask weighted above 0.8 hurts the image, as the paper says: by the KID of the trainings with `weight` above 0.8
    minus that of those at or below it, Welch's t interval over trainings. Where one training is sampled in several ways (the
    product of a grid), the mean of its KIDs counts, once.

    Returns:
        `verdict` (confirmed, refuted, not decided), `difference`, `interval` (None with fewer than two trainings on a side) and
        a `sentence`.
    """
    from scipy.stats import ttest_ind

    kids: dict[bool, dict] = {True: {}, False: {}}
    for point in points:
        for run in point["runs"]:
            value = next(entry["value"] for entry in run["measures"] if entry["name"] == "kid")
            if point["parameter"] in (None, weight) and weight in run["settings"] and value is not None:
                training = tuple(run["settings"].get(name) for name in (*RETRAINING, "train_seed"))
                kids[run["settings"][weight] > HURTS_ABOVE].setdefault(training, {})[json.dumps(run["settings"])] = value
    above, below = ([float(np.mean([*each.values()])) for each in kids[side].values()] for side in (True, False))
    what = f"{weight}: that masks weighted above {HURTS_ABOVE} hurt the image is"
    if min(len(above), len(below)) < 2:
        return {
            "verdict": "not decided",
            "difference": float(np.mean(above) - np.mean(below)) if above and below else None,
            "interval": None,
            "sentence": f"{what} not decided by this run: it has {len(above)} trainings above and {len(below)} at or below it, "
            "and two of each are needed.",
        }
    low, high = (float(end) for end in ttest_ind(above, below, equal_var=False).confidence_interval(LEVEL))
    difference = float(np.mean(above) - np.mean(below))
    verdict = "confirmed" if low > 0 else "refuted" if high < 0 else "not decided"
    return {
        "verdict": verdict,
        "difference": difference,
        "interval": [low, high],
        "sentence": f"{what} {verdict} by this run: the KID of {len(above)} trainings above is {difference:+.3g} from that of "
        f"{len(below)} at or below it (95 % interval {low:+.3g} to {high:+.3g}; more is worse).",
    }


def _lowest_kid(points: Sequence[dict]) -> list[str]:
    """A sentence for each parameter: where the radiographs come nearest to real ones, and whether that is beyond chance."""
    sentences = []
    for parameter in dict.fromkeys(point["parameter"] for point in points):
        kids = []
        for point in points:
            kid = next(entry for entry in point["measures"] if entry["name"] == "kid")
            if point["parameter"] == parameter and kid["value"] is not None and kid["interval"] is not None:
                kids.append((kid["value"], kid["interval"], value_name(point["value"])))
        if len(kids) < 2:
            continue
        (value, interval, best), *others = sorted(kids)
        alike = [name for _, (low, _), name in others if low <= interval[1]]
        sentences.append(
            f"{plain(parameter) if parameter else 'grid'}: the KID is smallest at {best} ({value:.3g}, 95 % interval "
            f"{interval[0]:.3g} to {interval[1]:.3g})"
            + (
                f"; the intervals of {', '.join(alike)} overlap with it."
                if alike
                else ", and no other interval overlaps with it."
            )
        )
    return sentences


def _references(points: Sequence[dict]) -> dict[str, dict]:
    """Lines to compare with, by measure: the same at every point, but for those of shuffled pairs, of which it is the mean."""
    lines: dict[str, dict[str, list]] = {}
    for point in points:
        for run in point["runs"]:
            for entry in run["measures"]:
                for line, value in entry["references"].items():
                    lines.setdefault(entry["name"], {}).setdefault(line, []).append(value)
    return {name: {line: float(np.mean(values)) for line, values in of_name.items()} for name, of_name in lines.items()}


def _notes(num_held_out: int, retrained: Sequence[str], train_seeds: Sequence[int]) -> list[str]:
    notes = [
        "Diagnosis classifier and segmenter were trained once on the real training cases; the validation cases chose their "
        "state and are among the held-out cases that are measured against.",
    ]
    if num_held_out < 100:
        notes.append(f"Only {num_held_out} held-out real cases: small differences cannot be seen.")
    if retrained and len(train_seeds) < 3:
        notes.append(f"{len(train_seeds)} training seeds for {' and '.join(retrained)}: fewer than 3 carry no claim.")
    return notes


def _table(points: Sequence[dict]) -> bytes:
    """One line for each point: parameter, value, and each measure with the ends of its interval."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [entry["name"] for entry in points[0]["measures"]]
    writer.writerow(["parameter", "value", *(f"{name}{end}" for name in names for end in ("", "_low", "_high")), "trainings"])
    for point in points:
        cells = [cell for entry in point["measures"] for cell in (entry["value"], *(entry["interval"] or (None, None)))]
        trainings = len(point["runs"]) if "train_seed" in point["runs"][0]["settings"] else None
        writer.writerow([point["parameter"] or "grid", value_name(point["value"]), *cells, trainings])
    return stream.getvalue().encode()


# --- files --------------------------------------------------------------------------------------------------------------


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing: under a temporary name first."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _versions() -> dict[str, str]:
    import diffusers

    return {"diffusers_macdm": own_version(), "diffusers": diffusers.__version__, "torch": torch.__version__}
