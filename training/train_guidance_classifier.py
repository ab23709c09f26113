"""Train the noise-aware guidance classifier `p_phi(y | I_t, t)` of MaC-DM under `accelerate launch`.

    accelerate launch training/train_guidance_classifier.py --train_data_dir data --resolution 128 --patch_size 2 \\
        --output_dir macdm-model

The classifier is written to `--output_dir`/guidance_classifier. Where `--output_dir` holds a trained pipeline, it becomes
that pipeline's component; where it does not yet, `train_macdm.py` with the same `--output_dir` takes it from there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import training_utils
from diffusers_macdm import GuidanceClassifier, MaCDMUNet2DModel
from diffusers_macdm.macdm.forward_process import TASKS, ForwardProcess, draw_timesteps
from diffusers_macdm.macdm.joint_sample import CHANNELS
from diffusers_macdm.macdm.training_losses import ClassificationLoss
from training_utils import by_quartile, logger, replace_folder, write_json


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = training_utils.argument_parser(__doc__.splitlines()[0], max_train_steps=5000, learning_rate=3e-4)
    parser.set_defaults(block_out_channels=[32, 64, 128], layers_per_block=1, use_ema=False, adam_weight_decay=0.05)
    return parser.parse_args(argv)


def build_classifier(args: argparse.Namespace, num_classes: int) -> GuidanceClassifier:
    return GuidanceClassifier(**training_utils.network_arguments(args), in_channels=len(CHANNELS), num_classes=num_classes)


def classification_loss(args: argparse.Namespace, process: ForwardProcess, config):
    """`loss(classifier, batch)` -> loss and values to log, as `training_utils.train` takes it."""
    loss = ClassificationLoss(process, config, tuple(args.task_probabilities))

    def with_values(classifier, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        terms = loss(classifier, batch)
        values = {"accuracy": terms.accuracy}
        values |= by_quartile("accuracy", terms.accuracy, terms.level, process.num_timesteps)
        values |= by_quartile("cross_entropy", terms.cross_entropy, terms.level, process.num_timesteps)
        return terms.total, values

    return with_values


def check_against_pipeline(args: argparse.Namespace, classifier: GuidanceClassifier) -> None:
    """Refuse to become part of a pipeline whose denoiser is fed otherwise."""
    output_dir = Path(args.output_dir)
    if not (output_dir / "model_index.json").is_file():
        return
    theirs = MaCDMUNet2DModel.load_config(output_dir / "unet")
    for name in ("sample_size", "channel_weights", "mask_weighting"):
        their, our = theirs[name], classifier.config[name]
        if (list(our) if name == "channel_weights" else our) != their:
            raise ValueError(
                f"The denoiser in {output_dir} was trained with {name}={their}, this run has {our}: both must be fed alike."
            )
    if theirs["num_class_embeds"] != classifier.config.num_classes + 1:
        raise ValueError(
            f"The denoiser in {output_dir} knows {theirs['num_class_embeds'] - 1} classes, the data have "
            f"{classifier.config.num_classes}."
        )
    training_utils.check_same_process(args, output_dir / "scheduler" / "scheduler_config.json")


def add_to_pipeline(output_dir: Path) -> None:
    """Name the classifier in the pipeline's `model_index.json`, if there is a pipeline."""
    path = output_dir / "model_index.json"
    if path.is_file():
        index = json.loads(path.read_text())
        index["guidance_classifier"] = ["macdm", GuidanceClassifier.__name__]
        write_json(path, index)


def resolve(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the run depends on, as plain data: the arguments, the data, the network."""
    training_utils.check_arguments(args)
    if args.push_to_hub and not (Path(args.output_dir) / "model_index.json").is_file():
        raise ValueError(
            f"--push_to_hub publishes a whole pipeline, and there is none in {args.output_dir} yet: give it to "
            "train_macdm.py, which puts this classifier into its pipeline."
        )
    draw_timesteps(1, args.ddpm_num_steps, args.task_probabilities)
    dataset = training_utils.load_training_data(args)
    training_utils.set_seed(args.seed)
    classifier = build_classifier(args, dataset.num_classes)
    check_against_pipeline(args, classifier)
    configuration = training_utils.record(
        args,
        data=training_utils.describe_data(dataset),
        earlier_trainings=training_utils.earlier_trainings(args, dataset),
        tasks=dict(zip(TASKS, args.task_probabilities, strict=True)),
        guidance_classifier={**classifier.config, "num_parameters": classifier.num_parameters()},
        scheduler=dict(training_utils.training_scheduler(args).config),
    )
    return {"configuration": configuration, "dataset": dataset, "classifier": classifier}


def main() -> None:
    args = parse_args()
    resolved = resolve(args)
    configuration, dataset, classifier = resolved["configuration"], resolved["dataset"], resolved["classifier"]
    if args.dry_run:
        training_utils.print_record(configuration)
        return
    output_dir = Path(args.output_dir)
    checkpoints = output_dir / "guidance_classifier_checkpoints"
    accelerator = training_utils.start(args)
    resume = training_utils.prepare_output(args, output_dir / "guidance_classifier", checkpoints)
    repository = training_utils.prepare_push(args, accelerator)
    accelerator.wait_for_everyone()
    training_utils.write_record(output_dir / "guidance_classifier_training_config.json", configuration, accelerator, resume)
    counts = configuration["data"]["cases_per_label"]
    millions = classifier.num_parameters() / 1e6
    logger.info(f"{len(dataset)} cases {counts}, {millions:.2f} M parameters, on {accelerator.device}.")

    process = ForwardProcess.from_scheduler(training_utils.training_scheduler(args)).to(accelerator.device)
    classifier, ema = training_utils.train(
        args,
        accelerator,
        classifier,
        dataset,
        classification_loss(args, process, classifier.config),
        checkpoints=checkpoints,
        log_path=output_dir / "guidance_classifier_training_log.jsonl",
        resume=resume,
        configuration=configuration,
    )
    if accelerator.is_main_process:
        if ema is not None:
            ema.copy_to(classifier.parameters())
        temporary = output_dir / "guidance_classifier.tmp"
        classifier.save_pretrained(temporary)
        training_utils.training_scheduler(args).save_config(temporary)  # the noise it was trained on
        replace_folder(temporary, output_dir / "guidance_classifier")
        add_to_pipeline(output_dir)
        logger.info(f"Saved the classifier to {output_dir / 'guidance_classifier'}.")
        if repository is not None:
            training_utils.push(args, repository)
    accelerator.end_training()


if __name__ == "__main__":
    training_utils.run_script(main)
