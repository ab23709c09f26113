"""Records of trainings: what is read back, what may be published, what a resumed run takes over."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from provenance_data import data_record, forget, put_into_test, rows_of, write_records

from diffusers_macdm.data.dataset import PairDataset
from diffusers_macdm.data.loading import load_pairs, radiograph_digest
from diffusers_macdm.macdm.image_processor import radiograph_array
from diffusers_macdm.provenance.guard import Contamination, contaminated_cases
from diffusers_macdm.provenance.records import (
    TrainedOn,
    Training,
    digests_alone,
    earlier_trainings,
    record_of_weights,
    trainings_of_data,
    trainings_of_weights,
)


def digest_of(values):
    return radiograph_digest(radiograph_array(Image.fromarray(values)))


def test_digest_is_of_the_gray_values_and_the_shape():
    values = np.arange(256, dtype=np.uint8).reshape(8, 32)
    assert digest_of(values) == digest_of(values.astype(np.uint16) * 257)  # all 256 gray levels, to the bit
    assert digest_of(values) != digest_of(values.astype(np.uint16) * 256)
    assert digest_of(values) != digest_of(values.reshape(16, 16))
    assert digest_of(values) != digest_of(values ^ (values == 7))


def test_pair_dataset_digests_the_file_not_the_resampled_case(phantom):
    for size in (16, 32):
        cases = PairDataset(load_pairs(phantom, "test"), size=size)
        for i, row in enumerate(rows_of(phantom, "test")):
            assert cases.image_sha256(i) == digest_of(np.asarray(Image.open(phantom / "test" / row["image_file_name"])))


def test_digests_alone_are_enough(real, model):
    """What may be published: neither a case nor a patient is named, and the guard still knows the pixels."""
    record = data_record(real)
    published = digests_alone(record)
    assert published == {"image_sha256": sorted(record["image_sha256"].values())}
    write_records(model, unet={"data": published}, guidance_classifier={"data": published})
    put_into_test(real, "new_name", "somebody")
    reason = "has the same pixels as a training case of the denoiser and the guidance classifier"
    assert contaminated_cases(real, "test", model=model) == [Contamination("new_name", reason)]
    assert TrainedOn.from_dict(TrainedOn.read(model).to_dict()) == TrainedOn.read(model)
    assert digests_alone({"cases": ["a"]}) is None


@pytest.mark.parametrize(
    "weights", ["unet", "weak_unet", "checkpoint-10", "checkpoint-10/model", "checkpoint-10/model_ema", "."]
)
def test_the_record_of_weights(tmp_path, weights):
    (tmp_path / "run" / weights).mkdir(parents=True)
    assert record_of_weights(tmp_path / "run" / weights, "unet") is None
    (tmp_path / "training_config.json").write_text("{}")  # of nobody knows what
    assert record_of_weights(tmp_path / "run" / weights, "unet") is None
    (tmp_path / "run/training_config.json").write_text("{}")
    assert record_of_weights(tmp_path / "run" / weights, "unet") == tmp_path / "run/training_config.json"
    assert trainings_of_weights(tmp_path / "run" / weights, "unet") == [None]  # a record that says nothing


def test_the_record_of_a_classifiers_checkpoint(tmp_path):
    checkpoint = tmp_path / "guidance_classifier_checkpoints/checkpoint-3"
    checkpoint.mkdir(parents=True)
    (tmp_path / "guidance_classifier_training_config.json").write_text(json.dumps({"data": {"image_sha256": {"a": "0"}}}))
    assert trainings_of_weights(checkpoint, "guidance_classifier") == [Training({"0": "a"})]


def test_what_stands_behind_synthetic_training_data(phantom, trained, from_train):
    assert trainings_of_data(phantom, load_pairs(phantom)) == []
    trained_on, sources = trainings_of_data(from_train, load_pairs(from_train))
    assert trained_on == Training.from_dict(data_record(phantom))
    rows = rows_of(from_train, "train")
    assert set(sources.images.values()) == {row["source"] for row in rows}
    assert sources.patients == {row["patient_id"] for row in rows}


def test_synthetic_training_data_without_record(from_train, tmp_path):
    out = shutil.copytree(from_train, tmp_path / "set")
    forget(out)
    assert trainings_of_data(out, load_pairs(out)) == [None]


A, B = ({"patients": ["p"], "image_sha256": {name: digest}} for name, digest in (("a", "0"), ("b", "1")))


@pytest.mark.parametrize(
    "before, now, expected",
    [
        ({"data": A}, {"data": A}, []),
        ({"data": A}, {"data": {"image_sha256": {"other_name": "0", "b": "1"}}}, []),  # all that was seen is in it
        ({"data": A}, {"data": B}, [A]),
        ({"data": A, "earlier_trainings": [B]}, {"data": A, "earlier_trainings": [B]}, [B]),
        ({"data": A, "earlier_trainings": [None]}, {"data": B}, [A, None]),
        (None, {"data": A}, [None]),  # a checkpoint from elsewhere
        ({"data": {"cases": ["a"]}}, {"data": {"cases": ["a"], **A}}, []),  # an earlier version, the same cases
        ({"data": {"cases": ["b"]}}, {"data": {"cases": ["a"], **A}}, [None]),
    ],
)
def test_what_a_resumed_run_takes_over(before, now, expected):
    assert earlier_trainings(before, now) == expected
