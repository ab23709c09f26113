"""The options of `macdm check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class CheckSettings:
    """List every fault of a data folder by file and reason. Exit code 0 when there is none, else 1.

    Attributes:
        data: Folder with train/, and optionally validation/ and test/.
        json: New JSON file that the report is also written to.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    json: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
