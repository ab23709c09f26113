"""What an audit measures, which state is kept, and whole trainings with it."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from forking import train
from launching import (  # puts training/ on the path
    assert_same_checkpoint,
    assert_same_weights,
    read_log,
    resolve_here,
    run_here,
    settings_of,
    temporary_files,
)

from diffusers_macdm import MaCDMPipeline
from diffusers_macdm.audit.images import to_audit_size
from diffusers_macdm.audit.radiographs import Radiographs
from diffusers_macdm.training import checkpoints, copy_watch, denoiser


QUICK = {"embedding_steps": 2, "audit_samples": 2, "audit_cases": 4, "ddpm_num_inference_steps": 2}
WATCHED = {**QUICK, "max_train_steps": 6, "audit_steps": 2, "checkpointing_steps": 3, "validation_steps": 100}


def recorded(step, rate, *losses):
    """An audit as it stands in the log."""
    losses = {f"q{q}": loss for q, loss in enumerate(losses)}
    rate = {"value": rate, "interval": [0.0, 1.0], "copies": 0, "total": 2, "nominal_rate": 0.05}
    far = {"value": 0.0, "interval": [0.0, 1.0], "far": 0, "total": 2, "nominal_rate": 0.05}
    return {"step": step, "copy_rate": rate, "far_rate": far, "train_loss": losses, "validation_loss": losses, "gap": losses}


@pytest.fixture
def without_validation(phantom, tmp_path):
    shutil.copytree(phantom, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "validation")
    return tmp_path / "data"


# ------------------------------------------------------------------------------------------------------------ an audit


@pytest.fixture(scope="module")
def audited(phantom):
    """An audit of an untrained network, and what it was made of."""
    resolved = resolve_here("train_macdm", train_data_dir=phantom, seed=3, audit_steps=1, **QUICK)
    args = settings_of("train_macdm", train_data_dir=phantom, seed=3, audit_steps=1, **QUICK)
    audit = copy_watch.CopyAudit(args, resolved["dataset"], resolved["validation"], torch.device("cpu"))
    torch.manual_seed(0)
    unet = resolved["unet"]
    with torch.no_grad():
        for parameter in unet.parameters():  # its last layer starts at zero
            parameter.add_(0.02 * torch.randn_like(parameter))
    pipeline = denoiser.build_pipeline(args, unet.train(), None, None)
    random_state = torch.get_rng_state()
    result = audit(pipeline, 7)
    assert torch.equal(torch.get_rng_state(), random_state) and unet.training
    return audit, pipeline, result


def test_losses_and_gap_are_those_of_a_direct_computation(audited):
    audit, pipeline, result = audited
    unet = pipeline.unet.eval()
    noises = torch.randn((4, 4, 3, 32, 32), generator=torch.Generator().manual_seed(3))  # [level, draw, ...]
    expected = np.zeros((2, 4))
    for side, (samples, labels) in enumerate(audit.cases):
        assert len(samples) == len(labels) <= 4
        for level, timestep in enumerate((125, 375, 625, 875)):
            abar = pipeline.scheduler.alphas_cumprod[timestep]
            for sample, label in zip(samples, labels, strict=True):
                noisy = abar.sqrt() * sample + (1 - abar).sqrt() * noises[level]
                with torch.no_grad():
                    clean = unet(noisy, timestep, class_labels=torch.full((4,), label)).sample
                error = (noisy - abar.sqrt() * clean) / (1 - abar).sqrt() - noises[level]
                expected[side, level] += error.square().mean().item() / len(samples)
    assert abs(expected[1] - expected[0]).max() > 1e-4
    assert list(result["train_loss"].values()) == pytest.approx(expected[0], rel=1e-4)
    assert list(result["validation_loss"].values()) == pytest.approx(expected[1], rel=1e-4)
    assert list(result["gap"].values()) == pytest.approx(expected[1] - expected[0], rel=1e-2, abs=1e-7)
    assert list(result["gap"]) == ["q0", "q1", "q2", "q3"] and result["step"] == 7


def test_an_audit_is_a_function_of_the_weights(audited):
    audit, pipeline, result = audited
    torch.manual_seed(99)
    assert audit(pipeline, 7) == result


def test_the_copy_rate_counts_copies_of_the_cases_trained_on(audited):
    audit, pipeline, result = audited
    assert audit.detector.find(audit.training.images).all()  # what is copied
    assert not audit.detector.find(torch.full((1, 64, 64), 128, dtype=torch.uint8)).any()
    rate = result["copy_rate"]
    assert rate["total"] == 2 and rate["value"] == rate["copies"] / 2 and rate["interval"][0] <= rate["value"]
    tracked = copy_watch.tracked(result)
    assert tracked["audit/copy_rate"] == rate["value"] and tracked["audit/gap/q3"] == result["gap"]["q3"]
    assert rate["nominal_rate"] == 1 / (len(audit.detector.null) + 1) > 0.05  # fewer than 19 validation images
    far = result["far_rate"]
    images = to_audit_size(audit._samples(pipeline), 32)
    assert far["far"] == audit.detector.is_far(audit.detector.gallery.compare(images)).sum() and far["total"] == 2
    static = {**result, "far_rate": {**far, "far": 2, "value": 1.0}}
    assert "2 of 2 films of this state lie farther from every training film" in copy_watch.sentence(static)
    assert "lie farther" not in copy_watch.sentence({**result, "far_rate": {**far, "far": 1, "value": 0.5}})
    assert tracked["audit/far_rate"] == far["value"]
    assert len(tracked) == 16 and f"{rate['copies']} of 2 samples" in copy_watch.sentence(result)


def test_only_the_cases_of_this_run_are_training_images(phantom):
    dataset = resolve_here("train_macdm", train_data_dir=phantom, samples_per_class=[2, 3])["dataset"]
    radiographs = Radiographs.from_dataset(dataset, 32)
    assert radiographs.names == dataset.names and len(radiographs) == 5
    assert radiographs.patients == dataset.patient_ids
    seen = torch.stack([dataset[i]["joint_sample"][0] for i in range(5)]) / 2 + 0.5
    shrunk = torch.nn.functional.avg_pool2d(radiographs.images[:, None].float() / 255, 2)[:, 0]
    assert (shrunk - seen).abs().mean() < 0.02  # the same films, in the same order


def test_both_sides_have_equally_many_of_each_label():
    first, second = [0] * 30 + [1] * 4 + [2] * 5, [1] * 10 + [0] * 3 + [3]
    a, b = copy_watch.matched_cases(first, second, 6, seed=0)
    assert sorted(first[i] for i in a) == sorted(second[i] for i in b) == [0, 0, 0, 1, 1, 1]
    a, b = copy_watch.matched_cases(first, second, 100, seed=0)
    assert sorted(first[i] for i in a) == sorted(second[i] for i in b) == [0] * 3 + [1] * 4
    assert len(set(a)) == len(set(b)) == 7
    assert copy_watch.matched_cases(first, second, 6, seed=1) != copy_watch.matched_cases(first, second, 6, seed=0)
    assert copy_watch.matched_cases([0], [1], 5, seed=0) == ([], [])


# ------------------------------------------------------------------------------------------------------ what is kept


def test_the_smallest_validation_loss_at_an_allowed_copy_rate_is_kept():
    audits = [
        recorded(1, 0.30, 0.1, 0.1),  # above the rate
        recorded(2, 0.10, 0.9, 0.9),
        recorded(3, 0.20, 0.9, 0.5),  # at the rate: allowed
        recorded(4, 0.00, 0.5, 0.9),  # no better than before
        recorded(5, 0.21, 0.1, 0.1),
    ]
    kept, steps = None, []
    for audit in audits:
        if copy_watch.is_better(audit, kept, 0.2):
            kept = audit
        steps.append(kept and kept["step"])
    assert steps == [None, 2, 3, 3, 3]


def test_the_best_state_goes_with_the_checkpoints(audited, tmp_path):
    pipeline = audited[1]
    best = copy_watch.BestState(tmp_path, 0.2)
    best.restore_from(None)
    assert best.audit is None and best.consider(recorded(1, 0.1, 0.5), pipeline)
    (tmp_path / "checkpoint-1").mkdir()
    best.save_to(tmp_path / "checkpoint-1")
    assert not best.consider(recorded(2, 0.1, 0.6), pipeline) and best.audit["step"] == 1
    assert best.consider(recorded(3, 0.1, 0.4), pipeline) and best.audit["step"] == 3

    best.restore_from(tmp_path / "checkpoint-1")
    assert best.audit == recorded(1, 0.1, 0.5)
    assert_same_weights(best.folder / "unet", tmp_path / "checkpoint-1" / "best" / "unet")
    copy_watch.BestState(tmp_path, 0.05).restore_from(tmp_path / "checkpoint-1")  # less is allowed than before
    assert best.audit is None and temporary_files(tmp_path) == []
    assert (tmp_path / "checkpoint-1" / "best" / "audit.json").is_file()
    best.consider(recorded(4, 0.1, 0.4), pipeline)
    best.restore_from(None)  # from the beginning: of a run that was killed before its first checkpoint
    assert not best.folder.exists()


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"audit_steps": -1}, "--audit_steps -1 is not allowed"),
        ({"audit_samples": 0}, "--audit_samples 0 is not allowed"),
        ({"embedding_steps": 0}, "--embedding_steps 0 is not allowed"),
        ({"audit_steps": 5, "max_copy_rate": 1.5}, "--max_copy_rate 1.5 is not allowed"),
        ({"max_copy_rate": 0.2}, "--max_copy_rate 0.2 has no effect with --audit_steps 0"),
        ({"audit_steps": 5, "stop_above_max_copy_rate": True}, "no effect without --max_copy_rate"),
    ],
)
def test_options_that_are_refused(phantom, values, message):
    with pytest.raises(ValueError, match=message):
        resolve_here("train_macdm", train_data_dir=phantom, **values)


def test_without_validation_split_the_rate_cannot_be_held(without_validation):
    with pytest.raises(ValueError, match="^--max_copy_rate 0.2 cannot be held: the data have no validation split.$"):
        resolve_here("train_macdm", train_data_dir=without_validation, audit_steps=5, max_copy_rate=0.2)


def test_without_validation_split_the_training_goes_on_unwatched(monkeypatch, without_validation, tmp_path, caplog):
    values = {"train_data_dir": without_validation, "output_dir": tmp_path / "model", "audit_steps": 1}
    run_here(monkeypatch, "train_macdm", max_train_steps=2, **values)
    said = [record.getMessage() for record in caplog.records if "watched" in record.getMessage()]
    assert said == ["This training is not watched for copies: the data have no validation split."]
    assert MaCDMPipeline.from_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "audit_log.jsonl").exists()


def test_validation_images_that_are_training_images_are_no_comparison(phantom, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(phantom, data)
    shutil.rmtree(data / "validation")
    shutil.copytree(data / "train", data / "validation")
    resolved = resolve_here("train_macdm", train_data_dir=data, audit_steps=1, max_copy_rate=0.2)
    args = settings_of("train_macdm", train_data_dir=data, audit_steps=1, max_copy_rate=0.2)
    with pytest.raises(ValueError, match="--max_copy_rate 0.2 cannot be held: 0 of 10 validation images are neither"):
        copy_watch.build_audit(args, resolved["dataset"], resolved["validation"], torch.device("cpu"))


# ------------------------------------------------------------------------------------------------------ whole runs


def test_killed_and_resumed_keeps_the_same_state_and_audits_disturb_nothing(monkeypatch, phantom, tmp_path):
    values = {"train_data_dir": phantom, "use_ema": True, **WATCHED}
    run_here(monkeypatch, "train_macdm", **{**values, "audit_steps": 0}, output_dir=tmp_path / "unwatched")
    run_here(monkeypatch, "train_macdm", **values, max_copy_rate=1, output_dir=tmp_path / "whole")

    class Killed(BaseException):
        pass

    consider = copy_watch.BestState.consider

    def kept_then_killed(self, audit, pipeline):
        consider(self, audit, pipeline)
        if audit["step"] == 4:
            raise Killed

    resumed = tmp_path / "resumed"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(copy_watch.BestState, "consider", kept_then_killed)
        run_here(patch, "train_macdm", **values, max_copy_rate=1, output_dir=resumed)
    assert [line["step"] for line in read_log(resumed / "audit_log.jsonl")] == [2, 4]
    run_here(monkeypatch, "train_macdm", **values, max_copy_rate=1, output_dir=resumed, resume_from_checkpoint="latest")

    whole = tmp_path / "whole"
    for folder in (tmp_path / "unwatched", resumed):
        assert_same_checkpoint(whole / "checkpoint-6", folder / "checkpoint-6", with_ema=True)
    audits = read_log(whole / "audit_log.jsonl")
    assert [audit["step"] for audit in audits] == [2, 4, 6]
    assert read_log(resumed / "audit_log.jsonl") == audits
    kept = min(audits, key=lambda audit: sum(audit["validation_loss"].values()))
    for folder in (whole, resumed):
        assert json.loads((folder / "best" / "audit.json").read_text()) == kept
        assert json.loads((folder / "training_config.json").read_text())["audit"] == {"last": audits[-1], "kept": kept}
        assert_same_weights(folder / "unet", folder / "best" / "unet")
        assert temporary_files(folder) == []
    assert_same_weights(whole / "unet", resumed / "unet")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_an_audit_ends_it_at_once_and_the_audit_is_made_again(monkeypatch, phantom, tmp_path, number):
    """At a step that has no checkpoint otherwise, while the embedding is learned for so long that nobody waits for it."""
    values = {
        "train_data_dir": phantom,
        "use_ema": True,
        **WATCHED,
        "audit_steps": 4,
        "validation_steps": 4,
        "max_copy_rate": 1,
    }
    values |= {"num_validation_samples": 1}

    def busy():
        learn = copy_watch.build_detector

        def without_end(*arguments, **options):
            print("LEARNS", flush=True)
            return learn(*arguments, **{**options, "embedding_steps": 10**6})

        copy_watch.build_detector = without_end

    folder = tmp_path / "stopped"
    for resumed in (False, True):  # in the audit of the resumed run as well
        log = tmp_path / f"log-{resumed}"
        fork = train("train_macdm", log, before=busy, output_dir=folder, resume_from_checkpoint="latest", **values)
        while "LEARNS" not in fork.said:
            assert fork.poll() is None, fork.said
            time.sleep(0.01)
        fork.kill(number)
        assert fork.wait(30) == 128 + number, fork.said
        assert f"{number.name}: stopped after update 4 of 6, {folder / 'checkpoint-4'} is written" in fork.said
        assert "Traceback" not in fork.said and read_log(folder / "audit_log.jsonl") == [] and not temporary_files(folder)
    whole = tmp_path / "whole"
    run_here(monkeypatch, "train_macdm", output_dir=whole, **values)
    run_here(monkeypatch, "train_macdm", output_dir=folder, resume_from_checkpoint="latest", **values)
    assert read_log(folder / "audit_log.jsonl") == read_log(whole / "audit_log.jsonl")
    assert [audit["step"] for audit in read_log(folder / "audit_log.jsonl")] == [4, 6]
    assert_same_checkpoint(whole / "checkpoint-6", folder / "checkpoint-6", with_ema=True)
    assert_same_weights(whole / "unet", folder / "unet")
    assert (folder / "samples" / "step-000004.png").read_bytes() == (whole / "samples" / "step-000004.png").read_bytes()


def run_with_rates(monkeypatch, rates, losses=(0.5, 0.4, 0.3), **values):
    """A training whose audits at steps 2, 4 and 6 find these copy rates."""
    found = {2 * i + 2: recorded(2 * i + 2, rate, losses[i]) for i, rate in enumerate(rates)}
    monkeypatch.setattr(copy_watch.CopyAudit, "__call__", lambda self, pipeline, step: found[step])
    run_here(monkeypatch, "train_macdm", **WATCHED, max_copy_rate=0.2, **values)


def test_stops_above_the_rate_and_ends_with_the_state_before(monkeypatch, phantom, tmp_path):
    run_with_rates(
        monkeypatch,
        [0.1, 0.5, 0.1],
        train_data_dir=phantom,
        output_dir=tmp_path,
        stop_above_max_copy_rate=True,
        weak_unet_step=5,
    )
    assert [audit["step"] for audit in read_log(tmp_path / "audit_log.jsonl")] == [2, 4]
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == ["checkpoint-3"]
    audit = json.loads((tmp_path / "training_config.json").read_text())["audit"]
    assert audit["kept"]["step"] == 2 and audit["last"]["step"] == 4
    assert_same_weights(tmp_path / "unet", tmp_path / "best" / "unet")
    assert MaCDMPipeline.from_pretrained(tmp_path).weak_unet is None


def test_no_allowed_state_writes_no_pipeline(monkeypatch, phantom, tmp_path):
    with pytest.raises(ValueError, match="none of the audited states has a copy rate of at most --max_copy_rate 0.2"):
        run_with_rates(monkeypatch, [0.5, 0.4, 0.3], train_data_dir=phantom, output_dir=tmp_path)
    assert not (tmp_path / "model_index.json").exists() and not (tmp_path / "best").exists()
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-6"]
    assert json.loads((tmp_path / "training_config.json").read_text())["audit"]["kept"] is None


def test_launched_with_two_processes_one_of_them_audits(two_process_run):
    folder, result = two_process_run
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    audits = read_log(folder / "audit_log.jsonl")
    assert [audit["step"] for audit in audits] == [2, 3] and result.stderr.count("Audit at step") == 2
    events = EventAccumulator(str(folder / "logs" / "MaCDMUNet2DModel")).Reload()
    shown = {event.step: event.value for event in events.Scalars("audit/gap/q1")}
    assert shown == pytest.approx({audit["step"]: audit["gap"]["q1"] for audit in audits}, rel=1e-4)
    assert MaCDMPipeline.from_pretrained(folder)
