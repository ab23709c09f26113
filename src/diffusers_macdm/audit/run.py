"""The copy audit of a synthetic set: `macdm audit`.

OUT/audit.json       the rates with their intervals, the verdict, the settings
OUT/audit.jsonl      one line for each synthetic image
OUT/index.html       the same to look at; montage.png, distances.png and strengths.png beside it
OUT/embedding/       the embedding, for the next audit against the same training images (`embedding=`)
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..data.dataset import UNLABELED, PairDataset
from ..data.loading import MissingSplit, case_names, load_pairs, radiograph_digest
from ..devices import available_device
from ..files import refuse_filled
from ..hub.loading import load_pipeline, own_version
from ..macdm.image_processor import radiograph_array
from ..provenance.records import digests_of_training
from ..statistics.proportions import proportion
from .copies import NOMINAL_RATE, CopyDetector, copies_too_often, false_alarm_interval
from .embedding import CopyEmbedding, train_embedding
from .images import SIZE, plant_copies, to_audit_size
from .membership import NOISE_LEVELS, denoising_errors, membership_auc
from .neighbours import Comparison, Gallery
from .settings import EMBEDDING_STEPS, Settings


AUDIT_FILE, VERDICTS_FILE = "audit.json", "audit.jsonl"
MAX_PLANTED = 100  # training images of which copies are planted, of each kind
MAX_MEMBERS = 200  # cases on either side of the membership inference
# Share of planted copies that must be found for the audit to be relied on.
MIN_SENSITIVITY = 0.8
# Of variations, by any of the three distances, at a strength that is said to hide the source. Chance is 3 in the number of
# training images.
MAX_TRACED = 0.1
# Harder than what a model does by itself: reported, but the audit does not stand or fall with it.
NOT_REQUIRED = ("combined",)


@dataclass
class Radiographs:
    """The radiographs of one split at the audit's size, with what the set says about them.

    Attributes:
        images: uint8 `[N, 64, 64]`.
        files: path of each, relative to the split's folder; its case name where the set keeps no file names.
        names: case names.
        digests: `data.loading.radiograph_digest` of each.
        labels: None for unlabeled ones.
        patients: None where not given.
        rows: the remaining columns of each (provenance).
        side: of the smallest image as it was loaded.
    """

    images: torch.Tensor
    files: list[str]
    names: list[str]
    digests: list[str]
    labels: list
    patients: list
    rows: list[dict]
    side: int

    def __len__(self) -> int:
        return len(self.files)

    def select(self, chosen: Sequence[int]) -> Radiographs:
        pick = lambda values: [values[i] for i in chosen]  # noqa: E731
        lists = (pick(values) for values in (self.files, self.names, self.digests, self.labels, self.patients, self.rows))
        return Radiographs(self.images[list(chosen)], *lists, self.side)


def load_radiographs(data: str | Path, split: str, size: int | None = None, columns: Sequence[str] = ()) -> Radiographs:
    """The radiographs of a split, one after the other, so that no more than one stands in memory at full size.

    Args:
        size: see `images.to_audit_size`; the side of the smallest image of this split when None.
        columns: further columns to keep.

    Raises:
        ValueError: when the split cannot be read, is empty, or a radiograph cannot be decoded (it is named).
    """
    import datasets

    pairs = load_pairs(data, split)
    if not len(pairs):
        raise ValueError(f"{data}, split {split!r}: there are no images.")
    names = case_names(pairs)
    undecoded = pairs.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    paths = [row["image"]["path"] for row in undecoded]
    files = [_file_name(Path(data) / split, path, name) for path, name in zip(paths, names, strict=True)]
    images = pairs.select_columns(["image"])

    digests = []

    def decoded():
        for index, name in enumerate(names):
            try:
                array = radiograph_array(images[index]["image"])
            except (ValueError, OSError) as error:
                raise ValueError(f"{data}, split {split!r}, {name}: {error}") from error
            digests.append(radiograph_digest(array))
            yield array

    side = min(max(array.shape) for array in decoded()) if size is None else size
    digests.clear()
    resized = to_audit_size(decoded(), side)
    kept = [column for column in columns if column in pairs.column_names]
    values = {column: list(pairs[column]) for column in kept}
    rows = [{column: values[column][i] for column in kept} for i in range(len(pairs))]
    patients = list(pairs["patient_id"]) if "patient_id" in pairs.column_names else [None] * len(pairs)
    return Radiographs(resized, files, names, digests, list(pairs["label"]), patients, rows, side)


def _file_name(folder: Path, path: str | None, name: str) -> str:
    if path is None:
        return name
    try:
        return Path(path).resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:  # of a Hub data set: the path in its archive, or in the cache
        return Path(path).name


def unrelated(training: Radiographs, validation: Radiographs) -> tuple[list[int], list[str]]:
    """Numbers of the validation images that may be compared with, and notes on those that may not.

    Left out are validation images that are training images, pixel by pixel, and those of patients who have training images:
    they would make a copy look ordinary.
    """
    notes = []
    known = {image.numpy().tobytes() for image in training.images}
    patients = {patient for patient in training.patients if patient is not None}
    same = [i for i, image in enumerate(validation.images) if image.numpy().tobytes() in known]
    shared = [i for i, patient in enumerate(validation.patients) if patient in patients and i not in same]
    for left_out, why in ((same, "stand in the training split, too"), (shared, "are of patients with training images")):
        if left_out:
            named = ", ".join(validation.names[i] for i in left_out[:10]) + (" and others" if len(left_out) > 10 else "")
            notes.append(f"{len(left_out)} validation images {why} and were left out of the comparison: {named}.")
    return [i for i in range(len(validation)) if i not in {*same, *shared}], notes


def build_detector(
    training: Radiographs,
    validation: Radiographs,
    *,
    embedding: CopyEmbedding | None = None,
    embedding_steps: int = EMBEDDING_STEPS,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> tuple[CopyDetector, list[str]]:
    """A detector of copies of these training images, and notes on what had to be left out of the validation images
    (see `unrelated`)."""
    kept, notes = unrelated(training, validation)
    null = validation.select(kept)
    if embedding is None:
        embedding = train_embedding(training.images, embedding_steps, seed, device=device, progress=progress)
    gallery = Gallery(training.images, training.patients, embedding.to(device))
    return CopyDetector(gallery, gallery.compare(null.images, progress="validation images" if progress else None)), notes


def sensitivity_of(detector: CopyDetector, seed: int, count: int = MAX_PLANTED, progress: bool = False) -> dict:
    """Plant copies of `count` training images and count those that the detector finds, by kind of alteration.

    Returns:
        For each kind the `proportion` found, and `attributed`, the share whose nearest training image is their source.
    """
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randperm(len(detector.gallery), generator=generator)[:count]
    found = {}
    for kind, copies in plant_copies(detector.gallery.images[sources], seed).items():
        comparison = detector.gallery.compare(copies, progress=f"planted copies, {kind}" if progress else None)
        found[kind] = _named(proportion(detector.is_copy(comparison)), "found")
        found[kind]["attributed"] = float((comparison.nearest == sources.numpy()).mean())
    return found


def run(settings: Settings, *, show_progress: bool = True) -> dict:
    """Audit a synthetic set for copies of the images that its model was trained on.

    Args:
        settings: what is asked for.
        show_progress: whether to show on stderr how far the work is.

    Returns:
        What `audit.json` says.

    Raises:
        FileNotFoundError, ValueError: when a set, the model or the embedding cannot be read, or settings do not go together.
        FileExistsError: when `out` has files in it.
    """
    out = Path(settings.out)
    refuse_filled(out)
    if settings.strengths and settings.model is None:
        raise ValueError("strengths need the model that makes the variations.")
    device = available_device(settings.device)

    pipe = None if settings.model is None else _pipeline(settings.model, device)  # first: what cannot be loaded is said at once
    made = load_radiographs(settings.synthetic, "train", columns=("strength", "source", "masks_from"))
    training = load_radiographs(settings.real, "train", made.side)
    validation = load_radiographs(settings.real, "validation", made.side)
    num_available = len(training)
    training, notes = trained_on(training, settings.real, model=settings.model, synthetic=settings.synthetic)
    learned = _load_embedding(settings.embedding) if settings.embedding is not None else None
    detector, left_out = build_detector(
        training,
        validation,
        embedding=learned,
        embedding_steps=settings.embedding_steps,
        seed=settings.seed,
        device=device,
        progress=show_progress,
    )
    notes += left_out
    if len(detector.null) < 100:
        notes.append(f"Only {len(detector.null)} validation images set the threshold; 100 make it firm.")

    comparison = detector.gallery.compare(made.images, progress="synthetic images" if show_progress else None)
    copies = detector.is_copy(comparison)
    sensitivity = sensitivity_of(detector, settings.seed, settings.planted, show_progress)
    false_alarms = _false_alarms(settings.real, detector, made.side, show_progress)

    membership = curve = None
    if pipe is not None:
        membership = _membership(pipe, settings.real, set(training.names), settings.seed)
        if settings.strengths:
            curve = strength_curve(
                pipe, settings.real, training, detector, settings.strengths, settings.variations, settings.seed, show_progress
            )

    result = {
        "verdict": "",
        "reliable": all(found["value"] >= MIN_SENSITIVITY for kind, found in sensitivity.items() if kind not in NOT_REQUIRED),
        "copy_rate": _named(proportion(copies), "copies"),
        "training_images_copied": _named(proportion(np.isin(np.arange(len(training)), comparison.nearest[copies])), "copied"),
        "authenticity": proportion(detector.is_authentic(comparison)),
        "nearest_ratio": {
            "median": float(np.median(comparison.nearest_ratio)),
            "median_validation": float(np.median(detector.null.nearest_ratio)),
        },
        "by_label": _groups(made.labels, copies),
        "by_strength": _groups([row.get("strength") for row in made.rows], copies),
        "sensitivity": sensitivity,
        "false_alarms": false_alarms,
        "nominal_false_alarm_rate": {
            "value": detector.nominal_rate,
            "interval": list(false_alarm_interval(len(detector.null))),
        },
        "membership": membership,
        "strength_curve": curve,
        "strength_level": None if curve is None else telling_level(curve),
        "threshold": detector.threshold,
        "distances": {
            name: {"synthetic": _quantiles(getattr(comparison, name)), "validation": _quantiles(getattr(detector.null, name))}
            for name in ("pixel_distance", "embedding_distance", "aligned_distance")
        },
        "notes": notes,
        "settings": {
            "real": str(settings.real),
            "synthetic": str(settings.synthetic),
            "model": None if settings.model is None else str(settings.model),
            "training_images": len(training),
            "training_images_available": num_available,
            "validation_images": len(detector.null),
            "synthetic_images": len(made),
            "size": min(made.side, SIZE),
            "embedding_steps": detector.gallery.embedding.config.steps,
            "seed": settings.seed,
        },
        "versions": _versions(),
    }
    result["verdict"] = verdict(result)

    from .page import write_page, write_pictures

    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        lines = list(_verdict_lines(made, training, detector, comparison, copies))
        (temporary / VERDICTS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        detector.gallery.embedding.save_pretrained(temporary / "embedding")
        write_pictures(temporary, made, training, detector, comparison, lines, result)
        write_page(temporary, result)
        (temporary / AUDIT_FILE).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return result


def verdict(result: dict) -> str:
    """The audit in a few sentences, from `audit.json`'s numbers alone."""
    rate, sensitivity = result["copy_rate"], result["sensitivity"]
    required = {kind: found for kind, found in sensitivity.items() if kind not in NOT_REQUIRED}
    found, total = sum(part["found"] for part in required.values()), sum(part["total"] for part in required.values())
    sentence = (
        f"{rate['copies']} of {rate['total']} synthetic images lie closer to a training image than 95 % of validation images "
        f"do; the audit finds {100 * found / total:.0f} % of planted copies"
    )
    harder = [f"{sensitivity[kind]['value']:.0%} of {kind} ones" for kind in NOT_REQUIRED if kind in sensitivity]
    sentence += f" with a single alteration, {', '.join(harder)}." if harder else "."
    if not result["reliable"]:
        missed = ", ".join(f"{kind} {part['value']:.0%}" for kind, part in required.items() if part["value"] < MIN_SENSITIVITY)
        sentence += f" The audit cannot be relied on: it misses too many planted copies ({missed} found)."
    if copies_too_often(result):
        sentence += " That is more than chance gives: the model copies its training images."
    elif result["reliable"]:
        sentence += f" That is no more than chance gives ({100 * result['nominal_false_alarm_rate']['value']:.0f} %)."
    return sentence


def telling_level(curve: Sequence[dict]) -> float | None:
    """The lowest strength from which on variations are called copies no more often than chance explains, and are known to lie
    nearest to their own source in fewer than `MAX_TRACED` of the cases (the interval's upper end: a few variations prove
    nothing). None if there is none. Below it the audit may tell which case a variation was made from."""
    level = None
    for point in sorted(curve, key=lambda point: -point["strength"]):
        if point["interval"][0] > NOMINAL_RATE or point["nearest_is_source_interval"][1] > MAX_TRACED:
            break
        level = point["strength"]
    return level


def trained_on(
    training: Radiographs, real: str | Path, *, model: str | Path | None = None, synthetic: str | Path | None = None
) -> tuple[Radiographs, list[str]]:
    """The images that the model was trained on, by its record or that of the synthetic set, and notes; all where none tells.

    Raises:
        ValueError: when none of the recorded images is among `training`.
    """
    known, values = digests_of_training(model=model, synthetic=synthetic), training.digests
    if known is None and model is not None:
        known, values = _trained_names(Path(model)), training.names  # of a record that has no digests yet
    if not known:
        return training, ["Nothing records which cases trained the model: compared with the whole train split."]
    chosen = [i for i, value in enumerate(values) if value in known]
    if not chosen:
        raise ValueError(f"{real}: none of the {len(known)} images that trained the model is in its train split.")
    missing = len(known) - len({values[i] for i in chosen})
    notes = (
        [f"{missing} of the {len(known)} images that trained the model are not in the train split of {real}."]
        if missing
        else []
    )
    return training.select(chosen), notes


def _trained_names(model: Path) -> set[str]:
    record = model / "training_config.json"
    return set(json.loads(record.read_text(encoding="utf-8")).get("data", {}).get("cases") or ()) if record.is_file() else set()


def strength_curve(
    pipe, real, training: Radiographs, detector: CopyDetector, strengths, count: int, seed: int, progress: bool
) -> list[dict]:
    """Share of variations of training cases that are copies, and of those that lie nearest to their own source by any of the
    three distances, by strength."""
    dataset = PairDataset(load_pairs(real, "train"), pipe.unet.config.sample_size, null_label=UNLABELED)
    places = {name: i for i, name in enumerate(training.names)}
    eligible = [i for i, name in enumerate(dataset.names) if name in places and dataset.labels[i] >= 0]
    chosen = np.random.default_rng(seed).permutation(eligible)[:count]
    sources = np.array([places[dataset.names[i]] for i in chosen])
    curve = []
    for strength in sorted(strengths):
        images = []
        for start in range(0, len(chosen), 16):
            batch = [dataset[int(i)] for i in chosen[start : start + 16]]
            samples = torch.stack([item["joint_sample"] for item in batch]) / 2 + 0.5  # [B, 3, H, W] in [0, 1]
            output = pipe(
                class_labels=[item["class_label"] for item in batch],
                image=samples[:, :1],
                anatomy_mask=samples[:, 1:2],
                lesion_mask=samples[:, 2:],
                strength=strength,
                num_inference_steps=50,
                generator=[torch.Generator().manual_seed(seed + start + i) for i in range(len(batch))],
                refine_masks=False,
                output_type="np",
            )
            images.extend(output.images[..., 0])
        bar = f"variations at {strength}" if progress else None
        comparison = detector.gallery.compare(to_audit_size(images, training.side), progress=bar)
        point = _named(proportion(detector.is_copy(comparison)), "copies")
        found = (comparison.nearest, comparison.pixel_nearest, comparison.embedding_nearest)
        traced = proportion(np.any([nearest == sources for nearest in found], axis=0))
        point |= {"nearest_is_source": traced["value"], "nearest_is_source_interval": traced["interval"]}
        curve.append({"strength": float(strength), **point})
    return curve


def _verdict_lines(made: Radiographs, training: Radiographs, detector: CopyDetector, comparison: Comparison, copies):
    closeness, authentic = detector.closeness(comparison), detector.is_authentic(comparison)
    for i in range(len(made)):
        line = {
            "image_file_name": made.files[i],
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
            "label": made.labels[i],
        }
        yield line | {column: value for column, value in made.rows[i].items() if value is not None}


def _false_alarms(real, detector: CopyDetector, side: int, progress: bool) -> dict | None:
    """Share of the test split that is called a copy: images that neither the model nor the threshold has seen."""
    try:
        fresh = load_radiographs(real, "test", side)
    except MissingSplit:
        return None
    comparison = detector.gallery.compare(fresh.images, progress="test images" if progress else None)
    return _named(proportion(detector.is_copy(comparison)), "found")


def _membership(pipe, real, trained: set[str], seed: int) -> dict:
    generator = np.random.default_rng(seed)
    groups = []
    for split in ("train", "validation"):
        dataset = PairDataset(load_pairs(real, split), pipe.unet.config.sample_size, null_label=UNLABELED)
        chosen = [i for i, name in enumerate(dataset.names) if split != "train" or name in trained]
        chosen = np.sort(generator.permutation(chosen)[:MAX_MEMBERS])
        labels = [dataset.labels[i] for i in chosen]
        samples = torch.stack([dataset[int(i)]["joint_sample"] for i in chosen])
        errors = denoising_errors(pipe.unet, pipe.scheduler, samples, labels, seed=seed).mean(axis=1)
        groups.append((errors, labels, [dataset.patient_ids[i] for i in chosen]))
    (members, labels, patients), (others, other_labels, other_patients) = groups
    result = membership_auc(members, others, labels, other_labels, patients, other_patients, seed=seed)
    return {**result, "noise_levels": list(NOISE_LEVELS)}


def _pipeline(model, device):
    pipe = load_pipeline(model).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _load_embedding(folder: str | Path) -> CopyEmbedding:
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: there is no embedding here; it is the folder 'embedding' of an earlier audit.")
    return CopyEmbedding.from_pretrained(str(folder)).eval().requires_grad_(False)


def _groups(keys: Sequence, copies: np.ndarray) -> dict:
    """The copy rate for each value of a column; None ("not given", "pure noise") last."""
    known = sorted({key for key in keys if key is not None})
    chosen = [*known, None] if any(key is None for key in keys) else known
    return {
        "none" if key is None else str(key): _named(
            proportion([c for k, c in zip(keys, copies, strict=True) if k == key]), "copies"
        )
        for key in chosen
    }


def _named(share: dict, name: str) -> dict:
    return {name if key == "count" else key: value for key, value in share.items()}


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"{q:g}": float(np.quantile(values, q)) for q in (0.0, 0.05, 0.25, 0.5, 0.75)}


def _versions() -> dict[str, str]:
    import diffusers

    return {"diffusers_macdm": own_version(), "diffusers": diffusers.__version__, "torch": torch.__version__}
