"""Small data for the tests of the audit: phantoms at the audit's size, and sets written from arrays."""

import json

import numpy as np
import torch
from PIL import Image

from diffusers_macdm.audit.images import to_audit_size
from diffusers_macdm.phantom import phantom_case


def films(count: int, seed: int, size: int = 32) -> list[np.ndarray]:
    """Films of as many patients, every other one with a lesion: uint8 `[size, size]`."""
    return [phantom_case(size, i % 2 == 1, np.random.default_rng([seed, i])).radiograph for i in range(count)]


def phantoms(count: int, seed: int, size: int = 32) -> torch.Tensor:
    """The same as the audit sees them: uint8 `[count, 64, 64]`."""
    return to_audit_size((film / np.float32(255) for film in films(count, seed, size)), size)


def write_split(folder, radiographs, **columns) -> None:
    """A split in the project's layout; the masks are plain blocks. `columns`: one value for each radiograph."""
    for name in ("images", "anatomy", "lesion"):
        (folder / name).mkdir(parents=True)
    rows = []
    for i, radiograph in enumerate(radiographs):
        name = f"{folder.name}_{i:03d}.png"
        block = np.zeros(radiograph.shape, np.uint8)
        block[4:-4, 8:-8] = 255
        masks = block, block if i % 2 else np.zeros_like(block)
        for kind, image in zip(("images", "anatomy", "lesion"), (radiograph, *masks), strict=True):
            Image.fromarray(image).save(folder / kind / name)
        row = {f"{column}_file_name": f"{kind}/{name}" for column, kind in
               (("image", "images"), ("anatomy_mask", "anatomy"), ("lesion_mask", "lesion"))}  # fmt: skip
        rows.append({**row, "label": i % 2, **{column: values[i] for column, values in columns.items()}})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
