"""The parts of the trainings: averages, checkpoints, records."""

import json
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from launching import reset_accelerate, run_here

from diffusers_macdm import files
from diffusers_macdm.training import averages, checkpoints, loop, records


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    reset_accelerate()
    yield Accelerator()
    reset_accelerate()


def test_averages_are_means_over_what_applies(accelerator):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 8))
    values[rng.random((5, 8)) < 0.4] = np.nan
    means = averages.Averages()
    for row in values:
        means.add({"a": torch.tensor(row), "never": torch.full((8,), math.nan), "scalar": torch.tensor(row).nansum()})
    read = means.read(accelerator)
    assert set(read) == {"a", "scalar"}
    assert read["a"] == pytest.approx(np.nanmean(values), rel=1e-5)
    assert read["scalar"] == pytest.approx(np.nansum(values, axis=1).mean(), rel=1e-5)
    means.add({"a": torch.ones(1)})
    assert means.read(accelerator) == {"a": 1.0}  # reading starts anew


def test_by_quartile():
    values = torch.arange(8.0)
    timesteps = torch.tensor([0, 249, 250, 499, 500, 749, 750, 999])
    quartiles = averages.by_quartile("loss", values, timesteps, 1000)
    assert list(quartiles) == [f"loss/q{q}" for q in range(4)]
    for q in range(4):
        applies = ~quartiles[f"loss/q{q}"].isnan()
        assert applies.nonzero().flatten().tolist() == [2 * q, 2 * q + 1]
        assert torch.equal(quartiles[f"loss/q{q}"][applies], values[applies])


def test_write_json_is_atomic(tmp_path):
    path = tmp_path / "new" / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2} and [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_replace_folder(tmp_path):
    target = tmp_path / "target"
    for content in ("first", "second"):
        temporary = tmp_path / "temporary.tmp"
        temporary.mkdir()
        (temporary / content).write_text(content)
        (tmp_path / "target.old.tmp").mkdir(exist_ok=True)  # of a run that was killed here
        files.replace_folder(temporary, target)
        assert [path.name for path in target.iterdir()] == [content]
        assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_truncated_log_drops_later_and_torn_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    checkpoints.truncate_log(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_changed_options_are_named(tmp_path, accelerator, caplog):
    path = tmp_path / "training_config.json"
    for learning_rate in (1e-3, 1e-4):
        arguments = {"learning_rate": learning_rate, "seed": 0, "resume_from_checkpoint": learning_rate}
        content = records.record_of_run("unet", {"arguments": arguments}, accelerator, resume=tmp_path)
        files.write_json(path, content)
    warnings = [record.getMessage() for record in caplog.records if record.name == loop.logger.name]
    assert warnings == ["Resumed with other options than before: learning_rate 0.001 -> 0.0001."]


def test_a_resumed_run_takes_over_the_cases_of_the_one_before(tmp_path, accelerator):
    (tmp_path / "first/checkpoint-5").mkdir(parents=True)
    first, second = ({"patients": [], "image_sha256": {"a": digest}} for digest in "01")
    for folder, data in (("first", first), ("second", second)):
        path = tmp_path / folder / "training_config.json"
        resume = None if folder == "first" else tmp_path / "first/checkpoint-5"
        configuration = {"arguments": {}, "data": data, "earlier_trainings": []}
        files.write_json(path, records.record_of_run("unet", configuration, accelerator, resume))
    assert json.loads(path.read_text())["earlier_trainings"] == [first]


def test_the_record_of_a_classifier_goes_with_it(tmp_path):
    name = "guidance_classifier_training_config.json"
    for folder in ("theirs", "ours", "nobodys"):
        (tmp_path / folder / "guidance_classifier").mkdir(parents=True)
    (tmp_path / "theirs" / name).write_text('{"data": 1}')
    (tmp_path / "ours" / name).write_text('{"data": 2}')
    records.keep_classifier_record(tmp_path / "ours/guidance_classifier", tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / name).read_text()) == {"data": 2}
    records.keep_classifier_record(tmp_path / "theirs/guidance_classifier", tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / name).read_text()) == {"data": 1}
    records.keep_classifier_record(tmp_path / "nobodys/guidance_classifier", tmp_path / "ours")
    assert not (tmp_path / "ours" / name).exists() and (tmp_path / "theirs" / name).exists()


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_kept(monkeypatch, phantom, tmp_path):
    with pytest.raises(ValueError, match=r"The gradient is not finite at step \d.*no checkpoint was written"):
        run_here(
            monkeypatch,
            "train_guidance_classifier",
            train_data_dir=phantom,
            output_dir=tmp_path,
            learning_rate=1e20,
            lr_scheduler="constant",
            max_train_steps=8,
            checkpointing_steps=8,
            logging_steps=100,
        )
    assert checkpoints.list_checkpoints(tmp_path / "guidance_classifier_checkpoints") == []


def test_errors_that_a_user_can_mend_are_one_sentence():
    def fail():
        raise FileNotFoundError("data: no such folder.")

    with pytest.raises(SystemExit, match="^error: data: no such folder.$") as caught:
        loop.run_script(fail)
    assert caught.value.__cause__ is None
