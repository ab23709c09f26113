"""The three first experiments with a model that knows nothing: the numbers must still fit one another."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_models import tiny_pipeline

from diffusers_macdm.phantom import write_phantom


SCRIPT = Path(__file__).parents[2] / "pipelines/first_experiments.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    write_phantom(folder / "data", 12, 12, 32, 0)
    tiny_pipeline(num_class_embeds=3).save_pretrained(folder / "model")
    return folder


def launch(folder, out, *more):
    options = "--num-cases 3 --num-pairs 2 --guidance-scales 0 1 --num-inference-steps 2".split()
    options += "--downstream-steps 4 --classifier-width 4 --segmenter-width 4".split()
    command = [sys.executable, SCRIPT, folder / "model", "--real", folder / "data", "--out", out, *options, *more]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def test_numbers_fit_one_another(folder):
    out = folder / "out"
    result = launch(folder, out, "--allow-unrecorded")
    assert result.returncode == 0, result.stderr
    found = json.loads((out / "first_experiments.json").read_text())
    assert found["cases"] == {"training": 24, "held_out": 6, "given": 6}
    # one segmenter on the same real films, whether beside the generated ones or alone
    by_mask = lambda rows: {(row["mask"], row["label"]): row for row in rows}  # noqa: E731
    shape, segmenter, model = (by_mask(rows) for rows in (found["shape"], found["masks"]["segmenter"], found["masks"]["model"]))
    assert shape.keys() == segmenter.keys() == model.keys()
    for key, row in segmenter.items():
        assert row["value"] == row["real"] == shape[key]["real"]
        assert model[key]["value"] == model[key]["real"]
    assert [row["guidance_scale"] for row in found["guidance"]["synthetic"]] == [0.0, 1.0]
    for row in (*found["guidance"]["synthetic"], found["guidance"]["real"]):
        assert row["value"] == pytest.approx(sum(row["by_label"].values()) / 2)
    with Image.open(out / "first_experiments.png") as picture:
        assert picture.width > picture.height / 2

    again = launch(folder, out, "--allow-unrecorded")
    assert again.returncode == 2 and "nothing is overwritten" in again.stderr


def test_a_model_without_a_record_is_refused(folder):
    result = launch(folder, folder / "unrecorded")
    assert result.returncode == 1 and result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not (folder / "unrecorded").exists()
