"""Folds and sizes: each case is tested once, no patient is on two sides, smaller sizes are portions of larger ones."""

import numpy as np
import pytest
import torch

from diffusers_macdm.comparison.folds import labels_for, make_folds
from diffusers_macdm.data.cases import Cases


def cases(count, first, seed=0):
    labels = [index % 3 == 0 for index in range(count)]
    patients = [f"p{first + index // 2}" for index in range(count)]
    names = [f"c{first}-{index}" for index in range(count)]
    return Cases.of(torch.zeros(count, 3, 2, 2), torch.tensor(labels).long(), names, patients)


SPLITS = {"train": cases(60, 0), "validation": cases(18, 1000)}


def test_folds_pool_all_splits_by_patient():
    folds = make_folds(SPLITS, 4)
    assert [fold.name for fold in folds] == ["fold-0", "fold-1", "fold-2", "fold-3"]
    tested = sum((fold.test.names for fold in folds), ())
    assert len(tested) == 78 and set(tested) == set(SPLITS["train"].names) | set(SPLITS["validation"].names)
    for number, fold in enumerate(folds):
        sides = [set(side.patient_ids) for side in (fold.train, fold.validation, fold.test)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        assert len(fold.train) + len(fold.validation) + len(fold.test) == 78
        assert fold.validation.names == folds[(number + 1) % 4].test.names
        assert fold.folder == f"fold-{number}/size-all" and len(fold.held_out) == len(fold.validation) + len(fold.test)


def test_sizes_are_nested_and_keep_the_proportions():
    folds = make_folds(SPLITS, 3, train_sizes=[8, 20])
    assert [fold.folder for fold in folds[:3]] == ["fold-0/size-8", "fold-0/size-20", "fold-1/size-8"]
    for small, large in zip(folds[::2], folds[1::2], strict=True):
        assert len(small.train) == 8 and len(large.train) == 20
        assert set(small.train.names) < set(large.train.names) and small.test.names == large.test.names
        share = large.train.has_lesion.float().mean()
        assert share == pytest.approx(1 / 3, abs=0.06)


def test_samples_per_class():
    for fold in make_folds(SPLITS, 3, samples_per_class=[12, 5]):
        assert np.bincount(fold.train.class_labels).tolist() == [12, 5]
    with pytest.raises(ValueError, match="samples_per_class 400 of label 1.*fold-0 has"):
        make_folds(SPLITS, 3, samples_per_class=[1, 400])
    with pytest.raises(ValueError, match="at least two labels must be left"):
        make_folds(SPLITS, 3, samples_per_class=[0, 0])


def test_folds_of_the_held_out_cases_share_one_training():
    splits = {**SPLITS, "test": cases(10, 2000)}
    folds = make_folds(splits, None, held_out_folds=3, train_sizes=[20, 40])
    assert [fold.folder for fold in folds[:2]] == ["held-out-0/size-20", "held-out-0/size-40"]
    assert {fold.trained_folder for fold in folds} == {"held-out/size-20", "held-out/size-40"}
    every = set(splits["validation"].names) | set(splits["test"].names)
    for size in (20, 40):
        of_size = [fold for fold in folds if fold.size == size]
        assert len({fold.train.names for fold in of_size}) == 1
        assert set(of_size[0].train.names) <= set(SPLITS["train"].names)
        tested = sum((fold.test.names for fold in of_size), ())
        assert len(tested) == len(every) and set(tested) == every
        for fold in of_size:
            assert set(fold.validation.names) == every - set(fold.test.names)
            assert not set(fold.validation.patient_ids) & set(fold.test.patient_ids)


def test_what_cannot_be_divided():
    with pytest.raises(ValueError, match="no test split.*--folds K"):
        make_folds(SPLITS, None)
    with pytest.raises(ValueError, match="held_out_folds=1 is not allowed"):
        make_folds(SPLITS, None, held_out_folds=1)
    with pytest.raises(ValueError, match="folds=3 and held_out_folds=2"):
        make_folds(SPLITS, 3, held_out_folds=2)
    with pytest.raises(ValueError, match="need a train split, and a validation or a test split"):
        make_folds({"train": SPLITS["train"]}, None, held_out_folds=2)
    with pytest.raises(ValueError, match="folds=2"):
        make_folds(SPLITS, 2)
    with pytest.raises(ValueError, match="train size 500 is not allowed: from 2 to the .* training cases of fold-0"):
        make_folds(SPLITS, 3, train_sizes=[500])
    folds = make_folds({**SPLITS, "test": cases(8, 2000)}, None)
    assert [fold.name for fold in folds] == ["split"] and folds[0].test.names[0] == "c2000-0"


def test_labels_of_the_pairs():
    train = SPLITS["train"]
    assert labels_for(train, 60, 0).tolist() == train.class_labels.tolist()
    assert np.bincount(labels_for(train, 30, 0)).tolist() == [20, 10]
    assert np.bincount(labels_for(train, 150, 0)).tolist() == [100, 50]
