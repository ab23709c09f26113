"""Pushing a model: what is published."""

import json
import pickle

import pytest
import torch
from hub_pushes import PUBLISHED, WEIGHTS, titles
from PIL import Image
from safetensors.torch import load_file
from tiny_models import tiny_pipeline

from diffusers_macdm.commands import main as cli
from diffusers_macdm.hub import push_dataset, push_model
from diffusers_macdm.hub.sources import source_files


def test_a_model_is_one_private_commit(hub, model):
    for name in ("checkpoint-10/optimizer.bin", "logs/events.out", "training_log.jsonl", "unet/notes.txt"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(pickle.dumps({"a": 1}) if name.endswith(".bin") else b"{}\n")
    push = push_model(model, "alice/leg")
    repo = hub.repo("alice/leg")
    assert (
        repo.private and push.private and [title for title, _ in repo.commits.values()] == ["initial commit", *titles(repo)[1:]]
    )
    assert len(repo.commits) == 2 and repo.branches["main"] == push.commit
    assert sorted(repo.files()) == PUBLISHED == sorted([*push.files, ".gitattributes"])
    assert push.left_out == ["checkpoint-10/", "logs/", "training_log.jsonl", "unet/notes.txt"]
    assert push.url == f"{hub.url}/alice/leg"


def test_what_is_published_is_what_was_saved(hub, model, tmp_path):
    push_model(model, "alice/leg", variants=["fp16", "bf16"])
    files = hub.repo("alice/leg").files()
    for name in ("unet", "guidance_classifier"):
        own = load_file(model / name / f"{WEIGHTS}.safetensors")
        for variant, dtype in (("", torch.float32), (".fp16", torch.float16), (".bf16", torch.bfloat16)):
            path = tmp_path / "weights.safetensors"
            path.write_bytes(files[f"{name}/{WEIGHTS}{variant}.safetensors"])
            published = load_file(path)
            assert published.keys() == own.keys()
            assert all(torch.equal(published[key], own[key].to(dtype)) for key in own)
    assert {path: text.decode() for path, text in files.items() if path.endswith(".py")} == source_files(
        ["unet", "guidance_classifier"]
    )
    assert json.loads(files["unet/config.json"])["sample_size"] == 16
    assert files["README.md"].startswith(b"---\n") and b"alice/leg" in files["README.md"]


def test_the_users_own_card_is_published_as_it_is(hub, model):
    text = "---\nlicense: mit\n---\n# Mine\n![a](pictures/a.png) ![b](../b.png)\n"
    (model / "README.md").write_text(text)
    (model / "pictures").mkdir()
    for name in ("a.png", "c.png"):
        Image.new("L", (4, 4)).save(model / "pictures" / name)
    push = push_model(model, "alice/leg")
    files = hub.repo("alice/leg").files()
    assert files["README.md"].decode() == text and "pictures/a.png" in files
    assert push.notes == ["README.md of the folder is published as it is, no new card is written."]
    assert push.left_out == ["pictures/c.png"]
    with pytest.raises(ValueError, match="license='mit' has no effect"):
        push_model(model, "alice/leg", license="mit")


@pytest.mark.parametrize("license", ["gpl-9", "GPL"])
def test_a_license_that_the_hub_does_not_know(hub, model, license):
    message = '^Invalid metadata in README.md. - "license" must be one of [^\n]*apache-2.0[^\n]*$'
    with pytest.raises(ValueError, match=message):
        push_model(model, "alice/leg", license=license)
    assert len(hub.repo("alice/leg").commits) == 1 and not hub.storage


def test_no_task_of_a_card_is_unknown_to_the_hub(hub, model, synthetic, recwarn):
    push_model(model, "alice/leg", synthetic_dir=synthetic, license="mit")
    push_dataset(synthetic, "alice/pairs", license="cc-by-4.0")
    assert not [warning for warning in recwarn if "metadata in README.md" in str(warning.message)]
    (model / "README.md").write_text("---\npipeline_tag: radiographs\n---\n# Mine\n")
    with pytest.warns(UserWarning, match='"radiographs" is not in the official list'):
        push_model(model, "alice/leg")


def test_a_card_that_the_hub_refuses(hub, model):
    (model / "README.md").write_text("---\nlicense: [mit\n---\n# Mine\n")
    with pytest.raises(ValueError, match="^Invalid metadata in README.md. - [^\n]*$"):
        push_model(model, "alice/leg")
    assert len(hub.repo("alice/leg").commits) == 1 and not hub.storage


def test_weights_that_a_variant_cannot_hold_are_refused(hub, tmp_path):
    pipe = tiny_pipeline(with_classifier=False)
    with torch.no_grad():
        pipe.unet.conv_in.weight[0, 0, 0, 0] = 1e6
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="unet: the weight conv_in.weight does not fit into fp16: leave that variant out"):
        push_model(tmp_path, "alice/leg")
    assert hub.requests == []
    push_model(tmp_path, "alice/leg", variants=["bf16"])


def test_folders_that_are_no_model(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        push_model(tmp_path / "nowhere", "alice/leg")
    with pytest.raises(FileNotFoundError, match="no model_index.json"):
        push_model(tmp_path, "alice/leg")


def test_variants_that_are_none(hub, model):
    with pytest.raises(ValueError, match=r"variants=\['fp8'\] is not allowed: fp16, bf16"):
        push_model(model, "alice/leg", variants=["fp8"])


def test_dry_run_sends_nothing(hub, model, synthetic, capsys):
    (model / "training_log.jsonl").write_text("{}\n")
    assert cli.main(["push", str(model), "alice/leg", "--dry-run", "--variants"]) == 0
    output = capsys.readouterr().out.splitlines()
    expected = [path for path in PUBLISHED if "fp16" not in path and path != ".gitattributes"]
    assert output == [
        *expected,
        "not published: training_log.jsonl",
        f"{len(expected)} files would go to alice/leg; nothing was sent",
    ]
    assert cli.main(["push-dataset", str(synthetic), "alice/pairs", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "5 files would go to alice/pairs; nothing was sent"
    assert hub.requests == []


def test_what_the_commands_print(hub, model, synthetic, phantom, capsys):
    assert cli.main(["push", str(model), "alice/leg", "--tag", "v1"]) == 0
    commit = hub.repo("alice/leg").tags["v1"][:8]
    last = capsys.readouterr().out.splitlines()[-1]
    number = len(PUBLISHED) - 1
    assert last == f"{number} files of {number} new or changed, commit {commit}, tag v1; private: {hub.url}/alice/leg"
    assert cli.main(["push", str(model), "alice/leg"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"nothing new, commit {commit}; private: {hub.url}/alice/leg"
    assert cli.main(["push-dataset", str(synthetic), "alice/pairs", "--public"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"; public: {hub.url}/datasets/alice/pairs")
    assert cli.main(["push-dataset", str(phantom), "alice/films"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("macdm push-dataset: ") and captured.err.count("\n") == 1
