"""Cases: what is loaded is what stands in the files, and who counts as a patient."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_macdm.data.cases import Cases, load_cases
from diffusers_macdm.phantom import write_phantom


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cases") / "data"
    write_phantom(folder, 8, 8, 32, 0)
    return folder


def test_the_pixels_of_the_files(phantom):
    cases = load_cases(phantom, "train", 32)
    rows = [json.loads(line) for line in (phantom / "train" / "metadata.jsonl").read_text().splitlines()]
    assert len(cases) == len(rows) == 16 and cases.size == 32 and cases.has_masks
    by_name = {name: index for index, name in enumerate(cases.names)}
    for row in rows:
        index = by_name[row["image_file_name"].split("/")[-1].removesuffix(".png")]
        image = np.asarray(Image.open(phantom / "train" / row["image_file_name"]))
        full_scale = 255 if image.dtype == np.uint8 else 65535
        np.testing.assert_allclose(cases.radiographs[index, 0].numpy(), image / full_scale * 2 - 1, atol=1e-5)
        lesion = np.asarray(Image.open(phantom / "train" / row["lesion_mask_file_name"])) > 0
        assert (cases.masks[index, 1].numpy() == lesion).all()
        assert cases.class_labels[index] == row["label"] and cases.patient_ids[index] == row["patient_id"]
    assert cases.has_lesion.tolist() == [bool(lesion.any()) for lesion in cases.masks[:, 1]]


def test_pairs_of_a_synthetic_set_are_patients_of_their_own(phantom):
    cases = load_cases(phantom, "train", 16, synthetic=True)
    assert len(set(cases.patient_ids)) == len(cases)
    assert not set(cases.patient_ids) & set(load_cases(phantom, "train", 16).patient_ids)


def test_unlabeled_cases_are_left_out(phantom, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(phantom, folder)
    metadata = folder / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    rows[3]["label"] = None
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cases = load_cases(folder, "train", 16)
    left_out = rows[3]["image_file_name"].split("/")[-1].removesuffix(".png")
    assert len(cases) == 15 and left_out not in cases.names
    for metadata in folder.glob("*/metadata.jsonl"):  # `datasets` wants one type of label in all splits
        rows = [json.loads(line) for line in metadata.read_text().splitlines()]
        metadata.write_text("".join(json.dumps({**row, "label": None}) + "\n" for row in rows))
    with pytest.raises(ValueError, match="no case with a label"):
        load_cases(folder, "train", 16)


def test_select_and_concatenate():
    samples = torch.arange(4.0)[:, None, None, None].expand(4, 3, 2, 2)
    cases = Cases.of(samples, [0, 1, 2, 0], patient_ids=["a", "a", None, "b"], sites=["x", None, "x", "y"])
    part = cases.select(np.array([2, 0, 2]))
    assert part.joint_samples[:, 0, 0, 0].tolist() == [2, 0, 2]
    assert part.patient_ids == ("\0case-000002", "a", "\0case-000002") and part.sites == ("x", "x", "x")
    both = Cases.concatenate([part, cases])
    assert len(both) == 7 and both.class_labels.tolist() == [2, 0, 2, 0, 1, 2, 0] and both.names[3:] == cases.names
    assert both.has_lesion.tolist() == [True, False, True, False, True, True, False]
    with pytest.raises(ValueError, match="different numbers"):
        Cases(samples, torch.zeros(3), cases.names, cases.patient_ids, cases.sites)


def test_a_model_without_masks():
    samples = torch.zeros(2, 3, 4, 4)
    assert Cases.of(samples, [0, 1]).has_masks
    samples[:, 1:] = torch.nan
    assert not Cases.of(samples, [0, 1]).has_masks and not Cases.of(samples, [0, 1]).masks.any()
