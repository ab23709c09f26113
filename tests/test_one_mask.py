"""Sets with one mask from end to end: check, both trainings, generate, audit, evaluate, push; and what is refused by name."""

import json
import shutil

import numpy as np
import pytest
import torch
from launching import read_log, run_here
from PIL import Image

from diffusers_macdm import GuidanceClassifier, MaCDMPipeline
from diffusers_macdm.commands import main as cli
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.generate.pairs import make_again
from diffusers_macdm.hub.card import dataset_card, model_card
from diffusers_macdm.phantom import write_phantom


FOLDERS = {"anatomy_mask": "anatomy", "lesion_mask": "lesion"}
WITHOUT = {"anatomy_mask": "no anatomy masks", "lesion_mask": "no lesion outlines"}
SAMPLING = ["--num-inference-steps", "2", "--batch-size", "4", "--device", "cpu"]


def without(root, column):
    """Take a mask out of a set: its files, and its column in every line of every split."""
    for split in ("train", "validation", "test"):
        shutil.rmtree(root / split / FOLDERS[column])
        metadata = root / split / "metadata.jsonl"
        rows = [json.loads(line) for line in metadata.read_text().splitlines()]
        for row in rows:
            del row[f"{column}_file_name"]
        metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))


class World:
    """A set that lacks one mask, a model of it, and pairs of the model."""

    def __init__(self, folder, absent):
        self.folder, self.absent = folder, absent
        (self.mask,) = set(FOLDERS) - {absent}
        self.both, self.data, self.model, self.pairs = (folder / name for name in ("both", "data", "model", "pairs"))

    def __call__(self, *words):
        return cli.main(list(map(str, words)))


@pytest.fixture(scope="module", params=FOLDERS)
def world(request, tmp_path_factory):
    world = World(tmp_path_factory.mktemp("one"), request.param)
    write_phantom(world.both, num_normal=8, num_lesion=8, size=32, seed=0)
    shutil.copytree(world.both, world.data)
    without(world.data, world.absent)
    common = {"train_data_dir": world.data, "output_dir": world.model, "max_train_steps": 3}
    sampling = {"validation_steps": 3, "num_validation_samples": 2, "ddpm_num_inference_steps": 2, "audit_samples": 2}
    audit = {"audit_steps": 3, "embedding_steps": 2, "audit_cases": 4}
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_here(monkeypatch, "train_guidance_classifier", **common, validation_steps=3)
        run_here(monkeypatch, "train_macdm", **common, **sampling, **audit, weak_unet_step=1)
    assert world("generate", world.model, world.pairs, "--num-per-class", 4, "--guidance-scale", 1.0, *SAMPLING) == 0
    return world


def rows_of(folder):
    return [json.loads(line) for line in (folder / "train/metadata.jsonl").read_text().splitlines()]


def refused(world, capsys, *words):
    """The one sentence of a command that ends with 1."""
    capsys.readouterr()
    assert world(*words) == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_check(world, capsys):
    assert world("check", world.data) == 0
    assert f"note: the set has {WITHOUT[world.absent]}: no line of any split names a file in" in capsys.readouterr().out
    pairs = load_pairs(world.data)
    assert pairs.masks == (world.mask,) and world.absent not in pairs.column_names
    radiograph, *masks = pairs.arrays(0)
    assert [mask is None for mask in masks] == [name == world.absent for name in FOLDERS]


def test_the_configuration_says_which_masks(world):
    for network in ("unet", "weak_unet", "guidance_classifier"):
        config = json.loads((world.model / network / "config.json").read_text())
        assert config["masks"] == [world.mask] and config.get("in_channels", 3) == 3
    for name in ("training_config.json", "guidance_classifier_training_config.json"):
        record = json.loads((world.model / name).read_text())
        assert record["data"]["masks"] == [world.mask]
        # Insertion is learned around lesions; without outlines its share practises pairs.
        expected = {"pairs": 0.6, "masks_to_image": 0.1, "image_to_masks": 0.1, "insertion": 0.2}
        if world.mask == "anatomy_mask":
            expected = {"pairs": 0.8, "masks_to_image": 0.1, "image_to_masks": 0.1}
        assert record["tasks"] == pytest.approx(expected)


def test_the_absent_mask_carries_no_loss(world):
    logged = {name for line in read_log(world.model / "training_log.jsonl") for name in line}
    assert f"simple/{world.mask}" in logged and "simple/radiograph" in logged
    assert not [name for name in logged if name.startswith(f"simple/{world.absent}")]


def test_generated_sets_have_no_column_for_it(world, capsys):
    rows = rows_of(world.pairs)
    assert len(rows) == 8
    for row in rows:
        assert f"{world.absent}_file_name" not in row and (world.pairs / "train" / row[f"{world.mask}_file_name"]).is_file()
        assert "lesion_inside_anatomy_unrefined" not in row and ("lesion_pixels_unrefined" in row) == (
            world.mask == "lesion_mask"
        )
    assert not (world.pairs / "train" / FOLDERS[world.absent]).exists()
    summary = json.loads((world.pairs / "summary.json").read_text())["labels"]["1"]
    assert summary["lesion_inside_anatomy_unrefined"] is None
    assert (summary["with_lesion"] is None) == (world.absent == "lesion_mask")
    assert json.loads((world.pairs / "generation.json").read_text())["settings"]["masks"] == [world.mask]
    capsys.readouterr()
    world("check", world.pairs)  # a model of three steps leaves out lesions
    assert f"the set has {WITHOUT[world.absent]}" in capsys.readouterr().out


def test_a_set_of_normal_pairs_alone_has_no_empty_outlines(world, tmp_path):
    """Normal cases need no lesion mask; a set of them that a model without outlines made is not one with empty masks."""
    assert world("generate", world.model, tmp_path / "normal", "--num-per-class", 2, "--labels", 0, *SAMPLING) == 0
    assert load_pairs(tmp_path / "normal").masks == (world.mask,)


def test_a_pair_can_be_made_again(world):
    pipe = MaCDMPipeline.from_pretrained(world.model)
    pipe.set_progress_bar_config(disable=True)
    row = rows_of(world.pairs)[1]
    pair = make_again(pipe, row)
    assert getattr(pair, world.absent) is None
    film = np.asarray(Image.open(world.pairs / "train" / row["image_file_name"]))
    np.testing.assert_allclose(np.asarray(pair.radiograph, float), film, atol=1)


@pytest.mark.parametrize("use", [["--strength", 0.6, "--from"], ["--masks-from"]], ids=["variations", "masks given"])
def test_pairs_from_real_cases(world, tmp_path, capsys, use):
    """Of a set with both masks the one that the model knows is taken; a set that lacks this one is refused."""
    for name in ("data", "both"):
        assert world("generate", world.model, tmp_path / name, "--num-per-class", 2, *use, world.folder / name, *SAMPLING) == 0
    first, second = (rows_of(tmp_path / name)[0] for name in ("data", "both"))
    for row in (first, second):
        assert f"{world.absent}_file_name" not in row
    films = [np.asarray(Image.open(tmp_path / name / "train" / first["image_file_name"])) for name in ("data", "both")]
    np.testing.assert_array_equal(*films)
    other = tmp_path / "other"
    shutil.copytree(world.both, other)
    without(other, world.mask)
    sentence = refused(world, capsys, "generate", world.model, tmp_path / "x", "--num-per-class", 2, *use, other, *SAMPLING)
    assert sentence == (
        f"macdm generate: {other} has {WITHOUT[world.mask]}, which the model makes and which are taken from there."
    )
    assert not (tmp_path / "x").exists()


def test_insertion_is_refused(world, tmp_path, capsys):
    for more in ([], ["--lesion-masks", "generated"]):
        words = ["generate", world.model, tmp_path / "x", "--num-per-class", 2, "--insert-into", world.both, *more, *SAMPLING]
        sentence = refused(world, capsys, *words)
        assert sentence.startswith(
            f"macdm generate: {world.model}: the model's training set has {WITHOUT[world.absent]}, which"
        )
        assert "--insert-into needs" in sentence and not (tmp_path / "x").exists()


def test_the_pipeline(world):
    """What it knows is sampled and given; what it does not know is None, and refused by name where it is given."""
    pipe = MaCDMPipeline.from_pretrained(world.model)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    film, mask = torch.rand(1, 1, 32, 32, generator=generator), torch.zeros(1, 1, 32, 32)
    mask[..., 8:20, 8:20] = 1
    settings = {"class_labels": 1, "num_inference_steps": 2, "output_type": "pt"}
    calls = [{}, {"image": film}, {world.mask: mask}, {"image": film, world.mask: mask, "strength": 0.5}]
    for given in calls:
        output = pipe(**settings, **given, generator=torch.Generator().manual_seed(1))
        fields = {"anatomy_mask": output.anatomy_masks, "lesion_mask": output.lesion_masks}
        assert fields[world.absent] is None and fields[world.mask].shape == (1, 1, 32, 32)
        assert output.images.isfinite().all()
    assert pipe(**settings | {"output_type": "latent"}, return_dict=False)[list(FOLDERS).index(world.absent) + 1] is None
    with pytest.raises(ValueError, match=f"{world.absent} is given to a model that was trained without"):
        pipe(**settings, **{world.absent: mask})
    with pytest.raises(ValueError, match=f"needs image and {world.mask}; given: radiograph"):
        pipe(**settings, image=film, strength=0.5)
    with pytest.raises(ValueError, match=f"image and {world.mask} are all given"):
        pipe(**settings, **{"image": film, world.mask: mask})
    region = torch.zeros(1, 1, 32, 32)
    region[..., 4:28, 4:28] = 1
    if world.mask == "anatomy_mask":
        with pytest.raises(ValueError, match="this model was trained without lesion outlines: it cannot tell"):
            pipe(**settings, image=film, anatomy_mask=mask, mask_image=region)
        return
    for outline in ({}, {"lesion_mask": mask}):  # it has learned to paint a lesion into a film, anatomy or not
        output = pipe(**settings, image=film, mask_image=region, **outline)
        outside = region == 0
        assert torch.equal(output.images[outside], film[outside]) and not output.lesion_masks[outside].any()


def test_audit(world, tmp_path, capsys):
    words = ["audit", "--real", world.data, "--synthetic", world.pairs, "--out", tmp_path / "audit", "--model", world.model]
    words += ["--embedding-steps", 2, "--planted", 2, "--strengths", 0.5, "--variations", 2, "--device", "cpu"]
    assert world(*words) == 0
    audit = json.loads((tmp_path / "audit/audit.json").read_text())
    for data in (world.data, world.pairs):
        assert (
            f"{data} has {WITHOUT[world.absent]}. Radiographs alone are compared for copies, so this changes nothing here."
            in (audit["notes"])
        )
    assert audit["membership"]["auc"] is not None and len(audit["strength_curve"]) == 1
    other = tmp_path / "other"
    shutil.copytree(world.both, other)
    without(other, world.mask)
    words[2], words[6] = other, tmp_path / "x"
    assert f"{other} has {WITHOUT[world.mask]}, which the model is fed" in refused(world, capsys, *words)


def test_evaluate(world, tmp_path, capsys):
    words = [
        "evaluate",
        "--real",
        world.data,
        "--synthetic",
        world.pairs,
        "--out",
        tmp_path / "out",
        "--size",
        16,
        "--ratios",
        0.25,
    ]
    words += ["--downstream-steps", 4, "--downstream-batch-size", 4, "--validate-every", 2, "--classifier-width", 4]
    words += ["--segmenter-width", 4, "--resamples", 20, "--seeds", 0, "--device", "cpu"]
    words += ["--arms", "real_only", "real_plus_synthetic_0.25", "--filters", "network", "--model", world.model]
    assert world(*words) == 0
    result = json.loads((tmp_path / "out/evaluation.json").read_text())
    for data in (world.data, world.pairs):
        assert f"{data} has {WITHOUT[world.absent]}: nothing is measured on them." in result["notes"]
    assert result["settings"]["masks"] == [world.mask]
    assert {row["mask"] for row in result["fit"]["measures"]} == {world.mask}
    measured = {(row["task"], row["metric"]) for row in result["results"]}
    assert ("segmentation", "anatomy_dice") not in measured
    assert (("segmentation", "dice") in measured) == (world.mask == "lesion_mask")
    assert result["settings"]["tasks"] == ["diagnosis", "segmentation"][: 1 + (world.mask == "lesion_mask")]
    page = (tmp_path / "out/index.html").read_text()
    assert ("anatomy mask cyan" in page, "lesion mask red" in page) == tuple(mask == world.mask for mask in FOLDERS)
    if world.absent == "lesion_mask":
        words[6] = tmp_path / "x"
        sentence = refused(world, capsys, *words, "--tasks", "diagnosis", "segmentation")
        assert sentence == (
            f"macdm evaluate: {world.data} has no lesion outlines, which --tasks segmentation is measured on: "
            "--tasks diagnosis is possible."
        )
        assert not (tmp_path / "x").exists()


def test_comparison_and_sweep_are_refused(world, tmp_path, capsys):
    words = ["compare", "--real", world.data, "--out", tmp_path / "x", "--size", 16, "--device", "cpu"]
    assert refused(world, capsys, *words) == (
        f"macdm compare: {world.data} has {WITHOUT[world.absent]}, which the models of a comparison make."
    )
    for real, lacks in ((world.data, world.data), (world.both, f"{world.model}: the model's training set")):
        words = ["sweep", world.model, "--real", real, "--out", tmp_path / "x", "--grid", "guidance_scale=0,1"]
        words += ["--device", "cpu", "--allow-unrecorded"]
        assert refused(world, capsys, *words) == (
            f"macdm sweep: {lacks} has {WITHOUT[world.absent]}, which the measures of a sweep need."
        )
    assert not (tmp_path / "x").exists()


def test_push_and_cards(world, tmp_path, capsys):
    assert world("push", world.model, "ann/model", "--dry-run", "--synthetic", world.pairs) == 0
    assert world("push-dataset", world.pairs, "ann/pairs", "--dry-run") == 0
    assert "nothing was sent" in capsys.readouterr().out
    card = model_card(world.model, "ann/model", synthetic_dir=world.pairs)
    assert f"**Its training set has {WITHOUT[world.absent]}, so that it makes none.**" in card
    assert ("Not measured: the model makes no lesion outlines." in card) == (world.absent == "lesion_mask")
    assert f"out.{world.absent}s" not in card and f"out.{world.mask}s" in card
    card = dataset_card(world.pairs, "ann/pairs")
    assert f"The set has **{WITHOUT[world.absent]}**." in card and f"`{world.absent}`" not in card
    assert f'pair["{world.absent}"]' not in card and f'pair["{world.mask}"].size' in card


def test_networks_of_other_masks_do_not_go_together(world, tmp_path, monkeypatch):
    """A classifier of both masks is refused by a denoiser of one, by the training and by the pipeline."""
    classifier = GuidanceClassifier.from_pretrained(world.model / "guidance_classifier")
    config = {name: value for name, value in classifier.config.items() if not name.startswith("_")}
    config["masks"] = tuple(FOLDERS)
    GuidanceClassifier(**config).save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match=f"was trained with anatomy_mask and lesion_mask, the data have {world.mask}"):
        run_here(
            monkeypatch,
            "train_macdm",
            train_data_dir=world.data,
            output_dir=tmp_path / "model",
            guidance_classifier=tmp_path / "classifier",
        )
    pipe = MaCDMPipeline.from_pretrained(world.model)
    pipe.register_modules(guidance_classifier=GuidanceClassifier(**config))
    with pytest.raises(ValueError, match="The guidance_classifier was trained with anatomy_mask and lesion_mask and the unet"):
        pipe(class_labels=1, num_inference_steps=1, guidance_scale=1.0)


def test_a_resumed_training_has_the_same_masks(world, tmp_path, monkeypatch):
    common = {"output_dir": tmp_path / "model", "checkpointing_steps": 2, "max_train_steps": 2}
    run_here(monkeypatch, "train_macdm", train_data_dir=world.data, **common)
    common["max_train_steps"] = 3
    with pytest.raises(ValueError, match="the masks of the data does not fit .*, which was trained with masks="):
        run_here(monkeypatch, "train_macdm", train_data_dir=world.both, resume_from_checkpoint="latest", **common)
