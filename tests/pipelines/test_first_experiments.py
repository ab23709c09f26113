"""The three first experiments with a model that knows nothing: the numbers must still fit one another."""

import json
import runpy
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


def words(folder, out):
    options = "--num-cases 3 --num-pairs 2 --guidance-scales 0 1 --num-inference-steps 2".split()
    options += "--downstream-steps 4 --classifier-width 4 --segmenter-width 4".split()
    return list(map(str, [SCRIPT, folder / "model", "--real", folder / "data", "--out", out, *options]))


def refusal(folder, out, monkeypatch, *more):
    """What ends the script, in this process: the code of argparse, or the sentence that becomes the last line of stderr."""
    monkeypatch.setattr(sys, "argv", [*words(folder, out), *more])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return end.value.code


def test_numbers_fit_one_another(folder, monkeypatch, capsys):
    out = folder / "out"
    result = subprocess.run([sys.executable, *words(folder, out), "--allow-unrecorded"], capture_output=True, text=True)
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

    assert refusal(folder, out, monkeypatch, "--allow-unrecorded") == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_a_model_without_a_record_is_refused(folder, monkeypatch):
    sentence = refusal(folder, folder / "unrecorded", monkeypatch)
    assert sentence.startswith("error: ") and "\n" not in sentence
    assert not (folder / "unrecorded").exists()
