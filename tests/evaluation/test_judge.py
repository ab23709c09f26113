"""The judge's networks: trained once, on the training cases alone, kept where a folder is given."""

import numpy as np
import pytest
import torch
from toy_cases import toy_cases

from diffusers_macdm.data.cases import Cases
from diffusers_macdm.evaluation.downstream import Budget, DownstreamTraining, Stage
from diffusers_macdm.evaluation.judge import Judge
from diffusers_macdm.evaluation.networks import DIAGNOSIS, SEGMENTATION, TASKS
from diffusers_macdm.evaluation.predictions import predict_masks, predict_probabilities


BUDGETS = {task: Budget(steps=3, batch_size=4, width=4) for task in TASKS}
TRAINING = DownstreamTraining(BUDGETS, num_classes=2, pretrained=None, device=torch.device("cpu"))


def judge(folder=None):
    return Judge(toy_cases(6), TRAINING, seed=0, folder=folder, show_progress=False)


def counted(monkeypatch):
    """The tasks that are trained from now on."""
    tasks, train = [], DownstreamTraining.train
    monkeypatch.setattr(
        DownstreamTraining,
        "train",
        lambda self, task, *rest, **more: tasks.append(task) or train(self, task, *rest, **more),
    )
    return tasks


@pytest.mark.parametrize("kept", [False, True])
def test_each_network_is_trained_once_and_is_the_last_state(tmp_path, monkeypatch, kept):
    trained = counted(monkeypatch)
    first = judge(tmp_path / "networks" if kept else None)
    assert trained == []
    networks = {task: first.network(task) for task in (*TASKS, *TASKS)}
    assert trained == [DIAGNOSIS, SEGMENTATION]
    cases = toy_cases(3)
    expected = TRAINING.train(DIAGNOSIS, [Stage(toy_cases(6))], None, 0).network
    assert np.array_equal(predict_probabilities(networks[DIAGNOSIS], cases), predict_probabilities(expected, cases))
    trained.clear()
    second = judge(tmp_path / "networks" if kept else None)
    assert np.array_equal(
        predict_probabilities(second.network(DIAGNOSIS), cases), predict_probabilities(networks[DIAGNOSIS], cases)
    )
    assert np.array_equal(predict_masks(second.network(SEGMENTATION), cases), predict_masks(networks[SEGMENTATION], cases))
    assert trained == ([] if kept else [DIAGNOSIS, SEGMENTATION])
    assert not any(parameter.requires_grad for parameter in second.network(DIAGNOSIS).parameters())
    assert kept == any(tmp_path.iterdir()) and not list(tmp_path.rglob("*.tmp"))


def test_realism_and_fit():
    held_out = toy_cases(4)
    found = judge().realism_and_fit(held_out, toy_cases(5))
    assert "classifier" in found["realism"]["feature_extractor"] and found["fit"]["measures"]
    samples = toy_cases(5).joint_samples.clone()
    samples[:, 1:] = torch.nan
    without_masks = Cases.of(samples, toy_cases(5).class_labels)
    assert judge().realism_and_fit(held_out, without_masks)["fit"] is None


def test_the_copy_detector_finds_training_films_and_its_embedding_is_kept(tmp_path):
    generator = torch.Generator().manual_seed(0)
    films = torch.nn.functional.interpolate(torch.rand(24, 1, 8, 8, generator=generator), 64, mode="bicubic")[:, 0]
    films = (films.clamp(0, 1) * 255).to(torch.uint8)  # [24, 64, 64]
    train, held_out = films[:12], films[12:]
    detectors = [judge(tmp_path).copy_detector(train, [None] * 12, held_out, steps=2) for _ in range(2)]
    assert detectors[0].find(train).all()
    assert (tmp_path / "embedding" / "config.json").is_file()
    for name, tensor in detectors[0].gallery.embedding.state_dict().items():
        assert torch.equal(tensor, detectors[1].gallery.embedding.state_dict()[name])
