import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusers_macdm.data.check import check_dataset
from diffusers_macdm.phantom import phantom_case, write, write_phantom
from diffusers_macdm.phantom.film import SITES


SPLITS = ("train", "validation", "test")


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def metadata_of(folder, split):
    return [json.loads(line) for line in (Path(folder) / split / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom") / "data"
    counts = write_phantom(out, num_normal=9, num_lesion=6, size=32, seed=3)
    assert counts == {
        "train": {"normal": 9, "lesion": 6},
        "validation": {"normal": 3, "lesion": 2},
        "test": {"normal": 3, "lesion": 2},
    }
    return out


# --- the data set


def test_same_arguments_give_the_same_bytes(data_dir, tmp_path):
    write_phantom(tmp_path / "again", num_normal=9, num_lesion=6, size=32, seed=3)
    assert files_of(tmp_path / "again") == files_of(data_dir)
    write_phantom(tmp_path / "other", num_normal=9, num_lesion=6, size=32, seed=4)
    other = files_of(tmp_path / "other")
    assert all(other[name] != content for name, content in files_of(data_dir).items() if "/images/" in name)


def test_a_larger_set_contains_the_smaller(data_dir, tmp_path):
    write_phantom(tmp_path / "small", num_normal=2, num_lesion=5, size=32, seed=3)
    large = files_of(data_dir)
    small = {name: content for name, content in files_of(tmp_path / "small").items() if name.endswith(".png")}
    assert small and all(large[name] == content for name, content in small.items())


def test_layout_and_masks(data_dir):
    assert sorted(path.name for path in data_dir.iterdir()) == sorted(SPLITS)
    for split in SPLITS:
        rows = metadata_of(data_dir, split)
        assert len({row["image_file_name"] for row in rows}) == len(rows)
        for row in rows:
            assert list(row) == [
                "image_file_name",
                "anatomy_mask_file_name",
                "lesion_mask_file_name",
                "label",
                "patient_id",
                "site",
            ]
            arrays = {}
            for key in ("image", "anatomy_mask", "lesion_mask"):
                with Image.open(data_dir / split / row[f"{key}_file_name"]) as image:
                    assert image.mode == "L" and image.size == (32, 32)
                    arrays[key] = np.asarray(image)
            assert set(np.unique(arrays["anatomy_mask"])) == {0, 255}
            assert set(np.unique(arrays["lesion_mask"])) == ({0, 255} if row["label"] else {0})
            assert row["site"] in SITES


def test_every_image_is_another(data_dir):
    images = [content for name, content in files_of(data_dir).items() if "/images/" in name]
    assert len(set(images)) == len(images) == 25


def test_macdm_check_finds_no_fault(data_dir):
    assert check_dataset(data_dir) == []


def test_imagefolder_loads_it(data_dir, tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(data_dir), cache_dir=str(tmp_path))
    assert set(loaded) == set(SPLITS)
    for split, count in (("train", 15), ("validation", 5), ("test", 5)):
        assert set(loaded[split].column_names) == {"image", "anatomy_mask", "lesion_mask", "label", "patient_id", "site"}
        assert loaded[split].num_rows == count
    row = loaded["train"][14]
    assert row["label"] == 1
    assert row["image"].size == row["anatomy_mask"].size == row["lesion_mask"].size == (32, 32)


def test_patients_have_one_or_two_films_in_one_split(tmp_path):
    write_phantom(tmp_path / "data", num_normal=40, num_lesion=40, size=32, seed=0)
    patients = {split: [row["patient_id"] for row in metadata_of(tmp_path / "data", split)] for split in SPLITS}
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not set(patients[a]) & set(patients[b])
    films = [patients["train"].count(patient) for patient in set(patients["train"])]
    assert set(films) == {1, 2}


def test_one_class_may_be_empty(tmp_path):
    counts = write_phantom(tmp_path / "data", num_normal=0, num_lesion=1, size=32, seed=0)
    assert counts == {split: {"normal": 0, "lesion": 1} for split in SPLITS}


# --- refusals


@pytest.mark.parametrize("size", [31, 1025, 0, -64, 64.0, "64", None, True])
def test_bad_sizes(size, tmp_path):
    with pytest.raises(ValueError, match=r"size is .*32 to 1024"):
        phantom_case(size, True, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"size is .*32 to 1024"):
        write_phantom(tmp_path / "data", 1, 1, size, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_normal": -1}, "num_normal is -1; an integer from 0"),
        ({"num_lesion": 2.5}, "num_lesion is 2.5; an integer from 0"),
        ({"num_normal": 0, "num_lesion": 0}, "both 0"),
        ({"seed": -1}, "seed is -1; an integer from 0"),
        ({"seed": 2**32}, "seed is 4294967296"),
    ],
)
def test_bad_counts_and_seeds(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_phantom(tmp_path / "data", **{"num_normal": 1, "num_lesion": 1, "size": 32, "seed": 0, **arguments})
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="mine is not empty"):
        write_phantom(folder, 1, 1, 32, 0)
    with pytest.raises(FileExistsError, match=r"notes\.txt exists"):
        write_phantom(folder / "notes.txt", 1, 1, 32, 0)
    assert files_of(tmp_path) == {"mine/notes.txt": b"keep"}


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "empty").mkdir()
    write_phantom(tmp_path / "empty", 1, 1, 32, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert len(metadata_of(tmp_path / "empty", "train")) == 2


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    render, rendered = write.render, []

    def interrupted(*args):
        rendered.append(render(*args))
        if len(rendered) == 4:
            raise KeyboardInterrupt
        return rendered[-1]

    monkeypatch.setattr(write, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "data", 3, 3, 32, 0)
    assert not list(tmp_path.iterdir())
