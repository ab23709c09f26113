"""Records of trainings, and test cases that a training has seen."""

import json
import shutil

import numpy as np
from PIL import Image

from diffusers_macdm.data.dataset import PairDataset
from diffusers_macdm.data.loading import load_pairs


RECORDS = {"unet": "training_config.json", "guidance_classifier": "guidance_classifier_training_config.json"}
SETTINGS = {"num_inference_steps": 2, "device": "cpu", "progress": False}
COLUMNS = {"image": "images", "anatomy_mask": "anatomy", "lesion_mask": "lesion"}


def data_record(data, split="train"):
    """What `describe_data` of the training scripts records for the guard."""
    cases = PairDataset(load_pairs(data, split), size=16, null_label=-1)
    return {
        "cases": sorted(cases.names),
        "patients": sorted(set(cases.patient_ids)),
        "image_sha256": {name: cases.image_sha256(i) for i, name in enumerate(cases.names)},
    }


def write_records(model, **records):
    for network, record in records.items():
        (model / RECORDS[network]).write_text(json.dumps(record))


def rows_of(folder, split):
    return [json.loads(line) for line in (folder / split / "metadata.jsonl").read_text().splitlines()]


def write_rows(folder, split, rows):
    (folder / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def put_into_test(real, name, patient_id, pixels=None, source="normal_00003"):
    """A further test case with the masks of a training case and, unless others are given, its pixels."""
    for kind in ("images", "anatomy", "lesion"):
        shutil.copy(real / f"train/{kind}/{source}.png", real / f"test/{kind}/{name}.png")
    if pixels is not None:
        Image.fromarray(pixels(np.asarray(Image.open(real / f"test/images/{name}.png")))).save(real / f"test/images/{name}.png")
    (row,) = (row for row in rows_of(real, "train") if row["image_file_name"] == f"images/{source}.png")
    row |= {f"{column}_file_name": f"{kind}/{name}.png" for column, kind in COLUMNS.items()} | {"patient_id": patient_id}
    write_rows(real, "test", [*rows_of(real, "test"), row])


def forget(out):
    content = json.loads((out / "generation.json").read_text())
    del content["provenance"]
    (out / "generation.json").write_text(json.dumps(content, indent=2) + "\n")
