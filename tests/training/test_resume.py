"""A resume that cannot be leaves every record as it was; one that can be is recorded as it was."""

import hashlib
import json
import os
import pickle
import shutil

import pytest
import torch
from launching import RESUMABLE, assert_same_checkpoint, assert_same_weights, read_log, run_here
from safetensors.torch import load_file, save_file

from diffusers_macdm.training import denoiser, trainer
from diffusers_macdm.training.checkpoints import damage, list_checkpoints
from diffusers_macdm.training.state import MODEL, OPTIMIZER, WEIGHTS


SCRIPT, RECORD = "train_guidance_classifier", "guidance_classifier_training_config.json"
SHORT = {**RESUMABLE, "report_to": "none", "max_train_steps": 6, "checkpointing_steps": 3, "validation_steps": 0}
CHECKPOINTS = "guidance_classifier_checkpoints"


@pytest.fixture(scope="module")
def runs(phantom, tmp_path_factory):
    """A classifier and a denoiser, both finished, in one folder."""
    folder = tmp_path_factory.mktemp("runs") / "model"
    with pytest.MonkeyPatch.context() as monkeypatch:
        for script in (SCRIPT, "train_macdm"):
            values = {name: value for name, value in SHORT.items() if name != "validation_steps" or script == SCRIPT}
            run_here(monkeypatch, script, train_data_dir=phantom, output_dir=folder, **values)
    return folder


@pytest.fixture
def run(runs, tmp_path):
    return shutil.copytree(runs, tmp_path / "model")


def content_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def resume(monkeypatch, phantom, folder, script=SCRIPT, **values):
    values = {**{name: value for name, value in SHORT.items() if name != "validation_steps" or script == SCRIPT}, **values}
    values = {"train_data_dir": phantom, "output_dir": folder, "resume_from_checkpoint": "latest", **values}
    run_here(monkeypatch, script, **values)


@pytest.mark.parametrize(
    ("script", "values", "message"),
    [
        (SCRIPT, {"block_out_channels": [8, 24]}, r"--block_out_channels does not fit .*\[8, 16\].*\[8, 24\]"),
        (SCRIPT, {"norm_num_groups": 2}, "--norm_num_groups does not fit .*norm_num_groups=4, and this run has 2"),
        (SCRIPT, {"max_train_steps": 5}, "--max_train_steps 5 does not fit .*checkpoint-6, which is of 6 updates"),
        (
            SCRIPT,
            {"train_batch_size": 8},
            r"--train_batch_size 8 does not fit .*checkpoint-6, whose updates take 8 cases .* 16",
        ),
        ("train_macdm", {"gradient_accumulation_steps": 1}, "--gradient_accumulation_steps 1 does not fit .*8 cases.* run 4"),
        (SCRIPT, {"ddpm_beta_schedule": "squaredcos_cap_v2"}, "--ddpm_beta_schedule"),
        ("train_macdm", {"augment": False}, "--augment does not fit .*checkpoint-6"),
        ("train_macdm", {"prediction_type": "v_prediction"}, "--prediction_type does not fit .*prediction_type=sample"),
        ("train_macdm", {"max_train_steps": 4, "block_out_channels": [8, 24]}, "--max_train_steps 4 does not fit"),
        ("train_macdm", {"weak_unet_step": 2}, "--weak_unet_step 2 is not allowed"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(monkeypatch, phantom, run, script, values, message):
    if "ddpm_beta_schedule" in values:
        (run / "model_index.json").unlink()  # which would be named first
    before = content_of(run)
    with pytest.raises(ValueError, match=message):
        resume(monkeypatch, phantom, run, script, **values)
    assert content_of(run) == before


def test_a_moving_average_that_is_not_there(monkeypatch, phantom, run):
    for checkpoint in list_checkpoints(run / CHECKPOINTS):
        progress = json.loads((checkpoint / "progress.json").read_text())
        progress["sha256"] = {name: value for name, value in progress["sha256"].items() if "model_ema" not in name}
        (checkpoint / "progress.json").write_text(json.dumps(progress))
        shutil.rmtree(checkpoint / "model_ema")
    before = content_of(run)
    with pytest.raises(ValueError, match="--use_ema does not fit .*checkpoint-6.*add --no-use_ema"):
        resume(monkeypatch, phantom, run)
    assert content_of(run) == before


def test_the_record_of_a_finished_network_stays_until_the_next_one_is_there(monkeypatch, phantom, run):
    finished = json.loads((run / RECORD).read_text())
    assert finished["history"] == [] and finished["arguments"]["learning_rate"] == 1e-3
    step = trainer.Trainer.micro_step
    seen = []

    def looked_at(self, number, batch, stop=0):
        seen.append(json.loads((run / RECORD).read_text()))
        return step(self, number, batch, stop)

    monkeypatch.setattr(trainer.Trainer, "micro_step", looked_at)
    resume(monkeypatch, phantom, run, max_train_steps=9, learning_rate=5e-4, lr_scheduler="constant")
    assert len(seen) == 6 and all(record == finished for record in seen)
    record = json.loads((run / RECORD).read_text())
    assert record["arguments"]["learning_rate"] == 5e-4 and record["arguments"]["max_train_steps"] == 9
    (part,) = record["history"]
    assert part["until_step"] == 6 and part["arguments"] == finished["arguments"] and part["run"] == finished["run"]
    assert [line["learning_rate"] for line in read_log(run / "guidance_classifier_training_log.jsonl")][6:] == [5e-4] * 3
    of_checkpoints = [json.loads((path / RECORD).read_text()) for path in list_checkpoints(run / CHECKPOINTS)]
    assert [len(record["history"]) for record in of_checkpoints] == [0, 0, 1]
    # Further parts follow, and going back forgets those that are not behind the weights.
    resume(monkeypatch, phantom, run, max_train_steps=12)
    assert [part["until_step"] for part in json.loads((run / RECORD).read_text())["history"]] == [6, 9]
    resume(monkeypatch, phantom, run, max_train_steps=12, resume_from_checkpoint=run / CHECKPOINTS / "checkpoint-3")
    assert [part["until_step"] for part in json.loads((run / RECORD).read_text())["history"]] == [3]


def test_the_audit_of_a_finished_model_stays_with_it(monkeypatch, phantom, run):
    path = run / "training_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "audit": {"last": 1}}))
    with pytest.raises(ValueError, match="--augment"):
        resume(monkeypatch, phantom, run, "train_macdm", augment=False)
    assert json.loads(path.read_text())["audit"] == {"last": 1}


@pytest.mark.parametrize("script", [SCRIPT, "train_macdm"])
@pytest.mark.parametrize("step", [3, 6], ids=["at a checkpoint", "at the last step"])
def test_a_gradient_that_is_not_finite_ends_the_run_before_the_update(monkeypatch, phantom, tmp_path, script, step):
    """NaN in the gradient alone: the loss of this step, and so the log, is as it should be."""
    build = trainer.Trainer.__init__

    def poisoned(self, *arguments, **options):
        build(self, *arguments, **options)
        parameter = next(self.model.parameters())
        parameter.register_hook(lambda gradient: gradient * (torch.nan if self.step == step - 1 else 1))

    monkeypatch.setattr(trainer.Trainer, "__init__", poisoned)
    values = {name: value for name, value in SHORT.items() if name != "validation_steps" or script == SCRIPT}
    kept = "no checkpoint was written" if step == 3 else "checkpoint-3 is kept"
    with pytest.raises(ValueError, match=rf"^The gradient is not finite at step {step}: .*{kept}\.$"):
        run_here(monkeypatch, script, train_data_dir=phantom, output_dir=tmp_path, **values)
    folder = tmp_path / CHECKPOINTS if script == SCRIPT else tmp_path
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-3"][: step > 3]
    assert not (tmp_path / "guidance_classifier").exists() and not (tmp_path / "model_index.json").exists()


@pytest.mark.parametrize("script", [SCRIPT, "train_macdm"])
@pytest.mark.parametrize("step", [3, 6])
def test_weights_that_are_not_finite_are_not_kept(monkeypatch, phantom, tmp_path, script, step):
    """However they came to be so: here a faulty optimizer."""
    micro_step = trainer.Trainer.micro_step

    def poisoned(self, *arguments):
        done = micro_step(self, *arguments)
        if done and self.step == step:
            next(self.model.parameters()).data.view(-1)[0] = torch.inf
        return done

    monkeypatch.setattr(trainer.Trainer, "micro_step", poisoned)
    values = {name: value for name, value in SHORT.items() if name != "validation_steps" or script == SCRIPT}
    with pytest.raises(ValueError, match=f"The weights after update {step} are not kept.* is not finite"):
        run_here(monkeypatch, script, train_data_dir=phantom, output_dir=tmp_path, **values)
    folder = tmp_path / CHECKPOINTS if script == SCRIPT else tmp_path
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-3"][: step > 3]
    assert not (tmp_path / "guidance_classifier").exists() and not (tmp_path / "model_index.json").exists()


def test_a_nan_checkpoint_of_before_is_skipped(monkeypatch, phantom, run, caplog):
    checkpoint = run / CHECKPOINTS / "checkpoint-6"
    as_0_1_0(checkpoint)
    weights = load_file(checkpoint / MODEL / WEIGHTS)
    next(iter(weights.values()))[...] = torch.nan
    save_file(weights, checkpoint / MODEL / WEIGHTS)
    resume(monkeypatch, phantom, run)
    assert f"{checkpoint} ({MODEL}/{WEIGHTS} is not finite in" in caplog.text and "Going on from" in caplog.text
    assert damage(checkpoint) is None


# ------------------------------------------------------------------------------------------------------- no pickles


class Bomb:
    """What a pickle runs when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def as_0_1_0(checkpoint):
    """Make a checkpoint what version 0.1.0 would have written: moments by number, in a pickle of tensors; no digests."""
    names = [name for name in load_file(checkpoint / MODEL / WEIGHTS)]
    moments = load_file(checkpoint / OPTIMIZER)
    record = json.loads((checkpoint / RECORD).read_text())
    order = parameter_names(record["guidance_classifier"])
    assert set(order) <= set(names)
    keys = ("step", "exp_avg", "exp_avg_sq")
    state = {number: {key: moments[f"{name}/{key}"] for key in keys} for number, name in enumerate(order)}
    groups = [{"lr": 0.5, "params": list(range(len(order)))}]
    torch.save({"state": state, "param_groups": groups}, checkpoint / "optimizer.bin")
    for name in (OPTIMIZER, RECORD):
        (checkpoint / name).unlink()
    (checkpoint / "progress.json").write_text(json.dumps({"step": int(checkpoint.name.split("-")[1])}))


def parameter_names(config):
    from diffusers_macdm import GuidanceClassifier

    names = GuidanceClassifier.__init__.__wrapped__.__code__.co_varnames
    network = GuidanceClassifier(**{name: value for name, value in config.items() if name in names})
    return [name for name, _ in network.named_parameters()]


def test_checkpoints_hold_no_pickle_and_pickles_in_them_are_not_read(monkeypatch, phantom, run, tmp_path):
    checkpoint = run / CHECKPOINTS / "checkpoint-3"
    assert {path.suffix for path in run.rglob("checkpoint-*/**/*") if path.is_file()} == {".json", ".safetensors"}
    for name in (
        "custom_checkpoint_0.pkl",
        "random_states_0.pkl",
        "optimizer.bin",
        "scheduler.bin",
        "scaler.pt",
        "pytorch_model.bin",
    ):
        (checkpoint / name).write_bytes(pickle.dumps(Bomb(tmp_path / "bomb")))
    resume(monkeypatch, phantom, run, resume_from_checkpoint=checkpoint)
    assert not (tmp_path / "bomb").exists()


def test_a_checkpoint_of_0_1_0_goes_on_and_runs_nothing(monkeypatch, phantom, run, runs, tmp_path, caplog):
    checkpoint = run / CHECKPOINTS / "checkpoint-3"
    as_0_1_0(checkpoint)
    (checkpoint / "custom_checkpoint_0.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "bomb")))
    resume(monkeypatch, phantom, run, resume_from_checkpoint=checkpoint)
    assert not (tmp_path / "bomb").exists()
    assert f"{checkpoint} is of version 0.1.0, which drew other noise" in caplog.text
    # Its moments and weights are taken over to the bit; that the noise of 0.1.0 was another one is the past's.
    assert_same_checkpoint(*(folder / CHECKPOINTS / "checkpoint-6" for folder in (run, runs)), with_ema=True)
    for content in ([1], {"state": [1]}, {"state": {0: {}}}):
        torch.save(content, checkpoint / "optimizer.bin")
        with pytest.raises(ValueError, match="optimizer.bin is damaged: it has not the moments of"):
            resume(monkeypatch, phantom, run, resume_from_checkpoint=checkpoint)
    (checkpoint / "optimizer.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "bomb")))
    with pytest.raises(ValueError, match="optimizer.bin cannot be read: it is damaged, or holds more than tensors"):
        resume(monkeypatch, phantom, run, resume_from_checkpoint=checkpoint)
    assert not (tmp_path / "bomb").exists()


def with_digests(checkpoint):
    """Make digests that fit what is there, as whoever means harm does."""
    digests = {}
    for path in checkpoint.rglob("*"):
        if path.is_file() and path.name != "progress.json":
            digests[path.relative_to(checkpoint).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    progress = {"step": int(checkpoint.name.split("-")[1]), "sha256": digests}
    (checkpoint / "progress.json").write_text(json.dumps(progress))


def changed(name, change):
    def apply(checkpoint):
        tensors = load_file(checkpoint / name)
        change(tensors)
        save_file(tensors, checkpoint / name)
        with_digests(checkpoint)

    return apply


def piped(name):
    def apply(checkpoint):
        (checkpoint / name).unlink()
        if name != "progress.json":
            with_digests(checkpoint)
        os.mkfifo(checkpoint / name)

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(f"{MODEL}/{WEIGHTS}", lambda tensors: tensors.update({"conv_in.bias": torch.zeros(7)})), "of this network"),
        (changed(f"{MODEL}/{WEIGHTS}", lambda tensors: tensors.pop("conv_in.bias")), "of this network"),
        (changed(f"model_ema/{WEIGHTS}", lambda tensors: tensors.pop("conv_in.bias")), "of this network"),
        (changed(OPTIMIZER, lambda tensors: tensors.update(harm=torch.zeros(3))), "of this network"),
        (changed(OPTIMIZER, lambda tensors: tensors.update({"conv_in.bias/exp_avg": torch.zeros(3)})), "of shape .3., .8."),
        (changed(OPTIMIZER, lambda tensors: tensors.pop("conv_in.bias/exp_avg")), "of this network"),
        (changed(OPTIMIZER, lambda tensors: tensors.update({"conv_in.bias/step": torch.zeros(3)})), "is no number"),
        (piped("progress.json"), "no complete checkpoint|no regular file"),
        (piped(f"{MODEL}/config.json"), "config.json is no regular file"),
        (lambda checkpoint: (checkpoint / "progress.json").write_text("[" * 10**5), "damaged"),
    ],
)
@pytest.mark.parametrize("latest", [True, False])
def test_a_foreign_checkpoint_ends_in_a_sentence(monkeypatch, phantom, run, change, message, latest):
    for checkpoint in list_checkpoints(run / CHECKPOINTS):
        change(checkpoint)
    given = "latest" if latest else run / CHECKPOINTS / "checkpoint-6"
    if latest:
        message += "|no checkpoint is whole"
    with pytest.raises((ValueError, OSError), match=message) as caught:
        resume(monkeypatch, phantom, run, resume_from_checkpoint=given)
    assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------------------------------- two at once


def test_denoiser_and_classifier_at_once(monkeypatch, phantom, run):
    """The second one ends, whichever it is."""
    from diffusers_macdm.files import locked

    before = content_of(run)
    with locked(run):
        for script in (SCRIPT, "train_macdm"):
            with pytest.raises(FileExistsError, match=f"{run} is being written by another process"):
                resume(monkeypatch, phantom, run, script)
    assert content_of(run) == before


def test_a_classifier_that_is_ready_only_now_is_not_lost(monkeypatch, phantom, runs, tmp_path):
    """Its training ends after the denoiser's has looked for it, and before that holds the folder."""
    folder = tmp_path / "model"
    resolve = denoiser.resolve

    def and_then_it_is_there(settings):
        resolved = resolve(settings)
        assert resolved["classifier"] is None
        shutil.copytree(runs / "guidance_classifier", folder / "guidance_classifier")
        return resolved

    monkeypatch.setattr(denoiser, "resolve", and_then_it_is_there)
    run_here(monkeypatch, "train_macdm", train_data_dir=phantom, output_dir=folder, max_train_steps=1)
    assert json.loads((folder / "model_index.json").read_text())["guidance_classifier"][1] == "GuidanceClassifier"
    assert json.loads((folder / "training_config.json").read_text())["guidance_classifier"]["num_classes"] == 2
    assert_same_weights(folder / "guidance_classifier", runs / "guidance_classifier")


def test_a_kill_before_the_old_ones_are_deleted_leaves_no_more_of_them(monkeypatch, phantom, run):
    """After the last checkpoint: the run that goes on has no other to write, and keeps the limit all the same."""
    shutil.rmtree(run / "guidance_classifier")
    resume(monkeypatch, phantom, run, checkpoints_total_limit=1)
    assert [path.name for path in list_checkpoints(run / CHECKPOINTS)] == ["checkpoint-6"]
