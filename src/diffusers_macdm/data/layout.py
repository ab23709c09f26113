"""The layout of a data set on disk: splits, folders, columns (the format that others rely on).

data/{train,validation,test}/metadata.jsonl
data/{train,validation,test}/{images,anatomy,lesion}/NAME.png

A set may have one mask alone: without `anatomy_mask_file_name` in any line of any split, or with null in all of them, it has no
anatomy masks; without `lesion_mask_file_name` in any line of any split it has no lesion outlines. null does not say that, since
it stands for the empty mask of a normal case: a set that is annotated by half is never taken for one without outlines. Nor may
there be files in the folder of that mask, or a column that sounds like it: the column would have another name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..macdm.joint_sample import MASK_WORDS, MASKS


SPLITS = ("train", "validation", "test")
HELD_OUT_SPLITS = ("validation", "test")
METADATA = "metadata.jsonl"
# Of a set that `macdm generate` writes: its settings, written first, and its summary, written last.
GENERATION_FILE, SUMMARY_FILE = "generation.json", "summary.json"
FOLDERS = {"image": "images", "anatomy_mask": "anatomy", "lesion_mask": "lesion"}

IMAGE_COLUMNS = ("image", *MASKS)
REQUIRED_COLUMNS = (*IMAGE_COLUMNS, "label")
OPTIONAL_COLUMNS = ("patient_id", "site")
SPACING_COLUMN = "pixel_spacing_mm"  # distance of the pixels' centres between rows and between columns, of films from DICOM
# Of a region of interest: the film that it is cut out of (as messages name its file), and where; in pixels of the upright film.
REGION_COLUMNS = ("film", "region_left", "region_top", "region_side", "film_width", "film_height")
# What a synthetic set says about each pair, so that any single pair can be made again.
PROVENANCE_COLUMNS = (
    "model",
    "seed",
    "guidance_scale",
    "strength",
    "source",
    "masks_from",
    # A lesion painted into the film `source`: the case that its shape is from, and whether the model was given the outline.
    "lesion_from",
    "lesion_masks",
    "placement_seed",
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


def without_words(masks: Sequence[str]) -> str | None:
    """Say what a set with these masks has not: "no anatomy masks", "no lesion outlines"; None where it has both."""
    missing = [MASK_WORDS[name] for name in MASKS if name not in masks]
    return f"no {' and no '.join(missing)}" if missing else None


def require_masks(masks: Sequence[str], needed: Sequence[str], where: str, why: str) -> None:
    """Raise `ValueError` where a set lacks a mask that is needed.

    Args:
        masks: those that the set has.
        needed: those that something needs.
        where: names the set.
        why: what needs them; the end of the sentence.
    """
    missing = [MASK_WORDS[name] for name in needed if name not in masks]
    if missing:
        raise ValueError(f"{where} has no {' and no '.join(missing)}, which {why}.")


def unfinished(data: str | Path) -> str | None:
    """Say of a set that `macdm generate` has begun and not finished what to do about it; None for every other folder."""
    if (Path(data) / GENERATION_FILE).is_file() and not (Path(data) / SUMMARY_FILE).is_file():
        return (
            f"a generated set that is not finished ({SUMMARY_FILE} is missing): run the same `macdm generate` again, which "
            "goes on where it stopped."
        )
    return None
