"""The validation of the guidance classifier: its numbers, and that the training does not notice it."""

import json
import logging
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from launching import assert_same_weights, read_log, reset_accelerate, resolve_here, run_here, settings_of
from tiny_models import randomised

from diffusers_macdm.macdm.forward_process import ForwardProcess
from diffusers_macdm.macdm.joint_sample import weigh
from diffusers_macdm.seeds import derived_seed
from diffusers_macdm.training import classifier as classifier_training
from diffusers_macdm.training import networks


SCRIPT, LOG = "train_guidance_classifier", "guidance_classifier_validation.jsonl"


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    reset_accelerate()
    yield Accelerator()
    reset_accelerate()


@pytest.fixture(scope="module")
def data(phantom, tmp_path_factory):
    """The phantom with seven validation cases, the first without a label."""
    folder = tmp_path_factory.mktemp("validation") / "data"
    shutil.copytree(phantom, folder)
    rows = [json.loads(line) for line in (folder / "train" / "metadata.jsonl").read_text().splitlines()]
    shutil.rmtree(folder / "validation")
    shutil.copytree(folder / "train", folder / "validation")
    rows = [{**row, "patient_id": f"v{number}"} for number, row in enumerate(rows[:4] + rows[-3:])]
    rows[0]["label"] = None
    (folder / "validation" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def prepared(data, accelerator, **values):
    """A validation and a classifier of random weights."""
    settings = settings_of(SCRIPT, train_data_dir=data, **values)
    resolved = resolve_here(SCRIPT, train_data_dir=data, **values)
    process = ForwardProcess.from_scheduler(networks.training_scheduler(settings))
    validation = classifier_training.validation_for(settings, accelerator, process, resolved["validation"], 2)
    return validation, randomised(resolved["classifier"], 1)


@pytest.mark.parametrize("weighting", ["input", "signal"])
def test_numbers_are_those_of_a_direct_computation(data, accelerator, tmp_path, weighting):
    options = {"channel_weights": [1, 0.5, 0.7], "mask_weighting": weighting, "seed": 5, "train_batch_size": 4}
    validation, classifier = prepared(data, accelerator, output_dir=tmp_path, **options)
    assert len(validation.dataset) == 7 and validation.indices == [1, 2, 3, 4, 5, 6]
    result = validation.measure(classifier)
    assert result["cases"] == {"0": 3, "1": 3}
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)

    for view, sees_masks in (("joint_sample", True), ("radiograph_alone", False)):
        for t in (100, 200, 400, 600, 800):
            correct, losses = {0: [], 1: []}, []
            for i in range(1, 7):
                case = validation.dataset[i]
                clean = case["joint_sample"][None]
                clean = weigh(clean, (1, 0.5, 0.7)) if weighting == "signal" else clean.clone()
                eps = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(derived_seed(5, i)))
                mask_t = t if sees_masks else 999
                clean[:, 1:] *= sees_masks
                levels = abar[torch.tensor([t, mask_t, mask_t])][:, None, None]
                noisy = (levels.sqrt() * clean + (1 - levels).sqrt() * eps).float()
                with torch.no_grad():
                    logits = classifier(noisy, t, mask_t).logits[0]
                label = case["class_label"]
                correct[label].append(float(logits.argmax() == label))
                losses.append(F.cross_entropy(logits, torch.tensor(label)).item())
            recalls = [sum(values) / len(values) for values in correct.values()]
            found = {name: values[f"t{t}"] for name, values in result[view].items()}
            assert found["accuracy"] == pytest.approx(sum(sum(values) for values in correct.values()) / 6)
            assert found["balanced_accuracy"] == pytest.approx(sum(recalls) / 2)
            assert found["cross_entropy"] == pytest.approx(sum(losses) / 6, rel=1e-4)


def test_scores():
    logits = torch.tensor([[2.0, 0], [0, 1], [3, 0], [0, 1]])
    scores = classifier_training.scores(logits, torch.tensor([0, 0, 0, 1]))
    losses = [math.log(1 + math.exp(-margin)) for margin in (2, -1, 3, 1)]
    assert scores == {
        "accuracy": 0.75,
        "balanced_accuracy": pytest.approx((2 / 3 + 1) / 2),
        "cross_entropy": pytest.approx(sum(losses) / 4),
    }


def test_it_looks_at_the_average_and_leaves_everything_as_it_was(data, accelerator, tmp_path):
    validation, classifier = prepared(data, accelerator, output_dir=tmp_path, validation_steps=2, dropout=0.5)
    expected = validation.measure(classifier)
    ema = EMAModel(classifier.parameters())
    randomised(classifier.train(), 2)
    classifier.train()
    weights = {name: value.clone() for name, value in classifier.state_dict().items()}
    random_state = torch.get_rng_state()
    assert [validation(step, classifier, ema) for step in (1, 2, 3)] == [False] * 3
    assert torch.equal(torch.get_rng_state(), random_state) and classifier.training
    assert all(torch.equal(value, weights[name]) for name, value in classifier.state_dict().items())
    assert read_log(tmp_path / LOG) == [{"step": 2, **expected}]
    validation(4, classifier, None)  # the last step, without an average
    assert read_log(tmp_path / LOG)[1]["joint_sample"] == validation.measure(classifier.eval())["joint_sample"]
    classifier.head.bias.data.fill_(math.nan)
    with pytest.raises(ValueError, match="cross-entropy of the validation cases is not finite"):
        validation(6, classifier, None)


def test_a_run_is_the_same_with_and_without_and_continues_its_log(monkeypatch, caplog, data, tmp_path):
    values = {"train_data_dir": data, "max_train_steps": 5, "checkpointing_steps": 3, "dropout": 0.1, "use_ema": True}
    for steps in (0, 2):
        with caplog.at_level(logging.INFO, logger="macdm.training"):
            run_here(monkeypatch, SCRIPT, output_dir=tmp_path / str(steps), validation_steps=steps, **values)
    assert_same_weights(*(tmp_path / steps / "guidance_classifier" for steps in "02"))
    assert not (tmp_path / "0" / LOG).exists()
    lines = read_log(tmp_path / "2" / LOG)
    assert [line["step"] for line in lines] == [2, 4, 5]
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Validation at step")]
    assert len(said) == 3 and all(" of 6 cases, balanced accuracy with the masks " in line for line in said)
    assert said[0].endswith("at t100 t200 t400 t600 t800 (guessing: 50%).")

    shutil.rmtree(tmp_path / "2" / "guidance_classifier")
    shutil.rmtree(tmp_path / "2" / "guidance_classifier_checkpoints" / "checkpoint-5")
    run_here(monkeypatch, SCRIPT, output_dir=tmp_path / "2", validation_steps=2, resume_from_checkpoint="latest", **values)
    assert read_log(tmp_path / "2" / LOG) == lines
    assert_same_weights(*(tmp_path / steps / "guidance_classifier" for steps in "02"))


def test_tracked():
    names = {"accuracy": {"t100": 1.0}, "balanced_accuracy": {"t100": 0.5}, "cross_entropy": {"t100": 0.3}}
    result = {"step": 3, "cases": {"0": 2, "1": 1}, "joint_sample": names, "radiograph_alone": names}
    tracked = classifier_training.tracked(result)
    assert tracked["validation/joint_sample/accuracy/t100"] == 1 and len(tracked) == 6
    assert tracked["validation/radiograph_alone/cross_entropy/t100"] == 0.3


def test_there_is_none_without_labeled_cases(data, accelerator, tmp_path):
    settings = settings_of(SCRIPT, train_data_dir=data, output_dir=tmp_path)
    dataset = resolve_here(SCRIPT, train_data_dir=data)["validation"]
    assert classifier_training.validation_for(settings, accelerator, None, None, 2) is None
    assert classifier_training.validation_for(settings, accelerator, None, dataset, 0) is None
    shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("validation"))
    assert resolve_here(SCRIPT, train_data_dir=tmp_path / "data")["validation"] is None
    assert resolve_here(SCRIPT, train_data_dir=data, validation_steps=0)["validation"] is None


def test_noise_levels_are_half_the_denoisers_and_half_all_alike():
    settings = settings_of(SCRIPT)
    process = ForwardProcess.from_scheduler(networks.training_scheduler(settings))
    levels, denoisers = classifier_training.noise_levels(settings, process), networks.timestep_probabilities(settings, process)
    assert levels.sum().item() == pytest.approx(1) and levels.min() >= 0.5 / 1000
    assert denoisers[600:].sum().item() == pytest.approx(0.057, abs=0.001)  # the noisier 40 % of the timesteps
    assert levels[600:].sum().item() == pytest.approx((0.4 + 0.057) / 2, abs=0.001)
    assert classifier_training.noise_levels(settings_of(SCRIPT, noise_levels="uniform"), process) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask_dropout": 1.5}, "--mask_dropout 1.5 is not allowed: a probability from 0 to 1"),
        ({"mask_dropout": "nan"}, "--mask_dropout nan is not allowed"),
        ({"validation_steps": -1}, r"--validation_steps -1 is not allowed: it must be 0 \(off\) or more"),
    ],
)
def test_refused(values, message):
    with pytest.raises(ValueError, match=message):
        settings_of(SCRIPT, train_data_dir="data", **values).check()
