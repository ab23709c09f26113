"""The leak guard on real folders: phantoms, a real tiny model, sets that `generate` makes from them."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from provenance_data import RECORDS, SETTINGS, data_record, forget, put_into_test, rows_of, write_records, write_rows

from diffusers_macdm.generate import generate
from diffusers_macdm.phantom import write_phantom
from diffusers_macdm.provenance.guard import Contamination, contaminated_cases, refuse_contaminated
from diffusers_macdm.provenance.records import (
    TrainedOn,
)


# --- what trained the model -------------------------------------------------------------------------------------------


def test_clean_cases_pass(phantom, trained, from_train):
    """Cases of the two splits have the same file names, which mean nothing."""
    assert {row["image_file_name"] for row in rows_of(phantom, "test")} <= {
        row["image_file_name"] for row in rows_of(phantom, "train")
    }
    assert contaminated_cases(phantom, "test", model=trained) == []
    assert contaminated_cases(phantom, "test", synthetic=from_train) == []
    refuse_contaminated(phantom, "test", synthetic=from_train, model=trained)


def test_the_training_split_is_seen_case_by_case(phantom, trained):
    found = contaminated_cases(phantom, "train", model=trained)
    names = [row["image_file_name"][len("images/") : -len(".png")] for row in rows_of(phantom, "train")]
    assert found == [Contamination(name, "trained the denoiser and the guidance classifier") for name in names]


@pytest.mark.parametrize(
    "pixels", [None, lambda values: values.astype(np.uint16) * 257], ids=["the same file", "16 bit (value * 257)"]
)
def test_a_renamed_copy_of_a_training_image(real, trained, pixels):
    put_into_test(real, "new_name", "somebody", pixels)
    reason = "has the same pixels as training case 'normal_00003' of the denoiser and the guidance classifier"
    assert contaminated_cases(real, "test", model=trained) == [Contamination("new_name", reason)]
    message = (
        f"The test split of {real} must not be measured on, 1 of its cases is not new to what is measured: case 'new_name' "
        f"{reason}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        refuse_contaminated(real, "test", model=trained)


def test_another_film_of_a_training_patient(real, trained):
    patient = rows_of(real, "train")[0]["patient_id"]
    put_into_test(real, "second_film", patient, lambda values: values[:, ::-1])
    reason = f"is of patient {patient!r}, whose films trained the denoiser and the guidance classifier"
    assert contaminated_cases(real, "test", model=trained) == [Contamination("second_film", reason)]


def test_numbers_as_patient_ids(real, model):
    rows = rows_of(real, "test")
    for split in ("train", "validation", "test"):
        write_rows(real, split, [{**row, "patient_id": i} for i, row in enumerate(rows_of(real, split), start=100)])
    write_records(model, unet={"data": data_record(real) | {"patients": ["101"]}})
    found = contaminated_cases(real, "test", model=model)
    assert found == [Contamination(rows[1]["image_file_name"][7:-4], "is of patient '101', whose films trained the denoiser")]


def test_the_classifier_alone_contaminates(real, model):
    write_records(model, guidance_classifier={"data": data_record(real, "test")})
    reasons = {contamination.reason for contamination in contaminated_cases(real, "test", model=model)}
    assert reasons == {"trained the guidance classifier"}
    # A record of a network that is not in the pipeline says nothing about it.
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"guidance_classifier": [None, None]}))
    assert contaminated_cases(real, "test", model=model) == []


def test_an_earlier_training_counts(real, model):
    record = json.loads((model / RECORDS["unet"]).read_text())
    write_records(model, unet=record | {"earlier_trainings": [data_record(real, "test")]})
    assert {found.reason for found in contaminated_cases(real, "test", model=model)} == {"trained the denoiser"}
    assert contaminated_cases(real, "validation", model=model) == []


def test_at_most_twenty_cases_are_named(tmp_path, trained, phantom):
    write_phantom(tmp_path / "many", num_normal=22, num_lesion=1, size=32, seed=3)
    model = shutil.copytree(trained, tmp_path / "model")
    write_records(model, unet={"data": data_record(tmp_path / "many")})
    with pytest.raises(ValueError) as error:
        refuse_contaminated(tmp_path / "many", "train", model=model)
    message = str(error.value)
    assert "23 of its cases are not new" in message and message.endswith("; and 3 more.")
    assert message.count("trained the denoiser") == 20


# --- records that are not there ---------------------------------------------------------------------------------------


def test_a_model_without_records(phantom, model):
    for name in RECORDS.values():
        (model / name).unlink()
    assert TrainedOn.read(model) is None
    with pytest.raises(
        ValueError, match="model: nothing records which cases trained the model, so nothing shows that the test"
    ):
        refuse_contaminated(phantom, "test", model=model)
    refuse_contaminated(phantom, "test", model=model, allow_unrecorded=True)


def test_a_record_of_an_earlier_version_names_cases_alone(phantom, model):
    old = {"num_cases": 10, "cases": data_record(phantom)["cases"]}
    write_records(model, unet={"data": old})
    assert TrainedOn.read(model).unrecorded == ["unet"]
    with pytest.raises(ValueError, match="not everything that trained its denoiser is recorded"):
        refuse_contaminated(phantom, "test", model=model)
    refuse_contaminated(phantom, "test", model=model, allow_unrecorded=True)
    # What the other record tells is looked at all the same.
    with pytest.raises(ValueError, match="trained the guidance classifier"):
        refuse_contaminated(phantom, "train", model=model, allow_unrecorded=True)
    with pytest.raises(ValueError, match="trained the guidance classifier"):
        refuse_contaminated(phantom, "train", model=model)


def test_an_unknown_earlier_training_is_a_missing_record(phantom, model):
    record = json.loads((model / RECORDS["unet"]).read_text())
    write_records(model, unet=record | {"earlier_trainings": [None]})
    with pytest.raises(ValueError, match="not everything that trained its denoiser is recorded"):
        refuse_contaminated(phantom, "test", model=model)


def test_what_is_given_must_be_there(phantom, trained, tmp_path):
    with pytest.raises(ValueError, match="Neither a synthetic set nor a model"):
        contaminated_cases(phantom, "test")
    with pytest.raises(FileNotFoundError, match="no model_index.json in the folder"):
        contaminated_cases(phantom, "test", model=phantom)
    with pytest.raises(FileNotFoundError, match="nowhere/at all: there is no model_index.json to be had"):
        contaminated_cases(phantom, "test", model="nowhere/at all")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        contaminated_cases(phantom, "test", synthetic=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no train/metadata.jsonl"):
        contaminated_cases(phantom, "test", synthetic=trained)
    with pytest.raises(ValueError, match="no split 'holdout'"):
        contaminated_cases(phantom, "holdout", model=trained)


# --- synthetic sets ---------------------------------------------------------------------------------------------------


def test_generation_records_what_trained_the_model_and_the_sources(phantom, trained, from_train):
    provenance = json.loads((from_train / "generation.json").read_text())["provenance"]
    assert TrainedOn.from_dict(provenance["trained_on"]) == TrainedOn.read(trained)
    record = data_record(phantom)
    rows = rows_of(from_train, "train")
    assert provenance["sources"] == {
        row["source"]: {"image_sha256": record["image_sha256"][row["source"]], "patient_id": row["patient_id"]} for row in rows
    }


@pytest.mark.parametrize(
    "use, words", [("from_data", "is what {} started from"), ("masks_from", "gave its masks to {}")], ids=["source", "masks"]
)
def test_pairs_that_were_made_from_test_cases(phantom, trained, tmp_path, use, words):
    settings = {"strength": 0.5} if use == "from_data" else {}
    generate(trained, tmp_path / "set", 2, **{use: phantom}, split="test", **settings, **SETTINGS)
    found = contaminated_cases(phantom, "test", synthetic=tmp_path / "set")
    # Two normal test cases, a pair each; one with a lesion, two pairs.
    lesion = words.format("synthetic pair 'synthetic_000001' and 1 more")
    assert found[-1] == Contamination("lesion_00000", lesion)
    assert {contamination.reason for contamination in found[:-1]} == {
        words.format(f"synthetic pair 'synthetic_00000{i}'") for i in (0, 2)
    }
    assert contaminated_cases(phantom, "validation", synthetic=tmp_path / "set") == []


@pytest.mark.parametrize("column", ["source", "masks_from"])
@pytest.mark.parametrize("recorded", [False, True], ids=["no generation.json", "generation.json says train"])
def test_a_set_that_names_a_test_case(real, from_train, tmp_path, column, recorded):
    """Without pixels a name tells, where it is no other split's; "test/NAME" tells in any case."""
    made = shutil.copytree(from_train, tmp_path / "made")
    put_into_test(real, "new_name", "somebody", lambda values: values[:, ::-1])
    if not recorded:
        (made / "generation.json").unlink()
    rows = [{**row, "source": None, "patient_id": None} for row in rows_of(made, "train")]
    for name, case in (("new_name", "new_name"), ("test/normal_00000", "normal_00000"), ("normal_00001", None)):
        write_rows(made, "train", [{**rows[0], column: name}, *rows[1:]])
        found = contaminated_cases(real, "test", synthetic=made, allow_unrecorded=True)
        assert [contamination.case for contamination in found] == ([] if case is None else [case])
        with pytest.raises(ValueError, match="nothing records" if case is None else f"must not be measured on.*{case!r}"):
            refuse_contaminated(real, "test", synthetic=made)


def test_a_pair_made_from_another_film_of_a_test_patient(real, from_train):
    source = rows_of(from_train, "train")[0]
    trained_patients = {row["patient_id"] for row in rows_of(real, "train")}
    assert source["patient_id"] in trained_patients
    put_into_test(real, "second_film", source["patient_id"], lambda values: values[:, ::-1])
    pairs = [row for row in rows_of(from_train, "train") if row["patient_id"] == source["patient_id"]]
    reasons = [contamination.reason for contamination in contaminated_cases(real, "test", synthetic=from_train)]
    assert reasons[1].startswith(
        f"is of patient {source['patient_id']!r}, whose films are behind synthetic pair 'synthetic_000000'"
    )
    assert ("more" in reasons[1]) == (len(pairs) > 1)


def test_a_set_needs_no_model(real, trained, from_train, tmp_path):
    """The set's own record tells that its model was trained on a case which no pair started from."""
    generate(trained, tmp_path / "noise", 1, **SETTINGS)
    put_into_test(real, "new_name", "somebody")
    for synthetic in (tmp_path / "noise", from_train):
        reasons = [contamination.reason for contamination in contaminated_cases(real, "test", synthetic=synthetic)]
        assert reasons[0].startswith("has the same pixels as training case 'normal_00003'")


def test_a_set_of_an_earlier_version(phantom, trained, tmp_path):
    """It goes on as it was begun; the guard refuses it, and with allow_unrecorded it goes by split and names."""
    out = tmp_path / "set"
    use = {"from_data": phantom, "strength": 0.5, "split": "test", "batch_size": 2, **SETTINGS}
    generate(trained, out, 2, **use)
    forget(out)
    write_rows(out, "train", rows_of(out, "train")[:2])
    (out / "summary.json").unlink()
    assert generate(trained, out, 2, **use)["num_new"] == 2
    assert "provenance" not in json.loads((out / "generation.json").read_text())
    with pytest.raises(ValueError, match="set: nothing records which cases trained the model"):
        contaminated_cases(phantom, "validation", synthetic=out)
    assert contaminated_cases(phantom, "validation", synthetic=out, allow_unrecorded=True) == []
    with pytest.raises(ValueError, match="case 'lesion_00000' is what synthetic pair 'synthetic_000001' and 1 more started"):
        refuse_contaminated(phantom, "test", synthetic=out, allow_unrecorded=True)


def test_a_set_without_generation_json(phantom, from_train, tmp_path):
    out = shutil.copytree(from_train, tmp_path / "set")
    (out / "generation.json").unlink()
    with pytest.raises(ValueError, match="nothing records which cases trained the model"):
        contaminated_cases(phantom, "test", synthetic=out)


def test_an_unrecorded_model_makes_an_unrecorded_set(phantom, model, tmp_path):
    (model / RECORDS["guidance_classifier"]).unlink()
    generate(model, tmp_path / "set", 1, **SETTINGS)
    with pytest.raises(ValueError, match="set: not everything that trained its guidance classifier is recorded"):
        contaminated_cases(phantom, "test", synthetic=tmp_path / "set")


def test_a_set_whose_real_cases_changed_does_not_go_on(real, trained, tmp_path):
    use = {"from_data": real, "strength": 0.5, **SETTINGS}
    generate(trained, tmp_path / "set", 3, **use)
    name = rows_of(tmp_path / "set", "train")[0]["source"]
    path = real / f"train/images/{name}.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    with pytest.raises(ValueError, match=f"begun with {name}.image_sha256=.* use the same real cases, or another folder"):
        generate(trained, tmp_path / "set", 3, **use)


def test_damaged_provenance_is_named(phantom, from_train, tmp_path):
    out = shutil.copytree(from_train, tmp_path / "set")
    content = json.loads((out / "generation.json").read_text())
    (out / "generation.json").write_text(json.dumps(content | {"provenance": {"sources": []}}))
    with pytest.raises(ValueError, match="generation.json: its part 'provenance' cannot be read"):
        contaminated_cases(phantom, "test", synthetic=out)
