"""Generated data folders: what `macdm check` says, what the reader gives and what a training trains on is the same."""

import os
import random
import shutil
import tempfile
from pathlib import Path

import hypothesis
import numpy as np
from data_folders import COLUMNS, DataFolder, save, zip_of
from hypothesis import strategies as st
from PIL import Image

from diffusers_macdm.data.check import inspect_dataset
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.training.data import describe_data, load_training_data
from diffusers_macdm.training.settings import DenoiserSettings


SIZE = 12  # side at which nothing is resampled: what is trained on is what stands in the files


# ------------------------------------------------------------------------------------------------ what may be in a folder

FILMS = ("png8", "png16", "tif8", "tif16", "tif16-white-is-zero", "pgm16", "bmp8")
TWELVE_BITS = ("png12", "tif12")
NAMES = st.text(st.sampled_from("abXY01 []*?{}%&'!#,;=@^~+-_.ß漢é"), min_size=1, max_size=8).map(
    lambda text: "c" + text.rstrip(". ") + "c"  # no name that a file system or a suffix would change
)


@st.composite
def descriptions(draw):
    """A folder in words: its splits with their cases, how the lines are written, what stands beside, what is wrong."""
    depth = draw(st.sampled_from((FILMS, TWELVE_BITS)))
    names_as_labels = draw(st.booleans())
    splits = {"train": draw(st.integers(3, 6))} | {s: draw(st.integers(1, 2)) for s in draw(st.sets(st.sampled_from(HELD_OUT)))}
    orientation = draw(st.sampled_from((1, 1, 1, 2, 3, 4, 5, 6, 7, 8)))
    cases = []
    for split, count in splits.items():
        for number in range(count):
            known = (0, 1) if number < 2 and split == "train" else (0, 1, 1, None)
            label = number if split == "train" and number < 2 else draw(st.sampled_from(known))
            cases.append(
                {
                    "split": split,
                    "name": draw(NAMES) + str(len(cases)),
                    "label": label,
                    "film": draw(st.sampled_from(depth)),
                    "mask": draw(st.sampled_from(("255", "1", "bit", "ids", "16", "7"))),
                    "height": draw(st.integers(9, SIZE)) if draw(st.booleans()) else SIZE,
                    "width": SIZE,
                    "patient": draw(
                        st.sampled_from(
                            (None, "absent", f"{split}-{number}", number + 10 * len(cases), float(100 + len(cases)))
                        )
                    ),
                    "no_lesion_file": draw(st.sampled_from(("", "", "null", "absent"))) if label == 0 else "",
                    "path": draw(st.sampled_from(("plain", "dots", "backslash"))),
                }
            )
    return {
        "folder": draw(st.sampled_from(("films", "films [v2]", "fi*lms", "a::b", "test", "ä ö"))),
        "names_as_labels": names_as_labels,
        "orientation": orientation,
        "cases": cases,
        "lines": {
            "bom": draw(st.booleans()),
            "blank_lines": draw(st.booleans()),
            "ends": draw(st.sampled_from(("\n", "\r\n"))),
        },
        "other_columns": draw(st.booleans()),
        "beside": draw(st.sets(st.sampled_from(tuple(BESIDE)), max_size=3)),
        "faults": draw(st.lists(st.tuples(st.sampled_from(tuple(FAULTS)), st.integers(0, 99)), max_size=2)),
    }


HELD_OUT = ("validation", "test")


# ------------------------------------------------------------------------------------------------------------ writing it


def write(described, top: Path) -> tuple[DataFolder, set[str]]:
    """Write the folder; return it, and the files or lines that are at fault."""
    folder = DataFolder(top / described["folder"])
    for words in described["cases"]:
        turned = described["orientation"] if words["film"][:3] in ("png", "tif") and "white" not in words["film"] else 1
        case = folder.add(
            words["split"],
            words["name"],
            words["label"],
            height=words["height"],
            width=words["width"],
            film=words["film"],
            mask=words["mask"],
            orientation=turned,
        )
        if words["patient"] != "absent":
            case.row["patient_id"] = words["patient"]
        if words["no_lesion_file"]:
            case.row["lesion_mask_file_name"] = None
            (folder.root / case.split / "lesion" / f"{case.name}.png").unlink()
            if words["no_lesion_file"] == "absent":
                del case.row["lesion_mask_file_name"]
        for column in [name for name in case.row if name.endswith("file_name") and case.row[name]]:
            path = case.row[column]
            case.row[column] = {"plain": path, "dots": f"./x/../{path}", "backslash": path.replace("/", "\\")}[words["path"]]
        if described["names_as_labels"] and case.label is not None:
            case.row["label"] = ("normal", "a fracture")[case.label]
        if described["other_columns"]:
            case.row |= {"age": len(folder.cases) if len(folder.cases) % 2 else "unknown", "file_name": "x.png", "image": 3}
    expected, faulty = set(), set()
    for fault, choice in described["faults"]:
        number = choice % len(folder.cases)
        if number not in faulty:  # one fault may hide another of the same case: without a film no mask is of another size
            faulty.add(number)
            expected |= FAULTS[fault](folder, folder.cases[number])
    folder.write(**described["lines"])
    for beside in sorted(described["beside"]):
        BESIDE[beside](folder)
    return folder, expected


def _file(folder, case, column) -> Path:
    name = case.row.get(f"{column}_file_name")
    if not isinstance(name, str):
        return folder.root / "none"
    return folder.root / case.split / COLUMNS[column] / name.replace("\\", "/").rpartition("/")[2]


def _shown(folder, case, column) -> str:
    return _file(folder, case, column).relative_to(folder.root).as_posix()


def _missing(folder, case):
    _file(folder, case, "image").unlink(missing_ok=True)
    return {_shown(folder, case, "image")}


def _truncated(folder, case):
    path = _file(folder, case, "anatomy_mask")
    path.write_bytes(path.read_bytes()[:-15] if path.is_file() else b"")
    return {_shown(folder, case, "anatomy_mask")}


def _colour(folder, case):
    Image.new("RGB", (SIZE, SIZE), (9, 80, 200)).save(_file(folder, case, "image"), "PNG")
    return {_shown(folder, case, "image")}


def _other_size(folder, case):
    save(_file(folder, case, "anatomy_mask"), np.ones((SIZE + 3, SIZE), dtype=bool))
    return {_shown(folder, case, "anatomy_mask")}


def _frames(folder, case):
    frames = [Image.fromarray(np.full((SIZE, SIZE), value, dtype=np.uint8)) for value in (10, 200)]
    frames[0].save(_file(folder, case, "image"), "TIFF", save_all=True, append_images=frames[1:])
    return {_shown(folder, case, "image")}


def _no_mask(folder, case):
    save(_file(folder, case, "anatomy_mask"), np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE) % 120 + 2)
    return {_shown(folder, case, "anatomy_mask")}


def _pipe(folder, case):
    path = _file(folder, case, "image")
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return {_shown(folder, case, "image")}


def _row(**values):
    def change(folder, case):
        case.row |= values
        return {"LINE " + case.split}

    return change


FAULTS = {  # each is refused; what it returns is named in a fault
    "missing": _missing,
    "truncated": _truncated,
    "colour": _colour,
    "other size": _other_size,
    "frames": _frames,
    "no mask": _no_mask,
    "pipe": _pipe,
    "label": _row(label=-1),
    "label text": _row(label="7"),
    "label list": _row(label=[0]),
    "outside": _row(image_file_name="../x.png"),
    "absolute": _row(anatomy_mask_file_name="/x.png"),
    "no file": _row(image_file_name=None),
    "patient": _row(patient_id=["a"]),
}


def _beside_nested(folder):
    shutil.copytree(folder.root / "train", folder.root / "old" / "test")


def _beside_nested_in_split(folder):
    shutil.copytree(folder.root / "train", folder.root / "train_copy")
    (folder.root / "train_copy").rename(folder.root / "train" / "validation")


def _beside_archive(folder):
    regular = folder.root / "train" / "metadata.jsonl"
    (folder.root / "train" / "more").mkdir()
    shutil.copy(regular, folder.root / "train" / "more" / "metadata.jsonl")
    zip_of(folder.root / "train" / "train.zip", folder.root / "train" / "more")


def _beside_table(folder):
    (folder.root / "train" / "metadata.csv").write_text("file_name,label\nimages/x.png,1\n")


def _beside_image(folder):
    save(folder.path("train", "image", "unlisted.png"), np.arange(144, dtype=np.uint8).reshape(12, 12))


def _beside_other_set(folder):
    """What `films [v2]` and `fi*lms` are when they are taken for patterns."""
    for name in ("films v", "fi-lms"):
        if not (folder.root.parent / name).exists():
            other = DataFolder(folder.root.parent / name)
            for number in range(3):
                other.add("train", label=1 - number % 2)
            other.write()


BESIDE = {
    "nested": _beside_nested,
    "nested in split": _beside_nested_in_split,
    "archive": _beside_archive,
    "table": _beside_table,
    "image": _beside_image,
    "other set": _beside_other_set,
}


# ------------------------------------------------------------------------------------------------------ whether they agree


def assert_agreement(described) -> None:
    """Write the folder and compare: check = reader = training = what was written."""
    with tempfile.TemporaryDirectory() as top:
        copied = {name for name in described["beside"] if not name.startswith("nested") or not _has_pipe(described)}
        folder, at_fault = write({**described, "beside": copied}, Path(top))
        report = inspect_dataset(folder.root)
        files = {fault.file for fault in report.faults}
        named = {file.partition(":")[0] for file in files}
        for place in at_fault:
            where = f"{place.removeprefix('LINE ')}/metadata.jsonl" if place.startswith("LINE ") else place
            lines_alone = any(other.startswith("LINE ") for other in at_fault)  # they may take the file's name away
            assert where in named or lines_alone, (where, report.faults)
        if not at_fault:
            assert report.faults == [], report.faults
        splits = {split: len(folder.of(split)) for split in dict.fromkeys(case.split for case in folder.cases)}
        assert report.num_cases == splits
        refused = any(".jsonl" in file for file in files)
        for split in splits:
            _compare_reader(folder, split, refused, files)
        _compare_training(folder, refused, files)


def _has_pipe(described) -> bool:
    return any(fault == "pipe" for fault, _ in described["faults"])  # which `shutil` would wait for


def _compare_reader(folder, split, refused, files):
    if refused:
        with pytest_raises(".jsonl"):
            load_pairs(folder.root, split)
        return
    pairs = load_pairs(folder.root, split)
    cases = folder.of(split)
    assert pairs["label"] == [case.label for case in cases]
    assert pairs.names == [case.name for case in cases]
    patients = [case.row.get("patient_id") for case in cases]
    assert [None if p is None else str(p) for p in pairs["patient_id"]] == [
        None if p is None else str(int(p) if isinstance(p, float) else p) for p in patients
    ]
    for index, case in enumerate(cases):
        own = [_shown(folder, case, column) for column in COLUMNS]
        if files.intersection(own):
            with pytest_raises(*files.intersection(own)):
                pairs.arrays(index)
            continue
        for array, right in zip(pairs.arrays(index), (case.radiograph, case.anatomy, case.lesion), strict=True):
            np.testing.assert_array_equal(array, right)


def _compare_training(folder, refused, files):
    settings = DenoiserSettings(train_data_dir=str(folder.root), output_dir=str(folder.root / "out"), resolution=SIZE)
    own = {_shown(folder, case, column) for case in folder.of("train") for column in COLUMNS}
    if refused or files & own:
        with pytest_raises(*({".jsonl"} if refused else files & own)):
            describe_data(load_training_data(settings))
        return
    dataset = load_training_data(settings)
    record = describe_data(dataset)
    cases = folder.of("train")
    assert record["num_cases"] == len(cases) and record["cases"] == sorted(case.name for case in cases)
    assert dataset.num_classes == 2 and dataset.labels == [2 if case.label is None else case.label for case in cases]
    for index, case in enumerate(cases):
        padded = [_square(array) for array in (case.radiograph, case.anatomy, case.lesion)]
        right = np.stack([array.astype(np.float32) * 2 - 1 for array in padded])
        np.testing.assert_array_equal(dataset[index]["joint_sample"].numpy(), right)


def _square(array):
    square, top = np.zeros((SIZE, SIZE), dtype=array.dtype), (SIZE - array.shape[0]) // 2
    square[top : top + array.shape[0]] = array
    return square


class pytest_raises:
    """A `ValueError` whose sentence has one of these words."""

    def __init__(self, *words):
        self.words = words

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        assert kind is not None and issubclass(kind, ValueError), f"not refused: {self.words}"
        assert any(word in str(error) for word in self.words), f"{error} does not name {self.words}"
        return True


def agree(examples: int, seed: int | None = None) -> int:
    """Compare as many generated folders; return the seed."""
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        print_blob=True,
    )
    @hypothesis.given(descriptions())
    def compare(described):
        assert_agreement(described)

    compare()
    return seed
