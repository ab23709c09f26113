import numpy as np
import pytest

from diffusers_macdm.data.splits import check_patients, shared_patients, split_by_patient


FRACTIONS = {"train": 0.7, "validation": 0.15, "test": 0.15}


def a_clinic(seed, num_patients=150):
    """Patients with one to six films each; films of one patient mostly agree in their label."""
    rng = np.random.default_rng(seed)
    patients, labels = [], []
    for patient in range(num_patients):
        usual = int(rng.random() < 0.3)
        for _ in range(rng.integers(1, 7)):
            patients.append(f"p{patient:03d}")
            labels.append(usual if rng.random() < 0.8 else 1 - usual)
    order = rng.permutation(len(patients))
    return [patients[i] for i in order], [labels[i] for i in order]


@pytest.mark.parametrize("seed", range(5))
def test_grouped_stratified_and_complete(seed):
    patients, labels = a_clinic(seed)
    splits = split_by_patient(patients, labels, FRACTIONS, seed)
    assert list(splits) == list(FRACTIONS)
    assert sorted(sum(splits.values(), [])) == list(range(len(labels)))
    assert all(indices == sorted(indices) for indices in splits.values())
    check_patients({split: [patients[index] for index in indices] for split, indices in splits.items()})
    for label in (0, 1):
        total = labels.count(label)
        for split, fraction in FRACTIONS.items():
            share = sum(labels[index] == label for index in splits[split]) / total
            assert share == pytest.approx(fraction, abs=0.02)


def test_seed_decides():
    patients, labels = a_clinic(0)
    first = split_by_patient(patients, labels, FRACTIONS, 1)
    assert split_by_patient(patients, labels, FRACTIONS, 1) == first
    assert split_by_patient(patients, labels, FRACTIONS, 2) != first


def test_cases_without_a_patient_stand_alone_and_unlabeled_ones_are_a_class():
    labels = [0] * 50 + [1] * 30 + [None] * 20
    splits = split_by_patient([None] * 100, labels, {"train": 0.8, "test": 0.2}, 0)
    for label, count in ((0, 10), (1, 6), (None, 4)):
        assert sum(labels[index] == label for index in splits["test"]) == count


def test_a_large_patient_goes_where_there_is_room():
    patients = ["big"] * 40 + [f"p{i}" for i in range(60)]
    splits = split_by_patient(patients, [0] * 100, {"test": 0.3, "train": 0.7}, 0)
    assert set(range(40)) <= set(splits["train"]) and len(splits["test"]) == 30


@pytest.mark.parametrize(
    "fractions", [{"train": 0.8, "test": 0.1}, {"train": 1.2, "test": -0.2}, {"train": 1.0, "test": 0.0}, {}]
)
def test_fractions_are_checked(fractions):
    with pytest.raises(ValueError, match="add up to 1"):
        split_by_patient(["a", "b"], [0, 1], fractions, 0)


def test_too_few_patients():
    with pytest.raises(ValueError, match="would be empty: 2 patients with 10 cases"):
        split_by_patient(["a"] * 5 + ["b"] * 5, [0] * 10, FRACTIONS, 0)


def test_lengths_are_checked():
    with pytest.raises(ValueError, match="2 patient ids and 3 labels"):
        split_by_patient(["a", "b"], [0, 0, 1], FRACTIONS, 0)


def test_patient_in_two_splits_is_refused_by_name():
    splits = {"train": ["p1", "p2", "p2", None], "validation": ["p3", None], "test": ["p2", "p1"]}
    assert shared_patients(splits) == {"p1": ["train", "test"], "p2": ["train", "test"]}
    with pytest.raises(ValueError, match="'p1' in train and test; 'p2' in train and test"):
        check_patients(splits)
    check_patients({"train": ["p1", "p1", None], "test": ["p2", None]})
