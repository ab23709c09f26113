"""`macdm generate --reject-copies`, and the warning for variations that are copies."""

import json

import numpy as np
import pytest
from tiny_models import tiny_pipeline

from diffusers_macdm.commands import main as cli
from diffusers_macdm.data.check import check_dataset
from diffusers_macdm.generate import copies, generate, run
from diffusers_macdm.generate.copies import replace_copies, strength_warning
from diffusers_macdm.generate.pairs import PairRequest, Sampling, make_pairs
from diffusers_macdm.hub.loading import load_pipeline
from diffusers_macdm.phantom import write_phantom
from diffusers_macdm.seeds import pair_seed


SETTINGS = {"num_inference_steps": 4, "batch_size": 4, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    tiny_pipeline(with_classifier=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(folder, num_normal=8, num_lesion=8, size=32, seed=0)
    return folder


def rows_of(out):
    return [json.loads(line) for line in (out / "train/metadata.jsonl").read_text().splitlines()]


def files_of(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_what_copies_nobody_is_left_as_it_is(model, real, tmp_path, monkeypatch):
    """An untrained network makes noise: nothing is rejected, and the pairs are those of a call without the option."""
    monkeypatch.setattr(copies, "EMBEDDING_STEPS", 5)
    plain = generate(model, tmp_path / "plain", 3, **SETTINGS)
    checked = generate(model, tmp_path / "checked", 3, reject_copies=real, **SETTINGS)
    assert checked["rejected_copies"] == 0 and "rejected_copies" not in plain
    assert {row["rejected_copies"] for row in rows_of(tmp_path / "checked")} == {0}
    assert check_dataset(tmp_path / "checked") == []
    for name, content in files_of(tmp_path / "plain").items():
        if name.startswith("train/") and name.endswith(".png"):
            assert (tmp_path / "checked" / name).read_bytes() == content


def test_a_copier_is_refused_and_leaves_nothing(model, real, tmp_path, monkeypatch, capsys):
    """Half a percent of noise taken away again is the case itself, whatever the seed."""
    monkeypatch.setattr(copies, "MAX_REJECTIONS", 2)
    monkeypatch.setattr(copies, "EMBEDDING_STEPS", 5)
    out = tmp_path / "copies"
    arguments = ["--num-per-class", "1", "--from", real, "--strength", "0.005", "--num-inference-steps", "200"]
    code = cli.main(["generate", *map(str, [model, out, *arguments, "--reject-copies", real, "--device", "cpu"])])
    error = capsys.readouterr().err
    assert code == 1 and "synthetic_000000 was a copy of a training image 3 times over" in error
    assert not out.exists()


def test_only_copies_are_made_again(model):
    """A stand-in for the audit calls bright films copies: these get new seeds until they are dark, the others stay."""
    pipe = load_pipeline(model)
    pipe.set_progress_bar_config(disable=True)
    sampling = Sampling(num_inference_steps=4, refine_masks=False)
    requests = [PairRequest(0, pair_seed(7, 10 + i)) for i in range(6)]
    pairs = make_pairs(pipe, requests, sampling)
    brightness = [np.mean(pair.radiograph) for pair in pairs]
    limit = np.median(brightness)
    is_copy = lambda chosen: np.array([np.mean(pair.radiograph) > limit for pair in chosen])  # noqa: E731
    results = replace_copies(pipe, requests, pairs, sampling, is_copy, seed=7, first=10)
    assert not is_copy(pairs).any()
    for i, ((seed, rejected), pair) in enumerate(zip(results, pairs, strict=True)):
        assert (rejected > 0) == (brightness[i] > limit)
        assert seed == pair_seed(7, 10 + i, rejected)
        again = make_pairs(pipe, [PairRequest(0, seed)], sampling)[0]
        difference = np.abs(np.asarray(again.radiograph, int) - np.asarray(pair.radiograph, int))
        assert difference.max() <= 1  # another batch size adds up in another order
    assert sum(rejected for _, rejected in results) >= 3


def test_interrupted_set_goes_on_with_its_rejections(model, real, tmp_path, monkeypatch):
    calls = {"until": None}

    def copy_test(*arguments):
        def is_copy(pairs):
            if calls["until"] is not None:
                calls["until"] -= 1
                if calls["until"] < 0:
                    raise KeyboardInterrupt
            return np.array([np.asarray(pair.radiograph)[0, 0] > 127 for pair in pairs])

        return is_copy

    monkeypatch.setattr(run, "copy_test", copy_test)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    summary = generate(model, whole, 6, reject_copies=real, **SETTINGS)
    assert summary["rejected_copies"] == sum(row["rejected_copies"] for row in rows_of(whole)) > 0
    calls["until"] = 6
    with pytest.raises(KeyboardInterrupt):
        generate(model, broken, 6, reject_copies=real, **SETTINGS)
    assert 0 < len(rows_of(broken)) < 12
    calls["until"] = None
    generate(model, broken, 6, reject_copies=real, **SETTINGS)
    assert files_of(broken) == files_of(whole)
    assert generate(model, broken, 6, reject_copies=real, **SETTINGS)["num_new"] == 0


def test_seeds_after_a_rejection_are_new():
    seeds = {pair_seed(0, i, rejected) for i in range(100) for rejected in range(5)}
    assert len(seeds) == 500
    assert pair_seed(3, 4) == pair_seed(3, 4, 0)


def test_warning_below_the_level_that_an_audit_found(model, tmp_path):
    level = copies.COPY_FREE_STRENGTH
    assert strength_warning(model, level) is None
    assert f"only from strength {level} on" in strength_warning(model, level - 0.01)
    folder = tmp_path / "model"
    (folder / "audit").mkdir(parents=True)
    curve = [{"strength": 0.3, "value": 1.0}]
    for found, strength, expected in ((0.5, 0.5, None), (0.5, 0.4, "only from strength 0.5 on"), (None, 1.0, "at no strength")):
        (folder / "audit/audit.json").write_text(json.dumps({"strength_curve": curve, "strength_level": found}))
        warning = strength_warning(folder, strength)
        assert warning is None if expected is None else expected in warning


def test_command_warns(model, real, tmp_path, capsys):
    arguments = [model, tmp_path / "variations", "--num-per-class", "1", "--from", real, "--strength", "0.3", "--device", "cpu"]
    assert cli.main(["generate", *map(str, arguments), "--num-inference-steps", "10"]) == 0
    assert "warning: strength 0.3: variations are copies" in capsys.readouterr().err
