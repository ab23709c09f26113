"""The facts of a card, from what trainings, `macdm generate`, `macdm audit` and `macdm evaluate` have recorded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult

from ..data.layout import METADATA, SPLITS
from ..files import read_json
from ..generate.synthetic_set import CONTACT_SHEET_FILE, CONTACT_SHEET_PAIRS, SETTINGS_FILE, SUMMARY_FILE
from ..macdm import MaCDMUNet2DModel
from ..provenance.weights import weights_digest
from ..statistics.proportions import wilson_interval
from .card_words import NOT_RECORDED, is_interval, is_number, without_tags
from .privacy import folder_name


PIPELINE_TAG = "unconditional-image-generation"  # the Hub has no task for images generated from a class label
# What `evaluation.json` calls its tasks, in the Hub's words; any other becomes "other".
EVALUATION_TASKS = {
    "classification": "image-classification",
    "diagnosis": "image-classification",
    "segmentation": "image-segmentation",
    "generation": PIPELINE_TAG,
}


def read_object(path: Path) -> dict | None:
    """Read the object in a JSON file; None where there is no file."""
    return read_json(path, None) if path.is_file() else None


def required_object(folder: str | Path, name: str, writer: str) -> dict:
    content = read_object(Path(folder) / name)
    if content is None:
        raise FileNotFoundError(f"{folder}: there is no {name}, so this is no finished output of {writer}.")
    return content


@contextmanager
def reading_records(*folders: str | Path | None) -> Iterator[None]:
    """Turn what goes wrong with a record that holds other things than this package writes there into one sentence.

    Raises:
        ValueError: naming the folders whose records are read.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ArithmeticError, jinja2.TemplateError) as error:
        named = ", ".join(str(folder) for folder in folders if folder is not None)
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{named}: a record there does not hold what this package writes into it ({type(error).__name__}: {reason})."
        ) from error


def training_seconds(log: Path, training: dict) -> float | None:
    """Time spent in the steps that led to these weights, from the rates in the log; None where they are not recorded.

    Steps that a resumed run took twice count once.
    """
    arguments, run = training.get("arguments") or {}, training.get("run") or {}
    names = ("train_batch_size", "gradient_accumulation_steps")
    if not log.is_file() or not run.get("num_processes") or any(not arguments.get(name) for name in names):
        return None
    samples_per_step = math.prod(arguments[name] for name in names) * run["num_processes"]
    seconds, before = 0.0, 0
    try:
        for line in log.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            seconds += (row["step"] - before) * samples_per_step / row["samples_per_second"]
            before = row["step"]
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{log} cannot be read as the log of a training: {error!r}") from error
    return seconds or None


def audit_facts(audit_dir: Path) -> dict[str, Any]:
    audit = required_object(audit_dir, "audit.json", "macdm audit")
    for name in ("copy_rate", "training_images_copied", "authenticity", "sensitivity", "false_alarms", "membership"):
        if not isinstance(audit.get(name), (dict, type(None))):
            raise ValueError(f"{audit_dir / 'audit.json'}: {name} is {audit[name]!r}; an object or null is expected.")
    return audit


def synthetic_facts(synthetic_dir: Path, model_dir: Path) -> dict[str, Any]:
    generation = required_object(synthetic_dir, SETTINGS_FILE, "macdm generate")
    summary = required_object(synthetic_dir, SUMMARY_FILE, "macdm generate")
    settings = generation.get("settings") or {}
    digest = weights_digest(MaCDMUNet2DModel.from_pretrained(model_dir / "unet"))
    if (settings.get("weights_sha256") or {}).get("unet") != digest:
        raise ValueError(f"{synthetic_dir} was not made with the weights in {model_dir}: give a set that this model has made.")
    if settings.get("from_data") or settings.get("masks_from") or settings.get("insert_into"):
        raise ValueError(
            f"{synthetic_dir} was made from real cases; give one that was made without --from, --masks-from and --insert-into."
        )
    return {"settings": settings, "labels": label_rows(summary), "num_pairs": summary.get("num_pairs")}


def label_rows(summary: dict) -> list[dict]:
    """Return what `summary.json` says about each label, with the intervals that follow from its counts."""
    rows = []
    for label, found in (summary.get("labels") or {}).items():
        row = {"label": label, "num_pairs": found["num_pairs"], "inside": found.get("lesion_inside_anatomy_unrefined")}
        for name in ("with_lesion_unrefined", "with_lesion"):
            share = found.get(name)
            row[name] = share if share is None else {"value": share, "total": found["num_pairs"]}
            if share is not None:
                row[name]["count"] = round(share * found["num_pairs"])
                row[name]["interval"] = wilson_interval(row[name]["count"], found["num_pairs"])
        rows.append(row)
    return rows


def label_results(synthetic: dict | None, dataset_name: str | None) -> Iterable[EvalResult]:
    for row in (synthetic or {}).get("labels", ()):
        share = row["with_lesion_unrefined"]
        if share is not None:
            yield _result(
                task="generation",
                dataset=dataset_name,
                metric="lesion_rate",
                name=f"pairs with label {row['label']} that have a lesion as sampled, n = {row['num_pairs']}",
                value=share["value"],
                interval=share["interval"],
            )


def audit_results(audit: dict | None, dataset_name: str | None) -> Iterable[EvalResult]:
    names = {
        "copy_rate": "synthetic images that are copies of a training image",
        "training_images_copied": "training images that were copied",
        "authenticity": "authenticity",
    }
    for key, name in names.items():
        part = (audit or {}).get(key) or {}
        if is_number(part.get("value")):
            yield _result("generation", dataset_name, key, name, part["value"], part.get("interval"))
    membership = (audit or {}).get("membership") or {}
    if is_number(membership.get("auc")):
        interval = membership.get("interval")
        yield _result("generation", dataset_name, "roc_auc", "membership inference", membership["auc"], interval)


def evaluation_rows(evaluation: dict | None) -> list[dict]:
    if evaluation is None:
        return []
    rows = evaluation.get("results")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("evaluation.json has no list of results.")
    names = ("task", "dataset", "metric", "value", "interval", "arm")
    rows = [{name: row.get(name) for name in names} for row in rows]
    for row in rows:
        row["dataset"] = folder_name(row["dataset"])
    return rows


def evaluation_result(row: dict) -> EvalResult | None:
    if not is_number(row["value"]) or not row["metric"]:
        return None
    name = str(row["metric"]) + (f", {row['arm']}" if row["arm"] else "")
    return _result(row["task"], row["dataset"], row["metric"], name, row["value"], row["interval"])


def _result(task, dataset, metric, name, value, interval) -> EvalResult:
    task, name, dataset = without_tags(task or "other"), without_tags(name), without_tags(dataset or "") or None
    interval = [float(bound) for bound in interval] if is_interval(interval) else None
    if interval is not None:
        name += f" (95 % interval {interval[0]:.4g} to {interval[1]:.4g})"
    return EvalResult(
        task_type=EVALUATION_TASKS.get(task, task if task in EVALUATION_TASKS.values() else "other"),
        task_name=task,
        dataset_type=re.sub(r"[^\w.-]+", "-", dataset or "").strip("-.") or "unknown",
        dataset_name=dataset or NOT_RECORDED,
        metric_type=re.sub(r"[^\w]+", "_", str(metric).lower()).strip("_"),
        metric_name=name,
        metric_value=value,
        metric_args={"interval": interval} if interval is not None else None,
    )


def picture_of(model_dir: Path, synthetic_dir: str | Path | None) -> dict[str, Any] | None:
    """Find the picture of samples and what it shows."""
    if synthetic_dir is not None and (path := Path(synthetic_dir) / CONTACT_SHEET_FILE).is_file():
        return {"path": path, "most": CONTACT_SHEET_PAIRS}
    grids = [path for path in (model_dir / "samples").glob("step-*.png") if re.fullmatch(r"step-\d+", path.stem)]
    if not grids:
        return None
    path = max(grids, key=lambda path: int(path.stem.removeprefix("step-")))
    return {"path": path, "step": int(path.stem.removeprefix("step-"))}


def splits_of(set_dir: Path) -> list[str]:
    if not set_dir.is_dir():
        raise FileNotFoundError(f"{set_dir}: no such folder.")
    splits = [name for name in SPLITS if (set_dir / name / METADATA).is_file()]
    if not splits:
        raise FileNotFoundError(f"{set_dir}: there is no train/metadata.jsonl, so it is no set in the project's layout.")
    return splits


def split_facts(pairs) -> dict[str, Any]:
    labels = ["none" if label is None else str(label) for label in pairs["label"]]
    patients = pairs["patient_id"] if "patient_id" in pairs.column_names else []
    return {
        "num_cases": len(labels),
        "cases_per_label": {label: labels.count(label) for label in sorted(set(labels))},
        "num_patients": len({patient for patient in patients if patient is not None}) or None,
    }
