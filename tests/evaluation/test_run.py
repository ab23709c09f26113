"""`macdm evaluate` from end to end, launched as users do, where nothing can be learned: the numbers must still fit."""

import json
import shutil
import subprocess
import sys

import pytest
from tiny_models import tiny_pipeline

from diffusers_macdm.evaluation import evaluate
from diffusers_macdm.evaluation.downstream import DownstreamTraining
from diffusers_macdm.phantom import write_phantom


TINY = {
    "size": 16,
    "downstream_steps": 4,
    "downstream_batch_size": 8,
    "validate_every": 2,
    "classifier_width": 4,
    "segmenter_width": 4,
    "resamples": 40,
    "allow_unrecorded": True,
    "device": "cpu",
    "progress": False,
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    write_phantom(folder / "real", 12, 12, 32, 0)
    write_phantom(folder / "synthetic", 12, 12, 32, 5)
    for split in ("validation", "test"):
        shutil.rmtree(folder / "synthetic" / split)
    metadata = folder / "synthetic" / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    rows = [{**{key: row[key] for key in row if key not in ("patient_id", "site")}, "model": "m"} for row in rows]
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "real", folder / "synthetic"


@pytest.fixture(scope="module")
def launched(sets, tmp_path_factory):
    """OUT and standard output of a command with two arms."""
    out = tmp_path_factory.mktemp("launched") / "out"
    real, synthetic = sets
    command = [
        sys.executable,
        "-m",
        "diffusers_macdm",
        "evaluate",
        "--real",
        real,
        "--synthetic",
        synthetic,
        "--out",
        out,
    ]
    command += "--size 16 --steps 4 --batch-size 8 --validate-every 2 --classifier-width 4 --segmenter-width 4".split()
    command += "--resamples 40 --ratios 1 --allow-unrecorded --device cpu --seeds 0 1 2".split()
    command += ["--arms", "real_only", "real_plus_synthetic_1"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_the_command(launched):
    out, printed = launched
    result = json.loads((out / "evaluation.json").read_text())
    lines = printed.strip().splitlines()
    assert lines[-2:] == result["conclusion"] and len(result["conclusion"]) == 2
    assert all("no claim is made, not every control was evaluated" in sentence for sentence in result["conclusion"])
    assert (out / "index.html").read_text().count(result["conclusion"][0]) == 1
    measured = {(row["task"], row["metric"]) for row in result["results"] if row["task"] != "generation"}
    assert len(measured) == 9
    for row in result["results"]:
        if row["task"] != "generation":
            assert row["num_cases"] == 6 and len(row["per_seed"]) == 3
    assert {row["metric"] for row in result["results"] if row["task"] == "generation"} >= {
        "kid",
        "precision",
        "recall",
    }
    assert result["realism"]["measures"] and result["fit"]["measures"] and result["settings"]["size"] == 16
    assert {name: (arm["num_real"], arm["num_synthetic"], arm["steps"]) for name, arm in result["arms"].items()} == {
        "real_only": (24, 0, 4),
        "real_plus_synthetic_1": (24, 24, 4),
    }
    assert any("test patients with" in note for note in result["notes"])


def test_values_come_from_the_recorded_predictions(launched):
    out, _ = launched
    result = json.loads((out / "evaluation.json").read_text())
    row = next(r for r in result["results"] if (r["metric"], r["arm"]) == ("anatomy_dice", "real_only"))
    runs = [json.loads(path.read_text()) for path in sorted((out / "runs/split/segmentation/real_only").glob("seed-*.json"))]
    assert row["per_seed"] == pytest.approx([sum(r["columns"]["anatomy_dice"]) / 6 for r in runs])
    assert len(runs) == 3 and runs[0]["columns"] != runs[1]["columns"]


def test_a_finished_evaluation_and_foreign_folders_are_refused(launched, sets, tmp_path):
    with pytest.raises(FileExistsError, match="finished evaluation"):
        evaluate(*sets, launched[0], **TINY)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="neither an empty folder"):
        evaluate(*sets, tmp_path, **TINY)


def test_an_interrupted_evaluation_goes_on_and_ends_with_the_same_numbers(launched, sets, tmp_path, monkeypatch):
    whole = launched[0]
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "evaluation.json").unlink()
    (out / "index.html").unlink()
    removed = out / "runs" / "split" / "diagnosis" / "real_plus_synthetic_1" / "seed-1.json"
    removed.unlink()
    trained = []
    train = DownstreamTraining.train
    monkeypatch.setattr(
        DownstreamTraining,
        "train",
        lambda self, task, *rest, **more: trained.append(task) or train(self, task, *rest, **more),
    )
    arms = {"arms": ["real_only", "real_plus_synthetic_1"], "ratios": [1]}
    with pytest.raises(ValueError, match="begun with another budgets diagnosis steps \\(4, now 5\\)"):
        evaluate(*sets, out, **{**TINY, "downstream_steps": 5}, **arms)
    evaluate(*sets, out, **TINY, **arms)
    assert trained == ["diagnosis"]
    first, second = (json.loads((folder / "evaluation.json").read_text()) for folder in (whole, out))
    for part in ("conclusion", "results", "differences", "arms", "realism", "fit"):
        assert first[part] == second[part]


def test_damaged_files_are_named_and_data_may_move(launched, sets, tmp_path):
    out, moved = tmp_path / "out", tmp_path / "moved"
    shutil.copytree(launched[0], out)
    shutil.copytree(sets[0], moved)
    (out / "evaluation.json").unlink()
    damaged = out / "runs" / "split" / "diagnosis" / "real_only" / "seed-1.json"
    whole = damaged.read_text()
    arms = {"arms": ["real_only", "real_plus_synthetic_1"], "ratios": [1]}
    run_of = json.loads(whole)
    columns = run_of["columns"]
    short = {name: values[1:] for name, values in columns.items()}
    texts = {name: ["a"] * len(values) for name, values in columns.items()}
    parts = [{"names": []}, {"columns": {}}, {"columns": short}, {"columns": texts}, {"columns": None}]
    without_seconds = {name: value for name, value in run_of.items() if name != "seconds"}
    for content in (
        whole[:100],
        "[]",
        "{}",
        json.dumps(without_seconds),
        *(json.dumps({**run_of, **part}) for part in parts),
    ):
        damaged.write_text(content)
        with pytest.raises(ValueError, match="seed-1.json .*; delete it, and it is made again"):
            evaluate(moved, sets[1], out, **TINY, **arms)
    damaged.unlink()
    result = evaluate(moved, sets[1], out, **TINY, **arms)  # the same films in another place
    before = json.loads((launched[0] / "evaluation.json").read_text())
    assert [row["value"] for row in result["results"]] == [row["value"] for row in before["results"]]


def test_folds_sites_filters_and_few_seeds(sets, tmp_path):
    model = tmp_path / "model"
    tiny_pipeline().save_pretrained(model)
    result = evaluate(
        *sets,
        tmp_path / "out",
        **TINY,
        seeds=[0],
        tasks=["diagnosis"],
        arms=["real_only"],
        ratios=[1],
        filters=["classifier", "segmenter", "network"],
        model=model,
        folds=2,
        leave_one_site_out=True,
        skip_realism=True,
    )
    rows = {row["arm"]: row for row in result["results"] if row["primary"]}
    assert rows["real_only"]["num_cases"] == 12  # validation and test together
    assert {row["fold"] for row in result["by_fold"]} == {"fold-0", "fold-1"}
    assert sum(row["num_cases"] for row in result["by_fold"] if row["arm"] == "real_only") == 12
    assert {row["arm"] for row in result["by_site"] or []} <= {"real_only", "real_plus_synthetic_1"}
    for row in result["filters"].values():
        assert row["kept"] + row["dropped"] == 24
        assert all(found["against"] == "real_plus_synthetic_1" for found in row["differences"])
    assert result["realism"] is None and "3 seeds" in " ".join(result["notes"])


def test_what_is_not_allowed_is_said_before_any_work(sets, tmp_path):
    for arguments, message in (
        ({"arms": ["real"]}, "arm 'real' is not allowed: real_only"),
        ({"tasks": ["detection"]}, "task 'detection'"),
        ({"filters": ["human"]}, "filter 'human'"),
        ({"filters": ["network"]}, "--model"),
        ({"seeds": [0, 0]}, "seeds"),
        ({"ratios": [-1]}, "ratio -1"),
        ({"downstream_steps": 0}, "steps=0"),
        ({"device": "gpu0"}, "device='gpu0' is not available"),
        ({"size": 18, "segmenter_width": 0}, "width=0"),
        ({"feature_extractor": "nowhere/at/all"}, "nowhere/at/all"),
        ({"feature_extractor": "extractor.pt"}, "extractor.pt: no such TorchScript file"),
        ({"pretrained_classifier": "nowhere/at/all"}, "nowhere/at/all: cannot be loaded"),
        ({"samples_per_class": [12, 0]}, "cases of at least two labels must be left"),
        ({"samples_per_class": [12, 99]}, "samples_per_class 99 of label 1 is not allowed: the train split has 12"),
        ({"downstream_steps": 1}, "steps=1 is not allowed: synthetic_pretraining needs at least 2"),
        ({"seeds": [2**63]}, "from 0 to 2.63 - 1"),
        ({"device": "meta"}, "device='meta' is not available: cpu"),
        ({"folds": 200}, "folds=200 is not allowed: the 12 cases of"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            evaluate(*sets, tmp_path / "out", **{**TINY, **arguments})
    assert not (tmp_path / "out").exists()
