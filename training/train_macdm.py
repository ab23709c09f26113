"""Train the denoiser of MaC-DM (arXiv 2311.13688) under `accelerate launch`.

    accelerate launch training/train_macdm.py --train_data_dir data --resolution 128 --patch_size 2 \\
        --output_dir macdm-model

`--output_dir` ends as a folder that `MaCDMPipeline.from_pretrained` loads.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from diffusers import UNet2DModel

import copy_watch
import training_utils
from diffusers_macdm import GuidanceClassifier, MaCDMPipeline, MaCDMUNet2DModel
from diffusers_macdm.conversion.guided_diffusion import load_guided_diffusion, without_class_labels
from diffusers_macdm.conversion.plain_unet import from_plain, from_unet2d
from diffusers_macdm.macdm.forward_process import PREDICTION_TYPES, TASKS, ForwardProcess, draw_timesteps
from diffusers_macdm.macdm.joint_sample import CHANNELS
from diffusers_macdm.macdm.loss import HybridLoss
from diffusers_macdm.macdm.training_losses import DenoisingLoss
from diffusers_macdm.report.contact_sheet import contact_sheet
from training_utils import by_quartile, logger, replace_folder


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = training_utils.argument_parser(__doc__.splitlines()[0], max_train_steps=20000, learning_rate=2e-4)
    parser.add_argument(
        "--model_config_name_or_path", help="config.json of a MaCDMUNet2DModel (file or folder), instead of the options."
    )
    parser.add_argument(
        "--pretrained_unet",
        help="Start from the weights of this UNet2DModel or MaCDMUNet2DModel (folder or Hub name), or of this checkpoint of "
        "openai/guided-diffusion (.pt file); its architecture replaces the options'.",
    )
    foreign = parser.add_argument_group("a .pt file as --pretrained_unet that is none of guided-diffusion's published ones")
    foreign.add_argument("--pretrained_num_heads", type=int, help="Its num_heads, or")
    foreign.add_argument("--pretrained_num_head_channels", type=int, help="its num_head_channels.")
    foreign.add_argument(
        "--pretrained_new_attention_order", action="store_const", const=True, help="It has use_new_attention_order."
    )
    parser.add_argument(
        "--guidance_classifier",
        help="Folder of the trained classifier, to put into the pipeline (default: the one in --output_dir, if any).",
    )
    # The paper predicts the noise (epsilon). In the short runs that small sets allow, that leaves noise in the samples at the
    # noisiest levels, where a small error of epsilon is a large one of the clean sample; v has no such level.
    parser.add_argument("--prediction_type", default="v_prediction", choices=PREDICTION_TYPES, help="epsilon is the paper's.")
    parser.add_argument("--class_dropout", type=float, default=0.1, help="Share of samples shown with the null label.")
    parser.add_argument(
        "--class_dropout_image_to_masks",
        type=float,
        default=0.5,
        help="The same for image -> masks, which is mostly used on cases without a label.",
    )
    loss = parser.add_argument_group("loss")
    defaults = HybridLoss()
    loss.add_argument("--lambda_vlb", type=float, default=defaults.lambda_vlb, help="Weight of L_vlb; 0 is off.")
    loss.add_argument(
        "--lambda_perceptual",
        type=float,
        default=defaults.lambda_perceptual,
        help="Weight of the perceptual term on the features of --guidance_classifier; 0 is off.",
    )
    loss.add_argument(
        "--loss_channel_weights", type=float, nargs=len(CHANNELS), default=list(defaults.channel_weights), metavar="L"
    )
    loss.add_argument(
        "--lesion_region_weight",
        type=float,
        default=defaults.lesion_region_weight,
        help="Weight of the loss in the lesion's neighbourhood, lesion channel; 1 is off.",
    )
    loss.add_argument("--lesion_region_radius", type=int, default=defaults.lesion_region_radius, help="In pixels.")
    loss.add_argument(
        "--radiograph_region_weight",
        type=float,
        default=defaults.radiograph_region_weight,
        help="The same in the radiograph's channel.",
    )
    loss.add_argument("--snr_gamma", type=float, help="Min-SNR weighting; off unless given, 5 is the paper's.")
    samples = parser.add_argument_group("samples during training")
    samples.add_argument("--validation_steps", type=int, default=2000, help="Draw a grid of samples every so many steps.")
    samples.add_argument("--num_validation_samples", type=int, default=16)
    samples.add_argument("--ddpm_num_inference_steps", type=int, default=25)
    samples.add_argument("--guidance_scale", type=float, default=1.0, help="Of these samples, if there is a classifier.")
    samples.add_argument(
        "--weak_unet_step",
        type=int,
        help="Keep the average of this step as the pipeline's weak_unet, for autoguidance (default: none).",
    )
    copy_watch.add_arguments(parser)
    return parser.parse_args(argv)


def check_arguments(args: argparse.Namespace) -> None:
    training_utils.check_arguments(args)
    for name in ("class_dropout", "class_dropout_image_to_masks"):
        if not 0 <= getattr(args, name) <= 1:
            raise ValueError(f"--{name} {getattr(args, name)} is not allowed: a probability from 0 to 1.")
    for name in ("pretrained_num_heads", "pretrained_num_head_channels", "pretrained_new_attention_order"):
        if getattr(args, name) is not None and not (args.pretrained_unet and Path(args.pretrained_unet).is_file()):
            raise ValueError(f"--{name} is not allowed: it belongs to a checkpoint file (.pt) as --pretrained_unet.")
    if args.validation_steps < 1 or args.num_validation_samples < 1:
        raise ValueError("--validation_steps and --num_validation_samples must be at least 1.")
    if not 1 <= args.ddpm_num_inference_steps <= args.ddpm_num_steps:
        raise ValueError(
            f"--ddpm_num_inference_steps {args.ddpm_num_inference_steps} is not allowed: from 1 to --ddpm_num_steps "
            f"{args.ddpm_num_steps}."
        )
    if not 0 <= args.guidance_scale < math.inf:
        raise ValueError(f"--guidance_scale {args.guidance_scale} is not allowed: 0 is off, larger is stronger.")
    if args.weak_unet_step is not None and not (args.use_ema and 0 < args.weak_unet_step <= args.max_train_steps):
        raise ValueError(
            f"--weak_unet_step {args.weak_unet_step} is not allowed: it needs --use_ema and lies between 1 and "
            f"--max_train_steps {args.max_train_steps}."
        )
    draw_timesteps(1, args.ddpm_num_steps, args.task_probabilities)
    copy_watch.check_arguments(args)


def build_unet(args: argparse.Namespace, num_classes: int, augmentation_dim: int) -> MaCDMUNet2DModel:
    """The denoiser: from a configuration, from other weights, or from the options."""
    if args.pretrained_unet:
        overrides = {
            "in_channels": len(CHANNELS),
            "out_channels": 2 * len(CHANNELS),
            "num_class_embeds": num_classes + 1,
            "augmentation_dim": augmentation_dim,
            "sample_size": args.resolution,
            "patch_size": args.patch_size,
            "channel_weights": tuple(args.channel_weights),
            "mask_weighting": args.mask_weighting,
        }
        if Path(args.pretrained_unet).is_file():
            plain, weights = _load_guided_diffusion(args, num_classes)
            unet = from_plain(plain, weights, **overrides)
        elif _load_config("pretrained_unet", args.pretrained_unet).get("_class_name") == "MaCDMUNet2DModel":
            unet = MaCDMUNet2DModel.from_pretrained(args.pretrained_unet)
        else:
            unet = from_unet2d(UNet2DModel.from_pretrained(args.pretrained_unet), **overrides)
    elif args.model_config_name_or_path:
        config = _load_config("model_config_name_or_path", args.model_config_name_or_path)
        unet = MaCDMUNet2DModel.from_config(config)
    else:
        network = training_utils.network_arguments(args)
        up_block_types = tuple(name.replace("Down", "Up") for name in reversed(network["down_block_types"]))
        unet = MaCDMUNet2DModel(
            **network,
            up_block_types=up_block_types,
            out_channels=2 * len(CHANNELS),
            num_class_embeds=num_classes + 1,
            augmentation_dim=augmentation_dim,
        )
    needed = {
        "sample_size": args.resolution,
        "in_channels": len(CHANNELS),
        "num_class_embeds": num_classes + 1,
        "augmentation_dim": augmentation_dim,
        "channel_weights": tuple(args.channel_weights),
        "mask_weighting": args.mask_weighting,
    }
    for name, value in needed.items():
        found = unet.config[name]
        if (tuple(found) if isinstance(found, (list, tuple)) else found) != value:
            raise ValueError(f"The denoiser given has {name}={found}, but the data and the options need {value}.")
    return unet


def _load_guided_diffusion(args: argparse.Namespace, num_classes: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    plain, weights = load_guided_diffusion(
        args.pretrained_unet,
        num_heads=args.pretrained_num_heads,
        num_head_channels=args.pretrained_num_head_channels,
        use_new_attention_order=args.pretrained_new_attention_order,
    )
    if plain["num_class_embeds"] not in (None, num_classes):  # ImageNet's, which mean nothing here
        logger.info(f"The {plain['num_class_embeds']} classes of {args.pretrained_unet} become one: their mean.")
        plain, weights = without_class_labels(plain, weights)
    return plain, weights


def _load_config(option: str, name_or_path: str) -> dict[str, Any]:
    if Path(name_or_path).is_file():
        return json.loads(Path(name_or_path).read_text())
    try:
        return UNet2DModel.load_config(name_or_path)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(f"--{option} {name_or_path}: no model can be read here ({reason})") from error


def find_classifier(args: argparse.Namespace, num_classes: int) -> GuidanceClassifier | None:
    """The trained guidance classifier, if there is one, checked to be fed as the denoiser is."""
    folders = [Path(args.output_dir)] if args.guidance_classifier is None else [Path(args.guidance_classifier)]
    folders.append(folders[0] / "guidance_classifier")
    found = [folder for folder in folders if _is_classifier(folder)]
    if not found:
        if args.guidance_classifier is not None:
            raise FileNotFoundError(f"--guidance_classifier {args.guidance_classifier}: there is no trained classifier here.")
        if args.lambda_perceptual:
            raise ValueError(f"--lambda_perceptual {args.lambda_perceptual} needs --guidance_classifier for its features.")
        return None
    classifier = GuidanceClassifier.from_pretrained(found[0])
    config = classifier.config
    for name in ("channel_weights", "mask_weighting"):
        theirs, ours = getattr(config, name), getattr(args, name)
        if (list(theirs) if name == "channel_weights" else theirs) != ours:
            raise ValueError(f"{found[0]} was trained with --{name} {theirs}, this run has {ours}: both must be fed alike.")
    if config.sample_size != args.resolution:
        raise ValueError(f"{found[0]} was trained at {config.sample_size} px, this run is at {args.resolution} px.")
    if config.num_classes != num_classes:
        raise ValueError(f"{found[0]} tells {config.num_classes} classes apart, the data have {num_classes}.")
    training_utils.check_same_process(args, found[0] / "scheduler_config.json")
    training_utils.check_same_process(args, found[0].parent / "scheduler" / "scheduler_config.json")
    return classifier.requires_grad_(False).eval()


def _is_classifier(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and json.loads(config.read_text()).get("_class_name") == "GuidanceClassifier"


def hybrid_loss(args: argparse.Namespace) -> HybridLoss:
    return HybridLoss(
        lambda_vlb=args.lambda_vlb,
        lambda_perceptual=args.lambda_perceptual,
        channel_weights=tuple(args.loss_channel_weights),
        lesion_region_weight=args.lesion_region_weight,
        lesion_region_radius=args.lesion_region_radius,
        radiograph_region_weight=args.radiograph_region_weight,
        min_snr_gamma=args.snr_gamma,
        prediction_type=args.prediction_type,
    )


def denoising_loss(args: argparse.Namespace, process: ForwardProcess, config, features):
    """`loss(unet, batch)` -> loss and values to log, as `training_utils.train` takes it."""
    loss = DenoisingLoss(
        hybrid_loss(args),
        process,
        config,
        tuple(args.task_probabilities),
        args.class_dropout,
        args.class_dropout_image_to_masks,
        features,
    )

    def with_values(unet, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        terms, timesteps = loss(unet, batch)
        values = {f"simple/{name}": terms.simple[:, c] for c, name in enumerate(CHANNELS)}
        for c, name in enumerate(CHANNELS):
            values |= by_quartile(f"simple/{name}", terms.simple[:, c], timesteps[:, c], process.num_timesteps)
        if terms.vlb is not None:
            values["vlb"] = terms.vlb
        if terms.perceptual is not None:
            values["perceptual"] = terms.perceptual
        return terms.total, values

    return with_values


def build_pipeline(args, unet, ema, classifier, weak_unet=None) -> MaCDMPipeline:
    """A pipeline of the averaged weights; the training goes on with its own."""
    if ema is not None:
        averaged = MaCDMUNet2DModel.from_config(unet.config).to(unet.device)
        averaged.load_state_dict(unet.state_dict())
        ema.copy_to(averaged.parameters())
        unet = averaged
    scheduler = training_utils.training_scheduler(args, args.prediction_type)
    pipeline = MaCDMPipeline(unet, scheduler, classifier, weak_unet)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_samples(args, accelerator, pipeline: MaCDMPipeline, num_classes: int, step: int) -> None:
    """Write a grid of samples, all labels in turn and the same noise each time, and hand it to the tracker."""
    count = args.num_validation_samples
    labels = [i % num_classes for i in range(count)]
    training = pipeline.unet.training
    pipeline.unet.eval()
    output = pipeline(
        class_labels=labels,
        num_inference_steps=args.ddpm_num_inference_steps,
        guidance_scale=args.guidance_scale if pipeline.guidance_classifier is not None else 0.0,
        generator=[torch.Generator().manual_seed(args.seed + i) for i in range(count)],
        refine_masks=False,
        output_type="np",
    )
    pipeline.unet.train(training)
    sheet = contact_sheet(
        np.rint(output.images[..., 0] * 255).astype(np.uint8),
        output.anatomy_masks[..., 0] > 0,
        output.lesion_masks[..., 0] > 0,
        captions=[f"label {label}" for label in labels],
        side_by_side=True,
    )
    path = Path(args.output_dir) / "samples" / f"step-{step:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    sheet.save(temporary, format="PNG")
    temporary.replace(path)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.writer.add_image("samples", np.asarray(sheet.convert("RGB")), step, dataformats="HWC")


def save_pipeline(output_dir: Path, pipeline: MaCDMPipeline) -> None:
    """Write the pipeline under a temporary name, then move its parts into `output_dir`, `model_index.json` last."""
    temporary = output_dir / "pipeline.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.save_pretrained(temporary, safe_serialization=True)
    for part in sorted(temporary.iterdir(), key=lambda path: path.name == "model_index.json"):
        if part.is_dir():
            replace_folder(part, output_dir / part.name)
        else:
            part.replace(output_dir / part.name)
    temporary.rmdir()


def resolve(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the run depends on, as plain data: the arguments, the data, the network."""
    check_arguments(args)
    dataset = training_utils.load_training_data(args)
    validation = copy_watch.load_validation(args, dataset)
    training_utils.set_seed(args.seed)
    unet = build_unet(args, dataset.num_classes, training_utils.augmentation_dim(dataset))
    classifier = find_classifier(args, dataset.num_classes)
    hybrid_loss(args)
    scheduler = training_utils.training_scheduler(args, args.prediction_type)
    configuration = training_utils.record(
        args,
        data=training_utils.describe_data(dataset),
        earlier_trainings=training_utils.earlier_trainings(args, dataset),
        tasks=dict(zip(TASKS, args.task_probabilities, strict=True)),
        unet={**unet.config, "num_parameters": unet.num_parameters()},
        guidance_classifier=None if classifier is None else dict(classifier.config),
        scheduler=dict(scheduler.config),
    )
    return {
        "configuration": configuration,
        "dataset": dataset,
        "validation": validation,
        "unet": unet,
        "classifier": classifier,
    }


def main() -> None:
    args = parse_args()
    resolved = resolve(args)
    configuration, dataset, unet = resolved["configuration"], resolved["dataset"], resolved["unet"]
    if args.dry_run:
        training_utils.print_record(configuration)
        return
    output_dir = Path(args.output_dir)
    accelerator = training_utils.start(args)
    resume = training_utils.prepare_output(args, output_dir / "model_index.json", output_dir)
    weak_step = args.weak_unet_step
    if resume is not None and weak_step is not None and weak_step <= training_utils.checkpoint_step(resume):
        if not (output_dir / "weak_unet").is_dir():
            raise ValueError(f"--weak_unet_step {weak_step} is not allowed: {resume} is beyond it, and no weak_unet was kept.")
    audit = best = None
    if accelerator.is_main_process and args.audit_steps:
        audit = copy_watch.build_audit(args, dataset, resolved["validation"], accelerator.device)
        if audit is not None:
            done = 0 if resume is None else training_utils.checkpoint_step(resume)
            training_utils.truncate_log(output_dir / copy_watch.AUDIT_LOG, done)
        if args.max_copy_rate is not None:
            best = copy_watch.BestState(output_dir, args.max_copy_rate)
            best.follow(accelerator, resume)
    repository = training_utils.prepare_push(args, accelerator)
    accelerator.wait_for_everyone()
    training_utils.write_record(output_dir / "training_config.json", configuration, accelerator, resume)
    counts = configuration["data"]["cases_per_label"]
    logger.info(f"{len(dataset)} cases {counts}, {unet.num_parameters() / 1e6:.2f} M parameters, on {accelerator.device}.")

    classifier = resolved["classifier"]
    features = None
    if classifier is not None:
        classifier.to(accelerator.device)
        if args.lambda_perceptual:
            features = lambda joint_sample: classifier.features(joint_sample, timestep=0)  # noqa: E731
    process = ForwardProcess.from_scheduler(training_utils.training_scheduler(args, args.prediction_type)).to(
        accelerator.device
    )
    loss = denoising_loss(args, process, unet.config, features)

    def after_step(step, unet, ema) -> bool:
        if accelerator.is_main_process:
            show_and_keep(step, unet, ema)
        if resolved["validation"] is None or not copy_watch.is_audit_step(args, step):
            return False
        stop = [False]
        if audit is not None:
            rate = audit_state(step, build_pipeline(args, unet, ema, None))
            # At the last step there is nothing to stop.
            stop = [args.stop_above_max_copy_rate and rate > args.max_copy_rate and step < args.max_train_steps]
        return broadcast_object_list(stop)[0]  # here all others wait for the audit

    def audit_state(step, pipeline) -> float:
        result = audit(pipeline, step)
        copy_watch.append_audit(output_dir, result)
        accelerator.log(copy_watch.tracked(result), step=step)
        logger.info(copy_watch.sentence(result))
        if best is not None:
            best.consider(result, pipeline)
        return result["copy_rate"]["value"]

    def show_and_keep(step, unet, ema) -> None:
        if step % args.validation_steps == 0:
            pipeline = build_pipeline(args, unet, ema, classifier)
            draw_samples(args, accelerator, pipeline, dataset.num_classes, step)
        if step == args.weak_unet_step:
            temporary = output_dir / "weak_unet.tmp"
            build_pipeline(args, unet, ema, None).unet.save_pretrained(temporary)
            replace_folder(temporary, output_dir / "weak_unet")

    unet, ema = training_utils.train(
        args,
        accelerator,
        unet,
        dataset,
        loss,
        checkpoints=output_dir,
        log_path=output_dir / "training_log.jsonl",
        resume=resume,
        configuration=configuration,
        after_step=after_step,
    )
    if accelerator.is_main_process:
        if audit is not None:
            copy_watch.record_audits(output_dir, best)
        if best is not None:
            kept = best.audit
            if kept is None:
                accelerator.end_training()
                raise ValueError(
                    f"none of the audited states has a copy rate of at most --max_copy_rate {args.max_copy_rate} (see "
                    f"{output_dir / copy_watch.AUDIT_LOG}): no pipeline was written, the checkpoints are still there."
                )
            unet, ema = MaCDMUNet2DModel.from_pretrained(best.folder / "unet"), None
            rate = kept["copy_rate"]["value"]
            logger.info(f"The pipeline is the denoiser of step {kept['step']}, with a copy rate of {rate:.0%}.")
        weak_unet = None
        if args.weak_unet_step is not None and (output_dir / "weak_unet").is_dir():  # not where the training was stopped before
            weak_unet = MaCDMUNet2DModel.from_pretrained(output_dir / "weak_unet")
        pipeline = build_pipeline(args, unet, ema, classifier, weak_unet)
        if classifier is not None:
            training_utils.keep_classifier_record(classifier.config["_name_or_path"], output_dir)
        save_pipeline(output_dir, pipeline)
        logger.info(f"Saved the pipeline to {output_dir}.")
        if repository is not None:
            training_utils.push(args, repository)
    accelerator.end_training()


if __name__ == "__main__":
    training_utils.run_script(main)
