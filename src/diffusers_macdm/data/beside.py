"""What stands in a data folder and is not read: mentioned, so that nobody takes it for part of the set."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from .faults import Report, shown
from .layout import METADATA, SPLITS
from .reader import OTHER_METADATA, Folder


IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".jp2", ".dcm")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".parquet", ".arrow")
TABLES = (METADATA, *OTHER_METADATA)
MOST_NOTES = 20  # of a kind
MOST_FOLDERS = 100_000  # that are looked into


def note_what_stands_beside(folder: Folder, report: Report) -> None:
    """Add a note for each image of a split that no line names, and for tables, archives and folders that look like data."""
    named = {file.path for cases in folder.cases.values() for case in cases for file in case.files.values() if file is not None}
    unread = {fault.file.partition("/")[0] for fault in folder.refusals}  # a line that could not be read may name the file
    seen: Counter[str] = Counter()
    for path, is_folder in walk(folder.path):
        kind, reason = _oddity(path.relative_to(folder.path), is_folder, path in named, unread)
        if kind is None:
            continue
        seen[kind] += 1
        if seen[kind] <= MOST_NOTES:
            report.note(shown(path.relative_to(folder.path).as_posix()), kind, reason)
    for kind, count in seen.items():
        if count > MOST_NOTES:
            report.note(".", kind, f"{count - MOST_NOTES} more of this kind: {kind}.")


def _oddity(inside: Path, is_folder: bool, is_named: bool, unread: set[str]) -> tuple[str | None, str]:
    top, suffix, in_split = inside.parts[0], inside.suffix.lower(), inside.parts[0] in SPLITS
    if is_folder:
        if len(inside.parts) == 1 and not in_split and top.lower() in (*SPLITS, "val", "valid", "dev", "testing", "training"):
            return "unknown split", f"is not read: {top!r} is not the name of a split, which are {', '.join(SPLITS)}."
        return None, ""
    if inside.name in TABLES and not (in_split and len(inside.parts) == 2 and inside.name == METADATA):
        return "other table", f"is not read: the cases are those in {', '.join(f'{split}/{METADATA}' for split in SPLITS)}."
    if suffix in ARCHIVE_SUFFIXES:
        return "archive", "is not read: files are read that stand in the folder themselves."
    if in_split and suffix in IMAGE_SUFFIXES and not is_named and top not in unread:
        return "unlisted file", f"no row of {METADATA} names this file."
    return None, ""


def walk(top: Path):
    """Yield everything below a folder, and whether it is a folder, in the order of the names.

    Links to folders are not followed, and a name that begins with a dot is passed over.
    """
    waiting, looked_into = [top], 0
    while waiting and looked_into < MOST_FOLDERS:
        current, looked_into = waiting.pop(), looked_into + 1
        try:
            with os.scandir(current) as entries:
                found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
        except OSError:  # may not be read, or is nested so deep that its path is too long
            continue
        folders = [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
        for entry in found:
            yield Path(entry.path), entry.is_dir(follow_symlinks=False)
        waiting += reversed(folders)
