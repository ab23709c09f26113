"""Files that are whole or not there: every write of the package goes through here.

A file or folder is written beside its place under a temporary name and then renamed, so a kill or a full disk leaves what was
there before; it is handed on to the disk itself before the rename, so a power cut does as well. What a killed process leaves
under such a name goes when the next one writes into the same folder. Output folders of long work are begun with some settings,
continued with the same ones alone, and finished by one last file; one process at a time writes into them.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .locks import LOCK_FILE
from .locks import locked as locked  # for the others: an output folder is locked by whom it is written by


SETTINGS_FILE = "settings.json"
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MADE_AGAIN = "delete it, and it is made again"
TEMPORARY_SUFFIX = ".tmp"
# `.NAME.MACHINE-PID.tmp`; earlier versions did not say which machine.
TEMPORARY_NAME = re.compile(rf"\..+\.(?:(?P<machine>[0-9a-f]{{8}})-)?(?P<pid>\d+){re.escape(TEMPORARY_SUFFIX)}")
SECONDS_UNTIL_LEFT = 24 * 3600  # without a sign of life of a process that cannot be asked for


def error_number(error: Exception) -> int | None:
    """Number of the operating system's error; safetensors has it in its text alone, "... Os { code: 28, kind: ..."."""
    if isinstance(error, OSError):
        return error.errno
    text = str(error)
    return next((number for number in DISK_IS_FULL if f"code: {number}," in text or f"os error {number})" in text), None)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; what is written there becomes `path` at the end, and goes when an error is raised."""
    temporary = _temporary_name(path)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)  # the name may reach the disk later, and never before the content: one wait a file, not two
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`; at the end it takes the place of `path`, and goes when an error is raised."""
    temporary = _temporary_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder inside `folder`, for parts that are renamed from there into their places; it goes at the end."""
    temporary = _temporary_name(folder / "parts")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_file(source: Path, target: Path) -> None:
    """Rename the file `source` to `target`, in the place of what stood there; on the disk when this returns."""
    _sync(source)
    source.replace(target)
    _sync(target.parent)


def replace_folder(source: Path, target: Path) -> None:
    """Rename the folder `source` to `target`, on the disk when this returns; what stood there is moved aside first and deleted
    afterwards."""
    for folder, _, names in os.walk(source, topdown=False):
        for name in names:
            _sync(Path(folder, name))
        _sync(Path(folder))
    aside = target.with_name(f"{target.name}.old{TEMPORARY_SUFFIX}")
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        target.rename(aside)  # renamed, not deleted: a kill in the middle of deleting leaves a folder that looks whole
    source.rename(target)
    _sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Delete a folder; renamed first, so that a kill, or a file that somebody still reads, leaves no part under its name."""
    temporary = _temporary_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    path.rename(temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until what was written to a file, or into a folder, is on the disk and not only in memory.

    Raises:
        OSError: when a file cannot be written there after all, as network file systems say as late as now.
    """
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if path.is_file():  # some file systems cannot do it for a folder
            raise
    finally:
        os.close(descriptor)


def _temporary_name(path: Path) -> Path:
    _remove_leftovers_once(path.absolute().parent)
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}{TEMPORARY_SUFFIX}")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were about to write anywhere below `folder`; what a living one writes stays."""
    for path in list(folder.rglob(f".*{TEMPORARY_SUFFIX}")):
        _remove_if_left(path)


@functools.cache  # a folder of thousands of files is not read again for each of them
def _remove_leftovers_once(folder: Path) -> None:
    for path in list(folder.glob(f".*{TEMPORARY_SUFFIX}")):
        _remove_if_left(path)


def _remove_if_left(path: Path) -> None:
    name = TEMPORARY_NAME.fullmatch(path.name)
    if name is None or not _is_left(path, name["machine"], int(name["pid"])):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_left(path: Path, machine: str | None, pid: int) -> bool:
    """Whether the process that writes there is dead; where it cannot be asked for, whether nothing was written for a day.

    A process that has the number of a dead one by now counts as that one: rather a leftover too many than a file too few.
    """
    if machine == _machine() and os.name == "posix":  # os.kill of Windows ends the process that it is asked about
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            pass
        return False
    try:
        written = max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
    except OSError:  # renamed or removed in this moment: somebody lives
        return False
    return time.time() - written > SECONDS_UNTIL_LEFT


@functools.cache
def _machine() -> str:
    """Eight hex digits for what process numbers are unique in: a machine, or a container on it, which may share its name."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with new_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def refuse_existing(path: Path | None) -> None:
    """Raise `FileExistsError` for a file that is there, `FileNotFoundError` where its folder is not; None is allowed."""
    if path is not None and path.exists():
        raise FileExistsError(f"{path} exists already; nothing is overwritten.")
    if path is not None and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder to write {path.name} into.")


def refuse_filled(path: Path) -> None:
    """Raise `FileExistsError` unless `path` is free or an empty folder."""
    if path.exists() and (not path.is_dir() or is_filled(path)):
        raise FileExistsError(f"{path} exists and is not an empty folder; nothing is overwritten.")


def is_filled(folder: Path) -> bool:
    """Whether there is more than a lock, and what a call that was killed before anything else has left."""
    return any(path.name != LOCK_FILE and TEMPORARY_NAME.fullmatch(path.name) is None for path in folder.iterdir())


def refuse_foreign(out: Path, finished_file: str, what: str) -> None:
    """Raise `FileExistsError` for a folder that is complete or holds something else.

    Args:
        finished_file: whose presence says that the work is finished.
        what: how the sentence calls it: "evaluation".
    """
    if (out / finished_file).exists():
        raise FileExistsError(f"{out} holds a finished {what}; nothing is overwritten.")
    if out.exists() and (not out.is_dir() or (is_filled(out) and not (out / SETTINGS_FILE).is_file())):
        raise FileExistsError(f"{out} exists and is neither an empty folder nor an interrupted {what}.")


def refuse_unknown(out: Path, names: Sequence[str], what: str) -> None:
    """Raise `FileExistsError` for a folder with more in it than these files and folders, and what a killed call has left.

    Args:
        what: whose names they are, for the sentence: "a model's folder".
    """
    known = {LOCK_FILE, *names}
    others = sorted(path.name for path in out.glob("*") if path.name not in known and not TEMPORARY_NAME.fullmatch(path.name))
    if others:
        raise FileExistsError(f"{out} holds {others[0]}, which is none of {what}: give a new folder.")


def begin(out: Path, settings: dict, may_change: Sequence[str] = ()) -> None:
    """Record the settings, or raise `ValueError` where the interrupted work was begun with others.

    Args:
        settings: all that decides what comes out.
        may_change: names of further settings that are recorded and may be others when the work goes on: where a set lies whose
            content is among the settings, say.
    """
    path = out / SETTINGS_FILE
    if path.is_file():
        begun, now = read_json(path, "give another folder"), json.loads(json.dumps(settings))
        fixed = {name: value for name, value in now.items() if name not in may_change}
        missing = [name for name in fixed if name not in begun]
        if missing:
            raise ValueError(
                f"{path} does not say {missing[0]}, as that of another version or a damaged one: give another folder."
            )
        other = _first_difference({name: begun[name] for name in fixed}, fixed)
        if other is not None:
            name, before, after = other
            raise ValueError(
                f"{out} was begun with another {name} ({json.dumps(before)}, now {json.dumps(after)}): give the same settings, "
                "or another folder."
            )
        remove_leftovers(out)
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _first_difference(begun: dict, now: dict) -> tuple[str, object, object] | None:
    """Name of the first setting that differs, with its values; of settings in settings, "budgets steps"."""
    for name, value in now.items():
        before = begun.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            inner = _first_difference(before, value)
            if inner is not None:
                return f"{name} {inner[0]}", *inner[1:]
        if before != value:
            return name, before, value
    return None


def read_columns(path: Path, names: Sequence[str], count: int) -> tuple[dict, dict[str, np.ndarray]]:
    """A file of one trained and tested network: all of it, and its part `columns`, float64 `[count]` each.

    Raises:
        ValueError: when it is damaged.
    """
    content = read_json(path)
    try:
        columns = {name: np.array(content["columns"][name], dtype=float) for name in names}
        lengths = {len(values) for values in columns.values()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged (its columns: {error!r}); {MADE_AGAIN}.") from error
    if lengths != {count}:
        raise ValueError(f"{path} is damaged (columns of {', '.join(map(str, lengths))} cases, not {count}); {MADE_AGAIN}.")
    return content, columns


def check_seeds(name: str, seeds: Sequence[int]) -> None:
    """Raise `ValueError` unless there is a seed, and each is a whole number from 0 to 2^63 - 1 that stands there once."""
    if not len(seeds) or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**63:
        raise ValueError(f"{name} {list(seeds)} are not allowed: different numbers from 0 to 2^63 - 1 are needed.")


def read_json(path: Path, remedy: str | None = MADE_AGAIN) -> dict:
    """Read the object in a JSON file.

    Args:
        remedy: what to do about a file of the package's own that is damaged; None for any other file.

    Raises:
        ValueError: for a file that is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # RecursionError: lists in lists without end
        if remedy is None:
            raise ValueError(f"{path} is not valid JSON: {error}") from error
        raise ValueError(f"{path} is damaged ({error}); {remedy}.") from error
    if not isinstance(content, dict):
        if remedy is None:
            raise ValueError(f"{path} holds no JSON object.")
        raise ValueError(f"{path} is damaged (it holds no JSON object); {remedy}.")
    return content


def write_json(path: Path, content: Mapping[str, Any], indent: int = 1) -> None:
    """Write a JSON object atomically; NaN is refused, which JSON does not know."""
    write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")
