"""`evaluate` from films to sentence where the answer is known: new cases help, the same cases again do not."""

import json

import numpy as np
import pytest
from PIL import Image

from diffusers_macdm.evaluation import evaluate
from diffusers_macdm.evaluation.arms import CONTROLS


SIZE = 24
NUM_TRAIN = 6
SETTINGS = {
    "size": SIZE,
    "downstream_steps": 200,
    "downstream_batch_size": 8,
    "validate_every": 40,
    "classifier_width": 8,
    "segmenter_width": 8,
    "tasks": ["segmentation"],
    "skip_realism": True,
    "resamples": 300,
    "allow_unrecorded": True,
    "device": "cpu",
    "progress": False,
}


def write_split(folder, count, seed):
    """A bright rectangle anywhere is the anatomy, a dark spot in it the lesion of every second case, a bright spot in each a
    decoy; noise over it."""
    generator = np.random.default_rng(seed)
    rows = []
    for name in ("images", "anatomy", "lesion"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        film, anatomy, lesion = np.full((SIZE, SIZE), 60.0), np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
        top, left = generator.integers(1, 7, 2)
        height, width = generator.integers(12, 17, 2)
        anatomy[top : top + height, left : left + width] = 255
        film[anatomy > 0] = generator.uniform(130, 190)
        for spot, sign in ((lesion, -1), (None, 1)):
            y, x = top + generator.integers(1, height - 5), left + generator.integers(1, width - 5)
            if spot is None or index % 2:
                film[y : y + 4, x : x + 4] += sign * 60
                if spot is not None:
                    spot[y : y + 4, x : x + 4] = 255
        film = (film + generator.normal(0, 12, film.shape)).clip(0, 255)
        for name, array in (("images", film), ("anatomy", anatomy), ("lesion", lesion)):
            Image.fromarray(array.astype(np.uint8)).save(folder / name / f"c{index}.png")
        files = {"image": "images", "anatomy_mask": "anatomy", "lesion_mask": "lesion"}
        row = {f"{column}_file_name": f"{name}/c{index}.png" for column, name in files.items()}
        rows.append({**row, "label": index % 2, "patient_id": f"{seed}-{index}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("known") / "real"
    for seed, (split, count) in enumerate({"train": NUM_TRAIN, "validation": 40, "test": 120}.items()):
        write_split(folder / split, count, seed)
    return folder


@pytest.mark.slow
def test_new_cases_help(real, tmp_path):
    """The best synthetic set that there can be: fresh draws of what the real cases are drawn from, ten for each of them."""
    write_split(tmp_path / "made" / "train", 10 * NUM_TRAIN, seed=7)
    arms = {"ratios": [10], "arms": [*CONTROLS, "real_plus_synthetic_10"], "seeds": range(5)}
    result = evaluate(real, tmp_path / "made", tmp_path / "out", **arms, **SETTINGS)
    assert result["verdicts"]["segmentation"]["verdict"] == "helps", result["conclusion"]
    assert "the synthetic pairs help: they are better than every control" in result["conclusion"][0]


def test_the_same_cases_again_do_not(real, tmp_path):
    """A synthetic set of the training cases themselves: as good as the real cases twice, and as the real cases alone."""
    write_split(tmp_path / "made" / "train", NUM_TRAIN, seed=0)
    arms = {"ratios": [1], "arms": [*CONTROLS, "real_plus_synthetic_1"]}
    result = evaluate(real, tmp_path / "made", tmp_path / "out", **arms, **SETTINGS)
    assert result["verdicts"]["segmentation"]["verdict"] == "no evidence", result["conclusion"]
    rows = {(row["arm"], row["against"]): row for row in result["differences"] if row["metric"] == "dice"}
    twice, same = rows["duplicated_real", "real_only"], rows["real_plus_synthetic_1", "duplicated_real"]
    assert abs(twice["value"]) < 0.02 and twice["interval"][0] < 0 < twice["interval"][1]
    assert same["value"] == 0 and same["interval"] is None  # the very same draws
