"""`macdm sweep`: the grid, the pairs of a point, its measures and references, resuming, the paper's finding."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from tiny_models import tiny_pipeline

from diffusers_macdm.commands import main as cli
from diffusers_macdm.data.cases import load_cases
from diffusers_macdm.phantom import write_phantom
from diffusers_macdm.sweep import sweep
from diffusers_macdm.sweep.findings import UNBOUNDED, finding
from diffusers_macdm.sweep.grid import grid_points, parse_grid, run_name, runs_of
from diffusers_macdm.sweep.pairs import sample_pairs


DEFAULTS = {
    "guidance_scale": 1.0,
    "guidance_interval": (0.0, 1.0),
    "strength": 1.0,
    "num_inference_steps": 25,
    "w2": 1.0,
    "w3": 1.0,
}
SMALL = {
    "num_per_class": 6,
    "downstream_steps": 4,
    "embedding_steps": 4,
    "classifier_width": 4,
    "segmenter_width": 4,
    "allow_unrecorded": True,
    "device": "cpu",
    "progress": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model that knows nothing, and a phantom."""
    folder = tmp_path_factory.mktemp("sweep")
    write_phantom(folder / "data", 12, 12, 32, 0)
    tiny_pipeline(num_class_embeds=3).save_pretrained(folder / "model")
    return folder


def test_what_a_grid_may_say():
    grid = parse_grid(["guidance_scale=0,1,2.5", "guidance_interval=0:1,0.2:0.8", "num_inference_steps=5,10", "w2=0.5"])
    assert grid == {
        "guidance_scale": [0, 1, 2.5],
        "guidance_interval": [(0, 1), (0.2, 0.8)],
        "num_inference_steps": [5, 10],
        "w2": [0.5],
    }
    for text, reason in {
        "w4=1": "one of guidance_scale",
        "strength": "NAME=VALUE",
        "strength=0": "strength '0' is not allowed: above 0",
        "strength=0.5,1.5": "strength '1.5' is not allowed",
        "guidance_scale=-1": "0 \\(off\\) or more",
        "guidance_scale=nan": "not allowed",
        "guidance_interval=0.8:0.2": "lo < hi",
        "num_inference_steps=2.5": "whole number",
        "w3=1,1": "a value stands there twice",
        "guidance_scale=": "guidance_scale '' is not allowed: 0 \\(off\\) or more",
        "guidance_interval=0:x": "lo < hi",
    }.items():
        with pytest.raises(ValueError, match=reason):
            parse_grid([text])
    with pytest.raises(ValueError, match="strength twice"):
        parse_grid(["strength=1", "strength=0.5"])


def test_each_alone_around_the_defaults_or_the_product_of_all():
    grid = {"guidance_scale": [0.0, 1.0], "strength": [0.5], "w2": [0.5]}
    alone = grid_points(grid, False)
    assert alone == [("guidance_scale", 0.0), ("guidance_scale", 1.0), ("strength", 0.5), ("w2", 0.5)]
    names = [[run_name(run, DEFAULTS) for run in runs_of(*point, DEFAULTS, [3, 4])] for point in alone]
    assert names == [
        ["guidance_scale=0.0"],
        ["defaults"],
        ["strength=0.5"],
        ["w2=0.5,w3=1.0,train_seed=3", "w2=0.5,w3=1.0,train_seed=4"],
    ]
    product = grid_points(grid, True)
    assert product == [(None, {"guidance_scale": g, "strength": 0.5, "w2": 0.5}) for g in (0.0, 1.0)]
    assert [run["w3"] for run in runs_of(*product[0], DEFAULTS, [3, 4])] == [1.0, 1.0]
    assert runs_of("strength", 0.5, DEFAULTS, [3, 4]) == [
        {"guidance_scale": 1.0, "guidance_interval": (0.0, 1.0), "strength": 0.5, "num_inference_steps": 25}
    ]


def test_variations_stand_under_the_patient_they_were_made_from(folder):
    training = load_cases(folder / "data", "train", 16)
    pipe = tiny_pipeline(num_class_embeds=3)
    run = {**DEFAULTS, "num_inference_steps": 10, "strength": 0.1, "guidance_scale": 0.0}
    pairs, unrefined = sample_pairs(pipe, run, training, [0, 1], 4, 7, 3)
    again, _ = sample_pairs(pipe, run, training, [0, 1], 4, 7, 8)
    torch.testing.assert_close(pairs.radiographs, again.radiographs, atol=2.1 / 255, rtol=0)  # whatever the batch
    assert pairs.class_labels.tolist() == [0, 1] * 4 and unrefined.shape == (8,)
    label_of = dict(zip(training.patient_ids, training.class_labels.tolist(), strict=True))
    assert [label_of[patient] for patient in pairs.patient_ids] == [0, 1] * 4
    generated, _ = sample_pairs(pipe, {**run, "strength": 1.0}, training, [0, 1], 4, 7, 8)
    assert not set(generated.patient_ids) & set(training.patient_ids)
    assert not generated.masks[::2, 1].any()  # refined: no lesion in a normal case


@pytest.fixture(scope="module")
def done(folder):
    grid = {"guidance_scale": [0.0, 1.0], "guidance_interval": [(0.0, 1.0), (0.2, 0.8)], "strength": [0.5]}
    out = folder / "done"
    return sweep(folder / "model", folder / "data", out, grid, **SMALL), out, grid


def test_measures_of_every_point_with_references(done):
    result, out, _ = done
    assert json.loads((out / "sweep.json").read_text())["points"][0]["measures"] == result["points"][0]["measures"]
    assert [(point["parameter"], point["value"]) for point in result["points"]] == [
        ("guidance_scale", 0.0),
        ("guidance_scale", 1.0),
        ("guidance_interval", (0.0, 1.0)),
        ("guidance_interval", (0.2, 0.8)),
        ("strength", 0.5),
    ]
    names = [entry["name"] for entry in result["points"][0]["measures"]]
    assert names == [
        "kid",
        "precision",
        "recall",
        "anatomy_mask_fit_dice",
        "lesion_mask_fit_dice",
        "class_agreement",
        "lesion_before_refinement",
        "no_lesion_in_normal_before_refinement",
        "median_copy_closeness",
        "copy_rate",
        "far_rate",
    ]
    # The films of a model that knows nothing are far from every training film, at every point.
    far = [point["measures"][-1] for point in result["points"]]
    assert [entry["value"] for entry in far[:4]] == [1.0] * 4 and result["references"]["far_rate"] == {"chance": 1 / 7}
    (note,) = [note for note in result["notes"] if "lie farther from every training film" in note]
    assert note.startswith(f"At {sum(entry['value'] > 0.5 for entry in far)} of 5 points")
    assert result["points"][1]["measures"] == result["points"][2]["measures"]  # both are the defaults
    assert sorted(path.name for path in (out / "points").iterdir()) == [
        "defaults.json",
        "guidance_interval=0.2-0.8.json",
        "guidance_scale=0.0.json",
        "strength=0.5.json",
    ]
    references = result["references"]
    assert set(references["kid"]) == {"two halves of the real cases"}
    assert set(references["anatomy_mask_fit_dice"]) == {"real cases", "shuffled pairs"}
    with open(out / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 and rows[3]["parameter"] == "guidance_interval" and rows[3]["value"] == "0.2:0.8"
    for row, point in zip(rows, result["points"], strict=True):
        assert float(row["kid"]) == point["measures"][0]["value"]
        assert float(row["kid_high"]) == point["measures"][0]["interval"][1]
    assert "data:image/png;base64," in (out / "index.html").read_text()


def test_a_killed_run_goes_on_and_other_settings_are_refused(done, folder):
    result, out, grid = done
    networks = {path: path.stat().st_mtime_ns for path in (out / "networks").rglob("*") if path.is_file()}
    kept = {path: path.stat().st_mtime_ns for path in (out / "points").iterdir()}
    for path in (out / "sweep.json", out / "index.html", out / "points" / "strength=0.5.json"):
        path.unlink()
    again = sweep(folder / "model", folder / "data", out, grid, **SMALL)
    assert again == result
    assert {path: path.stat().st_mtime_ns for path in networks} == networks  # nothing is trained twice
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items() if path.name != "strength=0.5.json")
    with pytest.raises(FileExistsError, match="finished sweep"):
        sweep(folder / "model", folder / "data", out, grid, **SMALL)
    with pytest.raises(ValueError, match="begun with another seed \\(0, now 1\\)"):
        (out / "sweep.json").unlink()
        sweep(folder / "model", folder / "data", out, grid, **SMALL, seed=1)
    damaged = out / "points" / "defaults.json"
    for content in (damaged.read_text()[:50], "{}"):
        damaged.write_text(content)
        with pytest.raises(ValueError, match="defaults.json is damaged .*; delete it, and it is made again"):
            sweep(folder / "model", folder / "data", out, grid, **SMALL)
    with pytest.raises(FileExistsError, match="neither an empty folder nor an interrupted sweep"):
        sweep(folder / "model", folder / "data", folder / "data", grid, **SMALL)


def test_weights_are_trained_anew_for_each_seed(folder):
    out = folder / "weights"
    grid = {"w2": [0.5, 1.0]}
    small = {**SMALL, "train_steps": 4, "train_seeds": (0, 1), "batch_size": 4, "num_per_class": 4}
    result = sweep(folder / "model", folder / "data", out, grid, **small)
    assert sorted(path.name for path in (out / "models").iterdir()) == [
        f"w2={w2},w3=1.0,train_seed={seed}" for w2 in (0.5, 1.0) for seed in (0, 1)
    ]
    config = json.loads((out / "models" / "w2=0.5,w3=1.0,train_seed=0" / "unet" / "config.json").read_text())
    assert config["channel_weights"] == [1.0, 0.5, 1.0] and config["block_out_channels"] == [8, 16]
    for point in result["points"]:
        kids = [run["measures"][0] for run in point["runs"]]
        values = np.array([kid["value"] for kid in kids])
        assert values[0] != values[1]
        halves = np.array([np.diff(kid["interval"])[0] / 2 for kid in kids])
        half = ((halves**2).mean() + (student.ppf(0.975, 1) * values.std(ddof=1)) ** 2 / 2) ** 0.5
        kid = point["measures"][0]
        assert kid["value"] == pytest.approx(values.mean())
        np.testing.assert_allclose(kid["interval"], [values.mean() - half, values.mean() + half])
        shares = [entry["interval"] for entry in point["measures"] if entry["name"] not in UNBOUNDED and entry["interval"]]
        assert len(shares) > 3 and all(0 <= low <= high <= 1 for low, high in shares)
    assert result["findings"]["w2"]["verdict"] in ("confirmed", "refuted", "not decided")
    assert any("fewer than 3 carry no claim" in note for note in result["notes"])


def runs(values):
    return [
        {"settings": {"w2": weight, "train_seed": seed}, "measures": [{"name": "kid", "value": kid}]}
        for seed, (weight, kid) in enumerate(values)
    ]


@pytest.mark.parametrize(
    "below, above, verdict",
    [
        ([0.10, 0.11, 0.09], [0.30, 0.32, 0.31], "confirmed"),
        ([0.30, 0.32, 0.31], [0.10, 0.11, 0.09], "refuted"),
        ([0.10, 0.30, 0.20], [0.15, 0.32, 0.22], "not decided"),
        ([0.1, 0.1], [0.9], "not decided"),
    ],
)
def test_the_papers_finding_is_decided_by_the_interval_over_trainings(below, above, verdict):
    points = [{"parameter": "w2", "runs": runs([(0.8, kid) for kid in below])}]
    points += [{"parameter": "w2", "runs": runs([(0.81, kid) for kid in above])}]
    points += [{"parameter": "w3", "runs": runs([(1.0, 100.0), (1.0, 101.0)])}]  # another weight's trainings do not count
    found = finding("w2", points)
    assert found["verdict"] == verdict and verdict in found["sentence"]
    assert found["difference"] == pytest.approx(np.mean(above) - np.mean(below))
    if len(above) == 3:
        a, b = np.var(above, ddof=1) / 3, np.var(below, ddof=1) / 3
        half = student.ppf(0.975, (a + b) ** 2 / (a**2 / 2 + b**2 / 2)) * (a + b) ** 0.5
        np.testing.assert_allclose(found["interval"], [found["difference"] - half, found["difference"] + half])


def test_the_command_and_what_it_refuses(folder, tmp_path, capsys):
    common = ("sweep", folder / "model", "--real", folder / "data", "--device", "cpu")
    tiny = ("--num-per-class", 3, "--downstream-steps", 2, "--embedding-steps", 2, "--width", 4)
    out = tmp_path / "out"

    def refused(*arguments):
        assert cli.main(list(map(str, [*common, *arguments]))) == 1 and not out.exists()
        return capsys.readouterr().err

    assert "--allow-unrecorded" in refused("--out", out, "--grid", "num_inference_steps=2", *tiny)
    sentence = refused("--out", out, "--grid", "strength=2")
    assert sentence.count("\n") == 1 and "strength '2' is not allowed" in sentence
    command = [*common, "--out", out, "--grid", "num_inference_steps=2,4", *tiny, "--allow-unrecorded"]
    run = subprocess.run([sys.executable, "-m", "diffusers_macdm", *map(str, command)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "2 points measured" in run.stdout and "the KID is smallest at" in run.stdout


def test_both_readings_of_the_weights_and_fewer_training_cases(folder):
    """Where the weights act is the model's own reading unless another one is asked for."""
    small = {**SMALL, "train_steps": 2, "train_seeds": (0,), "batch_size": 4, "num_per_class": 2}
    more = {"mask_weighting": "signal", "samples_per_class": [5, 4], "learning_rate": 1e-3}
    result = sweep(folder / "model", folder / "data", folder / "signal", {"w3": [2.0]}, **small, **more)
    trained = folder / "signal" / "models" / "w2=1.0,w3=2.0,train_seed=0"
    for network in ("unet", "guidance_classifier"):
        config = json.loads((trained / network / "config.json").read_text())
        assert config["channel_weights"] == [1, 1, 2] and config["mask_weighting"] == "signal"
    assert json.loads((trained / "scheduler" / "scheduler_config.json").read_text())["clip_sample_range"] == 2
    assert result["settings"]["training_cases"] == 9 and result["settings"]["mask_weighting"] == "signal"
    reading = sweep(folder / "model", folder / "data", folder / "input", {"w3": [2.0]}, **small)
    assert reading["settings"]["mask_weighting"] == "input" and reading["settings"]["training_cases"] == 24


def test_what_is_refused_before_anything_is_written(folder, tmp_path):
    for grid, options, message in (
        ({"num_inference_steps": [5, 2000]}, {}, "num_inference_steps 2000 is not allowed: .*model knows 1000 noise levels"),
        ({"w2": [0.5]}, {"train_steps": 0}, "steps=0 is not allowed"),
        ({"w2": [0.5]}, {"mask_weighting": "both"}, "mask_weighting='both' is not known; allowed are input, signal"),
        ({"w2": [0.5]}, {"train_seeds": (-1,)}, "train_seeds"),
        ({"strength": [0.5]}, {"downstream_steps": 0}, "steps=0 is not allowed"),
        ({"strength": [0.5]}, {"classifier_width": 0}, "width=0 is not allowed"),
        ({"strength": [0.5]}, {"device": "gpu0"}, "device='gpu0' is not available"),
        ({"strength": [0.5]}, {"feature_extractor": "nowhere/at/all"}, "nowhere/at/all"),
        ({"strength": [0.5]}, {"samples_per_class": [3]}, "cases of at least two labels"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            sweep(folder / "model", folder / "data", tmp_path / "out", grid, **{**SMALL, **options})
        assert not (tmp_path / "out").exists()


def test_a_model_of_other_films_is_refused(folder, tmp_path):
    """Its copies would be looked for among films that it has never seen."""
    model = tmp_path / "model"
    shutil.copytree(folder / "model", model)
    record = {"data": {"image_sha256": {"a": "0" * 64}, "patients": []}, "earlier_trainings": []}
    for name in ("training_config.json", "guidance_classifier_training_config.json"):
        (model / name).write_text(json.dumps(record))
    with pytest.raises(ValueError, match="none of the 1 images that trained the model is in its train split"):
        sweep(model, folder / "data", tmp_path / "out", {"strength": [0.5]}, **SMALL)
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_guidance_classifier_cannot_be_guided(folder, tmp_path):
    tiny_pipeline(with_classifier=False, num_class_embeds=3).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="has no guidance classifier"):
        sweep(tmp_path / "model", folder / "data", tmp_path / "out", {"guidance_scale": [1.0]}, **SMALL)
    tiny_pipeline(with_classifier=False, num_class_embeds=None).save_pretrained(tmp_path / "unconditional")
    with pytest.raises(ValueError, match="knows 0 labels"):
        sweep(tmp_path / "unconditional", folder / "data", tmp_path / "out", {"guidance_scale": [0.0]}, **SMALL)
