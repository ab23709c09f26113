"""What a data set is like, as far as it decides how to train on it."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..data.layout import METADATA, SPLITS
from ..data.loading import load_pairs, radiograph_digest
from ..data.reader import read_folder
from ..progress import Progress


RESOLUTIONS = (32, 48, 64, 96, 128, 192, 256)  # that a patch of 4 px and three levels divide


def digest_of(data: str | Path) -> str:
    """SHA-256 of a data folder: its three metadata.jsonl, and every file that they name."""
    folder, known = read_folder(data), hashlib.sha256()
    for split in SPLITS:
        if split in folder.cases:
            known.update((folder.path / split / METADATA).read_bytes())
            for case in folder.cases[split]:
                for file in case.files.values():
                    if file is not None:
                        known.update(hashlib.sha256(file.read()).digest())
    return known.hexdigest()


def fingerprint(data: str | Path, show_progress: bool = False) -> dict[str, Any]:
    """Measure the train split of a data folder, which has no fault.

    Returns:
        JSON-ready: `folder` (its name), `sha256`, `splits` (cases by split), `labels` (cases by label, "none" for unlabeled
        ones), `num_patients` (None where they are not named), `duplicates` (cases whose radiograph is that of an earlier one),
        `side` (longer side in pixels: least, median, largest), `gray_values` (shares of the full scale: medians of the 1st,
        the 50th and the 99th percentile), `num_with_lesion`, `lesion_share` (median share of the padded square that a lesion
        covers; None without lesions) and `lesion_pixels` (that in pixels, by resolution).

    Raises:
        FileNotFoundError, ValueError: when the data cannot be read, or a case cannot be decoded.
    """
    pairs = load_pairs(data, "train")
    sides, shares, levels, digests = [], [], [], []
    with Progress(len(pairs), "measure", "case", show=show_progress) as progress:
        for index in range(len(pairs)):
            radiograph, _, lesion = pairs.arrays(index)
            sides.append(max(radiograph.shape))
            levels.append(np.percentile(radiograph, (1, 50, 99)))
            digests.append(radiograph_digest(radiograph))
            if lesion is not None and lesion.any():
                shares.append(float(lesion.sum()) / max(lesion.shape) ** 2)
            progress.update()
    labels = Counter("none" if label is None else str(label) for label in pairs["label"])
    patients = {str(patient) for patient in pairs["patient_id"] if patient is not None}
    share = float(np.median(shares)) if shares else None
    return {
        "folder": Path(data).resolve().name,
        "sha256": digest_of(data),
        "splits": dict(pairs.split_sizes),
        "labels": dict(sorted(labels.items())),
        "num_patients": len(patients) or None,
        "duplicates": len(digests) - len(set(digests)),
        "side": {"least": min(sides), "median": int(np.median(sides)), "largest": max(sides)},
        "gray_values": dict(zip(("low", "median", "high"), np.median(levels, axis=0).round(4).tolist(), strict=True)),
        "num_with_lesion": len(shares),
        "lesion_share": share,
        "lesion_pixels": None if share is None else {str(side): round(share * side**2, 1) for side in RESOLUTIONS},
    }
