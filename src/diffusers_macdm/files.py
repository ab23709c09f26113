"""Output folders of long work: begun with some settings, continued with the same ones alone, finished by one last file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np


SETTINGS_FILE = "settings.json"
MADE_AGAIN = "delete it, and it is made again"


def refuse_foreign(out: Path, finished_file: str, what: str) -> None:
    """Raise `FileExistsError` for a folder that is complete or holds something else.

    Args:
        finished_file: whose presence says that the work is finished.
        what: how the sentence calls it: "evaluation".
    """
    if (out / finished_file).exists():
        raise FileExistsError(f"{out} holds a finished {what}; nothing is overwritten.")
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / SETTINGS_FILE).is_file())):
        raise FileExistsError(f"{out} exists and is neither an empty folder nor an interrupted {what}.")


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


def read_json(path: Path, remedy: str = MADE_AGAIN) -> dict:
    """What `write_json` wrote.

    Raises:
        ValueError: for a file that is damaged, with what to do about it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it holds no JSON object); {remedy}.")
    return content


def write_json(path: Path, content: dict) -> None:
    """Atomically; NaN is refused, which JSON does not know."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.rename(path)
