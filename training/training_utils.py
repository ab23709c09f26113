"""What the two training scripts share: options, the data, the loop with exact resume, checkpoints, logs.

Everything random in a step is a function of (seed, micro-step, process): which cases are drawn and how they are augmented
(`StepBatchSampler`), and the noise, timesteps and dropout (`seed_step`). A checkpoint therefore needs no random state, and a
resumed run gives the same weights as an uninterrupted one.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, set_seed
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

import diffusers_macdm
from diffusers_macdm.data.augmentation import AUGMENTATION_DIM, PairAugmentation
from diffusers_macdm.data.dataset import UNLABELED, PairDataset
from diffusers_macdm.data.loading import load_pairs
from diffusers_macdm.data.sampler import BALANCES, StepBatchSampler
from diffusers_macdm.hub import publish as hub
from diffusers_macdm.macdm.joint_sample import CHANNELS, MASK_WEIGHTINGS
from diffusers_macdm.provenance import records as provenance


logger = logging.getLogger("macdm.training")

# Those of diffusers' get_scheduler that need nothing but the numbers of warm-up and training steps.
LR_SCHEDULERS = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")


# ------------------------------------------------------------------------------------------------------------- options


def argument_parser(description: str, *, max_train_steps: int, learning_rate: float) -> argparse.ArgumentParser:
    """The options that both scripts have, with the names of diffusers' `train_unconditional.py`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--train_data_dir", help="Folder in the project's layout (train/metadata.jsonl and so on).")
    data.add_argument("--dataset_name", help="Data set of the Hub with the same columns, instead of --train_data_dir.")
    data.add_argument("--dataset_config_name", help="Configuration of --dataset_name.")
    data.add_argument("--cache_dir", help="Where `datasets` keeps what it has read.")
    data.add_argument("--resolution", type=int, default=64, help="Side of the joint sample, in pixels.")
    data.add_argument(
        "--samples_per_class",
        type=int,
        nargs="+",
        help="Train on this many cases of class 0, 1, ... alone, drawn by --seed (default: all).",
    )
    data.add_argument("--balance", choices=BALANCES, default="class", help="Draw the classes equally often, or not.")
    data.add_argument("--dataloader_num_workers", type=int, default=0, help="Processes that read ahead.")
    augmentation = PairAugmentation()
    data.add_argument("--augment", action=argparse.BooleanOptionalAction, default=True, help="Paired augmentation.")
    data.add_argument("--horizontal_flip", action="store_true", help="Mirror half of the cases: off unless asked for.")
    for name in ("rotation_degrees", "translation", "scale", "brightness", "contrast", "gamma"):
        data.add_argument(f"--{name}", type=float, default=getattr(augmentation, name), help="Augmentation limit.")
    data.add_argument("--augmentation_probability", type=float, default=augmentation.probability, help="Of each parameter.")

    model = parser.add_argument_group("model")
    model.add_argument("--block_out_channels", type=int, nargs="+", default=[64, 128, 256, 256])
    model.add_argument("--layers_per_block", type=int, default=2)
    model.add_argument("--attention_levels", type=int, default=1, help="Lowest resolutions that have self-attention.")
    model.add_argument("--attention_head_dim", type=int, default=32)
    # Not 32, diffusers' default: with 32 channels that is an instance norm, which takes the brightness away.
    model.add_argument("--norm_num_groups", type=int, default=8)
    model.add_argument("--resnet_time_scale_shift", choices=["default", "scale_shift"], default="scale_shift")
    model.add_argument("--dropout", type=float, default=0.0)
    model.add_argument("--patch_size", type=int, default=1, help="Patches become channels: p^2 times less work.")
    model.add_argument(
        "--channel_weights", type=float, nargs=len(CHANNELS), default=[1.0] * len(CHANNELS), metavar=("W1", "W2", "W3")
    )
    model.add_argument("--mask_weighting", choices=MASK_WEIGHTINGS, default="input", help="Where the weights act.")
    model.add_argument(
        "--task_probabilities",
        type=float,
        nargs=3,
        default=[0.7, 0.15, 0.15],
        metavar=("PAIRS", "MASKS_TO_IMAGE", "IMAGE_TO_MASKS"),
        help="Share of the training samples that practise each use.",
    )
    model.add_argument("--ddpm_num_steps", type=int, default=1000, help="Number T of training timesteps.")
    model.add_argument("--ddpm_beta_schedule", default="linear", choices=["linear", "scaled_linear", "squaredcos_cap_v2"])

    optimisation = parser.add_argument_group("optimisation")
    optimisation.add_argument("--train_batch_size", type=int, default=16, help="Per process and micro-step.")
    optimisation.add_argument("--gradient_accumulation_steps", type=int, default=1)
    optimisation.add_argument("--max_train_steps", type=int, default=max_train_steps, help="Number of weight updates.")
    optimisation.add_argument("--learning_rate", type=float, default=learning_rate)
    optimisation.add_argument("--lr_scheduler", choices=LR_SCHEDULERS, default="cosine")
    optimisation.add_argument("--lr_warmup_steps", type=int, default=100)
    optimisation.add_argument("--adam_beta1", type=float, default=0.9)
    optimisation.add_argument("--adam_beta2", type=float, default=0.99)
    optimisation.add_argument("--adam_weight_decay", type=float, default=0.01)
    optimisation.add_argument("--adam_epsilon", type=float, default=1e-8)
    optimisation.add_argument("--max_grad_norm", type=float, default=1.0)
    optimisation.add_argument(
        "--mixed_precision", choices=["no", "fp16", "bf16"], help="Default: that of `accelerate launch` or its configuration."
    )
    optimisation.add_argument("--use_ema", action=argparse.BooleanOptionalAction, default=True)
    optimisation.add_argument("--ema_inv_gamma", type=float, default=1.0)
    optimisation.add_argument("--ema_power", type=float, default=0.75)
    optimisation.add_argument("--ema_max_decay", type=float, default=0.9999)

    run = parser.add_argument_group("run")
    run.add_argument("--output_dir", default="macdm-model", help="Ends as a folder that from_pretrained loads.")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--logging_dir", default="logs", help="Of the tracker, inside --output_dir.")
    run.add_argument("--logging_steps", type=int, default=50)
    run.add_argument("--report_to", default="tensorboard", help="A tracker of accelerate, or 'none'.")
    run.add_argument("--checkpointing_steps", type=int, default=500)
    run.add_argument("--checkpoints_total_limit", type=int, help="Delete the oldest checkpoints beyond this number.")
    run.add_argument("--resume_from_checkpoint", help="A checkpoint's path, or 'latest'.")
    run.add_argument("--dry_run", action="store_true", help="Print the resolved configuration as JSON and end.")

    publishing = parser.add_argument_group("Hub")
    publishing.add_argument("--push_to_hub", action="store_true", help="Publish the trained pipeline, as `macdm push` does.")
    publishing.add_argument("--hub_model_id", help="Its repository (default: the name of --output_dir, in your namespace).")
    publishing.add_argument("--hub_token", help="Default: that of `hf auth login` or HF_TOKEN. It is recorded nowhere.")
    publishing.add_argument(
        "--hub_private_repo", action=argparse.BooleanOptionalAction, default=True, help="A public repository is refused."
    )
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Raise `ValueError` for options that no later step would refuse by name."""
    if (args.train_data_dir is None) == (args.dataset_name is None):
        raise ValueError("Give the data by either --train_data_dir or --dataset_name.")
    positive = ("resolution", "train_batch_size", "gradient_accumulation_steps", "max_train_steps", "learning_rate")
    positive += ("logging_steps", "checkpointing_steps", "layers_per_block", "patch_size", "max_grad_norm", "ddpm_num_steps")
    positive += ("attention_head_dim", "norm_num_groups")
    for name in positive:
        if not getattr(args, name) > 0:
            raise ValueError(f"--{name} {getattr(args, name)} is not allowed: it must be greater than 0.")
    for name in ("seed", "lr_warmup_steps", "dataloader_num_workers", "attention_levels"):
        if getattr(args, name) < 0:
            raise ValueError(f"--{name} {getattr(args, name)} is not allowed: it must be 0 or more.")
    for name in ("dropout", "adam_beta1", "adam_beta2"):
        if not 0 <= getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)} is not allowed: it must be at least 0 and below 1.")
    for count in args.samples_per_class or []:
        if count < 0:
            raise ValueError(f"--samples_per_class {count} is not allowed: it must be 0 or more.")
    if args.hub_model_id is not None and not args.push_to_hub:
        raise ValueError(f"--hub_model_id {args.hub_model_id} has no effect without --push_to_hub.")
    if args.checkpoints_total_limit is not None and args.checkpoints_total_limit < 1:
        raise ValueError(f"--checkpoints_total_limit {args.checkpoints_total_limit} is not allowed: at least 1.")
    multiple = args.patch_size * 2 ** (len(args.block_out_channels) - 1)
    if args.resolution % multiple:
        raise ValueError(
            f"--resolution {args.resolution} is not allowed: with --patch_size {args.patch_size} and "
            f"{len(args.block_out_channels)} block_out_channels it must be a multiple of {multiple}."
        )
    for channels in args.block_out_channels:
        if channels % args.norm_num_groups:
            raise ValueError(
                f"--block_out_channels {channels} is not allowed: each must be a multiple of --norm_num_groups "
                f"{args.norm_num_groups}."
            )


def network_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What the denoiser and the classifier are built alike with."""
    levels = len(args.block_out_channels)
    has_attention = [level >= levels - args.attention_levels for level in range(levels)]
    return {
        "sample_size": args.resolution,
        "block_out_channels": tuple(args.block_out_channels),
        "down_block_types": tuple("AttnDownBlock2D" if attention else "DownBlock2D" for attention in has_attention),
        "layers_per_block": args.layers_per_block,
        "attention_head_dim": args.attention_head_dim,
        "norm_num_groups": args.norm_num_groups,
        "resnet_time_scale_shift": args.resnet_time_scale_shift,
        "dropout": args.dropout,
        "channel_weights": tuple(args.channel_weights),
        "mask_weighting": args.mask_weighting,
        "mask_timestep": True,
        "patch_size": args.patch_size,
    }


def training_scheduler(args: argparse.Namespace, prediction_type: str = "epsilon") -> DDPMScheduler:
    """The process that is trained, with the settings that sampling starts from."""
    largest = max(args.channel_weights) if args.mask_weighting == "signal" else 1.0
    return DDPMScheduler(
        num_train_timesteps=args.ddpm_num_steps,
        beta_schedule=args.ddpm_beta_schedule,
        prediction_type=prediction_type,
        variance_type="learned_range",
        clip_sample_range=largest,
        timestep_spacing="trailing",  # sampling starts at the noisiest level whatever the number of steps
    )


def check_same_process(args: argparse.Namespace, scheduler_config: Path) -> None:
    """Raise `ValueError` where this file records another noise schedule than that of this run."""
    theirs = json.loads(scheduler_config.read_text()) if scheduler_config.is_file() else {}
    for option, name in {"ddpm_num_steps": "num_train_timesteps", "ddpm_beta_schedule": "beta_schedule"}.items():
        ours = getattr(args, option)
        if theirs.get(name, ours) != ours:
            raise ValueError(
                f"{scheduler_config} records training with --{option} {theirs[name]}, this run has {ours}: denoiser and "
                "guidance classifier must see the same noise."
            )


# ---------------------------------------------------------------------------------------------------------------- data


def load_training_data(args: argparse.Namespace) -> PairDataset:
    """The train split as joint samples, restricted to `--samples_per_class`."""
    pairs = load_pairs(args.train_data_dir or args.dataset_name, "train", args.dataset_config_name, args.cache_dir)
    if args.samples_per_class is not None:
        labels = np.array([UNLABELED if label is None else label for label in pairs["label"]])
        chosen = []
        for label, count in enumerate(args.samples_per_class):
            members = np.flatnonzero(labels == label)
            if count > len(members):
                raise ValueError(f"--samples_per_class asks for {count} cases of class {label}; there are {len(members)}.")
            chosen.append(np.random.default_rng([args.seed, label]).permutation(members)[:count])
        pairs = pairs.select(np.sort(np.concatenate(chosen)))
    augmentation = None
    if args.augment:
        augmentation = PairAugmentation(
            horizontal_flip=args.horizontal_flip,
            rotation_degrees=args.rotation_degrees,
            translation=args.translation,
            scale=args.scale,
            brightness=args.brightness,
            contrast=args.contrast,
            gamma=args.gamma,
            probability=args.augmentation_probability,
        )
    dataset = PairDataset(pairs, args.resolution, augmentation, null_label="num_classes")
    known = {label for label in dataset.labels if label < dataset.num_classes}
    if len(known) < 2:
        raise ValueError(
            f"The cases to train on have {f'the single class label {min(known)}' if known else 'no class label'}; the "
            "labels must name at least two classes (0 normal, 1 lesion)."
        )
    return dataset


def describe_data(dataset: PairDataset) -> dict[str, Any]:
    """The facts about the training data that go into the record of the run."""
    labels, counts = np.unique(dataset.labels, return_counts=True)
    names = ["none" if label == dataset.num_classes else str(label) for label in labels]
    patients = {str(patient) for patient in dataset.patient_ids if patient is not None}
    # Decodes every case, which the first epoch would do otherwise.
    digests = [dataset.image_sha256(index) for index in tqdm(range(len(dataset)), desc="read", unit="case", disable=None)]
    return {
        "num_cases": len(dataset),
        "cases_per_label": dict(zip(names, counts.tolist(), strict=True)),
        "num_patients": len(patients) or None,
        # Of the whole set: what was held back, and what --samples_per_class left out.
        "split_sizes": {name: split.num_examples for name, split in (dataset.pairs.info.splits or {}).items()} or None,
        "cases": sorted(dataset.names),
        # For the leak guard (diffusers_macdm.provenance).
        "patients": sorted(patients),
        "image_sha256": dict(sorted(zip(dataset.names, digests, strict=True))),
    }


def earlier_trainings(args: argparse.Namespace, dataset: PairDataset) -> list[dict[str, Any] | None]:
    """Trainings whose cases this one takes over: those of pretrained weights, and those behind synthetic training data."""
    trainings = provenance.trainings_of_data(args.train_data_dir or args.dataset_name, dataset.pairs)
    if getattr(args, "pretrained_unet", None):
        trainings += provenance.trainings_of_weights(args.pretrained_unet, "unet")
    return [None if training is None else training.to_dict() for training in trainings]


def augmentation_dim(dataset: PairDataset) -> int:
    return AUGMENTATION_DIM if dataset.augmentation is not None else 0


# ----------------------------------------------------------------------------------------------------------------- run


def start(args: argparse.Namespace) -> Accelerator:
    """The accelerator, with console logging on the main process and a seed for the initial weights."""
    accelerator = Accelerator(
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        mixed_precision=args.mixed_precision,
        log_with=None if args.report_to == "none" else args.report_to,
        # Of several processes all but the main one wait while it samples and audits: longer than NCCL's 10 minutes, perhaps.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=4))],
        project_config=ProjectConfiguration(project_dir=args.output_dir, logging_dir=f"{args.output_dir}/{args.logging_dir}"),
    )
    if args.report_to != "none" and not accelerator.log_with:
        raise ValueError(f"--report_to {args.report_to}: the package of this tracker is not installed.")
    level = logging.INFO if accelerator.is_main_process else logging.ERROR
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logger.setLevel(level)
    set_seed(args.seed)
    return accelerator


def prepare_output(args: argparse.Namespace, finished: Path, checkpoints: Path) -> Path | None:
    """Refuse to overwrite an earlier run; find the checkpoint to resume from.

    Args:
        finished: what stands in `--output_dir` once the run is complete.
        checkpoints: the folder of its checkpoints.

    Returns:
        The checkpoint, or None to start afresh.
    """
    present = list_checkpoints(checkpoints)
    resume = None
    if args.resume_from_checkpoint == "latest":
        resume = present[-1] if present else None
    elif args.resume_from_checkpoint is not None:
        resume = Path(args.resume_from_checkpoint)
        if not (resume / "progress.json").is_file():
            raise FileNotFoundError(f"--resume_from_checkpoint {resume}: there is no complete checkpoint in this folder.")
    if resume is None or resume.resolve().parent != checkpoints.resolve():  # not the run that is in --output_dir
        for path in [finished, *present]:
            if path.exists():
                raise FileExistsError(
                    f"{path} is the result of an earlier run: choose another --output_dir, or continue that run with "
                    "--resume_from_checkpoint latest."
                )
    if resume is None and args.resume_from_checkpoint is not None:
        logger.warning(f"There is no checkpoint in {checkpoints} yet: starting from the beginning.")
    return resume


def checkpoint_step(checkpoint: Path) -> int:
    """Number of updates that were done when the checkpoint was written."""
    return json.loads((checkpoint / "progress.json").read_text())["step"]


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first. They appear by a rename, so each is complete; left-over ones end in .tmp."""
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def replace_folder(temporary: Path, target: Path) -> None:
    """Move a complete folder into the place of `target`."""
    old = target.with_name(target.name + ".old.tmp")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(temporary, target)
    shutil.rmtree(old, ignore_errors=True)


def record(args: argparse.Namespace, **facts) -> dict[str, Any]:
    """The resolved configuration of a run as plain data."""
    packages = (diffusers_macdm, torch, diffusers, accelerate)
    versions = {package.__name__: package.__version__ for package in packages}
    arguments = {k: v for k, v in vars(args).items() if k not in ("dry_run", "hub_token")}
    return {"arguments": arguments, **facts, "versions": versions}


def print_record(configuration: dict[str, Any]) -> None:
    """`--dry_run`: one JSON object on stdout, however many processes were launched."""
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(configuration, indent=2, default=str))


def write_record(path: Path, configuration: dict[str, Any], accelerator: Accelerator, resume: Path | None) -> None:
    """Write the record of a run, on the main process; name the options that a resumed run has otherwise than before."""
    if not accelerator.is_main_process:
        return
    run = {
        "num_processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "hardware": hardware_name(accelerator.device),
        "precision": accelerator.mixed_precision,
    }
    content = json.loads(json.dumps({**configuration, "run": run}, default=str))
    if resume is not None:
        network = {name: network for network, name in provenance.TRAINING_RECORDS.items()}[path.name]
        resumed = provenance.record_of_weights(resume, network)
        before = None if resumed is None else json.loads(resumed.read_text())
        content["earlier_trainings"] = provenance.earlier_trainings(before, content)
    if resume is not None and path.is_file():
        before, now = (x["arguments"] | x.get("run", {}) for x in (json.loads(path.read_text()), content))
        changes = [f"{k} {before.get(k)} -> {v}" for k, v in now.items() if before.get(k) != v]
        changes = [change for change in changes if not change.startswith("resume_from_checkpoint ")]
        if changes:
            logger.warning(f"Resumed with other options than before: {', '.join(changes)}.")
    write_json(path, content)


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


def prepare_push(args: argparse.Namespace, accelerator: Accelerator) -> str | None:
    """Name of the repository to push to, on the main process: created now, so that hours of training do not end at a wrong
    token."""
    if not args.push_to_hub or not accelerator.is_main_process:
        return None
    name = args.hub_model_id or Path(args.output_dir).resolve().name
    return hub.create_repository(name, private=args.hub_private_repo, token=args.hub_token)


def push(args: argparse.Namespace, repo_id: str) -> None:
    """Publish what stands in `--output_dir`; the training is complete there whatever comes of it."""
    try:
        done = hub.push_model(args.output_dir, repo_id, private=args.hub_private_repo, token=args.hub_token)
    except (ValueError, OSError) as error:
        again = f"macdm push {args.output_dir} {repo_id}" + ("" if args.hub_private_repo else " --public")
        raise OSError(
            f"the training is complete in {args.output_dir}, pushing it failed: {error} Push it with `{again}`."
        ) from error
    logger.info(f"Pushed {args.output_dir} to {done.url}.")


def hardware_name(device: torch.device) -> str:
    """What ran the training, for the record: the GPU's name, or how many cores the CPU has."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {os.cpu_count()} cores"


def seed_step(seed: int, micro_step: int, process_index: int) -> None:
    """Make everything random in a micro-step (noise, timesteps, label dropout, dropout) a function of its number."""
    torch.manual_seed(int(np.random.SeedSequence([seed, micro_step, process_index]).generate_state(1, np.uint64)[0] >> 1))


class Averages:
    """Running means by name of values that may be NaN ("does not apply"), over all processes, until they are read.

    The sums stay on the device: adding does not wait for it."""

    def __init__(self):
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().float()
            sum_and_count = torch.stack([value.nansum(), (~value.isnan()).sum().float()])  # [2]
            self._sums[name] = self._sums[name] + sum_and_count if name in self._sums else sum_and_count

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        names = sorted(self._sums)
        sums = accelerator.reduce(torch.stack([self._sums[name] for name in names]), reduction="sum")  # [N, 2]
        self._sums.clear()
        return {name: total / count for name, (total, count) in zip(names, sums.tolist(), strict=True) if count}


def by_quartile(name: str, values: torch.Tensor, timesteps: torch.Tensor, num_timesteps: int) -> dict[str, torch.Tensor]:
    """Split `values` by the quartile of their timestep: `name/q0` (nearly clean) to `name/q3` (nearly noise)."""
    quartile = timesteps * 4 // num_timesteps
    return {f"{name}/q{q}": values.masked_fill(quartile != q, math.nan) for q in range(4)}


def train(
    args: argparse.Namespace,
    accelerator: Accelerator,
    model: torch.nn.Module,
    dataset: PairDataset,
    loss_of: Callable[[torch.nn.Module, dict[str, torch.Tensor]], tuple[torch.Tensor, dict[str, torch.Tensor]]],
    *,
    checkpoints: Path,
    log_path: Path,
    resume: Path | None,
    configuration: dict[str, Any],
    after_step: Callable[[int, torch.nn.Module, EMAModel | None], bool] | None = None,
) -> tuple[torch.nn.Module, EMAModel | None]:
    """Train `model` for `--max_train_steps` updates, from `resume` on; return it (unwrapped) and its moving average.

    Args:
        loss_of: `loss_of(model, batch)` -> scalar loss and values to log (NaN where one does not apply); everything random
            in it comes from torch's global generator, which is seeded for each micro-step.
        checkpoints: folder for `checkpoint-<step>`.
        log_path: JSON lines, one for every `--logging_steps` and every checkpoint: the means since the line before.
        after_step: called on all processes after each update with its number, the unwrapped model and the average. True, the
            same on all of them, ends the training here, without a checkpoint: a run resumed before comes to the same end.
    """
    name = type(model).__name__
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        weight_decay=args.adam_weight_decay,
        eps=args.adam_epsilon,
    )
    # Not prepared: accelerate would step it once for each process. It counts updates here, whatever their batch.
    lr_scheduler = get_scheduler(
        args.lr_scheduler,
        optimizer,
        num_warmup_steps=args.lr_warmup_steps,
        num_training_steps=args.max_train_steps,
    )
    ema = None
    if args.use_ema:
        ema = EMAModel(
            model.parameters(),
            decay=args.ema_max_decay,
            use_ema_warmup=True,
            inv_gamma=args.ema_inv_gamma,
            power=args.ema_power,
            model_cls=type(model),
            model_config=model.config,
        )
        ema.to(accelerator.device)

    def save_hook(models, weights, output_dir):
        if accelerator.is_main_process:
            for wrapped in models:
                accelerator.unwrap_model(wrapped).save_pretrained(Path(output_dir) / "model")
            if ema is not None:
                ema.save_pretrained(Path(output_dir) / "model_ema")
        weights.clear()

    def load_hook(models, input_dir):
        while models:
            loaded = type(model).from_pretrained(Path(input_dir) / "model")
            accelerator.unwrap_model(models.pop()).load_state_dict(loaded.state_dict())
        if ema is not None:
            ema.load_state_dict(EMAModel.from_pretrained(Path(input_dir) / "model_ema", type(model)).state_dict())
            ema.to(accelerator.device)

    accelerator.register_save_state_pre_hook(save_hook)
    accelerator.register_load_state_pre_hook(load_hook)
    accelerator.register_for_checkpointing(lr_scheduler)
    wrapped, optimizer = accelerator.prepare(model, optimizer)

    step = 0
    if resume is not None:
        step = checkpoint_step(resume)
        accelerator.load_state(str(resume))
        accelerator.step = 0  # its count of micro-steps: a checkpoint lies between two updates
        logger.info(f"Resumed {name} from {resume} at step {step}.")
    if accelerator.is_main_process:
        truncate_log(log_path, step)
        for left_over in checkpoints.glob("checkpoint-*.tmp"):
            shutil.rmtree(left_over)
    if accelerator.trackers == [] and args.report_to != "none":
        plain = {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in configuration["arguments"].items()}
        accelerator.init_trackers(name, config=plain)

    accumulation = args.gradient_accumulation_steps
    sampler = StepBatchSampler(
        dataset.labels,
        args.train_batch_size,
        num_steps=args.max_train_steps * accumulation,
        seed=args.seed,
        start_step=step * accumulation,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
        balance=args.balance,
    )
    batches = torch.utils.data.DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=args.dataloader_num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    averages = Averages()
    progress = tqdm(total=args.max_train_steps, initial=step, desc=name, disable=not accelerator.is_local_main_process)
    wrapped.train()
    logged_step, logged_time = step, time.monotonic()
    for micro_step, batch in enumerate(batches, start=step * accumulation):
        batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}
        seed_step(args.seed, micro_step, accelerator.process_index)
        with accelerator.accumulate(wrapped):
            loss, values = loss_of(wrapped, batch)
            accelerator.backward(loss)
            # NaN means "does not apply" to the averages; here it is a failure and must not be left out.
            averages.add({**values, "loss": loss.detach().nan_to_num(math.inf, math.inf, -math.inf)})
            if accelerator.sync_gradients:
                gradient_norm = accelerator.clip_grad_norm_(wrapped.parameters(), args.max_grad_norm)
                averages.add({"gradient_norm": torch.as_tensor(gradient_norm, device=accelerator.device)})
            optimizer.step()
            optimizer.zero_grad()
        if not accelerator.sync_gradients:
            continue
        lr_scheduler.step()
        if ema is not None:
            ema.step(model.parameters())
        step += 1
        progress.update()

        is_checkpoint = step % args.checkpointing_steps == 0 or step == args.max_train_steps
        # Each checkpoint is logged as well: no broken weights are kept, and no average reaches across a place to resume.
        if step % args.logging_steps == 0 or is_checkpoint:
            logs = {**averages.read(accelerator), "learning_rate": lr_scheduler.get_last_lr()[0]}
            if not math.isfinite(logs["loss"]):
                raise ValueError(
                    f"The loss is not finite at step {step} ({logs['loss']}): lower --learning_rate, or use "
                    "--mixed_precision bf16 or no instead of fp16."
                )
            samples = (step - logged_step) * accumulation * args.train_batch_size * accelerator.num_processes
            logs["samples_per_second"] = samples / (time.monotonic() - logged_time)
            logged_step, logged_time = step, time.monotonic()
            accelerator.log(logs, step=step)
            progress.set_postfix(loss=f"{logs['loss']:.4f}")
            if accelerator.is_main_process:
                with log_path.open("a") as file:
                    file.write(json.dumps({"step": step, **logs}) + "\n")
        if after_step is not None and after_step(step, model, ema):
            break
        if is_checkpoint:  # last, so that a run resumed here misses nothing of this step
            save_checkpoint(accelerator, checkpoints, step, args.checkpoints_total_limit)
    progress.close()
    accelerator.wait_for_everyone()
    return model, ema


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int, total_limit: int | None) -> None:
    """Write `checkpoint-<step>` under a temporary name and rename it, so that no reader ever sees half of one."""
    target = folder / f"checkpoint-{step}"
    temporary = folder / f"checkpoint-{step}.tmp"
    accelerator.save_state(str(temporary))  # on every process: each has a random state of its own
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(temporary / "progress.json", {"step": step})
        replace_folder(temporary, target)
        if total_limit is not None:
            # Later ones, of before an earlier checkpoint was resumed, do not count: the one just written stays.
            earlier = [path for path in list_checkpoints(folder) if checkpoint_step(path) <= step]
            for old in earlier[:-total_limit]:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()


def truncate_log(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run takes again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # the last line of a killed run
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(line + "\n" for line in kept))
    os.replace(temporary, path)


def run_script(main: Callable[[], None]) -> None:
    """Run a script; the errors that a user can mend end it with one sentence."""
    try:
        main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
