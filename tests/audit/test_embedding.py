import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from audit_data import phantoms

from diffusers_macdm.audit import embedding as module
from diffusers_macdm.audit.embedding import CopyEmbedding, alter, nt_xent, train_embedding
from diffusers_macdm.audit.images import SIZE, to_unit


@pytest.fixture(scope="module")
def radiographs():
    return phantoms(24, 0)


def train(images, steps, seed=0):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_SIZE", 16)
        return train_embedding(images, steps, seed)


@pytest.fixture(scope="module")
def trained(radiographs):
    return train(radiographs, 6)


def test_loss_is_simclr_equation_1():
    """Summed in plain Python: -log( exp(s_ij / tau) / sum_{k != i} exp(s_ik / tau) ), mean over all 2 N."""
    vectors = F.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    rows, total = vectors.double().tolist(), 0.0
    likeness = [[math.exp(sum(a * b for a, b in zip(one, other, strict=True)) / 0.3) for other in rows] for one in rows]
    for i in range(8):
        partner = i + 4 if i < 4 else i - 4
        total -= math.log(likeness[i][partner] / sum(likeness[i][k] for k in range(8) if k != i))
    assert nt_xent(vectors, temperature=0.3).item() == pytest.approx(total / 8, rel=1e-5)


def test_loss_is_small_where_pairs_agree():
    pairs = torch.eye(4).repeat(2, 1)
    assert nt_xent(pairs) < 1e-3 < nt_xent(pairs.roll(1, dims=0)[[0, 1, 2, 3, 7, 4, 5, 6]])


def test_vectors_have_length_one_and_do_not_feel_exposure(trained, radiographs):
    vectors = trained.embed(radiographs)
    assert vectors.shape == (24, 128) and vectors.dtype == torch.float32
    assert torch.allclose(vectors.norm(dim=1), torch.ones(24), atol=1e-5)
    darker = trained.embed((radiographs * 0.5 + 60).round().to(torch.uint8))
    assert (vectors * darker).sum(dim=1).min() > 0.99


def test_blank_image_has_a_vector(trained):
    assert trained.embed(torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)).isfinite().all()


def test_training_follows_from_its_seed_and_leaves_the_global_generators_alone(radiographs):
    state, other = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = train(radiographs, 2).state_dict()
    assert torch.equal(torch.get_rng_state(), state) and np.array_equal(np.random.get_state()[1], other)
    torch.rand(3)  # the global generator stands elsewhere now
    second, third = train(radiographs, 2).state_dict(), train(radiographs, 2, seed=1).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], third["head.weight"])


def test_training_ends_ready_to_use(trained):
    assert not trained.training and not any(parameter.requires_grad for parameter in trained.parameters())
    assert trained.config.steps == 6 and trained.config.seed == 0


def test_alterations_differ_from_image_to_image_and_stay_in_range(radiographs):
    unit = to_unit(radiographs[:1].expand(6, -1, -1))[:, None]
    altered = alter(unit, torch.Generator().manual_seed(0))
    assert altered.shape == unit.shape and altered.min() >= 0 and altered.max() <= 1
    assert all((altered[i] - altered[j]).abs().mean() > 0.01 for i in range(6) for j in range(i))


def test_saved_and_loaded(trained, radiographs, tmp_path):
    trained.save_pretrained(tmp_path)
    loaded = CopyEmbedding.from_pretrained(str(tmp_path)).eval()
    assert torch.equal(loaded.embed(radiographs), trained.embed(radiographs))
    assert loaded.config.steps == 6


def test_one_image_is_refused(radiographs):
    with pytest.raises(ValueError, match="1 training image: at least 2 are needed"):
        train_embedding(radiographs[:1], 1, 0)
