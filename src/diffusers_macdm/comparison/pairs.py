"""The pairs of a trained generative model: drawn, kept in a folder, read again.

FOLDER/samples.npz            radiographs uint8 `[N, H, W]`, class_labels `[N]`, and masks bool `[N, 2, H, W]` of models that
                              make them
FOLDER/contact_sheet.png      the first pairs of each label
FOLDER/facts.json             what the training says about itself
"""

from __future__ import annotations

import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from ..data.cases import Cases
from ..files import new_folder, read_json, write_json
from ..report.contact_sheet import contact_sheet, save
from .models import MODELS
from .settings import TrainingBudget


SHEET = "contact_sheet.png"
SHEET_PAIRS = 8  # of each label, the first ones


def train_and_draw(
    folder: Path,
    name: str,
    train: Cases,
    class_labels: np.ndarray,
    budget: TrainingBudget,
    *,
    seed: int,
    device: torch.device,
    show_progress: bool = True,
) -> None:
    """Train a model and draw its pairs; the folder appears when all of it is there.

    Args:
        folder: new folder.
        name: name of the model.
        train: cases to train on.
        class_labels: label of each pair that is drawn, `[N]`.
        budget: budget of the training.
        seed: seed of training and draws.
        device: device to train on.
        show_progress: whether to show how far the training is.
    """
    model = MODELS[name]()
    facts = model.fit(train, budget, seed=seed, device=device, progress=show_progress)
    start = time.monotonic()
    pairs = model.sample(class_labels, seed=seed, given=train)
    if not pairs.radiographs.isfinite().all() or (pairs.has_masks and not pairs.masks.isfinite().all()):
        raise ValueError(f"{name}: the pairs that the trained model draws are not finite; nothing was written of it.")
    facts["seconds_per_pair"] = (time.monotonic() - start) / len(pairs)
    gray = ((pairs.radiographs[:, 0] + 1) * 127.5).round().to(torch.uint8).numpy()  # [N, H, W]
    content = {"radiographs": gray, "class_labels": class_labels}
    if pairs.has_masks:
        content["masks"] = pairs.masks.numpy()  # [N, 2, H, W]
    shown = np.concatenate([np.flatnonzero(class_labels == label)[:SHEET_PAIRS] for label in np.unique(class_labels)])
    masks = pairs.masks.numpy()[shown]  # [N, 2, H, W]
    captions = [f"label {label}" for label in class_labels[shown].tolist()]
    sheet = contact_sheet(gray[shown], masks[:, 0], masks[:, 1], captions=captions, outlines=pairs.has_masks)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as temporary:
        np.savez_compressed(temporary / "samples.npz", **content)
        save(sheet, temporary / SHEET)
        write_json(temporary / "facts.json", facts)


def read_pairs(folder: Path, name: str) -> tuple[Cases, dict]:
    """Return the pairs that `train_and_draw` has kept, and the facts of the training.

    Raises:
        ValueError: when a file is damaged.
    """
    path = folder / "samples.npz"
    try:
        with np.load(path) as file:
            content = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); delete {folder}, and it is made again.") from error
    gray = torch.from_numpy(content["radiographs"])  # [N, H, W]
    radiographs = gray[:, None].float() / 127.5 - 1
    if "masks" in content:
        masks = torch.from_numpy(content["masks"]).float() * 2 - 1
    else:
        masks = torch.full_like(radiographs, torch.nan).expand(-1, 2, -1, -1)
    names = [f"{name}-{index:06d}" for index in range(len(gray))]
    facts = read_json(folder / "facts.json", f"delete {folder}, and it is made again")
    return Cases.of(torch.cat([radiographs, masks], dim=1), content["class_labels"], names), facts
