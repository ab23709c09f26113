"""What is drawn how often. (The draws of the training scripts are tested in `test_loading.py`.)"""

import numpy as np
import pytest

from diffusers_macdm.data.sampler import StepBatchSampler, balanced_draws, in_cycles, shuffled


def test_classes_in_turn_and_each_case_once_before_any_again():
    labels = [0] * 7 + [1] * 2 + [2] * 3
    draws = balanced_draws(labels, 90, seed=1)
    assert np.array_equal(np.asarray(labels)[draws], np.tile([0, 1, 2], 30))
    for label in range(3):
        of_class = draws[label::3]
        members = np.flatnonzero(np.asarray(labels) == label)
        counts = np.bincount(of_class, minlength=len(labels))[members]
        assert counts.sum() == 30 and counts.max() - counts.min() <= 1
        assert sorted(of_class[: len(members)]) == members.tolist()
    assert np.array_equal(draws, balanced_draws(labels, 90, seed=1))
    assert not np.array_equal(draws, balanced_draws(labels, 90, seed=2))


def test_a_set_that_stands_twice_is_drawn_from_like_the_set():
    """Why duplicated real cases can bring no gain: how often each image is drawn is that of the set itself."""
    labels = np.array([0] * 6 + [1] * 3)
    once = np.bincount(balanced_draws(labels, 360, seed=0), minlength=9)
    twice = np.bincount(balanced_draws(np.tile(labels, 2), 360, seed=0) % 9, minlength=9)
    expected = np.where(labels == 0, 360 / 2 / 6, 360 / 2 / 3)
    assert np.array_equal(once, expected) and np.array_equal(twice, expected)


def test_cycles():
    members = np.array([3, 8, 9])
    draws = in_cycles(members, 7, [0, 1])
    assert sorted(draws[:3]) == sorted(draws[3:6]) == members.tolist() and len(draws) == 7
    assert len(in_cycles(members, 0, [0, 1])) == 0
    generator = np.random.default_rng([0, 1])
    assert draws.tolist() == np.concatenate([generator.permutation(members) for _ in range(3)])[:7].tolist()


@pytest.mark.parametrize("seeds", [(0, 1, 2), (5, 0, 0)])
def test_shuffled(seeds):
    assert shuffled([4, 5, 6], *seeds).tolist() == np.random.default_rng(list(seeds)).permutation([4, 5, 6]).tolist()


@pytest.mark.parametrize("num_unlabeled, num_labeled", [(2, 250), (100, 20), (1, 3), (50, 50)])
def test_unlabeled_cases_are_drawn_at_their_natural_share(num_unlabeled, num_labeled):
    """As a class of their own, two of 252 films got a third of all draws."""
    labels = [number % 2 for number in range(num_labeled)] + [2] * num_unlabeled
    steps = 6 * len(labels)
    draws = [index for batch in StepBatchSampler(labels, 10, steps, seed=1, unlabeled=2) for index, _ in batch]
    counts = np.bincount(draws, minlength=len(labels))
    share = num_unlabeled / len(labels)
    assert counts[num_labeled:].sum() == 10 * steps * share
    assert counts[num_labeled:].max() - counts[num_labeled:].min() <= 1
    of_class = [counts[:num_labeled][label::2].sum() for label in (0, 1)]
    assert abs(of_class[0] - of_class[1]) <= 1
    window = [
        np.isin(draws[first : first + 1000], range(num_labeled, len(labels))).sum() for first in range(0, 10 * steps, 1000)
    ]
    assert all(abs(count - 1000 * share) <= 1 for count in window[:-1])


def test_without_unlabeled_cases_the_draws_are_what_they_were():
    labels = [0, 1, 1, 0, 1, 0, 2, 2]
    before = list(StepBatchSampler(labels, 3, 20, seed=5))
    assert list(StepBatchSampler(labels, 3, 20, seed=5, unlabeled=3)) == before
    assert list(StepBatchSampler([3] * 4, 3, 20, seed=5, unlabeled=3)) == list(StepBatchSampler([3] * 4, 3, 20, seed=5))


@pytest.mark.parametrize("unlabeled", [0, 9])
def test_square_root_shares(unlabeled):
    """81 cases of one class, 9 of another, 1 of a third: shares of 9, 3 and 1 in 13, each case as often as its fellows."""
    numbers = [81, 9, 1]
    labels = np.repeat([0, 1, 2, 3], [*numbers, unlabeled])
    steps = 13 * len(labels)
    batches = StepBatchSampler(labels, 27, steps, seed=1, balance="sqrt", unlabeled=3)
    draws = np.array([index for batch in batches for index, _ in batch])
    counts = np.bincount(draws, minlength=len(labels))
    labeled = (labels[draws] < 3).sum()
    assert len(draws) - labeled == len(draws) * unlabeled // len(labels)
    for label, root in enumerate((9, 3, 1)):
        of_class = counts[labels == label]
        assert abs(of_class.sum() - labeled * root / 13) <= 2 and of_class.max() - of_class.min() <= 1
    spread = [(labels[draws[first : first + 1300]] == 1).sum() for first in range(0, len(draws) - 1300, 1300)]
    assert max(spread) - min(spread) <= 3  # at even distances
