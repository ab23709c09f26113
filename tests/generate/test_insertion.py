"""Lesions painted into real normal films: where they come to lie, what is kept, what is recorded."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_pipeline

from diffusers_macdm import MaCDMPipeline
from diffusers_macdm.data.check import check_dataset
from diffusers_macdm.data.dataset import PairDataset
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.generate import generate
from diffusers_macdm.generate.insertion import place
from diffusers_macdm.generate.pairs import make_again
from diffusers_macdm.phantom import write_phantom


SETTINGS = {"num_inference_steps": 2, "batch_size": 4, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(folder, num_normal=5, num_lesion=3, size=32, seed=0)
    return folder


@pytest.fixture(scope="module")
def cases(real):
    return PairDataset(load_pairs(real, "train"), 16)


def rows_of(out):
    return [json.loads(line) for line in (out / "train/metadata.jsonl").read_text().splitlines()]


def read(out, row, column):
    return np.asarray(Image.open(out / "train" / row[f"{column}_file_name"]))


@pytest.mark.parametrize("lesion_masks", ["given", None])
def test_the_rest_of_the_film_is_kept(model, real, cases, tmp_path, lesion_masks):
    """Outside of the region the pixels are those of the film; each pair can be made again from its row."""
    generate(model, tmp_path, 6, insert_into=real, lesion_masks=lesion_masks, **SETTINGS)
    drawn_by = lesion_masks or "generated"
    rows = rows_of(tmp_path)
    assert {row["label"] for row in rows} == {1}  # a normal film without a lesion is there already
    assert check_dataset(tmp_path) == []
    pipe = MaCDMPipeline.from_pretrained(model)
    labels = dict(zip(cases.names, cases.labels, strict=True))
    for row in rows:
        film = cases[cases.names.index(row["source"])]["joint_sample"]
        lesion_case = cases[cases.names.index(row["lesion_from"])]["joint_sample"]
        assert labels[row["source"]] == 0 and labels[row["lesion_from"]] == 1 and row["lesion_masks"] == drawn_by
        placement = place(film, lesion_case, row["placement_seed"])
        region = placement.region.numpy()
        expected = np.rint((film[0].numpy() + 1) * 127.5).astype(np.uint8)
        found = read(tmp_path, row, "image")
        assert (found[~region] == expected[~region]).all() and (found[region] != expected[region]).any()
        assert ((read(tmp_path, row, "anatomy_mask") > 0) == (film[1].numpy() > 0)).all()
        lesion = read(tmp_path, row, "lesion_mask") > 0
        assert not (lesion & ~region).any()
        if lesion_masks == "given":
            assert (lesion == placement.lesion.numpy()).all()
        again = make_again(pipe, row, real)
        assert np.abs(np.asarray(again.radiograph).astype(int) - found).max() <= 1
        assert (again.lesion_mask == lesion).all()
    assert len({row["source"] for row in rows[:5]}) == 5  # the films take turns
    generation = json.loads((tmp_path / "generation.json").read_text())
    assert generation["settings"]["lesion_masks"] == drawn_by
    assert {row["source"] for row in rows} | {row["lesion_from"] for row in rows} == set(generation["provenance"]["sources"])


def rectangle(top, bottom, left, right, size=40):
    mask = torch.zeros(size, size)
    mask[top:bottom, left:right] = 1
    return mask * 2 - 1


def test_a_lesion_comes_to_the_same_place_of_another_anatomy():
    """At a corner of one rectangle, it comes to that corner of another one of half the size, and stays inside."""
    empty = -torch.ones(40, 40)
    source = torch.stack([empty, rectangle(4, 36, 8, 32), rectangle(30, 36, 8, 14)])
    film = torch.stack([empty, rectangle(10, 26, 14, 26), empty])
    anatomy = film[1] > 0
    for seed in range(20):
        placement = place(film, source, seed)
        assert not (placement.lesion & ~anatomy).any() and not (placement.lesion & ~placement.region).any()
        rows, columns = placement.lesion.nonzero(as_tuple=True)
        assert rows.float().mean() > 20 and columns.float().mean() < 20  # bottom left
        assert 9 <= placement.lesion.sum() <= 50
        height, width = (placement.region.any(dim=axis).sum() for axis in (1, 0))
        assert 7 <= height <= 21 and 7 <= width <= 21
    assert torch.equal(place(film, source, 3).lesion, place(film, source, 3).lesion)
    assert any(not torch.equal(place(film, source, 0).region, place(film, source, seed).region) for seed in (1, 2))


def test_a_lesion_that_does_not_fit_is_none():
    empty = -torch.ones(40, 40)
    source = torch.stack([empty, rectangle(4, 36, 8, 32), rectangle(0, 4, 34, 40)])  # outside of its own anatomy
    assert place(torch.stack([empty, rectangle(10, 26, 14, 26), empty]), source, 0) is None
    assert place(torch.stack([empty, empty, empty]), source, 0) is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"strength": 0.5}, "strength=0.5 needs from_data"),
        ({"masks_from": "x"}, "insert_into goes with neither from_data nor masks_from"),
        ({"class_labels": (0,)}, r"class_labels=\[0\] is not allowed"),
        ({"insert_into": None, "lesion_masks": "generated"}, "lesion_masks=generated needs insert_into"),
    ],
)
def test_what_does_not_go_together_is_refused(model, real, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        generate(model, tmp_path / "out", 1, **{"insert_into": real, **SETTINGS, **change})
    assert not (tmp_path / "out").exists()
