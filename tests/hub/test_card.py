"""Cards: what they say, what they never say, and that the Hub and `datasets` read their metadata."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from card_records import ARGUMENTS, AUDIT, CLASSIFIER_RECORD, EVALUATION, LOG, RECORD
from huggingface_hub import DatasetCard, ModelCard
from PIL import Image
from tiny_models import TINY_CLASSIFIER, TINY_UNET, tiny_pipeline

from diffusers_macdm.generate import generate
from diffusers_macdm.hub.card import check_card, dataset_card, model_card, model_card_files
from diffusers_macdm.metrics import METRICS
from diffusers_macdm.phantom import write_phantom


ROOT = Path(__file__).resolve().parents[2]
REPO = "ann-lab/tibia-pairs"


def write_json(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model without any record."""
    folder = tmp_path_factory.mktemp("models") / "bare"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def synthetic(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "synthetic"
    generate(model, folder, 3, num_inference_steps=2, device="cpu", progress=False)
    return folder


@pytest.fixture
def recorded(model, tmp_path):
    """The same model with what the trainings record."""
    folder = tmp_path / "recorded"
    shutil.copytree(model, folder)
    write_json(folder, "training_config.json", RECORD)
    write_json(folder, "guidance_classifier_training_config.json", CLASSIFIER_RECORD)
    (folder / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LOG))
    return folder


def table(card):
    """The cells of all rows of tables by their first cell."""
    lines = [line.replace(r"\|", "&") for line in card.splitlines() if line.startswith("| ") and not line.startswith("| |")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1] if len(row) == 2 else row[1:] for row in rows}


def assert_no_blank(card):
    body = card.split("\n---\n", 1)[1]
    cells = [cell for line in body.splitlines() if line.startswith("| ") for cell in line.strip("|").split("|")[1:]]
    headings = [line for line in body.splitlines() if line.startswith("| |")]
    assert all(cell.strip() for cell in cells if not any(cell in line for line in headings))
    assert not re.search(r"\b(None|nan|null|undefined)\b", body)


def snippet(card):
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    return code


def test_card_shows_what_was_recorded(recorded):
    card = model_card(recorded, REPO)
    rows = table(card)
    assert rows["data set"] == "legs" and rows["patients"] == "61"
    assert rows["radiographs trained on"] == "1,250"
    assert rows["... label 0 (normal)"] == "1,000" and rows["... label 1 (with a lesion)"] == "200"
    assert rows["... unlabeled"] == "50"
    assert rows["sizes of the splits"] == "train 1,250, validation 30, test 31"
    assert rows["parameters"] == ["2,603,672", "401,234"]
    channels = [", ".join(map(str, config["block_out_channels"])) for config in (TINY_UNET, TINY_CLASSIFIER)]
    assert rows["channels by level"] == channels
    assert rows["learning rate (AdamW)"] == ["0.0003"] * 2 and rows["seed"] == ["7", "7"]
    assert rows["augmentation"] == ["no", "no"] and rows["moving average of the weights"] == ["yes", "yes"]
    assert rows["classes drawn"] == ["equally often"] * 2
    assert rows["hardware"] == ["NVIDIA Example 80GB"] * 2
    assert rows["versions"] == ["diffusers_macdm 0.1.0, torch 2.13.0"] * 2
    # 50 steps of 4 x 2 x 2 samples at 10 per second (80 s), then at 40 (20 s); the classifier has left no log
    assert rows["time in training steps"] == ["1.7 minutes", "not measured"]
    assert f"a radiograph ({TINY_UNET['sample_size']} x {TINY_UNET['sample_size']} pixels" in card
    assert_no_blank(card)


def test_card_of_a_model_without_records_invents_nothing(model):
    card = model_card(model, REPO)
    assert "Not audited for copies of training images" in card
    assert card.count("Not recorded: the model came without the record of its training.") == 2
    rows = table(card)
    assert rows["parameters"] == rows["hardware"] == rows["versions"] == ["not recorded"] * 2
    assert rows["time in training steps"] == ["not measured"] * 2
    assert "Picture of samples: not measured" in card and "samples.png" not in card
    assert card.count("\nNot measured") == 3 and "has not stated one" in card
    metadata = ModelCard(card).data
    assert metadata.eval_results is None and metadata.license is None and "model-index" not in metadata.to_dict()
    assert_no_blank(card)


def test_a_fact_that_the_record_lacks_is_not_recorded(recorded):
    shortened = {**RECORD, "arguments": {"train_batch_size": 4}, "data": {"num_cases": 5}, "run": None}
    write_json(recorded, "training_config.json", shortened)
    rows = table(model_card(recorded, REPO))
    assert rows["batch per process"][0] == "4"
    for name in ("steps", "schedule, warm-up steps", "moving average of the weights", "classes drawn", "augmentation"):
        assert rows[name][0] == "not recorded", name
    for name in ("data set", "... by label", "patients", "sizes of the splits", "started from other weights"):
        assert rows[name] == "not recorded", name
    assert rows["time in training steps"][0] == "not measured"


def test_model_without_classifier_and_without_labels(tmp_path, monkeypatch):
    tiny_pipeline(with_classifier=False, num_class_embeds=None).save_pretrained(tmp_path / REPO)
    card = model_card(tmp_path / REPO, REPO)
    assert table(card)["parameters"] == ["not recorded", "none"]
    assert "class_labels" not in snippet(card) and "guidance_scale" not in snippet(card)
    monkeypatch.chdir(tmp_path)
    exec(snippet(card), {})
    assert Image.open(tmp_path / "0_image.png").size == (16, 16)


def test_snippet_of_the_model_card_runs(model, tmp_path, monkeypatch):
    shutil.copytree(model, tmp_path / REPO)  # from_pretrained takes a folder of this name as it takes a repository
    monkeypatch.chdir(tmp_path)
    exec(snippet(model_card(model, REPO)), {})
    for label in (0, 1):
        for kind in ("image", "anatomy", "lesion"):
            with Image.open(tmp_path / f"{label}_{kind}.png") as image:
                assert image.size == (16, 16) and image.mode == "L"


def test_results_and_their_intervals(recorded, synthetic, tmp_path):
    audit, evaluation = tmp_path / "audit", tmp_path / "evaluation"
    write_json(audit, "audit.json", AUDIT)
    write_json(evaluation, "evaluation.json", EVALUATION)
    card = model_card(recorded, REPO, audit_dir=audit, evaluation_dir=evaluation, synthetic_dir=synthetic, license="mit")
    rows = table(card)
    assert rows["synthetic images that are copies"] == "6 % (12 of 200; 95 % interval 3 % to 10 %)"
    assert rows["training images that were copied"] == rows["false alarms"] == "not measured"
    assert rows["authenticity"] == "90 % (95 % interval 85 % to 95 %)"
    assert rows["planted copies found, exact"] == "100 % (50 of 50; 95 % interval 93 % to 100 %)"
    assert rows["membership inference, AUC (0.5 is chance)"] == "0.53 (95 % interval 0.470 to 0.590)"
    assert rows["classification"] == ["legs", "real + synthetic 1:1", "AUC", "0.81", "0.770 to 0.850"]
    assert rows["segmentation"] == ["legs", "real", "Dice", "not measured", "not measured"]
    assert "Not audited" not in card and "can be relied on" in card
    summary = json.loads((synthetic / "summary.json").read_text())
    for label, name in (("0", "label 0 (normal)"), ("1", "label 1 (with a lesion)")):
        share = summary["labels"][label]["with_lesion_unrefined"]
        assert rows[name][0] == "3" and rows[name][1].startswith(f"{100 * share:.3g} % ({round(3 * share)} of 3; ")

    metadata = ModelCard(card).data
    assert metadata.license == "mit" and metadata.model_name == "tibia-pairs"
    found = {(result.task_type, result.metric_type): result for result in metadata.eval_results}
    assert len(metadata.eval_results) == 6  # two labels, copies, authenticity, membership, AUC; no null and no NaN
    assert found["unconditional-image-generation", "copy_rate"].metric_value == 0.06
    assert found["unconditional-image-generation", "copy_rate"].metric_args == {"interval": [0.03, 0.1]}
    auc = found["image-classification", "auc"]
    assert (auc.dataset_type, auc.metric_value) == ("legs", 0.81)
    assert auc.metric_name == "AUC, real + synthetic 1:1 (95 % interval 0.77 to 0.85)"
    assert_no_blank(card)


@pytest.mark.parametrize("reliable, words", [(False, "does **not** find planted"), (None, "does not say whether")])
def test_audit_that_cannot_be_relied_on_is_said_at_the_top(recorded, tmp_path, reliable, words):
    write_json(tmp_path, "audit.json", {"verdict": None, "reliable": reliable})
    card = model_card(recorded, REPO, audit_dir=tmp_path)
    assert words in card and "not reliable" in card.split("## Use")[0]
    rows = table(card)
    for name in ("synthetic images that are copies", "authenticity", "planted copies found", "false alarms"):
        assert rows[name] == "not measured", name
    assert rows["membership inference, AUC (0.5 is chance)"] == "not measured"
    assert_no_blank(card)


def test_no_names_of_cases_patients_or_paths(recorded, synthetic, tmp_path):
    for name, path in {"train_data_dir": "C:\\ann-private\\legs", "pretrained_unet": "/data/ann-private/start"}.items():
        write_json(recorded, "training_config.json", {**RECORD, "arguments": {**ARGUMENTS, name: path}})
        card = model_card(recorded, REPO, synthetic_dir=synthetic)
        assert table(card)["data set"] == "legs"
        for secret in ("ann-private", "jane_doe", "john_doe", str(tmp_path), str(synthetic)):
            assert secret not in card
    assert table(card)["started from other weights"] == "start"


def test_data_set_of_the_hub_is_linked(recorded):
    write_json(recorded, "training_config.json", {**RECORD, "arguments": {**ARGUMENTS, "dataset_name": "ann-lab/legs"}})
    card = model_card(recorded, REPO)
    assert ModelCard(card).data.datasets == ["ann-lab/legs"] and table(card)["data set"] == "ann-lab/legs"


def test_text_of_users_stays_text(recorded):
    card = model_card(recorded, REPO, data_description="a | b\n\n# heading <b>bold</b> [x](y)")
    line = next(line for line in card.splitlines() if line.startswith("| description"))
    assert line == r"| description | a \| b # heading &lt;b>bold&lt;/b> \[x](y) |"


def test_picture(model, recorded, synthetic, tmp_path):
    assert model_card_files(model) == {}
    for step in (500, 1500, 1000):
        (recorded / "samples").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(recorded / "samples" / f"step-{step:06d}.png")
    (recorded / "samples" / "step-009999.tmp.png").write_bytes(b"torn")
    assert model_card_files(recorded) == {"samples.png": recorded / "samples/step-001500.png"}
    card = model_card(recorded, REPO)
    assert "](samples.png)" in card and "at step 1,500 (25 sampling steps" in card
    assert model_card_files(recorded, synthetic_dir=synthetic) == {"samples.png": synthetic / "contact_sheet.png"}
    assert "The first 6 of 6 pairs, not chosen" in model_card(recorded, REPO, synthetic_dir=synthetic)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_classifier_free_guidance_of_the_pairs_is_said(recorded, synthetic, tmp_path, scale):
    """A card that names the classifier's guidance alone says that there was none."""
    folder = tmp_path / "guided"
    shutil.copytree(synthetic, folder)
    record = json.loads((folder / "generation.json").read_text())
    record["settings"] |= {"guidance_scale": 0.0, "classifier_free_guidance_scale": scale}
    (folder / "generation.json").write_text(json.dumps(record))
    card = model_card(recorded, REPO, synthetic_dir=folder)
    said = "classifier guidance 0.0" + (", classifier-free guidance 1.5" if scale != 1 else "")
    assert card.count(f"{said}, masks refined") == card.count(f"{said}.\n") == 1
    assert ("classifier-free guidance" in card) == (scale != 1)


def test_set_of_other_weights_or_of_real_cases_is_refused(model, synthetic, tmp_path):
    other = tmp_path / "other"
    pipe = tiny_pipeline()
    pipe.unet.conv_out.bias.data += 1
    pipe.save_pretrained(other)
    with pytest.raises(ValueError, match="was not made with the weights"):
        model_card(other, REPO, synthetic_dir=synthetic)
    variations = tmp_path / "variations"
    write_phantom(tmp_path / "phantom", num_normal=2, num_lesion=2, size=32, seed=0)
    case = {"from_data": tmp_path / "phantom", "strength": 0.5}
    generate(model, variations, 2, num_inference_steps=2, device="cpu", progress=False, **case)
    with pytest.raises(ValueError, match="without --from, --masks-from and --insert-into"):
        model_card(model, REPO, synthetic_dir=variations)
    card = dataset_card(variations, REPO)  # where it belongs, with the warning
    assert "must be treated as that patient's film" in card
    assert table(card)["variations of real cases of, strength"] == "phantom, 0.5" and str(tmp_path) not in card


def test_bad_input_is_one_sentence(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no model_index.json"):
        model_card(tmp_path, REPO)
    with pytest.raises(ValueError, match="no name of a Hub repository"):
        model_card(model, "a/b/c")
    with pytest.raises(FileNotFoundError, match="needs a file LICENSE"):
        model_card(model, REPO, license="other")
    with pytest.raises(FileNotFoundError, match="no audit.json"):
        model_card(model, REPO, audit_dir=tmp_path)
    (tmp_path / "audit.json").write_text("{")
    with pytest.raises(ValueError, match="audit.json is not valid JSON"):
        model_card(model, REPO, audit_dir=tmp_path)
    write_json(tmp_path, "audit.json", {"copy_rate": 0.06})
    with pytest.raises(ValueError, match="copy_rate is 0.06; an object or null"):
        model_card(model, REPO, audit_dir=tmp_path)
    write_json(tmp_path, "evaluation.json", {"results": {}})
    with pytest.raises(ValueError, match="no list of results"):
        model_card(model, REPO, evaluation_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="no train/metadata.jsonl"):
        dataset_card(tmp_path, REPO)


def test_other_licence_is_named_and_comes_along(recorded):
    (recorded / "LICENSE").write_text("mine")
    card = model_card(recorded, REPO, license="other")
    metadata = ModelCard(card).data
    assert (metadata.license, metadata.license_link) == ("other", "LICENSE") and metadata.license_name
    assert model_card_files(recorded)["LICENSE"] == recorded / "LICENSE"


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("license: mit", "license: other", "needs license_name"),
        ("library_name: diffusers\n", "", "library_name is missing"),
        ("value: 0.06", "value: .nan", "no finite number"),
        ("value: 0.06", "value: not measured", "no finite number"),
        ("type: legs", "type: /data/legs", "no name of a data set"),
        ("model-index:", "model-index: 3 #", "cannot be read"),
        ("---\nlibrary", "library", "does not begin with metadata"),
        ("license: mit", "license: [mit", "cannot be read"),
    ],
)
def test_check_finds_what_no_card_of_this_package_lacks(recorded, tmp_path, before, after, message):
    write_json(tmp_path, "audit.json", AUDIT)
    card = model_card(recorded, REPO, audit_dir=tmp_path, license="mit")
    assert before in card
    check_card(card)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_card(card.replace(before, after, 1))


def test_data_set_card_is_what_datasets_reads(synthetic, tmp_path, monkeypatch, capsys):
    folder = tmp_path / REPO
    shutil.copytree(synthetic, folder)
    (folder / "README.md").write_text(dataset_card(folder, REPO, license="cc0-1.0"), encoding="utf-8")
    loaded = datasets.load_dataset(str(folder))
    plain = datasets.load_dataset("imagefolder", data_dir=str(synthetic))
    assert loaded["train"].features == plain["train"].features and list(loaded) == ["train"]
    assert len(loaded["train"]) == 6  # the contact sheet is no pair
    assert loaded["train"]["seed"] == plain["train"]["seed"]
    metadata = DatasetCard.load(folder / "README.md").data
    assert metadata.license == "cc0-1.0" and metadata.size_categories == ["n<1K"] and "synthetic" in metadata.tags
    assert metadata.dataset_info["splits"][0]["num_examples"] == 6
    assert [feature["name"] for feature in metadata.dataset_info["features"]] == plain["train"].column_names
    monkeypatch.chdir(tmp_path)
    exec(snippet((folder / "README.md").read_text(encoding="utf-8")), {})
    assert capsys.readouterr().out.strip().endswith("(16, 16) (16, 16) (16, 16) 0")


def test_data_set_card_says_how_the_pairs_were_made(synthetic, model):
    card = dataset_card(synthetic, REPO)
    rows = table(card)
    settings = json.loads((synthetic / "generation.json").read_text())["settings"]
    assert rows["SHA-256 of the denoiser's weights"] == settings["weights_sha256"]["unet"]
    assert rows["model"] == model.name and str(model.parent) not in card
    assert rows["sampler, steps"] == "DDPMScheduler, 2" and rows["seed"] == "0"
    assert rows["train"] == ["6", "label 0 (normal): 3, label 1 (with a lesion): 3", "none"]
    assert rows["label 1 (with a lesion)"][0] == "3"
    assert_no_blank(card)


def test_data_set_without_provenance_is_not_called_synthetic(tmp_path):
    write_phantom(tmp_path / "films", num_normal=5, num_lesion=3, size=32, seed=0)
    card = dataset_card(tmp_path / "films", REPO)
    assert "Where these films come from is not recorded" in card and "ynthetic** pairs" not in card
    assert "synthetic" not in DatasetCard(card).data.tags
    rows = table(card)
    assert rows["validation"][0] == "3" and rows["train"][0] == "8" and int(rows["train"][2]) > 1
    assert [file["split"] for file in DatasetCard(card).data.configs[0]["data_files"]] == ["train", "validation", "test"]
    assert_no_blank(card)


def test_filled_card_agrees_with_the_recorded_demo():
    card = (ROOT / "model_cards/phantom_demo.md").read_text(encoding="utf-8")
    check_card(card)
    facts = json.loads((ROOT / "docs/results/phantom_demo.json").read_text())
    rows = table(card)
    assert rows["parameters"][0] == f"{facts['training']['parameters']:,}"
    assert rows["steps"][0] == f"{facts['training']['steps']:,}"
    for label, count in facts["training"]["cases_per_label"].items():
        name = "label 0 (normal)" if label == "0" else f"label {label} (with a lesion)"
        assert rows[f"... {name}"] == str(count)
    shares = [row["with_lesion_unrefined"] for row in facts["labels"]]
    assert [result.metric_value for result in ModelCard(card).data.eval_results][: len(shares)] == shares
    assert facts["copy_audit"] in card
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", card)
    assert (ROOT / "model_cards" / picture).is_file()


def test_installed_wheel_has_the_templates_and_metrics(model, tmp_path):
    pytest.importorskip("setuptools", minversion="77.0.3")
    source = tmp_path / "source"
    for name in ("src", "model_cards"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", build, tmp_path], cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    metrics = tmp_path / "installed" / "diffusers_macdm" / "metrics"
    for name in METRICS:
        assert {f"{name}.py", "README.md"} <= {path.name for path in (metrics / name).iterdir()}
    shutil.rmtree(source)
    code = "import sys; from diffusers_macdm.hub import card; print(card.__file__); print(card.model_card(*sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    result = subprocess.run(
        [sys.executable, "-c", code, model, REPO], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    file, card = result.stdout.split("\n", 1)
    assert Path(file).is_relative_to(tmp_path / "installed")
    assert card.strip() == model_card(model, REPO).strip()
