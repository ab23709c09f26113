"""The border: what leaves the machine, and what never does.

What leaves the machine is an explicit list, never "the folder":

- weights as safetensors, the configurations, the model card with its pictures, the code that loads them without this package;
- of the records of the training and of the generation: settings, versions and counts. Names of cases, patients and the
  user's folders are left out; a data set or model is named by the last part of its path;
- of a copy audit: its verdict, its rates and their intervals, no image and no name;
- of a set: the pairs, the labels and the provenance, where a pseudonym stands for each real case and each patient;
- only when asked for (`image_digests`), what the leak guard (`provenance/`) knows the training radiographs by: their SHA-256.
  A digest does not show the film, but whoever holds the film can tell that it was trained with, and films of one patient in
  two repositories can be linked: that a child is in a cohort of fractures is health information. For data that are public this
  tells nothing new, and it lets others see whether their test set is clean; for data of a hospital its owner has to decide.
  Patient ids are published in no form: being short, they can be guessed through any hash that two sites could compare.

Checkpoints, optimizer states, logs and whatever else lies in the folder stay where they are.
"""

from __future__ import annotations

import inspect
import io
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.decoding import ImageFile
from ..files import read_json
from ..generate.settings import Settings as GenerateSettings
from ..generate.synthetic_set import SETTINGS_FILE, SUMMARY_FILE
from ..macdm.image_processor import grayscale_values
from ..provenance.records import digests_alone


# What the training scripts write beside the pipeline, for themselves: never published, and their pickles are their own.
TRAINING_STATE = re.compile(r"checkpoint-\d+|guidance_classifier_checkpoints|logs|samples|.*\.tmp")
NEVER_READ = re.compile(r"checkpoint-\d+|guidance_classifier_checkpoints|logs|.*\.tmp")  # of these, the ones without pictures
RECORD_SECTIONS = ("arguments", "data", "tasks", "unet", "guidance_classifier", "scheduler", "versions", "run", "audit")
LOCAL_ARGUMENTS = ("output_dir", "logging_dir", "cache_dir", "resume_from_checkpoint", "hub_token", "hub_model_id")
NAME_OF_AN_ARGUMENT = re.compile(r"(?!.*(?:token|password|secret|key))[a-z][a-z0-9_]*")
GENERATION_PARTS = ("settings", "versions", "num_pairs", "labels", "rejected_copies")  # of generation.json and summary.json
GENERATION_SETTINGS = {field.name for field in fields(GenerateSettings)} | {"weights_sha256", "scheduler_config", "masks"}
VERSION = re.compile(r"[\w.+-]{1,40}")
DATA_FACTS = ("num_cases", "masks", "cases_per_label", "num_patients", "split_sizes")
AUDIT_FILE = "audit.json"
AUDIT_FACTS = (
    "verdict",
    "outcome",
    "reliable",
    "copy_rate",
    "far_rate",
    "training_images_copied",
    "authenticity",
    "sensitivity",
    "false_alarms",
    "membership",
    "versions",
)
PICKLE_SUFFIXES = (".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
DIGESTS_NOTE = (
    "The digests of the training radiographs are published: whoever holds one of these films can tell that it is among them."
)


def refuse_links(folder: Path) -> None:
    """Raise `ValueError` for a symbolic link, a pipe or a device anywhere in a folder that something is published of.

    What a link points at lies somewhere else, where it may be anything: a token, a film. The folder itself may be one.
    """
    for parent, folders, files in os.walk(folder):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if not NEVER_READ.fullmatch(name)]
        for name in sorted((*folders, *files)):
            refuse_link(Path(parent, name))


def refuse_link(path: Path) -> None:
    """Raise `ValueError` for what is neither a file nor a folder of its own."""
    if path.is_symlink():
        raise ValueError(
            f"{path} is a symbolic link: what it points at is not published. Put the file itself there, or take the link away."
        )
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is no regular file (a pipe or a device), so the folder is not published.")


def refuse_pickles(folder: Path) -> None:
    """Raise `ValueError` for a pickle anywhere outside of the training's own state: loading one runs what is in it."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not TRAINING_STATE.fullmatch(inside.parts[0]) and _is_pickle(path):
            raise ValueError(
                f"{path} is a pickle, which can run code where it is loaded: only safetensors are published. Delete it, or "
                "move it out of the folder."
            )


def _is_pickle(path: Path) -> bool:
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return True
    if path.suffix == ".safetensors":  # it is loaded as such, and what else it may be is found out then
        return False
    with open(path, "rb") as file:
        start = file.read(2)
    if zipfile.is_zipfile(path):  # torch.save
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5  # PROTO, and the protocols that have it


def published_record(record: dict, image_digests: bool = False) -> dict:
    """Settings, counts and versions of a training, without the names of cases and the user's folders."""
    digests = digests_alone(record.get("data")) if image_digests else None
    published = {name: record[name] for name in RECORD_SECTIONS if record.get(name) is not None}
    for name in ("unet", "guidance_classifier"):
        if name in published:
            published[name] = {key: value for key, value in published[name].items() if key != "_name_or_path"}
    if "data" in published:
        published["data"] = {name: published["data"][name] for name in DATA_FACTS if name in published["data"]}
        if digests is not None:
            published["data"] |= digests
            published["earlier_trainings"] = [digests_alone(part) for part in record.get("earlier_trainings") or []]
    if "arguments" in published:
        arguments = {
            name: value
            for name, value in published["arguments"].items()
            if name not in LOCAL_ARGUMENTS and NAME_OF_AN_ARGUMENT.fullmatch(name) and not isinstance(value, dict)
        }
        published["arguments"] = _without_paths(arguments)
        name = arguments.get("dataset_name")
        if name and not Path(name).is_dir():
            published["arguments"]["dataset_name"] = name  # of the Hub, with its owner
    return published


def published_config(config: Mapping, component_class: type) -> dict:
    """Return a component's configuration as far as its class knows it: what else stands there was written by somebody else."""
    known = [name for name in inspect.signature(component_class.__init__).parameters if name != "self"]
    head = {"_class_name": component_class.__name__}
    version = config.get("_diffusers_version")
    if isinstance(version, str) and VERSION.fullmatch(version):
        head["_diffusers_version"] = version
    return head | {name: config[name] for name in config if name in known}


def published_audit(audit_dir: Path) -> dict:
    """Read the facts of an audit that name nobody."""
    path = audit_dir / AUDIT_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `macdm audit` writes it.")
    audit = read_json(path, None)
    published = {name: audit[name] for name in AUDIT_FACTS if name in audit}
    return {n: part if n in ("verdict", "outcome", "versions") else _numbers(part) for n, part in published.items()}


def _numbers(content):
    """Return JSON content without its texts."""
    if isinstance(content, dict):
        return {name: _numbers(part) for name, part in content.items() if not isinstance(part, str)}
    if isinstance(content, list):
        return [_numbers(part) for part in content if not isinstance(part, str)]
    return content


def refuse_real_images(folder: Path, rows: dict[str, list[dict]], real_images: bool) -> list[str]:
    """Raise `PermissionError` unless all pairs are generated, or the user wants to publish others; notes on what they show."""
    pairs = [row for of_split in rows.values() for row in of_split]
    generated = (folder / SETTINGS_FILE).is_file()
    num_real = sum(not (generated and row.get("model") and row.get("seed") is not None) for row in pairs)
    num_masks = sum(row.get("masks_from") is not None for row in pairs)
    num_inserted = sum(row.get("lesion_from") is not None for row in pairs)
    variations = [row for row in pairs if row.get("source") is not None and row.get("lesion_from") is None]
    if generated and not (folder / SUMMARY_FILE).is_file():
        raise ValueError(f"{folder} is not complete ({SUMMARY_FILE} is missing): run `macdm generate` again, which goes on.")
    holds = []
    if num_real:
        holds.append(f"{num_real} pairs that `macdm generate` has not made and that may be films of patients")
    if num_masks:
        holds.append(f"the masks of real cases, unchanged, in {num_masks} pairs")
    if num_inserted:
        holds.append(f"{num_inserted} films of real cases, with a lesion painted in")
    if holds and not real_images:
        raise PermissionError(
            f"{folder} holds {' and '.join(holds)}. Published, they can be copied by whoever sees them and never be taken "
            "back; names are replaced, but not what is burned into the pixels, and a film can identify a patient. If you have "
            "the right to publish them, say so with real_images=True (--real-images)."
        )
    notes = [f"This publishes {part}." for part in holds]
    if variations:
        levels = sorted({row["strength"] for row in variations})
        notes.append(
            f"{len(variations)} pairs are variations of real cases at strength {', '.join(map(str, levels))} and resemble "
            "them, the more so the lower the strength."
        )
    return notes


class Pseudonyms:
    """`patient-0001` for the first patient that is named, and so on; None stays None."""

    def __init__(self):
        self._numbers: dict[str, dict[str, int]] = {}

    def of(self, kind: str, name: str | None) -> str | None:
        if name is None:
            return None
        numbers = self._numbers.setdefault(kind, {})
        return f"{kind}-{numbers.setdefault(str(name), len(numbers) + 1):04d}"


def published_settings(content: dict, pseudonyms: Pseudonyms, image_digests: bool) -> dict:
    """Return the publishable part of `generation.json` or `summary.json`.

    Of the former, what the leak guard needs stays without names, or not at all.
    """
    known = {name: content[name] for name in GENERATION_PARTS if name in content}
    if isinstance(known.get("settings"), dict):
        known["settings"] = {name: part for name, part in known["settings"].items() if name in GENERATION_SETTINGS}
    published = _without_paths(known)
    provenance = content.get("provenance")
    if image_digests and provenance is not None:
        trained_on = provenance["trained_on"] or {}
        sources = {pseudonyms.of("case", name): source["image_sha256"] for name, source in provenance["sources"].items()}
        published["provenance"] = {
            "trained_on": {name: [*map(digests_alone, trainings)] for name, trainings in trained_on.items()} or None,
            "sources": {name: {"image_sha256": digest} for name, digest in sources.items()},
        }
    return published


def published_row(row: dict, pseudonyms: Pseudonyms) -> dict:
    published = dict(row)
    for column in ("source", "masks_from", "lesion_from"):
        if column in row:
            published[column] = pseudonyms.of("case", row[column])
    if "patient_id" in row:
        published["patient_id"] = pseudonyms.of("patient", row["patient_id"])
    if row.get("model") is not None:
        published["model"] = last_part(str(row["model"]))
    return published


def pixels_as_png(file: ImageFile | None, empty: tuple[int, int]) -> bytes:
    """Return the pixels of an image and nothing else: a file may carry texts and the place and time of the exposure.

    They are published as training reads them, upright.

    Args:
        file: the image; None for a mask without a file, which is empty.
        empty: width and height of an empty mask.
    """
    if file is None:
        pixels = Image.new("L", empty)
    else:
        pixels = Image.fromarray(np.ascontiguousarray(grayscale_values(file.open()[0])))
    buffer = io.BytesIO()
    pixels.save(buffer, format="PNG")
    return buffer.getvalue()


def _without_paths(content):
    """Return JSON content in which the last part stands for each path."""
    if isinstance(content, dict):
        return {name: _without_paths(part) for name, part in content.items()}
    if isinstance(content, list):
        return [_without_paths(part) for part in content]
    return last_part(content) if isinstance(content, str) else content


def last_part(path: str) -> str:
    parts = [part for part in re.split(r"[\\/]", path) if part]
    return parts[-1] if parts else path


def folder_name(path: str | None) -> str | None:
    """Return the last part of a path, however the system that wrote it spells paths: the rest is nobody's business."""
    parts = [part for part in re.split(r"[/\\]+", str(path or "")) if part not in ("", ".", "..")]
    return parts[-1] if parts else None
