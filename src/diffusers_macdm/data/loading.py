"""From files to joint samples: decoding, resizing, the data set of pairs, and the order in which training visits it.

Ranges: radiograph file (8 or 16 bit) -> [0, 1] -> [-1, 1]; mask file {0, non-zero} -> bool -> {-1, 1}.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from .. import joint_sample
from ..hub_names import REPOSITORY
from .augmentation import AUGMENTATION_DIM, PairAugmentation


if TYPE_CHECKING:
    import datasets


IMAGE_COLUMNS = ("image", "anatomy_mask", "lesion_mask")
REQUIRED_COLUMNS = (*IMAGE_COLUMNS, "label")
OPTIONAL_COLUMNS = ("patient_id", "site")
# What a synthetic set says about each pair, so that any single pair can be made again.
PROVENANCE_COLUMNS = (
    "model",
    "seed",
    "guidance_scale",
    "strength",
    "source",
    "masks_from",
    "num_inference_steps",
    "scheduler",
    "guidance_interval",
    "classifier_free_guidance_scale",
    "refine_masks",
    # What the model itself made, before refinement enforces it.
    "lesion_pixels_unrefined",
    "lesion_inside_anatomy_unrefined",
    "rejected_copies",
)

BALANCES = ("class", "none")

_FULL_SCALE = {"1": 1, "L": 255, "I;16": 65535, "I;16B": 65535, "I;16L": 65535, "I": 65535}


def radiograph_array(image: Image.Image) -> np.ndarray:
    """Decode an 8- or 16-bit grayscale image to float32 `[H, W]` in [0, 1].

    The full scale of the file format (255 or 65535) maps to 1, not the image's brightest value: exposure is kept.

    Raises:
        ValueError: for every other mode (colour, palette, float), and for 32-bit values beyond 16 bits.
    """
    values = _grayscale_values(image, "radiograph")
    full_scale = _FULL_SCALE[image.mode]
    if image.mode == "I" and (values.min() < 0 or values.max() > full_scale):
        raise ValueError(f"The radiograph has values from {values.min()} to {values.max()}; 0 to 65535 (16 bits) are allowed.")
    return values.astype(np.float32) / np.float32(full_scale)


def radiograph_digest(radiograph: np.ndarray) -> str:
    """SHA-256 (64 hex digits) of a radiograph's shape and gray values, as `radiograph_array` decodes them.

    It is the same whatever the file's name, format, compression and embedded texts, and for 8-bit values `v` stored as 16-bit
    `257 v`: both are the same share of the full scale. Every other change of a pixel gives another digest (`256 v`, windowing,
    lossy compression, a crop): `macdm audit` looks for images that are merely similar.
    """
    values = np.ascontiguousarray(radiograph, dtype="<f4")  # [H, W]
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()


def mask_array(image: Image.Image) -> np.ndarray:
    """Decode a mask to bool `[H, W]`: 0 is outside, everything else is inside.

    Raises:
        ValueError: when the image is not grayscale (a palette index or a colour is not a mask value).
    """
    return _grayscale_values(image, "mask") != 0


def _grayscale_values(image: Image.Image, what: str) -> np.ndarray:
    if image.mode not in _FULL_SCALE:
        raise ValueError(
            f"The {what} has PIL mode {image.mode!r}; 8- or 16-bit grayscale is allowed (modes 1, L, I;16, I): "
            "import it into the layout first."
        )
    return np.asarray(image)


def resize_radiograph(array: np.ndarray, size: int) -> np.ndarray:
    """Resample `[H, W]` in [0, 1] to `[size, size]` float32 in [0, 1].

    A radiograph that is not square is first padded with 0 to a centred square, so the aspect ratio is kept. The
    bicubic filter widens with the reduction, so nothing aliases. An array that has the size already comes back
    unchanged.
    """
    square = _pad_to_square(np.asarray(array, dtype=np.float32))
    if len(square) == size:
        return square
    return np.clip(_resample(square, size, Image.Resampling.BICUBIC), 0, 1)


def resize_mask(mask: np.ndarray, size: int, keep_small: bool = True) -> np.ndarray:
    """Resample a bool mask `[H, W]` to `[size, size]`, padded as `resize_radiograph` does.

    An output pixel is inside when at least half of its area is. What is smaller than that must not disappear:

    - `keep_small=True` (lesions): each connected component that would vanish is thresholded at half of the largest
      area fraction that it reaches itself, so a lesion of a few pixels survives (scikit-image finds the components).
    - `keep_small=False` (anatomy): specks may vanish, but a mask that was not empty is treated in this way as a whole
      rather than become empty.
    """
    square = _pad_to_square(np.asarray(mask, dtype=bool))
    if len(square) == size:
        return square
    fraction = _area_fraction(square, size)
    resized = fraction >= 0.5
    if keep_small and square.any():
        try:
            from skimage.measure import label
        except ImportError as error:
            raise ImportError(
                "Resampling a lesion mask needs scikit-image: install diffusers-macdm[train], or give the mask in the size "
                "that is asked for."
            ) from error
        components, count = label(square, return_num=True)
        for component in range(1, count + 1):
            own = _area_fraction(components == component, size)
            if not (resized & (own > 0)).any():
                resized |= own >= own.max() / 2
    elif square.any() and not resized.any():
        resized = fraction >= fraction.max() / 2
    return resized


def resize_case(
    radiograph: np.ndarray, anatomy_mask: np.ndarray, lesion_mask: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Resample a radiograph and its two masks, `[H, W]` each, to `[size, size]`.

    A lesion that was inside the anatomy still is: where the two thresholds disagree the lesion wins and its pixels are
    added to the anatomy. A lesion that was outside stays where it was (`macdm check` reports it).
    """
    anatomy = resize_mask(anatomy_mask, size, keep_small=False)
    lesion = resize_mask(lesion_mask, size)
    if not (lesion_mask & ~anatomy_mask).any():
        anatomy = anatomy | lesion
    return resize_radiograph(radiograph, size), anatomy, lesion


def joint_sample_of(
    radiograph_image: Image.Image, anatomy_image: Image.Image, lesion_image: Image.Image, size: int
) -> torch.Tensor:
    """Decode and resample one case to a joint sample: float32 `[3, size, size]` in [-1, 1].

    Raises:
        ValueError: when an image is not grayscale or a mask has another size than the radiograph.
    """
    case = _decode_case(radiograph_image, anatomy_image, lesion_image)
    return joint_sample.join(*_tensors(*resize_case(*case, size)))


def _decode_case(radiograph_image, anatomy_image, lesion_image):
    for name, mask_image in (("anatomy_mask", anatomy_image), ("lesion_mask", lesion_image)):
        if mask_image.size != radiograph_image.size:
            raise ValueError(
                f"{name} is {mask_image.width} x {mask_image.height} pixels and the radiograph "
                f"{radiograph_image.width} x {radiograph_image.height}; they must have the same size."
            )
    return radiograph_array(radiograph_image), mask_array(anatomy_image), mask_array(lesion_image)


def _tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


def _pad_to_square(array: np.ndarray) -> np.ndarray:
    side = max(array.shape)
    pads = [((side - length) // 2, side - length - (side - length) // 2) for length in array.shape]
    return np.pad(array, pads)


def _resample(array: np.ndarray, size: int, resampling: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(array.astype(np.float32)).resize((size, size), resampling))  # PIL mode F


def _area_fraction(mask: np.ndarray, size: int) -> np.ndarray:
    return _resample(mask, size, Image.Resampling.BOX)


def load_pairs(
    data: str | Path, split: str = "train", config_name: str | None = None, cache_dir: str | None = None
) -> datasets.Dataset:
    """Open one split of a data set of pairs with the `datasets` library.

    Args:
        data: folder in the project's layout (read as an `imagefolder`), or the name of a Hub data set, `owner/name`.
        split: `train`, `validation` or `test`.
        config_name: configuration of a Hub data set.
        cache_dir: where `datasets` keeps its tables; its default when None.

    Returns:
        Rows with `image`, `anatomy_mask`, `lesion_mask` (PIL images) and `label` (int, or None for an unlabeled
        image), and whatever else the set has (`patient_id`, `site`, provenance).

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when the set cannot be read, lacks the split or lacks one of the four columns.
    """
    import datasets

    is_folder = Path(data).is_dir()
    if not is_folder and not re.fullmatch(REPOSITORY, str(data)):
        raise FileNotFoundError(f"{data}: no such folder (and not the name of a Hub data set, which is owner/name).")
    try:
        if is_folder:
            splits = datasets.load_dataset("imagefolder", data_dir=str(data), cache_dir=cache_dir)
        else:
            splits = datasets.load_dataset(str(data), config_name, cache_dir=cache_dir)
    except Exception as error:  # of many classes; datasets wraps the one that says what is wrong
        empty = [path for path in sorted(Path(data).glob("*/metadata.jsonl")) if not path.stat().st_size] if is_folder else []
        if empty:
            raise ValueError(f"{empty[0]} is empty: one line for each case is needed.") from error
        cause = error.__cause__ or error
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        hint = " (`macdm check` lists every fault)" if is_folder else ""
        what = "data folder" if is_folder else "Hub data set (and there is no such folder)"
        raise ValueError(f"{data}: cannot be read as a {what}: {reason}{hint}") from error
    if split not in splits:
        raise ValueError(f"{data}: there is no split {split!r}; there is {', '.join(map(repr, splits))}.")
    pairs = splits[split]
    missing = [column for column in REQUIRED_COLUMNS if column not in pairs.column_names]
    if missing:
        raise ValueError(
            f"{data}, split {split!r}: column {', '.join(missing)} is missing; there are "
            f"{', '.join(pairs.column_names)}, and {', '.join(REQUIRED_COLUMNS)} are needed."
        )
    return pairs


def case_names(pairs: datasets.Dataset) -> list[str]:
    """The name of each case: its image's file name without the suffix, or `split-index` in a set that has kept no file
    names or has one of them twice."""
    import datasets

    undecoded = pairs.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    paths = [row["image"]["path"] for row in undecoded]
    names = [PurePosixPath(str(path).replace("\\", "/")).stem if path else None for path in paths]
    if None in names or len(set(names)) < len(names):
        return [f"{pairs.split or 'case'}-{index:06d}" for index in range(len(pairs))]
    return names


class PairDataset(torch.utils.data.Dataset):
    """The cases of `load_pairs` as joint samples; each is decoded and resampled once and then kept in memory.

    Args:
        pairs: rows with `image`, `anatomy_mask`, `lesion_mask`, `label` (see `load_pairs`).
        size: side of the joint samples in pixels.
        augmentation: applied to the items that are asked for with an augmentation seed.
        null_label: class label given to unlabeled images; None refuses them.

    `dataset[index]` is the case as it is and `dataset[index, augmentation_seed]` the augmented one, each a dict of

    - `joint_sample`: float32 `[3, size, size]` in [-1, 1];
    - `class_label`: int;
    - `augmentation_labels`: float32 `[AUGMENTATION_DIM]`, zeros without augmentation;
    - `index`: int.

    Raises:
        ValueError: when a label is not an integer (or is missing and there is no `null_label`), or, on access, when a
            case cannot be decoded. The case is named.
    """

    def __init__(
        self,
        pairs: datasets.Dataset,
        size: int,
        augmentation: PairAugmentation | None = None,
        null_label: int | None = None,
    ):
        self.pairs = pairs
        self.size = size
        self.augmentation = augmentation
        self.names: list[str] = case_names(pairs)
        self.labels: list[int] = [
            _class_label(label, name, null_label) for label, name in zip(pairs["label"], self.names, strict=True)
        ]
        has_patients = "patient_id" in pairs.column_names
        self.patient_ids: list[str | None] = list(pairs["patient_id"]) if has_patients else [None] * len(pairs)
        self._cases: dict[int, list[torch.Tensor]] = {}
        self._digests: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def image_sha256(self, index: int) -> str:
        """`radiograph_digest` of a case in its own size."""
        self._case(index)
        return self._digests[index]

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        index, augmentation_seed = key if isinstance(key, tuple) else (key, None)
        sample = joint_sample.join(*self._case(index))  # [3, size, size]
        augmentation_labels = torch.zeros(AUGMENTATION_DIM)
        if self.augmentation is not None and augmentation_seed is not None:
            sample, augmentation_labels = self.augmentation(sample, augmentation_seed)
        return {
            "joint_sample": sample,
            "class_label": self.labels[index],
            "augmentation_labels": augmentation_labels,
            "index": index,
        }

    def _case(self, index: int) -> list[torch.Tensor]:
        if index not in self._cases:
            if not 0 <= index < len(self):
                raise IndexError(f"index {index} is outside the {len(self)} cases.")
            try:
                row = self.pairs[index]
                decoded = _decode_case(*(row[column] for column in IMAGE_COLUMNS))
            except (ValueError, OSError) as error:
                raise ValueError(f"{self.names[index]}: {error}") from error
            self._digests[index] = radiograph_digest(decoded[0])
            self._cases[index] = _tensors(*resize_case(*decoded, self.size))
        return self._cases[index]


def _class_label(label, name: str, null_label: int | None) -> int:
    if label is None or (isinstance(label, float) and math.isnan(label)):
        if null_label is None:
            raise ValueError(f"{name}: the image has no label, and no null label is set for unlabeled images.")
        return null_label
    if isinstance(label, bool) or not isinstance(label, (int, float)) or label != int(label) or label < 0:
        raise ValueError(f"{name}: label {label!r} is not a class label; 0, 1, 2, ... or null are allowed.")
    return int(label)


class StepBatchSampler(torch.utils.data.Sampler):
    """Batches of `(index, augmentation_seed)` for the steps `start_step`, ..., `num_steps - 1`.

    What is drawn at a step is a function of `(seed, step, rank)` alone. A resumed training therefore sees exactly what
    an uninterrupted one sees, without any state to save: pass the step at which it goes on as `start_step`.

    All processes share one stream of positions, of which a step takes `batch_size * num_processes` and each process
    its own stretch. Position `p` belongs to class `p mod K` (of `K` classes), so the classes of a batch differ by one
    case at most and the remainder rotates; within a class, cases come in shuffled cycles, so all are visited equally
    often.
    `balance="none"` treats the set as a single class: shuffled epochs.

    Args:
        labels: class label of each case (unlabeled ones, under the null label, are a class as well).
        batch_size: cases per process and step.
        num_steps: step at which the stream ends; one step is one batch of one process (a micro-batch, not an update,
            under gradient accumulation).
        seed: of the shuffles and of the augmentation seeds.
        start_step: first step.
        rank, num_processes: this process and how many there are. Do not let `accelerate` shard the sampler again.
        balance: `"class"` or `"none"`.
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch_size: int,
        num_steps: int,
        seed: int = 0,
        start_step: int = 0,
        rank: int = 0,
        num_processes: int = 1,
        balance: str = "class",
    ):
        if balance not in BALANCES:
            raise ValueError(f"balance={balance!r} is not known; allowed are {', '.join(BALANCES)}.")
        if not len(labels):
            raise ValueError("There is no case to draw from.")
        if batch_size < 1 or not 0 <= rank < num_processes or seed < 0 or start_step < 0:
            raise ValueError(
                f"batch_size={batch_size}, seed={seed}, start_step={start_step}, rank={rank} of {num_processes} is "
                "not possible: batch_size >= 1, seed >= 0, start_step >= 0 and 0 <= rank < num_processes are needed."
            )
        labels = np.asarray(labels)
        classes = [labels == label for label in np.unique(labels)] if balance == "class" else [labels == labels]
        self.members = [np.flatnonzero(members) for members in classes]
        self.batch_size, self.num_steps, self.start_step = batch_size, num_steps, start_step
        self.seed, self.rank, self.num_processes = seed, rank, num_processes
        self._cycle = functools.lru_cache(maxsize=4 * len(self.members))(self._shuffled)

    def __len__(self) -> int:
        return max(0, self.num_steps - self.start_step)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start_step, self.num_steps):
            yield self.batch(step)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """The batch of this process at `step`."""
        first = (step * self.num_processes + self.rank) * self.batch_size
        return [self._draw(position) for position in range(first, first + self.batch_size)]

    def _draw(self, position: int) -> tuple[int, int]:
        visit, class_number = divmod(position, len(self.members))
        cycle, place = divmod(visit, len(self.members[class_number]))
        state = np.random.SeedSequence([self.seed, position]).generate_state(1, np.uint64)[0]
        return int(self._cycle(class_number, cycle)[place]), int(state >> np.uint64(1))

    def _shuffled(self, class_number: int, cycle: int) -> np.ndarray:
        return np.random.default_rng([self.seed, class_number, cycle]).permutation(self.members[class_number])
