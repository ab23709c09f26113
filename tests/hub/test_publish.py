"""One commit: through a Hub of our own on the loopback address, with the real client, faults included."""

import json
import shutil
import time

import pytest
from hub_pushes import PUBLISHED, WEIGHTS, titles, writes
from huggingface_hub import HfApi, constants
from tiny_models import tiny_pipeline

from diffusers_macdm.hub import push_dataset, push_model


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
    create_commit = HfApi.create_commit

    def after_someone_else(*arguments, **options):
        repo.commit("main", "someone else", dict(repo.commits[repo.branches["main"]][1]))
        return create_commit(*arguments, **options)

    monkeypatch.setattr(HfApi, "create_commit", after_someone_else)
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
