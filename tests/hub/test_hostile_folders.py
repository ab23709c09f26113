"""Folders that would have something published that is not meant to be: links, foreign keys, markup in what is recorded."""

import json
import os
import random
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


OTHER_KINDS = (3, "x", [1], [[]], {"a": 1}, {"a": {"b": [None]}}, True)


def other_kinds(content, rng, count=6):
    """Copies of a record in which a value of the first two levels is of another kind, drawn at random."""
    for _ in range(count):
        changed = json.loads(json.dumps(content))
        name = rng.choice(sorted(changed))
        if isinstance(changed[name], dict) and changed[name] and rng.random() < 0.5:
            changed[name][rng.choice(sorted(changed[name]))] = rng.choice(OTHER_KINDS)
        else:
            changed[name] = rng.choice(OTHER_KINDS)
        yield changed


def pushed_or_refused(push):
    """Refused in one line, or pushed; returns whether it was refused."""
    try:
        push()
    except (ValueError, OSError) as error:
        assert "\n" not in str(error).strip()
        return True
    return False


@pytest.mark.parametrize("name", ["summary.json", "generation.json"])
def test_a_set_whose_records_hold_other_things(synthetic, tmp_path, name):
    folder = Path(shutil.copytree(synthetic, tmp_path / "set"))
    content = json.loads((folder / name).read_text())
    records = [*other_kinds(content, random.Random(name)), {"labels": {"0": 3}}, {"settings": [3]}]
    refused = []
    for record in records:
        (folder / name).write_text(json.dumps(record))
        refused.append(pushed_or_refused(lambda: push_dataset(folder, "alice/pairs", dry_run=True)))
    assert refused[-2] if name == "summary.json" else refused[-1]


@pytest.mark.parametrize("name", ["training_config.json", "audit.json", "evaluation.json"])
def test_a_model_whose_records_hold_other_things(model, tmp_path, name):
    contents = {"training_config.json": RECORD, "audit.json": AUDIT, "evaluation.json": EVALUATION}
    folder = {"training_config.json": model}.get(name, tmp_path)
    facts = {"audit_dir": tmp_path} if name == "audit.json" else {"evaluation_dir": tmp_path} if folder == tmp_path else {}
    for record in other_kinds(contents[name], random.Random(name)):
        (folder / name).write_text(json.dumps(record))
        pushed_or_refused(lambda: push_model(model, "alice/leg", dry_run=True, **facts))
