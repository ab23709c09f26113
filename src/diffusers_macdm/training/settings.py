"""The options of the two trainings; where diffusers' `train_unconditional.py` has one, it has the same name here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..data.augmentation import PairAugmentation
from ..macdm.forward_process import check_task_probabilities
from ..macdm.loss import HybridLoss
from .formulations import FORMULATIONS


RENAMED = {"--audit_embedding_steps": "--embedding_steps"}  # option of an earlier version -> its name now

_AUGMENTATION, _LOSS = PairAugmentation(), HybridLoss()


@dataclass(frozen=True)
class TrainingSettings:
    """The options that both trainings have.

    Attributes:
        train_data_dir: Folder in the project's layout (train/metadata.jsonl and so on).
        dataset_name: Data set of the Hub with the same columns, instead of --train_data_dir.
        dataset_config_name: Configuration of --dataset_name.
        cache_dir: Folder where `datasets` keeps what it has read.
        resolution: Side of the joint sample, in pixels.
        samples_per_class: Train on this many cases of class 0, 1, ... alone, drawn by --seed; all when not given.
        balance: Draw the classes equally often, by the square root of their numbers of cases, or every case equally often
            (unlabeled cases at the share that they have).
        dataloader_num_workers: Processes that read ahead.
        augment: Augment radiograph and masks together; the network is told how.
        horizontal_flip: Mirror half of the cases.
        rotation_degrees: Limit of the augmentation's rotation.
        translation: Limit of the augmentation's translation.
        scale: Limit of the augmentation's scaling.
        brightness: Limit of the augmentation's brightness.
        contrast: Limit of the augmentation's contrast.
        gamma: Limit of the augmentation's gamma.
        augmentation_probability: Probability of each parameter of the augmentation.
        block_out_channels: Channels at each resolution, finest first.
        layers_per_block: Residual blocks at each resolution.
        attention_levels: Number of lowest resolutions that have self-attention.
        attention_head_dim: Channels of an attention head.
        norm_num_groups: Groups of each normalisation; as many as channels would take the brightness away.
        resnet_time_scale_shift: How the residual blocks take the timestep.
        dropout: Dropout in the residual blocks.
        patch_size: Side of the patches that become channels: p^2 times less work.
        channel_weights: Weights w1, w2, w3 of radiograph, anatomy mask and lesion mask.
        mask_weighting: Where the weights act: on the network's input, or on the clean masks before the noise.
        task_probabilities: Shares of the training samples that practise pairs, masks -> image, image -> masks and the insertion
            of a lesion into a given film.
        noise_levels: Draw all timesteps alike, or the logarithm of the noise level from a normal distribution.
        noise_level_mean: Mean of the natural logarithm of the noise level sigma, for lognormal --noise_levels.
        noise_level_std: Standard deviation of this logarithm.
        ddpm_num_steps: Number T of training timesteps.
        ddpm_beta_schedule: Noise schedule.
        train_batch_size: Cases per process and micro-step.
        gradient_accumulation_steps: Micro-steps per weight update.
        max_train_steps: Number of weight updates.
        learning_rate: Learning rate of AdamW after the warm-up.
        lr_scheduler: Schedule of the learning rate.
        lr_warmup_steps: Updates in which the learning rate rises.
        adam_beta1: First decay rate of AdamW.
        adam_beta2: Second decay rate of AdamW.
        adam_weight_decay: Weight decay of AdamW.
        adam_epsilon: Epsilon of AdamW.
        max_grad_norm: Norm that gradients are clipped to.
        mixed_precision: Precision of the networks; that of `accelerate launch` or its configuration when not given.
        use_ema: Keep a moving average of the weights, which is what samples.
        ema_inv_gamma: Inverse gamma of the moving average's warm-up.
        ema_power: Power of the moving average's warm-up.
        ema_max_decay: Largest decay of the moving average.
        output_dir: Folder that ends as one that from_pretrained loads.
        seed: Everything random follows from it.
        logging_dir: Folder of the tracker, inside --output_dir.
        logging_steps: Updates between two lines of the log.
        report_to: Tracker of accelerate, or 'none'.
        checkpointing_steps: Updates between two checkpoints.
        checkpoints_total_limit: Delete the oldest checkpoints beyond this number.
        resume_from_checkpoint: Path of a checkpoint to go on from, or 'latest'.
        dry_run: Print what would be trained and end.
        dry_run_file: New JSON file for the full record of a dry run: every case and patient.
        push_to_hub: Publish the trained pipeline, as `macdm push` does.
        hub_model_id: Repository to publish to; the name of --output_dir in your namespace when not given.
        hub_token: Token of the Hub, recorded nowhere; that of `hf auth login` or HF_TOKEN when not given.
        hub_private_repo: Refuse a public repository, and make a new one private.
    """

    train_data_dir: str | None = None
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    cache_dir: str | None = None
    resolution: int = 64
    samples_per_class: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="N ...")] = None
    balance: Literal["class", "sqrt", "none"] = "class"
    dataloader_num_workers: int = 0
    augment: bool = True
    horizontal_flip: bool = False
    rotation_degrees: float = _AUGMENTATION.rotation_degrees
    translation: float = _AUGMENTATION.translation
    scale: float = _AUGMENTATION.scale
    brightness: float = _AUGMENTATION.brightness
    contrast: float = _AUGMENTATION.contrast
    gamma: float = _AUGMENTATION.gamma
    augmentation_probability: float = _AUGMENTATION.probability
    block_out_channels: Annotated[tuple[int, ...], tyro.conf.arg(metavar="C ...")] = (64, 128, 256, 256)
    layers_per_block: int = 2
    attention_levels: int = 1
    attention_head_dim: int = 32
    norm_num_groups: int = 8
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "scale_shift"
    dropout: float = 0.0
    patch_size: int = 1
    channel_weights: Annotated[tuple[float, float, float], tyro.conf.arg(metavar="W1 W2 W3")] = (1.0, 1.0, 1.0)
    mask_weighting: Literal["input", "signal"] = "input"
    task_probabilities: Annotated[tuple[float, ...], tyro.conf.arg(metavar="PAIRS MASKS_TO_IMAGE IMAGE_TO_MASKS INSERTION")] = (
        0.6,
        0.1,
        0.1,
        0.2,
    )
    noise_levels: Literal["uniform", "lognormal"] = "lognormal"
    noise_level_mean: float = -0.4
    noise_level_std: float = 1.4
    ddpm_num_steps: int = 1000
    ddpm_beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    train_batch_size: int = 16
    gradient_accumulation_steps: int = 1
    max_train_steps: int = 20000
    learning_rate: float = 2e-4
    # Those of diffusers' get_scheduler that need nothing but the numbers of warm-up and training steps.
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"] = (
        "cosine"
    )
    lr_warmup_steps: int = 100
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    adam_weight_decay: float = 0.01
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    use_ema: bool = True
    ema_inv_gamma: float = 1.0
    ema_power: float = 0.75
    ema_max_decay: float = 0.9999
    output_dir: str = "macdm-model"
    seed: int = 0
    logging_dir: str = "logs"
    logging_steps: int = 50
    report_to: str = "tensorboard"
    checkpointing_steps: int = 500
    checkpoints_total_limit: int | None = None
    resume_from_checkpoint: str | None = None
    dry_run: bool = False
    dry_run_file: Path | None = None
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_token: str | None = None
    hub_private_repo: bool = True

    def check(self) -> None:
        """Raise `ValueError` for options that no later step would refuse by name."""
        if (self.train_data_dir is None) == (self.dataset_name is None):
            raise ValueError("Give the data by either --train_data_dir or --dataset_name.")
        for name, value in vars(self).items():
            numbers = value if isinstance(value, (tuple, list)) else (value,)
            if any(isinstance(x, float) and not math.isfinite(x) for x in numbers) and (name, value) != (
                "max_grad_norm",
                math.inf,
            ):
                raise ValueError(f"--{name} {' '.join(map(str, numbers))} is not allowed: finite numbers are needed.")
        positive = ("resolution", "train_batch_size", "gradient_accumulation_steps", "max_train_steps", "learning_rate")
        positive += ("logging_steps", "checkpointing_steps", "layers_per_block", "patch_size", "max_grad_norm")
        positive += ("ddpm_num_steps", "attention_head_dim", "norm_num_groups", "noise_level_std", "ema_inv_gamma")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} {getattr(self, name)} is not allowed: it must be greater than 0.")
        for name, most in {"resolution": 4096, "layers_per_block": 64, "ddpm_num_steps": 100_000}.items():
            if getattr(self, name) > most:  # before memory is taken
                raise ValueError(f"--{name} {getattr(self, name)} is not allowed: it must be at most {most}.")
        not_negative = ("seed", "lr_warmup_steps", "dataloader_num_workers", "attention_levels", "adam_weight_decay")
        for name in (*not_negative, "adam_epsilon", "ema_power"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} {getattr(self, name)} is not allowed: it must be 0 or more.")
        for name in ("dropout", "adam_beta1", "adam_beta2", "ema_max_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)} is not allowed: it must be at least 0 and below 1.")
        for count in self.samples_per_class or []:
            if count < 0:
                raise ValueError(f"--samples_per_class {count} is not allowed: it must be 0 or more.")
        if self.hub_model_id is not None and not self.push_to_hub:
            raise ValueError(f"--hub_model_id {self.hub_model_id} has no effect without --push_to_hub.")
        if self.checkpoints_total_limit is not None and self.checkpoints_total_limit < 1:
            raise ValueError(f"--checkpoints_total_limit {self.checkpoints_total_limit} is not allowed: at least 1.")
        if self.dry_run_file is not None and not self.dry_run:
            raise ValueError(f"--dry_run_file {self.dry_run_file} has no effect without --dry_run.")
        self._check_sizes()
        check_task_probabilities(self.task_probabilities)

    def _check_sizes(self) -> None:
        multiple = self.patch_size * 2 ** (len(self.block_out_channels) - 1)
        if self.resolution % multiple:
            raise ValueError(
                f"--resolution {self.resolution} is not allowed: with --patch_size {self.patch_size} and "
                f"{len(self.block_out_channels)} block_out_channels it must be a multiple of {multiple}."
            )
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise ValueError(
                    f"--block_out_channels {channels} is not allowed: each must be a multiple of --norm_num_groups "
                    f"{self.norm_num_groups}."
                )


@dataclass(frozen=True)
class ClassifierSettings(TrainingSettings):
    """Train the noise-aware guidance classifier of MaC-DM under `accelerate launch`.

    It is written to --output_dir/guidance_classifier, as a component of the pipeline that is there or will be.

    Attributes:
        mask_dropout: Share of samples whose masks are shown as pure noise, so that the classifier must look at the radiograph:
            without it it reads the lesion mask alone, and guides nothing else.
        validation_steps: Classify the labeled validation cases at several noise levels every so many updates and at the end;
            0 is off. It needs a validation split.
    """

    max_train_steps: int = 5000
    learning_rate: float = 3e-4
    block_out_channels: Annotated[tuple[int, ...], tyro.conf.arg(metavar="C ...")] = (32, 64, 128)
    layers_per_block: int = 1
    use_ema: bool = False
    adam_weight_decay: float = 0.05
    mask_dropout: float = 0.5
    validation_steps: int = 500

    def check(self) -> None:
        """Raise `ValueError` for options that no later step would refuse by name."""
        super().check()
        if not 0 <= self.mask_dropout <= 1:
            raise ValueError(f"--mask_dropout {self.mask_dropout} is not allowed: a probability from 0 to 1.")
        if self.validation_steps < 0:
            raise ValueError(f"--validation_steps {self.validation_steps} is not allowed: it must be 0 (off) or more.")
        if self.push_to_hub and not (Path(self.output_dir) / "model_index.json").is_file():
            raise ValueError(
                f"--push_to_hub publishes a whole pipeline, and there is none in {self.output_dir} yet: give it to "
                "train_macdm.py, which puts this classifier into its pipeline."
            )


@dataclass(frozen=True)
class DenoiserSettings(TrainingSettings):
    """Train the denoiser of MaC-DM (arXiv 2311.13688) under `accelerate launch`.

    --output_dir ends as a folder that MaCDMPipeline.from_pretrained loads.

    Attributes:
        formulation: Defaults of the options that make the method: 'clean' predicts the clean sample at noise levels where there
            is something to see, models the film's noise and samples by DPM-Solver++, 'paper' is MaC-DM's and Improved DDPM's
            (epsilon, learned variance, uniform timesteps).
        model_config_name_or_path: File or folder of a MaCDMUNet2DModel's config.json, instead of the options.
        pretrained_unet: Start from the weights of this UNet2DModel or MaCDMUNet2DModel (folder or Hub name), or of this
            checkpoint of openai/guided-diffusion (.pt file); its architecture replaces the options'.
        pretrained_num_heads: Number of attention heads of a .pt file that is none of guided-diffusion's published ones.
        pretrained_num_head_channels: Channels of an attention head of such a file.
        pretrained_new_attention_order: Set where such a file has use_new_attention_order.
        guidance_classifier: Folder of the trained classifier, to put into the pipeline; the one in --output_dir when not given.
        prediction_type: What the network predicts; epsilon is the paper's.
        loss_space: What its squared error is measured in; when not given, v for a clean sample and else the prediction itself.
        learned_variance: Predict a variance too, which L_vlb trains and DDPMScheduler samples with.
        sigma_floor: Smallest noise level that --loss_space divides the error of a clean sample by.
        detail_channels: Channels of a convolutional head at full resolution, for --patch_size above 1; 0 is none.
        film_noise: Largest standard deviation of the film's own noise, of films in [-1, 1]; 0 leaves it to the network.
            When not given, 0.025 where a clean sample is predicted and else 0.
        class_dropout: Share of samples shown with the null label.
        class_dropout_image_to_masks: The same for image -> masks, which is mostly used on cases without a label.
        lambda_vlb: Weight of L_vlb; 0 is off.
        lambda_perceptual: Weight of the perceptual term on the features of --guidance_classifier; 0 is off.
        loss_channel_weights: Weights of radiograph, anatomy mask and lesion mask in L_simple. A lesion is small: weighted 3,
            more of the pairs that should have one get it, in one piece.
        lesion_region_weight: Weight of the loss in the lesion's neighbourhood, lesion channel; 1 is off.
        lesion_region_radius: Radius of this neighbourhood, in pixels.
        radiograph_region_weight: Weight of the loss in the lesion's neighbourhood, radiograph channel; 1 is off.
        snr_gamma: Gamma of Min-SNR weighting, 5 in its paper; off when not given.
        validation_steps: Draw a grid of samples every so many updates.
        early_validation_steps: Draw one after these updates, too.
        num_validation_samples: Samples in this grid.
        ddpm_num_inference_steps: Steps from noise to these samples.
        guidance_scale: Guidance of these samples, if there is a classifier.
        weak_unet_step: Keep the average of this step as the pipeline's weak_unet, for autoguidance; none when not given.
        audit_steps: Audit for copies of training images every so many updates and at the end; 0 is off. It needs a validation
            split.
        audit_samples: Samples that are searched for copies.
        audit_cases: Training cases, and validation cases, for the losses.
        embedding_steps: Training steps of the copy detector's embedding.
        max_copy_rate: Of the audited states with at most this copy rate, the one with the smallest validation loss becomes the
            pipeline. A model that copies nobody has a rate of about 0.05 by construction, which chance takes to 0.15 with 64
            samples: less than that refuses honest models. Watch only when not given.
        stop_above_max_copy_rate: End the training at the first audit beyond --max_copy_rate.
    """

    formulation: Literal["clean", "paper"] = "clean"
    model_config_name_or_path: str | None = None
    pretrained_unet: str | None = None
    pretrained_num_heads: int | None = None
    pretrained_num_head_channels: int | None = None
    pretrained_new_attention_order: bool = False
    guidance_classifier: str | None = None
    # The paper predicts the noise (epsilon). A network of the size that small sets allow cannot carry the noise through:
    # predicting noise or v, it leaves grain in the film; the clean sample needs no noise to pass it (arXiv 2511.13720).
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "sample"
    loss_space: Literal["epsilon", "v_prediction", "sample"] | None = None
    sigma_floor: float = _LOSS.sigma_floor
    learned_variance: bool = False
    detail_channels: int = 0
    film_noise: float | None = None
    class_dropout: float = 0.1
    class_dropout_image_to_masks: float = 0.5
    lambda_vlb: float = _LOSS.lambda_vlb
    lambda_perceptual: float = _LOSS.lambda_perceptual
    loss_channel_weights: Annotated[tuple[float, float, float], tyro.conf.arg(metavar="L L L")] = (1.0, 1.0, 3.0)
    lesion_region_weight: float = _LOSS.lesion_region_weight
    lesion_region_radius: int = _LOSS.lesion_region_radius
    radiograph_region_weight: float = _LOSS.radiograph_region_weight
    snr_gamma: float | None = None
    validation_steps: int = 2000
    early_validation_steps: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = ()
    num_validation_samples: int = 16
    ddpm_num_inference_steps: int = 25
    guidance_scale: float = 1.0
    weak_unet_step: int | None = None
    audit_steps: int = 2000
    audit_samples: int = 64
    audit_cases: int = 64
    embedding_steps: int = 300
    max_copy_rate: float | None = None
    stop_above_max_copy_rate: bool = False

    @classmethod
    def defaults(cls, formulation: str) -> DenoiserSettings:
        """Return the defaults of a formulation; an option that is given goes before them."""
        return cls(formulation=formulation, **FORMULATIONS[formulation])

    def check(self) -> None:
        """Raise `ValueError` for options that no later step would refuse by name."""
        super().check()
        if self.film_noise is not None and not 0 <= self.film_noise < 1:
            raise ValueError(f"--film_noise {self.film_noise} is not allowed: 0 (not modelled) or more, below 1.")
        if not 0 < self.sigma_floor <= 1:
            raise ValueError(f"--sigma_floor {self.sigma_floor} is not allowed: above 0, at most 1.")
        if self.film_noise and self.prediction_type != "sample":
            raise ValueError(
                f"--film_noise {self.film_noise} with --prediction_type {self.prediction_type} is not allowed: it belongs to a "
                "network that predicts the clean 'sample'."
            )
        for name in ("class_dropout", "class_dropout_image_to_masks"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} {getattr(self, name)} is not allowed: a probability from 0 to 1.")
        for name in ("pretrained_num_heads", "pretrained_num_head_channels", "pretrained_new_attention_order"):
            if getattr(self, name) and not (self.pretrained_unet and Path(self.pretrained_unet).is_file()):
                raise ValueError(f"--{name} is not allowed: it belongs to a checkpoint file (.pt) as --pretrained_unet.")
        if self.validation_steps < 1 or self.num_validation_samples < 1:
            raise ValueError("--validation_steps and --num_validation_samples must be at least 1.")
        for step in self.early_validation_steps:
            if step < 1:
                raise ValueError(f"--early_validation_steps {step} is not allowed: it must be 1 or more.")
        if not 1 <= self.ddpm_num_inference_steps <= self.ddpm_num_steps:
            raise ValueError(
                f"--ddpm_num_inference_steps {self.ddpm_num_inference_steps} is not allowed: from 1 to --ddpm_num_steps "
                f"{self.ddpm_num_steps}."
            )
        if not 0 <= self.guidance_scale < math.inf:
            raise ValueError(f"--guidance_scale {self.guidance_scale} is not allowed: 0 is off, larger is stronger.")
        if self.weak_unet_step is not None and not (self.use_ema and 0 < self.weak_unet_step <= self.max_train_steps):
            raise ValueError(
                f"--weak_unet_step {self.weak_unet_step} is not allowed: it needs --use_ema and lies between 1 and "
                f"--max_train_steps {self.max_train_steps}."
            )
        self._check_audit()

    def _check_audit(self) -> None:
        if self.audit_steps < 0:
            raise ValueError(f"--audit_steps {self.audit_steps} is not allowed: it must be 0 (off) or more.")
        for name in ("audit_samples", "audit_cases", "embedding_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)} is not allowed: it must be at least 1.")
        if self.max_copy_rate is None:
            if self.stop_above_max_copy_rate:
                raise ValueError("--stop_above_max_copy_rate has no effect without --max_copy_rate.")
            return
        if not 0 <= self.max_copy_rate <= 1:
            raise ValueError(f"--max_copy_rate {self.max_copy_rate} is not allowed: a share from 0 to 1.")
        if self.audit_steps == 0:
            raise ValueError(f"--max_copy_rate {self.max_copy_rate} has no effect with --audit_steps 0.")
