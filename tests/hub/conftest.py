"""A model, a phantom and the sets that the model has made, to be pushed."""

import shutil
from pathlib import Path

import pytest
from tiny_models import tiny_pipeline

from diffusers_macdm.generate import generate
from diffusers_macdm.phantom import write_phantom


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "phantom"
    write_phantom(folder, num_normal=4, num_lesion=4, size=32, seed=0)
    return folder


@pytest.fixture(scope="module")
def synthetic(saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    generate(saved, folder, 2, num_inference_steps=1, device="cpu", progress=False)
    return folder


@pytest.fixture(scope="module")
def variations(saved, phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("variations") / "set"
    settings = {"num_inference_steps": 2, "device": "cpu", "progress": False}
    generate(saved, folder, 2, from_data=phantom, strength=0.5, **settings)
    return folder
