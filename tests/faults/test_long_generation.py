"""Memory and open files of `macdm generate` over many pairs of a tiny model."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_models import tiny_pipeline


MOST_GROWTH = 24  # megabytes from a fifth of the pairs on; one batch of 60 takes less than 1


def followed(process, metadata):
    """Rows written, megabytes in memory and open files of a process, several times a second while it runs."""
    page, points = os.sysconf("SC_PAGE_SIZE"), []
    while process.poll() is None:
        try:
            memory = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * page / 2**20
            files = len(os.listdir(f"/proc/{process.pid}/fd"))
            rows = metadata.read_bytes().count(b"\n") if metadata.exists() else 0
        except OSError:  # it ends in this moment
            break
        points.append((rows, memory, files))
        time.sleep(0.1)
    return points


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="looks into /proc")
@pytest.mark.parametrize("pairs", [300, pytest.param(3000, marks=[pytest.mark.faults, pytest.mark.timeout(900)])])
def test_memory_and_open_files_stay(pairs, tmp_path, capsys):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    words = ["generate", tmp_path / "model", tmp_path / "out", "--num-per-class", pairs // 2, "--batch-size", 30]
    words += ["--num-inference-steps", 2, "--guidance-scale", 1, "--device", "cpu"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([sys.executable, "-m", "diffusers_macdm", *map(str, words)], stdout=log, stderr=log)
        points = followed(process, tmp_path / "out/train/metadata.jsonl")
    assert process.wait() == 0, (tmp_path / "log").read_text()
    writing = [point for point in points if pairs / 5 <= point[0] < pairs]
    assert len(writing) >= 3
    memory, files = [point[1] for point in writing], [point[2] for point in writing]
    if pairs >= 3000:
        with capsys.disabled():
            print(
                f"\n{pairs} pairs: {memory[0]:.0f} MB after a fifth, {memory[-1]:.0f} at the end (at most {max(memory):.0f}); "
                f"open files {min(files)} to {max(files)}"
            )
    assert max(memory) - memory[0] < MOST_GROWTH
    assert max(files) - min(files) <= 2  # the image that is being written, and its folder
    assert (tmp_path / "out/train/metadata.jsonl").read_bytes().count(b"\n") == pairs
