"""Folders that would have something published that is not meant to be: links, foreign keys, markup in what is recorded."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from card_records import AUDIT, CLASSIFIER_RECORD, EVALUATION, RECORD
from hub_pushes import WEIGHTS

from diffusers_macdm.hub import push_dataset, push_model
from diffusers_macdm.hub.card import dataset_card, model_card


SECRET = "hf_this_is_a_token"
HARM = "<script>alert(1)</script>| x | `y` [z](javascript:1) ![i](http://example.org/i.png)\n\n# heading\n<img src=x onerror=1>"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "elsewhere" / "token"
    path.parent.mkdir()
    path.write_text(json.dumps({"a": SECRET}))
    return path


LINKS_IN_MODEL = [
    "README.md", "LICENSE", "training_config.json", "unet/config.json", f"unet/{WEIGHTS}.safetensors", "samples/step-9.png",
    "model_index.json", "audit/audit.json", "pictures", "notes.txt", "unet",
]  # fmt: skip


@pytest.mark.parametrize("name", LINKS_IN_MODEL)
@pytest.mark.parametrize("leaves", [True, False])
def test_a_link_in_a_model_is_refused(hub, model, secret, name, leaves):
    path = model / name
    path.parent.mkdir(exist_ok=True)
    target = secret if leaves else model / "scheduler" / "scheduler_config.json"
    if name == "unet":
        shutil.move(path, secret.parent / "unet")
        target = secret.parent / "unet"
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    for dry_run in (True, False):
        with pytest.raises(ValueError, match=f"{name} is a symbolic link: what it points at is not published"):
            push_model(model, "alice/leg", dry_run=dry_run)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["README.md", "contact_sheet.png", "generation.json", "train/metadata.jsonl", "train/images"])
def test_a_link_in_a_set_is_refused(hub, synthetic, secret, tmp_path, name):
    folder = Path(shutil.copytree(synthetic, tmp_path / "set"))
    path = folder / name
    if path.exists():
        shutil.move(path, secret.parent)
    path.symlink_to(secret.parent / path.name if (secret.parent / path.name).exists() else secret)
    with pytest.raises(ValueError, match=f"{name} is a symbolic link"):
        push_dataset(folder, "alice/pairs", dry_run=True)
    assert hub.requests == []


@pytest.mark.parametrize("argument", ["audit_dir", "evaluation_dir", "synthetic_dir"])
def test_a_link_in_what_a_card_is_made_of_is_refused(hub, model, secret, tmp_path, argument):
    folder = tmp_path / "facts"
    folder.mkdir()
    for name in ("audit.json", "evaluation.json", "contact_sheet.png"):
        (folder / name).symlink_to(secret)
    with pytest.raises(ValueError, match="is a symbolic link"):
        push_model(model, "alice/leg", **{argument: folder}, dry_run=True)


def test_a_pipe_is_refused_and_a_link_to_the_folder_is_not(hub, model, tmp_path):
    (tmp_path / "latest").symlink_to(model)
    assert "unet/config.json" in push_model(tmp_path / "latest", "alice/leg", dry_run=True).files
    os.mkfifo(model / "pipe")
    with pytest.raises(ValueError, match="pipe is no regular file"):
        push_model(model, "alice/leg", dry_run=True)


def test_foreign_keys_stay_behind(hub, model):
    """Keys of every configuration that no class of the pipeline knows, and a component that it does not have."""
    foreign = {
        "note": SECRET,
        "_name_or_path": "/data/of/jane",
        "patients": {"jane": SECRET},
        "_diffusers_version": SECRET + " ",
    }
    configs = ["unet/config.json", "guidance_classifier/config.json", "scheduler/scheduler_config.json", "model_index.json"]
    shutil.copy(model / "scheduler/scheduler_config.json", model / "guidance_classifier")
    for name in (*configs, "guidance_classifier/scheduler_config.json"):
        (model / name).write_text(json.dumps({**json.loads((model / name).read_text()), **foreign}))
    own = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**own, "tokenizer": ["harm", SECRET]}))
    arguments = {"max_train_steps": 3, "api_token": SECRET, "<b>": SECRET, "wandb_api_key": SECRET, "nested": {"a": SECRET}}
    (model / "training_config.json").write_text(json.dumps({"arguments": arguments, "note": SECRET}))
    push_model(model, "alice/leg", variants=())
    files = hub.repo("alice/leg").files()
    assert not [path for path, content in files.items() if SECRET.encode() in content or b"/data/of" in content]
    index = json.loads(files["model_index.json"])
    assert set(index) == {"_class_name", "unet", "scheduler", "guidance_classifier", "weak_unet"}
    assert json.loads(files["training_config.json"])["arguments"] == {"max_train_steps": 3}
    assert json.loads(files["unet/config.json"])["sample_size"] == 16


def test_foreign_keys_of_a_set_stay_behind(hub, synthetic, tmp_path):
    folder = Path(shutil.copytree(synthetic, tmp_path / "set"))
    for name in ("generation.json", "summary.json"):
        content = json.loads((folder / name).read_text())
        if "settings" in content:
            content["settings"]["note"] = SECRET
        (folder / name).write_text(json.dumps({**content, "note": SECRET}))
    push_dataset(folder, "alice/pairs")
    files = hub.repo("alice/pairs", "dataset").files()
    assert not [path for path, content in files.items() if SECRET.encode() in content]
    assert json.loads(files["generation.json"])["settings"]["num_per_class"] == 2


def harmful(content):
    """The same with every text, also of a key, followed by markup."""
    if isinstance(content, dict):
        return {key: harmful(part) for key, part in content.items()} | {f"k{HARM}": HARM}
    if isinstance(content, list):
        return [harmful(part) for part in content] + [HARM]
    return HARM if isinstance(content, str) else content


def assert_no_markup(card):
    body = card[card.index("\n---\n") + 5 :]
    text = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    for found in ("<script", "<img", "\n# heading", "\n\n# head"):
        assert found not in card
    assert "](javascript" not in text.replace("\\[z](javascript", "") and "![i]" not in text
    assert "<" not in text.replace("n<1K", "")


def test_no_recorded_value_brings_markup_into_a_card(model, synthetic, tmp_path):
    for name, record in (("training_config.json", RECORD), ("guidance_classifier_training_config.json", CLASSIFIER_RECORD)):
        content = harmful(record)
        content["arguments"] |= {"dataset_name": None, "pretrained_unet": HARM, "seed": HARM}
        (model / name).write_text(json.dumps(content))
    scheduler = json.loads((model / "scheduler/scheduler_config.json").read_text())
    (model / "scheduler/scheduler_config.json").write_text(json.dumps(harmful(scheduler)))
    (tmp_path / "audit.json").write_text(json.dumps(harmful({**AUDIT, "false_alarms": {"value": 0.1}})))
    (tmp_path / "evaluation.json").write_text(json.dumps({"results": [harmful(row) for row in EVALUATION["results"][:1]]}))
    facts = {"audit_dir": tmp_path, "evaluation_dir": tmp_path, "data_description": HARM}
    assert_no_markup(model_card(model, "alice/leg", **facts))
    folder = Path(shutil.copytree(synthetic, tmp_path / "set"))
    content = harmful(json.loads((folder / "generation.json").read_text()))
    (folder / "generation.json").write_text(json.dumps(content))
    summary = json.loads((folder / "summary.json").read_text())
    summary["labels"] = {f"{label}{HARM}": found for label, found in summary["labels"].items()}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert_no_markup(dataset_card(folder, "alice/pairs"))
