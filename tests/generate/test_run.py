import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_pipeline

from diffusers_macdm import MaCDMPipeline
from diffusers_macdm.commands import main as cli
from diffusers_macdm.data.check import check_dataset
from diffusers_macdm.data.dataset import PairDataset
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.generate import generate
from diffusers_macdm.generate.pairs import PairRequest, Sampling, make_again, make_pairs
from diffusers_macdm.hub.loading import load_pipeline
from diffusers_macdm.macdm.joint_sample import split
from diffusers_macdm.phantom import write_phantom
from diffusers_macdm.provenance.weights import weights_digest
from diffusers_macdm.seeds import pair_seed


SETTINGS = {"num_inference_steps": 3, "batch_size": 4, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "with_classifier"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A phantom of 3 normal cases and 2 with a lesion, twice the size of the model."""
    folder = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(folder, num_normal=3, num_lesion=2, size=32, seed=0)
    return folder


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("sets") / "finished"
    generate(model, out, 5, guidance_scale=1.0, **SETTINGS)  # batches of 4, 4 and 2
    return out


def rows_of(out):
    return [json.loads(line) for line in (out / "train/metadata.jsonl").read_text().splitlines()]


def files_of(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def pair_of(out, row):
    names = (row[f"{column}_file_name"] for column in ("image", "anatomy_mask", "lesion_mask"))
    return [np.asarray(Image.open(out / "train" / name)) for name in names]


def test_layout_and_provenance(finished):
    rows = rows_of(finished)
    assert [row["label"] for row in rows] == [0, 1] * 5
    assert [row["seed"] for row in rows] == [pair_seed(0, i) for i in range(10)]
    assert {row["scheduler"] for row in rows} == {"DDPMScheduler"}
    assert {row["guidance_scale"] for row in rows} == {1.0}
    for row in rows:
        radiograph, anatomy_mask, lesion_mask = pair_of(finished, row)
        assert radiograph.dtype == np.uint8 and radiograph.shape == (16, 16) and np.ptp(radiograph) > 0
        assert {*np.unique(anatomy_mask), *np.unique(lesion_mask)} <= {0, 255}
    assert check_dataset(finished) == []
    expected = {"generation.json", "summary.json", "contact_sheet.png", "train/metadata.jsonl"}
    expected |= {f"train/{kind}/synthetic_{i:06d}.png" for kind in ("images", "anatomy", "lesion") for i in range(10)}
    assert set(files_of(finished)) == expected
    # every JSON is of the strict kind
    for name in ("generation.json", "summary.json"):
        json.loads((finished / name).read_text(), parse_constant=pytest.fail)


def test_the_set_loads_as_training_data(finished):
    cases = PairDataset(load_pairs(finished), size=16)
    assert cases.labels == [0, 1] * 5 and cases.patient_ids == [None] * 10
    assert cases[1]["joint_sample"].shape == (3, 16, 16)


def test_settings_are_written(model, finished):
    content = json.loads((finished / "generation.json").read_text())
    pipe = MaCDMPipeline.from_pretrained(model)
    assert content["settings"]["weights_sha256"] == {
        "unet": weights_digest(pipe.unet),
        "guidance_classifier": weights_digest(pipe.guidance_classifier),
    }
    assert content["settings"]["scheduler_config"]["variance_type"] == "learned_range"
    assert content["versions"]["torch"] == torch.__version__


def test_weights_digest_sees_one_changed_weight(model):
    pipe = MaCDMPipeline.from_pretrained(model)
    before = weights_digest(pipe.unet)
    with torch.no_grad():
        pipe.unet.conv_in.bias[0] += 1e-6
    assert weights_digest(pipe.unet) != before


def test_pairs_are_those_of_the_pipeline_refined(model, finished):
    """Sampled unrefined and refined afterwards is what the pipeline gives when it refines itself."""
    rows = rows_of(finished)[:4]
    output = MaCDMPipeline.from_pretrained(model)(
        class_labels=[0, 1, 0, 1],
        num_inference_steps=3,
        guidance_scale=1.0,
        generator=[torch.Generator().manual_seed(row["seed"]) for row in rows],
    )
    for i, row in enumerate(rows):
        expected = [np.asarray(images[i]) for images in (output.images, output.anatomy_masks, output.lesion_masks)]
        for found, image in zip(pair_of(finished, row), expected, strict=True):
            np.testing.assert_array_equal(found, image)


def test_a_larger_set_contains_the_smaller_one(model, finished, tmp_path):
    generate(model, tmp_path / "set", 2, guidance_scale=1.0, **SETTINGS)
    small, large = files_of(tmp_path / "set"), files_of(finished)
    images = [name for name in small if name.startswith("train/") and name.endswith(".png")]
    assert len(images) == 12 and all(small[name] == large[name] for name in images)
    assert rows_of(tmp_path / "set") == rows_of(finished)[:4]


@pytest.mark.parametrize(
    "use",
    [{}, {"from_data": True, "strength": 0.7}, {"masks_from": True, "scheduler": "DPMSolverMultistepScheduler"}],
    ids=["pairs", "variation", "masks_from"],
)
def test_any_single_pair_can_be_made_again(model, real, tmp_path, use):
    """From its row alone, in a batch of one and by another pipeline object: the same up to one gray level."""
    use = {name: real if value is True else value for name, value in use.items()}
    generate(model, tmp_path / "set", 3, guidance_scale=1.0, seed=7, **use, **SETTINGS)
    pipe = load_pipeline(model)
    data = real if "from_data" in use or "masks_from" in use else None
    for row in rows_of(tmp_path / "set")[::2]:
        again = make_again(pipe, row, data)
        radiograph, anatomy_mask, lesion_mask = pair_of(tmp_path / "set", row)
        assert np.abs(np.asarray(again.radiograph).astype(int) - radiograph).max() <= 1
        np.testing.assert_array_equal(again.anatomy_mask, anatomy_mask > 0)
        np.testing.assert_array_equal(again.lesion_mask, lesion_mask > 0)
        assert again.lesion_pixels_unrefined == row["lesion_pixels_unrefined"]
        other = make_again(pipe, {**row, "seed": row["seed"] + 1}, data)
        assert np.abs(np.asarray(other.radiograph).astype(int) - radiograph).max() > 10


def test_make_again_needs_the_case_that_the_row_names(model, real):
    row = {"source": "nobody", "masks_from": None, "scheduler": "DDPMScheduler"}
    with pytest.raises(ValueError, match="'nobody'.*give the data set"):
        make_again(load_pipeline(model), row)
    with pytest.raises(ValueError, match="there is no case 'nobody'"):
        make_again(load_pipeline(model), row, real)


def test_variations_start_from_cases_of_their_label(model, real, tmp_path):
    generate(model, tmp_path / "set", 6, from_data=real, strength=0.5, **SETTINGS)
    cases = PairDataset(load_pairs(real), size=16)
    rows = rows_of(tmp_path / "set")
    for row in rows:
        index = cases.names.index(row["source"])
        assert cases.labels[index] == row["label"]
        assert cases.patient_ids[index] == row["patient_id"]  # so that a split by patient keeps them together
        assert row["masks_from"] is None and row["strength"] == 0.5
    for label, num_cases in ((0, 3), (1, 2)):  # shuffled cycles: every case equally often, each once in a cycle
        sources = [row["source"] for row in rows if row["label"] == label]
        assert set(Counter(sources).values()) == {6 // num_cases}
        cycles = [sources[i : i + num_cases] for i in range(0, 6, num_cases)]
        assert all(len(set(cycle)) == num_cases for cycle in cycles)
    assert check_dataset(tmp_path / "set") == []


def test_variation_is_the_pipelines(model, real, tmp_path):
    generate(model, tmp_path / "set", 1, class_labels=[1], from_data=real, strength=0.5, refine_masks=False, **SETTINGS)
    (row,) = rows_of(tmp_path / "set")
    cases = PairDataset(load_pairs(real), size=16)
    radiograph, anatomy_mask, lesion_mask = split(cases[cases.names.index(row["source"])]["joint_sample"])
    output = MaCDMPipeline.from_pretrained(model)(
        1,
        image=radiograph,
        anatomy_mask=anatomy_mask,
        lesion_mask=lesion_mask,
        strength=0.5,
        num_inference_steps=3,
        generator=[torch.Generator().manual_seed(row["seed"])],
        refine_masks=False,
    )
    for found, images in zip(
        pair_of(tmp_path / "set", row), (output.images, output.anatomy_masks, output.lesion_masks), strict=True
    ):
        np.testing.assert_array_equal(found, np.asarray(images[0]))


def test_given_masks_are_kept(model, real, tmp_path):
    generate(model, tmp_path / "set", 3, masks_from=real, **SETTINGS)
    cases = PairDataset(load_pairs(real), size=16)
    for row in rows_of(tmp_path / "set"):
        index = cases.names.index(row["masks_from"])
        radiograph, *masks = split(cases[index]["joint_sample"])
        found = pair_of(tmp_path / "set", row)
        for mask, expected in zip(found[1:], masks, strict=True):
            np.testing.assert_array_equal(mask, expected.numpy() * 255)
        assert np.abs(found[0] / 255 - radiograph.numpy()).mean() > 0.05  # a new radiograph
        assert row["source"] is None and row["patient_id"] == cases.patient_ids[index]
        assert row["lesion_pixels_unrefined"] == masks[1].sum()


def test_summary_counts_what_is_in_the_files(model, tmp_path):
    """Without refinement the files hold what the model made, so all figures can be taken from them."""
    summary = generate(model, tmp_path / "set", 6, seed=3, refine_masks=False, **SETTINGS)
    assert summary.pop("num_new") == 12 and summary.pop("seconds_per_pair") > 0
    assert summary == json.loads((tmp_path / "set/summary.json").read_text())
    rows = rows_of(tmp_path / "set")
    for label in (0, 1):
        masks = np.array([pair_of(tmp_path / "set", row)[1:] for row in rows if row["label"] == label]) > 0  # [6, 2, H, W]
        lesion_pixels = masks[:, 1].sum(axis=(1, 2))
        assert [row["lesion_pixels_unrefined"] for row in rows if row["label"] == label] == list(lesion_pixels)
        found = summary["labels"][str(label)]
        assert found["num_pairs"] == 6
        assert found["with_lesion"] == found["with_lesion_unrefined"] == np.mean(lesion_pixels > 0)
        assert found["lesion_inside_anatomy_unrefined"] == pytest.approx(masks.all(axis=1).sum() / masks[:, 1].sum())


def test_refinement_empties_the_lesion_of_normal_pairs_and_the_summary_tells(finished):
    labels = json.loads((finished / "summary.json").read_text())["labels"]
    assert labels["0"]["with_lesion"] == 0 < labels["0"]["with_lesion_unrefined"]


def test_chosen_labels_and_scheduler(model, tmp_path):
    generate(model, tmp_path / "set", 2, class_labels=[1], scheduler="HeunDiscreteScheduler", **SETTINGS)
    assert [(row["label"], row["scheduler"]) for row in rows_of(tmp_path / "set")] == [(1, "HeunDiscreteScheduler")] * 2


def test_a_model_without_classes(tmp_path):
    tiny_pipeline(with_classifier=False, num_class_embeds=None).save_pretrained(tmp_path / "model")
    summary = generate(tmp_path / "model", tmp_path / "set", 3, **SETTINGS)
    assert list(summary["labels"]) == ["None"] and [row["label"] for row in rows_of(tmp_path / "set")] == [None] * 3


# --- interruption -----------------------------------------------------------------------------------------------------


def test_killed_and_started_again_gives_the_same_files(model, tmp_path):
    arguments = ["--num-per-class", "6", "--num-inference-steps", "30", "--batch-size", "2", "--guidance-scale", "1"]
    arguments += ["--device", "cpu"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "diffusers_macdm", "generate", str(model), str(killed), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (killed / "train/metadata.jsonl").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 0 < len(rows_of(killed)) < 12 and not (killed / "summary.json").exists()
    assert len(rows_of(killed)) % 2 == 0
    for path in killed.rglob("*.png"):
        Image.open(path).load()  # none half-written
    # what a kill in the middle of a write leaves behind
    (killed / "train/images/.synthetic_000011.png.tmp").write_bytes(b"half")

    assert cli.main(["generate", str(model), str(killed), *arguments]) == 0
    assert cli.main(["generate", str(model), str(whole), *arguments]) == 0
    assert files_of(killed) == files_of(whole)


@pytest.mark.parametrize("num_done", [0, 4, 8, 10])
def test_goes_on_from_every_batch(model, finished, tmp_path, num_done):
    """A set as a kill leaves it: some batches done, the images of the next one partly written, temporary files about."""
    out = tmp_path / "set"
    shutil.copytree(finished, out)
    lines = (out / "train/metadata.jsonl").read_text().splitlines(keepends=True)
    (out / "train/metadata.jsonl").write_text("".join(lines[:num_done]))
    if num_done == 0:
        (out / "train/metadata.jsonl").unlink()
    (out / "summary.json").unlink()
    (out / "contact_sheet.png").unlink()
    for i, kind in itertools.product(range(num_done + 1, 10), ("images", "anatomy", "lesion")):
        (out / f"train/{kind}/synthetic_{i:06d}.png").unlink()
    for name in (".generation.json.tmp", ".contact_sheet.png.tmp", "train/.metadata.jsonl.tmp", "train/lesion/.x.png.tmp"):
        (out / name).write_bytes(b"half")
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.png") if int(path.stem[-6:]) < num_done}

    summary = generate(model, out, 5, guidance_scale=1.0, **SETTINGS)
    assert summary["num_new"] == 10 - num_done
    assert files_of(out) == files_of(finished)
    assert all(path.stat().st_mtime_ns == before for path, before in written.items())  # done batches are left alone


def test_a_kill_before_the_first_file(model, tmp_path):
    out = tmp_path / "set"
    out.mkdir()
    (out / ".generation.json.tmp").write_bytes(b"{")
    generate(model, out, 1, **SETTINGS)
    assert not list(out.rglob("*.tmp"))


def test_a_complete_set_is_left_alone(model, finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    summary = generate(model, finished, 5, guidance_scale=1, guidance_interval=[0, 1], **SETTINGS)
    assert summary["num_new"] == 0 and summary["seconds_per_pair"] is None and summary["num_pairs"] == 10
    arguments = "--num-per-class 5 --guidance-scale 1 --num-inference-steps 3 --batch-size 4 --device cpu".split()
    assert cli.main(["generate", str(model), str(finished), *arguments]) == 0
    assert "is complete: nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_inference_steps": 4}, "num_inference_steps=3 and this call has num_inference_steps=4"),
        ({"batch_size": 5}, "batch_size=4 and this call has batch_size=5"),
        ({"seed": 1}, "seed=0 and this call has seed=1"),
        ({"refine_masks": False}, "refine_masks=True and this call has refine_masks=False"),
        ({"scheduler": "DDIMScheduler"}, "scheduler='DDPMScheduler' and this call has scheduler='DDIMScheduler'"),
    ],
)
def test_other_settings_are_refused(model, finished, change, message):
    before = files_of(finished)
    with pytest.raises(ValueError, match=message):
        generate(model, finished, 5, **{"guidance_scale": 1.0, **SETTINGS, **change})
    assert files_of(finished) == before


def test_other_weights_under_the_same_name_are_refused(model, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "set")
    content = json.loads((tmp_path / "set/generation.json").read_text())
    content["settings"]["weights_sha256"]["unet"] = "0" * 64
    (tmp_path / "set/generation.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="begun with weights_sha256.unet='0000"):
        generate(model, tmp_path / "set", 5, guidance_scale=1.0, **SETTINGS)


def test_other_versions_may_not_go_on_but_may_look_at_a_complete_set(model, finished, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(finished, out)
    content = json.loads((out / "generation.json").read_text())
    content["versions"]["torch"] = "1.0"
    (out / "generation.json").write_text(json.dumps(content))
    assert generate(model, out, 5, guidance_scale=1.0, **SETTINGS)["num_new"] == 0
    lines = (out / "train/metadata.jsonl").read_text().splitlines(keepends=True)
    (out / "train/metadata.jsonl").write_text("".join(lines[:4]))
    with pytest.raises(ValueError, match="begun with torch='1.0'"):
        generate(model, out, 5, guidance_scale=1.0, **SETTINGS)


def break_row(out):
    metadata = out / "train/metadata.jsonl"
    metadata.write_text(metadata.read_text().replace(f'"seed": {pair_seed(0, 2)},', '"seed": 3,'))


def drop_row(out):
    metadata = out / "train/metadata.jsonl"
    metadata.write_text("".join(metadata.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    "damage, error, message",
    [
        (break_row, ValueError, "line 3: not the pair"),
        (drop_row, ValueError, "has 9 rows, which is no whole number of batches"),
        (lambda out: (out / "train/lesion/synthetic_000005.png").unlink(), FileNotFoundError, "synthetic_000005.png is gone"),
        (lambda out: (out / "generation.json").write_text("{"), ValueError, "generation.json cannot be read"),
        (lambda out: (out / "generation.json").unlink(), FileExistsError, "no generated set"),
    ],
)
def test_a_set_that_was_changed_is_not_repaired(model, finished, tmp_path, damage, error, message):
    out = tmp_path / "set"
    shutil.copytree(finished, out)
    damage(out)
    before = files_of(out)
    with pytest.raises(error, match=message):
        generate(model, out, 5, guidance_scale=1.0, **SETTINGS)
    assert files_of(out) == before


# --- bad input ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def without_classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "without_classifier"
    tiny_pipeline(with_classifier=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "change, message",
    [
        ({"guidance_scale": 2.0}, "guidance_scale=2.0 needs a guidance_classifier"),
        ({"guidance_interval": (0.7, 0.2)}, r"guidance_interval=\(0.7, 0.2\)"),
        ({"strength": 0.5}, "strength=0.5 needs from_data"),
        ({"from_data": True}, "from_data needs a strength"),
        ({"from_data": True, "strength": 1.5}, r"strength=1.5 is not allowed: it is the noise level Z / T, in \(0, 1\]"),
        ({"from_data": True, "strength": 0.5, "masks_from": True}, "both given"),
        ({"from_data": "nowhere", "strength": 0.5}, "nowhere: no such folder"),
        ({"masks_from": True, "split": "holdout"}, "there is no split 'holdout'"),
        ({"num_per_class": 0}, "num_per_class=0 is not allowed"),
        ({"batch_size": 0}, "batch_size=0 is not allowed"),
        ({"seed": -1}, "seed=-1 is not allowed"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 is not allowed"),
        ({"class_labels": [2]}, r"class_labels=\[2\] is not allowed: this model knows 0, 1"),
        ({"class_labels": [1, 1]}, "each at most once"),
        ({"scheduler": "NoSuchScheduler"}, "'NoSuchScheduler' is no scheduler class"),
        ({"scheduler": "UNet2DModel"}, "'UNet2DModel' is no scheduler class"),
        ({"scheduler": "LCMScheduler"}, "scheduler='LCMScheduler' cannot sample from this model"),
        ({"device": "abacus"}, "device='abacus' is not available"),
        ({"model": "no/such/folder"}, "no/such/folder: no such folder"),
        ({"model": "no/repository"}, "no/repository: cannot be loaded from the Hub"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(without_classifier, real, tmp_path, change, message):
    change = {name: real if value is True else value for name, value in change.items()}
    arguments = {"model": without_classifier, "out": tmp_path / "set", "num_per_class": 1, **SETTINGS, **change}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        generate(**arguments)
    assert not (tmp_path / "set").exists()


def test_a_label_without_a_case_is_named(without_classifier, tmp_path):
    write_phantom(tmp_path / "normal", num_normal=2, num_lesion=0, size=32, seed=0)
    with pytest.raises(ValueError, match="split 'train': there is no case with label 1"):
        generate(without_classifier, tmp_path / "set", 1, masks_from=tmp_path / "normal", **SETTINGS)
    assert not (tmp_path / "set").exists()


def test_folders_that_are_something_else(without_classifier, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no model_index.json"):
        generate(tmp_path, tmp_path / "set", 1, **SETTINGS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="mine is not empty and no generated set"):
        generate(without_classifier, tmp_path / "mine", 1, **SETTINGS)
    with pytest.raises(FileExistsError, match="notes.txt exists and is not a folder"):
        generate(without_classifier, tmp_path / "mine/notes.txt", 1, **SETTINGS)
    assert files_of(tmp_path / "mine") == {"notes.txt": b"keep"}


def test_a_broken_model_is_named_in_one_line(without_classifier, tmp_path):
    shutil.copytree(without_classifier, tmp_path / "model")
    (tmp_path / "model/unet/diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="model: cannot be loaded as a MaCDMPipeline: [^\n]+$"):
        generate(tmp_path / "model", tmp_path / "set", 1, **SETTINGS)


def test_command(model, real, tmp_path, capsys):
    out = tmp_path / "set"
    arguments = f"--num-per-class 2 --from {real} --strength 0.8 --guidance-scale 1 --guidance-interval 0.1 0.9".split()
    arguments += "--num-inference-steps 4 --scheduler DDIMScheduler --seed 5 --batch-size 3 --labels 1 --device cpu".split()
    assert cli.main(["generate", str(model), str(out), *arguments, "--no-refine-masks"]) == 0
    output = capsys.readouterr().out
    assert "label 1: 2 pairs, with a lesion" in output and "2 pairs made" in output and str(out) in output
    rows = rows_of(out)
    assert [row["seed"] for row in rows] == [pair_seed(5, 0), pair_seed(5, 1)]
    assert rows[0]["guidance_interval"] == [0.1, 0.9] and rows[0]["refine_masks"] is False


def test_command_says_in_one_sentence_what_is_wrong(without_classifier, tmp_path, capsys):
    arguments = ["--num-per-class", "1", "--guidance-scale", "2", "--device", "cpu"]
    assert cli.main(["generate", str(without_classifier), str(tmp_path / "set"), *arguments]) == 1
    assert "macdm generate: --guidance-scale 2.0 needs a guidance_classifier" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def pair_of_row(pipe, row):
    return make_pairs(pipe, [PairRequest(row["label"], row["seed"])], Sampling.from_row(row))[0]


def test_rows_as_datasets_loads_them_make_the_same_pair(model, finished):
    pipe = load_pipeline(model)
    row = load_pairs(finished)[3]
    expected, found = pair_of_row(pipe, rows_of(finished)[3]), make_again(pipe, row)
    assert np.asarray(found.radiograph).tobytes() == np.asarray(expected.radiograph).tobytes()


@pytest.mark.parametrize(
    ("text", "message"), [("[" * 10**5, "cannot be read as the settings"), ("{}", "cannot be read as the")]
)
def test_a_set_whose_settings_are_no_record(model, tmp_path, text, message):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "generation.json").write_text(text)
    with pytest.raises(ValueError, match=f"generation.json {message}"):
        generate(model, tmp_path / "out", 1, num_inference_steps=1, device="cpu", progress=False)


def test_an_image_that_cannot_be_read_any_more_is_named(model, tmp_path):
    out = tmp_path / "out"
    generate(model, out, 1, num_inference_steps=1, device="cpu", progress=False)
    (out / "summary.json").unlink()
    path = out / "train" / "images" / "synthetic_000000.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="synthetic_000000.png cannot be decoded .*: start again in another folder"):
        generate(model, out, 1, num_inference_steps=1, device="cpu", progress=False)
