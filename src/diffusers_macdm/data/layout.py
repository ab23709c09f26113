"""The layout of a data set on disk: splits, folders, columns (the format that others rely on).

data/{train,validation,test}/metadata.jsonl
data/{train,validation,test}/{images,anatomy,lesion}/NAME.png
"""

from __future__ import annotations


SPLITS = ("train", "validation", "test")
HELD_OUT_SPLITS = ("validation", "test")
METADATA = "metadata.jsonl"
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
