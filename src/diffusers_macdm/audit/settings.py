"""The options of `macdm audit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..checks import check_at_least, check_noise_level


EMBEDDING_STEPS = 400  # training steps of the copy detector's embedding, wherever one is trained


@dataclass(frozen=True)
class Settings:
    """Compare each synthetic image with the training images, after the best alignment, and with what validation images give.

    Writes audit.json, audit.jsonl (one line for each synthetic image) and index.html into a new folder.

    Attributes:
        real: Real set with train/ and validation/ (and test/).
        synthetic: Synthetic set, as `macdm generate` writes it.
        out: New folder.
        model: The model itself, for membership inference, and for which cases trained it.
        embedding: Folder 'embedding' of an earlier audit of the same training images.
        embedding_steps: Training steps of the embedding where none is given.
        planted: Planted copies of each kind.
        strengths: Also make variations of training cases with --model at these strengths, for the curve of copies against Z.
        variations: Variations at each strength.
        seed: Everything random follows from it.
        device: Device to compute on, for example cuda or cpu; cuda when not given and there is one.
    """

    real: Annotated[str, tyro.conf.arg(metavar="DATA")]
    synthetic: Annotated[str, tyro.conf.arg(metavar="DIR")]
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    embedding: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    embedding_steps: Annotated[int, tyro.conf.arg(metavar="N")] = EMBEDDING_STEPS
    planted: Annotated[int, tyro.conf.arg(metavar="N")] = 100
    strengths: Annotated[tuple[float, ...], tyro.conf.arg(metavar="Z ...")] = ()
    variations: Annotated[int, tyro.conf.arg(metavar="N")] = 64
    seed: int = 0
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None

    def __post_init__(self):
        check_at_least(self, embedding_steps=1, planted=1, variations=1, seed=0)
        for strength in self.strengths:
            check_noise_level("strengths", strength)
        if self.strengths and self.model is None:
            raise ValueError(f"strengths={self.strengths} needs a model, which makes the variations.")
