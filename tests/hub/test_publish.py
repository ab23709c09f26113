"""Publishing: through a Hub of our own on the loopback address, with the real client, faults included."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines import pipeline_utils
from hub_server import HubServer
from huggingface_hub import constants
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file
from sample_without_package import samples
from tiny_models import tiny_pipeline, tiny_unet

from diffusers_macdm.commands import main as cli
from diffusers_macdm.data.dataset import PairDataset
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.generate import generate
from diffusers_macdm.hub import publish as publishing
from diffusers_macdm.hub.publish import push_dataset, push_metric, push_model
from diffusers_macdm.hub.sources import source_files
from diffusers_macdm.metrics import metric_folder
from diffusers_macdm.phantom import write_phantom
from diffusers_macdm.provenance.guard import contaminated_cases


WEIGHTS = "diffusion_pytorch_model"
PUBLISHED = [
    ".gitattributes",  # the Hub's own
    "README.md",
    "guidance_classifier/config.json",
    f"guidance_classifier/{WEIGHTS}.fp16.safetensors",
    f"guidance_classifier/{WEIGHTS}.safetensors",
    "guidance_classifier/macdm.py",
    "model_index.json",
    "pipeline.py",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    f"unet/{WEIGHTS}.fp16.safetensors",
    f"unet/{WEIGHTS}.safetensors",
    "unet/macdm.py",
]
RECORD = {
    "arguments": {
        "train_data_dir": "/data/of/jane_doe/leg",
        "output_dir": "/data/of/jane_doe/model",
        "resume_from_checkpoint": "/data/of/jane_doe/model/checkpoint-1",
        "pretrained_unet": "..\\jane_doe\\unet",
        "dataset_name": None,
        "learning_rate": 1e-4,
        "block_out_channels": [8, 16],
    },
    "data": {"num_cases": 2, "cases_per_label": {"0": 1, "1": 1}, "num_patients": 2, "cases": ["jane_doe", "john_doe"]},
    "unet": {"sample_size": 16, "_name_or_path": "/data/of/jane_doe/unet"},
    "versions": {"torch": "2.13.0"},
    "audit": {"last": {"step": 4, "copy_rate": {"value": 0.05}}, "kept": None},
    "notes_of_the_user": "jane_doe",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "phantom"
    write_phantom(folder, num_normal=4, num_lesion=4, size=32, seed=0)
    return folder


@pytest.fixture(scope="module")
def synthetic(saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    generate(saved, folder, 2, num_inference_steps=1, device="cpu", progress=False)
    return folder


@pytest.fixture(scope="module")
def variations(saved, phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("variations") / "set"
    settings = {"num_inference_steps": 2, "device": "cpu", "progress": False}
    generate(saved, folder, 2, from_data=phantom, strength=0.5, **settings)
    return folder


def writes(server):
    return [path for method, path, _ in server.requests if method in ("PUT", "POST") and "validate-yaml" not in path]


# ------------------------------------------------------------------------------------------------- what is published


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


def titles(repo):
    return [title for title, _ in repo.commits.values()]


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


def test_records_name_no_case_no_patient_and_no_folder(hub, model):
    (model / "training_config.json").write_text(json.dumps(RECORD))
    config = json.loads((model / "unet/config.json").read_text())
    (model / "unet/config.json").write_text(json.dumps({**config, "_name_or_path": "/data/of/jane_doe/model"}))
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**index, "_name_or_path": "/data/of/jane_doe/model"}))
    push_model(model, "alice/leg")
    files = hub.repo("alice/leg").files()
    assert json.loads(files["training_config.json"]) == {
        "arguments": {
            "train_data_dir": "leg",
            "pretrained_unet": "unet",
            "dataset_name": None,
            "learning_rate": 1e-4,
            "block_out_channels": [8, 16],
        },
        "data": {"num_cases": 2, "cases_per_label": {"0": 1, "1": 1}, "num_patients": 2},
        "unet": {"sample_size": 16},
        "versions": {"torch": "2.13.0"},
        "audit": {"last": {"step": 4, "copy_rate": {"value": 0.05}}, "kept": None},
    }
    named = [path for path, content in files.items() if b"jane_doe" in content or b"john_doe" in content]
    assert named == []


def test_digests_for_the_leak_guard_are_published_only_when_asked_for(hub, model, phantom, monkeypatch):
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)  # for downloads in this process
    pairs = PairDataset(load_pairs(phantom, "test"), size=16)
    digests = {name: pairs.image_sha256(i) for i, name in enumerate(pairs.names)}
    part = {"num_cases": len(pairs), "cases": pairs.names, "patients": pairs.patient_ids, "image_sha256": digests}
    (model / "guidance_classifier_training_config.json").write_text(
        json.dumps({"data": part, "earlier_trainings": [part, None]})
    )
    names = [name.encode() for name in (*pairs.names, *pairs.patient_ids)]
    push_model(model, "alice/leg")
    files = hub.repo("alice/leg").files()
    assert not any(text.encode() in content for content in files.values() for text in digests.values())
    with pytest.raises(ValueError, match="alice/leg: nothing records which cases trained the model"):
        contaminated_cases(phantom, "test", model="alice/leg")

    push = push_model(model, "alice/leg", image_digests=True)
    assert "The digests of the training radiographs are published" in push.notes[-1]
    record = hub.repo("alice/leg").files()["guidance_classifier_training_config.json"]
    published = {"image_sha256": sorted(digests.values())}
    assert json.loads(record) == {"data": {"num_cases": len(pairs), **published}, "earlier_trainings": [published, None]}
    assert not any(name in record for name in names)
    found = contaminated_cases(phantom, "test", model="alice/leg")
    assert [contamination.case for contamination in found] == pairs.names


def test_names_of_hub_data_sets_stay_whole():
    record = {"arguments": {"dataset_name": "clinic/leg", "train_data_dir": None}}
    assert publishing._published_record(record) == record


def test_an_audit_is_published_without_names(hub, model, tmp_path):
    audit = {
        "verdict": "1 of 4 lies close",
        "copy_rate": {"value": 0.25, "interval": [0.0, 0.7], "nearest": ["jane_doe"], "case": "jane_doe"},
        "pairs": [{"real": "jane_doe", "distance": 0.1}],
        "real": "/data/of/jane_doe",
    }
    (tmp_path / "audit.json").write_text(json.dumps(audit))
    push_model(model, "alice/leg", audit_dir=tmp_path)
    published = json.loads(hub.repo("alice/leg").files()["audit/audit.json"])
    assert published == {
        "verdict": "1 of 4 lies close",
        "copy_rate": {"value": 0.25, "interval": [0.0, 0.7], "nearest": []},
    }
    with pytest.raises(FileNotFoundError, match=r"audit.json: no such file; `macdm audit` writes it"):
        push_model(model, "alice/leg", audit_dir=model)


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


def test_a_card_that_the_hub_refuses(hub, model):
    (model / "README.md").write_text("---\nlicense: [mit\n---\n# Mine\n")
    with pytest.raises(ValueError, match="^Invalid metadata in README.md. - [^\n]*$"):
        push_model(model, "alice/leg")
    assert len(hub.repo("alice/leg").commits) == 1 and not hub.storage


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.bin", "notes.txt", "extra/deep/weights", "scaler.pkl"])
def test_a_pickle_anywhere_is_refused(hub, model, name):
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    if name == "extra/deep/weights":
        torch.save({"a": torch.zeros(1)}, model / name)
    else:
        (model / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=f"{name} is a pickle, which can run code"):
        push_model(model, "alice/leg")
    assert hub.requests == []


def test_a_pickle_that_calls_itself_safetensors_is_refused(hub, model):
    torch.save({"a": torch.zeros(1)}, model / f"unet/{WEIGHTS}.safetensors")
    with pytest.raises(ValueError, match="cannot be loaded as a MaCDMPipeline"):
        push_model(model, "alice/leg")
    assert hub.requests == []


def test_weights_that_a_variant_cannot_hold_are_refused(hub, tmp_path):
    pipe = tiny_pipeline(with_classifier=False)
    with torch.no_grad():
        pipe.unet.conv_in.weight[0, 0, 0, 0] = 1e6
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="unet: the weight conv_in.weight does not fit into fp16: leave that variant out"):
        push_model(tmp_path, "alice/leg")
    assert hub.requests == []
    push_model(tmp_path, "alice/leg", variants=["bf16"])


# ------------------------------------------------------------------------------------------------- pushing again


def test_the_same_again_is_no_commit(hub, model):
    first = push_model(model, "alice/leg", tag="v1")
    uploads = len(writes(hub))
    second = push_model(model, "alice/leg", tag="v1")
    assert second.commit == first.commit and second.changed == second.deleted == []
    assert len(hub.repo("alice/leg").commits) == 2 and len(writes(hub)) == uploads


def test_no_stale_shard_stays_and_the_users_files_do(hub, model):
    push_model(model, "alice/leg", max_shard_size="50KB", variants=["fp16", "bf16"])
    repo = hub.repo("alice/leg")
    sharded = repo.files()
    assert sum(path.startswith(f"unet/{WEIGHTS}-0") for path in sharded) > 1
    assert f"unet/{WEIGHTS}.safetensors.index.json" in sharded
    _, tree = repo.commits[repo.branches["main"]]
    own = hub.repo("alice/leg").commits[next(iter(repo.commits))][1][".gitattributes"]
    repo.commit("main", "by hand", {**tree, "docs/figure.svg": own, "old.bin": own})
    push = push_model(model, "alice/leg")
    assert sorted(repo.files()) == sorted([*PUBLISHED, "docs/figure.svg"])
    assert {"old.bin", f"unet/{WEIGHTS}.safetensors.index.json", f"unet/{WEIGHTS}.safetensors.index.bf16.json"} <= set(
        push.deleted
    )


def test_tags_and_branches(hub, model):
    first = push_model(model, "alice/leg", tag="v1")
    config = json.loads((model / "scheduler/scheduler_config.json").read_text())
    (model / "scheduler/scheduler_config.json").write_text(json.dumps({**config, "clip_sample": False}))
    with pytest.raises(FileExistsError, match="alice/leg has a tag 'v1' already, of other content: a version is never moved"):
        push_model(model, "alice/leg", tag="v1")
    second = push_model(model, "alice/leg", tag="v2", revision="draft")
    repo = hub.repo("alice/leg")
    assert repo.tags == {"v1": first.commit, "v2": second.commit}
    assert repo.branches == {"main": first.commit, "draft": second.commit}
    assert second.changed == second.replaced == ["scheduler/scheduler_config.json"] and first.replaced == []
    with pytest.raises(ValueError, match="revision='v1' is a tag"):
        push_model(model, "alice/leg", revision="v1")
    for tag in ("main", "draft", "next"):  # what would name two things
        with pytest.raises(ValueError, match=f"tag='{tag}' is not allowed: a branch of alice/leg has this name"):
            push_model(model, "alice/leg", tag=tag, revision="next" if tag == "next" else None)
    assert repo.tags.keys() == {"v1", "v2"} and repo.branches.keys() == {"main", "draft"}


def test_a_public_repository_is_refused_unless_allowed(hub, model):
    hub.create("alice/open", private=False)
    with pytest.raises(ValueError, match="alice/open is a public repository: everyone can see"):
        push_model(model, "alice/open")
    assert writes(hub) == []
    assert push_model(model, "alice/open", private=False).private is False
    push_model(model, "alice/new", private=False)
    assert not hub.repo("alice/new").private
    hub.create("alice/closed", private=True)
    assert push_model(model, "alice/closed", private=False).private is True  # it stays what it was


# ------------------------------------------------------------------------------------------------- faults


def test_a_dropped_upload_leaves_what_was_published(hub, model, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits between its tries
    first = push_model(model, "alice/leg")
    before = hub.repo("alice/leg").files()
    tiny_pipeline(dropout=0.1).save_pretrained(model)
    shutil.rmtree(model / "unet")
    tiny_pipeline(block_out_channels=(12, 16)).unet.save_pretrained(model / "unet")
    hub.plan("PUT", ".*", "drop", times=100)
    with pytest.raises(ConnectionError, match="alice/leg: the connection to the Hub broke .* run the push again"):
        push_model(model, "alice/leg")
    repo = hub.repo("alice/leg")
    assert repo.branches["main"] == first.commit and repo.files() == before
    hub.faults.clear()
    push = push_model(model, "alice/leg")
    assert f"unet/{WEIGHTS}.safetensors" in push.changed and repo.branches["main"] == push.commit


def test_an_upload_that_is_dropped_once_goes_through(hub, model, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.plan("PUT", ".*", "drop")
    push_model(model, "alice/leg", variants=[])
    assert hub.faults[0].times == 0 and f"unet/{WEIGHTS}.safetensors" in hub.repo("alice/leg").files()


@pytest.mark.parametrize("what", ["drop", "drop_answer", 500])
def test_a_commit_that_fails_can_be_made_again(hub, model, what):
    hub.plan("POST", "/commit/", what)
    with pytest.raises(OSError, match="alice/leg: the (connection to the Hub broke|Hub answered 500)"):
        push_model(model, "alice/leg", tag="v1", variants=[])
    uploads = sum(method == "PUT" for method, _, _ in hub.requests)
    push = push_model(model, "alice/leg", tag="v1", variants=[])
    repo = hub.repo("alice/leg")
    assert sum(method == "PUT" for method, _, _ in hub.requests) == uploads == 2  # nothing is sent twice
    assert len(repo.commits) == 2 and repo.tags == {"v1": push.commit}


def test_someone_else_pushes_meanwhile(hub, model, monkeypatch):
    push_model(model, "alice/leg")
    repo = hub.repo("alice/leg")
    create_commit = publishing.HfApi.create_commit

    def after_someone_else(*arguments, **options):
        repo.commit("main", "someone else", dict(repo.commits[repo.branches["main"]][1]))
        return create_commit(*arguments, **options)

    monkeypatch.setattr(publishing.HfApi, "create_commit", after_someone_else)
    with pytest.raises(ConnectionError, match="alice/leg was changed by someone else meanwhile: run the push again"):
        push_model(model, "alice/leg", variants=[])
    assert titles(repo)[-1] == "someone else"


def test_who_may_not_push(hub, model, monkeypatch):
    hub.create("clinic/closed", private=True)
    cases = {
        "hf_nobody": ("alice/leg", "The Hub does not know this token"),
        hub.reader_token: ("alice/leg", "alice/leg: this token may not write there"),
        hub.token: ("stranger/leg", "stranger/leg: this token may not write there"),
    }
    for token, (repo_id, message) in cases.items():
        with pytest.raises(PermissionError, match=message):
            push_model(model, repo_id, token=token)
    with pytest.raises(PermissionError, match="clinic/closed: this token may not write there"):
        push_model(model, "clinic/closed", token=hub.reader_token)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="run `hf auth login`, or give a token"):
        push_model(model, "alice/leg")
    assert list(hub.repos) == [("model", "clinic/closed")]


def test_offline_and_unreachable(hub, model, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="alice/leg: HF_HUB_OFFLINE is set"):
        push_model(model, "alice/leg")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="alice/leg: the connection to the Hub broke"):
        push_model(model, "alice/leg")


@pytest.mark.parametrize("name", ["leg", "a/b/c", "-", "alice/", "alice/leg space", ""])
def test_names_that_are_none(hub, model, name):
    with pytest.raises(ValueError, match="not the name of a Hub repository, which is owner/name"):
        push_model(model, name)


@pytest.mark.parametrize("tag", ["v 1", "../x", "v1.lock", "v1.", "-v1", "vö", "a..b", ""])
def test_tags_that_are_none(hub, model, tag):
    with pytest.raises(ValueError, match="tag=.* is not allowed"):
        push_model(model, "alice/leg", tag=tag)
    assert hub.requests == []


def test_an_empty_token(hub, model, synthetic):
    for push, what in ((push_model, model), (push_dataset, synthetic)):
        with pytest.raises(ValueError, match="The token is empty"):
            push(what, "alice/leg", token="")
    assert hub.requests == []


def test_folders_that_are_no_model(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        push_model(tmp_path / "nowhere", "alice/leg")
    with pytest.raises(FileNotFoundError, match="no model_index.json"):
        push_model(tmp_path, "alice/leg")


def test_variants_that_are_none(hub, model):
    with pytest.raises(ValueError, match=r"variants=\['fp8'\] is not allowed: fp16, bf16"):
        push_model(model, "alice/leg", variants=["fp8"])


# ------------------------------------------------------------------------------------------------- data sets


def read(server, repo_id, tmp_path):
    """The splits, read from the published Parquet files."""
    import datasets

    files = server.repo(repo_id, "dataset").files()
    splits = {}
    for path, content in files.items():
        if path.startswith("data/"):
            (tmp_path / Path(path).name).write_bytes(content)
            split = Path(path).name.split("-")[0]
            splits[split] = datasets.Dataset.from_parquet(str(tmp_path / Path(path).name), cache_dir=str(tmp_path / "cache"))
    return splits


def test_a_synthetic_set(hub, synthetic, saved, tmp_path):
    push = push_dataset(synthetic, "alice/pairs", tag="v1")
    repo = hub.repo("alice/pairs", "dataset")
    assert repo.private and len(repo.commits) == 2 and repo.tags == {"v1": push.commit}
    assert sorted(set(repo.files()) - {".gitattributes"}) == [
        "README.md",
        "contact_sheet.png",
        "data/train-00000-of-00001.parquet",
        "generation.json",
        "summary.json",
    ]
    pairs = read(hub, "alice/pairs", tmp_path)["train"]
    assert pairs.num_rows == 4 and str(pairs.features["anatomy_mask"]).startswith("Image(")
    lines = [json.loads(line) for line in (synthetic / "train/metadata.jsonl").read_text().splitlines()]
    for row, line in zip(pairs, lines, strict=True):
        for column in ("image", "anatomy_mask", "lesion_mask"):
            with Image.open(synthetic / "train" / line[f"{column}_file_name"]) as own:
                assert np.array_equal(np.asarray(row[column]), np.asarray(own)) and row[column].mode == own.mode
        for name in ("label", "seed", "scheduler", "guidance_scale", "guidance_interval", "refine_masks", "source"):
            assert row[name] == line[name], name
        assert row["model"] == saved.name
    assert not any(str(saved.parent).encode() in content for content in repo.files().values())
    assert push_dataset(synthetic, "alice/pairs", tag="v1").changed == []


def test_the_card_of_a_set_says_where_its_files_are(hub, synthetic):
    push_dataset(synthetic, "alice/pairs", license="cc-by-4.0")
    from huggingface_hub import DatasetCard

    data = DatasetCard(hub.repo("alice/pairs", "dataset").files()["README.md"].decode()).data.to_dict()
    assert data["license"] == "cc-by-4.0"
    assert data["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]


def test_variations_are_published_under_pseudonyms(hub, variations, tmp_path):
    push = push_dataset(variations, "alice/pairs")
    assert push.notes == [
        "4 pairs are variations of real cases at strength 0.5 and resemble them, the more so the lower the strength."
    ]
    pairs = read(hub, "alice/pairs", tmp_path)["train"]
    lines = [json.loads(line) for line in (variations / "train/metadata.jsonl").read_text().splitlines()]
    for column, kind in (("source", "case"), ("patient_id", "patient")):
        names = [line[column] for line in lines]
        numbers = [sorted(set(names), key=names.index).index(name) + 1 for name in names]
        assert pairs[column] == [f"{kind}-{number:04d}" for number in numbers]
        texts = b"".join(content for content in hub.repo("alice/pairs", "dataset").files().values())
        assert not any(name.encode() in texts for name in names)


def test_digests_of_a_set_are_published_without_names(hub, saved, variations, tmp_path):
    folder = Path(shutil.copytree(variations, tmp_path / "set"))
    content = json.loads((folder / "generation.json").read_text())
    content["provenance"]["trained_on"] = {"unet": [{"patients": ["jane_doe"], "image_sha256": {"doe_1": "0" * 64}}, None]}
    (folder / "generation.json").write_text(json.dumps(content))
    push_dataset(folder, "alice/pairs")
    assert "provenance" not in json.loads(hub.repo("alice/pairs", "dataset").files()["generation.json"])
    push_dataset(folder, "alice/pairs", image_digests=True)
    published = json.loads(hub.repo("alice/pairs", "dataset").files()["generation.json"])["provenance"]
    assert published["trained_on"] == {"unet": [{"image_sha256": ["0" * 64]}, None]}
    sources = content["provenance"]["sources"]
    pairs = read(hub, "alice/pairs", tmp_path)["train"]
    lines = [json.loads(line) for line in (variations / "train/metadata.jsonl").read_text().splitlines()]
    for pseudonym, line in zip(pairs["source"], lines, strict=True):
        assert published["sources"][pseudonym] == {"image_sha256": sources[line["source"]]["image_sha256"]}
    assert len(published["sources"]) == len(sources)


def test_real_images_need_to_be_asked_for(hub, phantom, tmp_path):
    folder = Path(shutil.copytree(phantom, tmp_path / "clinic"))
    text = PngInfo()
    text.add_text("PatientName", "Doe^Jane")
    first = next((folder / "train/images").iterdir())
    pixels = np.asarray(Image.open(first))
    Image.fromarray(pixels.astype(np.uint16) * 257).save(first, pnginfo=text)
    with pytest.raises(PermissionError, match="holds 12 pairs that `macdm generate` has not made .* films of patients"):
        push_dataset(folder, "alice/pairs")
    assert hub.requests == []
    push = push_dataset(folder, "alice/pairs", real_images=True)
    assert push.notes[0].startswith("This publishes 12 pairs that `macdm generate` has not made")
    splits = read(hub, "alice/pairs", tmp_path)
    assert {split: pairs.num_rows for split, pairs in splits.items()} == {"train": 8, "validation": 2, "test": 2}
    patients = [name for pairs in splits.values() for name in pairs["patient_id"]]
    assert set(patients) == {f"patient-{number:04d}" for number in range(1, len(set(patients)) + 1)}
    contents = b"".join(hub.repo("alice/pairs", "dataset").files().values())
    assert b"Doe^Jane" not in contents and b"normal_0" not in contents
    films = [np.asarray(film) for film in splits["train"]["image"]]
    assert any(film.dtype == np.uint16 and np.array_equal(film, pixels.astype(np.uint16) * 257) for film in films)


def test_a_real_pair_among_synthetic_ones_is_noticed(hub, synthetic, phantom, tmp_path):
    folder = Path(shutil.copytree(synthetic, tmp_path / "mixed"))
    row = json.loads((phantom / "train/metadata.jsonl").read_text().splitlines()[0])
    for column in ("image", "anatomy_mask", "lesion_mask"):
        shutil.copy(phantom / "train" / row[f"{column}_file_name"], folder / "train" / row[f"{column}_file_name"])
    with open(folder / "train/metadata.jsonl", "a") as metadata:
        metadata.write(json.dumps(row) + "\n")
    with pytest.raises(PermissionError, match="holds 1 pairs that"):
        push_dataset(folder, "alice/pairs")


def test_masks_of_real_cases_need_to_be_asked_for(hub, saved, phantom, tmp_path):
    folder = tmp_path / "films"
    generate(saved, folder, 1, masks_from=phantom, num_inference_steps=1, device="cpu", progress=False)
    with pytest.raises(PermissionError, match="holds the masks of real cases, unchanged, in 2 pairs"):
        push_dataset(folder, "alice/pairs")
    push_dataset(folder, "alice/pairs", real_images=True)
    assert read(hub, "alice/pairs", tmp_path)["train"]["masks_from"] == ["case-0001", "case-0002"]


def test_a_faulty_or_unfinished_set_is_refused(hub, synthetic, tmp_path):
    folder = Path(shutil.copytree(synthetic, tmp_path / "set"))
    (folder / "summary.json").unlink()
    with pytest.raises(ValueError, match="is not complete .*: run `macdm generate` again"):
        push_dataset(folder, "alice/pairs")
    next((folder / "train/lesion").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"has 1 fault.*train/lesion/"):
        push_dataset(folder, "alice/pairs")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        push_dataset(tmp_path / "nowhere", "alice/pairs")
    assert hub.requests == []


def test_a_lesion_that_the_model_left_out_is_a_note(hub, synthetic, phantom, tmp_path):
    def without_a_lesion(folder):
        row = next(row for row in map(json.loads, (folder / "train/metadata.jsonl").open()) if row["label"])
        path = folder / "train" / row["lesion_mask_file_name"]
        Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
        return folder

    made = without_a_lesion(Path(shutil.copytree(synthetic, tmp_path / "set")))
    push = push_dataset(made, "alice/pairs")
    (note,) = [note for note in push.notes if "contradicts" in note]
    assert note == "In 1 of the pairs the lesion mask contradicts the label; `macdm check` lists them."
    real = without_a_lesion(Path(shutil.copytree(phantom, tmp_path / "real")))
    with pytest.raises(ValueError, match="has 1 fault.*the lesion mask is empty"):
        push_dataset(real, "alice/real", real_images=True)


def test_many_pairs_are_several_files_and_none_stays(hub, synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "ROWS_PER_FILE", 3)
    push_dataset(synthetic, "alice/pairs")
    assert [pairs.num_rows for pairs in read(hub, "alice/pairs", tmp_path).values()] == [1]  # of the second file
    monkeypatch.setattr(publishing, "ROWS_PER_FILE", 4)
    push = push_dataset(synthetic, "alice/pairs")
    assert push.deleted == ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]


# ------------------------------------------------------------------------------------------------- the command line


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
    assert last == f"12 files of 12 new or changed, commit {commit}, tag v1; private: {hub.url}/alice/leg"
    assert cli.main(["push", str(model), "alice/leg"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"nothing new, commit {commit}; private: {hub.url}/alice/leg"
    assert cli.main(["push-dataset", str(synthetic), "alice/pairs", "--public"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"; public: {hub.url}/datasets/alice/pairs")
    assert cli.main(["push-dataset", str(phantom), "alice/films"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("macdm push-dataset: ") and captured.err.count("\n") == 1


# ------------------------------------------------------------------------------------------------- other processes

READER = """
import json, os, sys
import numpy as np, torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers_macdm import GuidanceClassifier, MaCDMPipeline, MaCDMUNet2DModel
from diffusers_macdm.data.dataset import PairDataset
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.hub.loading import load_pipeline

target, local, offline = sys.argv[1], sys.argv[2], sys.argv[3] == "offline"
result = {}

def sample(pipe, **arguments):
    pipe.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    arguments = {"class_labels": [0, 1], "num_inference_steps": 3, "output_type": "pt", "generator": generator} | arguments
    out = pipe(**arguments)
    return torch.cat([out.images, out.anatomy_masks, out.lesion_masks]).float()

def difference(pipe, other, **arguments):
    return float((sample(pipe, **arguments) - sample(other, **arguments)).abs().max())

def error(call):
    try:
        call()
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"

own = MaCDMPipeline.from_pretrained(local)
pipe = MaCDMPipeline.from_pretrained("alice/leg")
result["class"] = type(pipe).__module__ + " " + type(pipe.unet).__module__
result["pairs"] = difference(pipe, own)
result["guided"] = difference(pipe, own, guidance_scale=2.0)
result["v1"] = difference(MaCDMPipeline.from_pretrained("alice/leg", revision="v1"), own)
if not offline:
    result["plain diffusers"] = difference(DiffusionPipeline.from_pretrained("alice/leg"), own)
    half = MaCDMPipeline.from_pretrained("alice/leg", variant="fp16", torch_dtype=torch.float16)
    result["fp16"] = [str(half.unet.dtype), difference(half, MaCDMPipeline.from_pretrained(local, torch_dtype=torch.float16))]
    scheduler = DDIMScheduler.from_config(own.scheduler.config)
    own.scheduler = scheduler
    result["scheduler"] = difference(MaCDMPipeline.from_pretrained("alice/leg", scheduler=scheduler), own)
    other = DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    result["another schedule"] = error(lambda: MaCDMPipeline.from_pretrained("alice/leg", scheduler=other))
    unet = MaCDMUNet2DModel.from_pretrained("alice/leg", subfolder="unet", revision="v1")
    overridden = MaCDMPipeline.from_pretrained("alice/leg", unet=unet, guidance_classifier=None)
    result["unet"] = overridden.unet is unet and overridden.guidance_classifier is None
    classifier = GuidanceClassifier.from_pretrained("alice/leg", subfolder="guidance_classifier")
    bare = MaCDMPipeline.from_pretrained("alice/bare")
    result["without classifier"] = bool(sample(bare).isfinite().all())
    result["guidance without classifier"] = error(lambda: sample(bare, guidance_scale=1.0))
    bare = MaCDMPipeline.from_pretrained("alice/bare", guidance_classifier=classifier)
    result["given classifier"] = bool(sample(bare, guidance_scale=1.0).isfinite().all())
    result["pairs read"] = PairDataset(load_pairs("alice/pairs", "train"), 16)[3]["joint_sample"].double().sum().item()
    result["version"] = difference(load_pipeline("alice/leg@v1"), MaCDMPipeline.from_pretrained(local))
    result["no version"] = error(lambda: load_pipeline("alice/leg@v9"))
    for token in ("hf_alice", "hf_bob", "hf_nobody"):
        os.environ["HF_TOKEN"] = token
        result[f"cached, {token}"] = error(lambda: load_pipeline("alice/leg"))
        result[token] = error(lambda: load_pipeline("alice/nowhere" if token == "hf_alice" else "alice/closed"))
else:
    result["not cached"] = error(lambda: load_pipeline("alice/later"))
print(json.dumps(result))
"""


# An older diffusers asks the cache for every file of the repository, also those that it has never downloaded, and the
# huggingface_hub of today refuses that.
LOADS_OFFLINE = hasattr(pipeline_utils, "get_cached_repo_tree")


def in_another_process(code, *arguments, **environment):
    command = [sys.executable, *map(str, code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def pulled(saved, synthetic, tmp_path_factory):
    """What other processes see: pulled with an empty cache; then offline, from the cache,
    while there is a newer revision."""
    folder = tmp_path_factory.mktemp("pulled")
    second = folder / "second"
    tiny_pipeline(norm_eps=1e-3).save_pretrained(second)
    bare = folder / "bare"
    tiny_pipeline(with_classifier=False).save_pretrained(bare)
    with HubServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", server.url)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setenv("HF_TOKEN", server.token)
        assert cli.main(["push", str(saved), "alice/leg", "--tag", "v1"]) == 0
        server.create("alice/closed", private=True)
        push_model(bare, "alice/bare")
        push_dataset(synthetic, "alice/pairs")
        server.requests.clear()
        reader = server.environment(folder / "reader", token=server.token)
        online = in_another_process(["-c", READER], "alice/leg", saved, "online", **reader)
        assert online.returncode == 0, online.stderr
        requests = list(server.requests)
        push_model(second, "alice/leg", tag="v2")
        server.requests.clear()
        reader = server.environment(folder / "reader", offline=True)
        offline = in_another_process(["-c", READER], "alice/leg", saved, "offline", **reader) if LOADS_OFFLINE else None
        offline_requests = list(server.requests)
    assert offline is None or offline.returncode == 0, offline.stderr
    results = [process and json.loads(process.stdout.splitlines()[-1]) for process in (online, offline)]
    return {"online": results[0], "offline": results[1], "requests": requests, "offline requests": offline_requests}


def test_push_and_pull_with_an_empty_cache(pulled):
    online = pulled["online"]
    assert online["class"] == "diffusers_macdm.macdm.pipeline diffusers_macdm.macdm.unet"  # no remote code
    for what in ("pairs", "guided", "v1", "plain diffusers", "scheduler"):
        assert online[what] <= 1e-5, what
    assert online["fp16"][0] == "torch.float16" and online["fp16"][1] <= 1e-5


def test_components_in_place_of_the_repositorys(pulled):
    online = pulled["online"]
    assert online["unet"] and online["given classifier"]
    assert online["another schedule"].startswith("ValueError: DDIMScheduler has another noise schedule")


def test_a_repository_without_a_classifier(pulled):
    online = pulled["online"]
    assert online["without classifier"]
    assert "guidance_scale=1.0 needs a guidance_classifier, which this pipeline lacks" in online["guidance without classifier"]


def test_a_published_set_is_read_as_the_folder_is(pulled, synthetic):
    from diffusers_macdm.data.dataset import PairDataset
    from diffusers_macdm.data.loading import load_pairs

    own = PairDataset(load_pairs(synthetic, "train"), 16)[3]["joint_sample"].double().sum().item()
    assert pulled["online"]["pairs read"] == own


def test_what_a_reader_may_not_see(pulled):
    for token, repo_id, reason in (
        ("hf_alice", "alice/nowhere", "there is no such repository, or your token may not see it (`hf auth login`)"),
        ("hf_bob", "alice/closed", "there is no such repository, or your token may not see it (`hf auth login`)"),
        ("hf_nobody", "alice/closed", "the Hub does not know your token (`hf auth login`)"),
    ):
        expected = f"ValueError: {repo_id}: cannot be loaded from the Hub (and there is no such folder): {reason}"
        assert pulled["online"][token] == expected
    # what lies in the cache is not for those whom the Hub refuses
    assert pulled["online"]["cached, hf_alice"] is None
    for token in ("hf_bob", "hf_nobody"):
        assert "alice/leg: cannot be loaded from the Hub" in pulled["online"][f"cached, {token}"]


def test_a_version_by_its_name(pulled):
    assert pulled["online"]["version"] <= 1e-5
    assert pulled["online"]["no version"].endswith("the repository has no such revision")


@pytest.mark.skipif(not LOADS_OFFLINE, reason="this diffusers loads no pipeline offline from a cache of this huggingface_hub")
def test_a_stale_cache_works_offline(pulled):
    offline = pulled["offline"]
    assert pulled["offline requests"] == []
    for what in ("pairs", "guided", "v1"):
        assert offline[what] <= 1e-5, what
    assert offline["not cached"].endswith("it is not in the cache, and HF_HUB_OFFLINE is set")


def test_no_token_is_sent_to_where_the_files_are(pulled):
    from_storage = [token for method, path, token in pulled["requests"] if method == "GET" and path.count("/") == 1]
    assert len(from_storage) >= 4 and set(from_storage) == {None}


@pytest.mark.slow
def test_pull_without_the_package(hub, tmp_path, monkeypatch):
    """Plain diffusers, in an interpreter that cannot import this package, from the files that the push has put there."""
    pipe = tiny_pipeline()
    pipe.register_modules(weak_unet=tiny_unet(seed=5))
    pipe.save_pretrained(tmp_path / "model")
    push_model(tmp_path / "model", "alice/leg")
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if any((Path(directory) / "diffusers_macdm").is_dir() for directory in packages):
        pytest.skip("the package is installed among the others")
    script = Path(__file__).parents[1] / "sample_without_package.py"
    reader = {**hub.environment(tmp_path / "reader", token=hub.token), "PYTHONPATH": ""}
    out = tmp_path / "samples.npz"
    pulled = in_another_process(["-S", script], "alice/leg", "alice/leg", out, *packages, **reader)
    assert pulled.returncode == 0, pulled.stderr
    found = np.load(out)
    for name, expected in samples(pipe).items():
        np.testing.assert_allclose(found[name][:, 0], expected[:, 0], atol=1e-5, err_msg=name)


# ------------------------------------------------------------------------------------------------- metrics

METRIC_READER = """
import sys
import evaluate
from huggingface_hub import snapshot_download

inputs = {"predictions": [0, 1, 1], "references": [1, 1, 0]}
folder = snapshot_download("alice/recall", repo_type="space", local_dir=sys.argv[1])
print(evaluate.load(folder).compute(**inputs)["sensitivity"], evaluate.load("alice/recall").compute(**inputs)["sensitivity"])
"""


def test_a_metric_is_a_space_that_evaluate_loads(hub, tmp_path, capsys):
    assert cli.main(["push-metric", "sensitivity", "alice/recall", "--tag", "v1"]) == 0
    repo = hub.repo("alice/recall", "space")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"3 files of 3 new or changed, commit {repo.tags['v1'][:8]}, tag v1; private: {hub.url}/spaces/alice/recall"
    assert repo.private and sorted(repo.files()) == [".gitattributes", "README.md", "recall.py", "requirements.txt"]
    assert repo.files()["recall.py"] == (metric_folder("sensitivity") / "sensitivity.py").read_bytes()
    assert push_metric("sensitivity", "alice/recall").changed == []
    repo.private = False  # the download of `evaluate` has no token
    reader = hub.environment(tmp_path / "cache") | {"HF_EVALUATE_OFFLINE": "0"}
    pulled = in_another_process(["-c", METRIC_READER], tmp_path / "recall", **reader)
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout.splitlines()[-1] == "0.5 0.5"


def test_metrics_that_are_not_pushed(hub, capsys):
    assert cli.main(["push-metric", "dice", "alice/dice", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "README.md",
        "dice.py",
        "requirements.txt",
        "3 files would go to alice/dice; nothing was sent",
    ]
    assert hub.requests == []
    for arguments, message in (
        (["iou", "alice/iou"], "'iou' is no metric of this package: balanced_accuracy, dice, "),
        (["dice", "dice"], "dice: not the name of a Hub repository"),
        (["dice", "alice/dice.v2"], "alice/dice.v2: `evaluate` cannot load a metric from a repository with a dot"),
    ):
        assert cli.main(["push-metric", *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"macdm push-metric: {message}") and error.count("\n") == 1
    hub.create("alice/open", "space", private=False)
    with pytest.raises(ValueError, match="alice/open is a public repository"):
        push_metric("dice", "alice/open")
    assert push_metric("dice", "alice/open", private=False).deleted == []
