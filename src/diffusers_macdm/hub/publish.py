"""Publishing on the Hugging Face Hub by *one* commit on top of what was found there.

The commit adds what is new, and deletes what an earlier push has left and this one no longer has (the shards of a larger model,
say). Until that commit a reader sees the old revision, and a push that broke off can be run again: what was uploaded already is
not sent twice. `model.py`, `dataset.py` and `metric.py` say what is pushed, `privacy.py` what never is.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import sha_fileobj

from ..files import LOCK_FILE
from .errors import one_sentence
from .names import check_repo_id
from .privacy import refuse_link


CARD, LICENSE, DEFAULT_BRANCH = "README.md", "LICENSE", "main"


@dataclass(frozen=True)
class Push:
    """Result of a push: what it did or, with `dry_run`, would do.

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


@dataclass(frozen=True)
class Target:
    """A repository, and where in it something goes.

    Attributes:
        repo_id: `owner/name`. Created when it is not there.
        repo_type: "model", "dataset" or "space".
        private: whether a new repository is private. True refuses to push to one that is public.
        revision: branch; "main" when None. Created from "main" when it is not there.
        tag: name of this version. A tag that is there already is never moved.
        token: of the Hub; None takes that of `hf auth login` or HF_TOKEN.

    Raises:
        ValueError: for names that the Hub would refuse, some of them only after the commit.
    """

    repo_id: str
    repo_type: str = "model"
    private: bool = True
    revision: str | None = None
    tag: str | None = None
    token: str | None = None

    def __post_init__(self):
        check_repo_id(self.repo_id)
        tag = self.tag
        if tag is not None and (not re.fullmatch(r"\w[\w.+-]*", tag, re.ASCII) or ".." in tag or tag.endswith((".", ".lock"))):
            raise ValueError(f"tag={tag!r} is not allowed: letters, digits, '.', '_', '+' and '-', as in v1.0.")
        if self.token == "":
            raise ValueError("The token is empty: run `hf auth login`, or give one.")


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
    check_repo_id(repo_id, needs_owner=False)
    api = HfApi(token=token)
    with one_sentence(repo_id):
        owner = api.whoami()["name"]  # a missing or wrong token is said as such only here
        if "/" not in repo_id:
            repo_id = f"{owner}/{repo_id}"
    with one_sentence(repo_id):
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


def publish(files: dict[str, Path | bytes], target: Target, is_ours: Callable[[str], bool], message: str) -> dict:
    """Make the repository hold these files, by one commit, and set the tag.

    Args:
        files: a file or its content by path in the repository.
        is_ours: whether a path is one of those that earlier pushes have written: such a file goes when it is not in `files`.
        message: title of the commit; the tag is added.

    Returns:
        The fields of [`Push`] that are known only now.

    Raises:
        As `push_model`.
    """
    for source in files.values():
        if isinstance(source, Path):
            refuse_link(source)
    create_repository(target.repo_id, private=target.private, repo_type=target.repo_type, token=target.token)
    api = HfApi(token=target.token)
    repo_id, repo_type, tag, branch = target.repo_id, target.repo_type, target.tag, target.revision or DEFAULT_BRANCH
    with one_sentence(repo_id):
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
                commit_message=message + (f", {tag}" if tag else ""),
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


def left_out_of(folder: Path, files: dict[str, Path | bytes], published: Iterable[str]) -> list[str]:
    """List what lies in the folder and goes nowhere; `published` are subfolders whose content is published in another form."""
    tops = {path.partition("/")[0] for path in files}
    left_out = []
    for path in sorted(folder.iterdir()):
        if path.name in published or path.name in files or path.name == LOCK_FILE:
            continue
        if not path.is_dir():
            left_out.append(path.name)
        elif path.name not in tops:
            left_out.append(f"{path.name}/")
        else:
            inside = [str(file.relative_to(folder)) for file in sorted(path.rglob("*")) if file.is_file()]
            left_out += [name for name in inside if name.replace("\\", "/") not in files]
    return left_out


def refuse_facts_for_own_card(own: Path, **facts) -> None:
    for name, value in facts.items():
        if value is not None and name != "audit_dir":  # which is published beside the card, too
            raise ValueError(f"{name}={str(value)!r} has no effect: {own} is published as it is, and no new card is written.")


def json_bytes(content: dict) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
