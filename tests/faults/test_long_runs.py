"""Memory and open files of a training stay what they are."""

import time
from pathlib import Path

import pytest
from forking import train
from launching import last_step

from diffusers_macdm.phantom import write_phantom


STEPS, LOG = 2000, "guidance_classifier_training_log.jsonl"


def resources(pid):
    """Resident memory in MiB, and the number of open files."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20, len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_memory_and_open_files_are_flat(tmp_path):
    data, folder = tmp_path / "phantom", tmp_path / "model"
    write_phantom(data, num_normal=6, num_lesion=4, size=32, seed=0)
    values = {"max_train_steps": STEPS, "checkpointing_steps": 50, "checkpoints_total_limit": 2, "validation_steps": 200}
    values |= {"train_data_dir": data, "output_dir": folder, "logging_steps": 10, "report_to": "tensorboard", "use_ema": True}
    fork = train("train_guidance_classifier", tmp_path / "log", **values)
    seen = {}
    while fork.poll() is None:
        step = last_step(folder / LOG)
        if step:
            try:
                seen[step] = resources(fork.pid)
            except OSError:
                break  # it has ended in this moment
        time.sleep(0.2)
    assert fork.wait(600) == 0, fork.said
    early = [value for step, value in seen.items() if STEPS * 0.15 <= step <= STEPS * 0.3]
    late = [value for step, value in seen.items() if step >= STEPS * 0.85]
    (memory, files), (memory_late, files_late) = (map(max, zip(*values, strict=True)) for values in (early, late))
    print(f"\nmemory and open files over {STEPS} steps: {memory:.0f} -> {memory_late:.0f} MiB, {files} -> {files_late} files")
    assert memory_late - memory < 12 and files_late <= files
