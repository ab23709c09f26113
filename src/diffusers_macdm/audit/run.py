"""The copy audit of a synthetic set: `macdm audit`.

OUT/audit.json       the rates with their intervals, the verdict, the settings
OUT/audit.jsonl      one line for each synthetic image
OUT/index.html       the same to look at; montage.png, distances.png and strengths.png beside it
OUT/embedding/       the embedding, for the next audit against the same training images (`embedding=`)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import diffusers
import numpy as np
import torch

from ..data.layout import require_masks, without_words
from ..data.loading import load_pairs
from ..data.pairs import MissingSplit
from ..devices import available_device
from ..files import locked, new_folder, refuse_filled, write_json, write_json_lines
from ..hub.loading import load_pipeline, own_version
from ..macdm.joint_sample import MASKS, masks_of
from ..macdm.saved_folder import check_network
from ..statistics.proportions import proportion
from . import page
from .copies import CopyDetector, false_alarm_interval
from .detector import build_detector
from .embedding import CopyEmbedding
from .images import SIZE
from .membership import membership_inference
from .neighbours import Comparison
from .planted import sensitivity_of
from .radiographs import Radiographs, load_radiographs, trained_on
from .regions import SIDE, LesionPlaces
from .settings import Settings
from .variations import strength_curve, telling_level
from .verdict import copy_rates, is_reliable, named, outcome, verdict


COLUMNS = ("strength", "source", "masks_from", "lesion_from")  # of the synthetic set that audit.jsonl repeats
AUDIT_FILE, VERDICTS_FILE = "audit.json", "audit.jsonl"
DISTANCES = ("pixel_distance", "embedding_distance", "aligned_distance")


def run(settings: Settings, *, show_progress: bool = True) -> dict:
    """Audit a synthetic set for copies of the images that its model was trained on.

    Args:
        settings: what is asked for.
        show_progress: whether to show on stderr how far the work is.

    Returns:
        What `audit.json` says.

    Raises:
        FileNotFoundError, ValueError: when a set, the model or the embedding cannot be read, or settings do not go together.
        FileExistsError: when `out` has files in it, or another process is writing there.
    """
    with locked(Path(settings.out)):
        return _audit(settings, show_progress)


def _audit(settings: Settings, show_progress: bool) -> dict:
    out = Path(settings.out)
    refuse_filled(out)
    device = available_device(settings.device)
    pipe = None
    if settings.model is not None:  # first: what cannot be loaded is said at once
        pipe = load_pipeline(settings.model).to(device)
        pipe.set_progress_bar_config(disable=True)
    notes_of_masks = _masks(settings, pipe)
    synthetic = load_radiographs(settings.synthetic, "train", columns=COLUMNS)
    places = _places(settings, synthetic)
    if places is not None:
        synthetic = load_radiographs(settings.synthetic, "train", columns=COLUMNS, places=places)
    every_case = load_radiographs(settings.real, "train", synthetic.side, places=places)
    _refuse_same(settings, every_case, synthetic)
    validation = load_radiographs(settings.real, "validation", synthetic.side, places=places)
    training, notes = trained_on(every_case, settings.real, model=settings.model, synthetic=settings.synthetic)
    detector, left_out = build_detector(
        training,
        validation,
        embedding=None if settings.embedding is None else _load_embedding(Path(settings.embedding)),
        embedding_steps=settings.embedding_steps,
        seed=settings.seed,
        device=device,
        progress=show_progress,
    )
    notes += left_out + notes_of_masks
    if places is not None:
        notes.append(
            f"Lesions were painted into real films: compared are the regions around them, squares of {SIDE:.0%} of the film's "
            "side, with the regions around the lesions of the real films and, in normal ones, around places where lesions are."
        )
    if len(detector.null) < 100:
        notes.append(f"Only {len(detector.null)} validation images set the threshold; 100 make it firm.")

    comparison = detector.gallery.compare(synthetic.images, progress="synthetic images" if show_progress else None)
    result = {
        "verdict": "",
        **_rates(synthetic, training, detector, comparison),
        "sensitivity": sensitivity_of(detector, settings.seed, settings.planted, show_progress),
        "false_alarms": _false_alarms(settings.real, detector, synthetic.side, places, show_progress),
        "membership": None,
        "strength_curve": None,
        "strength_level": None,
        "notes": notes,
        "settings": _recorded(settings, synthetic, training, detector, len(every_case)),
        "versions": {"diffusers_macdm": own_version(), "diffusers": diffusers.__version__, "torch": torch.__version__},
    }
    if pipe is not None:
        result["membership"] = membership_inference(pipe, settings.real, set(training.names), settings.seed)
    if settings.strengths:
        strengths, count = settings.strengths, settings.variations
        curve = strength_curve(pipe, settings.real, training, detector, strengths, count, settings.seed, show_progress)
        result |= {"strength_curve": curve, "strength_level": telling_level(curve)}
    result["reliable"] = is_reliable(result["sensitivity"])
    result["outcome"] = outcome(result)
    result["verdict"] = verdict(result)
    _write(out, result, synthetic, training, detector, comparison)
    return result


def _masks(settings: Settings, pipe) -> list[str]:
    """Say which masks the sets have not: radiographs are compared, with or without.

    Raises:
        ValueError: when the real set lacks a mask that the model is fed.
    """
    notes = []
    if pipe is not None:
        why = "the model is fed: leave it out (--model), for radiographs alone are compared without it"
        require_masks(load_pairs(settings.real, "train").masks, masks_of(pipe.unet.config), str(settings.real), why)
    for data in (settings.real, settings.synthetic):
        words = without_words(load_pairs(data, "train").masks)
        if words is not None:
            notes.append(f"{data} has {words}. Radiographs alone are compared for copies, so this changes nothing here.")
    return notes


def _places(settings: Settings, synthetic: Radiographs) -> LesionPlaces | None:
    """Return where real lesions are, for a set of films that lesions were painted into; None for every other set.

    Raises:
        ValueError: when some films alone were painted into, or variations of whole films are asked for beside them.
    """
    inserted = [row.get("lesion_from") is not None for row in synthetic.rows]
    if not any(inserted):
        return None
    if not all(inserted):
        raise ValueError(
            f"synthetic={settings.synthetic} has {sum(inserted)} real films with a lesion painted in among {len(inserted)}: "
            "audit them by themselves, for the rest of such a film is real."
        )
    if settings.strengths:
        raise ValueError(
            f"strengths={settings.strengths} does not go with films that a lesion was painted into: regions are compared there."
        )
    pairs = load_pairs(settings.real, "train")
    require_masks(pairs.masks, MASKS, str(settings.real), "say where lesions are, which were painted into films here")
    return LesionPlaces.of_pairs(pairs)


def _refuse_same(settings: Settings, real: Radiographs, synthetic: Radiographs) -> None:
    if set(real.digests) == set(synthetic.digests):
        raise ValueError(
            f"synthetic={settings.synthetic} has the very films that train the real set {settings.real}, pixel by pixel: give "
            "the set that a model has made."
        )


def _rates(synthetic: Radiographs, training: Radiographs, detector: CopyDetector, comparison: Comparison) -> dict:
    copies = detector.is_copy(comparison)
    copied = np.isin(np.arange(len(training)), comparison.nearest[copies])
    distances = {
        name: {"synthetic": _quantiles(getattr(comparison, name)), "validation": _quantiles(getattr(detector.null, name))}
        for name in DISTANCES
    }
    nominal_interval = list(false_alarm_interval(len(detector.null)))
    return {
        "reliable": False,
        "outcome": "",
        "copy_rate": named(proportion(copies), "copies"),
        "far_rate": named(proportion(detector.is_far(comparison)), "far"),
        "training_images_copied": named(proportion(copied), "copied"),
        "authenticity": proportion(detector.is_authentic(comparison)),
        "nearest_ratio": {
            "median": float(np.median(comparison.nearest_ratio)),
            "median_validation": float(np.median(detector.null.nearest_ratio)),
        },
        "by_label": copy_rates(synthetic.labels, copies),
        "by_strength": copy_rates([row.get("strength") for row in synthetic.rows], copies),
        "nominal_false_alarm_rate": {"value": detector.nominal_rate, "interval": nominal_interval},
        "threshold": detector.threshold,
        "reach": detector.reach,
        "distances": distances,
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"{q:g}": float(np.quantile(values, q)) for q in (0.0, 0.05, 0.25, 0.5, 0.75)}


def _false_alarms(real: str, detector: CopyDetector, side: int, places: LesionPlaces | None, progress: bool) -> dict | None:
    """Share of the test split that is called a copy: images that neither the model nor the threshold has seen."""
    try:
        fresh = load_radiographs(real, "test", side, places=places)
    except MissingSplit:
        return None
    comparison = detector.gallery.compare(fresh.images, progress="test images" if progress else None)
    return named(proportion(detector.is_copy(comparison)), "found")


def _load_embedding(folder: Path) -> CopyEmbedding:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: there is no embedding here; it is the folder 'embedding' of an earlier audit.")
    try:
        check_network(folder, CopyEmbedding)
        return CopyEmbedding.from_pretrained(str(folder), use_safetensors=True).eval().requires_grad_(False)
    except Exception as error:  # of many classes, from diffusers and safetensors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder}: cannot be loaded as the embedding of an audit: {reason}") from error


def _recorded(settings: Settings, synthetic, training, detector: CopyDetector, num_available: int) -> dict:
    return {
        "real": str(settings.real),
        "synthetic": str(settings.synthetic),
        "model": None if settings.model is None else str(settings.model),
        "training_images": len(training),
        "training_images_available": num_available,
        "validation_images": len(detector.null),
        "synthetic_images": len(synthetic),
        "size": min(synthetic.side, SIZE),
        "embedding_steps": detector.gallery.embedding.config.steps,
        "seed": settings.seed,
    }


def _write(out: Path, result: dict, synthetic, training, detector: CopyDetector, comparison: Comparison) -> None:
    lines = list(_lines(synthetic, training, detector, comparison))
    with new_folder(out) as folder:
        write_json_lines(folder / VERDICTS_FILE, lines)
        detector.gallery.embedding.save_pretrained(folder / "embedding")
        page.write_pictures(folder, synthetic, training, detector, comparison, lines, result)
        page.write_page(folder, result)
        write_json(folder / AUDIT_FILE, result, indent=2)


def _lines(synthetic: Radiographs, training: Radiographs, detector: CopyDetector, comparison: Comparison) -> Iterator[dict]:
    """Yield what `audit.jsonl` says of each synthetic image."""
    closeness, authentic = detector.closeness(comparison), detector.is_authentic(comparison)
    copies, far = detector.is_copy(comparison), detector.is_far(comparison)
    for i in range(len(synthetic)):
        line = {
            "image_file_name": synthetic.files[i],
            "nearest_training_image": training.files[comparison.nearest[i]],
            "aligned_distance": float(comparison.aligned_distance[i]),
            "nearest_ratio": float(comparison.nearest_ratio[i]),
            "pixel_distance": float(comparison.pixel_distance[i]),
            "pixel_nearest": training.files[comparison.pixel_nearest[i]],
            "embedding_distance": float(comparison.embedding_distance[i]),
            "embedding_nearest": training.files[comparison.embedding_nearest[i]],
            "closeness": float(closeness[i]),
            "authentic": bool(authentic[i]),
            "copy": bool(copies[i]),
            "far": bool(far[i]),
            "label": synthetic.labels[i],
        }
        yield line | {column: value for column, value in synthetic.rows[i].items() if value is not None}
