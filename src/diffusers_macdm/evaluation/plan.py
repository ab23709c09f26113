"""What an evaluation works with: settings, cases, arms and trainings, loaded and checked before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..data.cases import Cases
from ..data.layout import require_masks, without_words
from ..devices import available_device
from ..files import check_seeds, refuse_foreign
from ..hub.loading import load_pipeline
from ..macdm.joint_sample import CHANNELS, LESION_MASK
from ..provenance.weights import weights_digest
from .arms import Arm, build_arms, ratio_name
from .divisions import Division, divide, divide_by_site, load_real, load_synthetic, refuse_leaks
from .downstream import LEARNING_RATES, Budget, DownstreamTraining
from .endpoints import MIN_SEEDS
from .features import FeatureExtractor, load_feature_extractor
from .filters import CLASSIFIER, FILTERS, NETWORK, MaskSampler
from .networks import DIAGNOSIS, SEGMENTATION, TASKS
from .settings import Settings


EVALUATION_FILE = "evaluation.json"
LESION = CHANNELS[LESION_MASK]


@dataclass(frozen=True)
class Plan:
    """An evaluation that can be begun.

    Attributes:
        settings: what was asked for, with the tasks that are measured.
        arms: ways to train, some of which may turn out to have too few pairs.
        training: how the downstream networks are trained.
        mask_sampler: image -> masks of the model that made the pairs, for the filter "network"; else None.
        extractor: features of the realism; None for those of the judge's classifier.
        splits: real cases by split, train first.
        synthetic: synthetic pairs.
        divisions: who trains, who chooses and who is tested: one, or one for each fold.
        site_divisions: one for each site that is left out; none where that was not asked for.
        notes: sentences for the reader, in the order of the report.
    """

    settings: Settings
    arms: list[Arm]
    training: DownstreamTraining
    mask_sampler: MaskSampler | None
    extractor: FeatureExtractor | None
    splits: dict[str, Cases]
    synthetic: Cases
    divisions: list[Division]
    site_divisions: list[Division]
    notes: list[str]

    @property
    def held_out(self) -> Cases:
        """All real cases that are not in the train split."""
        return Cases.concatenate([cases for split, cases in self.splits.items() if split != "train"])

    def record(self) -> dict:
        """What settings.json and evaluation.json say: everything that decides what comes out, JSON-ready."""
        settings, listed = self.settings, lambda values: None if values is None else list(values)
        return {
            "real": str(settings.real),
            "synthetic": str(settings.synthetic),
            "real_sha256": {split: cases.digest() for split, cases in self.splits.items()},
            "synthetic_sha256": self.synthetic.digest(),
            "size": settings.size,
            "seeds": list(settings.seeds),
            "tasks": list(settings.tasks),
            "budgets": {task: asdict(self.training.budgets[task]) for task in settings.tasks},
            "arms": [arm.name for arm in self.arms],
            "filters": list(settings.filters),
            "model": None if settings.model is None else str(settings.model),
            "model_sha256": None if self.mask_sampler is None else weights_digest(self.mask_sampler.unet),
            "folds": settings.folds,
            "leave_one_site_out": settings.leave_one_site_out,
            "samples_per_class": listed(settings.samples_per_class),
            "pretrained_classifier": settings.pretrained_classifier,
            "feature_extractor": settings.feature_extractor,
            "skip_realism": settings.skip_realism,
            "masks": list(self.synthetic.known_masks),
            "num_resamples": settings.resamples,
            "allow_unrecorded": settings.allow_unrecorded,
            "device": self.training.device.type,
        }


def resolve(settings: Settings) -> Plan:
    """Load and check everything.

    Raises:
        FileNotFoundError, ValueError: when a set cannot be read, the sets leak into each other, or settings do not go
            together.
        FileExistsError: when `settings.out` is complete or holds something else.
    """
    arms = choose_arms(settings)
    check_seeds("seeds", settings.seeds)
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
    refuse_foreign(Path(settings.out), EVALUATION_FILE, "evaluation")
    mask_sampler = None if settings.model is None else _mask_sampler(settings.model, device)

    splits, notes = load_real(settings.real, settings.size, settings.samples_per_class)
    synthetic = load_synthetic(settings.synthetic, settings.size, splits["train"])
    masks, of_masks = _common_masks(settings, splits["train"], synthetic, mask_sampler)
    tasks = tuple(task for task in TASKS if task == DIAGNOSIS or LESION in masks)
    settings = replace(settings, tasks=settings.tasks or tasks)
    splits = {split: cases.with_masks(masks) for split, cases in splits.items()}
    synthetic, notes = synthetic.with_masks(masks), [*notes, *of_masks]
    refuse_leaks(settings.real, splits, settings.synthetic, synthetic, settings.allow_unrecorded)
    divisions = divide(splits, synthetic, settings.folds)
    by_site, untested_sites = divide_by_site(splits, synthetic) if settings.leave_one_site_out else ([], [])
    num_classes = 1 + max(int(cases.class_labels.max()) for cases in splits.values())
    training = DownstreamTraining(budgets, num_classes, settings.pretrained_classifier, device)
    training.check(settings.size)
    extractor = None
    if settings.feature_extractor is not None and not settings.skip_realism:
        extractor = load_feature_extractor(settings.feature_extractor, device=device)
    notes = [*notes, *untested_sites, *_notes(settings, divisions, by_site)]
    return Plan(settings, arms, training, mask_sampler, extractor, splits, synthetic, divisions, by_site, notes)


def _common_masks(
    settings: Settings, real: Cases, synthetic: Cases, mask_sampler: MaskSampler | None
) -> tuple[tuple[str, ...], list[str]]:
    """Return the masks that both sets have, and notes on the others; what needs one that a set lacks is refused if asked for.

    Raises:
        ValueError: for the segmentation, or a filter, without the masks that it needs.
    """
    masks = tuple(mask for mask in real.known_masks if mask in synthetic.known_masks)
    notes = []
    for where, cases in ((settings.real, real), (settings.synthetic, synthetic)):
        words = without_words(cases.known_masks)
        if words is None:
            continue
        notes.append(f"{where} has {words}: nothing is measured on them.")
        if LESION not in cases.known_masks:
            if SEGMENTATION in (settings.tasks or ()):
                raise ValueError(
                    f"{where} has {words}, which --tasks {SEGMENTATION} is measured on: --tasks {DIAGNOSIS} is possible."
                )
            if settings.tasks is None:
                notes.append(f"The segmentation was left out: {where} has {words}.")
    if not masks and (asked := [name for name in settings.filters if name != CLASSIFIER]):
        raise ValueError(f"--filters {' '.join(asked)}: {settings.real} and {settings.synthetic} have no mask in common.")
    if mask_sampler is not None:
        require_masks(mask_sampler.masks, masks, f"{settings.model}: the training set", f"--filters {NETWORK} compares")
    return masks, notes


def choose_arms(settings: Settings) -> list[Arm]:
    """Return the arms that are asked for, those of the filters and what these are compared with among them.

    Raises:
        ValueError: for a task, filter or arm that is none or stands there twice, and for too few steps.
    """
    _check_names("task", settings.tasks or (), TASKS)
    _check_names("filter", settings.filters, FILTERS)
    if (NETWORK in settings.filters) != (settings.model is not None):
        raise ValueError(
            f"The filter {NETWORK!r} and the model that made the pairs (--model) go together: give both or neither."
        )
    known = build_arms({*settings.ratios, 1.0} if settings.filters else settings.ratios, settings.filters)
    asked = settings.arms
    if asked is not None:
        _check_names("arm", asked, [name for name, arm in known.items() if arm.filter == "none"])
    arms = [arm for arm in known.values() if asked is None or arm.name in asked or arm.filter != "none"]
    if settings.filters and ratio_name(1) not in [arm.name for arm in arms]:
        arms.append(known[ratio_name(1)])  # what a filter is compared with
    for arm in arms:
        if settings.downstream_steps < len(arm.pools):
            raise ValueError(
                f"downstream_steps={settings.downstream_steps} is not allowed: {arm.name} needs at least {len(arm.pools)}."
            )
    return arms


def _check_names(what: str, given: Sequence[str], allowed: Sequence[str]) -> None:
    for name in given:
        if name not in allowed:
            raise ValueError(f"{what} {name!r} is not allowed: {', '.join(allowed)}.")
    if len(set(given)) < len(given):
        raise ValueError(f"{what}s {', '.join(given)}: one is given twice.")


def _mask_sampler(model: str, device) -> MaskSampler:
    pipe = load_pipeline(model).to(device)
    pipe.set_progress_bar_config(disable=True)
    return MaskSampler(pipe)


def _notes(settings: Settings, divisions: Sequence[Division], site_divisions: Sequence[Division]) -> list[str]:
    notes = []
    if settings.allow_unrecorded:
        notes.append(
            "Where nothing records which cases trained the model behind the synthetic set, they were taken for others than the "
            "held-out ones (--allow-unrecorded)."
        )
    one_class = [division.name for division in divisions if len(set(division.validation.has_lesion.tolist())) < 2]
    if one_class:
        notes.append(
            f"The validation cases of {', '.join(one_class)} are of one class: there, the log-loss chose the state of the "
            "classifier, and a case counts as a lesion from a probability of 0.5 on."
        )
    if len(settings.seeds) < MIN_SEEDS:
        notes.append(
            f"Only {len(settings.seeds)} of {MIN_SEEDS} seeds: chance in the training is not measured, and no claim is made."
        )
    if site_divisions:
        notes.append("The generator was trained with cases of all sites, also of the one that is left out of the rest.")
    return notes
