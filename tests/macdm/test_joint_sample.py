"""Channel order, ranges and weights."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusers_macdm.macdm import joint_sample
from diffusers_macdm.macdm.joint_sample import (
    ANATOMY_MASK,
    CHANNELS,
    LESION_MASK,
    MASK_CHANNELS,
    RADIOGRAPH,
    check_channel_weights,
    from_signal,
    join,
    signal_weights,
    split,
    to_signal,
    weigh,
)


def test_channel_order_is_that_of_the_file_format():
    assert CHANNELS == ("radiograph", "anatomy_mask", "lesion_mask")
    assert (RADIOGRAPH, ANATOMY_MASK, LESION_MASK) == (0, 1, 2)
    assert list(range(3))[MASK_CHANNELS] == [1, 2]
    assert joint_sample.NORMAL_LABEL == 0


def test_join_maps_to_minus_one_and_one():
    radiograph = torch.tensor([[0.0, 0.25], [0.5, 1.0]])
    anatomy = torch.tensor([[0, 255], [1, 0]], dtype=torch.uint8)
    lesion = torch.tensor([[False, True], [False, False]])
    joined = join(radiograph, anatomy, lesion)
    expected = [[[-1, -0.5], [0, 1]], [[-1, 1], [1, -1]], [[-1, 1], [-1, -1]]]
    torch.testing.assert_close(joined, torch.tensor(expected), rtol=0, atol=0)
    assert joined.dtype == torch.float32


@pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
def test_split_is_the_inverse_of_join(leading):
    generator = torch.Generator().manual_seed(0)
    radiograph = torch.rand(*leading, 5, 7, generator=generator)
    masks = [torch.rand(*leading, 5, 7, generator=generator) < 0.5 for _ in range(2)]
    joined = join(radiograph, *masks)
    assert joined.shape == (*leading, 3, 5, 7)
    back = split(joined)
    torch.testing.assert_close(back[0], radiograph, rtol=0, atol=1e-7)
    for mask, found in zip(masks, back[1:], strict=True):
        assert torch.equal(found, mask.float())


def test_every_16_bit_value_survives():
    values = torch.arange(65536).reshape(256, 256) / 65535
    empty = torch.zeros(256, 256)
    back = split(join(values, empty, empty))[0]
    np.testing.assert_array_equal(np.rint(back.numpy() * 65535), np.arange(65536).reshape(256, 256))


def test_split_clips():
    beyond = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).reshape(1, 1, 5).expand(3, 1, 5)
    for channel in split(beyond):
        assert channel.tolist() == [[0.0, 0.0, 0.5, 1.0, 1.0]]


def test_weigh_multiplies_each_channel_by_its_own_weight():
    sample = torch.randn(2, 3, 4, 5)
    weighted = weigh(sample, (1.0, 0.5, 2.0))
    for channel, weight in enumerate((1.0, 0.5, 2.0)):
        assert torch.equal(weighted[:, channel], weight * sample[:, channel])
    assert weigh(sample.half(), (1.0, 0.5, 2.0)).dtype == torch.float16


def test_weights_of_the_signal():
    weights = (1.0, 0.25, 4.0)
    sample = torch.randn(2, 3, 4, 4)
    on_input = SimpleNamespace(channel_weights=list(weights), mask_weighting="input")
    assert signal_weights(on_input) is None
    assert to_signal(sample, on_input) is sample and from_signal(sample, on_input) is sample
    on_signal = SimpleNamespace(channel_weights=list(weights), mask_weighting="signal")
    assert signal_weights(on_signal) == weights
    assert torch.equal(to_signal(sample, on_signal), sample * torch.tensor(weights)[:, None, None])
    assert torch.equal(from_signal(to_signal(sample, on_signal), on_signal), sample)  # powers of 2: to the bit


def test_good_weights():
    check_channel_weights((1, 0.3, 2.5), 3, "input")
    check_channel_weights([1.0], 1, "signal")


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0,) * 4, (1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (1.0, float("nan"), 1.0)])
def test_bad_weights_are_named(weights):
    with pytest.raises(ValueError, match="one positive number for each of the 3 channels") as error:
        check_channel_weights(weights, 3, "input")
    assert str(tuple(weights)) in str(error.value)


def test_unknown_reading_of_the_formula_is_named():
    with pytest.raises(ValueError, match="mask_weighting='output' is not known; allowed are input, signal"):
        check_channel_weights((1.0, 1.0, 1.0), 3, "output")
