"""The metrics as modules of `evaluate`: loaded without a network, from the package and from a copy of a folder."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from huggingface_hub import RepoCard
from sklearn.metrics import roc_auc_score

from diffusers_macdm.metrics import METRICS, load_metric, metric_folder
from diffusers_macdm.statistics import measures as functions
from diffusers_macdm.statistics.bootstrap import patient_bootstrap


MASKS = ("dice", "hausdorff95")


@pytest.fixture(scope="module")
def modules():
    return {name: load_metric(name) for name in METRICS}


@pytest.fixture
def inputs():
    """Predictions and references of 40 cases of 16 patients, by metric."""
    generator = np.random.default_rng(0)
    references = generator.integers(0, 2, 40)
    labels = np.where(generator.random(40) < 0.8, references, 1 - references)
    masks = generator.random((2, 40, 6, 8)) < 0.4
    masks[:, 3] = False
    masks[0, 5] = False
    found = {name: (labels, references) for name in METRICS} | {name: tuple(masks) for name in MASKS}
    return found | {"roc_auc": (references + generator.normal(size=40), references)}


PATIENTS = [f"p{case % 16}" for case in range(40)]


def statistic(name, predictions, references):
    if name in MASKS:
        per_case = getattr(functions, f"{name}_per_case")(predictions, references)
        return lambda cases: np.nanmean(per_case[cases])
    return lambda cases: getattr(functions, name)(predictions[cases], references[cases])


def groups(name, predictions, references):
    """Cases that there must be some of."""
    if name in MASKS:
        return (
            [predictions.any(axis=(1, 2)) | references.any(axis=(1, 2))]
            if name == "dice"
            else [predictions.any(axis=(1, 2)) & references.any(axis=(1, 2))]
        )
    classes = {"sensitivity": (1,), "specificity": (0,)}.get(name, (0, 1))
    return [references == label for label in classes]


@pytest.mark.parametrize("name", METRICS)
def test_value_and_interval(modules, inputs, name):
    predictions, references = inputs[name]
    arguments = {"patient_ids": PATIENTS, "num_resamples": 200, "seed": 3}
    result = modules[name].compute(predictions=predictions, references=references, **arguments)
    rests_on = groups(name, predictions, references)
    expected = patient_bootstrap(statistic(name, predictions, references), PATIENTS, 200, seed=3, rests_on=rests_on)
    assert result[name] == pytest.approx(expected.value) and result["num_patients"] == 16
    assert result["interval"] == pytest.approx(expected.interval)
    assert json.loads(json.dumps(result)) == result
    if name in MASKS:
        assert result["num_left_out"] == (1 if name == "dice" else 2)
    alone = modules[name].compute(predictions=predictions.tolist(), references=references.tolist(), num_resamples=20)
    assert alone[name] == result[name] and alone["num_patients"] == 40


def test_scores_are_not_rounded(modules):
    """Probabilities of a network that is sure differ in the last digits alone, which float32 does not have."""
    references = np.array([0, 1] * 10)
    scores = 1 - 1e-9 * (np.arange(20) + (references == 0) * 5)
    for given in (scores, scores.tolist(), torch.from_numpy(scores)):
        result = modules["roc_auc"].compute(predictions=given, references=references, num_resamples=20)
        assert result["roc_auc"] == pytest.approx(roc_auc_score(references, scores)) == 0.68


def test_batches_add_up(modules, inputs):
    module, (predictions, references) = modules["dice"], inputs["dice"]
    for first in range(0, 40, 16):
        module.add_batch(predictions=predictions[first : first + 16], references=references[first : first + 16])
    result = module.compute(num_resamples=50)
    assert result == module.compute(predictions=predictions, references=references, num_resamples=50)


def test_options(modules, inputs):
    masks = dict(zip(("predictions", "references"), inputs["dice"], strict=True))
    per_case = functions.dice_per_case(**masks)
    counted = modules["dice"].compute(**masks, both_empty=1.0, num_resamples=20)
    assert counted["dice"] == pytest.approx((np.nansum(per_case) + 1) / 40) and counted["num_left_out"] == 0
    wide = modules["hausdorff95"].compute(**masks, spacing=2.5, num_resamples=20)
    assert wide["hausdorff95"] == pytest.approx(2.5 * np.nanmean(functions.hausdorff95_per_case(**masks)))
    scores, references = inputs["roc_auc"]
    folds = np.arange(40) % 3
    stratified = modules["roc_auc"].compute(predictions=scores, references=references, strata=folds, num_resamples=20)
    assert stratified["roc_auc"] == pytest.approx(functions.roc_auc(scores, references, folds))


def test_what_is_undefined(modules):
    ones = [1, 1, 1]
    assert modules["specificity"].compute(predictions=ones, references=ones, num_resamples=20) == {
        "specificity": None,
        "interval": None,
        "num_patients": 3,
    }
    empty = np.zeros((2, 3, 3))
    result = modules["dice"].compute(predictions=empty, references=empty, num_resamples=20)
    assert result == {"dice": None, "interval": None, "num_patients": 2, "num_left_out": 2}


@pytest.mark.parametrize(
    "name, inputs, message",
    [
        ("sensitivity", {"predictions": [0, 1], "references": [0, 1, 1]}, r"predictions \(2\) and references \(3\)"),
        ("sensitivity", {"predictions": [0, 3], "references": [0, 1]}, "predictions hold 3.0: 0 and 1 are allowed"),
        ("dice", {"predictions": [[[0, 0.5]]], "references": [[[0, 1]]]}, "predictions hold 0.5: 0 and 1 are allowed"),
        ("dice", {"predictions": [[[0, 255]]], "references": [[[0, 1]]]}, "predictions hold 255.0: 0 and 1 are allowed"),
        ("hausdorff95", {"predictions": [[[0, 1]]], "references": [[[1]]]}, "must be .N, H, W. alike"),
        ("dice", {"predictions": [[[0, 1]], [[0]]], "references": [[[0, 1]], [[0]]]}, "predictions are of different sizes"),
        ("specificity", {"predictions": [0, 1], "references": [0, 1], "patient_ids": ["a"]}, "1 patient_ids for 2 cases"),
        ("roc_auc", {"predictions": [0, 1], "references": [0, 1], "strata": [0]}, "1 strata for 2 cases"),
        ("roc_auc", {"predictions": [0, 1], "references": [0, 1], "num_resamples": 0}, "num_resamples=0"),
    ],
)
def test_bad_input_is_one_sentence(modules, name, inputs, message):
    with pytest.raises(ValueError, match=message) as raised:
        load_metric(name).compute(**inputs)
    assert "\n" not in str(raised.value)


def test_a_name_that_is_none():
    with pytest.raises(ValueError, match="'iou' is no metric of this package: balanced_accuracy, dice, "):
        load_metric("iou")


@pytest.mark.parametrize("name", METRICS)
def test_the_examples_are_true(modules, name):
    """Those of the script and of its card, which are the same."""
    example = re.search(r"Examples:\n(.*)", modules[name].inputs_description, re.DOTALL)[1].strip().splitlines()
    *code, expected = (line.strip().removeprefix(">>> ") for line in example)
    card = (metric_folder(name) / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert [line for line in block.splitlines() if line] == [*code, f"# {expected}"]
    *statements, expression = code
    names = {}
    exec("\n".join(statements), names)
    assert eval(expression, names) == float(expected)


@pytest.mark.parametrize("name", METRICS)
def test_the_card_names_all_inputs(modules, name):
    card = RepoCard.load(metric_folder(name) / "README.md")
    assert card.data.sdk == "gradio" and card.data.tags == ["evaluate", "metric"]
    for parameter in list(inspect.signature(modules[name]._compute).parameters):
        for text in (card.text, modules[name].inputs_description):
            assert re.search(rf"^\s*(- )?{parameter}\b.*:", text, re.MULTILINE), parameter


def test_a_copy_loads_without_a_network(tmp_path):
    for name in METRICS:
        shutil.copytree(metric_folder(name), tmp_path / "copies" / name)
    code = """
import socket, sys

def refuse(*arguments):
    raise OSError("no network")

socket.socket.connect = refuse
import evaluate

for name in sys.argv[2:]:
    metric = evaluate.load(f"{sys.argv[1]}/{name}")
    print(metric.name, type(metric).__module__.split(".")[0])
print(evaluate.load(f"{sys.argv[1]}/sensitivity").compute(predictions=[0, 1, 1], references=[1, 1, 0])["sensitivity"])
"""
    environment = {**os.environ, "HF_EVALUATE_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "m")}
    command = [sys.executable, "-c", code, tmp_path / "copies", *METRICS]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [*(f"{name} evaluate_modules" for name in METRICS), "0.5"]


def test_names_that_published_scripts_import():
    """Spaces of the Hub hold scripts of earlier versions; what they import must stay where it is."""
    import diffusers_macdm.evaluation.metrics as of_first_version
    import diffusers_macdm.metrics as package

    names = ["balanced_accuracy", "dice_per_case", "hausdorff95_per_case", "mean_of_defined", "roc_auc", "sensitivity"]
    for name in [*names, "specificity", "accuracy"]:
        assert getattr(of_first_version, name) is getattr(package.measures, name) is getattr(functions, name)
    assert callable(package.compute_with_interval)
    for name in METRICS:
        script = (metric_folder(name) / f"{name}.py").read_text(encoding="utf-8")
        assert re.findall(r"^from (?!__future__)(\S+) import (.*)$", script, re.MULTILINE) == [
            ("diffusers_macdm.metrics", "PatientMetric, measures")
        ]


def test_a_space_of_the_first_version_still_works(modules, inputs):
    """The script that 0.1.0 has published, as it is."""
    published = evaluate.load(str(Path(__file__).parent / "fixtures/metric_space_0_1_0/dice"))
    masks = dict(zip(("predictions", "references"), inputs["dice"], strict=True))
    options = {"patient_ids": PATIENTS, "num_resamples": 50, "seed": 2, "both_empty": 1.0}
    assert published.compute(**masks, **options) == modules["dice"].compute(**masks, **options)
    assert published.inputs_description == modules["dice"].inputs_description


def test_metrics_are_found_by_their_folders():
    assert METRICS == ("balanced_accuracy", "dice", "hausdorff95", "roc_auc", "sensitivity", "specificity")
