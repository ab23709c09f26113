"""Regions around lesions, which the audit compares of films that a lesion was painted into."""

import json

import numpy as np
import pytest
from PIL import Image

from diffusers_macdm.audit.radiographs import load_radiographs
from diffusers_macdm.audit.regions import SIDE, LesionPlaces, cut
from diffusers_macdm.audit.run import _places
from diffusers_macdm.audit.settings import Settings
from diffusers_macdm.data.loading import radiograph_digest


def mask(rows, columns, size=32):
    canvas = np.zeros((size, size), bool)
    canvas[slice(*rows), slice(*columns)] = True
    return canvas


BONE, CHIP = mask((4, 29), (10, 21)), mask((24, 27), (10, 13))  # boxes 4 to 28 by 10 to 20; middle of the chip: 25, 11
PLACES = LesionPlaces.of([(BONE, CHIP), (BONE, mask((0, 0), (0, 0)))])


def test_places_are_relative_to_the_anatomy():
    np.testing.assert_allclose(PLACES.relative, [[(25 - 4) / 24, (11 - 10) / 10]])
    normal = np.zeros_like(BONE)
    np.testing.assert_allclose(PLACES.centre(BONE, CHIP, 0), [25, 11])  # its own lesion
    np.testing.assert_allclose(PLACES.centre(mask((2, 15), (16, 27)), normal, 0), [2 + 12 * 21 / 24, 17])
    np.testing.assert_allclose(PLACES.centre(normal, normal, 0), [15.5, 15.5])  # no anatomy: the middle
    several = LesionPlaces(np.array([[0.0, 0.0], [1.0, 1.0]]))
    drawn = {tuple(several.centre(BONE, normal, seed)) for seed in range(20)}
    assert drawn == {(4, 10), (28, 20)} and several.centre(BONE, normal, 3).tolist() == several.centre(BONE, normal, 3).tolist()


@pytest.mark.parametrize(("centre", "corner"), [((16, 16), (10, 10)), ((0, 31), (0, 20)), ((31, 3), (20, 0))])
def test_regions_stay_in_the_film(centre, corner):
    film = np.arange(32 * 32).reshape(32, 32)
    side = round(SIDE * 32)
    region = cut(film, np.array(centre))
    assert side == 12 and region.tolist() == film[corner[0] : corner[0] + side, corner[1] : corner[1] + side].tolist()


def write_set(folder, rows):
    for name in ("images", "anatomy", "lesion"):
        (folder / "train" / name).mkdir(parents=True)
    lines = []
    for index, extra in enumerate(rows):
        file = f"{index}.png"
        film = np.random.default_rng(index).integers(0, 256, (32, 32)).astype(np.uint8)
        for name, image in (("images", film), ("anatomy", BONE * np.uint8(255)), ("lesion", CHIP * np.uint8(255))):
            Image.fromarray(image).save(folder / "train" / name / file)
        names = {
            f"{kind}_file_name": f"{room}/{file}" for kind, room in (("anatomy_mask", "anatomy"), ("lesion_mask", "lesion"))
        }
        lines.append({"image_file_name": f"images/{file}", **names, "label": 1, **extra})
    (folder / "train/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_radiographs_of_regions_keep_the_digest_of_the_film(tmp_path):
    data = write_set(tmp_path / "data", [{}, {}])
    whole, regions = (load_radiographs(data, "train", places=places) for places in (None, PLACES))
    assert regions.digests == whole.digests and regions.side == whole.side == 32 and len(regions.images) == 2
    film = np.random.default_rng(1).integers(0, 256, (32, 32)).astype(np.uint8)
    assert regions.digests[1] == radiograph_digest(film.astype(np.float32) / 255)
    # 12 px enlarged to 64: the corners are those of the region.
    region = cut(film, np.array([25, 11]))
    assert regions.images.shape[1:] == (64, 64)
    assert [int(regions.images[1, y, x]) for y in (0, -1) for x in (0, -1)] == [region[y, x] for y in (0, -1) for x in (0, -1)]


def test_what_is_compared_follows_from_the_set(tmp_path):
    rows = {"inserted": [{"lesion_from": "9"}] * 2, "whole": [{"lesion_from": None}] * 2}
    rows["mixed"] = [rows["inserted"][0], rows["whole"][0]]
    settings = {
        name: Settings(real=str(tmp_path / "whole"), synthetic=str(write_set(tmp_path / name, of_set)), out=tmp_path / "out")
        for name, of_set in rows.items()
    }
    loaded = {name: load_radiographs(tmp_path / name, "train", columns=("lesion_from",)) for name in rows}
    assert _places(settings["whole"], loaded["whole"]) is None
    np.testing.assert_allclose(_places(settings["inserted"], loaded["inserted"]).relative, [PLACES.relative[0]] * 2)
    with pytest.raises(ValueError, match="has 1 real films with a lesion painted in among 2: audit them by themselves"):
        _places(settings["mixed"], loaded["mixed"])
