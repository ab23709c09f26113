"""What a push of the tiny pipeline has in the repository, and how tests look at it."""

import os
import subprocess
import sys
from pathlib import Path

from diffusers_macdm.hub.sources import source_files


WEIGHTS = "diffusion_pytorch_model"
PUBLISHED = sorted(
    [
        ".gitattributes",  # the Hub's own
        "README.md",
        "guidance_classifier/config.json",
        f"guidance_classifier/{WEIGHTS}.fp16.safetensors",
        f"guidance_classifier/{WEIGHTS}.safetensors",
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        f"unet/{WEIGHTS}.fp16.safetensors",
        f"unet/{WEIGHTS}.safetensors",
        *source_files(["unet", "guidance_classifier"]),
    ]
)
RECORD = {
    "arguments": {
        "train_data_dir": "/data/of/jane_doe/leg",
        "output_dir": "/data/of/jane_doe/model",
        "resume_from_checkpoint": "/data/of/jane_doe/model/checkpoint-1",
        "pretrained_unet": "..\\jane_doe\\unet",
        "dataset_name": None,
        "learning_rate": 1e-4,
        "block_out_channels": [8, 16],
    },
    "data": {"num_cases": 2, "cases_per_label": {"0": 1, "1": 1}, "num_patients": 2, "cases": ["jane_doe", "john_doe"]},
    "unet": {"sample_size": 16, "_name_or_path": "/data/of/jane_doe/unet"},
    "versions": {"torch": "2.13.0"},
    "audit": {"last": {"step": 4, "copy_rate": {"value": 0.05}}, "kept": None},
    "notes_of_the_user": "jane_doe",
}


def writes(server):
    return [path for method, path, _ in server.requests if method in ("PUT", "POST") and "validate-yaml" not in path]


def titles(repo):
    return [title for title, _ in repo.commits.values()]


def read(server, repo_id, tmp_path):
    """The splits, read from the published Parquet files."""
    import datasets

    files = server.repo(repo_id, "dataset").files()
    splits = {}
    for path, content in files.items():
        if path.startswith("data/"):
            (tmp_path / Path(path).name).write_bytes(content)
            split = Path(path).name.split("-")[0]
            splits[split] = datasets.Dataset.from_parquet(str(tmp_path / Path(path).name), cache_dir=str(tmp_path / "cache"))
    return splits


def in_another_process(code, *arguments, **environment):
    command = [sys.executable, *map(str, code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
