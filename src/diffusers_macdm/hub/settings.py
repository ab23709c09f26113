"""The options of `macdm push`, `macdm push-dataset` and `macdm push-metric`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


Repository = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPO")]


@dataclass(frozen=True)
class PushSettings:
    """Publish a trained pipeline on the Hub, by one commit.

    What goes there: weights as safetensors in float32 and fp16, configurations, a model card, and the code that loads them
    without this package. Checkpoints, logs, names of cases and local paths are not published. A new repository is private.

    Attributes:
        model: Folder of a trained MaCDMPipeline.
        repo: Repository, owner/name; created when it is not there.
        public: Make a new repository public, and allow a push to one that is.
        tag: Name of this version; a tag is never moved.
        revision: Branch to push to; main when not given.
        token: Token of the Hub; `hf auth login` or the variable HF_TOKEN are better.
        dry_run: List what would be published and ask nobody.
        license: Licence for the card, as the Hub spells it: cc-by-4.0, apache-2.0, ...
        image_digests: Also publish the SHA-256 of each training radiograph, for the leak guard: whoever holds a film can tell
            that it is among them.
        variants: Weights beside float32: fp16, bf16, or nothing.
        audit: Folder of `macdm audit`, for the card and audit/audit.json.
        evaluation: Folder of `macdm evaluate`, for the card.
        synthetic: Set that this model has generated, for the card.
        data_description: Source, consent and licence of the training data, for the card.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    repo: Repository
    public: bool = False
    tag: Annotated[str | None, tyro.conf.arg(metavar="T")] = None
    revision: Annotated[str | None, tyro.conf.arg(metavar="BRANCH")] = None
    token: str | None = None
    dry_run: bool = False
    license: Annotated[str | None, tyro.conf.arg(metavar="L")] = None
    image_digests: bool = False
    variants: Annotated[tuple[str, ...], tyro.conf.arg(metavar="V ...")] = ("fp16",)
    audit: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    evaluation: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    synthetic: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    data_description: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None


@dataclass(frozen=True)
class PushDatasetSettings:
    """Publish a synthetic set on the Hub, by one commit, as Parquet files with a card.

    `datasets` and the Hub's viewer read it. Pseudonyms stand for real cases and patients. A new repository is private.

    Attributes:
        data: Folder of `macdm generate`.
        repo: Repository, owner/name; created when it is not there.
        public: Make a new repository public, and allow a push to one that is.
        tag: Name of this version; a tag is never moved.
        revision: Branch to push to; main when not given.
        token: Token of the Hub; `hf auth login` or the variable HF_TOKEN are better.
        dry_run: List what would be published and ask nobody.
        license: Licence for the card, as the Hub spells it: cc-by-4.0, apache-2.0, ...
        image_digests: Also publish the SHA-256 of each training radiograph, for the leak guard: whoever holds a film can tell
            that it is among them.
        real_images: Also publish what was not generated: real films or masks of patients, which nobody can take back.
    """

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    repo: Repository
    public: bool = False
    tag: Annotated[str | None, tyro.conf.arg(metavar="T")] = None
    revision: Annotated[str | None, tyro.conf.arg(metavar="BRANCH")] = None
    token: str | None = None
    dry_run: bool = False
    license: Annotated[str | None, tyro.conf.arg(metavar="L")] = None
    image_digests: bool = False
    real_images: bool = False


@dataclass(frozen=True)
class PushMetricSettings:
    """Publish a metric of this package as a Space of the Hub, by one commit, for `evaluate.load`. A new Space is private.

    Attributes:
        metric: Metric: dice, sensitivity, specificity, balanced_accuracy, roc_auc or hausdorff95.
        repo: Repository, owner/name; created when it is not there.
        public: Make a new repository public, and allow a push to one that is.
        tag: Name of this version; a tag is never moved.
        revision: Branch to push to; main when not given.
        token: Token of the Hub; `hf auth login` or the variable HF_TOKEN are better.
        dry_run: List what would be published and ask nobody.
    """

    metric: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    repo: Repository
    public: bool = False
    tag: Annotated[str | None, tyro.conf.arg(metavar="T")] = None
    revision: Annotated[str | None, tyro.conf.arg(metavar="BRANCH")] = None
    token: str | None = None
    dry_run: bool = False
