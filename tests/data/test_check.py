import json
import shutil

import numpy as np
import pytest
from PIL import Image

from diffusers_macdm.data.check import check_dataset, inspect_dataset
from diffusers_macdm.data.faults import Fault
from diffusers_macdm.data.loading import load_pairs


KINDS = ("images", "anatomy", "lesion")
SIZE = 16


def save(path, array):
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path):
    """A faultless set: train 0-3 and validation 0-1, every second case with a lesion, one patient per case."""
    root = tmp_path / "set"
    for split, count in (("train", 4), ("validation", 2)):
        for kind in KINDS:
            (root / split / kind).mkdir(parents=True)
        rows = []
        for number in range(count):
            name = f"{number}.png"
            anatomy, lesion = np.zeros((2, SIZE, SIZE), dtype=bool)
            anatomy[4:12], lesion[5:7, 5:9] = True, number % 2
            rng = np.random.default_rng([len(split), number])
            save(root / split / "images" / name, rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8))
            save(root / split / "anatomy" / name, anatomy)
            save(root / split / "lesion" / name, lesion.astype(np.uint8) * 255)
            rows.append(
                {
                    "image_file_name": f"images/{name}",
                    "anatomy_mask_file_name": f"anatomy/{name}",
                    "lesion_mask_file_name": f"lesion/{name}",
                    "label": number % 2,
                    "patient_id": f"{split}-{number}",
                    "site": "frontal",
                }
            )
        write_rows(root, split, rows)
    return root


def read_rows(root, split="train"):
    return [json.loads(line) for line in (root / split / "metadata.jsonl").read_text().splitlines()]


def write_rows(root, split, rows):
    (root / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_row(root, number, split="train", **values):
    rows = read_rows(root, split)
    rows[number].update(values)
    write_rows(root, split, rows)


def only_fault(root):
    faults = check_dataset(root)
    assert len(faults) == 1, faults
    return faults[0]


def found(root):
    return {(fault.file, fault.kind) for fault in check_dataset(root)}


def test_faultless_set_passes_and_loads(root):
    report = inspect_dataset(root)
    assert report.faults == report.notes == check_dataset(str(root)) == []
    assert report.num_cases == {"train": 4, "validation": 2}
    assert len(load_pairs(root)) == 4


def test_provenance_unlabeled_16_bit_and_other_sizes_pass(root):
    edit_row(root, 0, label=None)
    provenance = {"model": "m", "seed": 3, "guidance_scale": 2.0, "strength": None, "source": "0", "masks_from": None}
    for split, count in (("train", 4), ("validation", 2)):
        for number in range(count):
            edit_row(root, number, split, **provenance, guidance_interval=[0.0, 1.0], num_inference_steps=25)
    save(root / "train/images/0.png", np.arange(80, dtype=np.uint16).reshape(8, 10) * 500)
    for kind in ("anatomy", "lesion"):
        save(root / "train" / kind / "0.png", np.ones((8, 10), dtype=bool))
    assert check_dataset(root) == []


@pytest.mark.parametrize("kind, column", [("images", "image"), ("anatomy", "anatomy_mask"), ("lesion", "lesion_mask")])
def test_missing_file(root, kind, column):
    (root / "train" / kind / "1.png").unlink()
    reason = f"{column}_file_name in line 2 names it, but it is not there."
    assert only_fault(root) == Fault(f"train/{kind}/1.png", reason, "missing file")


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_image(root, kind):
    path = root / "train" / kind / "1.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 20])
    Image.open(path)  # the header is whole
    assert only_fault(root).file == f"train/{kind}/1.png"
    assert only_fault(root).kind == "unreadable image"


@pytest.mark.parametrize("damage", ["not an image", "flipped bit", "empty"])
def test_unreadable_image(root, damage):
    path = root / "train/images/1.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes({"not an image": b"hello", "flipped bit": bytes(content), "empty": b""}[damage])
    fault = only_fault(root)
    assert (fault.file, fault.kind) == ("train/images/1.png", "unreadable image")


@pytest.mark.parametrize("kind", ["anatomy", "lesion"])
def test_size_mismatch(root, kind):
    save(root / "train" / kind / "0.png", np.zeros((SIZE, SIZE + 1), dtype=bool))
    fault = only_fault(root)
    assert (fault.file, fault.kind) == (f"train/{kind}/0.png", "size mismatch")
    assert fault.reason == "17 x 16 pixels, but its radiograph train/images/0.png has 16 x 16."


def test_lesion_outside_the_anatomy(root):
    lesion = np.zeros((SIZE, SIZE), dtype=bool)
    lesion[10:14, 3:5] = True
    save(root / "train/lesion/1.png", lesion)
    reason = "4 of 8 lesion pixels are outside the anatomy mask."
    assert only_fault(root) == Fault("train/lesion/1.png", reason, "lesion outside the anatomy")


@pytest.mark.parametrize("number, label, what", [(1, 0, "has 8 pixels"), (0, 1, "is empty"), (0, 2, "is empty")])
def test_label_that_contradicts_the_lesion_mask(root, number, label, what):
    edit_row(root, number, label=label)
    fault = only_fault(root)
    assert (fault.file, fault.kind) == (f"train/lesion/{number}.png", "label contradicts the lesion mask")
    assert what in fault.reason and f"label {label}" in fault.reason


@pytest.mark.parametrize("label", ["1", 1.0, True, -1, [1]])
def test_invalid_label(root, label):
    edit_row(root, 1, label=label)
    faults = [fault for fault in check_dataset(root) if fault.kind == "invalid label"]
    assert [fault.file for fault in faults] == ["train/metadata.jsonl:2"]
    assert repr(label) in faults[0].reason


def test_patient_in_two_splits(root):
    edit_row(root, 1, "validation", patient_id="train-2")
    reason = "patient 'train-2' is in train and validation; a patient may be in one split only."
    assert only_fault(root) == Fault("validation/metadata.jsonl", reason, "patient in two splits")


def test_unknown_patients_are_nobody(root):
    edit_row(root, 0, patient_id=None)
    edit_row(root, 0, "validation", patient_id=None)
    assert check_dataset(root) == []


def test_other_columns_are_a_note(root):
    edit_row(root, 1, age=3, patientid="7")
    edit_row(root, 0, "validation", age="three")
    report = inspect_dataset(root)
    assert report.faults == []
    (note,) = report.notes
    assert (note.file, note.kind) == ("train/metadata.jsonl", "other columns")
    assert note.reason == "column 'age', 'patientid' is not used; label, patient_id, site are."
    assert load_pairs(root)["age"] == [None, 3, None, None]


@pytest.mark.parametrize("column", ["image_file_name", "anatomy_mask_file_name", "lesion_mask_file_name", "label"])
def test_missing_column(root, column):
    rows = read_rows(root)
    rows[1].pop(column)
    write_rows(root, "train", rows)
    fault = check_dataset(root)[0]
    assert (fault.file, fault.kind) == ("train/metadata.jsonl", "missing column")
    remedy = {
        "anatomy_mask_file_name": "; a set without anatomy masks has it in no line of any split",
        "lesion_mask_file_name": "; a set without lesion outlines has it in no line of any split",
    }
    assert fault.reason == f"required column {column!r} is missing (line 2){remedy.get(column, '')}."
    assert found(root) == {("train/metadata.jsonl", "missing column")}
    with pytest.raises(ValueError, match=column):
        load_pairs(root)


@pytest.mark.parametrize("line", ['{"label": 1', "[1, 2]", '{"label": NaN}', '"text"', "\udcff"])
def test_invalid_json(root, line):
    metadata = root / "train/metadata.jsonl"
    content = metadata.read_bytes()
    metadata.write_bytes(content + line.encode("utf-8", "surrogateescape") + b"\n")
    fault = only_fault(root)
    assert (fault.file, fault.kind) == ("train/metadata.jsonl:5", "invalid JSON")


def test_numbers_among_texts_are_texts(root):
    edit_row(root, 1, patient_id=17)
    edit_row(root, 2, patient_id=18.0)  # what tables make of whole numbers in a column with gaps
    assert check_dataset(root) == []
    assert load_pairs(root)["patient_id"] == ["train-0", "17", "18", "train-3"]
    edit_row(root, 0, "validation", patient_id="17")
    assert only_fault(root).kind == "patient in two splits"


@pytest.mark.parametrize("value", [True, [1], {"a": 1}, 1.5])
@pytest.mark.parametrize("column", ["patient_id", "site"])
def test_a_patient_or_site_that_is_none(root, column, value):
    edit_row(root, 1, **{column: value})
    assert only_fault(root).kind == f"invalid {column}" and repr(value) in only_fault(root).reason
    with pytest.raises(ValueError, match=column):
        load_pairs(root)


@pytest.mark.parametrize("value", ["absent", None, 4])
def test_columns_may_differ_between_splits(root, value):
    rows = read_rows(root, "validation")
    for row in rows:
        row["site"] = value
        if value == "absent":
            del row["site"]
    write_rows(root, "validation", rows)
    assert check_dataset(root) == []
    assert load_pairs(root, "validation")["site"] == [None if value == "absent" else value and str(value)] * 2


def test_empty_split(root):
    write_rows(root, "validation", [])
    assert ("validation/metadata.jsonl", "empty split") in found(root)


def test_split_without_metadata(root):
    (root / "validation/metadata.jsonl").unlink()
    assert only_fault(root).kind == "empty split"
    assert only_fault(root).file == "validation"


def test_no_train_split(root):
    shutil.rmtree(root / "train")
    assert only_fault(root).kind == "no train split"


def test_unknown_split(root):
    (root / "validation").rename(root / "holdout")
    report = inspect_dataset(root)
    assert report.faults == [] and report.num_cases == {"train": 4}
    (note,) = report.notes
    assert (note.file, note.kind) == ("holdout/metadata.jsonl", "other table") and "train/metadata.jsonl" in note.reason


@pytest.mark.parametrize("name", ["images/extra.png", "lesion/extra.tif", "stray.jpg"])
def test_unlisted_file_is_a_note(root, name):
    save(root / "train" / name, np.zeros((SIZE, SIZE), dtype=np.uint8))
    (root / "train/notes.txt").write_text("no image")
    report = inspect_dataset(root)
    assert report.faults == []
    assert [(note.file, note.kind) for note in report.notes] == [(f"train/{name}", "unlisted file")]


def test_file_named_twice(root):
    edit_row(root, 2, lesion_mask_file_name="lesion/../lesion/0.png")
    assert found(root) == {("train/lesion/0.png", "file named twice")}
    reason = next(fault.reason for fault in check_dataset(root) if fault.kind == "file named twice")
    assert "line 3" in reason and "line 1" in reason


def test_same_radiograph_in_two_splits(root):
    """The same pixels in another file, compressed otherwise, under another patient_id."""
    Image.open(root / "train/images/0.png").save(root / "validation/images/1.png", compress_level=1)
    fault = only_fault(root)
    assert (fault.file, fault.kind) == ("validation/images/1.png", "duplicate radiograph")
    assert "train/images/0.png" in fault.reason


def test_same_radiograph_twice_in_a_split_is_a_note(root):
    Image.open(root / "train/images/0.png").save(root / "train/images/1.png", compress_level=1)
    report = inspect_dataset(root)
    assert not report.faults
    (note,) = report.notes
    assert (note.file, note.kind) == ("train/images/1.png", "duplicate radiograph")
    assert "train/images/0.png" in note.reason


@pytest.mark.parametrize("kind", KINDS)
def test_not_grayscale(root, kind):
    Image.open(root / "train" / kind / "1.png").convert("RGB").save(root / "train" / kind / "1.png")
    fault = only_fault(root)
    assert (fault.file, fault.kind) == (f"train/{kind}/1.png", "not grayscale")
    assert "'RGB'" in fault.reason


def test_blank_radiograph(root):
    save(root / "train/images/1.png", np.full((SIZE, SIZE), 51, dtype=np.uint8))
    reason = "every pixel has the same value (0.2 of 1)."
    assert only_fault(root) == Fault("train/images/1.png", reason, "blank radiograph")


@pytest.mark.parametrize(
    "name",
    ["../validation/lesion/0.png", "/etc/x.png", "lesion/../../x.png", "..\\x.png", "C:\\x.png", "C:x.png", "\ud800.png"],
)
def test_path_outside_the_folder(root, name):
    edit_row(root, 0, lesion_mask_file_name=name)
    assert found(root) == {("train/metadata.jsonl:1", "path outside the folder")}
    with pytest.raises(ValueError, match="lesion_mask_file_name is"):
        load_pairs(root)


@pytest.mark.parametrize("name", [None, "", 7])
def test_file_name_that_is_none(root, name):
    edit_row(root, 1, lesion_mask_file_name=name)
    assert found(root) == {("train/metadata.jsonl:2", "missing file")}


@pytest.mark.parametrize("how", ["null", "absent"])
def test_a_normal_case_needs_no_lesion_mask(root, how):
    rows = read_rows(root)
    rows[0]["lesion_mask_file_name"] = None
    if how == "absent":
        del rows[0]["lesion_mask_file_name"]
    write_rows(root, "train", rows)
    assert check_dataset(root) == []
    _, _, lesion = load_pairs(root).arrays(0)
    assert lesion.shape == (SIZE, SIZE) and not lesion.any()


def test_one_fault_hides_no_other_of_the_same_case(root):
    (root / "train/images/1.png").unlink()
    lesion = np.ones((SIZE, SIZE), dtype=np.uint8)
    save(root / "train/lesion/1.png", lesion)
    edit_row(root, 1, label=0, patient_id="validation-0", age=4)
    assert found(root) == {
        ("train/images/1.png", "missing file"),
        ("train/lesion/1.png", "label contradicts the lesion mask"),
        ("train/lesion/1.png", "lesion outside the anatomy"),
        ("validation/metadata.jsonl", "patient in two splits"),
    }


def test_empty_anatomy_of_a_normal_case_is_a_note(root):
    save(root / "train/anatomy/0.png", np.zeros((SIZE, SIZE), dtype=bool))
    report = inspect_dataset(root)
    assert report.faults == []
    assert [(note.file, note.kind) for note in report.notes] == [("train/anatomy/0.png", "empty anatomy mask")]
    save(root / "train/anatomy/1.png", np.zeros((SIZE, SIZE), dtype=bool))
    assert only_fault(root).kind == "lesion outside the anatomy"


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        check_dataset(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is a file"):
        check_dataset(tmp_path / "file")


def test_a_generated_set_that_is_not_finished_is_neither_faultless_nor_read(root):
    """Of a whole one nothing is missing but the summary, which is written last."""
    (root / "generation.json").write_text("{}")
    (fault,) = check_dataset(root)
    assert fault.file == "generation.json" and fault.reason.startswith("a generated set that is not finished")
    with pytest.raises(ValueError, match="set: .*: a generated set that is not finished .*run the same `macdm generate` again"):
        load_pairs(root)
    (root / "summary.json").write_text("{}")
    assert check_dataset(root) == [] and len(load_pairs(root)) == 4
