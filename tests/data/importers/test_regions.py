"""`macdm roi`: the pixels of a region are those of its film, and neither its place nor its split tells more than it should."""

import json

import numpy as np
import pytest
from PIL import Image

from diffusers_macdm.commands import main as cli
from diffusers_macdm.data.check import inspect_dataset
from diffusers_macdm.data.importers.places import Axis, anchor, corner, ground
from diffusers_macdm.data.importers.regions import run
from diffusers_macdm.data.importers.settings import RegionSettings
from diffusers_macdm.data.layout import FOLDERS
from diffusers_macdm.macdm.image_processor import resize_radiograph


HEIGHT, WIDTH = 80, 60
BONE = slice(5, 75), slice(24, 36)
COUNTS = {"train": 24, "validation": 4, "test": 4}


def write(folder, split, rows):
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def save(folder, split, column, name, values):
    path = folder / split / FOLDERS[column] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return f"{FOLDERS[column]}/{name}"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Films of 16 bits with an upright bone; every second one has a lesion in its lower third."""
    folder = tmp_path_factory.mktemp("films") / "set"
    for split, count in COUNTS.items():
        rows = []
        for number in range(count):
            generator = np.random.default_rng([len(split), number])
            film = generator.integers(0, 20000, (HEIGHT, WIDTH)).astype(np.uint16)
            anatomy, lesion = np.zeros((2, HEIGHT, WIDTH), dtype=np.uint8)
            anatomy[BONE] = 255
            film[BONE] += 40000
            row = {"image_file_name": save(folder, split, "image", f"{split}{number}.png", film)}
            row["anatomy_mask_file_name"] = save(folder, split, "anatomy_mask", f"{split}{number}.png", anatomy)
            row["lesion_mask_file_name"] = None
            if number % 2 == 0:
                top = generator.integers(52, 66)
                lesion[top : top + 4, 28:32] = 255
                row["lesion_mask_file_name"] = save(folder, split, "lesion_mask", f"{split}{number}.png", lesion)
            row |= {
                "label": ("normal", "fracture")[number % 2 == 0],
                "site": "frontal",
                "dose": number,
                "pixel_spacing_mm": [0.2, 0.1],
            }
            rows.append(row | ({"patient_id": f"{split}{number // 4}"} if split == "train" else {}))
        write(folder, split, rows)
    return folder


def regions_of(out):
    return {
        split: [json.loads(line) for line in (out / split / "metadata.jsonl").read_text().splitlines()]
        for split in COUNTS
        if (out / split).is_dir()
    }


def pixels(out, split, row, column):
    return np.asarray(Image.open(out / split / row[f"{column}_file_name"]))


def cut(films, out, **options):
    imported = run(RegionSettings(str(films), out, **options), show_progress=False)
    assert inspect_dataset(out).faults == []
    return imported


def square(row):
    top, left, side = row["region_top"], row["region_left"], row["region_side"]
    return slice(top, top + side), slice(left, left + side)


@pytest.mark.parametrize("options", [{"size": 24}, {"side": 0.3}])
def test_the_pixels_of_a_region_are_those_of_its_film(options, films, tmp_path):
    imported = cut(films, tmp_path / "out", per_film=2, **options)
    assert not imported.left_out and imported.taken == {split: 2 * count for split, count in COUNTS.items()}
    for split, rows in regions_of(tmp_path / "out").items():
        for row in rows:
            assert row["region_side"] == 24 and (row["film_width"], row["film_height"]) == (WIDTH, HEIGHT)
            film = Image.open(films / row["film"])
            values = pixels(tmp_path / "out", split, row, "image")
            assert values.dtype == np.uint16
            np.testing.assert_array_equal(values, np.asarray(film)[square(row)])
            for column in ("anatomy_mask", "lesion_mask"):
                if row[f"{column}_file_name"] is not None:
                    whole = np.asarray(Image.open(films / row["film"].replace("/images/", f"/{FOLDERS[column]}/")))
                    np.testing.assert_array_equal(pixels(tmp_path / "out", split, row, column), whole[square(row)])


def test_a_region_is_resampled_as_training_does(films, tmp_path):
    cut(films, tmp_path / "out", side=0.4, size=16)
    row = regions_of(tmp_path / "out")["train"][1]
    assert row["pixel_spacing_mm"] == pytest.approx([0.4, 0.2])
    film = np.asarray(Image.open(films / row["film"]))[square(row)]
    assert film.shape == (32, 32)
    expected = np.rint(resize_radiograph(film / 65535, 16) * 65535)
    values = pixels(tmp_path / "out", "train", row, "image")
    assert values.shape == (16, 16) and np.abs(values - expected).max() <= 1


def test_patients_labels_and_splits_stay_those_of_the_film(films, tmp_path):
    cut(films, tmp_path / "out", side=0.3, per_film=3)
    of_film = {}
    for split, rows in regions_of(tmp_path / "out").items():
        for row in rows:
            number = int(row["film"].rpartition("/")[2].removeprefix(split).removesuffix(".png"))
            assert row["film"].startswith(f"{split}/")
            assert (row["site"], row["dose"], row["label"]) == ("frontal", number, ("normal", "fracture")[number % 2 == 0])
            assert row["patient_id"] == (f"train{number // 4}" if split == "train" else f"film {split}{number}")
            assert (row["lesion_mask_file_name"] is not None) == (number % 2 == 0)
            of_film.setdefault(row["film"], set()).add((row["region_left"], row["region_top"]))
    assert len(of_film) == sum(COUNTS.values()) and np.mean([len(places) for places in of_film.values()]) > 2.5


def test_every_lesion_region_shows_the_lesion_at_no_fixed_place(films, tmp_path):
    cut(films, tmp_path / "out", size=20, per_film=10, shift=0.4)
    middles = []
    for row in regions_of(tmp_path / "out")["train"]:
        if row["lesion_mask_file_name"] is not None:
            inside = np.argwhere(pixels(tmp_path / "out", "train", row, "lesion_mask"))
            assert len(inside)
            middles.append(inside.mean(axis=0) / 19 - 0.5)
    middles = np.array(middles)
    assert (middles.max(axis=0) > 0.3).all() and (middles.min(axis=0) < -0.3).all()
    assert np.abs(middles[:, 1].mean()) < 0.08  # across: nothing is near the film's edge


def test_normal_regions_lie_like_those_of_lesions_along_the_bone(films, tmp_path):
    cut(films, tmp_path / "out", size=20, per_film=10)
    middles = {False: [], True: []}
    for row in regions_of(tmp_path / "out")["train"]:
        middles[row["label"] == "fracture"].append((row["region_top"] + 10, row["region_left"] + 10))
    with_lesion, normal = (np.array(middles[key]) for key in (True, False))
    assert abs(with_lesion[:, 0].mean() - normal[:, 0].mean()) < 2  # pixels of 80; anywhere along the bone would be 20 away
    assert abs(with_lesion[:, 0].std() - normal[:, 0].std()) < 1.5
    assert normal[:, 0].mean() > 55


def test_the_seed_decides(films, tmp_path):
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        cut(films, tmp_path / name, size=20, seed=seed)
        found.append(regions_of(tmp_path / name))
    assert found[0] == found[1] != found[2]


def test_films_that_cannot_be_used_are_named(films, tmp_path, capsys):
    small = np.arange(200, dtype=np.uint8).reshape(10, 20)
    lines = (films / "train/metadata.jsonl").read_text().splitlines()
    folder = tmp_path / "set"
    for line in lines[:4]:
        row = json.loads(line)
        for column in FOLDERS:
            if row[f"{column}_file_name"]:
                name = row[f"{column}_file_name"].rpartition("/")[2]
                save(folder, "train", column, name, np.asarray(Image.open(films / "train" / row[f"{column}_file_name"])))
    row = {"lesion_mask_file_name": None, "label": "normal"}
    row |= {
        f"{column}_file_name": save(folder, "train", column, "small.png", small // 100 * 100) for column in ("anatomy_mask",)
    }
    row["image_file_name"] = save(folder, "train", "image", "small.png", small)
    (folder / "train/images/train1.png").write_bytes(b"nothing")
    write(folder, "train", [*map(json.loads, lines[:4]), row])
    assert cli.main(["roi", str(folder), str(tmp_path / "out"), "--size", "24"]) == 1
    printed = capsys.readouterr().out
    assert "train/images/train1.png: left out: " in printed and "cannot be decoded" in printed
    assert "train/images/small.png: left out: 20 x 10 pixels; a region has 24 on each side" in printed
    assert "taken: 3 regions (3 in train); left out: 2 files" in printed
    assert inspect_dataset(tmp_path / "out").faults == [] and (tmp_path / "out/regions.png").is_file()


@pytest.mark.parametrize(
    "words, sentence",
    [
        ([], "--side or --size is needed"),
        (["--side", "1.5"], "--side 1.5 is not allowed: a share of the film's long side"),
        (["--size", "4"], "--size 4 is not allowed: at least 8"),
        (["--size", "24", "--shift", "0.5"], "--shift 0.5 is not allowed"),
    ],
)
def test_wrong_usage_is_one_line(words, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["roi", "a", "b", *words])
    assert end.value.code == 2 and sentence in capsys.readouterr().err


def test_an_axis_runs_from_top_to_bottom_or_from_left_to_right():
    mask = np.zeros((100, 40), dtype=bool)
    mask[10:90, 15:25] = True
    assert Axis(mask).place((10, 20)) == pytest.approx(0, abs=0.02)
    assert Axis(mask).place((70, 20)) == pytest.approx(0.75, abs=0.02)
    assert Axis(mask.T).place((20, 70)) == pytest.approx(0.75, abs=0.02)
    generator = np.random.default_rng(0)
    points = np.array([Axis(mask).point(0.25, generator) for _ in range(50)])
    assert mask[tuple(points.T)].all() and np.abs(points[:, 0] - 30).max() <= 4 and np.ptp(points[:, 1]) >= 6


def test_without_an_anatomy_mask_bone_is_what_is_brighter_than_around_it():
    film = np.full((100, 60), 0.05)
    film[:, 10:50] = 0.5
    film[:, 25:35] = 0.8
    for times in (1, 21):  # the large one is looked at coarsely
        found = ground(np.kron(film, np.ones((times, times))), None)
        assert found.shape == (100 * times, 60 * times)
        found = found[times // 2 :: times, times // 2 :: times]
        assert found[:, 26:34].all() and not found[:, :9].any() and not found[:, 13:23].any()


def test_an_anchor_is_in_a_lesion_and_a_square_in_the_film():
    mask = np.zeros((30, 30), dtype=bool)
    mask[2:12, 2:12] = True
    mask[4:10, 4:12] = False  # open to the right: its middle is outside
    mask[20:24, 20:24] = True
    generator = np.random.default_rng(0)
    points = {anchor(mask, generator) for _ in range(30)}
    assert all(mask[point] for point in points) and len(points) == 2
    for point in ((0, 0), (29, 29), (15, 3)):
        for _ in range(20):
            row, column = corner(point, 10, (30, 30), 0.49, generator)
            assert 0 <= row <= 20 and 0 <= column <= 20
            assert row <= point[0] < row + 10 and column <= point[1] < column + 10
