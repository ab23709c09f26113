"""training/train_macdm.py, launched as users launch it; variants in this process."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from launching import (  # puts training/ on the path
    RESUMABLE,
    assert_same_checkpoint,
    assert_same_weights,
    launch,
    read_log,
    resolve_here,
    run_here,
    temporary_files,
)
from original_unet import Original
from PIL import Image

from diffusers_macdm import GuidanceClassifier, MaCDMPipeline, MaCDMUNet2DModel
from diffusers_macdm.conversion import plain_unet
from diffusers_macdm.macdm.forward_process import ForwardProcess
from diffusers_macdm.macdm.joint_sample import ANATOMY_MASK, CHANNELS, LESION_MASK, RADIOGRAPH
from diffusers_macdm.provenance.guard import contaminated_cases
from diffusers_macdm.provenance.records import TrainedOn
from diffusers_macdm.training import denoiser, networks
from diffusers_macdm.training.settings import DenoiserSettings


def sample(folder, **arguments):
    pipeline = MaCDMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(i) for i in range(2)]
    output = pipeline(class_labels=[0, 1], num_inference_steps=2, generator=generator, output_type="np", **arguments)
    assert output.images.shape == (2, 32, 32, 1) and np.isfinite(output.images).all()
    return pipeline, output


# ------------------------------------------------------------------------------------------------------ whole runs


def test_killed_and_resumed_gives_the_weights_of_an_uninterrupted_run(denoiser_run, resumed_denoiser_run):
    assert_same_checkpoint(denoiser_run / "checkpoint-30", resumed_denoiser_run / "checkpoint-30", with_ema=True)
    assert_same_weights(denoiser_run / "unet", resumed_denoiser_run / "unet")
    assert_same_weights(denoiser_run / "weak_unet", resumed_denoiser_run / "weak_unet")


def test_the_pipeline_holds_the_average(denoiser_run):
    assert_same_weights(denoiser_run / "unet", denoiser_run / "checkpoint-30" / "model_ema")
    with pytest.raises(AssertionError):
        assert_same_weights(denoiser_run / "unet", denoiser_run / "checkpoint-30" / "model")
    with pytest.raises(AssertionError):
        assert_same_weights(denoiser_run / "unet", denoiser_run / "weak_unet")


def test_the_log_of_a_resumed_run_has_each_step_once(denoiser_run, resumed_denoiser_run):
    uninterrupted, resumed = (read_log(run / "training_log.jsonl") for run in (denoiser_run, resumed_denoiser_run))
    assert [line["step"] for line in resumed] == list(range(1, 31))
    for line in (*uninterrupted, *resumed):
        assert line.pop("samples_per_second") > 0
    assert resumed == uninterrupted
    assert {"loss", "vlb", "gradient_norm", "learning_rate"} <= set(resumed[0])
    rates = [line["learning_rate"] for line in resumed]
    expected = [1e-3 * min(step / 2, 0.5 * (1 + np.cos(np.pi * (step - 2) / 28))) for step in range(1, 31)]
    assert np.allclose(rates, expected, atol=1e-9)


def test_nothing_temporary_is_left(denoiser_run, resumed_denoiser_run):
    assert temporary_files(denoiser_run) == temporary_files(resumed_denoiser_run) == []


def test_checkpoints_total_limit_keeps_the_newest(denoiser_run, resumed_denoiser_run):
    assert sorted(path.name for path in denoiser_run.glob("checkpoint-*")) == ["checkpoint-20", "checkpoint-30"]
    assert len(list(resumed_denoiser_run.glob("checkpoint-*"))) == 3


def test_the_result_loads_with_the_classifier_that_was_there(denoiser_run):
    pipeline, guided = sample(denoiser_run, guidance_scale=2.0)
    assert isinstance(pipeline.guidance_classifier, GuidanceClassifier)
    assert isinstance(pipeline.weak_unet, MaCDMUNet2DModel)
    assert not np.array_equal(guided.images, sample(denoiser_run)[1].images)
    assert not np.array_equal(sample(denoiser_run, autoguidance_scale=2.0)[1].images, sample(denoiser_run)[1].images)


def test_tracker_and_sample_grids(denoiser_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert sorted(path.name for path in (denoiser_run / "samples").iterdir()) == ["step-000015.png", "step-000030.png"]
    with Image.open(denoiser_run / "samples" / "step-000030.png") as grid:
        grid.load()
        assert min(grid.size) > 32
    events = EventAccumulator(str(denoiser_run / "logs" / "MaCDMUNet2DModel")).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {f"simple/{channel}/q{quartile}" for channel in CHANNELS for quartile in range(4)} <= scalars
    assert {f"simple/{channel}" for channel in CHANNELS} | {"loss", "vlb", "learning_rate"} <= scalars
    assert [event.step for event in events.Images("samples")] == [15, 30]


def test_record(denoiser_run):
    record = json.loads((denoiser_run / "training_config.json").read_text())
    assert record["arguments"]["dropout"] == 0.1 and record["arguments"]["max_train_steps"] == 30
    assert record["data"]["cases_per_label"] == {"0": 6, "1": 4} and len(record["data"]["cases"]) == 10
    hardware = f"cpu, {os.cpu_count()} cores"
    assert record["run"] == {"num_processes": 1, "device": "cpu", "hardware": hardware, "precision": "no"}
    assert record["unet"]["num_parameters"] == MaCDMUNet2DModel.from_pretrained(denoiser_run / "unet").num_parameters()
    assert record["scheduler"]["variance_type"] == "learned_range" and record["versions"]["torch"] == torch.__version__


def test_the_record_tells_the_leak_guard_what_was_trained_on(phantom, denoiser_run, resumed_denoiser_run):
    """Of both networks, also when the run was killed and went on."""
    for run in (denoiser_run, resumed_denoiser_run):
        networks = TrainedOn.read(run).networks
        assert "unet" in networks and ("guidance_classifier" in networks or run != denoiser_run)
        assert all(len(trainings) == 1 and len(trainings[0].images) == 10 for trainings in networks.values())
        assert contaminated_cases(phantom, "test", model=run) == []
        assert len(contaminated_cases(phantom, "train", model=run)) == 10


def test_the_record_goes_on_from_that_of_the_pretrained_weights(phantom, denoiser_run, tmp_path):
    theirs = json.loads((denoiser_run / "training_config.json").read_text())["data"]
    values = {"train_data_dir": phantom, "samples_per_class": [2, 2], "dropout": 0.1, "learned_variance": True}
    ours = resolve_here("train_macdm", pretrained_unet=denoiser_run / "unet", **values)["configuration"]
    (earlier,) = ours["earlier_trainings"]
    assert earlier == {name: theirs[name] for name in ("patients", "image_sha256")} and len(earlier["image_sha256"]) == 10
    assert len(ours["data"]["image_sha256"]) == 4
    shutil.copytree(denoiser_run / "unet", tmp_path / "unet")  # without its record
    ours = resolve_here("train_macdm", pretrained_unet=tmp_path / "unet", **values)["configuration"]
    assert ours["earlier_trainings"] == [None]


def test_two_processes(two_process_run):
    folder, result = two_process_run
    assert json.loads((folder / "training_config.json").read_text())["run"]["num_processes"] == 2
    assert [line["step"] for line in read_log(folder / "training_log.jsonl")] == [1, 2, 3]  # by one of the two
    assert result.stderr.count("Saved the pipeline") == 1 and temporary_files(folder) == []
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}
    sample(folder)


def test_dry_run_prints_a_page_and_writes_what_is_asked_for_alone(monkeypatch, capsys, phantom, tmp_path):
    record = tmp_path / "record.json"
    values = {"train_data_dir": phantom, "output_dir": tmp_path / "model", "dry_run": True, "dry_run_file": record}
    run_here(monkeypatch, "train_macdm", **values)
    printed = capsys.readouterr().out
    assert "cases to train on: 6 of label 0, 4 of label 1" in printed and len(printed.splitlines()) < 15
    configuration = json.loads(record.read_text())
    assert not set(configuration["data"]["cases"]) & set(printed.split())  # the page names no case
    assert configuration["arguments"]["resolution"] == configuration["unet"]["sample_size"] == 32
    assert configuration["tasks"] == {"pairs": 0.6, "masks_to_image": 0.1, "image_to_masks": 0.1, "insertion": 0.2}
    assert list(tmp_path.iterdir()) == [record]


def test_a_refusal_is_one_sentence(phantom, tmp_path):
    result = launch(
        "train_macdm",
        *("--cpu", "--num_processes", "1", "--quiet"),  # without --quiet the launcher adds a traceback of its own
        train_data_dir=tmp_path / "nowhere",
        output_dir=tmp_path / "model",
    )
    assert result.returncode != 0 and result.stdout == ""
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "nowhere: no such folder" in errors[0]
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resolution": 34}, "--resolution 34 .* multiple of 4"),
        ({"block_out_channels": [8, 18]}, "--block_out_channels 18 .* multiple of --norm_num_groups 4"),
        ({"learning_rate": 0}, "--learning_rate 0.0 is not allowed"),
        ({"seed": -1}, "--seed -1 is not allowed"),
        ({"dropout": 1}, "--dropout 1.0 is not allowed"),
        ({"adam_beta1": 1.5}, "--adam_beta1 1.5 is not allowed"),
        ({"checkpoints_total_limit": 0}, "--checkpoints_total_limit 0"),
        ({"class_dropout": 2}, "--class_dropout 2.0 is not allowed"),
        ({"weak_unet_step": 5}, "--weak_unet_step 5 is not allowed"),
        ({"weak_unet_step": 2, "use_ema": False}, "--weak_unet_step 2 is not allowed: it needs --use_ema"),
        ({"task_probabilities": [0.5, 0.5, 0.5]}, "task_probabilities="),
        ({"channel_weights": [1, 0, 1]}, "channel_weights="),
        ({"lambda_vlb": -1}, "lambda_vlb=-1.0"),
        ({"lambda_perceptual": 0.1}, "--lambda_perceptual 0.1 needs --guidance_classifier"),
        ({"rotation_degrees": -1}, "rotation_degrees=-1.0"),
        ({"samples_per_class": [7, 4]}, "asks for 7 cases of class 0; there are 6"),
        ({"samples_per_class": [-1, 4]}, "--samples_per_class -1 is not allowed"),
        ({"samples_per_class": [3]}, "single class label 0"),
    ],
)
def test_options_that_are_refused(phantom, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        resolve_here("train_macdm", train_data_dir=phantom, output_dir=tmp_path / "model", **values)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["pretrained_unet", "model_config_name_or_path", "guidance_classifier"])
def test_folders_that_are_not_there(phantom, tmp_path, option):
    with pytest.raises(OSError, match=f"--{option} .*nowhere"):
        resolve_here("train_macdm", train_data_dir=phantom, **{option: tmp_path / "nowhere"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channel_weights": [1, 0.5, 0.5]}, "channel_weights"),
        ({"mask_weighting": "signal"}, "mask_weighting"),
        ({"resolution": 64}, "trained at 32 px"),
        ({"ddpm_num_steps": 500}, "--ddpm_num_steps 1000, this run has 500"),
    ],
)
def test_a_classifier_that_does_not_fit(phantom, classifier_run, values, message):
    with pytest.raises(ValueError, match=message):
        resolve_here("train_macdm", train_data_dir=phantom, guidance_classifier=classifier_run, **values)


def test_an_earlier_result_is_not_overwritten(monkeypatch, phantom, denoiser_run, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in denoiser_run.rglob("*")}
    with pytest.raises(FileExistsError, match="model_index.json is the result of an earlier run"):
        run_here(monkeypatch, "train_macdm", train_data_dir=phantom, output_dir=denoiser_run)
    # Another run's checkpoint is no continuation of this one.
    foreign = tmp_path / "checkpoint-1"
    foreign.mkdir()
    (foreign / "progress.json").write_text('{"step": 1}')
    with pytest.raises(FileExistsError, match="earlier run"):
        run_here(monkeypatch, "train_macdm", train_data_dir=phantom, output_dir=denoiser_run, resume_from_checkpoint=foreign)
    assert {path: path.stat().st_mtime_ns for path in denoiser_run.rglob("*")} == before


def test_a_result_without_checkpoints_is_not_started_over(monkeypatch, phantom, tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(FileExistsError, match="earlier run"):
        run_here(monkeypatch, "train_macdm", train_data_dir=phantom, output_dir=tmp_path, resume_from_checkpoint="latest")
    assert [path.name for path in tmp_path.iterdir()] == ["model_index.json"]


def test_a_checkpoint_that_is_not_complete(monkeypatch, phantom, tmp_path):
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        run_here(
            monkeypatch,
            "train_macdm",
            train_data_dir=phantom,
            output_dir=tmp_path / "model",
            resume_from_checkpoint=tmp_path / "checkpoint-1",
        )
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- variants


@pytest.mark.parametrize(
    "values",
    [
        {"formulation": "paper", "snr_gamma": 5.0},
        {"mixed_precision": "bf16", "lambda_perceptual": 0.5, "guidance_classifier": "classifier_run"},
        {"mask_weighting": "signal", "channel_weights": [1, 0.5, 0.25], "augment": False},
        {"use_ema": False, "lr_scheduler": "constant", "balance": "none", "lambda_vlb": 0, "samples_per_class": [2, 3]},
    ],
    ids=["epsilon", "bf16-perceptual", "signal", "plain"],
)
def test_variants_train_and_sample(monkeypatch, request, phantom, tmp_path, values):
    if "guidance_classifier" in values:
        values = {**values, "guidance_classifier": request.getfixturevalue(values["guidance_classifier"])}
    run_here(monkeypatch, "train_macdm", train_data_dir=phantom, output_dir=tmp_path, max_train_steps=2, **values)
    log = read_log(tmp_path / "training_log.jsonl")
    assert [line["step"] for line in log] == [1, 2] and all(np.isfinite(line["loss"]) for line in log)
    assert ("perceptual" in log[0]) == ("lambda_perceptual" in values)
    assert ("vlb" in log[0]) == ("formulation" in values)
    pipeline, _ = sample(tmp_path)
    assert pipeline.scheduler.config.prediction_type == ("epsilon" if "formulation" in values else "sample")
    assert tuple(pipeline.unet.config.channel_weights) == tuple(values.get("channel_weights", (1, 1, 1)))
    assert bool(pipeline.unet.config.augmentation_dim) == values.get("augment", True)
    if "samples_per_class" in values:
        record = json.loads((tmp_path / "training_config.json").read_text())
        assert record["data"]["cases_per_label"] == {"0": 2, "1": 3}


def test_starts_from_a_plain_unet(phantom, tmp_path, monkeypatch):
    torch.manual_seed(0)
    plain = UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()
    plain.save_pretrained(tmp_path / "plain")
    messages = []
    monkeypatch.setattr(plain_unet.logger, "warning", messages.append)  # it does not reach caplog
    resolved = resolve_here("train_macdm", train_data_dir=phantom, pretrained_unet=tmp_path / "plain", patch_size=1)
    assert len(messages) == 1 and "mask channels 1 -> 3 initialised to zero" in messages[0]
    unet = resolved["unet"].eval()
    assert unet.num_classes == 2 and unet.config.in_channels == unet.config.out_channels == 3

    noisy = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = plain(noisy[:, :1], 10).sample
        # The embedding of a class is new and random; without it the network says what the plain one says.
        unet.label_embedding.weight.zero_()
        output = unet(noisy, 10, class_labels=torch.tensor([0, 1])).sample
    assert torch.allclose(output[:, :1], expected, atol=1e-5)
    assert output[:, 1:3].abs().max() == 0


def test_starts_from_a_checkpoint_of_guided_diffusion(phantom, tmp_path, monkeypatch):
    original = Original(32, (1, 2), 1, (2,), num_heads=4, num_classes=5)
    torch.save(original.weights, tmp_path / "foreign.pt")
    values = {"train_data_dir": phantom, "pretrained_unet": tmp_path / "foreign.pt", "patch_size": 1, "pretrained_num_heads": 4}
    values["learned_variance"] = True
    unet = resolve_here("train_macdm", **values)["unet"].eval()
    noisy, timesteps = torch.randn(2, 3, 32, 32), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        mean_label = original.weights["label_emb.weight"].mean(dim=0)
        expected = original(noisy[:, :1].expand(-1, 3, -1, -1), timesteps, label_embedding=mean_label)
        output = unet(noisy, timesteps, class_labels=torch.tensor([0, 1])).sample
    torch.testing.assert_close(output[:, 0], expected[:, :3].mean(dim=1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output[:, 3], expected[:, 3:].mean(dim=1), rtol=1e-5, atol=1e-5)

    run_here(monkeypatch, "train_macdm", **values, output_dir=tmp_path / "model", max_train_steps=1, train_batch_size=2)
    pipeline, _ = sample(tmp_path / "model")
    assert pipeline.unet.config.num_attention_heads == unet.config.num_attention_heads
    assert pipeline.unet.config.block_out_channels == [32, 64] and not pipeline.unet.config.bound_variance


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pretrained_num_heads": 4}, "--pretrained_num_heads is not allowed: it belongs to a checkpoint file"),
        ({"pretrained_new_attention_order": True, "pretrained_unet": "."}, "--pretrained_new_attention_order is not allowed"),
        ({"pretrained_unet": __file__}, "test_train_macdm.py: no PyTorch checkpoint of plain tensors"),
    ],
)
def test_checkpoints_that_are_refused(phantom, values, message):
    with pytest.raises(ValueError, match=message):
        resolve_here("train_macdm", train_data_dir=phantom, **values)


def test_architecture_from_a_config(phantom, denoiser_run):
    unet = resolve_here(
        "train_macdm",
        train_data_dir=phantom,
        model_config_name_or_path=denoiser_run / "unet" / "config.json",
        block_out_channels=[16, 32],  # not read
        learned_variance=True,
    )["unet"]
    assert tuple(unet.config.block_out_channels) == (8, 16) and unet.config.dropout == 0.1
    for values, message in (({"resolution": 64}, "sample_size=32.*need 64"), ({}, "out_channels=6.*--learned_variance")):
        with pytest.raises(ValueError, match=message):
            resolve_here("train_macdm", train_data_dir=phantom, model_config_name_or_path=denoiser_run / "unet", **values)


def test_unlabeled_cases_are_trained_under_the_null_label(phantom, tmp_path):
    data = _copied(phantom, tmp_path, lambda row, number: {**row, "label": None if number in (0, 9) else row["label"]})
    resolved = resolve_here("train_macdm", train_data_dir=data)
    dataset, unet = resolved["dataset"], resolved["unet"]
    assert resolved["configuration"]["data"]["cases_per_label"] == {"0": 5, "1": 3, "none": 2}
    assert unet.null_class_label == 2 and sorted(dataset.labels) == [0] * 5 + [1] * 3 + [2] * 2
    assert sorted(dataset[i]["class_label"] for i in range(10)) == sorted(dataset.labels)


def test_labels_that_are_no_numbers(phantom, tmp_path):
    data = _copied(phantom, tmp_path, lambda row, number: {**row, "label": "fracture" if row["label"] else "healthy"})
    with pytest.raises(ValueError, match="labels are the names 'fracture', 'healthy'; .* must be called 'normal'"):
        resolve_here("train_macdm", train_data_dir=data)


def _copied(phantom, tmp_path, change):
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    for path in data.glob("*/metadata.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(change(row, number)) + "\n" for number, row in enumerate(rows)))
    return data


# -------------------------------------------------------------------------------------------------------------- loss


class Recorder(torch.nn.Module):
    """Keeps what the denoiser is fed; predicts zeros."""

    def forward(self, sample, timestep, class_labels, mask_timestep, augmentation_labels):
        self.seen = sample, timestep, mask_timestep, class_labels
        return UNet2DOutput(sample=torch.zeros(len(sample), 6, *sample.shape[2:]))


def denoising_loss(phantom, **values):
    args = dataclasses.replace(DenoiserSettings(), **values)
    resolved = resolve_here("train_macdm", train_data_dir=phantom, **values)
    process = ForwardProcess.from_scheduler(networks.training_scheduler(args))
    unet = resolved["unet"]
    return denoiser.denoising_loss(args, process, unet.config, None), unet, resolved["dataset"]


@pytest.mark.parametrize(
    ("probabilities", "given"),
    [([1, 0, 0], []), ([0, 1, 0], [ANATOMY_MASK, LESION_MASK]), ([0, 0, 1], [RADIOGRAPH])],
    ids=["pairs", "masks_to_image", "image_to_masks"],
)
def test_given_channels_are_fed_clean_and_carry_no_loss(phantom, probabilities, given):
    loss, _, dataset = denoising_loss(phantom, task_probabilities=probabilities, prediction_type="epsilon")
    batch = torch.utils.data.default_collate([dataset[i] for i in range(8)])
    recorder = Recorder()
    torch.manual_seed(0)
    total, values = loss(recorder, batch)
    fed, image_timestep, mask_timestep, _ = recorder.seen
    for channel, name in enumerate(CHANNELS):
        timestep = image_timestep if channel == RADIOGRAPH else mask_timestep
        is_clean = torch.equal(fed[:, channel], batch["joint_sample"][:, channel])
        assert is_clean == (channel in given)
        assert (timestep == 0).all() == (channel in given)
        # A prediction of zero is wrong by the noise itself, whose square is 1 in the mean.
        simple = values[f"simple/{name}"]
        assert simple.isnan().all() if channel in given else torch.allclose(simple, torch.ones(8), atol=0.2)
    assert total.isfinite()


def test_labels_are_dropped_as_often_as_asked_for(phantom):
    loss, unet, dataset = denoising_loss(
        phantom, task_probabilities=[0.5, 0, 0.5], class_dropout=0.2, class_dropout_image_to_masks=0.7
    )
    batch = torch.utils.data.default_collate([dataset[0]] * 4000)
    batch = {name: value[..., :4, :4] if value.ndim == 4 else value for name, value in batch.items()}
    recorder = Recorder()
    torch.manual_seed(0)
    loss(recorder, batch)
    _, image_timestep, mask_timestep, labels = recorder.seen
    image_to_masks = (image_timestep == 0) & (mask_timestep != 0)
    dropped = (labels == unet.null_class_label).float()
    assert dropped[image_to_masks].mean().item() == pytest.approx(0.7, abs=0.04)
    assert dropped[~image_to_masks].mean().item() == pytest.approx(0.2, abs=0.04)


def test_the_loss_falls_on_one_batch(phantom):
    loss, unet, dataset = denoising_loss(phantom)
    batch = torch.utils.data.default_collate([dataset[i] for i in range(8)])
    optimizer = torch.optim.AdamW(unet.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        torch.manual_seed(0)  # the same noise and timesteps: what is left is optimisation
        total, _ = loss(unet, batch)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    assert losses[-1] < 0.6 * losses[0]


def test_resumable_options_are_hard_ones():
    """The runs above mean little without what makes an exact resume hard."""
    assert RESUMABLE["dropout"] > 0 and RESUMABLE["gradient_accumulation_steps"] > 1 and RESUMABLE["use_ema"]
