"""Class labels: whole numbers from 0 without gaps, or names, which get such numbers. 0 is normal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ..macdm.joint_sample import NORMAL_LABEL


NORMAL = "normal"  # the name of the class without a lesion
MOST_LABEL = 9999


def is_label(label) -> bool:
    """Whether this is the label of a case: a small whole number, a name, or None."""
    if label is None:
        return True
    if isinstance(label, str):
        return bool(label.strip()) and not _is_number(label)
    return isinstance(label, int) and not isinstance(label, bool) and 0 <= label <= MOST_LABEL


def is_normal(label) -> bool:
    """Whether a label, as it stands in the metadata, says that there is no lesion."""
    if isinstance(label, str):
        return _key(label) == NORMAL
    return label == NORMAL_LABEL and label is not False and isinstance(label, int)


def number_labels(labels: Mapping[str, Sequence[int | str | None]]) -> tuple[dict, tuple[str, ...] | None]:
    """Number the labels of a set.

    Args:
        labels: split -> label of each case, as `is_label` allows them; "train" comes first.

    Returns:
        Label -> class number, and the name of each number; None where the labels are numbers. Names are numbered in
        alphabetical order after `normal`, those of the train split before others.

    Raises:
        ValueError: when numbers and names are mixed, no name is "normal", or two names differ in case or blanks alone.
    """
    present = [label for of_split in labels.values() for label in of_split if label is not None]
    if not any(isinstance(label, str) for label in present):
        return {label: label for label in present}, None
    if not all(isinstance(label, str) for label in present):
        number = next(label for label in present if not isinstance(label, str))
        name = next(label for label in present if isinstance(label, str))
        raise ValueError(f"labels are names ({name!r}) and numbers ({number}); one of the two is needed.")
    trained = {label for label in labels.get("train", ()) if label is not None}
    names = sorted(set(present), key=lambda name: (not is_normal(name), name not in trained, name))
    alike: dict[str, str] = {}
    for name in names:
        if alike.setdefault(_key(name), name) != name:
            raise ValueError(f"labels {alike[_key(name)]!r} and {name!r} differ in case or blanks alone; write one of them.")
    if not is_normal(names[0]):
        raise ValueError(f"labels are the names {listed(names)}; the class without a lesion must be called {NORMAL!r}.")
    return {name: number for number, name in enumerate(names)}, tuple(names)


def gap(labels: Iterable[int]) -> str | None:
    """Say which class numbers no case has although a larger one is there: a clause, None where there is no gap."""
    known = set(labels)
    missing = [number for number in range(max(known, default=-1) + 1) if number not in known]
    if not missing:
        return None
    return (
        f"label {listed(missing)} has no case and label {max(known)} has: class labels are 0 (normal), 1, 2, ... without gaps"
    )


def listed(values: Collection) -> str:
    """Name at most five things."""
    shown = ", ".join(map(repr, list(values)[:5]))
    return shown + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def _key(name: str) -> str:
    return " ".join(name.split()).casefold()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
