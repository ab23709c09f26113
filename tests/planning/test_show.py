"""`macdm show`: the areas are those of the masks, the cases those of every class."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from diffusers_macdm.commands import main as cli
from diffusers_macdm.phantom import write_phantom
from diffusers_macdm.planning.show import show_sheet, shown_cases


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("show") / "phantom"
    write_phantom(folder, 5, 4, 32, 0)
    return folder


def areas_of_files(data):
    rows = [json.loads(line) for line in (data / "train/metadata.jsonl").read_text().splitlines()]
    masks = [data / "train" / row["lesion_mask_file_name"] for row in rows if row["label"] == 1]
    return sorted(int((np.asarray(Image.open(mask)) > 0).sum()) for mask in masks)


def test_captions_say_the_area_of_each_lesion(data):
    """At the size of the files nothing is resampled: the areas are theirs."""
    samples, captions, masks = shown_cases(data, 32, num_per_class=9, augmented=2)
    assert masks == ("anatomy_mask", "lesion_mask")
    assert captions[:5] == ["label 0: lesion none"] * 5
    shown = sorted(int(caption.removeprefix("label 1: lesion ").removesuffix(" px")) for caption in captions[5:9])
    assert shown == areas_of_files(data)
    assert len(samples) == 11 and all(caption.startswith("label 1, augmented: lesion ") for caption in captions[9:])
    assert all(tuple(sample.shape) == (3, 32, 32) for sample in samples)
    assert all((samples[5 + i] != samples[9 + i]).any() for i in range(2))


def test_of_a_set_without_outlines_no_caption_says_that_there_is_no_lesion(data, tmp_path):
    folder = tmp_path / "labels_alone"
    shutil.copytree(data, folder)
    for metadata in folder.glob("*/metadata.jsonl"):
        rows = [json.loads(line) for line in metadata.read_text().splitlines()]
        for row in rows:
            del row["lesion_mask_file_name"]
        metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
        shutil.rmtree(metadata.parent / "lesion")
    _, captions, masks = shown_cases(folder, 32, num_per_class=1, augmented=1)
    assert captions == ["label 0", "label 1", "label 0, augmented"] and masks == ("anatomy_mask",)
    assert show_sheet(folder, 32, num_per_class=1).size[0] > 200


def test_as_many_cases_of_each_class_by_seed(data):
    _, few, _ = shown_cases(data, 16, num_per_class=2, augmented=0)
    assert [caption[:7] for caption in few] == ["label 0"] * 2 + ["label 1"] * 2
    draws = {tuple(shown_cases(data, 16, num_per_class=2, augmented=0, seed=seed)[1]) for seed in range(6)}
    assert len(draws) > 1


def test_the_command_writes_one_picture_and_overwrites_none(data, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert cli.main(["show", str(data), "--out", str(out), "--resolution", "48", "--num-per-class", "4"]) == 0
    assert capsys.readouterr().out == f"written to {out}\n"
    before = out.read_bytes()
    assert min(Image.open(out).size) > 300
    assert cli.main(["show", str(data), "--out", str(out)]) == 1
    assert "exists already" in capsys.readouterr().err and out.read_bytes() == before


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--split", "nowhere"], "there is no split 'nowhere'"),
        (["--out", "sheet.jpg"], "--out sheet.jpg is not allowed: a file that ends in .png is needed."),
        (["--resolution", "4"], "--resolution 4 is not allowed: at least 8 is needed."),
    ],
)
def test_bad_input_is_a_sentence(data, words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        assert cli.main(["show", str(data), *words])
    except SystemExit as end:
        assert end.code == 2
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())
