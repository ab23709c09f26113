"""`macdm audit` from folders to files, on a set so small that a threshold means little; what it finds is planted."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from audit_data import films, write_split
from PIL import Image
from tiny_models import tiny_pipeline

from diffusers_macdm.audit import audit
from diffusers_macdm.audit import page as report
from diffusers_macdm.audit.copies import false_alarm_interval
from diffusers_macdm.audit.detector import build_detector
from diffusers_macdm.audit.radiographs import load_radiographs
from diffusers_macdm.audit.variations import telling_level
from diffusers_macdm.audit.verdict import outcome, verdict
from diffusers_macdm.commands import main as cli
from diffusers_macdm.statistics.proportions import proportion


QUICK = {"embedding_steps": 1, "planted": 2, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "data"
    write_split(folder / "train", films(8, 0), patient_id=[f"t{i}" for i in range(8)])
    write_split(folder / "validation", films(10, 1), patient_id=[f"v{i}" for i in range(10)])
    write_split(folder / "test", films(2, 2), patient_id=["s0", "s1"])
    return folder


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """Copies of training images 0 (as it is), 3 (mirrored) and 5 (shifted), then three films of nobody in the set."""
    training = films(8, 0)
    shifted = np.zeros_like(training[5])
    shifted[:, 2:] = training[5][:, :-2]
    made = [training[0], training[3][:, ::-1], shifted, *films(3, 3)]
    folder = tmp_path_factory.mktemp("made") / "data"
    write_split(folder / "train", made, strength=[None, None, None, 0.5, 0.5, 0.5], source=[None] * 3 + ["a", "b", "c"])
    return folder


@pytest.fixture(scope="module")
def audited(real, synthetic, tmp_path_factory):
    out = tmp_path_factory.mktemp("audits") / "audit"
    return out, audit(real, synthetic, out, **QUICK)


def lines_of(out):
    return [json.loads(line) for line in (out / "audit.jsonl").read_text(encoding="utf-8").splitlines()]


def nothing_beside(out):
    return not out.exists() and not list(out.parent.glob(f".{out.name}.*"))


def test_planted_copies_are_found_and_traced(audited):
    out, result = audited
    lines = lines_of(out)
    assert [line["image_file_name"] for line in lines] == [f"images/train_{i:03d}.png" for i in range(6)]
    assert [line["nearest_training_image"] for line in lines[:3]] == [f"images/train_{i:03d}.png" for i in (0, 3, 5)]
    assert [line["copy"] for line in lines[:3]] == [True] * 3
    assert max(line["aligned_distance"] for line in lines[:2]) < 0.002
    assert result["copy_rate"]["copies"] == sum(line["copy"] for line in lines) >= 3
    assert result["training_images_copied"]["copied"] >= 3 and result["training_images_copied"]["total"] == 8


def test_every_line_has_every_measure(audited):
    out, _ = audited
    keys = {
        "image_file_name", "nearest_training_image", "aligned_distance", "nearest_ratio", "pixel_distance", "pixel_nearest",
        "embedding_distance", "embedding_nearest", "closeness", "authentic", "copy", "far", "label",
    }  # fmt: skip
    lines = lines_of(out)
    assert len(lines) == 6
    assert all(set(line) == keys for line in lines[:3])
    assert all(set(line) == keys | {"strength", "source"} for line in lines[3:])
    assert [line["label"] for line in lines] == [0, 1] * 3
    assert lines[0]["pixel_distance"] == 0 and lines[0]["authentic"] is False


def test_result_is_what_the_file_says(audited):
    out, result = audited
    stored = json.loads((out / "audit.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert stored == json.loads(json.dumps(result))
    assert {path.name for path in out.iterdir()} == {
        "audit.json", "audit.jsonl", "index.html", "montage.png", "distances.png", "embedding",
    }  # fmt: skip
    assert set(stored["by_strength"]) == {"0.5", "none"} and stored["by_strength"]["none"]["copies"] == 3
    assert set(stored["by_label"]) == {"0", "1"}
    assert stored["false_alarms"]["total"] == 2
    assert stored["nominal_false_alarm_rate"]["interval"] == list(false_alarm_interval(10))
    assert all(part["total"] == 2 for part in stored["sensitivity"].values())
    assert stored["sensitivity"]["exact"]["attributed"] == 1
    assert stored["membership"] is None and stored["strength_curve"] is None
    assert "Only 10 validation images set the threshold; 100 make it firm." in stored["notes"]


def test_page_says_the_verdict(audited):
    out, result = audited
    page = (out / "index.html").read_text(encoding="utf-8")
    assert result["verdict"] in page
    assert page.count("data:image/png;base64,") == 2
    assert "train_000" not in page.split("<h2>Settings")[0].split("base64")[0]
    with Image.open(out / "montage.png") as montage:
        assert montage.width > montage.height > 100


def test_an_earlier_embedding_gives_the_same_verdicts(audited, real, synthetic, tmp_path):
    out, _ = audited
    again = audit(real, synthetic, tmp_path / "again", **{**QUICK, "embedding_steps": 7}, embedding=out / "embedding")
    for line, before in zip(lines_of(tmp_path / "again"), lines_of(out), strict=True):
        assert line == pytest.approx(before, abs=1e-6)
    assert again["settings"]["embedding_steps"] == 1  # of the training that it comes from


# --- with the model


def test_model_restricts_the_cases_and_brings_membership_and_the_curve(real, synthetic, tmp_path):
    model = tmp_path / "model"
    tiny_pipeline(with_classifier=False).save_pretrained(model)
    cases = [f"train_{i:03d}" for i in (0, 1, 2, 5)]
    (model / "training_config.json").write_text(json.dumps({"data": {"cases": [*cases, "elsewhere"]}}))
    result = audit(real, synthetic, tmp_path / "out", model=model, strengths=[0.02], variations=2, **QUICK)
    assert result["settings"]["training_images"] == 4 and result["settings"]["training_images_available"] == 8
    assert f"1 of the 5 images that trained the model are not in the train split of {real}." in result["notes"]
    allowed = {f"images/{case}.png" for case in cases}
    assert {line["nearest_training_image"] for line in lines_of(tmp_path / "out")} <= allowed
    assert (result["membership"]["members"], result["membership"]["others"]) == (4, 10)
    low, high = result["membership"]["interval"]
    assert 0 <= low <= result["membership"]["auc"] <= high <= 1
    # one step of noise: a variation is its case still
    (point,) = result["strength_curve"]
    assert (point["strength"], point["total"]) == (0.02, 2) and point["nearest_is_source"] >= 0.5
    assert (tmp_path / "out/strengths.png").is_file()
    assert "AUC" in (tmp_path / "out/index.html").read_text(encoding="utf-8")


def test_model_of_other_cases_is_refused(real, synthetic, tmp_path):
    model = tmp_path / "model"
    tiny_pipeline(with_classifier=False).save_pretrained(model)
    (model / "training_config.json").write_text(json.dumps({"data": {"cases": ["x", "y"]}}))
    with pytest.raises(ValueError, match="none of the 2 images that trained the model is in its train split"):
        audit(real, synthetic, tmp_path / "out", model=model, **QUICK)


# --- what is left out


def test_validation_images_that_would_make_copies_look_ordinary_are_left_out(real, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(real / "train", folder / "train")
    validation = [films(8, 0)[2], *films(4, 1)]
    write_split(folder / "validation", validation, patient_id=["v0", "v1", "t4", "v3", "v4"])
    training, validation = (load_radiographs(folder, split) for split in ("train", "validation"))
    detector, notes = build_detector(training, validation, embedding_steps=1)
    assert len(detector.null) == 3
    assert notes == [
        "1 validation images stand in the training split, too and were left out of the comparison: validation_000.",
        "1 validation images are of patients with training images and were left out of the comparison: validation_002.",
    ]


# --- errors


@pytest.fixture
def smallest(tmp_path):
    write_split(tmp_path / "real/train", films(2, 0))
    write_split(tmp_path / "real/validation", films(2, 1))
    write_split(tmp_path / "made/train", films(1, 2))
    return tmp_path


def remove_validation(folder):
    shutil.rmtree(folder / "real/validation")


def break_an_image(folder):
    Image.new("RGB", (32, 32)).save(folder / "real/train/images/train_001.png")


def occupy_out(folder):
    (folder / "out").mkdir()
    (folder / "out/mine.txt").write_text("mine")


def one_validation_image(folder):
    remove_validation(folder)
    write_split(folder / "real/validation", films(1, 1))


@pytest.mark.parametrize(
    "damage, settings, error, message",
    [
        (remove_validation, {}, ValueError, "there is no split 'validation'"),
        (break_an_image, {}, ValueError, "train_001: train/images/train_001.png: The radiograph has PIL mode 'RGB'"),
        (occupy_out, {}, FileExistsError, "out exists and is not an empty folder; nothing is overwritten"),
        (one_validation_image, {}, ValueError, "1 validation images to compare with: at least 2"),
        (None, {"strengths": [0.5]}, ValueError, "needs a model"),
        (None, {"strengths": [1.5], "model": "m"}, ValueError, "strengths=1.5 is not allowed"),
        (None, {"embedding": "nowhere"}, FileNotFoundError, "nowhere: there is no embedding here"),
        (None, {"embedding_steps": 0}, ValueError, "embedding_steps=0 is not allowed"),
        (None, {"synthetic": "nowhere"}, FileNotFoundError, "nowhere: no such folder"),
    ],
)
def test_errors_name_what_is_wrong_and_write_nothing(smallest, damage, settings, error, message):
    if damage is not None:
        damage(smallest)
    before = sorted(smallest.rglob("*"))
    sets = {"real": smallest / "real", "synthetic": smallest / "made", "out": smallest / "out"}
    with pytest.raises(error, match=message):
        audit(**{**sets, **QUICK, **settings})
    assert sorted(smallest.rglob("*")) == before


def test_interrupted_while_it_writes(smallest, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "write_page", interrupted)
    with pytest.raises(KeyboardInterrupt):
        audit(smallest / "real", smallest / "made", smallest / "out", **{**QUICK, "planted": 1})
    assert nothing_beside(smallest / "out")


def test_command(smallest):
    """As a user launches it, into an empty folder; a second time the folder is refused."""
    (smallest / "out").mkdir()
    arguments = ["audit", "--real", smallest / "real", "--synthetic", smallest / "made", "--out", smallest / "out"]
    arguments = [str(argument) for argument in [*arguments, "--embedding-steps", 1, "--planted", 1, "--device", "cpu"]]
    result = subprocess.run([sys.executable, "-m", "diffusers_macdm", *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    stored = json.loads((smallest / "out/audit.json").read_text(encoding="utf-8"))
    assert result.stdout.splitlines()[0] == stored["verdict"]
    assert "planted copies, exact: 1 of 1 found" in result.stdout
    assert cli.main(arguments) == 1


def test_command_prints_the_sentence(smallest, capsys):
    remove_validation(smallest)
    arguments = ["audit", "--real", smallest / "real", "--synthetic", smallest / "made", "--out", smallest / "out"]
    assert cli.main([str(argument) for argument in arguments]) == 1
    last_line = capsys.readouterr().err.strip().splitlines()[-1]  # `datasets` shows its progress before
    assert last_line.startswith("macdm audit: ") and "there is no split 'validation'" in last_line


# --- the verdict


def result_of(copies, total, found=95, far=0):
    def part(count):
        return {**proportion(np.arange(100) < count), "found": count}

    result = {
        "copy_rate": {**proportion(np.arange(total) < copies), "copies": copies},
        "far_rate": {**proportion(np.arange(total) < far), "far": far},
        "nominal_false_alarm_rate": {"value": 0.05, "interval": list(false_alarm_interval(200))},
        "sensitivity": {"exact": part(100), "shifted": part(found), "combined": part(10)},
        "reliable": found >= 80,
    }
    return {**result, "outcome": outcome(result)}


def test_verdicts():
    honest, copier, unreliable = result_of(12, 200), result_of(150, 200), result_of(12, 200, found=60)
    assert verdict(honest) == (
        "12 of 200 synthetic images lie closer to a training image than 95 % of validation images do; the audit finds 98 % of "
        "planted copies with a single alteration, 10% of combined ones. That is no more than chance gives (5 %)."
    )
    assert verdict(copier).endswith(" That is more than chance gives: the model copies its training images.")
    assert "The audit cannot be relied on: it misses too many planted copies (shifted 60% found)." in verdict(unreliable)
    assert "chance" not in verdict(unreliable)
    assert [result["outcome"] for result in (honest, copier, unreliable)] == ["chance", "copies", "unreliable"]


def test_verdict_on_samples_that_are_no_films():
    """Far from everybody, none is a copy: what would reassure says nothing."""
    static = result_of(0, 12, far=12)
    assert static["outcome"] == "far"
    assert verdict(static).startswith(
        "12 of 12 synthetic images lie farther from every training film than real films are (95 % of the validation images): "
        "this says nothing about copying. 0 of 12 synthetic images lie closer"
    )
    assert "chance" not in verdict(static)
    some = result_of(0, 200, far=60)
    assert some["outcome"] == "chance" and "60 of 200 synthetic images lie farther" in verdict(some)
    assert "of these it says nothing about copying." in verdict(some)
    assert "farther" not in verdict(result_of(0, 200, far=10))  # as many as of real films
    assert result_of(150, 200, far=150)["outcome"] == "copies"
    assert result_of(0, 12, found=60, far=12)["outcome"] == "unreliable"


def test_static_is_audited_as_no_films(real, audited, tmp_path):
    static = np.random.default_rng(0).integers(0, 256, (6, 32, 32), dtype=np.uint8)
    write_split(tmp_path / "made" / "train", static)
    embedding = audited[0] / "embedding"
    result = audit(real, tmp_path / "made", tmp_path / "out", embedding=embedding, **QUICK | {"planted": 20})
    assert result["far_rate"]["far"] == 6 and result["copy_rate"]["copies"] == 0
    assert all(line["far"] for line in lines_of(tmp_path / "out"))
    if result["reliable"]:
        assert result["outcome"] == "far"
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert 'class="verdict bad"' in page and "farther from every training" in page


def test_real_films_are_not_far(audited):
    lines = lines_of(audited[0])
    assert [line["far"] for line in lines[:3]] == [False] * 3  # copies, one of them mirrored
    assert sum(line["far"] for line in lines[3:]) <= 1


def test_a_set_against_itself_is_refused(real, tmp_path):
    other = tmp_path / "renamed"
    shutil.copytree(real / "train", other / "train")
    for synthetic in (real, other):
        with pytest.raises(ValueError, match="the very films that train the real set .*, pixel by pixel"):
            audit(real, synthetic, tmp_path / "out", **QUICK)
        assert nothing_beside(tmp_path / "out")


def test_an_unfinished_set_is_refused(real, synthetic, tmp_path):
    shutil.copytree(synthetic, tmp_path / "half")
    (tmp_path / "half" / "generation.json").write_text('{"settings": {}, "versions": {}}')
    with pytest.raises(ValueError, match=r"half: .*a generated set that is not finished \(summary.json is missing\): run the"):
        audit(real, tmp_path / "half", tmp_path / "out", **QUICK)
    assert nothing_beside(tmp_path / "out")


def test_telling_level_is_where_the_curve_stays_at_chance():
    def curve(**lows):
        both = lambda low: {"interval": [low, 1.0], "nearest_is_source_interval": [0.0, 0.06]}  # noqa: E731
        return [{"strength": float(key[1:]) / 10, **both(low)} for key, low in lows.items()]

    assert telling_level(curve(s2=0.5, s4=0.02, s6=0.01, s8=0.0)) == 0.4
    assert telling_level(curve(s2=0.01, s4=0.2, s6=0.01)) == 0.6  # what lies above a level that copies
    assert telling_level(curve(s2=0.5, s9=0.3)) is None
    traced = {"strength": 0.3, "interval": [0.0, 0.1], "nearest_is_source_interval": [0.2, 0.5]}
    assert telling_level([*curve(s6=0.01), traced]) == 0.6  # no copies any more, but traced to their sources
    few = proportion([False] * 16)["interval"]
    assert telling_level([{"strength": 0.2, "interval": few, "nearest_is_source_interval": few}]) is None  # proves nothing


def test_loaded_radiographs(real):
    loaded = load_radiographs(real, "train", columns=("patient_id", "strength"))
    assert loaded.images.shape == (8, 64, 64) and loaded.images.dtype == torch.uint8
    assert loaded.files[3] == "images/train_003.png" and loaded.names[3] == "train_003"
    assert loaded.rows[3] == {"patient_id": "t3"} and loaded.patients[3] == "t3" and loaded.labels[3] == 1
    assert loaded.side == 32 and load_radiographs(real, "train", 16).side == 16
    assert loaded.select([3, 1]).names == ["train_003", "train_001"]
