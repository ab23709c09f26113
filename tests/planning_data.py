"""A plan, and what a device measured, for tests that train nothing."""

import copy


MEASURED = {
    "start": 8.0,
    "denoiser": {"update": 0.25, "checkpoint": 0.5, "picture": 2.0, "case": 0.01, "memory": 8e8, "parameters": 3_900_000},
    "classifier": {"update": 0.1, "checkpoint": 0.1, "case": 0.01, "memory": 8e8, "parameters": 800_000},
    "audit": {"step": 0.1, "gallery": 1.0, "image": 0.05},
}
FACTS = {
    "folder": "leg",
    "sha256": "0" * 64,
    "splits": {"train": 200, "validation": 40},
    "labels": {"0": 120, "1": 80},
    "num_patients": 90,
    "duplicates": 0,
    "side": {"least": 60, "median": 300, "largest": 400},
    "gray_values": {"low": 0.0, "median": 0.4, "high": 0.9},
    "num_with_lesion": 80,
    "lesion_share": 0.01,
    "lesion_pixels": {str(side): round(0.01 * side**2, 1) for side in (32, 48, 64, 96, 128, 192, 256)},
}
PLAN = {
    "preset": "default",
    "time_budget_seconds": 3600.0,
    "denoiser": {"resolution": 64, "patch_size": 4, "block_out_channels": [96, 80, 96], "train_batch_size": 32},
    "classifier": None,
    "samples": {"num_per_class": 32, "classifier_free_guidance_scale": 1.5},
    "audit": {"embedding_steps": 100, "planted": 20},
    "data": FACTS,
}


def plan_with(**parts):
    """`PLAN` with other settings: `plan_with(denoiser={"max_train_steps": 100})`."""
    plan = copy.deepcopy(PLAN)
    for name, values in parts.items():
        plan[name] = {**(plan.get(name) or {}), **values} if isinstance(values, dict) else values
    return plan
