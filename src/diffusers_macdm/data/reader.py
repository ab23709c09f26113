"""The one reader of the layout: `metadata.jsonl` of the three splits -> cases, and what is wrong with the lines.

A case has exactly the files that its line names, by path, as text: no pattern, no archive, no folder below that has a
`metadata.jsonl` of its own. Nothing is cached and nothing is asked for elsewhere. `macdm check` is this reader, the decoder
(`decoding`) and their findings; what else stands in the folder it mentions.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from ..macdm.joint_sample import MASK_WORDS, MASKS
from .decoding import Case, ImageFile, Unreadable, read_file
from .faults import Fault, brief, shown
from .labels import is_label, is_normal, number_labels
from .layout import FOLDERS, GENERATION_FILE, IMAGE_COLUMNS, METADATA, SPLITS, unfinished


FILE_NAME_COLUMNS = {column: f"{column}_file_name" for column in IMAGE_COLUMNS}
IDENTIFIERS = ("patient_id", "site")
OTHER_METADATA = ("metadata.csv", "metadata.parquet", "metadata.json")  # that `datasets` or people know
ARRAY, UTF16 = (b"[",), (b"\xff\xfe", b"\xfe\xff")


@dataclass
class Folder:
    """What the reader makes of a data folder.

    Attributes:
        path: the folder.
        cases: split -> its cases, in the order of the lines; a line that cannot be used has none.
        columns: split -> columns that its lines have, without the images.
        refusals: what keeps the folder from being read.
        faults: what is wrong, and does not.
        class_names: where the labels are names, that of each class number.
        masks: those of `MASKS` that the set has (see `layout`).
    """

    path: Path
    cases: dict[str, list[Case]] = field(default_factory=dict)
    num_lines: dict[str, int] = field(default_factory=dict)
    columns: dict[str, list[str]] = field(default_factory=dict)
    refusals: list[Fault] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    class_names: tuple[str, ...] | None = None
    masks: tuple[str, ...] = MASKS

    def refuse(self, file: str, kind: str, reason: str) -> None:
        self.refusals.append(Fault(shown(file), shown(reason), kind))


def read_folder(data: str | Path) -> Folder:
    """Read the lines of every split; the files that they name are not looked at yet.

    Raises:
        FileNotFoundError, NotADirectoryError: when there is no such folder.
    """
    path = Path(data)
    if not str(data) or not path.exists():  # an empty text would be the current folder
        raise FileNotFoundError(f"{data or repr('')}: no such folder.")
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; a folder with train/{METADATA} is needed.")
    folder = Folder(path)
    if (reason := unfinished(path)) is not None:
        folder.refuse(GENERATION_FILE, "unfinished set", reason)
    rows = {split: _read_rows(folder, split) for split in SPLITS if (path / split).is_dir()}
    identifiers = _identifiers(folder, rows)
    numbers = _class_numbers(folder, rows)
    folder.masks = _masks([row for of_split in rows.values() for _, row in of_split])
    _refuse_masks_named_otherwise(folder, rows)
    for split, of_split in rows.items():
        folder.num_lines[split] = len(of_split)
        columns = dict.fromkeys(column for _, row in of_split for column in row)
        folder.columns[split] = [c for c in columns if c not in FILE_NAME_COLUMNS.values() and c not in IMAGE_COLUMNS]
        _refuse_missing_columns(folder, split, rows)
        folder.cases[split] = []
        for line, row in of_split:
            files = _files(folder, split, line, row)
            if files is None:
                continue
            values = {column: row.get(column) for column in folder.columns[split]}
            values |= {column: identifiers[column].get((split, line)) for column in IDENTIFIERS}
            values["label"] = numbers.get((split, line))
            folder.cases[split].append(Case(f"{split}/{METADATA}:{line}", values, files))
        _find_named_twice(folder, split)
    return folder


# --------------------------------------------------------------------------------------------------------------- lines


def _read_rows(folder: Folder, split: str) -> list[tuple[int, dict]]:
    """Return the lines of a split that are JSON objects, each with its number."""
    metadata = f"{split}/{METADATA}"
    try:
        content = read_file(folder.path / metadata)
    except Unreadable as error:
        if error.kind != "missing file":
            folder.refuse(metadata, error.kind, error.reason)
            return []
        other = next((name for name in OTHER_METADATA if (folder.path / split / name).exists()), None)
        reason = f"the folder has no {METADATA}, so the split is empty."
        if other is not None:
            reason = f"the folder has {other}, which is not read: write it as {METADATA}, one JSON object a line."
        folder.refuse(split, "empty split", reason)
        return []
    if content.startswith(UTF16):
        folder.refuse(metadata, "invalid JSON", "is written in UTF-16; UTF-8 is needed.")
        return []
    content = content.removeprefix(b"\xef\xbb\xbf")
    if content.lstrip().startswith(ARRAY):
        folder.refuse(metadata, "invalid JSON", "holds a list; one JSON object a line is needed, without commas between them.")
        return []
    rows = []
    for line, text in enumerate(content.splitlines(), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:  # json.JSONDecodeError and UnicodeDecodeError are ValueErrors
            folder.refuse(f"{metadata}:{line}", "invalid JSON", f"the line is not valid JSON ({error}).")
            continue
        if not isinstance(row, dict):
            folder.refuse(f"{metadata}:{line}", "invalid JSON", 'the line is not a JSON object ({"column": value}).')
            continue
        rows.append((line, row))
    if not content.strip():
        folder.refuse(metadata, "empty split", "is empty: one line for each case is needed.")
    return rows


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def _once(pairs: list[tuple[str, object]]) -> dict:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return row


def _masks(rows: list[dict]) -> tuple[str, ...]:
    """Return which masks a set with these lines, those of all splits, has; both where it would have none at all."""
    anatomy, lesion = (FILE_NAME_COLUMNS[mask] for mask in MASKS)
    has = (any(row.get(anatomy) is not None for row in rows), any(lesion in row for row in rows))
    return tuple(mask for mask, there in zip(MASKS, has, strict=True) if there) or MASKS


def _refuse_masks_named_otherwise(folder: Folder, rows: dict[str, list[tuple[int, dict]]]) -> None:
    """Refuse a set that would have one mask but for a column of another name, or for files where the other mask's would be."""
    for mask in (mask for mask in MASKS if mask not in folder.masks):
        for split, of_split in rows.items():
            columns = dict.fromkeys(column for _, row in of_split for column in row if column not in FILE_NAME_COLUMNS.values())
            alike = [c for c in columns if c.endswith("file_name") and any(word in c for word in ("anatomy", "lesion", "mask"))]
            inside = folder.path / split / FOLDERS[mask]
            there = f"there is the column {alike[0]!r}" if alike else f"there are files in {split}/{FOLDERS[mask]}"
            if alike or (inside.is_dir() and any(inside.iterdir())):
                reason = (
                    f"required column {FILE_NAME_COLUMNS[mask]!r} is missing: a set without {MASK_WORDS[mask]} lacks it, but "
                    f"{there}. Name the files in this column, or take that away."
                )
                folder.refuse(f"{split}/{METADATA}", "missing column", reason)
                break


def _refuse_missing_columns(folder: Folder, split: str, all_rows: dict[str, list[tuple[int, dict]]]) -> None:
    """Refuse required columns that lines do not have, with one sentence for each column rather than for each line."""
    rows = all_rows[split]
    needed = {FILE_NAME_COLUMNS[column]: column for column in (IMAGE_COLUMNS[0], *folder.masks)} | {"label": "label"}
    names = {name for of_split in all_rows.values() for _, row in of_split for name in row}
    has_none = names.isdisjoint(FILE_NAME_COLUMNS[mask] for mask in MASKS)
    for name, column in needed.items():
        lines = [line for line, row in rows if name not in row and not (_may_be_empty(name, row))]
        if lines:
            where = f"line {lines[0]}" if len(lines) == 1 else f"{len(lines)} rows, first in line {lines[0]}"
            also = f"; a set without {MASK_WORDS[column]} has it in no line of any split" if column in MASKS else ""
            if has_none and column in MASKS:
                also = f"; a set may lack one kind of mask, not both ({' and '.join(MASK_WORDS[mask] for mask in MASKS)})"
            folder.refuse(f"{split}/{METADATA}", "missing column", f"required column {name!r} is missing ({where}){also}.")


def _may_be_empty(column: str, row: dict) -> bool:
    return column == FILE_NAME_COLUMNS["lesion_mask"] and is_normal(row.get("label"))


# --------------------------------------------------------------------------------------------------------------- files


def _files(folder: Folder, split: str, line: int, row: dict) -> dict[str, ImageFile | None] | None:
    """Return where the images of a line are; None where that is not said, or not allowed."""
    files: dict[str, ImageFile | None] = {}
    columns = (IMAGE_COLUMNS[0], *folder.masks)
    for column in columns:
        name_column = FILE_NAME_COLUMNS[column]
        name = row.get(name_column)
        if name is None and _may_be_empty(name_column, row):
            files[column] = None
            continue
        inside = path_inside(name)
        if inside is not None:
            files[column] = ImageFile(shown(f"{split}/{inside}"), inside, folder.path / split / inside)
        elif isinstance(name, str) and name:
            reason = f"{name_column} is {brief(name)}; a relative path inside the folder {split} is needed."
            folder.refuse(f"{split}/{METADATA}:{line}", "path outside the folder", reason)
        elif name_column in row:
            also = ""
            if column == "lesion_mask":
                also = ", or null where label 0 says that there is no lesion (a set without lesion outlines lacks the column)"
            reason = f"{name_column} is {brief(name)}; a relative path inside the folder {split} is needed{also}."
            folder.refuse(f"{split}/{METADATA}:{line}", "missing file", reason)
    return files if len(files) == len(columns) else None


def path_inside(name) -> str | None:
    """Return the normalised path, `/` for Windows' backslash, or None where it is none that stays inside its folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    name = name.replace("\\", "/")
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return None
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # half of a character
        return None
    name = posixpath.normpath(name)
    return None if name == "." or name.split("/")[0] == ".." else name


def _find_named_twice(folder: Folder, split: str) -> None:
    first_naming: dict[str, str] = {}
    for case in folder.cases[split]:
        line = case.line.rpartition(":")[2]
        for column, file in case.files.items():
            if file is None:
                continue
            naming = f"{FILE_NAME_COLUMNS[column]} in line {line}"
            if file.name in first_naming:
                reason = f"named by {naming} and already by {first_naming[file.name]}; once is allowed."
                folder.faults.append(Fault(shown(file.name), shown(reason), "file named twice"))
            first_naming.setdefault(file.name, naming)


# -------------------------------------------------------------------------------------------------------------- values


def _identifiers(folder: Folder, rows: dict[str, list[tuple[int, dict]]]) -> dict[str, dict[tuple[str, int], str | int]]:
    """Return patients and sites by line; text where a set has both texts and numbers. Empty ones stand for unknown."""
    found: dict[str, dict[tuple[str, int], str | int]] = {}
    for column in IDENTIFIERS:
        of_column = found[column] = {}
        for split, of_split in rows.items():
            for line, row in of_split:
                value = row.get(column)
                if isinstance(value, float) and value.is_integer():  # what tables make of a column with gaps
                    value = int(value)
                if isinstance(value, bool) or not isinstance(value, (str, int, type(None))):
                    reason = f"{column} is {brief(value)}; text, a whole number or null is allowed."
                    folder.refuse(f"{split}/{METADATA}:{line}", f"invalid {column}", reason)
                elif value is not None and str(value).strip():
                    of_column[split, line] = value
        if len({type(value) for value in of_column.values()}) > 1:
            of_column.update({key: str(value) for key, value in of_column.items()})
    return found


def _class_numbers(folder: Folder, rows: dict[str, list[tuple[int, dict]]]) -> dict[tuple[str, int], int | None]:
    """Return the class number of each line."""
    labels: dict[str, dict[int, int | str | None]] = defaultdict(dict)
    for split, of_split in rows.items():
        for line, row in of_split:
            label = row.get("label")
            if is_label(label):
                labels[split][line] = label
            else:
                reason = (
                    f"label is {brief(label)}; 0 (normal), 1, 2, ... or null (unlabeled) is allowed, or names, of which one is "
                    "'normal'."
                )
                folder.refuse(f"{split}/{METADATA}:{line}", "invalid label", reason)
    try:
        numbers, folder.class_names = number_labels({split: list(of.values()) for split, of in labels.items()})
    except ValueError as error:
        first = next(iter(labels))
        folder.refuse(f"{first}/{METADATA}", "invalid label", str(error))
        return {}
    return {(split, line): numbers.get(label) for split, of in labels.items() for line, label in of.items()}
