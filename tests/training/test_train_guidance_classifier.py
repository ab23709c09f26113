"""training/train_guidance_classifier.py, launched as users launch it."""

import json
import shutil

import numpy as np
import pytest
import torch
from launching import assert_same_checkpoint, assert_same_weights, read_log, resolve_here, run_here, temporary_files

from diffusers_macdm import GuidanceClassifier, MaCDMPipeline
from diffusers_macdm.macdm.forward_process import ForwardProcess
from diffusers_macdm.training import classifier as classifier_training
from diffusers_macdm.training import networks
from diffusers_macdm.training.settings import ClassifierSettings


def test_killed_and_resumed_gives_the_weights_of_an_uninterrupted_run(classifier_run, resumed_classifier_run):
    last = "guidance_classifier_checkpoints/checkpoint-30"
    assert_same_checkpoint(classifier_run / last, resumed_classifier_run / last, with_ema=True)
    assert_same_weights(classifier_run / "guidance_classifier", resumed_classifier_run / "guidance_classifier")
    assert temporary_files(classifier_run) == temporary_files(resumed_classifier_run) == []


def test_the_log_of_a_resumed_run_has_each_step_once(classifier_run, resumed_classifier_run):
    name = "guidance_classifier_training_log.jsonl"
    uninterrupted, resumed = (read_log(run / name) for run in (classifier_run, resumed_classifier_run))
    assert [line["step"] for line in resumed] == list(range(1, 31))
    for line in (*uninterrupted, *resumed):
        line.pop("samples_per_second")
    assert resumed == uninterrupted
    logged = set().union(*resumed)
    assert {"loss", "accuracy"} | {f"accuracy/q{q}" for q in range(4)} | {f"cross_entropy/q{q}" for q in range(4)} <= logged


def test_it_becomes_part_of_the_pipeline_that_was_there(resumed_classifier_run):
    pipeline = MaCDMPipeline.from_pretrained(resumed_classifier_run)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.guidance_classifier, GuidanceClassifier)
    images = []
    for guidance_scale in (0.0, 2.0):
        generator = torch.Generator().manual_seed(0)
        output = pipeline(1, num_inference_steps=2, guidance_scale=guidance_scale, generator=generator, output_type="np")
        images.append(output.images)
    assert np.isfinite(images).all() and not np.array_equal(*images)


def test_record(classifier_run):
    record = json.loads((classifier_run / "guidance_classifier_training_config.json").read_text())
    assert record["guidance_classifier"]["num_classes"] == 2 and record["run"]["num_processes"] == 1


def test_an_earlier_result_is_not_overwritten(monkeypatch, phantom, classifier_run):
    with pytest.raises(FileExistsError, match="guidance_classifier is the result of an earlier run"):
        run_here(monkeypatch, "train_guidance_classifier", train_data_dir=phantom, output_dir=classifier_run)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channel_weights": [1, 0.5, 0.5]}, "channel_weights"),
        ({"mask_weighting": "signal"}, "mask_weighting"),
        ({"resolution": 64}, "sample_size=32, this run has 64"),
        ({"ddpm_beta_schedule": "squaredcos_cap_v2"}, "--ddpm_beta_schedule linear, this run has squaredcos_cap_v2"),
    ],
)
def test_a_denoiser_that_does_not_fit(phantom, resumed_denoiser_run, values, message):
    with pytest.raises(ValueError, match=message):
        resolve_here("train_guidance_classifier", train_data_dir=phantom, output_dir=resumed_denoiser_run, **values)


def test_without_a_pipeline_beside_it(monkeypatch, phantom, tmp_path):
    run_here(
        monkeypatch,
        "train_guidance_classifier",
        train_data_dir=phantom,
        output_dir=tmp_path,
        max_train_steps=2,
        mixed_precision="bf16",
        mask_weighting="signal",
        channel_weights=[1, 0.5, 0.5],
    )
    classifier = GuidanceClassifier.from_pretrained(tmp_path / "guidance_classifier")
    assert tuple(classifier.config.channel_weights) == (1, 0.5, 0.5) and classifier.config.mask_weighting == "signal"
    assert not (tmp_path / "model_index.json").exists()
    assert [path.name for path in (tmp_path / "guidance_classifier_checkpoints").iterdir()] == ["checkpoint-2"]


def test_unlabeled_cases_do_not_count(phantom, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    path = data / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["label"] = None
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    resolved = resolve_here("train_guidance_classifier", train_data_dir=data)
    dataset, classifier = resolved["dataset"], resolved["classifier"].eval()
    assert classifier.config.num_classes == 2
    args = ClassifierSettings()
    process = ForwardProcess.from_scheduler(networks.training_scheduler(args))
    loss = classifier_training.classification_loss(args, process, classifier.config)
    batch = torch.utils.data.default_collate([dataset[i] for i in range(4)])
    unlabeled = batch["class_label"] == 2
    assert unlabeled.sum() == 1

    torch.manual_seed(0)
    total, values = loss(classifier, batch)
    assert torch.equal(values["accuracy"].isnan(), unlabeled)
    by_case = torch.stack([values[f"cross_entropy/q{q}"] for q in range(4)]).nansum(dim=0)  # [B]
    assert total.item() == pytest.approx(by_case[~unlabeled].mean().item(), rel=1e-5)

    total, _ = loss(classifier, {name: value[unlabeled] for name, value in batch.items()})
    assert total.item() == 0


def test_the_loss_falls_on_one_batch(phantom):
    resolved = resolve_here("train_guidance_classifier", train_data_dir=phantom)
    dataset, classifier = resolved["dataset"], resolved["classifier"]
    args = ClassifierSettings()
    process = ForwardProcess.from_scheduler(networks.training_scheduler(args))
    loss = classifier_training.classification_loss(args, process, classifier.config)
    batch = torch.utils.data.default_collate([dataset[i] for i in range(10)])
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        torch.manual_seed(0)
        total, _ = loss(classifier, batch)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    assert losses[-1] < 0.5 * losses[0]
