"""A synthetic data set from a trained model: `macdm generate`.

    OUT/generation.json              every setting, the versions, the digests of the weights, and which cases trained them
                                     (`provenance`); written first
    OUT/train/metadata.jsonl         one row for each pair, with what is needed to make that pair again
    OUT/train/{images,anatomy,lesion}/NAME.png
    OUT/contact_sheet.png, OUT/summary.json       written last

Pair `i` has a seed of its own, mixed from `seed` and `i`, so it depends on no other pair and no two sets share one. The
pairs of a batch are fixed by their numbers, and a batch counts as done when its rows stand in `metadata.jsonl`: a run
that is killed and started again ends with the same bytes as one that was not.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import diffusers
import numpy as np
import PIL.Image
import torch
from tqdm.auto import tqdm

from ..data.dataset import UNLABELED, PairDataset
from ..data.layout import FOLDERS, METADATA, OPTIONAL_COLUMNS
from ..data.loading import load_pairs
from ..data.sampler import shuffled
from ..devices import available_device
from ..hub.loading import load_pipeline, own_version
from ..macdm import MaCDMPipeline
from ..macdm.image_processor import mask_array, radiograph_array
from ..macdm.joint_sample import split as split_joint_sample
from ..macdm.refinement import refine_masks as refine_masks_of
from ..macdm.schedulers import set_scheduler
from ..provenance.records import TrainedOn, provenance_record
from ..report.contact_sheet import contact_sheet, save
from .settings import Settings


SETTINGS_FILE, SUMMARY_FILE, CONTACT_SHEET_FILE = "generation.json", "summary.json", "contact_sheet.png"
SPLIT = "train"  # of what is written: synthetic pairs are for training, never for measuring
CONTACT_SHEET_PAIRS = 48
MAX_REJECTIONS = 20
# The strength Z / T from which on variations could not be traced to the case they were made from: docs/results/copy_audit.md.
COPY_FREE_STRENGTH = 0.7


@dataclass(frozen=True)
class Pair:
    """One synthetic pair.

    Attributes:
        radiograph: 8-bit grayscale.
        anatomy_mask, lesion_mask: bool `[H, W]`, refined where the row says so.
        lesion_pixels_unrefined: pixels of the lesion mask before refinement.
        lesion_inside_anatomy_unrefined: share of these that were inside the anatomy mask; None where there were none.
    """

    radiograph: PIL.Image.Image
    anatomy_mask: np.ndarray
    lesion_mask: np.ndarray
    lesion_pixels_unrefined: int
    lesion_inside_anatomy_unrefined: float | None


def run(settings: Settings, *, show_progress: bool = True) -> dict:
    """Write a synthetic data set into the folder `out`, or go on with one that was interrupted.

    Args:
        settings: what is asked for.
        show_progress: whether to show on stderr how far the work is.

    Returns:
        What `summary.json` says: `num_pairs`, and for each label the number of pairs, the shares of them with a lesion
        before and after refinement, and the share of lesion pixels inside the anatomy before it. Then, not in the file,
        `num_new` (pairs made by this call) and `seconds_per_pair` (None when there was nothing to do).

    Raises:
        FileNotFoundError: when there is no such model or data set.
        FileExistsError: when `out` holds something else than a set that this function has begun.
        ValueError: when `out` was begun with other settings, and for settings that do not go together; nothing is written
            then. And when a pair is a copy again and again; what was written until then stays.
    """
    out = Path(settings.out)
    if settings.from_data is not None and settings.strength is not None and settings.reject_copies is None:
        warning = strength_warning(settings.model, settings.strength)
        if warning is not None and show_progress:
            print(f"warning: {warning}", file=sys.stderr)
    _check_real_cases(settings.from_data, settings.strength, settings.masks_from)
    begun = _settings_of(out)

    pipe = load_pipeline(settings.model)
    weights_sha256 = {name: weights_digest(module) for name, module in _networks(pipe).items()}
    set_scheduler(pipe, settings.scheduler)
    device = available_device(settings.device)
    pipe.to(device)
    if settings.dtype != "float32":  # what it was loaded as; casting to the same warns all the same
        pipe.to(dtype=getattr(torch, settings.dtype))
    pipe.set_progress_bar_config(disable=True)
    labels = _labels(pipe, settings.class_labels)

    recorded = {
        "model": str(settings.model),
        "weights_sha256": weights_sha256,
        "class_labels": labels,
        "num_per_class": settings.num_per_class,
        "from_data": None if settings.from_data is None else str(settings.from_data),
        "strength": None if settings.strength is None else float(settings.strength),
        "masks_from": None if settings.masks_from is None else str(settings.masks_from),
        "split": settings.split,
        "guidance_scale": float(settings.guidance_scale),
        "guidance_interval": [float(level) for level in settings.guidance_interval],
        "classifier_free_guidance_scale": float(settings.classifier_free_guidance_scale),
        "num_inference_steps": settings.num_inference_steps,
        "scheduler": type(pipe.scheduler).__name__,
        "scheduler_config": _scheduler_config(pipe),
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "refine_masks": settings.refine_masks,
        "reject_copies": None if settings.reject_copies is None else str(settings.reject_copies),
        "device": device.type,
        "dtype": settings.dtype,
    }
    versions = {"diffusers_macdm": own_version(), "diffusers": diffusers.__version__, "torch": torch.__version__}
    if begun is not None:
        _refuse_other(out, "settings", begun["settings"], recorded)

    real_data = settings.from_data if settings.from_data is not None else settings.masks_from
    cases = None
    if real_data is not None:
        # Unlabeled cases stand for no label: -1 is none.
        cases = PairDataset(load_pairs(real_data, settings.split), pipe.unet.config.sample_size, null_label=UNLABELED)
    rows, case_indices = _plan(recorded, cases)
    sources = {} if cases is None else _sources(cases, case_indices)
    if begun is not None and begun["provenance"] is not None:  # None: begun by a version that did not record it
        _refuse_other(out, "real cases", begun["provenance"]["sources"], sources)
    provenance = provenance_record(TrainedOn.read(settings.model), sources)

    done = _done_rows(out, rows, settings.batch_size, settings.seed) if begun is not None else []
    if len(done) < len(rows) and begun is not None:
        _refuse_other(out, "versions", begun["versions"], versions)  # they may round otherwise
        _remove_temporaries(out)

    is_copy = None
    if settings.reject_copies is not None and len(done) < len(rows):
        is_copy = _copy_test(
            settings.reject_copies, settings.model, pipe.unet.config.sample_size, settings.seed, device, show_progress
        )
    first, started = len(done), time.perf_counter()
    with (
        tqdm(total=len(rows), initial=first, desc="generate", unit="pair", disable=not show_progress) as progress_bar,
        # Some of cuDNN's gradients, which guidance takes, add up in an order that changes from run to run.
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        for begin in range(first, len(rows), settings.batch_size):
            batch = rows[begin : begin + settings.batch_size]
            batch_cases = None
            if cases is not None:
                batch_cases = [cases[case_indices[begin + i]]["joint_sample"] for i in range(len(batch))]
            pairs = make_pairs(pipe, batch, batch_cases)
            if is_copy is not None:
                _replace_copies(pipe, settings.seed, begin, batch, pairs, batch_cases, is_copy)
            if begin == 0:
                # Only now: what the pipeline refuses, or what does not fit into memory, leaves nothing behind.
                _begin(out, {"settings": recorded, "versions": versions, "provenance": provenance})
            done += _write_batch(out, batch, pairs)
            progress_bar.update(len(batch))
    seconds = time.perf_counter() - started

    summary = _finish(out, done)
    num_new = len(rows) - first
    return {**summary, "num_new": num_new, "seconds_per_pair": seconds / num_new if num_new else None}


def pair_seed(seed: int, index: int, rejected: int = 0) -> int:
    """The seed of pair `index` of the set with `seed`, below 2^63; sets with neighbouring seeds have no pair in common.

    Args:
        rejected: how many times the pair was rejected before.
    """
    entropy = [seed, index, rejected] if rejected else [seed, index]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_pairs(pipe: MaCDMPipeline, rows: Sequence[dict], cases: Sequence[torch.Tensor] | None = None) -> list[Pair]:
    """Sample the pairs that rows of `metadata.jsonl` describe, in one batch.

    Args:
        pipe: the model, with the scheduler that the rows name.
        rows: their `label` and `seed` may differ, all other settings must agree.
        cases: joint sample `[3, H, W]` of the real case that each row names in `source` or `masks_from`.
    """
    settings = rows[0]
    given = {}
    if cases is not None:
        radiographs, anatomy_masks, lesion_masks = split_joint_sample(torch.stack(list(cases)))  # [B, H, W] each
        given = {"anatomy_mask": anatomy_masks, "lesion_mask": lesion_masks}
        if settings["source"] is not None:
            given["image"] = radiographs
    labels = [row["label"] for row in rows]
    output = pipe(
        class_labels=None if labels[0] is None else labels,
        strength=settings["strength"],
        guidance_scale=settings["guidance_scale"],
        guidance_interval=tuple(settings["guidance_interval"]),
        classifier_free_guidance_scale=settings["classifier_free_guidance_scale"],
        num_inference_steps=settings["num_inference_steps"],
        # On the CPU whatever the device: it draws the same numbers everywhere.
        generator=[torch.Generator().manual_seed(row["seed"]) for row in rows],
        refine_masks=False,  # refined below, to tell what was there before
        **given,
    )
    pairs = []
    for row, radiograph, *masks in zip(rows, output.images, output.anatomy_masks, output.lesion_masks, strict=True):
        anatomy_mask, lesion_mask = (mask_array(mask) for mask in masks)
        num_pixels = int(lesion_mask.sum())
        inside = float((lesion_mask & anatomy_mask).sum() / num_pixels) if num_pixels else None
        if settings["refine_masks"] and settings["masks_from"] is None:
            anatomy_mask, lesion_mask = refine_masks_of(anatomy_mask, lesion_mask, row["label"])
        pairs.append(Pair(radiograph, anatomy_mask, lesion_mask, num_pixels, inside))
    return pairs


def make_again(pipe: MaCDMPipeline, row: dict, data: str | Path | None = None, split: str = "train") -> Pair:
    """Make one pair of a synthetic set again from its row of `metadata.jsonl`.

    Args:
        pipe: the model that the row names; its scheduler becomes the one that the row names.
        row: of `metadata.jsonl`, or of the set as `datasets` loads it.
        data, split: the real data where the row names a case in `source` or `masks_from`.

    Returns:
        The pair. On the same device it is that of the set up to rounding (one gray level): sums are added up in another order
        in a batch of one.

    Raises:
        ValueError: when the row names a real case and there is no data, or not this case.
    """
    set_scheduler(pipe, row["scheduler"])
    name = row["source"] or row["masks_from"]
    if name is None:
        return make_pairs(pipe, [row])[0]
    if data is None:
        raise ValueError(f"The pair was made from the real case {name!r}: give the data set that has it.")
    cases = PairDataset(load_pairs(data, split), pipe.unet.config.sample_size, null_label=UNLABELED)
    if name not in cases.names:
        raise ValueError(f"{data}, split {split!r}: there is no case {name!r}.")
    return make_pairs(pipe, [row], [cases[cases.names.index(name)]["joint_sample"]])[0]


def weights_digest(module: torch.nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of all weights; the same however a checkpoint is cut into files."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# --- copies -----------------------------------------------------------------------------------------------------------


def strength_warning(model: str | Path, strength: float) -> str | None:
    """What is to be said of variations at this strength: None where they are no copies of their cases.

    An audit with `--strengths` that was written into the model's folder `audit` says from which strength on that is so; without
    one, what was measured on FracAtlas does (docs/results/copy_audit.md).
    """
    level, known = COPY_FREE_STRENGTH, "on FracAtlas, docs/results/copy_audit.md; for this model, macdm audit --strengths tells"
    record = Path(model) / "audit" / "audit.json"
    if record.is_file():
        audit = json.loads(record.read_text(encoding="utf-8"))
        if audit.get("strength_curve"):
            level, known = audit.get("strength_level"), f"{record}"
            level = math.inf if level is None else level
    if strength >= level:
        return None
    limit = "at no strength that was measured" if level == math.inf else f"only from strength {level} on"
    return (
        f"strength {strength}: variations are copies of the cases that they are made from, or can be traced to them; {limit} "
        f"can they not ({known}). Treat this set as you treat the real films."
    )


def _copy_test(real, model, size: int, seed: int, device, progress: bool) -> Callable[[Sequence[Pair]], np.ndarray]:
    """Tells which of some pairs are copies of the images in `real` that the model was trained on: `[N]` bool."""
    from ..audit.images import to_audit_size
    from ..audit.run import build_detector, load_radiographs, trained_on
    from ..audit.settings import EMBEDDING_STEPS

    training, _ = trained_on(load_radiographs(real, "train", size), real, model=model)
    detector, _ = build_detector(
        training,
        load_radiographs(real, "validation", size),
        embedding_steps=EMBEDDING_STEPS,
        seed=seed,
        device=device,
        progress=progress,
    )
    return lambda pairs: detector.find(to_audit_size([radiograph_array(pair.radiograph) for pair in pairs], size))


def _replace_copies(pipe, seed: int, begin: int, batch: list[dict], pairs: list[Pair], batch_cases, is_copy) -> None:
    """Make the copies in a batch again from other seeds, in place, until none is left; the rows get seeds and counts."""
    for row in batch:
        row["rejected_copies"] = 0
    waiting = list(range(len(batch)))
    for rejected in range(1, MAX_REJECTIONS + 2):
        waiting = [i for i, copy in zip(waiting, is_copy([pairs[i] for i in waiting]), strict=True) if copy]
        if not waiting:
            return
        if rejected > MAX_REJECTIONS:
            break
        for i in waiting:
            batch[i] |= {"seed": pair_seed(seed, begin + i, rejected), "rejected_copies": rejected}
        cases = None if batch_cases is None else [batch_cases[i] for i in waiting]
        for i, pair in zip(waiting, make_pairs(pipe, [batch[i] for i in waiting], cases), strict=True):
            pairs[i] = pair
    name = Path(batch[waiting[0]]["image_file_name"]).stem
    raise ValueError(
        f"{name} was a copy of a training image {MAX_REJECTIONS + 1} times over: this model copies its training images. Train "
        "it for fewer steps or on more cases (or, for variations, take a larger strength)."
    )


# --- what is asked for ------------------------------------------------------------------------------------------------


def _check_real_cases(from_data, strength: float | None, masks_from) -> None:
    if from_data is not None and masks_from is not None:
        raise ValueError("from_data and masks_from are both given: a pair is a variation of a real case or has its masks.")
    if from_data is not None and strength is None:
        raise ValueError("from_data needs a strength in (0, 1]: how far a pair may go from its real case.")
    if from_data is None and strength is not None:
        raise ValueError(f"strength={strength} needs from_data: the real cases to start from.")


def _networks(pipe: MaCDMPipeline) -> dict[str, torch.nn.Module]:
    networks = {name: getattr(pipe, name, None) for name in ("unet", "guidance_classifier")}
    return {name: network for name, network in networks.items() if network is not None}


def _labels(pipe: MaCDMPipeline, class_labels: Sequence[int] | None) -> list[int | None]:
    known = list(range(pipe.unet.num_classes))
    if class_labels is None:
        return known or [None]
    labels = [int(label) for label in class_labels]
    if not labels or len(set(labels)) < len(labels) or not set(labels) <= set(known):
        raise ValueError(
            f"class_labels={labels} is not allowed: this model knows {', '.join(map(str, known)) or 'no labels'}; "
            "each at most once."
        )
    return labels


def _scheduler_config(pipe: MaCDMPipeline) -> dict:
    config = json.loads(pipe.scheduler.to_json_string(), parse_constant=str)  # -Infinity is not JSON
    return {name: value for name, value in sorted(config.items()) if not name.startswith("_")}


def _plan(settings: dict, cases: PairDataset | None) -> tuple[list[dict], list[int]]:
    """The row of each pair as far as it is known before sampling, and the index of its real case (if there are any)."""
    labels, seed = settings["class_labels"], settings["seed"]
    members = {}
    if cases is not None:
        for label in labels:
            members[label] = [i for i, other in enumerate(cases.labels) if label is None or other == label]
            if not members[label]:
                data = settings["from_data"] or settings["masks_from"]
                raise ValueError(f"{data}, split {settings['split']!r}: there is no case with label {label} to start from.")
        inherited = [column for column in OPTIONAL_COLUMNS if column in cases.pairs.column_names]
        inherited = {column: list(cases.pairs[column]) for column in inherited}

    rows, case_indices = [], []
    for i in range(settings["num_per_class"] * len(labels)):
        visit, turn = divmod(i, len(labels))
        label, name = labels[turn], f"synthetic_{i:06d}.png"
        row = {f"{column}_file_name": f"{folder}/{name}" for column, folder in FOLDERS.items()}
        row["label"] = label
        case_name = None
        if cases is not None:
            cycle, place = divmod(visit, len(members[label]))
            case_indices.append(int(shuffled(members[label], seed, turn, cycle)[place]))
            case_name = cases.names[case_indices[-1]]
            # A variation shows the patient that it was made from, and must never stand in another split.
            row |= {column: values[case_indices[-1]] for column, values in inherited.items()}
        row |= {
            "model": settings["model"],
            "seed": pair_seed(seed, i),
            "source": case_name if settings["from_data"] is not None else None,
            "masks_from": case_name if settings["masks_from"] is not None else None,
        }
        for name in (
            "strength",
            "guidance_scale",
            "guidance_interval",
            "classifier_free_guidance_scale",
            "num_inference_steps",
            "scheduler",
            "refine_masks",
        ):
            row[name] = settings[name]
        rows.append(row)
    return rows, case_indices


def _sources(cases: PairDataset, case_indices: Sequence[int]) -> dict[str, dict]:
    """The real cases that pairs are made from, as `provenance_record` takes them."""
    return {
        cases.names[i]: {"image_sha256": cases.image_sha256(i), "patient_id": cases.patient_ids[i]}
        for i in sorted(set(case_indices))
    }


# --- files --------------------------------------------------------------------------------------------------------------


def _settings_of(out: Path) -> dict | None:
    """What an earlier call has written at its start; None where there is nothing yet. Refuses any other folder."""
    if not out.exists() and not out.is_symlink():
        return None
    if not out.is_dir():
        raise FileExistsError(f"{out} exists and is not a folder.")
    path = out / SETTINGS_FILE
    if path.is_file():
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
            return {part: dict(begun[part]) for part in ("settings", "versions")} | {"provenance": begun.get("provenance")}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be read as the settings of a generated set: {error!r}") from error
    # A call that was killed before anything else may have left its temporary file.
    if any(other.name != _temporary(path).name for other in out.iterdir()):
        raise FileExistsError(f"{out} is not empty and no generated set ({SETTINGS_FILE} is missing): nothing is overwritten.")
    return None


def _refuse_other(out: Path, what: str, before: dict, now: dict) -> None:
    """Name the first setting that differs. JSON values are compared: `(0, 1)` and `[0, 1]` are the same."""
    before, now = _flat(before), _flat(json.loads(json.dumps(now)))
    for name in dict.fromkeys((*now, *before)):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{out} was begun with {name}={before.get(name)!r} and this call has {name}={now.get(name)!r}: use the same "
                f"{what}, or another folder."
            )


def _flat(settings: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _done_rows(out: Path, rows: list[dict], batch_size: int, seed: int) -> list[dict]:
    """The rows of the batches that are complete. They must be what the settings make, and their files must be there."""
    metadata = out / SPLIT / METADATA
    if not metadata.exists():
        return []
    try:
        done = [json.loads(line) for line in metadata.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"{metadata} is not valid JSON, line by line: {error}") from error
    if len(done) > len(rows) or (len(done) < len(rows) and len(done) % batch_size):
        raise ValueError(f"{metadata} has {len(done)} rows, which is no whole number of batches: it was changed since.")
    for number, (found, planned) in enumerate(zip(done, rows, strict=False), start=1):
        if isinstance(found, dict) and found.get("rejected_copies"):
            planned = planned | {"seed": pair_seed(seed, number - 1, found["rejected_copies"])}
        if not isinstance(found, dict) or any(found.get(column) != value for column, value in planned.items()):
            raise ValueError(
                f"{metadata}, line {number}: not the pair that the settings make here; the data was changed since."
            )
        for path in _paths(out, planned).values():
            if not path.is_file():
                raise FileNotFoundError(f"{path} is gone, although {metadata.name} lists it: start again in another folder.")
    return done


def _begin(out: Path, content: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    _write(out / SETTINGS_FILE, _json_bytes(content))


def _write_batch(out: Path, rows: list[dict], pairs: list[Pair]) -> list[dict]:
    """Write the images of a batch and then its rows; returns the rows."""
    for folder in FOLDERS.values():
        (out / SPLIT / folder).mkdir(parents=True, exist_ok=True)
    written = []
    for row, pair in zip(rows, pairs, strict=True):
        paths = _paths(out, row)
        _write(paths["image"], _png_bytes(pair.radiograph))
        for column in ("anatomy_mask", "lesion_mask"):
            mask = getattr(pair, column).astype(np.uint8) * 255
            _write(paths[column], _png_bytes(PIL.Image.fromarray(mask)))
        measured = ("lesion_pixels_unrefined", "lesion_inside_anatomy_unrefined")
        written.append({**row, **{column: getattr(pair, column) for column in measured}})
    metadata = out / SPLIT / METADATA
    before = metadata.read_bytes() if metadata.exists() else b""
    _write(metadata, before + "".join(json.dumps(row) + "\n" for row in written).encode())
    return written


def _finish(out: Path, rows: list[dict]) -> dict:
    """Write contact sheet and summary, unless they are there, from the files of the set; returns the summary."""
    summary_file = out / SUMMARY_FILE
    if summary_file.is_file():
        return json.loads(summary_file.read_text(encoding="utf-8"))
    _remove_temporaries(out)
    _write_contact_sheet(out, rows)
    labels = {}
    for label in dict.fromkeys(row["label"] for row in rows):
        chosen = [row for row in rows if row["label"] == label]
        pixels = [row["lesion_pixels_unrefined"] for row in chosen]
        inside = [count * (row["lesion_inside_anatomy_unrefined"] or 0) for count, row in zip(pixels, chosen, strict=True)]
        refined = [_read(out, row)[2].any() for row in chosen]
        labels[str(label)] = {
            "num_pairs": len(chosen),
            "with_lesion_unrefined": sum(count > 0 for count in pixels) / len(chosen),
            "with_lesion": int(sum(refined)) / len(chosen),
            "lesion_inside_anatomy_unrefined": sum(inside) / sum(pixels) if any(pixels) else None,
        }
    summary = {"num_pairs": len(rows), "labels": labels}
    if rows and "rejected_copies" in rows[0]:
        summary["rejected_copies"] = sum(row["rejected_copies"] for row in rows)
    _write(summary_file, _json_bytes(summary))
    return summary


def _write_contact_sheet(out: Path, rows: list[dict]) -> None:
    chosen = sorted(rows[:CONTACT_SHEET_PAIRS], key=lambda row: row["label"] or 0)
    triples = [_read(out, row) for row in chosen]
    captions = [f"label {row['label']}, {Path(row['image_file_name']).stem}" for row in chosen]
    title = f"{len(chosen)} of {len(rows)} synthetic pairs"
    sheet = contact_sheet(*zip(*triples, strict=True), captions=captions, columns=6, title=title, side_by_side=True)
    save(sheet, out / CONTACT_SHEET_FILE)


def _read(out: Path, row: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Radiograph (uint8) and masks (bool), `[H, W]` each, of a pair that was written."""
    images = {}
    for column, path in _paths(out, row).items():
        with PIL.Image.open(path) as image:
            images[column] = np.asarray(image)
    return images["image"], images["anatomy_mask"] != 0, images["lesion_mask"] != 0


def _paths(out: Path, row: dict) -> dict[str, Path]:
    return {column: out / SPLIT / row[f"{column}_file_name"] for column in FOLDERS}


def _png_bytes(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _json_bytes(content: dict) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing: under a temporary name first."""
    _temporary(path).write_bytes(content)
    os.replace(_temporary(path), path)


def _remove_temporaries(out: Path) -> None:
    """What a killed call was about to write."""
    for path in out.rglob(".*.tmp"):
        path.unlink()
