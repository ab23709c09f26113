"""Publishing on the Hugging Face Hub: a trained pipeline (`macdm push`), a synthetic set (`macdm push-dataset`), a metric
(`macdm push-metric`).

A push is *one* commit on top of what was found there: it adds what is new, and deletes what an earlier push has left and
this one no longer has (the shards of a larger model, say). Until that commit a reader sees the old revision, and a push that
broke off can be run again: what was uploaded already is not sent twice.

What leaves the machine is an explicit list, never "the folder":

- weights as safetensors, the configurations, the model card with its pictures, the code that loads them without this package;
- of the records of the training and of the generation: settings, versions and counts. Names of cases, patients and the
  user's folders are left out; a data set or model is named by the last part of its path;
- of a copy audit: its verdict, its rates and their intervals, no image and no name;
- of a set: the pairs, the labels and the provenance, where a pseudonym stands for each real case and each patient;
- only when asked for (`image_digests`), what the leak guard (`provenance/`) knows the training radiographs by: their SHA-256.
  A digest does not show the film, but whoever holds the film can tell that it was trained with, and films of one patient in
  two repositories can be linked: that a child is in a cohort of fractures is health information. For data that are public this
  tells nothing new, and it lets others see whether their test set is clean; for data of a hospital its owner has to decide.
  Patient ids are published in no form: being short, they can be guessed through any hash that two sites could compare.

Checkpoints, optimizer states, logs and whatever else lies in the folder stay where they are.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ModelMixin
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import sha_fileobj
from PIL import Image

from ..data.check import CONTRADICTION, inspect_dataset
from ..data.layout import IMAGE_COLUMNS, METADATA, OPTIONAL_COLUMNS, PROVENANCE_COLUMNS, REQUIRED_COLUMNS, SPLITS
from ..generate.run import CONTACT_SHEET_FILE, SETTINGS_FILE, SUMMARY_FILE
from ..macdm import MaCDMPipeline
from ..metrics import metric_folder
from ..provenance.records import digests_alone
from .errors import TRANSPORT_ERROR
from .loading import load_pipeline
from .names import REPOSITORY
from .settings import PushDatasetSettings, PushMetricSettings, PushSettings


VARIANTS = {"fp16": torch.float16, "bf16": torch.bfloat16}
CARD, LICENSE, MODEL_INDEX, DEFAULT_BRANCH = "README.md", "LICENSE", "model_index.json", "main"

# What the training scripts write beside the pipeline, for themselves: never published, and their pickles are their own.
TRAINING_STATE = re.compile(r"checkpoint-\d+|guidance_classifier_checkpoints|logs|samples|.*\.tmp")
RECORDS = ("training_config.json", "guidance_classifier_training_config.json")
RECORD_SECTIONS = ("arguments", "data", "tasks", "unet", "guidance_classifier", "scheduler", "versions", "run", "audit")
LOCAL_ARGUMENTS = ("output_dir", "logging_dir", "cache_dir", "resume_from_checkpoint", "hub_token", "hub_model_id")
DATA_FACTS = ("num_cases", "cases_per_label", "num_patients", "split_sizes")
AUDIT_FILE = "audit.json"
AUDIT_FACTS = (
    "verdict",
    "reliable",
    "copy_rate",
    "training_images_copied",
    "authenticity",
    "sensitivity",
    "false_alarms",
    "membership",
    "versions",
)
PICKLE_SUFFIXES = (".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
COMPONENT_FOLDERS = ("unet", "weak_unet", "guidance_classifier", "scheduler")
DIGESTS_NOTE = (
    "The digests of the training radiographs are published: whoever holds one of these films can tell that it is among them."
)
SINGLE_FILE_PIPELINE = "pipeline.py"
ROWS_PER_FILE = 1000  # of a data set; a file is held in memory while it is written


@dataclass(frozen=True)
class Push:
    """What a push did or, with `dry_run`, would do.

    Attributes:
        repo_id: `owner/name`.
        files: all that this push stands for, by path in the repository.
        left_out: what lies in the folder and is not published; folders end in `/`.
        notes: sentences about what the user may not expect.
        changed: paths that were added or replaced.
        replaced: those of them that were there before; the history of the repository keeps what they were.
        deleted: paths of an earlier push that this one has no more.
        commit: hash of the commit that now holds the files; None with `dry_run`.
        url: page of the repository; None with `dry_run`.
        private: whether the repository is private; None with `dry_run`.
    """

    repo_id: str
    files: list[str]
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    commit: str | None = None
    url: str | None = None
    private: bool | None = None


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
        image_digests: publish the SHA-256 of each training radiograph, which the leak guard needs elsewhere (see above for what
            that gives away). Without them it refuses the published model as one that records nothing.
        dry_run: write nothing and ask nobody, only say what would be published.

    Returns:
        [`Push`].

    Raises:
        FileNotFoundError: when there is no pipeline in the folder, or an owner is not known to the Hub.
        FileExistsError: when the tag stands for something else.
        PermissionError: when there is no token, or it may not write there.
        ConnectionError: when the Hub cannot be reached, or the connection breaks. The old revision is still in place then.
        ValueError: when the folder holds a pickle or a pipeline that cannot be loaded, for arguments that are not allowed, and
            for a public repository with `private=True`.
    """
    folder = Path(model)
    if not folder.is_dir():
        raise FileNotFoundError(f"{model}: no such folder; what is pushed is the folder of a trained pipeline.")
    _check_names(repo_id, tag, token)
    unknown = [variant for variant in variants if variant not in VARIANTS]
    if unknown:
        raise ValueError(f"variants={list(variants)} is not allowed: {', '.join(VARIANTS)}, or none of them.")
    _refuse_pickles(folder)
    audit = {} if audit_dir is None else {f"audit/{AUDIT_FILE}": _json_bytes(_published_audit(Path(audit_dir)))}
    pipe = load_pipeline(folder)

    with tempfile.TemporaryDirectory(prefix="macdm-push-") as temporary:
        files: dict[str, Path | bytes] = _pipeline_files(pipe, folder, Path(temporary), variants, max_shard_size)
        for name in RECORDS:
            if (folder / name).is_file():
                files[name] = _json_bytes(_published_record(_read_json(folder / name), image_digests))
        files |= _code(sorted({path.partition("/")[0] for path in files if "/" in path}))
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
        left_out = _left_out(folder, files, published=())
        if dry_run:
            return Push(repo_id, sorted(files), left_out, notes)
        done = _publish(
            files,
            repo_id,
            repo_type="model",
            is_ours=_is_of_a_pipeline,
            private=private,
            revision=revision,
            tag=tag,
            token=token,
            message=f"Upload {type(pipe).__name__}" + (f", {tag}" if tag else ""),
        )
    return Push(files=sorted(files), left_out=left_out, notes=notes, **done)


def push_dataset(
    data: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    tag: str | None = None,
    license: str | None = None,
    token: str | None = None,
    real_images: bool = False,
    image_digests: bool = False,
    dry_run: bool = False,
    show_progress: bool = False,
) -> Push:
    """Publish a data set of pairs, so that `datasets.load_dataset(repo_id)` and `load_pairs(repo_id)` read it.

    Images and masks become image columns of Parquet files, written anew from their pixels: nothing else that a file carries
    goes along. Pseudonyms stand for the real cases (`source`, `masks_from`) and for `patient_id`: numbers in the order in
    which the set names them, the same one for the same name, without a link to the names or to another set. File names that
    `macdm generate` has not given are replaced by numbers, too. `site` and the label are published as they are.

    Args:
        data: folder in the project's layout.
        repo_id, private, revision, tag, license, token, dry_run: as in `push_model`.
        real_images: publish also what is not synthetic. Pairs are synthetic when `macdm generate` has written the set and
            they keep no mask of a real case.
        image_digests: publish the SHA-256 of each radiograph that trained the model or that a pair was made from, as in
            `push_model`.
        show_progress: whether to show a progress bar while the set is checked.

    Returns:
        [`Push`].

    Raises:
        PermissionError: when the set holds real images or masks and `real_images` is False.
        ValueError: when `macdm check` finds a fault, other than a generated pair without the lesion that its label asks for.
        FileNotFoundError, FileExistsError, ConnectionError: as in `push_model`.
    """
    folder = Path(data)
    _check_names(repo_id, tag, token)
    report = inspect_dataset(folder, show_progress=show_progress)
    # A model may leave out a lesion that it was asked for: a fact about a generated set that its reader is to know.
    is_generated = (folder / SETTINGS_FILE).is_file()
    contradictions = [fault for fault in report.faults if is_generated and fault.kind == CONTRADICTION]
    faults = [fault for fault in report.faults if fault not in contradictions]
    if faults:
        first = faults[0]
        raise ValueError(
            f"{data} has {len(faults)} fault(s), which `macdm check` lists; the first is {first.file}: {first.reason}"
        )
    rows = {split: _rows(folder / split) for split in SPLITS if (folder / split / METADATA).is_file()}
    notes = _refuse_real_images(folder, rows, real_images)
    if contradictions:
        notes.append(f"In {len(contradictions)} of the pairs the lesion mask contradicts the label; `macdm check` lists them.")
    settings = [name for name in (SETTINGS_FILE, SUMMARY_FILE) if (folder / name).is_file()]
    pseudonyms = _Pseudonyms()

    with tempfile.TemporaryDirectory(prefix="macdm-push-") as temporary:
        files: dict[str, Path | bytes] = {}
        for split, of_split in rows.items():
            files |= _parquet_files(folder / split, split, of_split, pseudonyms, Path(temporary))
        for name in settings:
            files[name] = _json_bytes(_published_settings(_read_json(folder / name), pseudonyms, image_digests))
        if settings and (folder / CONTACT_SHEET_FILE).is_file():  # another one may name cases in its captions
            files[CONTACT_SHEET_FILE] = folder / CONTACT_SHEET_FILE
        card, more = _dataset_card(folder, repo_id, rows, license)
        files |= card
        if (folder / LICENSE).is_file():
            files[LICENSE] = folder / LICENSE
        if image_digests:
            more = [*more, DIGESTS_NOTE]
        left_out = _left_out(folder, files, published=rows)
        if dry_run:
            return Push(repo_id, sorted(files), left_out, notes + more)
        done = _publish(
            files,
            repo_id,
            repo_type="dataset",
            is_ours=_is_of_a_dataset,
            private=private,
            revision=revision,
            tag=tag,
            token=token,
            message=f"Upload {sum(map(len, rows.values()))} pairs" + (f", {tag}" if tag else ""),
        )
    return Push(files=sorted(files), left_out=left_out, notes=notes + more, **done)


def push_metric(
    name: str,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    tag: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
) -> Push:
    """Publish a metric as a Space, so that `evaluate.load(repo_id)` loads it where this package is installed.

    The script gets the name of the repository, by which `evaluate` looks for it. Nothing that lies there is deleted.

    Args:
        name: of `metrics.METRICS`.
        repo_id, private, revision, tag, token, dry_run: as in `push_model`.

    Returns:
        [`Push`].

    Raises:
        ValueError: for a name that is no metric, and a repository whose name cannot be that of a script.
        PermissionError, FileExistsError, ConnectionError: as in `push_model`.
    """
    folder = metric_folder(name)
    _check_names(repo_id, tag, token)
    script = repo_id.split("/")[1]
    if "." in script:
        raise ValueError(f"{repo_id}: `evaluate` cannot load a metric from a repository with a dot in its name.")
    files: dict[str, Path | bytes] = {path: folder / path for path in (CARD, "requirements.txt")}
    files[f"{script}.py"] = folder / f"{name}.py"
    if dry_run:
        return Push(repo_id, sorted(files))
    done = _publish(
        files,
        repo_id,
        repo_type="space",
        is_ours=lambda path: False,
        private=private,
        revision=revision,
        tag=tag,
        token=token,
        message=f"Upload metric {name}" + (f", {tag}" if tag else ""),
    )
    return Push(files=sorted(files), **done)


def create_repository(repo_id: str, *, private: bool = True, repo_type: str = "model", token: str | None = None) -> str:
    """Make sure that one can push to a repository: create it where it is missing.

    Args:
        repo_id: `owner/name`, or a name in the namespace of the token.
        private: whether a new repository is private. True refuses one that is public.
        repo_type: "model", "dataset" or "space" (of a metric, which `evaluate` looks for there).
        token: of the Hub; None takes that of `hf auth login` or HF_TOKEN.

    Returns:
        `owner/name`.

    Raises:
        PermissionError, ConnectionError, ValueError: as `push_model`.
    """
    _check_repo_id(repo_id, needs_owner=False)
    api = HfApi(token=token)
    with _one_sentence(repo_id):
        owner = api.whoami()["name"]  # a missing or wrong token is said as such only here
        if "/" not in repo_id:
            repo_id = f"{owner}/{repo_id}"
    with _one_sentence(repo_id):
        try:
            is_private = api.repo_info(repo_id, repo_type=repo_type).private
        except RepositoryNotFoundError:
            sdk = "gradio" if repo_type == "space" else None  # that of evaluate's metrics
            api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
            is_private = api.repo_info(repo_id, repo_type=repo_type).private
    if private and not is_private:
        raise ValueError(
            f"{repo_id} is a public repository: everyone can see what is pushed there. Allow that with private=False "
            "(--public), or name another one."
        )
    return repo_id


# --- one commit -------------------------------------------------------------------------------------------------------


def _publish(
    files: dict[str, Path | bytes],
    repo_id: str,
    *,
    repo_type: str,
    is_ours: Callable[[str], bool],
    private: bool,
    revision: str | None,
    tag: str | None,
    token: str | None,
    message: str,
) -> dict:
    """Make the repository hold these files, by one commit, and set the tag; of the others there, those that `is_ours` go."""
    repo_id = create_repository(repo_id, private=private, repo_type=repo_type, token=token)
    api = HfApi(token=token)
    branch = revision or DEFAULT_BRANCH
    with _one_sentence(repo_id):
        info = api.repo_info(repo_id, repo_type=repo_type)
        refs = api.list_repo_refs(repo_id, repo_type=repo_type)
        heads = {ref.name: ref.target_commit for ref in refs.branches}
        tags = {ref.name: ref.target_commit for ref in refs.tags}
        if tag is not None and tag in {branch, *heads}:
            raise ValueError(f"tag={tag!r} is not allowed: a branch of {repo_id} has this name.")
        if branch in tags:
            raise ValueError(f"revision={branch!r} is a tag of {repo_id}; what can be pushed to is a branch.")
        head = heads.get(branch, heads.get(DEFAULT_BRANCH))
        there = {}
        if head is not None:
            listing = api.list_repo_tree(repo_id, recursive=True, revision=head, repo_type=repo_type)
            there = {item.path: item for item in listing if isinstance(item, RepoFile)}
        changed = [path for path, source in sorted(files.items()) if not _is_same(source, there.get(path))]
        deleted = sorted(path for path in there if path not in files and is_ours(path))
        if tag in tags and (changed or deleted or tags[tag] != head):
            raise FileExistsError(f"{repo_id} has a tag {tag!r} already, of other content: a version is never moved.")
        if branch not in heads:
            api.create_branch(repo_id, branch=branch, revision=head, repo_type=repo_type, exist_ok=True)
        commit = head
        if changed or deleted:
            operations = [CommitOperationAdd(path, files[path]) for path in changed]
            operations += [CommitOperationDelete(path, is_folder=False) for path in deleted]
            commit = api.create_commit(
                repo_id,
                operations,
                commit_message=message,
                repo_type=repo_type,
                revision=branch,
                parent_commit=head,  # refused when someone else has pushed since
            ).oid
        if tag is not None and tag not in tags:
            api.create_tag(repo_id, tag=tag, revision=commit, repo_type=repo_type)
    prefix = "" if repo_type == "model" else f"{repo_type}s/"
    return {
        "repo_id": repo_id,
        "changed": changed,
        "deleted": deleted,
        "replaced": [path for path in changed if path in there],
        "commit": commit,
        "url": f"{api.endpoint}/{prefix}{repo_id}",
        "private": bool(info.private),
    }


def _is_same(source: Path | bytes, remote: RepoFile | None) -> bool:
    if remote is None:
        return False
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    if size != remote.size:
        return False
    with open(source, "rb") if isinstance(source, Path) else io.BytesIO(source) as content:
        if remote.lfs is not None:
            return sha_fileobj(content).hex() == remote.lfs.sha256
        return hashlib.sha1(b"blob %d\0" % size + content.read()).hexdigest() == remote.blob_id  # git's


@contextmanager
def _one_sentence(repo_id: str) -> Iterator[None]:
    """What the client raises, as one sentence that says what to do."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PermissionError("The Hub needs to know who pushes: run `hf auth login`, or give a token.") from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError(f"{repo_id}: HF_HUB_OFFLINE is set, so nothing can be pushed.") from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{repo_id}: there is no such revision.") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{repo_id}: no such repository, or this token may not see it.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == 401:
            raise PermissionError("The Hub does not know this token: run `hf auth login`, or give another one.") from error
        if status == 403:
            raise PermissionError(f"{repo_id}: this token may not write there; it needs the write role.") from error
        if status == 412:
            raise ConnectionError(f"{repo_id} was changed by someone else meanwhile: run the push again.") from error
        raise OSError(f"{repo_id}: the Hub answered {status}: {_first_line(error)}") from error
    except ValueError as error:  # a card whose metadata the Hub refuses, in several lines
        raise ValueError(" ".join(str(error).split())) from error
    except (TRANSPORT_ERROR, RuntimeError) as error:  # RuntimeError: how the client reports an upload that failed
        raise ConnectionError(
            f"{repo_id}: the connection to the Hub broke ({_first_line(error.__cause__ or error)}). What was published before "
            "is still in place, unless it was the last answer that got lost; run the push again."
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _check_names(repo_id: str, tag: str | None, token: str | None) -> None:
    """Raise `ValueError` for what the Hub would refuse, some of it only after the commit."""
    _check_repo_id(repo_id)
    if tag is not None and (not re.fullmatch(r"\w[\w.+-]*", tag, re.ASCII) or ".." in tag or tag.endswith((".", ".lock"))):
        raise ValueError(f"tag={tag!r} is not allowed: letters, digits, '.', '_', '+' and '-', as in v1.0.")
    if token == "":
        raise ValueError("The token is empty: run `hf auth login`, or give one.")


def _check_repo_id(repo_id: str, needs_owner: bool = True) -> None:
    if not re.fullmatch(REPOSITORY, str(repo_id) if needs_owner or "/" in str(repo_id) else f"owner/{repo_id}"):
        raise ValueError(f"{repo_id}: not the name of a Hub repository, which is owner/name.")


# --- a pipeline -------------------------------------------------------------------------------------------------------


def _refuse_pickles(folder: Path) -> None:
    """Raise `ValueError` for a pickle anywhere outside of the training's own state: loading one runs what is in it."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not TRAINING_STATE.fullmatch(inside.parts[0]) and _is_pickle(path):
            raise ValueError(
                f"{path} is a pickle, which can run code where it is loaded: only safetensors are published. Delete it, or "
                "move it out of the folder."
            )


def _is_pickle(path: Path) -> bool:
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return True
    if path.suffix == ".safetensors":  # it is loaded as such, and what else it may be is found out then
        return False
    with open(path, "rb") as file:
        start = file.read(2)
    if zipfile.is_zipfile(path):  # torch.save
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5  # PROTO, and the protocols that have it


def _pipeline_files(
    pipe: MaCDMPipeline, folder: Path, temporary: Path, variants: Sequence[str], max_shard_size: int | str
) -> dict[str, Path | bytes]:
    """Weights and configurations, written anew: the folder may hold the files of other variants and other shards."""
    index = {name: value for name, value in _read_json(folder / MODEL_INDEX).items() if name != "_name_or_path"}
    files: dict[str, Path | bytes] = {MODEL_INDEX: _json_bytes(index)}
    for name, component in pipe.components.items():
        if component is None:
            continue
        if not isinstance(component, ModelMixin):
            config = _read_json(folder / name / component.config_name)
            files[f"{name}/{component.config_name}"] = _json_bytes(config)
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
        config = _read_json(folder / name / component.config_name)
        config.pop("_name_or_path", None)  # the folder that it was loaded from
        files[f"{name}/{component.config_name}"] = _json_bytes(config)
        noise = folder / name / pipe.scheduler.config_name
        if noise.is_file():  # the noise that a guidance classifier was trained on
            files[f"{name}/{noise.name}"] = _json_bytes(_read_json(noise))
    return files


def _refuse_non_finite(module: torch.nn.Module, name: str, variant: str) -> None:
    for tensor_name, tensor in module.state_dict().items():
        if not tensor.isfinite().all():
            what = f"does not fit into {variant}: leave that variant out" if variant else "is not finite"
            raise ValueError(f"{name}: the weight {tensor_name} {what}.")


def _code(folders: Sequence[str]) -> dict[str, bytes]:
    """The sources that load the pipeline where this package is not installed, by path in the repository."""
    from .sources import source_files

    return {path: text.encode() for path, text in source_files(folders).items()}


def _model_card(folder: Path, repo_id: str, synthetic_dir, **facts) -> tuple[dict[str, Path | bytes], list[str]]:
    """README.md and what it shows, and a note where the user's own README.md was taken."""
    from .card import model_card, model_card_files

    own = folder / CARD
    if own.is_file():
        text = own.read_text(encoding="utf-8")
        notes = [f"{CARD} of the folder is published as it is, no new card is written."]
        _refuse_facts_for_own_card(own, synthetic_dir=synthetic_dir, **facts)
    else:
        text, notes = model_card(folder, repo_id, synthetic_dir=synthetic_dir, **facts), []
    extra = _pictures(folder, text) | model_card_files(folder, synthetic_dir=synthetic_dir)
    extra = {path: Path(file) for path, file in extra.items() if path in text or path == LICENSE}
    return {CARD: text.encode(), **extra}, notes


def _refuse_facts_for_own_card(own: Path, **facts) -> None:
    for name, value in facts.items():
        if value is not None and name != "audit_dir":  # which is published beside the card, too
            raise ValueError(f"{name}={str(value)!r} has no effect: {own} is published as it is, and no new card is written.")


def _pictures(folder: Path, text: str) -> dict[str, Path]:
    """The images of the folder that a Markdown text shows."""
    shown = set(re.findall(r"!\[[^\]]*\]\(([^)\s]+)", text))
    inside = {path: folder / path for path in shown if not path.startswith("/") and ".." not in Path(path).parts}
    return {path: file for path, file in inside.items() if file.suffix.lower() in (".png", ".jpg", ".jpeg") and file.is_file()}


def _published_record(record: dict, image_digests: bool = False) -> dict:
    """Settings, counts and versions of a training, without the names of cases and the user's folders."""
    digests = digests_alone(record.get("data")) if image_digests else None
    published = {name: record[name] for name in RECORD_SECTIONS if record.get(name) is not None}
    for name in ("unet", "guidance_classifier"):
        if name in published:
            published[name] = {key: value for key, value in published[name].items() if key != "_name_or_path"}
    if "data" in published:
        published["data"] = {name: published["data"][name] for name in DATA_FACTS if name in published["data"]}
        if digests is not None:
            published["data"] |= digests
            published["earlier_trainings"] = [digests_alone(part) for part in record.get("earlier_trainings") or []]
    if "arguments" in published:
        arguments = {name: value for name, value in published["arguments"].items() if name not in LOCAL_ARGUMENTS}
        published["arguments"] = _without_paths(arguments)
        name = arguments.get("dataset_name")
        if name and not Path(name).is_dir():
            published["arguments"]["dataset_name"] = name  # of the Hub, with its owner
    return published


def _published_audit(audit_dir: Path) -> dict:
    """The facts of an audit that name nobody."""
    path = audit_dir / AUDIT_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `macdm audit` writes it.")
    audit = _read_json(path)
    published = {name: audit[name] for name in AUDIT_FACTS if name in audit}
    return {n: part if n in ("verdict", "versions") else _numbers(part) for n, part in published.items()}


def _numbers(content):
    """JSON content without its texts."""
    if isinstance(content, dict):
        return {name: _numbers(part) for name, part in content.items() if not isinstance(part, str)}
    if isinstance(content, list):
        return [_numbers(part) for part in content if not isinstance(part, str)]
    return content


def _is_of_a_pipeline(path: str) -> bool:
    """Whether a push of a pipeline has written this path, or weights would be found there."""
    top, _, rest = path.partition("/")
    if rest and top in (*COMPONENT_FOLDERS, "audit"):
        return True
    return path in (SINGLE_FILE_PIPELINE, *RECORDS) or path.endswith(
        (".safetensors", ".safetensors.index.json", *PICKLE_SUFFIXES)
    )


def _left_out(folder: Path, files: dict[str, Path | bytes], published: Iterable[str]) -> list[str]:
    """What lies in the folder and goes nowhere; `published` are subfolders whose content is published in another form."""
    tops = {path.partition("/")[0] for path in files}
    left_out = []
    for path in sorted(folder.iterdir()):
        if path.name in published or path.name in files:
            continue
        if not path.is_dir():
            left_out.append(path.name)
        elif path.name not in tops:
            left_out.append(f"{path.name}/")
        else:
            inside = [str(file.relative_to(folder)) for file in sorted(path.rglob("*")) if file.is_file()]
            left_out += [name for name in inside if name.replace("\\", "/") not in files]
    return left_out


# --- a data set -------------------------------------------------------------------------------------------------------


def _rows(split_folder: Path) -> list[dict]:
    lines = (split_folder / METADATA).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def _refuse_real_images(folder: Path, rows: dict[str, list[dict]], real_images: bool) -> list[str]:
    """Raise `PermissionError` unless all pairs are generated, or the user wants to publish others; notes on what they show."""
    pairs = [row for of_split in rows.values() for row in of_split]
    generated = (folder / SETTINGS_FILE).is_file()
    num_real = sum(not (generated and row.get("model") and row.get("seed") is not None) for row in pairs)
    num_masks = sum(row.get("masks_from") is not None for row in pairs)
    num_variations = sum(row.get("source") is not None for row in pairs)
    if generated and not (folder / SUMMARY_FILE).is_file():
        raise ValueError(f"{folder} is not complete ({SUMMARY_FILE} is missing): run `macdm generate` again, which goes on.")
    holds = []
    if num_real:
        holds.append(f"{num_real} pairs that `macdm generate` has not made and that may be films of patients")
    if num_masks:
        holds.append(f"the masks of real cases, unchanged, in {num_masks} pairs")
    if holds and not real_images:
        raise PermissionError(
            f"{folder} holds {' and '.join(holds)}. Published, they can be copied by whoever sees them and never be taken "
            "back; names are replaced, but not what is burned into the pixels, and a film can identify a patient. If you have "
            "the right to publish them, say so with real_images=True (--real-images)."
        )
    notes = [f"This publishes {part}." for part in holds]
    if num_variations:
        levels = sorted({row["strength"] for row in pairs if row.get("source") is not None})
        notes.append(
            f"{num_variations} pairs are variations of real cases at strength {', '.join(map(str, levels))} and resemble them, "
            "the more so the lower the strength."
        )
    return notes


class _Pseudonyms:
    """`patient-0001` for the first patient that is named, and so on; None stays None."""

    def __init__(self):
        self._numbers: dict[str, dict[str, int]] = {}

    def of(self, kind: str, name: str | None) -> str | None:
        if name is None:
            return None
        numbers = self._numbers.setdefault(kind, {})
        return f"{kind}-{numbers.setdefault(str(name), len(numbers) + 1):04d}"


def _published_settings(content: dict, pseudonyms: _Pseudonyms, image_digests: bool) -> dict:
    """`generation.json` or `summary.json`; in the former, what the leak guard needs either without names or not at all."""
    published = _without_paths({name: part for name, part in content.items() if name != "provenance"})
    provenance = content.get("provenance")
    if image_digests and provenance is not None:
        trained_on = provenance["trained_on"] or {}
        sources = {pseudonyms.of("case", name): source["image_sha256"] for name, source in provenance["sources"].items()}
        published["provenance"] = {
            "trained_on": {name: [*map(digests_alone, trainings)] for name, trainings in trained_on.items()} or None,
            "sources": {name: {"image_sha256": digest} for name, digest in sources.items()},
        }
    return published


def _parquet_files(
    split_folder: Path, split: str, rows: list[dict], pseudonyms: _Pseudonyms, temporary: Path
) -> dict[str, Path]:
    """The pairs of one split as `data/SPLIT-00000-of-0000N.parquet`."""
    import datasets

    integers = datasets.Value("int64")
    number, text = datasets.Value("float64"), datasets.Value("string")
    types = dict.fromkeys(IMAGE_COLUMNS, datasets.Image()) | {"label": integers, "seed": integers}
    types |= dict.fromkeys(("num_inference_steps", "lesion_pixels_unrefined"), integers)
    types |= dict.fromkeys(("guidance_scale", "strength", "classifier_free_guidance_scale"), number)
    types |= {"lesion_inside_anatomy_unrefined": number, "guidance_interval": [number], "refine_masks": datasets.Value("bool")}
    types |= dict.fromkeys(("patient_id", "site", "model", "source", "masks_from", "scheduler"), text)
    known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, *PROVENANCE_COLUMNS)
    present = [name for name in known if name in IMAGE_COLUMNS or any(name in row for row in rows)]
    features = datasets.Features({name: types[name] for name in present})

    num_files = max(1, -(-len(rows) // ROWS_PER_FILE))
    files = {}
    for number_of_file in range(num_files):
        first = number_of_file * ROWS_PER_FILE
        columns: dict[str, list] = {name: [] for name in present}
        for index, row in enumerate(rows[first : first + ROWS_PER_FILE], start=first):
            published = _published_row(row, pseudonyms)
            for column in IMAGE_COLUMNS:
                path = split_folder / row[f"{column}_file_name"]
                generated = re.fullmatch(r"synthetic_\d+", path.stem)
                name = f"{path.stem}.png" if generated else f"{split}_{index:06d}.png"
                published[column] = {"path": name, "bytes": _pixels_as_png(path)}
            for name in present:
                columns[name].append(published.get(name))
        file = f"data/{split}-{number_of_file:05d}-of-{num_files:05d}.parquet"
        target = temporary / Path(file).name
        datasets.Dataset.from_dict(columns, features=features).to_parquet(str(target))
        files[file] = target
    return files


def _published_row(row: dict, pseudonyms: _Pseudonyms) -> dict:
    published = dict(row)
    for column in ("source", "masks_from"):
        if column in row:
            published[column] = pseudonyms.of("case", row[column])
    if "patient_id" in row:
        published["patient_id"] = pseudonyms.of("patient", row["patient_id"])
    if row.get("model") is not None:
        published["model"] = _last_part(row["model"])
    return published


def _pixels_as_png(path: Path) -> bytes:
    """The pixels of an image and nothing else: a file may carry texts and the place and time of the exposure."""
    with Image.open(path) as image:
        pixels = Image.fromarray(np.asarray(image))
    buffer = io.BytesIO()
    pixels.save(buffer, format="PNG")
    return buffer.getvalue()


def _dataset_card(folder: Path, repo_id: str, splits: Iterable[str], license: str | None) -> tuple[dict[str, bytes], list[str]]:
    from .card import dataset_card

    own = folder / CARD
    if own.is_file():
        _refuse_facts_for_own_card(own, license=license)
        return {CARD: own.read_bytes()}, [f"{CARD} of the folder is published as it is, no new card is written."]
    card = DatasetCard(dataset_card(folder, repo_id, license=license))
    # What the card says about files is true of the folder; these are the ones that are published.
    paths = [{"split": split, "path": f"data/{split}-*"} for split in splits]
    card.data.configs = [{"config_name": "default", "data_files": paths}]
    card.data.dataset_info = None  # Parquet files know their features
    return {CARD: str(card).encode()}, []


def _is_of_a_dataset(path: str) -> bool:
    return path.startswith("data/") or path in (SETTINGS_FILE, SUMMARY_FILE, CONTACT_SHEET_FILE)


# --- JSON -------------------------------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object.")
    return content


def _json_bytes(content: dict) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _without_paths(content):
    """JSON content in which the last part stands for each path."""
    if isinstance(content, dict):
        return {name: _without_paths(part) for name, part in content.items()}
    if isinstance(content, list):
        return [_without_paths(part) for part in content]
    return _last_part(content) if isinstance(content, str) else content


def _last_part(path: str) -> str:
    parts = [part for part in re.split(r"[\\/]", path) if part]
    return parts[-1] if parts else path


# --- the commands -----------------------------------------------------------------------------------------------------


def run_push(settings: PushSettings) -> Push:
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
        **_repository(settings),
    )


def run_push_dataset(settings: PushDatasetSettings) -> Push:
    """Publish the set that the settings ask for (see `push_dataset`)."""
    return push_dataset(
        settings.data,
        settings.repo,
        license=settings.license,
        real_images=settings.real_images,
        image_digests=settings.image_digests,
        show_progress=True,
        **_repository(settings),
    )


def run_push_metric(settings: PushMetricSettings) -> Push:
    """Publish the metric that the settings ask for (see `push_metric`)."""
    return push_metric(settings.metric, settings.repo, **_repository(settings))


def _repository(settings: PushSettings | PushDatasetSettings | PushMetricSettings) -> dict[str, Any]:
    names = ("revision", "tag", "token", "dry_run")
    return {"private": not settings.public, **{name: getattr(settings, name) for name in names}}
