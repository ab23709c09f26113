"""Output folders of long work: begun with some settings, continued with the same ones alone, finished by one last file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path


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
        other = [name for name in now if name not in may_change and begun.get(name) != now[name]]
        if other:
            raise ValueError(
                f"{out} was begun with another {other[0]} ({json.dumps(begun.get(other[0]))}, now "
                f"{json.dumps(now[other[0]])}): give the same settings, or another folder."
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


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
