"""A phantom, a model with records of its training and a set that it has made."""

import shutil

import pytest
from provenance_data import SETTINGS, data_record, write_records
from tiny_models import tiny_pipeline

from diffusers_macdm.generate import generate
from diffusers_macdm.phantom import write_phantom


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    """6 + 4 training cases, 2 + 1 test cases."""
    folder = tmp_path_factory.mktemp("data") / "phantom"
    write_phantom(folder, num_normal=6, num_lesion=4, size=32, seed=0)
    return folder


@pytest.fixture
def real(phantom, tmp_path):
    return shutil.copytree(phantom, tmp_path / "real")


@pytest.fixture(scope="module")
def trained(phantom, tmp_path_factory):
    """A model whose denoiser and classifier are recorded as trained on the train split."""
    folder = tmp_path_factory.mktemp("models") / "model"
    tiny_pipeline().save_pretrained(folder)
    record = {"data": data_record(phantom), "earlier_trainings": []}
    write_records(folder, unet=record, guidance_classifier=record)
    return folder


@pytest.fixture
def model(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "model")


@pytest.fixture(scope="module")
def from_train(trained, phantom, tmp_path_factory):
    """Variations of training cases, as one makes them."""
    out = tmp_path_factory.mktemp("sets") / "from_train"
    generate(trained, out, 3, from_data=phantom, strength=0.5, **SETTINGS)
    return out
