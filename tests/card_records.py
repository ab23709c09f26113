"""What trainings, audits and evaluations record, for the tests of the cards."""

import math


ARGUMENTS = {
    "train_data_dir": "/data/ann-private/legs",
    "dataset_name": None,
    "max_train_steps": 100,
    "train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.0003,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 10,
    "use_ema": True,
    "dropout": 0.0,
    "balance": "class",
    "augment": False,
    "seed": 7,
    "task_probabilities": [0.7, 0.2, 0.1],
    "lambda_vlb": 0.001,
    "lambda_perceptual": 0.0,
    "lesion_region_weight": 10.0,
    "radiograph_region_weight": 4.0,
    "pretrained_unet": None,
    "ddpm_num_inference_steps": 25,
}
RUN = {"num_processes": 2, "device": "cuda", "hardware": "NVIDIA Example 80GB", "precision": "bf16"}
VERSIONS = {"diffusers_macdm": "0.1.0", "torch": "2.13.0"}
RECORD = {
    "arguments": ARGUMENTS,
    "data": {
        "num_cases": 1250,
        "cases_per_label": {"0": 1000, "1": 200, "none": 50},
        "num_patients": 61,
        "split_sizes": {"train": 1250, "validation": 30, "test": 31},
        "cases": ["jane_doe_1999", "john_doe_2001"],
    },
    "unet": {"num_parameters": 2_603_672},
    "versions": VERSIONS,
    "run": RUN,
}
CLASSIFIER_RECORD = {**RECORD, "guidance_classifier": {"num_parameters": 401_234}}
LOG = [{"step": 50, "samples_per_second": 10.0}, {"step": 100, "samples_per_second": 40.0}]
SHARE = {"value": 0.06, "interval": [0.03, 0.1], "total": 200}
AUDIT = {
    "verdict": "12 of 200 synthetic images lie closer | than real ones",
    "reliable": True,
    "copy_rate": {**SHARE, "copies": 12},
    "training_images_copied": None,
    "authenticity": {"value": 0.9, "interval": [0.85, 0.95]},
    "sensitivity": {"exact": {"value": 1.0, "interval": [0.93, 1.0], "found": 50, "total": 50}},
    "false_alarms": None,
    "membership": {"auc": 0.53, "interval": [0.47, 0.59]},
}
EVALUATION = {
    "results": [
        {
            "task": "classification",
            "dataset": "/data/ann-private/legs",
            "metric": "AUC",
            "value": 0.81,
            "interval": [0.77, 0.85],
            "arm": "real + synthetic 1:1",
        },
        {"task": "segmentation", "dataset": "legs", "metric": "Dice", "value": math.nan, "interval": None, "arm": "real"},
    ]
}
