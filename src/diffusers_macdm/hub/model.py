"""Publishing a trained pipeline: `macdm push`."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DDPMScheduler, ModelMixin

from ..checks import not_finite
from ..files import read_json
from ..macdm import MaCDMPipeline
from .card import model_card, model_card_files
from .card_facts import reading_records
from .loading import load_pipeline
from .privacy import (
    AUDIT_FILE,
    DIGESTS_NOTE,
    PICKLE_SUFFIXES,
    published_audit,
    published_config,
    published_record,
    refuse_links,
    refuse_pickles,
)
from .publish import CARD, LICENSE, Push, Target, json_bytes, left_out_of, publish, refuse_facts_for_own_card
from .settings import PushSettings
from .sources import source_files


VARIANTS = {"fp16": torch.float16, "bf16": torch.bfloat16}
MODEL_INDEX = "model_index.json"
RECORDS = ("training_config.json", "guidance_classifier_training_config.json")
COMPONENT_FOLDERS = ("unet", "weak_unet", "guidance_classifier", "scheduler")


def push_model(
    model: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    tag: str | None = None,
    variants: Sequence[str] = ("fp16",),
    max_shard_size: int | str = "10GB",
    audit_dir: str | Path | None = None,
    evaluation_dir: str | Path | None = None,
    synthetic_dir: str | Path | None = None,
    data_description: str | None = None,
    license: str | None = None,
    token: str | None = None,
    image_digests: bool = False,
    dry_run: bool = False,
) -> Push:
    """Publish a trained pipeline, so that `MaCDMPipeline.from_pretrained(repo_id)` loads it.

    The repository gets the weights in float32 and in each of `variants`, the configurations, the sources that load it without
    this package, and a model card. A README.md that lies in the folder is published as it is instead of a new card.

    Args:
        model: folder of a saved `MaCDMPipeline`.
        repo_id: `owner/name`. Created when it is not there.
        private: whether a new repository is private. True refuses to push to one that is public.
        revision: branch; "main" when None. Created from "main" when it is not there.
        tag: name of this version. A tag that is there already is never moved.
        variants: of "fp16" and "bf16", beside float32.
        max_shard_size: of one weight file, as in diffusers' `save_pretrained`.
        audit_dir: what `macdm audit` wrote: for the card, and as `audit/audit.json` (verdict, rates and intervals alone).
        evaluation_dir: what `macdm evaluate` wrote: for the card.
        synthetic_dir: a set that `macdm generate` has made with this model from pure noise: for the card, with its picture.
        data_description: what no record knows about the training data (source, consent, licence): for the card.
        license: of the weights, an identifier of the Hub ("cc-by-4.0"), for the card.
        token: of the Hub; None takes that of `hf auth login` or HF_TOKEN.
        image_digests: publish the SHA-256 of each training radiograph, which the leak guard needs elsewhere (see `privacy.py`
            for what that gives away). Without them it refuses the published model as one that records nothing.
        dry_run: write nothing and ask nobody, only say what would be published.

    Returns:
        [`Push`].

    Raises:
        FileNotFoundError: when there is no pipeline in the folder, or an owner is not known to the Hub.
        FileExistsError: when the tag stands for something else.
        PermissionError: when there is no token, or it may not write there.
        ConnectionError: when the Hub cannot be reached, or the connection breaks. The old revision is still in place then.
        ValueError: when the folder holds a symbolic link, a pickle or a pipeline that cannot be loaded, for arguments that are
            not allowed, and for a public repository with `private=True`.
    """
    folder = Path(model)
    if not folder.is_dir():
        raise FileNotFoundError(f"{model}: no such folder; what is pushed is the folder of a trained pipeline.")
    target = Target(repo_id, "model", private, revision, tag, token)
    unknown = [variant for variant in variants if variant not in VARIANTS]
    if unknown:
        raise ValueError(f"variants={list(variants)} is not allowed: {', '.join(VARIANTS)}, or none of them.")
    for read in filter(None, (folder, audit_dir, evaluation_dir, synthetic_dir)):
        refuse_links(Path(read))
    refuse_pickles(folder)
    audit = {} if audit_dir is None else {f"audit/{AUDIT_FILE}": json_bytes(published_audit(Path(audit_dir)))}
    pipe = load_pipeline(folder)

    with tempfile.TemporaryDirectory(prefix="macdm-push-") as temporary:
        files: dict[str, Path | bytes] = _pipeline_files(pipe, folder, Path(temporary), variants, max_shard_size)
        with reading_records(folder):
            for name in RECORDS:
                if (folder / name).is_file():
                    files[name] = json_bytes(published_record(read_json(folder / name, None), image_digests))
        components = {path.partition("/")[0] for path in files if "/" in path}
        files |= {path: text.encode() for path, text in source_files(components).items()}
        with reading_records(folder, audit_dir, evaluation_dir, synthetic_dir):
            card, notes = _model_card(
                folder,
                repo_id,
                synthetic_dir,
                audit_dir=audit_dir,
                evaluation_dir=evaluation_dir,
                data_description=data_description,
                license=license,
            )
        files |= card | audit
        if image_digests:
            notes = [*notes, DIGESTS_NOTE]
        left_out = left_out_of(folder, files, published=())
        if dry_run:
            return Push(repo_id, sorted(files), left_out, notes)
        done = publish(files, target, _is_of_a_pipeline, f"Upload {type(pipe).__name__}")
    return Push(files=sorted(files), left_out=left_out, notes=notes, **done)


def _pipeline_files(
    pipe: MaCDMPipeline, folder: Path, temporary: Path, variants: Sequence[str], max_shard_size: int | str
) -> dict[str, Path | bytes]:
    """Weights and configurations, written anew: the folder may hold the files of other variants and other shards."""
    found = read_json(folder / MODEL_INDEX, None)
    index = published_config(found, type(pipe))  # its components, and nothing else
    files: dict[str, Path | bytes] = {MODEL_INDEX: json_bytes(index)}
    for name, component in pipe.components.items():
        if component is None:
            continue
        if not isinstance(component, ModelMixin):
            config = read_json(folder / name / component.config_name, None)
            files[f"{name}/{component.config_name}"] = json_bytes(published_config(config, type(component)))
            continue
        _refuse_non_finite(component, name, "")
        component.save_pretrained(temporary / name, safe_serialization=True, max_shard_size=max_shard_size)
        for variant in variants:
            # Not `component.to`, in which diffusers warns of modules to be kept in float32, though there are none.
            cast = torch.nn.Module.to(copy.deepcopy(component), VARIANTS[variant])
            _refuse_non_finite(cast, name, variant)
            cast.save_pretrained(temporary / name, safe_serialization=True, max_shard_size=max_shard_size, variant=variant)
        for path in (temporary / name).iterdir():
            files[f"{name}/{path.name}"] = path
        config = read_json(folder / name / component.config_name, None)
        files[f"{name}/{component.config_name}"] = json_bytes(published_config(config, type(component)))
        noise = folder / name / pipe.scheduler.config_name
        if noise.is_file():  # the noise that a guidance classifier was trained on
            files[f"{name}/{noise.name}"] = json_bytes(published_config(read_json(noise, None), DDPMScheduler))
    return files


def _refuse_non_finite(module: torch.nn.Module, name: str, variant: str) -> None:
    weight = not_finite(module.state_dict().items())
    if weight is not None:
        what = f"does not fit into {variant}: leave that variant out" if variant else "is not finite"
        raise ValueError(f"{name}: the weight {weight} {what}.")


def _model_card(folder: Path, repo_id: str, synthetic_dir, **facts) -> tuple[dict[str, Path | bytes], list[str]]:
    """README.md and what it shows, and a note where the user's own README.md was taken."""
    own = folder / CARD
    if own.is_file():
        text = own.read_text(encoding="utf-8")
        notes = [f"{CARD} of the folder is published as it is, no new card is written."]
        refuse_facts_for_own_card(own, synthetic_dir=synthetic_dir, **facts)
    else:
        text, notes = model_card(folder, repo_id, synthetic_dir=synthetic_dir, **facts), []
    extra = _pictures(folder, text) | model_card_files(folder, synthetic_dir=synthetic_dir)
    extra = {path: Path(file) for path, file in extra.items() if path in text or path == LICENSE}
    return {CARD: text.encode(), **extra}, notes


def _pictures(folder: Path, text: str) -> dict[str, Path]:
    """Find the images of the folder that a Markdown text shows."""
    shown = set(re.findall(r"!\[[^\]]*\]\(([^)\s]+)", text))
    inside = {path: folder / path for path in shown if not path.startswith("/") and ".." not in Path(path).parts}
    return {path: file for path, file in inside.items() if file.suffix.lower() in (".png", ".jpg", ".jpeg") and file.is_file()}


def _is_of_a_pipeline(path: str) -> bool:
    """Say whether a push of a pipeline has written this path, or weights would be found there."""
    top, _, rest = path.partition("/")
    if rest and top in (*COMPONENT_FOLDERS, "audit"):
        return True
    return path in ("pipeline.py", *RECORDS) or path.endswith((".safetensors", ".safetensors.index.json", *PICKLE_SUFFIXES))


def run(settings: PushSettings) -> Push:
    """Publish the pipeline that the settings ask for (see `push_model`)."""
    return push_model(
        settings.model,
        settings.repo,
        variants=settings.variants,
        audit_dir=settings.audit,
        evaluation_dir=settings.evaluation,
        synthetic_dir=settings.synthetic,
        data_description=settings.data_description,
        license=settings.license,
        image_digests=settings.image_digests,
        private=not settings.public,
        revision=settings.revision,
        tag=settings.tag,
        token=settings.token,
        dry_run=settings.dry_run,
    )
