"""Train the noise-aware guidance classifier `p_phi(y | I_t, t)` of MaC-DM under `accelerate launch`.

    accelerate launch -m diffusers_macdm.training.classifier --train_data_dir data --resolution 128 --patch_size 2 \\
        --output_dir macdm-model

The classifier is written to `--output_dir`/guidance_classifier. Where `--output_dir` holds a trained pipeline, it becomes
that pipeline's component; where it does not yet, the denoiser's training with the same `--output_dir` takes it from there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed

from ..files import new_folder, write_json
from ..macdm import GuidanceClassifier, MaCDMUNet2DModel
from ..macdm.forward_process import TASKS, ForwardProcess
from ..macdm.training_losses import ClassificationLoss
from .averages import by_quartile
from .checkpoints import prepare_output
from .data import describe_data, earlier_trainings, load_training_data
from .loop import parse_settings, run_script, start, train
from .networks import build_classifier, check_same_process, training_scheduler
from .records import prepare_push, print_record, push, record, write_record
from .settings import ClassifierSettings


logger = logging.getLogger("macdm.training")


def classification_loss(settings: ClassifierSettings, process: ForwardProcess, config):
    """`loss(classifier, batch)` -> loss and values to log, as `train` takes it."""
    loss = ClassificationLoss(process, config, tuple(settings.task_probabilities))

    def with_values(classifier, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        terms = loss(classifier, batch)
        values = {"accuracy": terms.accuracy}
        values |= by_quartile("accuracy", terms.accuracy, terms.level, process.num_timesteps)
        values |= by_quartile("cross_entropy", terms.cross_entropy, terms.level, process.num_timesteps)
        return terms.total, values

    return with_values


def check_against_pipeline(settings: ClassifierSettings, classifier: GuidanceClassifier) -> None:
    """Refuse to become part of a pipeline whose denoiser is fed otherwise."""
    output_dir = Path(settings.output_dir)
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
    check_same_process(settings, output_dir / "scheduler" / "scheduler_config.json")


def add_to_pipeline(output_dir: Path) -> None:
    """Name the classifier in the pipeline's `model_index.json`, if there is a pipeline."""
    path = output_dir / "model_index.json"
    if path.is_file():
        index = json.loads(path.read_text())
        index["guidance_classifier"] = ["macdm", GuidanceClassifier.__name__]
        write_json(path, index)


def resolve(settings: ClassifierSettings) -> dict[str, Any]:
    """Everything that the run depends on, as plain data: the arguments, the data, the network."""
    settings.check()
    dataset = load_training_data(settings)
    set_seed(settings.seed)
    classifier = build_classifier(settings, dataset.num_classes)
    check_against_pipeline(settings, classifier)
    configuration = record(
        settings,
        data=describe_data(dataset),
        earlier_trainings=earlier_trainings(settings, dataset),
        tasks=dict(zip(TASKS, settings.task_probabilities, strict=False)),  # the last may be left out
        guidance_classifier={**classifier.config, "num_parameters": classifier.num_parameters()},
        scheduler=dict(training_scheduler(settings).config),
    )
    return {"configuration": configuration, "dataset": dataset, "classifier": classifier}


def main(argv: Sequence[str] | None = None) -> None:
    """Train the guidance classifier that the options ask for (those of the process when None)."""
    settings = parse_settings(ClassifierSettings, argv)
    resolved = resolve(settings)
    configuration, dataset, classifier = resolved["configuration"], resolved["dataset"], resolved["classifier"]
    if settings.dry_run:
        print_record(settings, configuration)
        return
    output_dir = Path(settings.output_dir)
    checkpoints = output_dir / "guidance_classifier_checkpoints"
    accelerator = start(settings)
    resume = prepare_output(settings, output_dir / "guidance_classifier", checkpoints)
    repository = prepare_push(settings, accelerator)
    accelerator.wait_for_everyone()
    write_record(output_dir / "guidance_classifier_training_config.json", configuration, accelerator, resume)
    counts = configuration["data"]["cases_per_label"]
    millions = classifier.num_parameters() / 1e6
    logger.info(f"{len(dataset)} cases {counts}, {millions:.2f} M parameters, on {accelerator.device}.")

    process = ForwardProcess.from_scheduler(training_scheduler(settings)).to(accelerator.device)
    classifier, ema = train(
        settings,
        accelerator,
        classifier,
        dataset,
        classification_loss(settings, process, classifier.config),
        checkpoints=checkpoints,
        log_path=output_dir / "guidance_classifier_training_log.jsonl",
        resume=resume,
        configuration=configuration,
    )
    if accelerator.is_main_process:
        if ema is not None:
            ema.copy_to(classifier.parameters())
        with new_folder(output_dir / "guidance_classifier") as folder:
            classifier.save_pretrained(folder)
            training_scheduler(settings).save_config(folder)  # the noise it was trained on
        add_to_pipeline(output_dir)
        logger.info(f"Saved the classifier to {output_dir / 'guidance_classifier'}.")
        if repository is not None:
            push(settings, repository)
    accelerator.end_training()


if __name__ == "__main__":
    run_script(main)
