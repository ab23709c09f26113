"""Publishing a metric: `macdm push-metric`."""

from __future__ import annotations

from pathlib import Path

from ..metrics import metric_folder
from .publish import CARD, Push, Target, publish
from .settings import PushMetricSettings


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
    target = Target(repo_id, "space", private, revision, tag, token)
    script = repo_id.split("/")[1]
    if "." in script:
        raise ValueError(f"{repo_id}: `evaluate` cannot load a metric from a repository with a dot in its name.")
    files: dict[str, Path | bytes] = {
        CARD: folder / CARD,
        f"{script}.py": folder / f"{name}.py",
        "requirements.txt": b"diffusers-macdm[eval]\n",
    }
    if dry_run:
        return Push(repo_id, sorted(files))
    done = publish(files, target, lambda path: False, f"Upload metric {name}")
    return Push(files=sorted(files), **done)


def run(settings: PushMetricSettings) -> Push:
    """Publish the metric that the settings ask for (see `push_metric`)."""
    return push_metric(
        settings.metric,
        settings.repo,
        private=not settings.public,
        revision=settings.revision,
        tag=settings.tag,
        token=settings.token,
        dry_run=settings.dry_run,
    )
