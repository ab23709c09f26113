"""An evaluation such as `macdm evaluate` writes, with made-up numbers of a stated effect: for the tests of the pages."""

import numpy as np
import torch

from diffusers_macdm.data.cases import Cases
from diffusers_macdm.phantom import phantom_case


CONTROLS = ("real_only", "classical_augmentation", "duplicated_real")
RATIOS = (0.25, 0.5, 1, 2, 5)
SENTENCES = {
    "helps": "The synthetic pairs help the diagnosis.",
    "hurts": "The synthetic pairs hurt the diagnosis.",
    "no evidence": "There is no evidence that the synthetic pairs help the diagnosis.",
}


def phantom_cases(count: int, seed: int, size: int = 48) -> Cases:
    """Every other one with a lesion."""
    samples = []
    for index in range(count):
        case = phantom_case(size, index % 2 == 1, np.random.default_rng([seed, index]))
        channels = (case.radiograph, *((mask > 0) * 255 for mask in (case.anatomy_mask, case.lesion_mask)))
        samples.append(np.stack(channels).astype(np.float32) / 127.5 - 1)
    return Cases.of(torch.from_numpy(np.stack(samples)), [index % 2 for index in range(count)])


def sample_evaluation(verdict: str) -> dict:
    """`verdict`: "helps", "hurts" or "no evidence", of the diagnosis; the segmentation never shows any."""
    generator = np.random.default_rng(0)
    effect = {"helps": 0.08, "hurts": -0.08, "no evidence": 0.0}[verdict]
    synthetic_arms = [f"real_plus_synthetic_{ratio:g}" for ratio in RATIOS]
    synthetic_arms += ["real_plus_synthetic_1_augmented", "synthetic_pretraining", "synthetic_only"]
    metrics = {
        "diagnosis": {"roc_auc": 0.78, "balanced_accuracy": 0.72, "sensitivity": 0.68, "specificity": 0.76},
        "segmentation": {"dice": 0.44, "hausdorff95": 12.4},
    }
    results, differences = [], []
    for task, of_task in metrics.items():
        for metric, base in of_task.items():
            for arm in (*CONTROLS, *synthetic_arms):
                shift = effect if task == "diagnosis" and arm not in CONTROLS else 0.0
                value = base + shift + 0.01 * generator.standard_normal()
                results.append(
                    {
                        "task": task,
                        "dataset": "phantom",
                        "metric": metric,
                        "arm": arm,
                        "value": value,
                        "interval": [value - 0.05, value + 0.05],
                        "per_seed": [value - 0.01, value, value + 0.01],
                        "seed_sd": 0.01,
                        "num_cases": 80,
                        "num_patients": 62,
                        "primary": metric in ("roc_auc", "dice"),
                        "higher_is_better": metric != "hausdorff95",
                    }
                )
    values = {(row["task"], row["metric"], row["arm"]): row["value"] for row in results}
    for (task, metric, arm), value in values.items():
        if metric in ("roc_auc", "dice") and arm not in CONTROLS:
            for control in CONTROLS:
                differences.append(difference(task, metric, value - values[task, metric, control], arm=arm, against=control))
    return {
        "conclusion": [SENTENCES[verdict], "There is no evidence that the synthetic pairs help the segmentation."],
        "verdicts": {
            "diagnosis": {"arm": "real_plus_synthetic_1", "verdict": verdict},
            "segmentation": {"arm": "real_plus_synthetic_1", "verdict": "no evidence"},
        },
        "results": [
            *results,
            {
                "task": "generation",
                "dataset": "phantom",
                "metric": "kid",
                "arm": "synthetic pairs",
                "value": 0.03,
                "interval": None,
            },
        ],
        "differences": differences,
        "by_site": [
            {**row, "site": site}
            for row in results
            if row["primary"] and row["arm"] in (*CONTROLS, "real_plus_synthetic_1")
            for site in ("frontal", "lateral")
        ],
        "by_fold": [
            {**row, "fold": fold, "interval": None}
            for row in results
            if row["primary"] and row["arm"] in (*CONTROLS, "real_plus_synthetic_1")
            for fold in ("fold-0", "fold-1", "fold-2")
        ],
        "filters": {
            "classifier": {"kept": 230, "dropped": 20, "differences": [difference("diagnosis", "roc_auc", 0.01)]},
            "segmenter": {"kept": 201, "dropped": 49, "differences": [difference("segmentation", "dice", -0.02)]},
        },
        "arms": {
            arm: {
                "description": f"What was trained on in {arm}.",
                "num_real": 0 if arm == "synthetic_only" else 250,
                "num_synthetic": 0 if arm in CONTROLS else 250,
                "steps": 2000,
            }
            for arm in (*CONTROLS, *synthetic_arms)
        },
        "realism": {
            "feature_extractor": "diagnosis classifier (ResNet-34) trained on the real training cases",
            "measures": [
                {
                    "name": name,
                    "label": label,
                    "value": value,
                    "interval": [value - 0.02, value + 0.02],
                    "real_versus_real": reference,
                    "num_real": 80,
                    "num_synthetic": 250,
                    "note": "only 20 real cases" if label == 1 else "",
                }
                for label in (None, 0, 1)
                for name, value, reference in (
                    ("kid", 0.0312, 0.0004),
                    ("precision", 0.71, 0.83),
                    ("recall", 0.52, 0.84),
                    ("real_or_synthetic_auc", 0.81, 0.5),
                )
            ],
            "tsne": [
                {"x": float(x) + 2 * (kind == "synthetic"), "y": float(y), "kind": kind, "label": int(label)}
                for kind in ("real", "synthetic")
                for x, y, label in zip(*generator.standard_normal((2, 120)) * 5, np.arange(120) % 2, strict=True)
            ],
        },
        "fit": {
            "measures": [
                {
                    "mask": mask,
                    "label": label,
                    "value": value,
                    "interval": [value - 0.03, value + 0.03],
                    "real": value + 0.04,
                    "real_interval": [value, value + 0.08],
                    "shuffled": shuffled,
                    "shuffled_interval": [shuffled - 0.01, shuffled + 0.01],
                    "n": 125,
                }
                for mask, label, value, shuffled in (
                    ("anatomy_mask", None, 0.93, 0.64),
                    ("lesion_mask", 1, 0.51, 0.02),
                )
            ],
        },
        "notes": ["Only 24 test patients have a lesion; the intervals are wide.", "The set has 250 synthetic pairs."],
        "settings": {"real": "data", "synthetic": "synthetic", "seeds": [0, 1, 2], "steps": 2000, "folds": None, "size": 64},
        "versions": {"diffusers-macdm": "0.1.0", "torch": "2.8.0", "monai": "1.5.2"},
        "seconds": {"diagnosis": 812.3, "segmentation": 655.0},
    }


def difference(task: str, metric: str, value: float, **names) -> dict:
    interval = [value - 0.04, value + 0.04]
    verdict = "better" if interval[0] > 0 else "worse" if interval[1] < 0 else "no evidence"
    return {"task": task, "metric": metric, **names, "value": value, "interval": interval, "verdict": verdict}
