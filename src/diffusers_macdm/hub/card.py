"""Model and data set cards for the Hub, rendered from recorded facts alone.

The templates in `model_cards/` hold the words, this module the facts: what the trainings recorded
(`training_config.json`, `training_log.jsonl`), the configurations beside the weights, and what `macdm generate`,
`macdm audit` and `macdm evaluate` have written. A fact that nobody recorded is shown as "not recorded", a number that
nobody measured as "not measured".

What a card never shows: names of cases, patient identifiers, sites, and paths of the machine (of a folder the last
part of its name at most).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..data.layout import FOLDERS
from ..generate.run import CONTACT_SHEET_FILE, CONTACT_SHEET_PAIRS, SETTINGS_FILE, SUMMARY_FILE, weights_digest
from ..macdm import MaCDMUNet2DModel
from ..macdm.joint_sample import NORMAL_LABEL
from ..statistics.proportions import wilson_interval


NOT_RECORDED, NOT_MEASURED = "not recorded", "not measured"
PICTURE = "samples.png"  # its path in the repository
PIPELINE_TAG = "unconditional-image-generation"  # the Hub has no task for images generated from a class label
TAGS = ["diffusers-macdm", "medical", "radiography", "image-segmentation"]
README_METADATA = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)

# https://huggingface.co/docs/hub/repositories-licenses: the Hub refuses a card with any other.
LICENSES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0
    artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0
    cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0
    epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0
    odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 gemma
    unknown other
    """.split()
)
# The tasks of the Hub that have to do with images (huggingface.js, packages/tasks/src/pipelines.ts).
IMAGE_TASKS = frozenset(
    """
    depth-estimation image-classification image-feature-extraction image-segmentation image-to-image image-to-text
    keypoint-detection mask-generation object-detection text-to-image unconditional-image-generation
    zero-shot-image-classification zero-shot-object-detection other
    """.split()
)
# What `evaluation.json` calls its tasks, in the Hub's words; what is in neither list becomes "other".
EVALUATION_TASKS = {
    "classification": "image-classification",
    "diagnosis": "image-classification",
    "segmentation": "image-segmentation",
    "generation": PIPELINE_TAG,
}
SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def model_card(
    model_dir: str | Path,
    repo_id: str,
    *,
    audit_dir: str | Path | None = None,
    evaluation_dir: str | Path | None = None,
    synthetic_dir: str | Path | None = None,
    data_description: str | None = None,
    license: str | None = None,
) -> str:
    """The README.md of a trained model, with its metadata for the Hub.

    Args:
        model_dir: folder of a saved `MaCDMPipeline`, best the `--output_dir` of `train_macdm.py`, which holds the records.
        repo_id: the model's name on the Hub, `owner/name`.
        audit_dir: folder with the `audit.json` of `macdm audit`.
        evaluation_dir: folder with the `evaluation.json` of `macdm evaluate`.
        synthetic_dir: a set that `macdm generate` has made with this model from pure noise: how often its masks say what
            the labels say, and its contact sheet.
        data_description: what no record knows about the training data: source, consent, licence.
        license: the Hub's identifier of the weights' licence; "other" needs a LICENSE in `model_dir`.

    Raises:
        FileNotFoundError: when there is no model, or a folder that was named lacks its file.
        ValueError: for a repository name, licence or record that the Hub would refuse, and for a synthetic set that other
            weights have made.
    """
    model_dir = _model_folder(model_dir)
    _check_repo_id(repo_id)
    training = _read_json(model_dir / "training_config.json") or {}
    audit = None if audit_dir is None else _audit_facts(Path(audit_dir))
    evaluation = None if evaluation_dir is None else _required_json(evaluation_dir, "evaluation.json", "macdm evaluate")
    synthetic = None if synthetic_dir is None else _synthetic_facts(Path(synthetic_dir), model_dir)
    arguments, data = training.get("arguments") or {}, training.get("data") or {}
    dataset_name = arguments.get("dataset_name") or _folder_name(arguments.get("train_data_dir"))
    results = _evaluation_rows(evaluation)
    eval_results = [
        *_label_results(synthetic, dataset_name),
        *_audit_results(audit, dataset_name),
        *filter(None, map(_eval_result, results)),
    ]
    metadata = {
        **_license_metadata(license, repo_id, model_dir),
        "library_name": "diffusers",
        "pipeline_tag": PIPELINE_TAG,
        "tags": TAGS,
        "datasets": [arguments["dataset_name"]] if arguments.get("dataset_name") else None,
    }
    if eval_results:
        metadata |= {"model_name": _short(repo_id), "eval_results": eval_results}
    unet = _read_json(model_dir / "unet" / "config.json") or {}
    has_classifier = (model_dir / "guidance_classifier").is_dir()
    classifier_training = _read_json(model_dir / "guidance_classifier_training_config.json") or {}
    card = _render(
        "model_card.md.jinja",
        metadata=ModelCardData(**metadata),
        repo_id=repo_id,
        name=_short(repo_id),
        license=license,
        picture=_picture(model_dir, synthetic_dir),
        size=unet.get("sample_size"),
        num_classes=max((unet.get("num_class_embeds") or 1) - 1, 0),
        unet=unet,
        classifier=_read_json(model_dir / "guidance_classifier" / "config.json") or {},
        scheduler=_read_json(model_dir / "scheduler" / "scheduler_config.json") or {},
        training=training,
        arguments=arguments,
        pretrained=_folder_name(arguments.get("pretrained_unet")),
        data=data,
        dataset_name=dataset_name,
        data_description=data_description,
        seconds=_training_seconds(model_dir / "training_log.jsonl", training),
        has_classifier=has_classifier,
        classifier_training=classifier_training,
        classifier_seconds=_training_seconds(model_dir / "guidance_classifier_training_log.jsonl", classifier_training),
        synthetic=synthetic,
        audit=audit,
        evaluation=results,
    )
    check_card(card)
    return card


def model_card_files(
    model_dir: str | Path, *, audit_dir: str | Path | None = None, synthetic_dir: str | Path | None = None
) -> dict[str, Path]:
    """The files that the card of `model_card` shows or names, by their path in the repository.

    The picture of samples: the contact sheet of `synthetic_dir`, or else the last grid that the training drew. Of
    `audit_dir` there is none: its pictures may show real films, which no default publishes.
    """
    model_dir = _model_folder(model_dir)
    picture = _picture(model_dir, synthetic_dir)
    files = {} if picture is None else {PICTURE: picture["path"]}
    if (model_dir / "LICENSE").is_file():
        files["LICENSE"] = model_dir / "LICENSE"
    return files


def dataset_card(set_dir: str | Path, repo_id: str, *, license: str | None = None) -> str:
    """The README.md of a set in the project's layout, best one that `macdm generate` has made.

    Its metadata has the features and the splits (`dataset_info`) and which files belong to them (`configs`), so that
    `datasets.load_dataset(repo_id)` and the Hub's viewer read the folder as it lies.

    Args:
        set_dir: the folder as it will be published.
        repo_id: the set's name on the Hub, `owner/name`.
        license: the Hub's identifier of the set's licence; "other" needs a LICENSE in `set_dir`.

    Raises:
        FileNotFoundError: when there is no such set.
        ValueError: when the set cannot be read, and for a repository name or licence that the Hub would refuse.
    """
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict

    from ..data.loading import load_pairs

    set_dir = Path(set_dir)
    _check_repo_id(repo_id)
    splits = _splits(set_dir)
    pairs = {split: load_pairs(set_dir, split) for split in splits}
    columns = next(iter(pairs.values())).column_names
    generation = _read_json(set_dir / SETTINGS_FILE) or {}
    num_pairs = sum(map(len, pairs.values()))
    metadata = DatasetCardData(
        **_license_metadata(license, repo_id, set_dir),
        pretty_name=_short(repo_id),
        annotations_creators=["machine-generated"] if generation else None,
        size_categories=[next((name for limit, name in SIZE_CATEGORIES if num_pairs < limit), "n>1M")],
        task_categories=["image-segmentation", "image-classification", PIPELINE_TAG],
        tags=[*TAGS, "synthetic"] if generation else TAGS,
        configs=[
            {"config_name": "default", "data_files": [{"split": split, "path": f"{split}/**"} for split in splits]},
        ],
    )
    first = next(iter(pairs.values()))
    info = DatasetInfo(features=first.features, splits=first.info.splits)
    info.dataset_size = sum(split.num_bytes for split in info.splits.values())
    info.download_size = sum(path.stat().st_size for split in splits for path in (set_dir / split).rglob("*") if path.is_file())
    DatasetInfosDict({"default": info}).to_dataset_card_data(metadata)
    summary = _read_json(set_dir / SUMMARY_FILE) or {}
    card = _render(
        "dataset_card.md.jinja",
        metadata=metadata,
        repo_id=repo_id,
        name=_short(repo_id),
        license=license,
        picture=CONTACT_SHEET_FILE if (set_dir / CONTACT_SHEET_FILE).is_file() else None,
        settings=generation.get("settings"),
        model_name=_folder_name((generation.get("settings") or {}).get("model")),
        from_data=_folder_name((generation.get("settings") or {}).get("from_data")),
        masks_from=_folder_name((generation.get("settings") or {}).get("masks_from")),
        versions=generation.get("versions") or {},
        labels=_label_rows(summary),
        splits={split: _split_facts(set_pairs) for split, set_pairs in pairs.items()},
        columns=columns,
        image_folders=FOLDERS,
    )
    check_card(card, repo_type="dataset")
    return card


def check_card(card: str, repo_type: str = "model") -> None:
    """Check a README.md as the Hub does when it is pushed, as far as huggingface_hub documents it.

    Args:
        card: the whole text.
        repo_type: "model" or "dataset".

    Raises:
        ValueError: naming the field and what is allowed there.
    """
    if not README_METADATA.match(card):
        raise ValueError("The card does not begin with metadata between two lines '---'.")
    try:
        data = (ModelCard if repo_type == "model" else DatasetCard)(card).data
    except Exception as error:  # yaml's and huggingface_hub's own
        raise ValueError(f"The card's metadata cannot be read: {str(error).splitlines()[0]}") from error
    content = data.to_dict()
    licenses = content.get("license") or []
    for name in [licenses] if isinstance(licenses, str) else licenses:
        _check_license(name)
    if "other" in licenses and not (content.get("license_name") and content.get("license_link")):
        raise ValueError("license 'other' needs license_name and license_link.")
    for name in content.get("datasets") or []:
        _check_repo_id(name)
    tasks = content.get("task_categories") or []
    if repo_type == "model":
        tasks = [content["pipeline_tag"]] if "pipeline_tag" in content else []
        if not content.get("library_name"):
            raise ValueError("library_name is missing; diffusers is expected.")
        tasks += [result.task_type for result in data.eval_results or []]
        for result in data.eval_results or []:
            _check_result(result)
    for task in tasks:
        if task not in IMAGE_TASKS:
            raise ValueError(f"{task!r} is no task of the Hub for images; allowed are {', '.join(sorted(IMAGE_TASKS))}.")


# --- facts ----------------------------------------------------------------------------------------------------------------


def _model_folder(model_dir: str | Path) -> Path:
    model_dir = Path(model_dir)
    if not (model_dir / "model_index.json").is_file():
        raise FileNotFoundError(f"{model_dir}: there is no model_index.json here, so it is no saved MaCDMPipeline.")
    return model_dir


def _read_json(path: Path) -> dict | None:
    """The object in a JSON file; None where there is no file."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object.")
    return content


def _required_json(folder: str | Path, name: str, writer: str) -> dict:
    content = _read_json(Path(folder) / name)
    if content is None:
        raise FileNotFoundError(f"{folder}: there is no {name}, so this is no finished output of {writer}.")
    return content


def _training_seconds(log: Path, training: dict) -> float | None:
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


def _audit_facts(audit_dir: Path) -> dict[str, Any]:
    audit = _required_json(audit_dir, "audit.json", "macdm audit")
    for name in ("copy_rate", "training_images_copied", "authenticity", "sensitivity", "false_alarms", "membership"):
        if not isinstance(audit.get(name), (dict, type(None))):
            raise ValueError(f"{audit_dir / 'audit.json'}: {name} is {audit[name]!r}; an object or null is expected.")
    return audit


def _synthetic_facts(synthetic_dir: Path, model_dir: Path) -> dict[str, Any]:
    generation = _required_json(synthetic_dir, SETTINGS_FILE, "macdm generate")
    summary = _required_json(synthetic_dir, SUMMARY_FILE, "macdm generate")
    settings = generation.get("settings") or {}
    digest = weights_digest(MaCDMUNet2DModel.from_pretrained(model_dir / "unet"))
    if (settings.get("weights_sha256") or {}).get("unet") != digest:
        raise ValueError(f"{synthetic_dir} was not made with the weights in {model_dir}: give a set that this model has made.")
    if settings.get("from_data") or settings.get("masks_from"):
        raise ValueError(f"{synthetic_dir} was made from real cases; give one that was made without --from and --masks-from.")
    return {"settings": settings, "labels": _label_rows(summary), "num_pairs": summary.get("num_pairs")}


def _label_rows(summary: dict) -> list[dict]:
    """What `summary.json` says about each label, with the intervals that follow from its counts."""
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


def _label_results(synthetic: dict | None, dataset_name: str | None) -> Iterable[EvalResult]:
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


def _audit_results(audit: dict | None, dataset_name: str | None) -> Iterable[EvalResult]:
    names = {
        "copy_rate": "synthetic images that are copies of a training image",
        "training_images_copied": "training images that were copied",
        "authenticity": "authenticity",
    }
    for key, name in names.items():
        part = (audit or {}).get(key) or {}
        if _is_number(part.get("value")):
            yield _result("generation", dataset_name, key, name, part["value"], part.get("interval"))
    membership = (audit or {}).get("membership") or {}
    if _is_number(membership.get("auc")):
        interval = membership.get("interval")
        yield _result("generation", dataset_name, "roc_auc", "membership inference", membership["auc"], interval)


def _evaluation_rows(evaluation: dict | None) -> list[dict]:
    if evaluation is None:
        return []
    rows = evaluation.get("results")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("evaluation.json has no list of results.")
    names = ("task", "dataset", "metric", "value", "interval", "arm")
    rows = [{name: row.get(name) for name in names} for row in rows]
    for row in rows:
        row["dataset"] = _folder_name(row["dataset"])
    return rows


def _eval_result(row: dict) -> EvalResult | None:
    if not _is_number(row["value"]) or not row["metric"]:
        return None
    name = str(row["metric"]) + (f", {row['arm']}" if row["arm"] else "")
    return _result(row["task"], row["dataset"], row["metric"], name, row["value"], row["interval"])


def _result(task, dataset, metric, name, value, interval) -> EvalResult:
    task = str(task or "other")
    interval = [float(bound) for bound in interval] if _is_interval(interval) else None
    if interval is not None:
        name += f" (95 % interval {interval[0]:.4g} to {interval[1]:.4g})"
    return EvalResult(
        task_type=EVALUATION_TASKS.get(task, task if task in IMAGE_TASKS else "other"),
        task_name=task,
        dataset_type=re.sub(r"[^\w.-]+", "-", dataset or "").strip("-.") or "unknown",
        dataset_name=dataset or NOT_RECORDED,
        metric_type=re.sub(r"[^\w]+", "_", str(metric).lower()).strip("_"),
        metric_name=name,
        metric_value=value,
        metric_args={"interval": interval} if interval is not None else None,
    )


def _picture(model_dir: Path, synthetic_dir: str | Path | None) -> dict[str, Any] | None:
    """The picture of samples and what it shows."""
    if synthetic_dir is not None and (path := Path(synthetic_dir) / CONTACT_SHEET_FILE).is_file():
        return {"path": path, "most": CONTACT_SHEET_PAIRS}
    grids = [path for path in (model_dir / "samples").glob("step-*.png") if re.fullmatch(r"step-\d+", path.stem)]
    if not grids:
        return None
    path = max(grids, key=lambda path: int(path.stem.removeprefix("step-")))
    return {"path": path, "step": int(path.stem.removeprefix("step-"))}


def _splits(set_dir: Path) -> list[str]:
    if not set_dir.is_dir():
        raise FileNotFoundError(f"{set_dir}: no such folder.")
    splits = [name for name in ("train", "validation", "test") if (set_dir / name / "metadata.jsonl").is_file()]
    if not splits:
        raise FileNotFoundError(f"{set_dir}: there is no train/metadata.jsonl, so it is no set in the project's layout.")
    return splits


def _split_facts(pairs) -> dict[str, Any]:
    labels = ["none" if label is None else str(label) for label in pairs["label"]]
    patients = pairs["patient_id"] if "patient_id" in pairs.column_names else []
    return {
        "num_cases": len(labels),
        "cases_per_label": {label: labels.count(label) for label in sorted(set(labels))},
        "num_patients": len({patient for patient in patients if patient is not None}) or None,
    }


def _folder_name(path: str | None) -> str | None:
    """The last part of a path, however the system that wrote it spells paths: the rest is nobody's business."""
    parts = [part for part in re.split(r"[/\\]+", str(path or "")) if part not in ("", ".", "..")]
    return parts[-1] if parts else None


def _short(repo_id: str) -> str:
    return repo_id.rpartition("/")[2]


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_interval(value) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value))


# --- metadata -------------------------------------------------------------------------------------------------------------


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no name of a Hub repository (owner/name): {str(error).splitlines()[0]}") from error


def _check_license(name: str) -> None:
    if name not in LICENSES:
        raise ValueError(
            f"license={name!r} is none that the Hub knows, such as apache-2.0, cc-by-4.0, cc-by-nc-4.0; for another one give "
            "'other' and put its text into a file LICENSE (https://huggingface.co/docs/hub/repositories-licenses)."
        )


def _license_metadata(license: str | None, repo_id: str, folder: Path) -> dict[str, str]:
    if license is None:
        return {}
    _check_license(license)
    if license != "other":
        return {"license": license}
    if not (folder / "LICENSE").is_file():
        raise FileNotFoundError(f"{folder}: license 'other' needs a file LICENSE here with its text.")
    return {"license": license, "license_name": f"{_short(repo_id).lower()}-license", "license_link": "LICENSE"}


def _check_result(result: EvalResult) -> None:
    where = f"model-index, metric {result.metric_type!r}"
    if not _is_number(result.metric_value):
        raise ValueError(f"{where}: the value {result.metric_value!r} is no finite number.")
    if not re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", str(result.dataset_type)):
        raise ValueError(f"{where}: dataset type {result.dataset_type!r} is no name of a data set (name or owner/name).")
    for name in ("dataset_name", "metric_type"):
        if not getattr(result, name):
            raise ValueError(f"{where}: {name} is missing.")


# --- words ----------------------------------------------------------------------------------------------------------------


def _render(template: str, *, metadata, **facts) -> str:
    package = Path(__file__).resolve().parent
    environment = jinja2.Environment(
        # Installed, the templates are a folder of the package; in a clone they stand beside src/.
        loader=jinja2.FileSystemLoader([package / "model_cards", package.parents[2] / "model_cards"]),
        undefined=jinja2.ChainableUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "text": _text,
        "number": _number,
        "percent": _percent,
        "share": _share,
        "duration": _duration,
        "yes_no": _yes_no,
        "listing": _listing,
        "interval": _interval,
        "label_name": _label_name,
    }
    return environment.get_template(template).render(metadata=metadata.to_yaml(), not_measured=NOT_MEASURED, **facts)


def _missing(value) -> bool:
    return value is None or isinstance(value, jinja2.Undefined)


def _shown(value):
    """What `{{ value }}` prints: never a blank for a fact that is not there."""
    return NOT_RECORDED if _missing(value) else value


def _text(value):
    """Text of a user or a file, so that it cannot end a table's cell or begin markup."""
    if _missing(value):
        return None
    text = " ".join(str(value).split())
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "\\`"), ("[", "\\["), ("*", "\\*")):
        text = text.replace(character, entity)
    return text or None


def _number(value, digits: int = 4):
    if _missing(value):
        return None
    if not _is_number(value):
        return NOT_MEASURED
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"


def _percent(value):
    """A measured share: 0.064 -> "6.4 %"."""
    if _missing(value) or not _is_number(value):
        return NOT_MEASURED
    return f"{100 * value:.3g} %"


def _share(part, count: str = "count"):
    """A measured share with what it was counted from: "6 % (12 of 200; 95 % interval 3 % to 10 %)"."""
    if _missing(part) or not isinstance(part, dict) or not _is_number(part.get("value")):
        return NOT_MEASURED
    details = []
    if _is_number(part.get(count)) and _is_number(part.get("total")):
        details.append(f"{part[count]} of {part['total']}")
    if _is_interval(part.get("interval")):
        details.append(f"95 % interval {' to '.join(map(_percent, part['interval']))}")
    return _percent(part["value"]) + (f" ({'; '.join(details)})" if details else "")


def _interval(value):
    return f"{value[0]:.3f} to {value[1]:.3f}" if _is_interval(value) else NOT_MEASURED


def _duration(seconds):
    if _missing(seconds):
        return NOT_MEASURED
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _yes_no(value):
    return None if _missing(value) else "yes" if value else "no"


def _listing(values):
    """`{"train": 250, "test": 63}` -> "train 250, test 63"; a list likewise, or None where it has nothing at all."""
    if _missing(values) or all(map(_missing, values)):
        return None
    if isinstance(values, dict):
        return ", ".join(f"{_text(name)} {_item(value)}" for name, value in values.items())
    return ", ".join(map(_item, values))


def _item(value) -> str:
    return _number(value) if _is_number(value) else _shown(_text(value))


def _label_name(label) -> str:
    if str(label) == "none":
        return "unlabeled"
    return f"label {label} ({'normal' if str(label) == str(NORMAL_LABEL) else 'with a lesion'})"
