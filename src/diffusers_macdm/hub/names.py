"""How repositories of the Hub are named: `owner/name`, and `owner/name@revision` for a tag, a branch or a commit."""

from __future__ import annotations

import difflib
import re
from pathlib import Path


REPOSITORY = r"[\w-][\w.-]*/[\w-][\w.-]*"


def split_revision(model: str | Path) -> tuple[str, str | None]:
    """`owner/name@revision` -> its parts; a folder that is there, and a name without `@`, have no revision."""
    match = None if Path(model).exists() else re.fullmatch(rf"({REPOSITORY})@(\S+)", str(model))
    return match.groups() if match else (str(model), None)


def refuse_no_repository(name: str | Path) -> None:
    """Raise `FileNotFoundError` for what is neither there nor to be asked for on the Hub.

    Not asked for is also what is rather a folder with a typing error: one in a folder that is there, or is there under a
    name that is nearly the same. `owner/name@main` is always a repository.
    """
    repo_id, revision = split_revision(name)
    if not re.fullmatch(REPOSITORY, repo_id):
        raise FileNotFoundError(f"{name}: no such folder (and not the name of a Hub repository, which is owner/name).")
    if revision is not None:
        return
    folder = Path(name)
    parents = [folder.parent] if folder.parent.is_dir() else _alike(folder.parent.name, Path())
    near = [path.as_posix() for parent in parents for path in _alike(folder.name, parent)]
    if folder.parent.is_dir() or near:
        hint = f"; did you mean {near[0]}?" if near else "."
        raise FileNotFoundError(f"{name}: no such folder{hint} (The Hub's repository of this name is {name}@main.)")


def _alike(name: str, parent: Path) -> list[Path]:
    """Return the entries of a folder whose names are nearly this one."""
    there = [path.name for path in parent.iterdir()]
    return [parent / found for found in difflib.get_close_matches(name, there, n=3, cutoff=0.7)]


def check_repo_id(repo_id: str, needs_owner: bool = True) -> None:
    """Raise `ValueError` for what is not the name of a repository."""
    if not re.fullmatch(REPOSITORY, str(repo_id) if needs_owner or "/" in str(repo_id) else f"owner/{repo_id}"):
        raise ValueError(f"{repo_id}: not the name of a Hub repository, which is owner/name.")
