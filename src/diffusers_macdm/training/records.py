"""The record of a run: what was asked for, what came of it, and where it is published."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import torch
from accelerate import Accelerator

from ..files import read_json, refuse_existing, remove_leftovers, write_json
from ..hub import push_model
from ..hub.loading import own_version
from ..hub.publish import create_repository
from ..macdm.joint_sample import MASK_WORDS
from ..provenance import records as provenance
from .settings import RENAMED, ClassifierSettings, DenoiserSettings, TrainingSettings


logger = logging.getLogger("macdm.training")

SETTINGS = {"unet": DenoiserSettings, "guidance_classifier": ClassifierSettings}


def record(settings: TrainingSettings, **facts) -> dict[str, Any]:
    """The resolved configuration of a run as plain data."""
    versions = {package.__name__: package.__version__ for package in (torch, diffusers, accelerate)}
    versions = {"diffusers_macdm": own_version(), **versions}
    arguments = {k: v for k, v in dataclasses.asdict(settings).items() if k not in ("dry_run", "dry_run_file", "hub_token")}
    return {"arguments": arguments, **facts, "versions": versions}


def print_record(settings: TrainingSettings, configuration: dict[str, Any]) -> None:
    """`--dry_run`: a page on stdout, however many processes were launched, and the full record in `--dry_run_file`."""
    if os.environ.get("RANK", "0") != "0":
        return
    if settings.dry_run_file is not None:
        refuse_existing(settings.dry_run_file)
        write_json(settings.dry_run_file, json.loads(json.dumps(configuration, default=str)), indent=2)
    print("\n".join(summary(configuration)))


def summary(configuration: dict[str, Any]) -> list[str]:
    """Return the lines that say what a run would train."""
    arguments, data = configuration["arguments"], configuration["data"]
    lines = [
        f"data: {arguments['train_data_dir'] or arguments['dataset_name']}",
        "cases to train on: " + ", ".join(f"{count} of label {label}" for label, count in data["cases_per_label"].items()),
        f"patients: {data['num_patients'] or 'not named'}",
        f"masks: {' and '.join(MASK_WORDS[mask] for mask in data['masks'])}",
        "splits: " + (", ".join(f"{count} in {name}" for name, count in (data["split_sizes"] or {}).items()) or "not known"),
        f"earlier trainings that are taken over: {len(configuration['earlier_trainings'])}",
    ]
    for name in ("unet", "guidance_classifier"):
        network = configuration.get(name)
        if network is not None:
            size = f"{network['num_parameters'] / 1e6:.2f} M parameters, " if "num_parameters" in network else ""
            channels = ", ".join(map(str, network["block_out_channels"]))
            lines.append(
                f"{name}: {size}{network['sample_size']} px, patches of {network['patch_size']} px, channels {channels}"
            )
    scheduler = configuration["scheduler"]
    lines += [
        f"noise: {scheduler['num_train_timesteps']} levels, {scheduler['beta_schedule']}; prediction: "
        f"{scheduler['prediction_type']}",
        f"updates: {arguments['max_train_steps']} of {arguments['train_batch_size']} x "
        f"{arguments['gradient_accumulation_steps']} cases per process, learning rate {arguments['learning_rate']:g} "
        f"({arguments['lr_scheduler']}, {arguments['lr_warmup_steps']} of warm-up)",
        f"output: {arguments['output_dir']}",
        "Nothing was trained; --dry_run_file PATH keeps the full record.",
    ]
    return lines


def record_of_run(
    network: str, configuration: dict[str, Any], accelerator: Accelerator, resume: Path | None, step: int = 0
) -> dict[str, Any]:
    """Return the record of a run; name the options that a resumed run has otherwise than before.

    Args:
        network: `unet` or `guidance_classifier`.
        configuration: what was asked for.
        resume: the checkpoint that the run goes on from.
        step: of that checkpoint.

    Returns:
        The configuration, `run` (what it ran on), and `history`: of each earlier part of the training that was run otherwise,
        the `arguments`, `run` and `versions`, and `until_step`, where it ended.

    Raises:
        ValueError: when the run that goes on takes another number of cases for an update: which cases these are, and their
            noise, follows from it.
    """
    run = {
        "num_processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "hardware": hardware_name(accelerator.device),
        "precision": accelerator.mixed_precision,
    }
    content = json.loads(json.dumps({**configuration, "run": run, "history": []}, default=str))
    before = record_before(network, resume)
    if resume is not None:
        content["earlier_trainings"] = provenance.earlier_trainings(before, content)
    if before is not None:
        _refuse_other_updates(resume, _options(before, SETTINGS[network]), content["arguments"] | run)
        if changes := changed_options(before, content, SETTINGS[network]):
            logger.warning(f"Resumed with other options than before: {', '.join(changes)}.")
        part = {name: before[name] for name in ("arguments", "run", "versions") if name in before}
        content["history"] = list(before.get("history", []))
        if changes or part.get("versions") != content.get("versions"):
            content["history"].append({"until_step": step, **part})
    return content


def record_before(network: str, resume: Path | None) -> dict[str, Any] | None:
    """Return the record of the run that wrote a checkpoint; None where there is none."""
    path = None if resume is None else provenance.record_of_weights(resume, network)
    return None if path is None else read_json(path, None)


def begin_record(path: Path, content: dict[str, Any], finished: Path) -> None:
    """Write the record of a run that begins, or goes on with its checkpoint loaded.

    Where a finished network stands, its record stays beside it until the new one takes its place.
    """
    remove_leftovers(path.parent)
    if not finished.exists():
        write_json(path, content)


def changed_options(before: dict[str, Any], now: dict[str, Any], settings_class: type[TrainingSettings]) -> list[str]:
    """Return the options that differ between two records of a run, "seed 0 -> 1" each.

    The earlier record may be another version's, whose options have other names or are not there: what it does not say is the
    default, what is not known any more is left out.
    """
    then = _options(before, settings_class)
    after = now["arguments"] | now.get("run", {})
    no_matter = {"resume_from_checkpoint", "output_dir"}
    if _product(then, CASES_OF_A_STEP) == _product(after, CASES_OF_A_STEP):  # shared out otherwise: the same weights
        no_matter.update(CASES_OF_A_STEP)
    names = [name for name in after if name in then and name not in no_matter]
    return [f"{name} {then[name]} -> {after[name]}" for name in names if then[name] != after[name]]


def _options(record: dict[str, Any], settings_class: type[TrainingSettings]) -> dict[str, Any]:
    """Return the options and the `run` of a record, by their names of today."""
    ours = {old.removeprefix("--"): (new,) if isinstance(new, str) else new for old, new in RENAMED.items()}
    said = {
        new.removeprefix("--"): value
        for name, value in record["arguments"].items()
        if value is not None  # which is how an earlier version recorded some options that were not given
        for new in ours.get(name, (name,))
    }
    defaults = json.loads(json.dumps(dataclasses.asdict(settings_class()), default=str))
    return {**defaults, **said, **record.get("run", {})}


CASES_OF_A_STEP = ("train_batch_size", "num_processes")
CASES_OF_AN_UPDATE = (*CASES_OF_A_STEP, "gradient_accumulation_steps")


def _product(options: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """Return how many cases these options give together; None where one of them is not said."""
    numbers = [options.get(name) for name in names]
    return None if None in numbers else math.prod(numbers)


def _refuse_other_updates(checkpoint: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    before, after = (_product(options, CASES_OF_AN_UPDATE) for options in (then, now))
    if None in (before, after) or before == after:
        return
    changed = next(name for name in CASES_OF_AN_UPDATE if then[name] != now[name])
    option = f"--{changed} {now[changed]}" if changed != "num_processes" else f"a run of {now[changed]} processes"
    raise ValueError(
        f"{option} does not fit {checkpoint}, whose updates take {before} cases (train_batch_size {then['train_batch_size']} x "
        f"gradient_accumulation_steps {then['gradient_accumulation_steps']} x {then['num_processes']} processes), and those of "
        f"this run {after}: it would go on at another place among the cases. Give options with the same product."
    )


def keep_classifier_record(source: str | Path, output_dir: Path) -> None:
    """Put the record of a guidance classifier that comes from another folder beside the pipeline that takes it over.

    Without one there, an older record here would speak of other weights: it goes, as these weights do.
    """
    network = "guidance_classifier"
    target = output_dir / provenance.TRAINING_RECORDS[network]
    record = provenance.record_of_weights(source, network)
    if record is None:
        target.unlink(missing_ok=True)
    elif record.resolve() != target.resolve():
        write_json(target, json.loads(record.read_text()))


def prepare_push(settings: TrainingSettings) -> str | None:
    """Name of the repository to push to: created now, so that hours of training do not end at a wrong token."""
    if not settings.push_to_hub:
        return None
    name = settings.hub_model_id or Path(settings.output_dir).resolve().name
    return create_repository(name, private=settings.hub_private_repo, token=settings.hub_token)


def push(settings: TrainingSettings, repo_id: str) -> None:
    """Publish what stands in `--output_dir`; the training is complete there whatever comes of it."""
    try:
        done = push_model(settings.output_dir, repo_id, private=settings.hub_private_repo, token=settings.hub_token)
    except (ValueError, OSError) as error:
        again = f"macdm push {settings.output_dir} {repo_id}" + ("" if settings.hub_private_repo else " --public")
        raise OSError(
            f"the training is complete in {settings.output_dir}, pushing it failed: {error} Push it with `{again}`."
        ) from error
    logger.info(f"Pushed {settings.output_dir} to {done.url}.")


def hardware_name(device: torch.device) -> str:
    """What ran the training, for the record: the GPU's name, or how many cores the CPU has."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {os.cpu_count()} cores"
