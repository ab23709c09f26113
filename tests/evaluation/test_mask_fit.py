"""Image-mask fit on the phantom, where an oracle sees the masks: 1 for matched pairs, little for shuffled lesions."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from diffusers_macdm.data.cases import Cases, load_cases
from diffusers_macdm.evaluation.mask_fit import mask_fit
from diffusers_macdm.phantom import write_phantom


class Oracle(nn.Module):
    """Knows each radiograph and the masks that belong to it."""

    def __init__(self, cases):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))  # a network has a device
        self.known = {
            radiograph.numpy().tobytes(): masks for radiograph, masks in zip(cases.radiographs, cases.masks, strict=True)
        }

    def forward(self, radiographs):
        return torch.stack([self.known[radiograph.numpy().tobytes()] for radiograph in radiographs]) * 2 - self.one


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "data"
    write_phantom(folder, 32, 32, 32, 0)
    return load_cases(folder, "train", 32), load_cases(folder, "test", 32)


def of(result, mask, label):
    return next(m for m in result["measures"] if m["mask"] == mask and m["label"] == label)


def test_matched_pairs_fit_and_shuffled_lesions_do_not(phantom):
    pairs, held_out = phantom
    result = mask_fit(Oracle(Cases.concatenate([pairs, held_out])), held_out, pairs)
    assert json.loads(json.dumps(result)) == result
    assert [(m["mask"], m["label"]) for m in result["measures"]] == [
        ("anatomy_mask", None),
        ("anatomy_mask", 0),
        ("anatomy_mask", 1),
        ("lesion_mask", None),
        ("lesion_mask", 1),
    ]
    for measure in result["measures"]:
        assert measure["value"] == 1 and measure["real"] == 1
    lesion = of(result, "lesion_mask", None)
    assert lesion["n"] == 32 and lesion["shuffled"] < 0.15 and lesion["shuffled_interval"][1] < 0.2
    # any tibia overlaps with any other one: this is what the shuffled value is for
    assert 0.4 < of(result, "anatomy_mask", None)["shuffled"] < 0.95


def test_the_mean_dice_of_wrong_masks_with_its_interval(phantom):
    pairs, held_out = phantom
    moved = pairs.joint_samples.clone()
    moved[:, 2] = moved[:, 2].roll(1, dims=-1)  # the lesion one pixel to the side
    synthetic = Cases.of(moved, pairs.class_labels)
    result = mask_fit(Oracle(Cases.concatenate([pairs, held_out])), held_out, synthetic)
    lesion = of(result, "lesion_mask", None)
    seen, given = pairs.masks[:, 1].numpy(), synthetic.masks[:, 1].numpy()
    dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(seen, given, strict=True) if a.any()]
    assert lesion["value"] == pytest.approx(np.mean(dice)) and lesion["n"] == len(dice)
    half = 1.96 * np.std(dice, ddof=1) / len(dice) ** 0.5
    np.testing.assert_allclose(lesion["interval"], [np.mean(dice) - half, np.mean(dice) + half], atol=0.25 * half)
    assert lesion["shuffled"] < lesion["interval"][0] and of(result, "anatomy_mask", 1)["value"] == 1


def test_no_pair_is_shuffled_onto_itself(phantom):
    pairs, held_out = phantom
    # each mask a pixel of its own: Dice is 1 with itself and 0 with any other
    samples = pairs.joint_samples.clone()
    samples[:, 1:] = -1
    for index in range(len(samples)):
        samples[index, 1:, index // 32, index % 32] = 1
    synthetic = Cases.of(samples, pairs.class_labels)
    oracle = Oracle(Cases.concatenate([synthetic, held_out]))
    for seed in range(2):
        result = mask_fit(oracle, held_out, synthetic, seed)
        assert of(result, "lesion_mask", 1)["value"] == 1 and of(result, "lesion_mask", 1)["shuffled"] == 0
        assert of(result, "anatomy_mask", 0)["shuffled"] == 0


def test_a_single_pair_of_a_label_has_no_other_to_be_shuffled_with(phantom):
    pairs, held_out = phantom
    first = np.flatnonzero(pairs.class_labels.numpy() == 1)[:1]
    result = mask_fit(Oracle(Cases.concatenate([pairs, held_out])), held_out, pairs.select(first))
    lesion = of(result, "lesion_mask", 1)
    assert lesion["value"] == 1 and lesion["shuffled"] is None and lesion["interval"] is None and lesion["n"] == 1
    assert of(result, "lesion_mask", 1)["real"] == 1


def test_a_model_without_masks_has_no_fit(phantom):
    pairs, held_out = phantom
    samples = pairs.joint_samples.clone()
    samples[:, 1:] = torch.nan
    with pytest.raises(ValueError, match="The synthetic cases have no masks"):
        mask_fit(Oracle(held_out), held_out, Cases.of(samples, pairs.class_labels))
