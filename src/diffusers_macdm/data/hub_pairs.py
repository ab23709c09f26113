"""One split of a data set of the Hub, opened with the `datasets` library and decoded as the files of a folder are."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..hub.names import REPOSITORY
from ..macdm.joint_sample import MASKS
from .decoding import Case, ImageFile, Unreadable, read_file
from .faults import brief
from .labels import is_label, is_normal, number_labels
from .layout import IMAGE_COLUMNS, REQUIRED_COLUMNS
from .pairs import Pairs, missing_split


if TYPE_CHECKING:
    import datasets


def load_hub_pairs(name: str, split: str, config_name: str | None = None, cache_dir: str | None = None) -> Pairs:
    """Open one split of the data set `owner/name` or `owner/name@revision`; arguments and errors as in `load_pairs`."""
    import datasets

    match = re.fullmatch(rf"({REPOSITORY})(?:@(\S+))?", name)
    if match is None:
        raise ValueError(f"{name}: not the name of a Hub data set, which is owner/name.")
    repository, revision = match.groups()
    try:
        splits = datasets.load_dataset(repository, config_name, cache_dir=cache_dir, revision=revision)
    except Exception as error:  # of many classes; datasets wraps the one that says what is wrong
        cause = error.__cause__ or error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        raise ValueError(f"{name}: cannot be read as a Hub data set: {reason}") from error
    if split not in splits:
        raise missing_split(name, split, splits)
    masks = _masks(splits)
    for column in REQUIRED_COLUMNS:
        if column not in splits[split].column_names and column not in set(MASKS) - set(masks):
            raise ValueError(
                f"{name}, split {split!r}: column {column} is missing; there are {', '.join(splits[split].column_names)}, and "
                f"{', '.join(REQUIRED_COLUMNS)} are needed."
            )
    return pairs_of(splits, split, name)


def _masks(splits: datasets.DatasetDict) -> tuple[str, ...]:
    """Return which masks a set has; a column of anatomy masks without any counts as none, as in a folder's lines."""
    tables = list(splits.values())
    has = {mask: any(mask in table.column_names for table in tables) for mask in MASKS}
    if has["anatomy_mask"]:
        columns = [table.data.column("anatomy_mask") for table in tables if "anatomy_mask" in table.column_names]
        has["anatomy_mask"] = any(column.null_count < len(column) for column in columns)
    return tuple(mask for mask in MASKS if has[mask]) or MASKS


def pairs_of(splits: datasets.DatasetDict, split: str, name: str) -> Pairs:
    """Take one split of loaded tables.

    Raises:
        ValueError: for a column that holds no images, and for labels that are none; the set and the case are named.
    """
    import datasets

    table = splits[split]
    columns = [column for column in table.column_names if column not in IMAGE_COLUMNS]
    masks = _masks(splits)
    images = [IMAGE_COLUMNS[0], *masks]
    try:
        for column in images:
            table = table.cast_column(column, datasets.Image(decode=False))
    except Exception as error:
        raise ValueError(f"{name}, split {split!r}: column {column} does not hold images.") from error
    labels = {
        other: [_label(label, f"{name}, split {other!r}, case {index}") for index, label in enumerate(splits[other]["label"])]
        for other in (split, *splits)
        if "label" in splits[other].column_names
    }
    try:
        numbers, class_names = number_labels(labels)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    rows = table.select_columns(columns).to_list()
    films, cases = table.select_columns(images), []
    for index, (row, label) in enumerate(zip(rows, labels[split], strict=True)):
        row = {column: None if isinstance(value, float) and math.isnan(value) else value for column, value in row.items()}
        files = _files(films, index, split, label)
        cases.append(Case(f"{split}, case {index}", {**row, "label": numbers.get(label)}, files))
    sizes = {other: len(splits[other]) for other in splits}
    return Pairs(cases, split, columns, sizes, class_names, masks)


def _files(table: datasets.Dataset, index: int, split: str, label) -> dict[str, ImageFile | None]:
    files: dict[str, ImageFile | None] = {}
    for column, image in table[index].items():
        if image is None and column == "lesion_mask" and is_normal(label):
            files[column] = None
            continue
        path = (image or {}).get("path")
        name = "" if path is None else str(path).replace("\\", "/").rpartition("/")[2]
        files[column] = ImageFile(
            f"{split}, case {index}, {column}", name or None, content=partial(_content, table, index, column)
        )
    return files


def _content(table: datasets.Dataset, index: int, column: str) -> bytes:
    image = table.select_columns([column])[index][column]
    if image is None:
        raise Unreadable("missing file", f"column {column} has no image.")
    return image["bytes"] if image["bytes"] is not None else read_file(Path(image["path"]))


def _label(label, where: str):
    if isinstance(label, float):
        label = None if math.isnan(label) else int(label) if label.is_integer() else label
    if not is_label(label):
        raise ValueError(f"{where}: label {brief(label)} is not a class label; 0, 1, 2, ... or null are allowed.")
    return label
