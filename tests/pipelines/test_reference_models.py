"""The models that come with the project: they load, are small, and make pairs of the kind that was asked for."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffusers_macdm import MaCDMPipeline
from diffusers_macdm.hub.card import check_card
from diffusers_macdm.parsing import parse
from diffusers_macdm.training.settings import DenoiserSettings


ROOT = Path(__file__).resolve().parents[2]
MODELS = sorted(path.parent for path in (ROOT / "model_cards").glob("*/model_index.json"))


@pytest.fixture
def references(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "pipelines")
    import reference_models

    yield reference_models
    for name in ("reference_models", "run_report", "stages"):
        sys.modules.pop(name, None)


def test_every_recipe_has_its_model_and_options_that_there_are(references):
    assert [path.name for path in MODELS] == sorted(references.REFERENCES)
    for reference in references.REFERENCES.values():
        words = ["--train_data_dir", "data", "--resolution", str(reference.size), *reference.training.split()]
        parse(DenoiserSettings, words, "train_macdm.py", underscores=True).check()


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_a_reference_model_makes_pairs(model, references):
    assert sum(path.stat().st_size for path in model.rglob("*.safetensors")) <= 8e6
    pipe = MaCDMPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.config.sample_size == references.REFERENCES[model.name].size and pipe.unet.dtype == torch.float32
    generator = [torch.Generator().manual_seed(seed) for seed in range(4)]
    pairs = pipe(class_labels=[0, 1, 0, 1], generator=generator, classifier_free_guidance_scale=1.5, output_type="np")
    lesions = (pairs.lesion_masks > 0.5).sum(axis=(1, 2, 3))
    assert not lesions[[0, 2]].any() and lesions[[1, 3]].any()
    assert (pairs.anatomy_masks > 0.5).any(axis=(1, 2, 3)).all() and pairs.images.std(axis=(1, 2, 3)).min() > 0.05


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_a_reference_model_has_its_card_and_pictures(model):
    card = (model / "README.md").read_text(encoding="utf-8")
    check_card(card)
    pictures = ("pairs.png", "samples.png", "inserted.png")
    assert "samples.png" in card and all(min(Image.open(model / name).size) > 200 for name in pictures)
    assert json.loads((model / "measures.json").read_text())["real_or_synthetic_auc"]["value"] <= 1
