"""How repositories of the Hub are named: `owner/name`, and `owner/name@revision` for a tag, a branch or a commit."""

from __future__ import annotations

import re
from pathlib import Path


REPOSITORY = r"[\w-][\w.-]*/[\w-][\w.-]*"


def split_revision(model: str | Path) -> tuple[str, str | None]:
    """`owner/name@revision` -> its parts; a folder that is there, and a name without `@`, have no revision."""
    match = None if Path(model).exists() else re.fullmatch(rf"({REPOSITORY})@(\S+)", str(model))
    return match.groups() if match else (str(model), None)


def check_repo_id(repo_id: str, needs_owner: bool = True) -> None:
    """Raise `ValueError` for what is not the name of a repository."""
    if not re.fullmatch(REPOSITORY, str(repo_id) if needs_owner or "/" in str(repo_id) else f"owner/{repo_id}"):
        raise ValueError(f"{repo_id}: not the name of a Hub repository, which is owner/name.")
