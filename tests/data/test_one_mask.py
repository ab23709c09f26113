"""Sets with one mask: what declares them, and what is a fault of a set that is annotated by half."""

import shutil

import numpy as np
import pytest
from data_folders import COLUMNS, usual
from datasets import Dataset, DatasetDict, Features, Image, Value

from diffusers_macdm.data.cases import Cases, load_cases
from diffusers_macdm.data.check import check_dataset, inspect_dataset
from diffusers_macdm.data.dataset import PairDataset
from diffusers_macdm.data.hub_pairs import pairs_of
from diffusers_macdm.data.loading import load_pairs


MASKS = ("anatomy_mask", "lesion_mask")
TITLES = {"anatomy_mask": "anatomy masks", "lesion_mask": "lesion outlines"}


def without(folder, mask, cases=None, how="absent"):
    """Take a mask's column, or its value, out of the lines of some cases; where none are given out of all, with its folder."""
    for split in ("train", "validation") if cases is None else ():
        shutil.rmtree(folder.root / split / COLUMNS[mask])
    for case in folder.cases if cases is None else cases:
        case.row.pop(f"{mask}_file_name")
        if how == "null":
            case.row[f"{mask}_file_name"] = None
    return folder.write().root


def kinds(root):
    return {(fault.file, fault.kind) for fault in check_dataset(root)}


@pytest.mark.parametrize("mask, how", [("anatomy_mask", "absent"), ("anatomy_mask", "null"), ("lesion_mask", "absent")])
def test_a_column_that_no_line_has_is_a_mask_that_the_set_has_not(tmp_path, mask, how):
    folder = usual(tmp_path / "set")
    root = without(folder, mask, how=how)
    report = inspect_dataset(root)
    assert report.faults == []
    (note,) = [note for note in report.notes if note.kind == "one mask"]
    assert note.reason == (
        f"the set has no {TITLES[mask]}: no line of any split names a file in {mask}_file_name. Models of it know none, and "
        "nothing is measured on them."
    )
    (other,) = {*MASKS} - {mask}
    for split in ("train", "validation"):
        pairs = load_pairs(root, split)
        assert pairs.masks == (other,) and pairs.select([0]).masks == (other,)
        assert pairs.column_names[:2] == ["image", other] and mask not in pairs.column_names
        for index, case in enumerate(folder.of(split)):
            arrays = dict(zip(COLUMNS, pairs.arrays(index), strict=True))
            assert arrays[mask] is None
            np.testing.assert_array_equal(arrays[other], case.anatomy if other == "anatomy_mask" else case.lesion)
    dataset = PairDataset(load_pairs(root), size=8)
    sample = dataset[1]["joint_sample"]  # [3, 8, 8]
    channel = 1 + MASKS.index(mask)
    assert dataset.masks == (other,) and (sample[channel] == -1).all() and (sample[3 - channel] == 1).any()


def test_cases_without_a_mask_are_not_cases_with_an_empty_one(tmp_path):
    root = without(usual(tmp_path / "set"), "lesion_mask")
    cases = load_cases(root, "train", 12)
    assert cases.known_masks == ("anatomy_mask",) and not cases.has_masks
    assert cases.joint_samples[:, 2].isnan().all() and cases.joint_samples[:, :2].isfinite().all()
    for part in (cases.select([0, 1]), Cases.concatenate([cases, cases])):
        assert part.known_masks == ("anatomy_mask",)
    both = load_cases(usual(tmp_path / "both").write().root, "train", 12)
    assert both.known_masks == MASKS and both.with_masks(MASKS) is both
    assert both.with_masks(["anatomy_mask"]).known_masks == ("anatomy_mask",) and both.known_masks == MASKS
    assert both.with_masks(["anatomy_mask"]).digest() == cases.digest() != both.digest()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("half", ["a split", "all cases but one", "one case"])
def test_annotated_by_half_is_a_fault(tmp_path, mask, half):
    """Whether most cases lack the mask or one does: it is no property of the set."""
    folder = usual(tmp_path / "set")
    lesions = [case for case in folder.cases if case.label]  # a normal case needs no lesion mask
    others = [case for case in folder.cases if case is not lesions[0]]
    chosen = {"a split": folder.of("validation"), "all cases but one": others, "one case": lesions[:1]}[half]
    root = without(folder, mask, chosen)
    splits = {case.split for case in chosen if case.label or mask == "anatomy_mask"}
    faults = [fault for fault in check_dataset(root) if fault.kind == "missing column"]  # others follow from it
    assert {fault.file for fault in faults} == {f"{split}/metadata.jsonl" for split in splits}
    for fault in faults:
        assert fault.reason.startswith(f"required column '{mask}_file_name' is missing (")
        assert fault.reason.endswith(f"; a set without {TITLES[mask]} has it in no line of any split.")
    with pytest.raises(ValueError, match="cannot be read as a data folder"):
        load_pairs(root)


def test_a_set_without_any_mask_is_told_that_one_is_needed(tmp_path):
    folder = usual(tmp_path / "set")
    for mask in MASKS:
        root = without(folder, mask)
    faults = [fault for fault in check_dataset(root) if fault.kind == "missing column"]
    assert {fault.reason[fault.reason.index(";") :] for fault in faults} == {
        "; a set may lack one kind of mask, not both (anatomy masks and lesion outlines)."
    }


@pytest.mark.parametrize("chosen", [slice(None), slice(0, 1), slice(1, None)], ids=["all", "one", "all but one"])
def test_null_does_not_say_that_there_are_no_outlines(tmp_path, chosen):
    """It is the empty mask of a normal case: of a case with a lesion it is a fault, in however many lines it stands."""
    folder = usual(tmp_path / "set")
    root = without(folder, "lesion_mask", [case for case in folder.cases if case.label][chosen], how="null")
    faults = check_dataset(root)
    assert {fault.kind for fault in faults} == {"missing file"}
    assert all("a set without lesion outlines lacks the column" in fault.reason for fault in faults)


def test_null_in_every_line_is_a_fault_where_there_are_lesions(tmp_path):
    folder = usual(tmp_path / "set")
    root = without(folder, "lesion_mask", how="null")
    assert len(check_dataset(root)) == sum(case.label == 1 for case in folder.cases)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("sign", ["files", "another column"])
def test_a_column_of_another_name_is_no_set_without_a_mask(tmp_path, mask, sign):
    folder = usual(tmp_path / "set")
    if sign == "files":
        (folder.root / "validation" / COLUMNS[mask]).rename(tmp_path / "kept")
    without(folder, mask, None if sign == "another column" else folder.cases)
    split, there = "train", f"there are files in train/{COLUMNS[mask]}"
    if sign == "another column":
        name = mask.replace("_mask", "_file_name")
        folder.cases[-1].row[name] = "x.png"
        folder.write()
        split, there = "validation", f"there is the column {name!r}"
    (fault,) = [fault for fault in check_dataset(folder.root) if fault.kind == "missing column"]
    assert fault.file == f"{split}/metadata.jsonl"
    assert fault.reason == (
        f"required column '{mask}_file_name' is missing: a set without {TITLES[mask]} lacks it, but {there}. Name the files in "
        "this column, or take that away."
    )
    with pytest.raises(ValueError, match="is missing: a set without"):
        load_pairs(folder.root)


def test_a_film_alone_is_no_set_with_one_mask(tmp_path):
    folder = usual(tmp_path / "set")
    without(folder, "anatomy_mask")
    root = without(folder, "lesion_mask")
    assert kinds(root) == {(f"{split}/metadata.jsonl", "missing column") for split in ("train", "validation")}


def test_normal_cases_alone_with_null_have_empty_masks(tmp_path):
    folder = usual(tmp_path / "set")
    for case in folder.cases:
        case.row["label"] = 0
    root = without(folder, "lesion_mask", how="null")
    assert check_dataset(root) == [] and load_pairs(root).masks == MASKS
    assert not load_pairs(root).arrays(0)[2].any()


@pytest.mark.parametrize("mask", MASKS)
def test_tables_of_the_hub(tmp_path, mask):
    """A column that is not there, and one of anatomy masks without any."""
    folder = load_pairs(usual(tmp_path / "set").write().root)
    (other,) = {*MASKS} - {mask}
    rows = {column: [str(case.files[column].path) for case in folder.cases] for column in ("image", other)}
    rows["label"] = folder["label"]
    features = {"image": Image(), other: Image(), "label": Value("int64")}
    tables = [(rows, features)]
    if mask == "anatomy_mask":
        tables.append((rows | {mask: [None] * len(folder)}, features | {mask: Image()}))
    for content, of_table in tables:
        table = Dataset.from_dict(content, features=Features(of_table))
        pairs = pairs_of(DatasetDict(train=table), "train", "owner/name")
        assert pairs.masks == (other,) and mask not in pairs.column_names
        found, expected = (dict(zip(COLUMNS, part.arrays(1), strict=True)) for part in (pairs, folder))
        assert found[mask] is None
        np.testing.assert_array_equal(found[other], expected[other])
