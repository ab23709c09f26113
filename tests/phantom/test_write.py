import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusers_macdm.data.check import check_dataset
from diffusers_macdm.macdm.image_processor import resize_mask
from diffusers_macdm.phantom import write as phantom
from diffusers_macdm.phantom.write import phantom_case, write_phantom


SPLITS = ("train", "validation", "test")


def cases(count, size=64, lesion=True, first=0):
    return [phantom_case(size, lesion, np.random.default_rng(seed)) for seed in range(first, first + count)]


def upright_case(seed, size=256, lesion_kind=None, intact=False):
    """A case with a vertical shaft on the axis of the image, x to the right = lateral, without noise worth the name."""
    for shifted in range(seed, seed + 100_000, 1000):
        anatomy = phantom._draw_anatomy(np.random.default_rng(shifted), lesion=lesion_kind is not None)
        if lesion_kind is None or anatomy.lesion.kind == lesion_kind:
            break
    film = phantom._draw_film(np.random.default_rng(seed))
    film = dataclasses.replace(film, left=False, angle=0.0, scale=1.0, end_position=(0.0, 0.4), collimation=None, photons=1e6)
    lesion = anatomy.lesion
    anatomy = dataclasses.replace(anatomy, bow=0.0, lesion=None if intact else lesion)
    return phantom._render(anatomy, film, size), lesion


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


# --- one case


@pytest.mark.parametrize("size", [32, 50, 64, 300])
@pytest.mark.parametrize("lesion", [False, True])
def test_types_and_shapes(size, lesion):
    case = phantom_case(size, lesion, np.random.default_rng(0))
    assert case.radiograph.dtype == np.uint8 and case.radiograph.shape == (size, size)
    for mask in (case.anatomy_mask, case.lesion_mask):
        assert mask.dtype == bool and mask.shape == (size, size)
    assert case.label == int(lesion) and case.lesion_mask.any() == lesion
    assert (case.lesion_kind in phantom.LESION_KINDS) == lesion


def test_the_generator_state_decides_the_case():
    first, second, third = (phantom_case(64, True, np.random.default_rng(seed)) for seed in (5, 5, 6))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.radiograph != third.radiograph).mean() > 0.5


@pytest.mark.parametrize("size", [32, 64])
def test_lesions_are_small_and_inside_the_tibia(size):
    drawn = cases(60, size)
    assert all((case.lesion_mask & ~case.anatomy_mask).sum() == 0 for case in drawn)
    assert {case.lesion_kind for case in drawn} == set(phantom.LESION_KINDS)
    area = np.array([case.lesion_mask.mean() for case in drawn])
    assert area.min() > 0.002 and area.max() < 0.02
    assert 0.005 < np.median(area) < 0.015
    anatomy = np.array([case.anatomy_mask.mean() for case in drawn])
    assert anatomy.min() > 0.10 and anatomy.max() < 0.30


def test_normal_cases_have_no_lesion():
    assert not any(case.lesion_mask.any() or case.label for case in cases(10, lesion=False))


def test_a_lesion_survives_the_loaders_resizing_to_32():
    for case in cases(20, size=128):
        assert resize_mask(case.lesion_mask, 32, keep_small=False).sum() >= 2


def test_masks_at_two_sizes_show_the_same_anatomy():
    for seed in range(5):
        small, large = (phantom_case(size, True, np.random.default_rng(seed)) for size in (64, 128))
        averaged = large.anatomy_mask.reshape(64, 2, 64, 2).mean((1, 3)) >= 0.5
        assert (averaged != small.anatomy_mask).mean() < 0.01


# --- what a radiologist looks for


@pytest.mark.parametrize("seed", range(4))
def test_cortex_is_brighter_than_marrow_and_marrow_than_soft_tissue(seed):
    case, _ = upright_case(seed)
    rows = slice(10, 40)  # shaft
    profile = case.radiograph[rows].astype(float).mean(0)
    columns = np.flatnonzero(case.anatomy_mask[rows].all(0))
    width = len(columns)
    left, center, right = (
        profile[columns[: width // 4]].max(),
        profile[columns[width * 2 // 5 : width * 3 // 5]].mean(),
        profile[columns[-(width // 4) :]].max(),
    )
    assert min(left, right) > center + 8
    soft_tissue = profile[columns[0] - 12 : columns[0] - 6].mean()
    assert center > soft_tissue + 20
    assert soft_tissue > profile[-3:].mean() + 20 or soft_tissue > profile[:3].mean() + 20  # and air is darkest


@pytest.mark.parametrize("seed", range(4))
def test_the_metaphysis_flares_and_ends_in_a_dense_zone_above_a_lucent_growth_plate(seed):
    case, _ = upright_case(seed)
    widths = case.anatomy_mask.sum(1)
    end = np.flatnonzero(widths > 0.5 * widths.max())[-1]
    assert widths[end - 15] > 1.4 * widths[10]
    column = case.radiograph[:, 118:138].astype(float).mean(1)
    dense_zone = column[end - 5 : end].max()
    assert dense_zone > column[end - 35 : end - 20].mean() + 5
    assert column[end + 4 : end + 8].min() < dense_zone - 40


@pytest.mark.parametrize("kind", phantom.LESION_KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_a_lucent_line_separates_fragment_and_shaft(kind, seed):
    case, lesion = upright_case(seed, lesion_kind=kind)
    gray = case.radiograph.astype(float)
    ys, xs = np.nonzero(case.lesion_mask)
    if kind == "bucket_handle":  # down along the shaft, a little off the axis on the side of the fragment
        center = 128 + int(lesion.side * 15)
        inside = ys[np.abs(xs - center) <= 2]
        profile = gray[: inside.max() + 1, center - 2 : center + 3].mean(1)[inside.min() - 12 :]
    else:  # from the shaft outwards to the edge, halfway up the fragment
        middle = (ys.min() + 2 * ys.max()) // 3
        row = np.flatnonzero(case.lesion_mask[middle])
        profile = gray[middle - 1 : middle + 2].mean(0)
        profile = profile[row.min() - 12 : row.max() + 1] if lesion.side > 0 else profile[row.min() : row.max() + 13][::-1]
    shaft, crossing = profile[:10].mean(), profile[10:]
    darkest = int(crossing.argmin()) if crossing[:-3].size == 0 else int(crossing[:-3].argmin())
    fragment = crossing[darkest:].max()
    assert crossing[darkest] < shaft - 20
    assert crossing[darkest] < fragment - 20


@pytest.mark.parametrize("kind", phantom.LESION_KINDS)
def test_the_lesion_mask_is_exact(kind):
    """The same film of the intact bone differs inside the lesion mask, and (but for blur and scatter) nowhere else."""
    for seed in range(4):
        broken, _ = upright_case(seed, lesion_kind=kind)
        intact, _ = upright_case(seed, lesion_kind=kind, intact=True)
        difference = np.abs(broken.radiograph.astype(int) - intact.radiograph.astype(int))
        near = broken.lesion_mask.copy()
        for axis in (0, 1):
            near = np.logical_or.reduce([np.roll(near, step, axis) for step in range(-3, 4)])
        assert difference[~near].max() <= 4
        assert difference[broken.lesion_mask].max() > 25
        assert not (intact.anatomy_mask & ~broken.anatomy_mask).any()
        assert not (broken.anatomy_mask & ~intact.anatomy_mask & ~broken.lesion_mask).any()


def test_the_line_is_visible_at_64_pixels():
    """In every case the darkest lesion pixels stand out against the bone beside the lesion by more than the noise."""
    visible = []
    for case in cases(40):
        gray = case.radiograph.astype(float)
        neighbours = case.lesion_mask.copy()
        for axis in (0, 1):
            neighbours = np.logical_or.reduce([np.roll(neighbours, step, axis) for step in range(-4, 5)])
        bone = gray[neighbours & case.anatomy_mask & ~case.lesion_mask]
        visible.append((np.median(bone) - np.percentile(gray[case.lesion_mask], 15)) / bone.std())
    assert np.mean(np.array(visible) > 1.0) > 0.9


def test_rotation_exposure_side_and_noise_vary():
    drawn = cases(40, lesion=False)
    angles, grays, positions = [], [], []
    for case in drawn:
        ys, xs = np.nonzero(case.anatomy_mask)
        covariance = np.cov(xs, ys)
        angles.append(0.5 * np.degrees(np.arctan2(2 * covariance[0, 1], covariance[1, 1] - covariance[0, 0])))
        grays.append(case.radiograph[case.anatomy_mask].mean())
        positions.append(xs.mean() - 31.5)
    assert 3 < np.std(angles) < 12
    assert np.std(grays) > 6 and 120 < np.mean(grays) < 225
    assert min(positions) < -1 and max(positions) > 1  # left and right legs
    # The tibia is never saturated, and the background is dark.
    assert np.mean([np.percentile(case.radiograph[case.anatomy_mask], 99) for case in drawn]) < 252
    assert all(np.percentile(case.radiograph, 2) < 40 for case in drawn)


def test_less_dose_means_more_noise():
    anatomy, film = phantom._draw_anatomy(np.random.default_rng(0), False), phantom._draw_film(np.random.default_rng(0))
    films = [dataclasses.replace(film, photons=photons, noise_seed=n) for photons in (0.5, 2.0) for n in (0, 1)]
    renders = [phantom._render(anatomy, film, 128) for film in films]
    noise = [(a.radiograph.astype(float) - b.radiograph)[a.anatomy_mask].std() for a, b in (renders[:2], renders[2:])]
    assert noise[0] / noise[1] == pytest.approx(2.0, rel=0.1)  # Poisson: four times the dose, half the noise


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
            assert row["site"] in phantom.SITES


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


def test_two_films_of_a_patient_show_the_same_bone():
    """After undoing position, rotation and side the masks agree."""
    anatomy = phantom._draw_anatomy(np.random.default_rng(1), True)
    film = phantom._draw_film(np.random.default_rng(1))
    film = dataclasses.replace(film, left=False, angle=0.0, collimation=None)
    right = phantom._render(anatomy, film, 64)
    left = phantom._render(anatomy, dataclasses.replace(film, left=True), 64)
    np.testing.assert_array_equal(left.anatomy_mask, right.anatomy_mask[:, ::-1])
    np.testing.assert_array_equal(left.lesion_mask, right.lesion_mask[:, ::-1])


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
    render, rendered = phantom._render, []

    def interrupted(*args):
        rendered.append(render(*args))
        if len(rendered) == 4:
            raise KeyboardInterrupt
        return rendered[-1]

    monkeypatch.setattr(phantom, "_render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "data", 3, 3, 32, 0)
    assert not list(tmp_path.iterdir())
