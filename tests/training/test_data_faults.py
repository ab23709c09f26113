"""What `macdm check` calls a fault a training refuses, or says: it trains on nothing that is odd without a word."""

import json
import logging

import numpy as np
import pytest
from data_folders import DataFolder, save
from PIL import Image

from diffusers_macdm.data.check import inspect_dataset
from diffusers_macdm.training.data import describe_data, load_training_data, say_faults
from diffusers_macdm.training.settings import DenoiserSettings


def film_of(folder, values):
    save(folder.path("train", "image", "train_01.png"), values)


def grown(folder):
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[2:8, 2:8] = 255
    mask[2, 2:8], mask[8, 2:8] = 90, 200
    Image.fromarray(mask).save(folder.path("train", "anatomy_mask", "train_00.png"))


def without_lesion(folder):
    save(folder.path("train", "lesion_mask", "train_01.png"), np.zeros((16, 16), dtype=bool))


def outside(folder):
    mask = np.zeros((16, 16), dtype=bool)
    mask[0, 0] = True
    save(folder.path("train", "lesion_mask", "train_01.png"), mask)


def dark(folder):
    for number, case in enumerate(folder.cases):
        values = np.random.default_rng(number).integers(0, 9, (16, 16), np.uint8)
        save(folder.path(case.split, "image", f"{case.name}.png"), values)


def shared_patient(folder):
    for split in ("train", "validation"):
        folder.of(split)[0].row["patient_id"] = "p1"


def named_twice(folder):
    folder.of("train")[3].row["anatomy_mask_file_name"] = "anatomy/train_00.png"


def other_class(folder):
    folder.of("validation")[1].row["label"] = 5


FAULTS = {  # what is done to the folder -> kind of the fault that the check finds
    "grown": (grown, "more than two values"),
    "without lesion": (without_lesion, "label contradicts the lesion mask"),
    "outside": (outside, "lesion outside the anatomy"),
    "dark": (dark, "dark set"),
    "blank": (lambda folder: film_of(folder, np.full((16, 16), 7, np.uint8)), "blank radiograph"),
    "shared patient": (shared_patient, "patient in two splits"),
    "named twice": (named_twice, "file named twice"),
    "other class": (other_class, "label without training case"),
    "nothing": (lambda folder: None, None),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_is_trained_on_is_said(tmp_path, caplog, name):
    change, kind = FAULTS[name]
    folder = DataFolder(tmp_path / "data")
    for split, count in (("train", 4), ("validation", 2)):
        for number in range(count):
            folder.add(split, label=number % 2, height=16, width=16)
    change(folder)
    folder.write()
    faults = inspect_dataset(folder.root).faults
    assert {fault.kind for fault in faults} == ({kind} if kind else set()), faults
    settings = DenoiserSettings(train_data_dir=str(folder.root), output_dir=str(tmp_path / "out"), resolution=16)
    dataset = load_training_data(settings)
    describe_data(dataset)
    with caplog.at_level(logging.WARNING):
        say_faults(settings, dataset)
    said = [record.message for record in caplog.records]
    assert len(said) == bool(kind)
    if kind:
        reason = faults[0].reason.rstrip(".").replace("no film of train, validation", "no film of train")  # all it has seen
        assert faults[0].file in said[0] and reason in said[0] and "`macdm check` lists" in said[0]
        assert ("more fault" in said[0]) == (len(faults) > 1)


def test_the_script_says_it(phantom, tmp_path, monkeypatch, caplog):
    import shutil

    from launching import run_here

    data = shutil.copytree(phantom, tmp_path / "data")
    path = data / "validation" / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    first = json.loads((data / "train" / "metadata.jsonl").read_text().splitlines()[0])
    rows[0]["patient_id"] = first["patient_id"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_here(monkeypatch, "train_guidance_classifier", train_data_dir=data, output_dir=tmp_path / "model", max_train_steps=1)
    assert f"{data} is trained on as it is, and has a fault: validation/metadata.jsonl: patient" in caplog.text
