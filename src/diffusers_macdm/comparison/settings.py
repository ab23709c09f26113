"""The options of `macdm compare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from ..audit.settings import EMBEDDING_STEPS
from ..checks import check_at_least
from .models import MODELS


def whole_numbers(text: str) -> tuple[int, ...]:
    """Read "100,250" as (100, 250).

    Raises:
        ValueError: for anything but whole numbers with commas between them.
    """
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not allowed: whole numbers with commas between them, 100,250") from None


WholeNumbers = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="N,N,...",
    instance_from_str=lambda words: whole_numbers(words[0]),
    is_instance=lambda value: value is None or isinstance(value, tuple),
    str_from_instance=lambda value: ["None" if value is None else ",".join(map(str, value))],
)


@dataclass(frozen=True)
class TrainingBudget:
    """The budget that every generative model gets alike.

    Attributes:
        steps: Training steps of every model, all of its networks together: what trains a guidance classifier or an autoencoder
            is taken from them, and a generator and its discriminator take a step together.
        batch_size: Batch size of every generative model.
        learning_rate: Learning rate of every diffusion model (AdamW), after the warm-up; it falls to 0 as a cosine.
        gan_learning_rate: Learning rate of the GAN's generator and discriminator.
        block_out_channels: Channels of the main network at each resolution, finest first; multiples of norm_num_groups.
        layers_per_block: Residual blocks of every denoiser at each resolution.
        patch_size: Side of the patches that become channels in front of every denoiser of pixels: p^2 times less work.
        num_inference_steps: Steps of every diffusion model from noise to sample.
        num_warmup_steps: Steps in which the learning rate rises.
        ema_max_decay: Largest decay of the moving average of the weights, which is what samples.
        norm_num_groups: Groups of each normalisation.
        num_workers: Processes that read and augment ahead.
    """

    steps: int = 4000
    batch_size: int = 16
    learning_rate: float = 2e-4
    gan_learning_rate: float = 2e-4
    block_out_channels: Annotated[tuple[int, ...], tyro.conf.arg(metavar="C ...")] = (64, 128, 256)
    layers_per_block: int = 2
    patch_size: int = 1
    num_inference_steps: int = 50
    num_warmup_steps: tyro.conf.Suppress[int] = 100
    ema_max_decay: tyro.conf.Suppress[float] = 0.9999
    norm_num_groups: tyro.conf.Suppress[int] = 8
    num_workers: int = 0

    def __post_init__(self):
        positive = ("steps", "batch_size", "learning_rate", "gan_learning_rate", "layers_per_block", "patch_size")
        for name in (*positive, "num_inference_steps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed: it must be greater than 0.")
        for name, least in (("steps", 2), ("num_workers", 0)):  # the second step is the guidance classifier's
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed: at least {least} is needed.")
        wrong = [channels for channels in self.block_out_channels if channels < 1 or channels % self.norm_num_groups]
        if wrong or not self.block_out_channels:
            raise ValueError(
                f"block_out_channels={self.block_out_channels} is not allowed: each must be a multiple of "
                f"norm_num_groups={self.norm_num_groups}."
            )

    def check_size(self, size: int) -> None:
        """Raise `ValueError` unless the denoiser can halve joint samples of this side as often as it has resolutions."""
        multiple = self.patch_size * 2 ** (len(self.block_out_channels) - 1)
        if size % multiple:
            raise ValueError(
                f"A side of {size} px is not allowed: with patch_size {self.patch_size} and {len(self.block_out_channels)} "
                f"block_out_channels it must be a multiple of {multiple}."
            )


@dataclass(frozen=True)
class Settings:
    """Train MaC-DM and other generative models on the same real cases, and measure what their pairs are good for.

    All train for the same number of steps, and as many pairs are drawn from each. Writes comparison.json and index.html into a
    new folder. Called again with the same settings it goes on where an interrupted comparison stopped.

    Attributes:
        real: Real set; it needs test/ and validation/, or folds.
        out: New folder, or one that was interrupted.
        models: Generative models; all of them when not given.
        folds: Divide all cases of the set by patient, and train every model anew in each of these folds.
        held_out_folds: Train every model once, on train/, and test the held-out cases (validation and test) in this number of
            turns, by patient.
        train_sizes: Numbers of training cases to repeat everything with, 100,250,1000; all of them when not given.
        samples_per_class: Training cases of label 0, 1, ... to use.
        num_synthetic: Pairs of each model; as many as it has training cases when not given.
        size: Side in pixels that all cases are resampled to.
        budget: Budget of the generative models.
        seeds: Seeds of the downstream trainings; no claim is made from fewer than 3. The first is that of the generative
            models.
        downstream_steps: Optimisation steps of every downstream training.
        downstream_batch_size: Batch size of every downstream training.
        validate_every: Steps between two looks at the validation cases, which choose the state.
        pretrained_classifier: ImageNet ResNet-34 of transformers (folder or Hub name) to start from.
        classifier_width: Channels of the classifier's first stage.
        segmenter_width: Channels of the segmenter's first level.
        feature_extractor: Network behind the realism: vision model of transformers (folder or Hub name) or TorchScript file;
            the diagnosis classifier trained on real cases when not given.
        embedding_steps: Training steps of the copy detector's embedding.
        resamples: Resamples of the bootstrap over patients.
        device: Device to train on, for example cuda or cpu; cuda when not given and there is one.
    """

    real: Annotated[str, tyro.conf.arg(metavar="DATA")]
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL ...")] = tuple(MODELS)
    folds: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    held_out_folds: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    train_sizes: Annotated[tuple[int, ...] | None, WholeNumbers] = None
    samples_per_class: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="N ...")] = None
    num_synthetic: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    size: int = 64
    budget: Annotated[TrainingBudget, tyro.conf.OmitArgPrefixes] = field(default_factory=TrainingBudget)
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="S ...")] = (0, 1, 2)
    downstream_steps: Annotated[int, tyro.conf.arg(metavar="N")] = 1000
    downstream_batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 32
    validate_every: Annotated[int, tyro.conf.arg(metavar="N")] = 50
    pretrained_classifier: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    classifier_width: Annotated[int, tyro.conf.arg(metavar="W")] = 64
    segmenter_width: Annotated[int, tyro.conf.arg(metavar="W")] = 32
    feature_extractor: Annotated[str | None, tyro.conf.arg(metavar="MODEL")] = None
    embedding_steps: Annotated[int, tyro.conf.arg(metavar="N")] = EMBEDDING_STEPS
    resamples: Annotated[int, tyro.conf.arg(metavar="N")] = 2000
    device: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None

    def __post_init__(self):
        check_at_least(self, size=8, downstream_steps=1, downstream_batch_size=2, embedding_steps=1, resamples=1)
