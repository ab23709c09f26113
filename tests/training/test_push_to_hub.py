"""`--push_to_hub` of both training scripts."""

import json
import os
import subprocess

import pytest
from launching import TINY, command, resolve_here, run_here

from diffusers_macdm import MaCDMPipeline


RUN = {**TINY, "max_train_steps": 1, "validation_steps": 100, "hub_model_id": "alice/leg"}


def test_both_scripts_push_the_pipeline(hub, monkeypatch, phantom, tmp_path):
    values = {**RUN, "train_data_dir": phantom, "output_dir": tmp_path / "model", "push_to_hub": True, "hub_token": hub.token}
    monkeypatch.delenv("HF_TOKEN")
    run_here(monkeypatch, "train_macdm", **values)
    repo = hub.repo("alice/leg")
    assert repo.private and len(repo.commits) == 2
    record = json.loads(repo.files()["training_config.json"])
    assert record["data"]["num_cases"] == 10 and "cases" not in record["data"]
    assert record["arguments"]["train_data_dir"] == "phantom" and record["arguments"]["max_train_steps"] == 1
    on_disk = [path for path in (tmp_path / "model").rglob("*.json*") if hub.token in path.read_text()]
    assert on_disk == [] and not any(hub.token.encode() in content for content in repo.files().values())

    run_here(monkeypatch, "train_guidance_classifier", **{name: v for name, v in values.items() if name != "validation_steps"})
    assert len(repo.commits) == 3 and "guidance_classifier_training_config.json" in repo.files()
    assert "guidance_classifier/diffusion_pytorch_model.safetensors" in repo.files()
    assert not any("checkpoint" in path or path.endswith(".bin") for path in repo.files())


def test_a_wrong_token_is_said_before_the_training(hub, monkeypatch, phantom, tmp_path):
    values = {**RUN, "train_data_dir": phantom, "output_dir": tmp_path / "model", "push_to_hub": True, "hub_token": "hf_nobody"}
    with pytest.raises(PermissionError, match="The Hub does not know this token"):
        run_here(monkeypatch, "train_macdm", **values)
    assert not list(tmp_path.rglob("*.json")) and not hub.repos


def test_a_push_that_fails_leaves_the_trained_model(hub, monkeypatch, phantom, tmp_path):
    hub.plan("POST", "/commit/", 500)
    model = tmp_path / "leg"
    values = {**RUN, "train_data_dir": phantom, "output_dir": model, "push_to_hub": True, "hub_private_repo": False}
    values.pop("hub_model_id")  # the name of the folder, in the user's own namespace
    with pytest.raises(OSError, match=r"the training is complete in .*leg, .*500.* `macdm push .*leg alice/leg --public`"):
        run_here(monkeypatch, "train_macdm", **values)
    assert not hub.repo("alice/leg").private and isinstance(MaCDMPipeline.from_pretrained(model), MaCDMPipeline)


@pytest.mark.parametrize(
    "script, values, message",
    [
        ("train_macdm", {"hub_model_id": "alice/leg"}, "--hub_model_id alice/leg has no effect without --push_to_hub"),
        ("train_guidance_classifier", {"push_to_hub": True}, "--push_to_hub publishes a whole pipeline, and there is none in"),
    ],
)
def test_refused_before_anything_is_read(script, values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        resolve_here(script, train_data_dir=tmp_path / "nowhere", output_dir=tmp_path, **values)


@pytest.mark.slow
def test_launched_as_users_do(hub, phantom, tmp_path):
    environment = {**os.environ, **hub.environment(tmp_path / "cache", token=hub.token), "ACCELERATE_USE_CPU": "true"}
    values = {**RUN, "train_data_dir": phantom, "output_dir": tmp_path / "model", "push_to_hub": True}
    launch = command("train_macdm", "--cpu", "--num_processes", "1", **values)
    result = subprocess.run(launch, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert f"to {hub.url}/alice/leg." in result.stderr and "unet/macdm.py" in hub.repo("alice/leg").files()
