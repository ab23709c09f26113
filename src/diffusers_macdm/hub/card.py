"""Model and data set cards for the Hub, rendered from recorded facts alone.

The templates in `model_cards/` hold the words, this module the facts: what the trainings recorded
(`training_config.json`, `training_log.jsonl`), the configurations beside the weights, and what `macdm generate`,
`macdm audit` and `macdm evaluate` have written. A fact that nobody recorded is shown as "not recorded", a number that
nobody measured as "not measured".

What a card never shows: names of cases, patient identifiers, sites, and paths of the machine (of a folder the last
part of its name at most).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..data.layout import FOLDERS, without_words
from ..data.pairs import Pairs
from ..generate.synthetic_set import CONTACT_SHEET_FILE, SETTINGS_FILE, SUMMARY_FILE
from ..macdm.joint_sample import MASKS
from .card_facts import (
    PIPELINE_TAG,
    audit_facts,
    audit_results,
    evaluation_result,
    evaluation_rows,
    label_results,
    label_rows,
    picture_of,
    read_object,
    required_object,
    split_facts,
    splits_of,
    synthetic_facts,
    training_seconds,
)
from .card_words import is_number, render
from .privacy import folder_name


MASK_NAMES = {"anatomy_mask": "anatomy mask", "lesion_mask": "lesion mask"}
OUTLINED = {"anatomy_mask": "anatomy mask cyan", "lesion_mask": "lesion mask red"}
PICTURE = "samples.png"  # its path in the repository
TAGS = ["diffusers-macdm", "medical", "radiography", "image-segmentation"]
README_METADATA = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)

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
    """Write the README.md of a trained model, with its metadata for the Hub.

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
        ValueError: for a repository name or record that the Hub would refuse, and for a synthetic set that other
            weights have made.
    """
    model_dir = _model_folder(model_dir)
    _check_repo_id(repo_id)
    training = read_object(model_dir / "training_config.json") or {}
    audit = None if audit_dir is None else audit_facts(Path(audit_dir))
    evaluation = None if evaluation_dir is None else required_object(evaluation_dir, "evaluation.json", "macdm evaluate")
    synthetic = None if synthetic_dir is None else synthetic_facts(Path(synthetic_dir), model_dir)
    arguments, data = training.get("arguments") or {}, training.get("data") or {}
    dataset_name = arguments.get("dataset_name") or folder_name(arguments.get("train_data_dir"))
    results = evaluation_rows(evaluation)
    eval_results = [
        *label_results(synthetic, dataset_name),
        *audit_results(audit, dataset_name),
        *filter(None, map(evaluation_result, results)),
    ]
    metadata = _license_metadata(license, repo_id, model_dir) | _model_metadata(repo_id, arguments, eval_results)
    unet = read_object(model_dir / "unet" / "config.json") or {}
    has_classifier = (model_dir / "guidance_classifier").is_dir()
    classifier_training = read_object(model_dir / "guidance_classifier_training_config.json") or {}
    card = render(
        "model_card.md.jinja",
        metadata=ModelCardData(**metadata),
        repo_id=repo_id,
        name=_short(repo_id),
        license=license,
        picture=picture_of(model_dir, synthetic_dir),
        size=unet.get("sample_size"),
        num_classes=max((unet.get("num_class_embeds") or 1) - 1, 0),
        **_mask_facts(unet.get("masks") or MASKS),
        unet=unet,
        classifier=read_object(model_dir / "guidance_classifier" / "config.json") or {},
        scheduler=read_object(model_dir / "scheduler" / "scheduler_config.json") or {},
        training=training,
        arguments=arguments,
        pretrained=folder_name(arguments.get("pretrained_unet")),
        data=data,
        dataset_name=dataset_name,
        data_description=data_description,
        seconds=training_seconds(model_dir / "training_log.jsonl", training),
        has_classifier=has_classifier,
        classifier_training=classifier_training,
        classifier_seconds=training_seconds(model_dir / "guidance_classifier_training_log.jsonl", classifier_training),
        synthetic=synthetic,
        audit=audit,
        evaluation=results,
    )
    check_card(card)
    return card


def _mask_facts(known: Iterable[str]) -> dict[str, Any]:
    """What both templates say of the masks that a model or a set knows."""
    masks = [mask for mask in MASKS if mask in known]
    outlined = ", ".join(OUTLINED[mask] for mask in masks)
    return {"masks": masks, "mask_names": MASK_NAMES, "outlined": outlined, "without": without_words(masks)}


def _model_metadata(repo_id: str, arguments: dict, eval_results: list) -> dict:
    """What the Hub finds a model by."""
    metadata = {
        "library_name": "diffusers",
        "pipeline_tag": PIPELINE_TAG,
        "tags": TAGS,
        "datasets": [arguments["dataset_name"]] if arguments.get("dataset_name") else None,
    }
    if eval_results:
        metadata |= {"model_name": _short(repo_id), "eval_results": eval_results}
    return metadata


def model_card_files(
    model_dir: str | Path, *, audit_dir: str | Path | None = None, synthetic_dir: str | Path | None = None
) -> dict[str, Path]:
    """Find the files that the card of `model_card` shows or names, by their path in the repository.

    The picture of samples: the contact sheet of `synthetic_dir`, or else the last grid that the training drew. Of
    `audit_dir` there is none: its pictures may show real films, which no default publishes.
    """
    model_dir = _model_folder(model_dir)
    picture = picture_of(model_dir, synthetic_dir)
    files = {} if picture is None else {PICTURE: picture["path"]}
    if (model_dir / "LICENSE").is_file():
        files["LICENSE"] = model_dir / "LICENSE"
    return files


def dataset_card(set_dir: str | Path, repo_id: str, *, license: str | None = None) -> str:
    """Write the README.md of a set in the project's layout, best one that `macdm generate` has made.

    Its metadata has the features and the splits (`dataset_info`) and which files belong to them (`configs`), so that
    `datasets.load_dataset(repo_id)` and the Hub's viewer read the folder as it lies.

    Args:
        set_dir: the folder as it will be published.
        repo_id: the set's name on the Hub, `owner/name`.
        license: the Hub's identifier of the set's licence; "other" needs a LICENSE in `set_dir`.

    Raises:
        FileNotFoundError: when there is no such set.
        ValueError: when the set cannot be read, and for a repository name that the Hub would refuse.
    """
    from datasets import Dataset, DatasetInfo, Features, Image, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict

    from ..data.loading import load_pairs

    set_dir = Path(set_dir)
    _check_repo_id(repo_id)
    splits = splits_of(set_dir)
    pairs = {split: load_pairs(set_dir, split) for split in splits}
    columns = next(iter(pairs.values())).column_names
    generation = read_object(set_dir / SETTINGS_FILE) or {}
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
    values = Dataset.from_list([first[index] for index in range(len(first))]).features
    features = Features({name: Image() if name in FOLDERS else values[name] for name in first.column_names})
    sizes = {split: _num_bytes(set_pairs) for split, set_pairs in pairs.items()}
    info = DatasetInfo(features=features, splits=SplitDict())
    for split, set_pairs in pairs.items():
        info.splits.add(SplitInfo(split, num_bytes=sizes[split], num_examples=len(set_pairs)))
    info.dataset_size = sum(sizes.values())
    info.download_size = sum(path.stat().st_size for split in splits for path in (set_dir / split).rglob("*") if path.is_file())
    DatasetInfosDict({"default": info}).to_dataset_card_data(metadata)
    summary = read_object(set_dir / SUMMARY_FILE) or {}
    card = render(
        "dataset_card.md.jinja",
        metadata=metadata,
        repo_id=repo_id,
        name=_short(repo_id),
        license=license,
        picture=CONTACT_SHEET_FILE if (set_dir / CONTACT_SHEET_FILE).is_file() else None,
        settings=generation.get("settings"),
        model_name=folder_name((generation.get("settings") or {}).get("model")),
        from_data=folder_name((generation.get("settings") or {}).get("from_data")),
        masks_from=folder_name((generation.get("settings") or {}).get("masks_from")),
        insert_into=folder_name((generation.get("settings") or {}).get("insert_into")),
        versions=generation.get("versions") or {},
        labels=label_rows(summary),
        splits={split: split_facts(set_pairs) for split, set_pairs in pairs.items()},
        columns=columns,
        image_folders=FOLDERS,
        **_mask_facts(first.masks),
    )
    check_card(card, repo_type="dataset")
    return card


def check_card(card: str, repo_type: str = "model") -> None:
    """Check what the Hub would take and this package never means: names, results and a licence that lack something.

    Which licences and tasks there are the Hub alone knows, and says when the card is pushed.

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
    if "other" in (content.get("license") or []) and not (content.get("license_name") and content.get("license_link")):
        raise ValueError("license 'other' needs license_name and license_link.")
    for name in content.get("datasets") or []:
        _check_repo_id(name)
    if repo_type == "model":
        if not content.get("library_name"):
            raise ValueError("library_name is missing; diffusers is expected.")
        for result in data.eval_results or []:
            _check_result(result)


def _model_folder(model_dir: str | Path) -> Path:
    model_dir = Path(model_dir)
    if not (model_dir / "model_index.json").is_file():
        raise FileNotFoundError(f"{model_dir}: there is no model_index.json here, so it is no saved MaCDMPipeline.")
    return model_dir


def _num_bytes(pairs: Pairs) -> int:
    """Size of the images of a folder's split."""
    return sum(file.path.stat().st_size for case in pairs.cases for file in case.files.values() if file is not None)


def _short(repo_id: str) -> str:
    return repo_id.rpartition("/")[2]


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no name of a Hub repository (owner/name): {str(error).splitlines()[0]}") from error


def _license_metadata(license: str | None, repo_id: str, folder: Path) -> dict[str, str]:
    if license is None:
        return {}
    if license != "other":
        return {"license": license}
    if not (folder / "LICENSE").is_file():
        raise FileNotFoundError(f"{folder}: license 'other' needs a file LICENSE here with its text.")
    return {"license": license, "license_name": f"{_short(repo_id).lower()}-license", "license_link": "LICENSE"}


def _check_result(result: EvalResult) -> None:
    where = f"model-index, metric {result.metric_type!r}"
    if not is_number(result.metric_value):
        raise ValueError(f"{where}: the value {result.metric_value!r} is no finite number.")
    if not re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", str(result.dataset_type)):
        raise ValueError(f"{where}: dataset type {result.dataset_type!r} is no name of a data set (name or owner/name).")
    for name in ("dataset_name", "metric_type"):
        if not getattr(result, name):
            raise ValueError(f"{where}: {name} is missing.")
