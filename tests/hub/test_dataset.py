"""Pushing a set: Parquet files, pseudonyms, its card."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_folders import usual
from hub_pushes import read
from PIL import Image

from diffusers_macdm.hub import dataset as publishing
from diffusers_macdm.hub import push_dataset
from diffusers_macdm.macdm.image_processor import mask_array, radiograph_array


def test_a_synthetic_set(hub, synthetic, saved, tmp_path):
    push = push_dataset(synthetic, "alice/pairs", tag="v1")
    repo = hub.repo("alice/pairs", "dataset")
    assert repo.private and len(repo.commits) == 2 and repo.tags == {"v1": push.commit}
    assert sorted(set(repo.files()) - {".gitattributes"}) == [
        "README.md",
        "contact_sheet.png",
        "data/train-00000-of-00001.parquet",
        "generation.json",
        "summary.json",
    ]
    pairs = read(hub, "alice/pairs", tmp_path)["train"]
    assert pairs.num_rows == 4 and str(pairs.features["anatomy_mask"]).startswith("Image(")
    lines = [json.loads(line) for line in (synthetic / "train/metadata.jsonl").read_text().splitlines()]
    for row, line in zip(pairs, lines, strict=True):
        for column in ("image", "anatomy_mask", "lesion_mask"):
            with Image.open(synthetic / "train" / line[f"{column}_file_name"]) as own:
                assert np.array_equal(np.asarray(row[column]), np.asarray(own)) and row[column].mode == own.mode
        for name in ("label", "seed", "scheduler", "guidance_scale", "guidance_interval", "refine_masks", "source"):
            assert row[name] == line[name], name
        assert row["model"] == saved.name
    assert not any(str(saved.parent).encode() in content for content in repo.files().values())
    assert push_dataset(synthetic, "alice/pairs", tag="v1").changed == []


def test_the_card_of_a_set_says_where_its_files_are(hub, synthetic):
    push_dataset(synthetic, "alice/pairs", license="cc-by-4.0")
    from huggingface_hub import DatasetCard

    data = DatasetCard(hub.repo("alice/pairs", "dataset").files()["README.md"].decode()).data.to_dict()
    assert data["license"] == "cc-by-4.0"
    assert data["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]


def test_variations_are_published_under_pseudonyms(hub, variations, tmp_path):
    push = push_dataset(variations, "alice/pairs")
    assert push.notes == [
        "4 pairs are variations of real cases at strength 0.5 and resemble them, the more so the lower the strength."
    ]
    pairs = read(hub, "alice/pairs", tmp_path)["train"]
    lines = [json.loads(line) for line in (variations / "train/metadata.jsonl").read_text().splitlines()]
    for column, kind in (("source", "case"), ("patient_id", "patient")):
        names = [line[column] for line in lines]
        numbers = [sorted(set(names), key=names.index).index(name) + 1 for name in names]
        assert pairs[column] == [f"{kind}-{number:04d}" for number in numbers]
        texts = b"".join(content for content in hub.repo("alice/pairs", "dataset").files().values())
        assert not any(name.encode() in texts for name in names)


def test_digests_of_a_set_are_published_without_names(hub, saved, variations, tmp_path):
    folder = Path(shutil.copytree(variations, tmp_path / "set"))
    content = json.loads((folder / "generation.json").read_text())
    content["provenance"]["trained_on"] = {"unet": [{"patients": ["jane_doe"], "image_sha256": {"doe_1": "0" * 64}}, None]}
    (folder / "generation.json").write_text(json.dumps(content))
    push_dataset(folder, "alice/pairs")
    assert "provenance" not in json.loads(hub.repo("alice/pairs", "dataset").files()["generation.json"])
    push_dataset(folder, "alice/pairs", image_digests=True)
    published = json.loads(hub.repo("alice/pairs", "dataset").files()["generation.json"])["provenance"]
    assert published["trained_on"] == {"unet": [{"image_sha256": ["0" * 64]}, None]}
    sources = content["provenance"]["sources"]
    pairs = read(hub, "alice/pairs", tmp_path)["train"]
    lines = [json.loads(line) for line in (variations / "train/metadata.jsonl").read_text().splitlines()]
    for pseudonym, line in zip(pairs["source"], lines, strict=True):
        assert published["sources"][pseudonym] == {"image_sha256": sources[line["source"]]["image_sha256"]}
    assert len(published["sources"]) == len(sources)


def test_a_faulty_or_unfinished_set_is_refused(hub, synthetic, tmp_path):
    folder = Path(shutil.copytree(synthetic, tmp_path / "set"))
    (folder / "summary.json").unlink()
    with pytest.raises(ValueError, match="not finished .*: run the same `macdm generate` again"):
        push_dataset(folder, "alice/pairs")
    shutil.copy(synthetic / "summary.json", folder)
    next((folder / "train/lesion").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"has 1 fault.*train/lesion/"):
        push_dataset(folder, "alice/pairs")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        push_dataset(tmp_path / "nowhere", "alice/pairs")
    assert hub.requests == []


def test_a_lesion_that_the_model_left_out_is_a_note(hub, synthetic, phantom, tmp_path):
    def without_a_lesion(folder):
        row = next(row for row in map(json.loads, (folder / "train/metadata.jsonl").open()) if row["label"])
        path = folder / "train" / row["lesion_mask_file_name"]
        Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
        return folder

    made = without_a_lesion(Path(shutil.copytree(synthetic, tmp_path / "set")))
    push = push_dataset(made, "alice/pairs")
    (note,) = [note for note in push.notes if "contradicts" in note]
    assert note == "In 1 of the pairs the lesion mask contradicts the label; `macdm check` lists them."
    real = without_a_lesion(Path(shutil.copytree(phantom, tmp_path / "real")))
    with pytest.raises(ValueError, match="has 1 fault.*the lesion mask is empty"):
        push_dataset(real, "alice/real", real_images=True)


def test_many_pairs_are_several_files_and_none_stays(hub, synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "ROWS_PER_FILE", 3)
    push_dataset(synthetic, "alice/pairs")
    assert [pairs.num_rows for pairs in read(hub, "alice/pairs", tmp_path).values()] == [1]  # of the second file
    monkeypatch.setattr(publishing, "ROWS_PER_FILE", 4)
    push = push_dataset(synthetic, "alice/pairs")
    assert push.deleted == ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]


def test_a_set_as_it_is_read(hub, tmp_path):
    """Turned files, names as labels, normal films without a lesion mask: published is what a training sees."""
    folder = usual(tmp_path / "films", film="png16", mask="ids", orientation=6, width=17)
    for case in folder.cases:
        case.row["label"] = ("normal", "fracture")[case.label]
        if case.label == 0:
            (folder.root / case.split / case.row.pop("lesion_mask_file_name")).unlink()
    folder.write(bom=True)
    push_dataset(folder.root, "alice/films", real_images=True)
    pairs = read(hub, "alice/films", tmp_path)["train"]
    for row, case in zip(pairs, folder.of("train"), strict=True):
        assert row["label"] == case.label and row["image"].size == row["lesion_mask"].size == (17, 12)
        for column, right in (("image", case.radiograph), ("anatomy_mask", case.anatomy), ("lesion_mask", case.lesion)):
            array = radiograph_array(row[column]) if column == "image" else mask_array(row[column])
            assert not row[column].getexif() and np.array_equal(array, right)


def test_what_macdm_generate_would_not_write_is_named(hub, tmp_path):
    folder = usual(tmp_path / "films")
    for case in folder.cases:
        case.row["seed"] = "first"
    folder.write()
    with pytest.raises(ValueError, match="train/metadata.jsonl: a column does not hold what `macdm generate` writes there"):
        push_dataset(folder.root, "alice/films", real_images=True)
    assert not any("commit" in str(request) for request in hub.requests)
