"""Trained models from a folder or from the Hub, for those who work with them."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from ..checks import check_weights
from ..macdm import MaCDMPipeline
from ..macdm.saved_folder import CONFIG, MODEL_INDEX, WEIGHTS
from .errors import TRANSPORT_ERROR, hub_reason
from .names import refuse_no_repository, split_revision


def load_pipeline(model: str | Path) -> MaCDMPipeline:
    """Load a `MaCDMPipeline` from a folder or from the Hub, or say in one sentence why that cannot be done.

    What the Hub refuses (a wrong token, a repository that one may no longer see) is not taken from the cache instead; where
    the Hub cannot be reached, it is.

    Args:
        model: folder, `owner/name`, or `owner/name@revision` with a tag, a branch or a commit.

    Raises:
        FileNotFoundError: when there is no such folder, or it holds no pipeline.
        ValueError: when it cannot be loaded (see `macdm.saved_folder.check_folder`), or its weights are not finite.
    """
    is_folder = Path(model).is_dir()
    if is_folder and not (Path(model) / MODEL_INDEX).exists():
        raise FileNotFoundError(f"{model}: the folder has no {MODEL_INDEX}, so it is no saved MaCDMPipeline.")
    if not is_folder:
        refuse_no_repository(model)
    folder = Path(model)
    try:
        if not is_folder:
            repo_id, revision = split_revision(model)
            _ask_the_hub(repo_id, revision)
            folder = Path(MaCDMPipeline.download(repo_id, revision=revision))
        pipe = MaCDMPipeline.from_pretrained(folder)
    except Exception as error:  # of many classes, from diffusers, huggingface_hub and safetensors
        reason = None if is_folder else hub_reason(error)
        reason = reason or (str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        what = "as a MaCDMPipeline" if is_folder else "from the Hub (and there is no such folder)"
        raise ValueError(f"{model}: cannot be loaded {what}: {reason}") from error
    for network in (pipe.unet, pipe.guidance_classifier, pipe.weak_unet):
        if network is not None:
            check_weights(str(model), network)
    return pipe


def network_folder(name: str | Path, weights: bool = True) -> Path:
    """Return the folder of a single network: the one of this name, or the download of a repository of the Hub.

    Args:
        name: folder, `owner/name`, or `owner/name@revision`.
        weights: whether the weights are needed, or the configuration alone.

    Raises:
        FileNotFoundError: when there is neither such a folder nor such a repository.
        ConnectionError: when the repository cannot be had from the Hub.
    """
    if Path(name).is_dir():
        return Path(name)
    refuse_no_repository(name)
    repo_id, revision = split_revision(name)
    files = [CONFIG, *([f"{WEIGHTS}*.safetensors", f"{WEIGHTS}.safetensors.index.json"] if weights else [])]
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=files))
    except Exception as error:  # of many classes
        reason = hub_reason(error) or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConnectionError(f"no such folder, and from the Hub it cannot be had: {reason}") from error


def _ask_the_hub(repo_id: str, revision: str | None) -> None:
    try:
        HfApi().model_info(repo_id, revision=revision)
    except OfflineModeIsEnabled:
        pass
    except TRANSPORT_ERROR as error:
        # An answer that is a refusal; all else means that there is no answer now.
        if isinstance(error, HfHubHTTPError) and error.response is not None and error.response.status_code < 500:
            raise


def own_version() -> str:
    """Return the version of the installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("diffusers-macdm")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
