"""A data set of phantoms in the project's layout: `macdm phantom`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ..checks import check_integer
from ..data.layout import FOLDERS, METADATA, SPLITS
from ..files import is_filled, locked, new_folder
from ..progress import Progress
from .anatomy import draw_anatomy
from .film import MAX_SIZE, MIN_SIZE, draw_film, render
from .settings import Settings


CLASS_NAMES = ("normal", "lesion")  # position = label
MAX_CASES = 100_000


def write_phantom(
    out: str | Path, num_normal: int, num_lesion: int, size: int, seed: int, show_progress: bool = False
) -> dict[str, dict[str, int]]:
    """Write a phantom data set in the layout that `datasets.load_dataset("imagefolder", data_dir=out)` reads.

    ```
    out/{train,validation,test}/metadata.jsonl
    out/{train,validation,test}/{images,anatomy,lesion}/NAME.png      8-bit gray; masks are 0 / 255
    ```

    Case `index` of a class and split is a function of `(seed, split, label, index)` and the size alone: the same call
    gives the same bytes, and a larger set contains the smaller one. (Another processor or version of numpy may round
    a gray value to its neighbour.) A patient has one or two films, in one split only.

    Args:
        out: folder to create; it must not exist, or be empty.
        num_normal, num_lesion: number of cases in the train split, not both 0. Validation and test get a quarter each,
            rounded up.
        size: side of the images in pixels, 32 to 1024.
        seed: 0 to 2**32 - 1.
        show_progress: whether to show a progress bar on stderr.

    Returns:
        The number of cases by split and class: `{"train": {"normal": 177, "lesion": 73}, ...}`.

    Raises:
        FileExistsError: `out` is a file or a folder that holds something, or another process writes there.
        ValueError: a count, the size or the seed is outside of the allowed range.
    """
    num_normal = check_integer("num_normal", num_normal, 0, MAX_CASES)
    num_lesion = check_integer("num_lesion", num_lesion, 0, MAX_CASES)
    if num_normal + num_lesion == 0:
        raise ValueError("num_normal and num_lesion are both 0; at least one must be 1 or more")
    size = check_integer("size", size, MIN_SIZE, MAX_SIZE)
    seed = check_integer("seed", seed, 0, 2**32 - 1)
    out = Path(out).absolute()
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise FileExistsError(f"{out} exists and is no plain folder; give a folder that does not exist or is empty")

    counts = {}
    for split in SPLITS:
        share = 1 if split == "train" else 4
        counts[split] = {"normal": -(-num_normal // share), "lesion": -(-num_lesion // share)}

    total = sum(sum(by_class.values()) for by_class in counts.values())
    with locked(out):
        if is_filled(out):
            raise FileExistsError(f"{out} is not empty; give a folder that does not exist or is empty")
        with new_folder(out) as folder, Progress(total, "phantom", "film", show=show_progress) as progress:
            for split_index, split in enumerate(SPLITS):
                _write_split(folder / split, split_index, list(counts[split].values()), size, seed, progress)
    return counts


def _write_split(folder: Path, split: int, counts: list[int], size: int, seed: int, progress: Progress) -> None:
    for name in FOLDERS.values():
        (folder / name).mkdir(parents=True)
    with open(folder / METADATA, "w", encoding="utf-8", newline="\n") as metadata:
        for label, count in enumerate(counts):
            for index in range(count):
                patient = _patient_of(seed, split, label, index)
                anatomy = draw_anatomy(_rng(seed, split, label, 1, patient), bool(label))
                film = draw_film(_rng(seed, split, label, 2, index))
                case = render(anatomy, film, size)
                name = f"{CLASS_NAMES[label]}_{index:05d}.png"
                images = {
                    "image": case.radiograph,
                    "anatomy_mask": case.anatomy_mask.astype(np.uint8) * 255,
                    "lesion_mask": case.lesion_mask.astype(np.uint8) * 255,
                }
                row = {f"{column}_file_name": f"{FOLDERS[column]}/{name}" for column in images}
                for column, image in images.items():
                    Image.fromarray(image).save(folder / row[f"{column}_file_name"])
                row |= {
                    "label": label,
                    "patient_id": f"{SPLITS[split]}_{CLASS_NAMES[label]}_{patient:05d}",
                    "site": film.site,
                }
                metadata.write(json.dumps(row) + "\n")
                progress.update()


def _patient_of(seed: int, split: int, label: int, index: int) -> int:
    """Return the number of the patient of case `index`: one in three pairs of neighbours shows the same patient twice."""
    first = index - index % 2
    return first if _rng(seed, split, label, 0, first).random() < 1 / 3 else index


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(list(key))


def run(settings: Settings, *, show_progress: bool = True) -> dict[str, dict[str, int]]:
    """Write the set that the settings ask for (see `write_phantom`)."""
    return write_phantom(
        settings.out, settings.num_normal, settings.num_lesion, settings.size, settings.seed, show_progress=show_progress
    )
