"""What `macdm check` says = what the reader gives = what a training trains on; the thousand folders are in `tests/faults`."""

from folder_agreement import agree


def test_check_reader_and_training_agree_on_generated_folders():
    agree(examples=25, seed=20260)
