"""What is measured of a data folder, against its files read by themselves."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from diffusers_macdm.phantom import write_phantom
from diffusers_macdm.planning.fingerprint import digest_of, fingerprint


@pytest.fixture
def data(tmp_path):
    write_phantom(tmp_path / "phantom", 7, 5, 32, 0)
    return tmp_path / "phantom"


def rows_of(data):
    return [json.loads(line) for line in (data / "train/metadata.jsonl").read_text().splitlines()]


def test_numbers_are_those_of_the_files(data):
    facts, rows = fingerprint(data), rows_of(data)
    areas = [(np.asarray(Image.open(data / "train" / row["lesion_mask_file_name"])) > 0).sum() for row in rows if row["label"]]
    assert facts["lesion_pixels"]["32"] == np.median(areas) and facts["num_with_lesion"] == 5
    assert facts["lesion_pixels"]["64"] == pytest.approx(4 * np.median(areas))
    assert facts["side"] == {"least": 32, "median": 32, "largest": 32}
    assert facts["labels"] == {"0": 7, "1": 5} and facts["splits"]["train"] == 12
    assert facts["num_patients"] == len({row["patient_id"] for row in rows}) and facts["duplicates"] == 0
    films = [np.asarray(Image.open(data / "train" / row["image_file_name"])) / 255 for row in rows]
    assert facts["gray_values"]["median"] == pytest.approx(np.median([np.median(film) for film in films]), abs=1e-4)


def test_a_film_that_is_not_square_counts_as_the_square_that_it_is_padded_to(data):
    """Half of its width cut away, where there is no lesion or there is one: the square stays that of its height."""
    for row in rows_of(data):
        for column in ("image", "anatomy_mask", "lesion_mask"):
            path = row.get(f"{column}_file_name")
            if path is not None:
                image = Image.open(data / "train" / path)
                image.crop((4, 0, 28, 32)).save(data / "train" / path)
    lesions = [data / "train" / row["lesion_mask_file_name"] for row in rows_of(data) if row["label"]]
    areas = [(np.asarray(Image.open(path)) > 0).sum() for path in lesions]
    assert fingerprint(data)["lesion_pixels"]["32"] == np.median([area for area in areas if area])


def test_the_same_radiograph_twice(data):
    first, second = rows_of(data)[:2]
    shutil.copyfile(data / "train" / first["image_file_name"], data / "train" / second["image_file_name"])
    assert fingerprint(data)["duplicates"] == 1


def test_a_digest_is_of_what_the_metadata_names(data):
    before = digest_of(data)
    (data / "train/images/other.png").write_bytes(b"not named")
    assert digest_of(data) == before
    path = data / "train" / rows_of(data)[3]["image_file_name"]
    image = np.array(Image.open(path))
    image[0, 0] ^= 1
    Image.fromarray(image).save(path)
    assert digest_of(data) != before


def test_a_set_without_lesions(data):
    metadata = data / "train/metadata.jsonl"
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows_of(data) if not row["label"]))
    facts = fingerprint(data)
    assert facts["lesion_pixels"] is None and facts["lesion_share"] is None and facts["num_with_lesion"] == 0
