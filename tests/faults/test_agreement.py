"""What `macdm check` says = what the reader gives = what a training trains on, on a thousand generated folders."""

import os

import pytest
from folder_agreement import agree


EXAMPLES = 1000


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_check_reader_and_training_agree():
    """FOLDERS_SEED repeats a run."""
    given = os.environ.get("FOLDERS_SEED")
    seed = agree(EXAMPLES, None if given is None else int(given))
    print(f"\ncheck = reader = training on {EXAMPLES} generated folders, seed {seed}")
