"""Every measurement of the package on the embedded phantom (`make experiments`): does it help, against whom, and why.

Phantom -> both trainings -> synthetic pairs -> `macdm evaluate`, `macdm compare`, `macdm sweep`, each with its page. The sizes
below take less than half an hour on 2 CPU cores; they show that all of it runs, and are far too small for a claim about
anything. Interrupted, it continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from stages import Stages, launch, macdm, said_in_one_sentence


@dataclass(frozen=True)
class Sizes:
    """What decides how long it takes."""

    resolution: int = 32
    num_normal: int = 96  # training cases; a quarter as many in validation and in test
    num_lesion: int = 48
    classifier_steps: int = 150
    denoiser_steps: int = 1600
    denoiser_channels: tuple[str, ...] = ("64", "64", "96")
    patch_size: str = "2"  # of the denoisers of pixels: a quarter of the work
    num_per_class: int = 144  # synthetic pairs: twice the training cases in all
    num_inference_steps: int = 25
    downstream_steps: int = 200
    downstream_width: int = 8
    ratios: tuple[str, ...] = ("0.5", "1", "2")
    models: tuple[str, ...] = ()  # all
    generator_steps: int = 250
    generator_channels: tuple[str, ...] = ("32", "64")
    grid: tuple[str, ...] = ("guidance_scale=0,1,2", "strength=0.4,0.7,1.0", "w2=0.5,1.0", "w3=0.5,1.0")
    sweep_per_class: int = 24
    weight_steps: int = 300  # of the trainings for w2 and w3


def run_experiments(out: Path, sizes: Sizes) -> None:
    """Run what is not done yet.

    Raises:
        ValueError, FileExistsError: see `Stages`.
    """
    out = out.resolve()
    data, model, synthetic = out / "data", out / "model", out / "synthetic"
    stages = Stages(out, "experiments", json.loads(json.dumps(asdict(sizes))))
    size, width = str(sizes.resolution), str(sizes.downstream_width)

    counts = ["--num-normal", str(sizes.num_normal), "--num-lesion", str(sizes.num_lesion)]
    stages.run("phantom", data, lambda: macdm("phantom", str(data), *counts, "--size", size, "--seed", "0"))
    network = ["--train_data_dir", str(data), "--output_dir", str(model), "--resolution", size, "--layers_per_block", "1"]
    network += ["--patch_size", sizes.patch_size, "--no-augment", "--seed", "0"]
    network += ["--resume_from_checkpoint", "latest", "--checkpoints_total_limit", "1"]
    stages.run(
        "guidance classifier",
        model / "guidance_classifier",
        lambda: launch(
            "train_guidance_classifier.py",
            [*network, "--max_train_steps", str(sizes.classifier_steps), "--block_out_channels", *sizes.generator_channels]
            + ["--train_batch_size", "16", "--learning_rate", "1e-3"],
        ),
    )
    stages.run(
        "denoiser",
        model / "model_index.json",
        lambda: launch(
            "train_macdm.py",
            [*network, "--max_train_steps", str(sizes.denoiser_steps), "--block_out_channels", *sizes.denoiser_channels]
            + ["--train_batch_size", "8", "--learning_rate", "1.2e-3", "--task_probabilities", "0.9", "0.05", "0.05"]
            + ["--audit_steps", "0"],  # `macdm sweep` looks for copies
        ),
    )
    stages.run(
        "generate",
        synthetic / "summary.json",
        lambda: macdm(
            *("generate", str(model), str(synthetic), "--num-per-class", str(sizes.num_per_class), "--guidance-scale", "1"),
            *("--num-inference-steps", str(sizes.num_inference_steps), "--batch-size", "48", "--seed", "0"),
        ),
    )
    stages.run(
        "evaluate",
        out / "evaluate" / "evaluation.json",
        lambda: macdm(
            *("evaluate", "--real", str(data), "--synthetic", str(synthetic), "--out", str(out / "evaluate"), "--size", size),
            *("--downstream-steps", str(sizes.downstream_steps), "--downstream-batch-size", "16", "--validate-every", "20"),
            *("--classifier-width", width, "--segmenter-width", width, "--ratios", *sizes.ratios, "--filters", "both"),
        ),
    )
    stages.run(
        "compare",
        out / "compare" / "comparison.json",
        lambda: macdm(
            *("compare", "--real", str(data), "--out", str(out / "compare"), "--size", size),
            *(("--models", *sizes.models) if sizes.models else ()),
            *("--steps", str(sizes.generator_steps), "--block-out-channels", *sizes.generator_channels),
            *("--patch-size", sizes.patch_size, "--layers-per-block", "1", "--learning-rate", "1e-3"),
            *("--num-inference-steps", str(sizes.num_inference_steps), "--embedding-steps", "100"),
            *("--downstream-batch-size", "16", "--validate-every", "20"),
            *("--downstream-steps", str(sizes.downstream_steps), "--classifier-width", width, "--segmenter-width", width),
        ),
    )
    stages.run(
        "sweep",
        out / "sweep" / "sweep.json",
        lambda: macdm(
            *("sweep", str(model), "--real", str(data), "--out", str(out / "sweep"), "--grid", *sizes.grid),
            *("--num-per-class", str(sizes.sweep_per_class), "--downstream-steps", str(sizes.downstream_steps)),
            *("--classifier-width", width, "--segmenter-width", width),
            *("--train-steps", str(sizes.weight_steps), "--train-seeds", "0", "1"),
            *("--learning-rate", "1e-3"),
        ),
    )
    for name, file in (("evaluate", "evaluation"), ("compare", "comparison"), ("sweep", "sweep")):
        result = json.loads((out / name / f"{file}.json").read_text(encoding="utf-8"))
        print(*result["conclusion"], sep="\n")
        print(f"  {out / name}/index.html")
    print(f"{sum(stages.seconds.values()) / 60:.1f} minutes in all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/experiments"))
    with said_in_one_sentence():
        run_experiments(parser.parse_args().output_dir, Sizes())


if __name__ == "__main__":
    main()
