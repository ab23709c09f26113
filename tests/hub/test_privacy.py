"""What a push never takes along: names, folders, pickles."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_pushes import RECORD, WEIGHTS, read
from huggingface_hub import constants
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusers_macdm.data.dataset import PairDataset
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.generate import generate
from diffusers_macdm.hub import push_dataset, push_model
from diffusers_macdm.hub.privacy import published_record
from diffusers_macdm.provenance.guard import contaminated_cases


def test_records_name_no_case_no_patient_and_no_folder(hub, model):
    (model / "training_config.json").write_text(json.dumps(RECORD))
    config = json.loads((model / "unet/config.json").read_text())
    (model / "unet/config.json").write_text(json.dumps({**config, "_name_or_path": "/data/of/jane_doe/model"}))
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps({**index, "_name_or_path": "/data/of/jane_doe/model"}))
    push_model(model, "alice/leg")
    files = hub.repo("alice/leg").files()
    assert json.loads(files["training_config.json"]) == {
        "arguments": {
            "train_data_dir": "leg",
            "pretrained_unet": "unet",
            "dataset_name": None,
            "learning_rate": 1e-4,
            "block_out_channels": [8, 16],
        },
        "data": {"num_cases": 2, "cases_per_label": {"0": 1, "1": 1}, "num_patients": 2},
        "unet": {"sample_size": 16},
        "versions": {"torch": "2.13.0"},
        "audit": {"last": {"step": 4, "copy_rate": {"value": 0.05}}, "kept": None},
    }
    named = [path for path, content in files.items() if b"jane_doe" in content or b"john_doe" in content]
    assert named == []


def test_digests_for_the_leak_guard_are_published_only_when_asked_for(hub, model, phantom, monkeypatch):
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)  # for downloads in this process
    pairs = PairDataset(load_pairs(phantom, "test"), size=16)
    digests = {name: pairs.image_sha256(i) for i, name in enumerate(pairs.names)}
    part = {"num_cases": len(pairs), "cases": pairs.names, "patients": pairs.patient_ids, "image_sha256": digests}
    (model / "guidance_classifier_training_config.json").write_text(
        json.dumps({"data": part, "earlier_trainings": [part, None]})
    )
    names = [name.encode() for name in (*pairs.names, *pairs.patient_ids)]
    push_model(model, "alice/leg")
    files = hub.repo("alice/leg").files()
    assert not any(text.encode() in content for content in files.values() for text in digests.values())
    with pytest.raises(ValueError, match="alice/leg: nothing records which cases trained the model"):
        contaminated_cases(phantom, "test", model="alice/leg")

    push = push_model(model, "alice/leg", image_digests=True)
    assert "The digests of the training radiographs are published" in push.notes[-1]
    record = hub.repo("alice/leg").files()["guidance_classifier_training_config.json"]
    published = {"image_sha256": sorted(digests.values())}
    assert json.loads(record) == {"data": {"num_cases": len(pairs), **published}, "earlier_trainings": [published, None]}
    assert not any(name in record for name in names)
    found = contaminated_cases(phantom, "test", model="alice/leg")
    assert [contamination.case for contamination in found] == pairs.names


def test_names_of_hub_data_sets_stay_whole():
    record = {"arguments": {"dataset_name": "clinic/leg", "train_data_dir": None}}
    assert published_record(record) == record


def test_an_audit_is_published_without_names(hub, model, tmp_path):
    audit = {
        "verdict": "1 of 4 lies close",
        "copy_rate": {"value": 0.25, "interval": [0.0, 0.7], "nearest": ["jane_doe"], "case": "jane_doe"},
        "pairs": [{"real": "jane_doe", "distance": 0.1}],
        "real": "/data/of/jane_doe",
    }
    (tmp_path / "audit.json").write_text(json.dumps(audit))
    push_model(model, "alice/leg", audit_dir=tmp_path)
    published = json.loads(hub.repo("alice/leg").files()["audit/audit.json"])
    assert published == {
        "verdict": "1 of 4 lies close",
        "copy_rate": {"value": 0.25, "interval": [0.0, 0.7], "nearest": []},
    }
    with pytest.raises(FileNotFoundError, match=r"audit.json: no such file; `macdm audit` writes it"):
        push_model(model, "alice/leg", audit_dir=model)


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.bin", "notes.txt", "extra/deep/weights", "scaler.pkl"])
def test_a_pickle_anywhere_is_refused(hub, model, name):
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    if name == "extra/deep/weights":
        torch.save({"a": torch.zeros(1)}, model / name)
    else:
        (model / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=f"{name} is a pickle, which can run code"):
        push_model(model, "alice/leg")
    assert hub.requests == []


def test_a_pickle_that_calls_itself_safetensors_is_refused(hub, model):
    torch.save({"a": torch.zeros(1)}, model / f"unet/{WEIGHTS}.safetensors")
    with pytest.raises(ValueError, match="cannot be loaded as a MaCDMPipeline"):
        push_model(model, "alice/leg")
    assert hub.requests == []


def test_real_images_need_to_be_asked_for(hub, phantom, tmp_path):
    folder = Path(shutil.copytree(phantom, tmp_path / "clinic"))
    text = PngInfo()
    text.add_text("PatientName", "Doe^Jane")
    first = next((folder / "train/images").iterdir())
    pixels = np.asarray(Image.open(first))
    Image.fromarray(pixels.astype(np.uint16) * 257).save(first, pnginfo=text)
    with pytest.raises(PermissionError, match="holds 12 pairs that `macdm generate` has not made .* films of patients"):
        push_dataset(folder, "alice/pairs")
    assert hub.requests == []
    push = push_dataset(folder, "alice/pairs", real_images=True)
    assert push.notes[0].startswith("This publishes 12 pairs that `macdm generate` has not made")
    splits = read(hub, "alice/pairs", tmp_path)
    assert {split: pairs.num_rows for split, pairs in splits.items()} == {"train": 8, "validation": 2, "test": 2}
    patients = [name for pairs in splits.values() for name in pairs["patient_id"]]
    assert set(patients) == {f"patient-{number:04d}" for number in range(1, len(set(patients)) + 1)}
    contents = b"".join(hub.repo("alice/pairs", "dataset").files().values())
    assert b"Doe^Jane" not in contents and b"normal_0" not in contents
    films = [np.asarray(film) for film in splits["train"]["image"]]
    assert any(film.dtype == np.uint16 and np.array_equal(film, pixels.astype(np.uint16) * 257) for film in films)


def test_a_real_pair_among_synthetic_ones_is_noticed(hub, synthetic, phantom, tmp_path):
    folder = Path(shutil.copytree(synthetic, tmp_path / "mixed"))
    row = json.loads((phantom / "train/metadata.jsonl").read_text().splitlines()[0])
    for column in ("image", "anatomy_mask", "lesion_mask"):
        shutil.copy(phantom / "train" / row[f"{column}_file_name"], folder / "train" / row[f"{column}_file_name"])
    with open(folder / "train/metadata.jsonl", "a") as metadata:
        metadata.write(json.dumps(row) + "\n")
    with pytest.raises(PermissionError, match="holds 1 pairs that"):
        push_dataset(folder, "alice/pairs")


def test_masks_of_real_cases_need_to_be_asked_for(hub, saved, phantom, tmp_path):
    folder = tmp_path / "films"
    generate(saved, folder, 1, masks_from=phantom, num_inference_steps=1, device="cpu", progress=False)
    with pytest.raises(PermissionError, match="holds the masks of real cases, unchanged, in 2 pairs"):
        push_dataset(folder, "alice/pairs")
    push_dataset(folder, "alice/pairs", real_images=True)
    assert read(hub, "alice/pairs", tmp_path)["train"]["masks_from"] == ["case-0001", "case-0002"]
