"""What a comparison works with: settings, cases, folds and budgets, loaded and checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..data.cases import Cases
from ..data.layout import require_masks
from ..devices import available_device
from ..evaluation.divisions import load_real
from ..evaluation.downstream import LEARNING_RATES, Budget, DownstreamTraining
from ..evaluation.features import FeatureExtractor, load_feature_extractor
from ..evaluation.networks import DIAGNOSIS, SEGMENTATION, TASKS
from ..files import check_seeds, refuse_foreign
from ..macdm.joint_sample import MASKS
from .diffusion import NUM_TRAIN_TIMESTEPS
from .folds import Fold, make_folds
from .models import MODELS
from .settings import Settings


COMPARISON_FILE = "comparison.json"


@dataclass(frozen=True)
class Plan:
    """A comparison that can be begun.

    Attributes:
        settings: what was asked for.
        training: how the downstream networks are trained.
        extractor: features of the realism; None for those of the judge's classifier.
        splits: real cases by split.
        folds: every fold at every training size.
        notes: sentences for the reader.
    """

    settings: Settings
    training: DownstreamTraining
    extractor: FeatureExtractor | None
    splits: dict[str, Cases]
    folds: list[Fold]
    notes: list[str]

    @property
    def seed(self) -> int:
        """Seed of the generative models and of what is measured on their pairs."""
        return self.settings.seeds[0]

    def record(self) -> dict:
        """What settings.json and comparison.json say: everything that decides what comes out, JSON-ready."""
        settings, listed = self.settings, lambda values: None if values is None else list(values)
        budget = asdict(settings.budget)
        return {
            "real": str(settings.real),
            "cases": {split: len(cases) for split, cases in self.splits.items()},
            "real_sha256": {split: cases.digest() for split, cases in self.splits.items()},
            "models": list(settings.models),
            "budget": {name: value for name, value in budget.items() if name != "num_workers"},
            "train_sizes": listed(settings.train_sizes),
            "samples_per_class": listed(settings.samples_per_class),
            "folds": settings.folds,
            "held_out_folds": settings.held_out_folds,
            "num_synthetic": settings.num_synthetic,
            "size": settings.size,
            "seeds": list(settings.seeds),
            "downstream_budgets": {task: asdict(self.training.budgets[task]) for task in TASKS},
            "pretrained_classifier": settings.pretrained_classifier,
            "feature_extractor": settings.feature_extractor,
            "audit_steps": settings.embedding_steps,
            "num_resamples": settings.resamples,
            "device": self.training.device.type,
            "num_workers": settings.budget.num_workers,
        }


def resolve(settings: Settings) -> Plan:
    """Load and check everything.

    Raises:
        FileNotFoundError, ValueError: when the set cannot be read, is too small, or settings do not go together.
        FileExistsError: when `settings.out` is complete or holds something else.
    """
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
    refuse_foreign(Path(settings.out), COMPARISON_FILE, "comparison")
    splits, notes = load_real(settings.real, settings.size, pooled=settings.folds is not None)
    require_masks(splits["train"].known_masks, MASKS, str(settings.real), "the models of a comparison make")
    folds = make_folds(splits, settings.folds, settings.train_sizes, settings.samples_per_class, settings.held_out_folds)
    num_classes = 1 + max(int(cases.class_labels.max()) for cases in splits.values())
    training = DownstreamTraining(budgets, num_classes, settings.pretrained_classifier, device)
    training.check(settings.size)
    extractor = None
    if settings.feature_extractor is not None:
        extractor = load_feature_extractor(settings.feature_extractor, device=device)
    return Plan(settings, training, extractor, splits, folds, notes)


def _check(models: Sequence[str], seeds: Sequence[int], num_synthetic: int | None, train_sizes) -> None:
    unknown = [name for name in models if name not in MODELS]
    if unknown or not models or len(set(models)) < len(models):
        raise ValueError(f"models {', '.join(models)} are not allowed: different ones of {', '.join(MODELS)}.")
    check_seeds("seeds", seeds)
    if num_synthetic is not None and num_synthetic < 2:
        raise ValueError(f"num_synthetic={num_synthetic} is not allowed: at least 2 are needed.")
    if train_sizes is not None and len(set(train_sizes)) < len(train_sizes):
        raise ValueError(f"train sizes {list(train_sizes)} are not allowed: one is given twice.")
