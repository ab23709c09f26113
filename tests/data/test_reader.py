"""The reader takes exactly what the lines of the three splits name, and nothing is asked for elsewhere."""

import codecs
import json
import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from data_folders import DataFolder, usual, zip_of

from diffusers_macdm.data.check import check_dataset, inspect_dataset
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.training.data import describe_data, load_training_data
from diffusers_macdm.training.settings import DenoiserSettings


@pytest.fixture
def root(tmp_path):
    return tmp_path / "films"


def training_data(root, **options):
    return load_training_data(DenoiserSettings(train_data_dir=str(root), output_dir=str(root / "none"), **options))


def assert_read(folder, split="train", root=None):
    pairs = load_pairs(root or folder.root, split)
    expected = folder.of(split)
    assert pairs.names == [case.name for case in expected] and pairs["label"] == [case.label for case in expected]
    for index, case in enumerate(expected):
        for array, right in zip(pairs.arrays(index), (case.radiograph, case.anatomy, case.lesion), strict=True):
            np.testing.assert_array_equal(array, right)


def kinds(notes):
    return {(note.file, note.kind) for note in notes}


# ---- what is not read


@pytest.mark.parametrize("inside", ["old/test", "train/old", "test_old", "validation/test", "data/train"])
def test_a_table_in_another_folder_is_not_read(root, inside):
    """`datasets` takes each table below whose path has the word of a split: training films as a test set of 12 instead of 4."""
    folder = usual(root).write()
    shutil.copytree(root / "train", root / inside)
    report = inspect_dataset(root)
    assert report.faults == [] and report.num_cases == {"train": 6, "validation": 2}
    assert (f"{inside}/metadata.jsonl", "other table") in kinds(report.notes)
    assert_read(folder)
    assert_read(folder, "validation")
    with pytest.raises(ValueError, match="no split 'test'; there is 'train', 'validation'"):
        load_pairs(root, "test")


@pytest.mark.parametrize(
    "name", ["train/train.zip", "train.zip", "train/metadata.parquet", "train/metadata.csv", "metadata.csv"]
)
def test_archives_and_other_tables_are_not_read(root, name):
    folder = usual(root).write()
    if name.endswith("zip"):
        zip_of(root / name, root / "train")
    else:
        (root / name).write_text("file_name,label\nimages/train_00.png,1\n")
    report = inspect_dataset(root)
    assert report.faults == [] and [note.file for note in report.notes] == [name]
    assert_read(folder)


@pytest.mark.parametrize("name", ["films [v2]", "films*", "f?lms", "films **", "{a,b}", "a::b", "zip:b", "50%20", "~", "$HOME"])
def test_a_path_is_text(tmp_path, name):
    """Taken as a pattern, `films [v2]` is `films v` or `films 2` beside it: another set was trained on."""
    other = usual(tmp_path / "films v", film="png16").write()
    folder = usual(tmp_path / name, film="png8").write()
    assert check_dataset(tmp_path / name) == []
    assert_read(folder)
    assert_read(other)


@pytest.mark.parametrize(
    "name", ["a[1]", "a*", "a?", "hf://x", "https://example.org/a", "a b", "ä", "a%20b", "a::b", "-a", "{a}"]
)
def test_a_file_name_is_text(root, name):
    folder = DataFolder(root)
    (root / "train/images" / name).parent.mkdir(parents=True, exist_ok=True)
    for kind in ("images", "anatomy", "lesion"):
        (root / "train" / kind / name).parent.mkdir(parents=True, exist_ok=True)
    folder.add("train", name, 0)
    folder.add("train", "other", 1)
    folder.write()
    assert check_dataset(root) == []
    pairs = load_pairs(root)
    assert pairs.names[0] == name.rpartition("/")[2]
    np.testing.assert_array_equal(pairs.arrays(0)[0], folder.cases[0].radiograph)


def test_a_change_is_seen_whatever_the_time_stamp(root):
    """A cache that goes by the time of the last change trains on the old labels."""
    folder = usual(root).write()
    metadata = root / "train/metadata.jsonl"
    before = metadata.stat()
    assert load_pairs(root)["label"] == [0, 1, 0, 1, 0, 1]
    for case in folder.cases:
        case.row["label"] = 1
    folder.write()
    os.utime(metadata, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert metadata.stat().st_size == before.st_size and load_pairs(root)["label"] == [1] * 6


def test_nothing_is_asked_for_elsewhere(root, monkeypatch):
    """No look-up of a host, to count downloads say; `datasets` is not even imported for a folder."""

    def refused(*arguments, **options):
        raise AssertionError(f"asked for {arguments}")

    usual(root).write()
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refused)
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert check_dataset(root) == []
    describe_data(training_data(root, resolution=12))
    for mistyped in ("film", str(root / "nowhere"), "films/train2", "Data/Legs"):
        with pytest.raises(FileNotFoundError, match=f"{mistyped}: no such folder"):
            training_data(Path(mistyped))


# ---- the lines


@pytest.mark.parametrize("options", [{"bom": True}, {"ends": "\r\n"}, {"blank_lines": True}, {"bom": True, "ends": "\r\n"}])
def test_lines_of_other_editors(root, options):
    folder = usual(root).write(**options)
    assert check_dataset(root) == []
    assert_read(folder)


def test_paths_of_windows(root):
    folder = usual(root)
    for case in folder.cases:
        case.row = {name: v.replace("/", "\\") if name.endswith("file_name") else v for name, v in case.row.items()}
    folder.write()
    assert check_dataset(root) == []
    assert_read(folder)


@pytest.mark.parametrize(
    "content, message",
    [
        ("\ufeff".encode("utf-16"), "UTF-16; UTF-8 is needed"),
        (b'[{"label": 0},\n{"label": 1}]', "holds a list; one JSON object a line"),
        (b'{"label": 0, "label": 1}\n', "'label' stands there twice"),
        (b'{"label": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "not valid JSON"),
        (b'{"label": ' + b"9" * 5000 + b"}\n", "not valid JSON"),
        (codecs.BOM_UTF8, "is empty: one line for each case"),
        (b"\x00" * 50, "not valid JSON"),
    ],
)
def test_lines_that_cannot_be_read(root, content, message):
    usual(root).write()
    (root / "train/metadata.jsonl").write_bytes(content)
    assert any(message in fault.reason for fault in check_dataset(root))
    with pytest.raises(ValueError, match=f"{root}: .*train/metadata.jsonl.*{message}.*`macdm check`"):
        load_pairs(root)


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.parquet"])
def test_another_table_alone_is_refused_by_name(root, name):
    usual(root).write()
    (root / "train/metadata.jsonl").rename(root / "train" / name)
    reason = f"the folder has {name}, which is not read: write it as metadata.jsonl"
    assert [fault.reason[: len(reason)] for fault in check_dataset(root)] == [reason]
    with pytest.raises(ValueError, match=reason):
        load_pairs(root)


def test_a_fault_of_another_split_is_not_passed_over(root):
    """Else a training would go on without its validation."""
    usual(root).write()
    with (root / "validation/metadata.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(ValueError, match="validation/metadata.jsonl:3: the line is not valid JSON"):
        load_pairs(root)


def test_the_folder_of_the_split_in_place_of_that_of_the_set(root):
    usual(root).write()
    (fault,) = check_dataset(root / "train")
    assert fault.kind == "no train split" and "give the folder above" in fault.reason
    with pytest.raises(ValueError, match="there is none of the folders train, validation, test"):
        load_pairs(root / "train")


# ---- labels


def relabelled(root, *labels, validation=(0, 1)):
    folder = DataFolder(root)
    for split, of_split in (("train", labels), ("validation", validation)):
        for label in of_split:
            folder.add(split, label=label, lesion=label not in (0, "normal", "Normal", None))
    return folder.write()


@pytest.mark.parametrize(
    "labels, missing", [((0, 2), "1"), ((1, 2), "0"), ((0, 1, 4), "2, 3"), ((0, 1, 9999), "2, 3, 4, 5, 6 and")]
)
def test_class_numbers_with_gaps(root, labels, missing):
    """A class that no film has would be trained, and sampled."""
    relabelled(root, *labels, validation=(labels[0],))
    (fault,) = check_dataset(root)
    assert fault.kind == "gap in the labels" and f"label {missing}" in fault.reason
    with pytest.raises(ValueError, match=f"cases to train on: label {missing}"):
        training_data(root)


def test_a_gap_that_samples_per_class_makes(root):
    relabelled(root, 0, 1, 2)
    with pytest.raises(ValueError, match="cases to train on: label 1 has no case and label 2 has"):
        training_data(root, samples_per_class=[1, 0, 1])


def test_a_label_that_no_training_case_has(root):
    relabelled(root, 0, 1, validation=(0, 2))
    assert [(fault.file, fault.kind) for fault in check_dataset(root)] == [
        ("validation/metadata.jsonl", "label without training case")
    ]


def test_names_as_labels(root):
    relabelled(root, "torus", "normal", "fracture", None, validation=("normal", "bowing"))
    report = inspect_dataset(root)
    assert [fault.kind for fault in report.faults] == ["label without training case"]
    assert "0 is 'normal', 1 is 'fracture', 2 is 'torus', 3 is 'bowing'" in [note.reason for note in report.notes][0]
    assert load_pairs(root)["label"] == [2, 0, 1, None] and load_pairs(root, "validation")["label"] == [0, 3]
    data = training_data(root, resolution=12)
    assert data.num_classes == 3 and data.labels == [2, 0, 1, 3]
    assert describe_data(data)["class_names"] == ["normal", "fracture", "torus", "bowing"]


@pytest.mark.parametrize(
    "labels, message",
    [
        (("a", "b"), "must be called 'normal'"),
        (("normal", 1), "names .'normal'. and numbers .1."),
        (("normal", "Normal ", "b"), "'Normal ' and 'normal' differ in case or blanks alone"),
        (("0", "1"), "label is '0'"),
        ((0, 1.0), "label is 1.0"),
        ((0, True), "label is True"),
        ((0, ""), "label is ''"),
        ((0, 10**9), "label is 1000000000"),
        ((0, [1]), r"label is \[1\]"),
    ],
)
def test_labels_that_are_none(root, labels, message):
    relabelled(root, *labels, validation=())
    assert [fault.kind for fault in check_dataset(root)][0] == "invalid label"
    with pytest.raises(ValueError, match=message):
        load_pairs(root)


# ---- patients


@pytest.mark.parametrize("other", [" P1", "p1", "P 1", "P1\t", "Ｐ1"])
def test_patients_that_are_alike_are_a_note(root, other):
    folder = usual(root)
    folder.cases[0].row["patient_id"], folder.cases[-1].row["patient_id"] = "P1", other
    folder.write()
    report = inspect_dataset(root)
    assert report.faults == [] and [note.kind for note in report.notes] == ["patients that are alike"]
    assert repr(other) in report.notes[0].reason.replace("\\\\", "\\")


def test_blank_patients_are_unknown(root):
    folder = usual(root)
    for case in folder.cases:
        case.row["patient_id"] = " "
    folder.write()
    assert check_dataset(root) == []
    assert describe_data(training_data(root, resolution=12))["patients"] == []


def test_one_patient_as_number_and_as_text(root):
    folder = usual(root)
    folder.cases[0].row["patient_id"], folder.cases[-1].row["patient_id"] = 17, "17"
    folder.write()
    assert [fault.kind for fault in check_dataset(root)] == ["patient in two splits"]


def test_names_that_a_terminal_must_not_see(root):
    folder = usual(root)
    folder.cases[0].row["image_file_name"] = "images/\x1b[2J\nx.png"
    folder.write()
    (fault,) = check_dataset(root)
    assert fault.file == "train/images/\\x1b[2J\\nx.png" and fault.kind == "missing file"
    json.dumps(fault.file).encode()
