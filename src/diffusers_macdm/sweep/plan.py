"""What a sweep works with: settings, grid, model and cases, loaded and checked before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..audit.radiographs import Radiographs, load_radiographs, trained_on
from ..comparison.settings import TrainingBudget
from ..data.cases import Cases
from ..data.layout import require_masks
from ..devices import available_device
from ..evaluation.divisions import load_real
from ..evaluation.downstream import LEARNING_RATES, Budget, DownstreamTraining
from ..evaluation.features import FeatureExtractor, load_feature_extractor
from ..evaluation.networks import DIAGNOSIS, SEGMENTATION, TASKS
from ..files import check_seeds, refuse_foreign
from ..hub.loading import load_pipeline
from ..macdm import MaCDMPipeline
from ..macdm.joint_sample import CHANNELS, MASKS, check_channel_weights, masks_of
from ..provenance.guard import refuse_contaminated
from ..provenance.weights import weights_digest
from .grid import PARAMETERS, RETRAINING, SAMPLING, parse_grid
from .settings import Settings


RESULT_FILE = "sweep.json"


@dataclass(frozen=True)
class Plan:
    """A sweep that can be begun: all is loaded and checked.

    Attributes:
        settings: what was asked for.
        grid: values by parameter.
        defaults: value of each parameter where it is not varied.
        pipe: the model.
        mask_weighting: how the channels' weights are meant, in models that are trained anew.
        budget: of the models that are trained anew; None where none is.
        training: how the networks that measure are trained.
        extractor: features of the realism; None for those of the judge's classifier.
        splits: real cases by split, train first.
        films: radiographs of the training cases at the audit's size.
        notes: sentences for the reader.
    """

    settings: Settings
    grid: dict[str, list]
    defaults: dict[str, Any]
    pipe: MaCDMPipeline
    mask_weighting: str
    budget: TrainingBudget | None
    training: DownstreamTraining
    extractor: FeatureExtractor | None
    splits: dict[str, Cases]
    films: Radiographs
    notes: list[str]

    @property
    def retrained(self) -> list[str]:
        """The weights that the grid varies, for which models are trained anew."""
        return [name for name in RETRAINING if name in self.grid]

    @property
    def held_out(self) -> Cases:
        """All real cases that are not in the train split."""
        return Cases.concatenate([cases for split, cases in self.splits.items() if split != "train"])

    def record(self) -> dict:
        """What settings.json and sweep.json say: everything that decides what comes out, JSON-ready."""
        settings, pipe, held_out = self.settings, self.pipe, self.held_out
        train, has_guidance = self.splits["train"], pipe.guidance_classifier is not None
        samples_per_class = settings.samples_per_class
        return {
            "model": str(settings.model),
            "weights_sha256": weights_digest(pipe.unet),
            "guidance_classifier_sha256": weights_digest(pipe.guidance_classifier) if has_guidance else None,
            "real": str(settings.real),
            "training_cases": len(train),
            "held_out_cases": len(held_out),
            "real_sha256": {"training": train.digest(), "held_out": held_out.digest()},
            "grid": {name: list(values) for name, values in self.grid.items()},
            "full_grid": settings.full_grid,
            "defaults": {name: value for name, value in self.defaults.items() if name in (*SAMPLING, *self.grid)},
            "num_per_class": settings.num_per_class,
            "size": train.size,
            "evaluation_steps": settings.downstream_steps,
            "embedding_steps": settings.embedding_steps,
            "classifier_width": settings.classifier_width,
            "segmenter_width": settings.segmenter_width,
            "feature_extractor": settings.feature_extractor,
            "train_steps": settings.train_steps if self.retrained else None,
            "train_seeds": list(settings.train_seeds) if self.retrained else None,
            "learning_rate": settings.learning_rate if self.retrained else None,
            "mask_weighting": self.mask_weighting if self.retrained else None,
            "samples_per_class": None if samples_per_class is None else list(samples_per_class),
            "batch_size": settings.batch_size,
            "seed": settings.seed,
            "device": self.training.device.type,
        }


def resolve(settings: Settings) -> Plan:
    """Load and check everything; errors are those of `run`."""
    grid = parse_grid(settings.grid)
    widths = {DIAGNOSIS: settings.classifier_width, SEGMENTATION: settings.segmenter_width}
    budgets = {
        task: Budget(settings.downstream_steps, learning_rate=LEARNING_RATES[task], width=widths[task]) for task in TASKS
    }
    if not grid:
        raise ValueError(f"The grid is empty; it may have {', '.join(PARAMETERS)}.")
    check_seeds("seed", [settings.seed])
    retrained = bool(set(RETRAINING) & set(grid))
    if retrained:
        check_seeds("train_seeds", settings.train_seeds)
    device = available_device(settings.device)
    refuse_foreign(Path(settings.out), RESULT_FILE, "sweep")
    pipe = load_pipeline(settings.model).to(device)
    pipe.set_progress_bar_config(disable=True)
    defaults = _defaults(settings, grid, pipe)
    mask_weighting = settings.mask_weighting or pipe.unet.config.mask_weighting
    check_channel_weights((1.0,) * len(CHANNELS), len(CHANNELS), mask_weighting)
    budget = _budget(settings, pipe) if retrained else None
    extractor = None
    if settings.feature_extractor is not None:
        extractor = load_feature_extractor(settings.feature_extractor, device=device)

    splits, notes = load_real(settings.real, pipe.unet.config.sample_size, settings.samples_per_class)
    why = "the measures of a sweep need"
    require_masks(splits["train"].known_masks, MASKS, str(settings.real), why)
    require_masks(masks_of(pipe.unet.config), MASKS, f"{settings.model}: the model's training set", why)
    if "validation" not in splits:
        raise ValueError(
            f"{settings.real}: there is no split 'validation', and cases are needed that no network was trained with."
        )
    for split in splits:
        if split != "train":
            names = splits[split].names
            refuse_contaminated(
                settings.real, split, model=settings.model, allow_unrecorded=settings.allow_unrecorded, measured=names
            )
    films, known = load_radiographs(settings.real, "train", splits["train"].size), set(splits["train"].names)
    films = films.select([number for number, name in enumerate(films.names) if name in known])
    notes += trained_on(films, settings.real, model=settings.model)[1]
    num_classes = 1 + max(int(cases.class_labels.max()) for cases in splits.values())
    training = DownstreamTraining(budgets, num_classes, None, device)
    return Plan(settings, grid, defaults, pipe, mask_weighting, budget, training, extractor, splits, films, notes)


def _defaults(settings: Settings, grid: Mapping[str, list], pipe: MaCDMPipeline) -> dict[str, Any]:
    """The value of each parameter where it is not varied; what the model cannot do is refused."""
    num_labels, has_guidance = pipe.unet.num_classes, pipe.guidance_classifier is not None
    if num_labels < 2:
        raise ValueError(f"{settings.model}: the model knows {num_labels} labels; there is no class agreement to measure.")
    if not has_guidance and max(grid.get("guidance_scale", (0,))) > 0:
        raise ValueError(f"{settings.model}: has no guidance classifier, so that guidance_scale can only be 0.")
    levels, most = pipe.scheduler.config.num_train_timesteps, max(grid.get("num_inference_steps", (0,)))
    if most > levels:
        raise ValueError(f"num_inference_steps {most} is not allowed: {settings.model} knows {levels} noise levels.")
    return {
        "guidance_scale": 1.0 if has_guidance else 0.0,
        "guidance_interval": (0.0, 1.0),
        "strength": 1.0,
        "num_inference_steps": 25,
        **dict.fromkeys(RETRAINING, 1.0),
    }


def _budget(settings: Settings, pipe: MaCDMPipeline) -> TrainingBudget:
    """The budget of models that are trained anew, with the architecture of the given one."""
    architecture = pipe.unet.config
    return TrainingBudget(
        steps=settings.train_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        block_out_channels=tuple(architecture.block_out_channels),
        layers_per_block=architecture.layers_per_block,
        patch_size=architecture.patch_size,
        norm_num_groups=architecture.norm_num_groups,
    )
