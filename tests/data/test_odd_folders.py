"""Some of the odd data folders; all of them are tried in `tests/faults`."""

import pytest
from odd_folders import ODD
from odd_folders_trial import attempt


@pytest.mark.parametrize("odd", ODD[::12], ids=lambda odd: odd.name[:40])
def test_read_rightly_or_named(odd):
    outcome, why = attempt(odd)
    assert outcome == odd.outcome, why
