"""The optimiser beside plain torch: the same weights, bit by bit."""

import numpy as np
import pytest
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup

from diffusers_macdm.optimisation import Optimiser, cosine, one_cycle, warm_start_cosine, warm_start_factor


STEPS = 12


def network():
    torch.manual_seed(0)
    layers = (
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 2),
    )
    return torch.nn.Sequential(*layers)


def losses(net):
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        yield torch.nn.functional.cross_entropy(
            net(torch.randn(5, 1, 8, 8, generator=generator)), torch.randint(2, (5,), generator=generator)
        )


def plain(schedule):
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.01)
    scheduler = schedule(optimizer)
    for loss in losses(net):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return net.state_dict()


@pytest.mark.parametrize(
    "schedule, expected",
    [
        (cosine(STEPS, 3), lambda optimizer: get_cosine_schedule_with_warmup(optimizer, 3, STEPS)),
        (
            one_cycle(STEPS, 3e-3),
            lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS),
        ),
        (
            warm_start_cosine(STEPS, 3),
            lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_start_factor(step, STEPS, 3)),
        ),
    ],
)
def test_weights_are_those_of_plain_torch(schedule, expected):
    net = network()
    optimiser = Optimiser(net.parameters(), 3e-3, schedule)
    for loss in losses(net):
        optimiser.step(loss)
    for name, tensor in plain(expected).items():
        assert torch.equal(tensor, net.state_dict()[name]), name


def test_warm_start():
    factors = [warm_start_factor(step, 100, 5) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and factors[5] == 1
    assert factors[5 + 95 // 5] == pytest.approx(np.cos(np.pi / 10) ** 2) and 0 < factors[-1] < 1e-3
    assert warm_start_factor(0, 1, 1) == 1
    assert warm_start_factor(1, 1, 1) == 0


def test_gradients_are_clipped_and_of_these_parameters_alone():
    one, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimiser = Optimiser([one], 0.1, cosine(10, 0), max_grad_norm=1.0)
    optimiser.step((one * other * 100).sum())
    assert other.grad is None and one.grad.norm() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="No moving average"):
        optimiser.average()


def test_average():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = Optimiser([weight], 0.1, cosine(20, 0), ema_max_decay=0.9)
    for _ in range(10):
        optimiser.step(-weight.sum())
    trained = weight.item()
    optimiser.average()
    assert 0 < weight.item() < trained
