"""What is random in a training step is a function of the seed and the place in the stream of cases."""

from types import SimpleNamespace

import pytest
import torch

from diffusers_macdm.data.sampler import StepBatchSampler
from diffusers_macdm.macdm.draws import SampleDraws
from diffusers_macdm.training import places


def noise(seed, size, micro_step, rank=0, ranks=1):
    settings = SimpleNamespace(seed=seed, train_batch_size=size)
    draws = places.draws_at(settings, micro_step, rank, ranks, torch.device("cpu"))
    return draws.normal(torch.empty(size, 3, 4, 4)), draws.uniform()


@pytest.mark.parametrize(("ranks", "accumulation"), [(2, 1), (4, 1), (1, 2), (2, 4)])
def test_however_the_batch_is_shared_out(ranks, accumulation):
    """And in the order of the cases: noise goes with its film."""
    whole, size = noise(5, 8, 3), 8 // ranks // accumulation
    steps = range(3 * accumulation, 4 * accumulation)
    shared = [noise(5, size, step, rank, ranks) for step in steps for rank in range(ranks)]
    assert all(torch.equal(a, torch.cat(b)) for a, b in zip(whole, zip(*shared, strict=True), strict=True))
    labels = [0, 1] * 10
    cases = StepBatchSampler(labels, 8, 10, seed=5).batch(3)
    samplers = [StepBatchSampler(labels, size, 99, seed=5, rank=rank, num_processes=ranks) for rank in range(ranks)]
    assert [case for step in steps for sampler in samplers for case in sampler.batch(step)] == cases


def test_other_seeds_and_places_have_other_numbers():
    first = noise(0, 4, 5)[0]
    assert torch.equal(noise(0, 4, 5)[0], first)
    others = [noise(1, 4, 5)[0], noise(0, 4, 6)[0], noise(0, 4, 5, 1, 2)[0]]
    rows = torch.cat([first, *others]).flatten(1)
    assert len({tuple(row) for row in rows.tolist()}) == 16


def test_dropout_of_samples():
    model = torch.nn.Sequential(torch.nn.Dropout(0.25), torch.nn.Sequential(torch.nn.Dropout(0.0), torch.nn.Dropout(0.25)))
    before = list(model.state_dict())
    layers = places.put_sample_dropout(model)
    assert len(layers) == 2 and model[0] is layers[0] and model[1][1] is layers[1] and type(model[1][0]) is torch.nn.Dropout
    assert list(model.state_dict()) == before
    hidden = torch.ones(8, 5, 40, 40)
    with places.drawing(layers, SampleDraws(range(8))):
        dropped = layers[0](hidden)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert dropped[dropped != 0].unique().tolist() == pytest.approx([4 / 3])
    with places.drawing(layers, SampleDraws(range(4, 8))):
        assert torch.equal(layers[0](hidden[4:]), dropped[4:])
        assert torch.equal(layers[0].eval()(hidden), hidden)
    torch.manual_seed(0)
    expected = torch.nn.functional.dropout(hidden, 0.25)
    torch.manual_seed(0)
    assert torch.equal(layers[0].train()(hidden), expected)  # without draws it is torch's
