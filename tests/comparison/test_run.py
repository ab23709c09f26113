"""`macdm compare` from end to end, launched as users do, where nothing can be learned: the numbers must still fit."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from diffusers_macdm.comparison import compare
from diffusers_macdm.comparison.models import MODELS
from diffusers_macdm.comparison.settings import TrainingBudget
from diffusers_macdm.comparison.summary import over_folds
from diffusers_macdm.evaluation.arms import CONTROLS
from diffusers_macdm.phantom import write_phantom


OPTIONS = """--size 16 --steps 4 --batch-size 4 --block-out-channels 8 16 --layers-per-block 1 --patch-size 2
--num-inference-steps 2 --eval-steps 4 --eval-batch-size 8 --validate-every 2 --classifier-width 4 --segmenter-width 4
--audit-steps 2 --resamples 30 --device cpu""".split()
TINY = {
    "size": 16,
    "budget": TrainingBudget(
        steps=4,
        batch_size=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        patch_size=2,
        num_inference_steps=2,
    ),
    "downstream_steps": 4,
    "downstream_batch_size": 8,
    "validate_every": 2,
    "classifier_width": 4,
    "segmenter_width": 4,
    "embedding_steps": 2,
    "resamples": 30,
    "device": "cpu",
    "progress": False,
}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "real"
    write_phantom(folder, 12, 12, 32, 0)
    return folder


@pytest.fixture(scope="module")
def launched(real, tmp_path_factory):
    out = tmp_path_factory.mktemp("launched") / "out"
    command = [sys.executable, "-m", "diffusers_macdm", "compare", "--real", real, "--out", out, *OPTIONS]
    command += "--models macdm guided_ddpm --seeds 0 1 2 --train-sizes 16".split()
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_the_command(launched):
    out, printed = launched
    result = json.loads((out / "comparison.json").read_text())
    assert printed.strip().splitlines()[-len(result["conclusion"]) :] == result["conclusion"]
    page = (out / "index.html").read_text()
    assert all(sentence.replace("'", "&#39;") in page for sentence in result["conclusion"])
    rows = result["results"]
    arms = {task: {row["arm"] for row in rows if row["task"] == task} for task in ("diagnosis", "segmentation")}
    assert arms["diagnosis"] == {*CONTROLS, "macdm", "guided_ddpm"}
    assert arms["segmentation"] == {*CONTROLS, "macdm"}  # the other one makes no masks
    assert all(len(row["per_seed"]) == 3 and row["num_cases"] == 6 and row["train_size"] == 16 for row in rows)
    assert [(row["model"], row["total"]) for row in result["copies"]] == [("macdm", 16), ("guided_ddpm", 16)]
    far = result["far"]
    assert [(row["model"], row["total"]) for row in far] == [("macdm", 16), ("guided_ddpm", 16)]
    # Films of four training steps are none.
    assert all(row["value"] == 1.0 and row["nominal_rate"] == result["copies"][0]["nominal_rate"] for row in far)
    notes = [note for note in result["notes"] if "lie farther from every training film" in note]
    assert [note.split(" lie")[0] for note in notes] == ["16 of 16 films of MaC-DM", "16 of 16 films of DDPM without masks"]
    assert all(f"note: {note}" in printed for note in notes)
    assert {row["model"] for row in result["fit"]} == {"macdm"}
    assert {row["model"] for row in result["realism"]} == {"macdm", "guided_ddpm"}
    pairs = {(row["arm"], row["against"]) for row in result["differences"] if row["metric"] == "roc_auc"}
    assert pairs == {(model, control) for model in ("macdm", "guided_ddpm") for control in CONTROLS} | {
        ("macdm", "guided_ddpm")
    }
    for facts in result["models"].values():
        assert facts["steps"] == 4 and facts["seconds_per_pair"] > 0
    with np.load(out / "split" / "size-16" / "models" / "macdm" / "samples.npz") as samples:
        assert samples["masks"].shape == (16, 2, 16, 16) and np.bincount(samples["class_labels"]).tolist() == [8, 8]


def test_finished_parts_are_not_done_again(launched, real, tmp_path):
    """Killed and started again: what is missing is made, the same as before, and nothing else is touched."""
    out = tmp_path / "out"
    shutil.copytree(launched[0], out)
    before = json.loads((out / "comparison.json").read_text())
    (out / "comparison.json").unlink()
    kept = out / "split" / "size-16" / "models" / "macdm" / "facts.json"
    facts = json.loads(kept.read_text())
    kept.write_text(json.dumps({**facts, "num_parameters": 7}))  # would be undone by doing it again
    shutil.rmtree(out / "split" / "size-16" / "models" / "guided_ddpm")
    (out / "split" / "size-16" / "runs" / "diagnosis" / "guided_ddpm" / "seed-1.json").unlink()
    options = {**TINY, "models": ["macdm", "guided_ddpm"], "train_sizes": [16]}
    with pytest.raises(ValueError, match="begun with another seeds"):
        compare(real, out, **options, seeds=(0, 1))
    damaged = {
        "split/size-16/models/macdm/samples.npz": "samples.npz is damaged",
        "split/size-16/models/macdm/facts.json": "facts.json is damaged",
        "split/size-16/measures/macdm.json": "macdm.json is damaged",
    }
    measured = out / "split/size-16/measures/macdm.json"
    content = json.loads(measured.read_text())
    measured.write_text(json.dumps({name: part for name, part in content.items() if name != "far"}))
    with pytest.raises(ValueError, match="macdm.json is of an earlier version.*delete it, and it is made again"):
        compare(real, out, **options)
    measured.write_text(json.dumps(content))
    for name, message in damaged.items():
        content = (out / name).read_bytes()
        (out / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=f"{message}.*delete .*, and it is made again"):
            compare(real, out, **options)
        (out / name).write_bytes(content)
    more_workers = replace(TINY["budget"], num_workers=1)  # changes nothing that comes out
    again = compare(real, out, **{**options, "budget": more_workers})
    assert again["results"] == before["results"] and again["copies"] == before["copies"]
    assert json.loads(kept.read_text())["num_parameters"] == 7
    with pytest.raises(FileExistsError, match="finished comparison"):
        compare(real, out, **options)


def test_folds_of_the_held_out_cases(real, tmp_path):
    """Every held-out case is tested once, by networks beside the same pairs, which are measured once."""
    out = tmp_path / "out"
    result = compare(real, out, models=["conditional_gan"], held_out_folds=2, train_sizes=[16], seeds=(0,), **TINY)
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["held-out", "held-out-0", "held-out-1"]
    assert sorted(path.name for path in (out / "held-out/size-16").iterdir()) == ["measures", "models"]
    assert {row["num_cases"] for row in result["results"]} == {12} and {row["train_size"] for row in result["results"]} == {16}
    assert result["copies"][0]["total"] == 16
    assert all("per_fold" not in row for row in result["realism"])


def test_means_over_folds():
    folds = [
        [{"name": "kid", "label": None, "value": value, "interval": [0, 1], "real_versus_real": 2 * value, "note": "n"}]
        for value in (1.0, 2.0, 6.0)
    ]
    (row,) = over_folds(folds)
    margin = 4.302653 * np.std([1, 2, 6], ddof=1) / 3**0.5  # t quantile of two degrees of freedom
    assert row["value"] == 3 and row["real_versus_real"] == 6 and row["per_fold"] == [1, 2, 6]
    assert row["interval"] == pytest.approx([3 - margin, 3 + margin])
    assert over_folds(folds[:1]) == folds[0]
    (row,) = over_folds([[{**fold[0], "value": None}] for fold in folds])
    assert row["value"] is None and row["interval"] is None


@pytest.mark.slow
def test_folds(real, tmp_path):
    """All cases of the set are tested once; what is measured on the pairs is the mean over the folds."""
    result = compare(real, tmp_path / "out", models=["conditional_gan"], folds=3, seeds=(0,), **TINY)
    assert {row["num_cases"] for row in result["results"]} == {36}
    (row,) = [row for row in result["realism"] if row["name"] == "kid" and row["label"] is None]
    assert len(row["per_fold"]) == 3 and row["value"] == pytest.approx(np.mean(row["per_fold"]))
    assert any("Only 1 of 3 seeds" in note for note in result["notes"])
    assert all("no claim" in sentence for sentence in result["conclusion"])


@pytest.mark.slow
def test_every_model_at_two_sizes(real, tmp_path):
    result = compare(real, tmp_path / "out", seeds=(0,), train_sizes=[12, 24], **TINY)
    assert {row["train_size"] for row in result["results"]} == {12, 24}
    assert [(row["train_size"], row["total"]) for row in result["copies"]] == [
        (size, size) for size in (12, 24) for _ in MODELS
    ]
    assert set(result["models"]) == set(MODELS)
    assert {row["model"] for row in result["fit"]} == set(MODELS) - {"guided_ddpm"}


@pytest.mark.parametrize("name", ["embedding_steps", "resamples"])
def test_counts_are_refused_before_anything_is_written(real, tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}=0 is not allowed"):
        compare(real, tmp_path / "out", **{**TINY, name: 0})
    assert not (tmp_path / "out").exists()


def test_settings_that_cannot_work(real, tmp_path):
    for options, message in (
        ({"models": ["macdm", "stylegan"]}, "stylegan"),
        ({"seeds": (0, 0)}, "different numbers"),
        ({"num_synthetic": 1}, "num_synthetic=1"),
        ({"size": 18}, "18 px is not allowed"),
        ({"device": "gpu0"}, "device='gpu0' is not available"),
        ({"feature_extractor": "nowhere/at/all"}, "nowhere/at/all"),
        ({"pretrained_classifier": "nowhere/at/all"}, "nowhere/at/all: cannot be loaded"),
        ({"samples_per_class": [12]}, "cases of at least two labels must be left"),
        ({"size": 0}, "size=0 is not allowed: at least 8"),
        ({"seeds": (2**63,)}, "from 0 to 2.63 - 1"),
        ({"train_sizes": [1]}, "train size 1 is not allowed: from 2 to"),
        ({"budget": replace(TINY["budget"], num_inference_steps=1001)}, "there are 1000 noise levels"),
        ({"folds": 300}, "folds=300 is not allowed: the 36 cases of"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            compare(real, tmp_path / "out", **{**TINY, **options})
        assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="neither an empty folder"):
        compare(real, tmp_path / "full", **TINY)
