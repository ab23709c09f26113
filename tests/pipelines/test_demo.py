"""`pipelines/demo.py` as `make demo` runs it, at the smallest size."""

import base64
import html
import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from diffusers_macdm import MaCDMPipeline
from diffusers_macdm.data.check import check_dataset
from diffusers_macdm.hub.card import check_card


ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "model_cards/phantom_64/pairs.png"
SETS = ["inserted", "variations", "given masks"]
SIZES = {
    "resolution": 32,
    "num_normal": 4,
    "num_lesion": 4,
    "classifier_steps": 2,
    "denoiser_steps": 2,
    "num_pairs": 4,
}


def words(out, **changes):
    options = [word for name, value in {**SIZES, **changes}.items() for word in (f"--{name}", str(value))]
    return [str(ROOT / "pipelines/demo.py"), "--output_dir", str(out), *options]


def run_here(monkeypatch, out, **changes):
    """The script in this process, where nothing is left to train: the imports are saved. What it says when it refuses."""
    monkeypatch.setattr(sys, "argv", words(out, **changes))
    monkeypatch.syspath_prepend(ROOT / "pipelines")
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        return end.code


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "demo"
    result = subprocess.run([sys.executable, *words(out)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return out, result


def test_demo_ends_with_a_picture_and_a_page(demo):
    out, result = demo
    assert re.search(r"label 1: \d+% of 2 pairs have a lesion as sampled", result.stdout)
    picture = Image.open(out / "report/real_and_synthetic.png")
    page = (out / "report/index.html").read_text()
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert Image.open(io.BytesIO(base64.b64decode(embedded[REFERENCE.is_file()]))).size == picture.size
    assert len(embedded) == 5 + REFERENCE.is_file() and "http" not in page.replace("http-equiv", "")
    facts = json.loads((out / "report/report.json").read_text())
    assert [(row["label"], row["num_pairs"]) for row in facts["labels"]] == [("0", 2), ("1", 2)]
    assert facts["training"]["steps"] == 2 and set(facts["shown"]) == {"real", "synthetic"}
    assert list(facts["stages"]) == ["phantom", "guidance classifier", "denoiser", "generate", *SETS, "audit"]
    verdict = json.loads((out / "audit/audit.json").read_text())["verdict"]
    assert facts["copy_audit"] == verdict and verdict in result.stdout and html.unescape(page).count(verdict) == 1


def test_demo_leaves_a_loadable_model_and_sound_sets(demo):
    out, _ = demo
    assert check_dataset(out / "data") == []
    pipe = MaCDMPipeline.from_pretrained(out / "model")
    assert pipe.unet.config.sample_size == 32 and pipe.guidance_classifier is not None
    rows = [json.loads(line) for line in (out / "synthetic/train/metadata.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [0, 1, 0, 1]


def test_demo_writes_the_card_of_its_model(demo):
    """All that the card asks for is recorded by the scripts under these names; what is not measured is named."""
    out, _ = demo
    card = (out / "report/README.md").read_text(encoding="utf-8")
    check_card(card)
    assert "not recorded" not in card.lower()
    assert re.findall(r"^Not measured.*", card, re.MULTILINE) == [
        "Not measured. Nothing here shows that the pairs improve a classifier or a segmenter.",
    ]
    # Membership inference needs the model, and more time than the demo has.
    assert card.lower().count("not measured") == 2 and "| membership inference, AUC (0.5 is chance) | not measured |" in card
    assert json.loads((out / "audit/audit.json").read_text())["verdict"] in card
    assert "| sizes of the splits | train 8, validation 2, test 2 |" in card
    metadata = ModelCard(card).data
    assert metadata.license == "apache-2.0" and len(metadata.eval_results) >= 2
    summary = json.loads((out / "synthetic/summary.json").read_text())
    shares = [row["with_lesion_unrefined"] for row in summary["labels"].values()]
    assert [result.metric_value for result in metadata.eval_results][:2] == shares
    assert (out / "report/samples.png").read_bytes() == (out / "synthetic/contact_sheet.png").read_bytes()
    assert str(out) not in card and "normal_00000" not in card


def test_demo_continues_and_refuses_other_settings(demo, monkeypatch, capfd):
    out, _ = demo
    page = (out / "report/index.html").read_bytes()
    assert not run_here(monkeypatch, out) and capfd.readouterr().out.count("done already") == 8
    assert (out / "report/index.html").read_bytes() == page
    assert "num_pairs" in run_here(monkeypatch, out, num_pairs=6)


def test_demo_refuses_a_folder_of_the_users(tmp_path, monkeypatch):
    (tmp_path / "precious.txt").write_text("mine")
    assert "is not empty" in run_here(monkeypatch, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def lesion_shares(out):
    """Share of the pairs with a lesion as sampled, by label, of a demo at its default sizes."""
    command = [sys.executable, ROOT / "pipelines/demo.py", "--output_dir", out]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    facts = json.loads((out / "report/report.json").read_text())
    return {row["label"]: row["with_lesion_unrefined"] for row in facts["labels"]}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_lesions_are_where_the_label_says(tmp_path):
    """At the default sizes, before refinement enforces anything; the demo takes less than ten minutes."""
    shares = lesion_shares(tmp_path / "demo")
    assert shares["1"] >= 0.9 and shares["0"] <= 0.05
