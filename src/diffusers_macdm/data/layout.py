"""The layout of a data set on disk: splits, folders, columns (the format that others rely on).

data/{train,validation,test}/metadata.jsonl
data/{train,validation,test}/{images,anatomy,lesion}/NAME.png
"""

from __future__ import annotations

from pathlib import Path


SPLITS = ("train", "validation", "test")
HELD_OUT_SPLITS = ("validation", "test")
METADATA = "metadata.jsonl"
# Of a set that `macdm generate` writes: its settings, written first, and its summary, written last.
GENERATION_FILE, SUMMARY_FILE = "generation.json", "summary.json"
FOLDERS = {"image": "images", "anatomy_mask": "anatomy", "lesion_mask": "lesion"}

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


def unfinished(data: str | Path) -> str | None:
    """Say of a set that `macdm generate` has begun and not finished what to do about it; None for every other folder."""
    if (Path(data) / GENERATION_FILE).is_file() and not (Path(data) / SUMMARY_FILE).is_file():
        return (
            f"a generated set that is not finished ({SUMMARY_FILE} is missing): run the same `macdm generate` again, which "
            "goes on where it stopped."
        )
    return None
