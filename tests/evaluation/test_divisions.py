"""Who is tested when: folds and sites never share a patient with what trained, and leaks are refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_folders import DataFolder

from diffusers_macdm.data.cases import Cases, load_cases
from diffusers_macdm.evaluation.divisions import (
    divide,
    divide_by_site,
    leave_out_duplicates,
    load_real,
    load_synthetic,
    refuse_leaks,
)
from diffusers_macdm.phantom import write_phantom


def cases(prefix, count, sites=("x", "y")):
    samples = torch.rand(count, 3, 4, 4)
    names = [f"{prefix}{index}" for index in range(count)]
    return Cases.of(
        samples,
        [index % 2 for index in range(count)],
        names,
        [f"{prefix}-patient-{index // 3}" for index in range(count)],
        [sites[index // 3 % len(sites)] for index in range(count)],
    )


SPLITS = {"train": cases("a", 12), "validation": cases("b", 24), "test": cases("c", 30)}
SYNTHETIC = replace(cases("s", 6), sites=("x", "x", None, None, "y", "y"))


def test_the_splits_as_they_are():
    (found,) = divide(SPLITS, SYNTHETIC, None)
    assert (found.train, found.validation, found.test) == tuple(SPLITS.values()) and found.synthetic is SYNTHETIC


@pytest.mark.parametrize("folds", [2, 5])
def test_every_held_out_case_is_tested_once_and_no_patient_stands_on_two_sides(folds):
    divisions = divide(SPLITS, SYNTHETIC, folds)
    held_out = [*SPLITS["validation"].names, *SPLITS["test"].names]
    assert sorted(name for division in divisions for name in division.test.names) == sorted(held_out)
    for number, division in enumerate(divisions):
        sides = [set(side.patient_ids) for side in (division.train, division.validation, division.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        assert division.validation.names == divisions[(number + 1) % folds].test.names
        assert set(SPLITS["train"].names) <= set(division.train.names)
        assert len(division.train) + len(division.validation) + len(division.test) == 12 + 54


def test_what_a_set_without_the_splits_is_told():
    with pytest.raises(ValueError, match="no test split: use --folds K"):
        divide({"train": SPLITS["train"], "validation": SPLITS["validation"]}, SYNTHETIC, None)
    with pytest.raises(ValueError, match="no case is held out"):
        divide({"train": SPLITS["train"]}, SYNTHETIC, 3)
    with pytest.raises(ValueError, match="folds=1"):
        divide(SPLITS, SYNTHETIC, 1)
    assert len(divide({"train": SPLITS["train"], "validation": SPLITS["validation"]}, SYNTHETIC, 4)) == 4


def test_a_site_that_is_left_out_is_left_out_of_everything():
    divisions, notes = divide_by_site(SPLITS, SYNTHETIC)
    assert [division.name for division in divisions] == ["site-x", "site-y"] and not notes
    for division, site in zip(divisions, "xy", strict=True):
        assert set(division.test.sites) == {site} and len(division.test) == (12 + 15)
        assert site not in {*division.train.sites, *division.validation.sites, *division.synthetic.sites}
        assert len(division.train) == 6 and len(division.validation) == 12 and len(division.synthetic) == 4


def test_a_patient_with_two_sites_does_not_train_where_one_of_them_is_tested():
    validation = replace(SPLITS["validation"], patient_ids=("c-patient-0",) * 24)  # patient of test cases of site x
    splits = {**SPLITS, "validation": validation}
    divisions, notes = divide_by_site(splits, SYNTHETIC)
    assert not divisions and len(notes) == 2 and "Site 'x' was not left out: the validation cases" in notes[0]
    with pytest.raises(ValueError, match="at least 2 sites"):
        divide_by_site({"train": SPLITS["train"], "test": cases("t", 9, sites=("x",))}, SYNTHETIC)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("divisions") / "real"
    write_phantom(folder, 8, 8, 32, 0)
    return folder


def synthetic_of(folder, rows_change=lambda row: row):
    """A phantom as `macdm generate` would leave it: one split, no patient."""
    for split in ("validation", "test"):
        shutil.rmtree(folder / split, ignore_errors=True)
    metadata = folder / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    rows = [rows_change({**{key: row[key] for key in row if key not in ("patient_id", "site")}, "model": "m"}) for row in rows]
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("divisions") / "synthetic"
    write_phantom(folder, 4, 4, 32, 9)
    return synthetic_of(folder)


def test_the_training_subset_is_that_of_the_training_scripts(phantom):
    train = load_real(phantom, 16, [5, 3])[0]["train"]
    whole = load_cases(phantom, "train", 16)
    labels = whole.class_labels.numpy()
    chosen = [np.random.default_rng([0, k]).permutation(np.flatnonzero(labels == k))[:n] for k, n in ((0, 5), (1, 3))]
    assert train.names == tuple(whole.names[index] for index in np.sort(np.concatenate(chosen)))
    with pytest.raises(ValueError, match="samples_per_class 9 of label 0"):
        load_real(phantom, 16, [9, 3])


def test_a_patient_in_two_splits_is_refused(phantom, tmp_path):
    folder = tmp_path / "real"
    shutil.copytree(phantom, folder)
    metadata = folder / "test" / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    rows[0]["patient_id"] = load_cases(phantom, "train", 16).patient_ids[3]
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="one split only"):
        load_real(folder, 16)


@pytest.mark.parametrize("patient, one", [("/p", True), ("", False)])
def test_odd_patient_ids(phantom, tmp_path, patient, one):
    """Any text is a patient; an empty one, as tables have it, is none."""
    folder = tmp_path / "real"
    shutil.copytree(phantom, folder)
    for split in ("train", "test"):
        metadata = folder / split / "metadata.jsonl"
        rows = [{**json.loads(line), "patient_id": patient} for line in metadata.read_text().splitlines()]
        metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if one:
        with pytest.raises(ValueError, match="'/p' in train and test"):
            load_real(folder, 16)
    else:
        test = load_real(folder, 16)[0]["test"]
        assert len(set(test.patient_ids)) == len(test)


def test_a_film_under_two_names_is_tested_on_once(phantom, tmp_path):
    """What has trained or chosen a network is left out of what tests it, and named; the leak guard does not ask for it."""
    folder = tmp_path / "real"
    shutil.copytree(phantom, folder)
    whole, _ = load_real(folder, 16)
    copies = {"validation": ("train", 2), "test": ("validation", 1)}  # the first film of a split is one of another
    names = {split: whole[split].names[0] for split in copies}
    for split, (other, index) in copies.items():
        shutil.copy(folder / other / f"images/{whole[other].names[index]}.png", folder / split / f"images/{names[split]}.png")
    splits, notes = load_real(folder, 16)
    assert len(notes) == 2 and splits["train"].names == whole["train"].names
    for (split, (other, index)), note in zip(copies.items(), notes, strict=True):
        assert splits[split].names == whole[split].names[1:]
        assert f"1 {split} case was left out" in note and f"{names[split]} ({whole[other].names[index]} in {other})" in note
    twice = Cases.concatenate([whole["train"], whole["train"].select([0, 1])])
    assert len(leave_out_duplicates({"train": twice})[0]["train"]) == len(twice)
    pooled, (note,) = leave_out_duplicates({"train": twice}, pooled=True)
    assert len(pooled["train"]) == len(whole["train"]) and "2 train cases were left out" in note


def test_pairs_know_the_site_of_what_they_were_made_from(phantom, tmp_path):
    train = load_cases(phantom, "train", 16)
    folder = tmp_path / "synthetic"
    write_phantom(folder, 2, 2, 32, 9)
    sources = iter([train.names[0], train.names[5], None, "unknown"])
    synthetic_of(folder, lambda row: {**row, "source": next(sources)})
    found = load_synthetic(folder, 16, train)
    assert found.sites == (train.sites[0], train.sites[5], None, None)
    with pytest.raises(ValueError, match="label 1 is not among"):
        load_synthetic(folder, 16, train.select((train.class_labels == 0).nonzero().flatten()))


def test_leaks_are_refused_by_name(phantom, synthetic, tmp_path):
    splits, notes = load_real(phantom, 16)
    assert not notes
    made = load_synthetic(synthetic, 16, splits["train"])
    refuse_leaks(phantom, splits, synthetic, made, allow_unrecorded=True)
    with pytest.raises(ValueError, match="--allow-unrecorded"):
        refuse_leaks(phantom, splits, synthetic, made, allow_unrecorded=False)

    copy = tmp_path / "copy"  # a test film stands among the pairs
    shutil.copytree(synthetic, copy)
    stolen = json.loads((phantom / "test" / "metadata.jsonl").read_text().splitlines()[1])["image_file_name"]
    place = json.loads((copy / "train" / "metadata.jsonl").read_text().splitlines()[0])["image_file_name"]
    shutil.copy(phantom / "test" / stolen, copy / "train" / place)
    with pytest.raises(ValueError, match="test split .* by pixel: case 'normal_00001' is synthetic pair 'normal_00000'"):
        refuse_leaks(phantom, splits, copy, load_synthetic(copy, 16, splits["train"]), allow_unrecorded=True)

    planted = tmp_path / "planted"  # a pair that was made from a film of a validation patient
    shutil.copytree(synthetic, planted)
    patient = splits["validation"].patient_ids[2]
    synthetic_of(planted, lambda row: {**row, "patient_id": patient})
    with pytest.raises(ValueError, match=f"validation split .*{patient}"):
        refuse_leaks(phantom, splits, planted, load_synthetic(planted, 16, splits["train"]), allow_unrecorded=True)


@pytest.mark.parametrize(
    "samples_per_class, message", [(None, "split 'train': label 1 has no case and label 2 has"), ([1, 0, 1], "label 1")]
)
def test_gaps_in_the_labels_are_named(tmp_path, samples_per_class, message):
    folder = DataFolder(tmp_path / "films")
    for label in (0, 2) if samples_per_class is None else (0, 1, 2):
        folder.add(label=label)
    folder.write()
    with pytest.raises(ValueError, match=message):
        load_real(folder.root, 12, samples_per_class)
